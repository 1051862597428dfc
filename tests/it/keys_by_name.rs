//! A check by name counts the key that requests have.
#![cfg(all(feature = "axum", feature = "testing"))]

use std::time::Duration;

use axum::{Router, routing::post};
use http::Request;
use tower_quota::{
    BodyFieldLayer, CheckError, Clock, Limiter, Policy, Quota, RateLimitLayer,
    key::{Caller, KeyExtractor, body_field},
    testing::TestClient,
};

fn limiter(key: impl KeyExtractor) -> Limiter {
    let policy = Policy::fixed_window("p", Quota::per_hour(10)).key(key).or_refuse();
    Limiter::builder().clock(Clock::manual()).policy(policy).build().unwrap()
}

#[test]
fn the_field_of_a_body_counts_by_name_as_in_a_request() {
    for (body, name) in [
        (r#"{"user":"Ann@x.org"}"#, "Ann@x.org"),
        (r#"{"user":" ann@x.org"}"#, " ann@x.org"),
        (r#"{"user":"007"}"#, "007"),
    ] {
        let limiter = limiter(body_field("user"));
        let app = Router::new().route("/", post(|| async { "ok" }));
        let app: Router =
            app.layer(RateLimitLayer::new(limiter.clone())).layer(BodyFieldLayer::new(["user"]));
        let request = Request::post("/").header("content-type", "application/json");
        TestClient::of(app).send(4, request.body(body).unwrap()).expect_admitted(4);
        let left = limiter.peek("p", name).at_once().map(|decision| decision.remaining());
        assert!(matches!(left, Ok(6) | Err(CheckError::UnfitKey { .. })), "{body}: {left:?}");
    }
}

#[test]
fn who_is_blocked_by_name_is_blocked() {
    let policy = Policy::fixed_window("p", Quota::per_hour(10)).key(body_field("user")).or_refuse();
    let caller = Caller::new(body_field("user"));
    let limiter =
        Limiter::builder().clock(Clock::manual()).policy(policy).caller(caller).build().unwrap();
    let app = Router::new().route("/", post(|| async { "ok" }));
    let app: Router =
        app.layer(RateLimitLayer::new(limiter.clone())).layer(BodyFieldLayer::new(["user"]));
    let mut client = TestClient::of(app);
    let blocks = |name: &str| {
        let caller = limiter.overrides().caller(name);
        caller.is_ok_and(|caller| caller.block(Duration::from_secs(60)).at_once().is_ok())
    };
    for name in ["ann@x.org", "Bob@x.org"] {
        assert!(blocks(name));
        let request = Request::post("/").header("content-type", "application/json");
        let body = format!(r#"{{"user":"{name}"}}"#);
        client.send(1, request.body(body).unwrap()).expect_refused(1);
    }
}
