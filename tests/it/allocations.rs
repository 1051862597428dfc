//! An admitted request with a header key, in memory, allocates nothing on its way through `call`;
//! a refused one allocates only its response.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_quota::{HeaderStyle, Limiter, Policy, Quota, RateLimitLayer, key::header};

type Body = Empty<Bytes>;

fn request() -> Request<Body> {
    Request::get("/").header("x-api-key", "a".repeat(40)).body(Body::new()).unwrap()
}

/// The allocations of a third request of a key, from `call` to the response, which has this status,
/// as the second's has.
fn allocations(layer: &RateLimitLayer, status: StatusCode) -> u64 {
    let handler =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::new())) });
    let mut service = layer.layer(handler);
    let mut context = Context::from_waker(Waker::noop());
    let mut send = |request, status| {
        assert!(service.poll_ready(&mut context).is_ready());
        let mut response = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) else { panic!() };
        assert_eq!(response.status(), status);
        // What the caller does with the response is no part of the way.
        std::mem::forget(response);
    };
    send(request(), StatusCode::OK);
    send(request(), status);
    let third = request();
    allocation_counter::measure(|| send(third, status)).count_total
}

#[test]
fn nothing_is_allocated_up_to_writing_the_headers() {
    let quota = Quota::per_hour(1_000);
    for policy in [
        Policy::token_bucket("p", quota),
        Policy::fixed_window("p", quota),
        Policy::sliding_window("p", quota),
    ] {
        let algorithm = policy.algorithm();
        let policy = policy.key(header("x-api-key")).or_refuse();
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        let layer = RateLimitLayer::builder(limiter).headers([]).build().unwrap();
        assert_eq!(allocations(&layer, StatusCode::OK), 0, "{algorithm:?}");
    }
}

#[test]
fn many_policies_allocate_no_more_than_one() {
    let quota = Quota::per_hour(1_000);
    let mut limiter = Limiter::builder();
    for name in ["a", "b", "c", "d", "e", "f", "g"] {
        let policy = Policy::token_bucket(name, quota).key(header("x-api-key")).or_refuse();
        limiter = limiter.policy(policy);
    }
    let layer = RateLimitLayer::builder(limiter.build().unwrap()).headers([]).build().unwrap();
    assert_eq!(allocations(&layer, StatusCode::OK), 0);
}

#[tokio::test]
async fn decisions_that_are_kept_a_while_allocate_no_more_the_next_time() {
    let policy = Policy::token_bucket("p", Quota::per_hour(1_000));
    let limiter = Limiter::builder().check_only(policy).build().unwrap();
    let under_way = async || {
        let mut decisions = Vec::with_capacity(50);
        for _ in 0..50 {
            decisions.push(limiter.check("p", "key").await.unwrap());
        }
    };
    under_way().await;
    let again = allocation_counter::measure(|| {
        let again = pin!(under_way());
        assert!(again.poll(&mut Context::from_waker(Waker::noop())).is_ready());
    });
    assert_eq!(again.count_total, 1, "the list in which they are kept");
}

#[test]
fn each_header_value_is_allocated_once_unless_it_is_a_small_number_or_recurs() {
    let policy = |name| Policy::sliding_window(name, Quota::per_hour(1_000));
    let policy = |name| policy(name).key(header("x-api-key")).or_refuse();
    let limiter = Limiter::builder().policy(policy("a")).policy(policy("b")).build().unwrap();
    let layer = |style| RateLimitLayer::builder(limiter.clone()).headers([style]).build().unwrap();
    // The map of headers has two vectors; beside them, one for each value but numbers: the Unix time
    // was written before.
    let allocations = |style| allocations(&layer(style), StatusCode::OK);
    assert_eq!(allocations(HeaderStyle::x_ratelimit()), 2);
    assert_eq!(allocations(HeaderStyle::ratelimit_lists().partition_key()), 2 + 2);
}

#[test]
fn a_refusal_allocates_each_of_its_parts_once() {
    let policy = Policy::token_bucket("p", Quota::per_hour(1)).key(header("x-api-key"));
    let limiter = Limiter::builder().policy(policy.or_refuse()).build().unwrap();
    let layer = RateLimitLayer::new(limiter);
    // One for the body, and two each for the map of headers and the mark for layers around.
    assert_eq!(allocations(&layer, StatusCode::TOO_MANY_REQUESTS), 1 + 2 + 2);
}

#[test]
fn ten_thousand_overrides_allocate_nothing_for_a_caller_without_one() {
    let policy = Policy::token_bucket("p", Quota::per_hour(1_000)).key(header("x-api-key"));
    let limiter = Limiter::builder().policy(policy.or_refuse()).caller(header("x-api-key"));
    let limiter = limiter.build().unwrap();
    for number in 0..10_000 {
        let caller = limiter.overrides().caller(format!("key {number}")).unwrap();
        caller.block(Duration::from_secs(3_600)).at_once().unwrap();
    }
    let layer = RateLimitLayer::builder(limiter).headers([]).build().unwrap();
    assert_eq!(allocations(&layer, StatusCode::OK), 0);
}
