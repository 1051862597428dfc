//! What is given back after a reset.

use std::{
    convert::Infallible,
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    task::Poll,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use common::resets::take_nothing_off_later_uses;
use http::{Request, Response};
use http_body_util::Full;
use tokio::time::advance;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    Algorithm, Clock, Limiter, LimiterBuilder, Now, Quota, RateLimitLayer,
    store::{Change, Charge, Correction, MemoryStore, Store, StoreFuture, Usage},
};

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

/// A store in which a reset comes right after the first charge, before the limiter sees the answer.
#[derive(Default)]
struct ResetsFirstCharge {
    memory: MemoryStore,
    has_reset: AtomicBool,
    /// Whether it answers in a future only.
    answers_later: bool,
}

impl ResetsFirstCharge {
    fn reset(&self, charges: &[Charge], now: Now) {
        if !self.has_reset.swap(true, SeqCst) {
            let resets = charges.iter().map(|charge| Correction::new(*charge, Change::Reset));
            drop(self.memory.correct(&resets.collect::<Vec<_>>(), now));
        }
    }
}

impl Store for ResetsFirstCharge {
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let answers = !self.answers_later && self.memory.charge_at_once(charges, usages, now);
        if answers {
            self.reset(charges, now);
        }
        answers
    }

    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let answer = self.memory.charge(charges, now);
        self.reset(charges, now);
        answer
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.memory.correct(corrections, now)
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_right_after_a_charge_is_later_than_it() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        for answers_later in [false, true] {
            let store = ResetsFirstCharge { answers_later, ..ResetsFirstCharge::default() };
            let policy = policy("p", algorithm, Quota::per_day(100));
            let limiter = builder().store(store).check_only(policy).build().unwrap();
            let reserve = || limiter.reserve(["p"], "a").cost("p", 40);
            let left = async || limiter.peek("p", "a").await.unwrap().remaining();
            let reservation =
                if answers_later { reserve().await } else { reserve().at_once() }.unwrap();
            assert_eq!(left().await, 100, "{algorithm:?}: the reset frees the units");
            assert!(limiter.check("p", "a").cost(30).await.unwrap().is_allowed());
            drop(reservation);
            assert_eq!(left().await, 70, "{algorithm:?}: the later use still counts");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_right_after_a_request_was_charged_is_later_than_it() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        for (answers_later, at_end) in [(false, false), (false, true), (true, false), (true, true)]
        {
            let store = ResetsFirstCharge { answers_later, ..ResetsFirstCharge::default() };
            let policy = policy("p", algorithm, Quota::per_day(100)).cost(|_| 40);
            let policy = if at_end { policy.settle_at_end() } else { policy.settle(|_| Some(0)) };
            let limiter = builder().store(store).policy(policy).build().unwrap();
            let handler = service_fn(async |_: Request<Body>| {
                // The request has used nothing, and the reset has freed its units.
                let used = limiter.check("p", "a").cost(30).await.unwrap();
                assert_eq!(used.remaining(), 70);
                Ok::<_, Infallible>(Response::new(Body::default()))
            });
            let mut service = RateLimitLayer::new(limiter.clone()).layer(handler);
            let request = Request::get("/").header("x-key", "a").body(Body::default()).unwrap();
            let response = service.ready().await.unwrap().call(request).await.unwrap();
            assert_eq!(response.status(), 200);
            drop(response);
            let left = limiter.peek("p", "a").await.unwrap().remaining();
            assert_eq!(left, 70, "{algorithm:?}, {answers_later}, {at_end}: the later use counts");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_reservation_that_a_reset_lets_pass_gives_its_units_back() {
    for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        let policy = policy("p", algorithm, Quota::per_day(100)).hold(Duration::from_secs(86_400));
        let limiter = builder().check_only(policy).build().unwrap();
        assert!(limiter.check("p", "a").cost(100).at_once().unwrap().is_allowed());
        let mut held = pin!(limiter.reserve(["p"], "a").cost("p", 40));
        assert!(is_pending(held.as_mut()).await, "there are no units");
        drop(limiter.reset("p", "a").at_once().unwrap());
        let reservation = held.await.unwrap();
        assert!(limiter.check("p", "a").cost(30).at_once().unwrap().is_allowed());
        drop(reservation);
        let left = limiter.peek("p", "a").at_once().unwrap().remaining();
        assert_eq!(left, 70, "{algorithm:?}");
    }
}
