//! A check by name counts the key that requests have.
#![cfg(all(feature = "axum", feature = "testing"))]

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::post};
use http::Request;
use tower_quota::{
    BodyFieldLayer, CheckError, Clock, Limiter, Policy, Quota, RateLimitLayer,
    key::{Caller, Key, KeyExtractor, bearer, body_field, cookie, header, path_param, query},
    overrides::OverrideError,
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

#[test]
fn a_name_that_no_request_can_have_is_unfit() {
    fn fits(key: impl KeyExtractor + Clone, name: &[u8]) -> bool {
        let caller = Limiter::builder().clock(Clock::manual()).caller(Caller::new(key.clone()));
        let caller = caller.build().unwrap().overrides().caller(Key::from(name)).map(drop);
        assert!(matches!(caller, Ok(()) | Err(OverrideError::UnfitKey)), "{caller:?}");
        let check = limiter(key).check("p", Key::from(name)).at_once().map(drop);
        assert!(matches!(check, Ok(()) | Err(CheckError::UnfitKey { .. })), "{check:?}");
        assert_eq!(check.is_ok(), caller.is_ok());
        check.is_ok()
    }
    let [header, bearer, query, path, cookie, field] = [
        Arc::new(header("x-key")) as Arc<dyn KeyExtractor>,
        Arc::new(bearer()),
        Arc::new(query("key")),
        Arc::new(path_param("/{key}", "key")),
        Arc::new(cookie("key")),
        Arc::new(body_field("key")),
    ];
    for key in [&header, &bearer, &query, &path, &cookie, &field] {
        for name in [&b"a"[..], b"a:b", "\u{e4}".as_bytes()] {
            assert!(fits(key.clone(), name), "{:?} {name:?}", key.kind());
        }
        assert!(!fits(key.clone(), b"a\0b"), "{:?}", key.kind());
    }
    // Names in a header are any bytes but control characters. Those of the others are texts.
    for (name, of_header, of_bearer, of_text, of_cookie) in [
        (&b"a\nb"[..], false, false, true, true),
        (b"a\x7f", false, false, true, true),
        (b"a b", true, false, true, true),
        (b"a\tb", true, false, true, true),
        (b" a", false, false, true, true),
        (b"\xff", true, true, false, true),
        (b"\xff%", true, true, false, false),
        (b"\xff;", true, true, false, false),
        (b"\xff\n", false, false, false, false),
    ] {
        let found = [&header, &bearer, &query, &path, &cookie].map(|key| fits(key.clone(), name));
        assert_eq!(found, [of_header, of_bearer, of_text, of_text, of_cookie], "{name:?}");
    }
}
