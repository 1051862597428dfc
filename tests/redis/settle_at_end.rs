//! Costs that are settled at the end of a request, in Redis.
#![cfg(feature = "redis")]

use std::{
    convert::Infallible,
    future::pending,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use common::redis::{PATIENCE, Server};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Meter, Policy, Quota, RateLimitLayer, ResponseBody, key::header, store::RedisStore,
};

use crate::outage::until;

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

fn limiter(server: &Server) -> Limiter {
    let store = RedisStore::builder(server.url()).connect_timeout(PATIENCE);
    let store = store.response_timeout(PATIENCE).decision_timeout(PATIENCE).secret(SECRET);
    let tokens = Policy::sliding_window("tokens", Quota::per_day(1_000)).key(header("x-key"));
    let tokens = tokens.or_refuse().cost(|_| 300).settle_at_end();
    Limiter::builder().policy(tokens).store(store.build().unwrap()).build().unwrap()
}

fn request() -> Request<()> {
    Request::get("/").header("x-key", "k").body(()).unwrap()
}

async fn left(limiter: &Limiter) -> u64 {
    limiter.peek("tokens", "k").await.unwrap().remaining()
}

async fn comes_to(limiter: &Limiter, units: u64) {
    until("the correction", async || left(limiter).await == units).await;
}

type Answer = Response<ResponseBody<Full<Bytes>>>;

/// A response whose body nobody has read yet, and its meter.
async fn begin(limiter: &Limiter) -> Option<(Answer, Meter)> {
    let taken = Arc::new(Mutex::new(None));
    let handler = service_fn(|request: Request<()>| {
        *taken.lock().unwrap() = Some(Meter::from_extensions(request.extensions()));
        async { Ok::<_, Infallible>(Response::new(Full::from("tokens"))) }
    });
    let response = RateLimitLayer::new(limiter.clone()).layer(handler).oneshot(request()).await;
    let response = response.unwrap();
    let meter = taken.lock().unwrap().take()?;
    Some((response, meter))
}

#[tokio::test]
async fn what_a_meter_has_counted_is_charged_for_all_replicas() {
    let server = Server::start();
    let (here, there) = (limiter(&server), limiter(&server));
    let (response, meter) = begin(&here).await.unwrap();
    assert_eq!(left(&there).await, 700);
    meter.add(20);
    drop(response);
    comes_to(&there, 980).await;
    // A debt holds for all of them.
    let (response, late) = begin(&there).await.unwrap();
    late.add(1_200);
    drop(response);
    comes_to(&here, 0).await;
    assert!(begin(&here).await.is_none());
    // What nobody has counted stays as it was, and what comes late is charged at once.
    let _ = here.reset("tokens", "k").await.unwrap();
    drop(begin(&here).await.unwrap());
    let (response, meter) = begin(&here).await.unwrap();
    drop(response);
    meter.add(350);
    comes_to(&there, 350).await;
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test]
async fn a_panic_and_a_caller_who_leaves_settle_too() {
    let server = Server::start();
    let limiter = limiter(&server);
    for panics in [true, false] {
        let handler = service_fn(move |request: Request<()>| async move {
            Meter::from_extensions(request.extensions()).add(50);
            assert!(!panics, "on purpose");
            pending::<Result<Response<Full<Bytes>>, Infallible>>().await
        });
        let response = RateLimitLayer::new(limiter.clone()).layer(handler).oneshot(request());
        let under_way = tokio::spawn(response);
        if panics {
            assert!(under_way.await.unwrap_err().is_panic());
        } else {
            comes_to(&limiter, 650).await;
            under_way.abort();
        }
        comes_to(&limiter, if panics { 950 } else { 900 }).await;
    }
}
