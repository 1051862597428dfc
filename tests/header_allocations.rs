//! What the layer allocates for a request that passes.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_quota::{HeaderStyle, Limiter, Policy, Quota, RateLimitLayer, key};

type Body = Empty<bytes::Bytes>;

fn handler(_: Request<()>) -> Ready<Result<Response<Body>, Infallible>> {
    ready(Ok(Response::default()))
}

/// The allocations of a request whose key is known already.
fn allocations(styles: impl IntoIterator<Item = HeaderStyle>) -> u64 {
    let policy = |name| Policy::sliding_window(name, Quota::per_hour(1_000));
    let policy = |name| policy(name).key(key::header("x-api-key")).or_refuse();
    let limiter = Limiter::builder().policy(policy("a")).policy(policy("b")).build().unwrap();
    let layer = RateLimitLayer::builder(limiter).headers(styles).build().unwrap();
    let mut service = layer.layer(service_fn(handler));
    let mut ask = |request| {
        let mut context = Context::from_waker(Waker::noop());
        match pin!(service.call(request)).poll(&mut context) {
            Poll::Ready(Ok(response)) => response,
            Poll::Pending => panic!("memory answers at once"),
        }
    };
    let request = || Request::get("/").header("x-api-key", "k").body(()).unwrap();
    ask(request());
    let request = request();
    let mut response = None;
    let counted = allocation_counter::measure(|| response = Some(ask(request)));
    assert_eq!(response.unwrap().status(), 200);
    counted.count_total
}

#[test]
fn only_headers_are_allocated() {
    assert_eq!(allocations([]), 0);
    // The map of headers has two vectors; beside them, one for each value.
    assert_eq!(allocations([HeaderStyle::x_ratelimit()]), 2 + 3);
    assert_eq!(allocations([HeaderStyle::draft_11().partition_key()]), 2 + 2);
}
