//! What is given back after a reset.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    task::Poll,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use common::resets::take_nothing_off_later_uses;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{Algorithm, Clock, Limiter, LimiterBuilder, Quota, RateLimitLayer};

use crate::by_key::policy;

type Body = Full<Bytes>;

fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_402_800)))
}

#[tokio::test(start_paused = true)]
async fn a_correction_takes_nothing_off_uses_since_a_reset() {
    // All steps at one moment, and then a millisecond between two of them.
    take_nothing_off_later_uses(builder, 0..150, Duration::ZERO).await;
    take_nothing_off_later_uses(builder, 0..150, Duration::from_millis(1)).await;
}

/// Three uses of the key after a reset; `pause` passes before each step and after the last.
async fn reset_and_use_three(limiter: &Limiter, pause: Duration) {
    advance(pause).await;
    drop(limiter.reset("p", "a").at_once().unwrap());
    advance(pause).await;
    assert!(limiter.check("p", "a").cost(3).at_once().unwrap().is_allowed());
    advance(pause).await;
}

#[tokio::test(start_paused = true)]
async fn neither_a_response_nor_a_request_that_is_dropped_takes_anything_off_uses_since_a_reset() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        for pause in [Duration::ZERO, Duration::from_millis(1)] {
            let failures = policy("p", algorithm, Quota::per_day(100))
                .hold(Duration::from_secs(86_400))
                .settle(|response| Some(u64::from(response.status == 401)));
            let limiter = builder().policy(failures).build().unwrap();
            let left = || limiter.peek("p", "a").at_once().unwrap().remaining();
            let layer = RateLimitLayer::new(limiter.clone());
            let request = || Request::get("/").header("x-key", "a").body(Body::default()).unwrap();

            let handler = service_fn(async |_: Request<Body>| {
                reset_and_use_three(&limiter, pause).await;
                Ok::<_, Infallible>(Response::new(Body::default()))
            });
            layer.layer(handler).oneshot(request()).await.unwrap();
            assert_eq!(left(), 97, "{algorithm:?}, {pause:?}: a response that costs nothing");

            // A request that was held, and whose service is not ready when it has passed.
            drop(limiter.reset("p", "a").at_once().unwrap());
            assert!(limiter.check("p", "a").cost(100).at_once().unwrap().is_allowed());
            {
                let mut held = pin!(layer.layer(NeverReady).call(request()));
                assert!(is_pending(held.as_mut()).await, "there are no units");
                drop(limiter.reset("p", "a").at_once().unwrap());
                assert!(is_pending(held.as_mut()).await, "the service is not ready");
                assert_eq!(left(), 99, "the request has passed");
                reset_and_use_three(&limiter, pause).await;
            }
            assert_eq!(left(), 97, "{algorithm:?}, {pause:?}: a request that is dropped");
        }
    }
}

#[derive(Clone)]
struct NeverReady;

impl Service<Request<Body>> for NeverReady {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        unreachable!("it is never ready")
    }
}

async fn is_pending<F: Future>(mut future: std::pin::Pin<&mut F>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}
