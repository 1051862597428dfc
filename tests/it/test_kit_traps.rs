//! No assertion of a test client holds that a server would break.
#![cfg(all(feature = "axum", feature = "testing"))]

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    time::Duration,
};

use axum::{
    Extension, Router,
    extract::Request,
    http::StatusCode,
    middleware::{Next, from_fn},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use tower_quota::{Clock, Limiter, Permit, Policy, Quota, RateLimitLayer, testing::TestClient};

const HOUR: Duration = Duration::from_secs(3_600);

fn limiter(clock: Clock, policy: Policy) -> Limiter {
    Limiter::builder().clock(clock).policy(policy.global()).build().unwrap()
}

/// Answers 500 if what is inside panics.
async fn catch_panic(request: Request, next: Next) -> Response {
    let mut response = pin!(next.run(request));
    poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| response.as_mut().poll(context)));
        polled.unwrap_or_else(|_| Poll::Ready(StatusCode::INTERNAL_SERVER_ERROR.into_response()))
    })
    .await
}

/// Answers 504 if what is inside has no response at once.
async fn impatient(request: Request, next: Next) -> Response {
    let mut response = pin!(next.run(request));
    let at_once = poll_fn(|context| Poll::Ready(response.as_mut().poll(context))).await;
    match at_once {
        Poll::Ready(response) => response,
        Poll::Pending => StatusCode::GATEWAY_TIMEOUT.into_response(),
    }
}

#[test]
fn a_refusal_whose_closure_panics_is_not_admitted() {
    let limiter = limiter(Clock::manual(), Policy::fixed_window("p", Quota::per_hour(1)));
    let layer = RateLimitLayer::builder(limiter)
        .on_rejection(|_| -> http::Response<Bytes> { panic!("on purpose") })
        .build()
        .unwrap();
    let app = Router::new().route("/", get(|| async { "ok" }));
    let app: Router = app.layer(layer).layer(from_fn(catch_panic));
    TestClient::of(app).send(3, "/").expect_admitted(1);
}

#[test]
fn a_request_that_ends_while_it_is_held_is_not_admitted() {
    let bucket = Policy::token_bucket("p", Quota::per_hour(1)).hold(HOUR);
    let handled = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&handled);
    let app = Router::new()
        .route("/", get(move || async move { count.fetch_add(1, SeqCst).to_string() }));
    let layer = RateLimitLayer::new(limiter(Clock::manual(), bucket));
    let app: Router = app.layer(layer).layer(from_fn(impatient));
    let mut client = TestClient::of(app);
    client.send(2, "/").expect_status(504);
    assert_eq!(handled.load(SeqCst), 1);
    client.expect_admitted(1);
}

#[test]
fn what_a_handler_spawns_runs() {
    let layer = RateLimitLayer::new(limiter(Clock::manual(), Policy::in_flight("jobs", 1)));
    let job = |Extension(permit): Extension<Permit>| async {
        tokio::spawn(async move { drop(permit) });
    };
    let app: Router = Router::new().route("/", get(job)).layer(layer);
    let mut client = TestClient::of(app);
    client.send(1, "/").expect_admitted(1);
    client.send(1, "/").expect_admitted(1);
}
