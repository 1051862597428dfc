//! What responses tell of the quota, over the public API.

use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{Category, Clock, Limiter, Matcher, Policy, Quota, RateLimitLayer, Rejection};

type Body = Full<Bytes>;

/// At 14:00:00 UTC, 20 s of which tests let pass where that shows.
fn clock() -> Clock {
    Clock::starting_at(UNIX_EPOCH + Duration::from_secs(1_705_413_600))
}

fn hourly() -> Policy {
    Policy::fixed_window("hourly", Quota::per_hour(10)).global()
}

fn burst() -> Policy {
    Policy::fixed_window("burst", Quota::per_minute(2)).global()
}

/// Every request draws on `hourly`; those below `/write` on `burst` too.
fn limiter() -> Limiter {
    let write = Category::new("write").on(Matcher::path("/write")).policy(burst());
    let worker = Policy::fixed_window("worker", Quota::per_hour(1));
    let limiter = Limiter::builder().clock(clock()).policy(hourly()).category(write);
    limiter.direct(worker).build().unwrap()
}

async fn handler(_: Request<()>) -> Result<Response<Body>, Infallible> {
    Ok(Response::new(Body::from("hello")))
}

/// The headers of a response, in the order of their names.
fn lines(headers: &HeaderMap) -> Vec<(&str, &str)> {
    let mut lines: Vec<_> = headers
        .iter()
        .map(|(name, value): (&HeaderName, _)| (name.as_str(), value.to_str().unwrap()))
        .filter(|(name, _)| !["content-type", "cache-control"].contains(name))
        .collect();
    lines.sort_unstable();
    lines
}

/// What the layer answers to a request for `path`.
async fn headers_of(layer: &RateLimitLayer, path: &str) -> (u16, HeaderMap) {
    let service = layer.layer(service_fn(handler));
    let response = service.oneshot(Request::get(path).body(()).unwrap()).await.unwrap();
    (response.status().as_u16(), response.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn by_default_the_x_ratelimit_headers_of_the_tightest_policy() {
    let layer = RateLimitLayer::new(limiter());
    tokio::time::advance(Duration::from_millis(20_500)).await;
    let told = |limit, remaining, reset| {
        vec![
            ("x-ratelimit-limit", limit),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", reset),
        ]
    };
    let (status, headers) = headers_of(&layer, "/read").await;
    assert_eq!((status, lines(&headers)), (200, told("10", "9", "1705417200")));
    let (status, headers) = headers_of(&layer, "/write").await;
    assert_eq!((status, lines(&headers)), (200, told("2", "1", "1705413660")));
    headers_of(&layer, "/write").await;
    let (status, headers) = headers_of(&layer, "/write").await;
    let mut refused = told("2", "0", "1705413660");
    refused.insert(0, ("retry-after", "40"));
    assert_eq!((status, lines(&headers)), (429, refused));
}

#[tokio::test(start_paused = true)]
async fn the_named_policy_speaks_where_it_holds_and_passes() {
    let layer = RateLimitLayer::builder(limiter()).header_policy("burst").build().unwrap();
    let limit = |headers: &HeaderMap| headers["x-ratelimit-limit"].clone();
    // It does not hold here: the tightest speaks.
    assert_eq!(limit(&headers_of(&layer, "/read").await.1), "10");
    assert_eq!(limit(&headers_of(&layer, "/write").await.1), "2");

    let layer = RateLimitLayer::builder(limiter()).header_policy("hourly").build().unwrap();
    for _ in 0..2 {
        assert_eq!(limit(&headers_of(&layer, "/write").await.1), "10");
    }
    // On a 429 the refusing policy speaks, whichever was named.
    let (status, headers) = headers_of(&layer, "/write").await;
    assert_eq!((status, limit(&headers).to_str().unwrap()), (429, "2"));
}

#[tokio::test(start_paused = true)]
async fn without_retry_after_the_body_still_tells_it() {
    let layer = RateLimitLayer::builder(limiter()).retry_after(false).build().unwrap();
    let mut service = layer.layer(service_fn(handler));
    let mut last = None;
    for _ in 0..3 {
        let request = Request::get("/write").body(()).unwrap();
        last = Some(service.ready().await.unwrap().call(request).await.unwrap());
    }
    let refused = last.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(refused.headers().get("retry-after"), None);
    let body = http_body_util::BodyExt::collect(refused).await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["retry_after"], 60);
}

#[test]
fn an_unknown_header_policy_is_an_error() {
    for name in ["brust", "worker"] {
        let error = RateLimitLayer::builder(limiter()).header_policy(name).build().unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "header policy `{name}`: requests are held to no policy of this name; write one of `burst`, `hourly`"
            ),
        );
    }
}

#[test]
fn settings_go_through_the_builder_and_closures_need_no_types() {
    let layer = RateLimitLayer::builder(limiter())
        .headers([])
        .on_rejection(|rejection| Response::new(rejection.to_string()))
        .on_rejection(Rejection::to_response)
        .expose_decision()
        .build();
    assert!(layer.is_ok());
}
