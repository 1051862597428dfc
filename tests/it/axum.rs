//! Under axum: each way to add the layer, each type of body, and what handlers can read.
#![cfg(feature = "axum")]

use std::{net::SocketAddr, time::Duration};

use axum::{
    Extension, Router,
    body::{Body, to_bytes},
    extract::connect_info::MockConnectInfo,
    http::{Request, StatusCode},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use serde_json::json;
use tower::ServiceExt;
use tower_quota::{
    Category, Clock, Decision, HeaderStyle, Limiter, LimiterBuilder, Matcher, Policy, Quota,
    RateLimitLayer, Rejection,
    key::{ClientIp, header, path_param},
};

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

async fn send(app: &Router, uri: &str) -> Response {
    app.clone().oneshot(Request::get(uri).body(Body::empty()).unwrap()).await.unwrap()
}

/// The quota headers of a response.
fn quota(response: &Response) -> Vec<(String, String)> {
    let mut headers: Vec<_> = response
        .headers()
        .iter()
        .filter(|(name, _)| name.as_str().contains("ratelimit") || *name == "retry-after")
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    headers.sort();
    headers
}

fn pairs<const N: usize>(headers: [(&str, &str); N]) -> Vec<(String, String)> {
    headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

#[tokio::test(start_paused = true)]
async fn paths_are_what_the_client_sent_under_layer_route_layer_and_nest() {
    let limited = || {
        let one = Policy::fixed_window("one", Quota::per_minute(1))
            .key(path_param("/api/v1/{tenant}/{*rest}", "tenant"))
            .or_skip();
        let category =
            Category::new("things").on(Matcher::get("/api/v1/{tenant}/things")).policy(one);
        RateLimitLayer::new(builder().category(category).build().unwrap())
    };
    let things = || Router::new().route("/{tenant}/things", get(|| async { "things" }));
    let nest = |inner: Router| Router::new().nest("/api", Router::new().nest("/v1", inner));
    for (place, app) in [
        ("layer outside", nest(things()).layer(limited())),
        ("layer inside", nest(things().layer(limited()))),
        ("route_layer inside", nest(things().route_layer(limited()))),
        (
            "on the method router",
            nest(
                Router::new()
                    .route("/{tenant}/things", get(|| async { "things" }).layer(limited())),
            ),
        ),
    ] {
        assert_eq!(send(&app, "/api/v1/a/things").await.status(), StatusCode::OK, "{place}");
        let refused = send(&app, "/api/v1/a/things?again").await;
        assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS, "{place}");
        assert_eq!(send(&app, "/api/v1/b/things").await.status(), StatusCode::OK, "{place}");
        assert_eq!(send(&app, "/elsewhere").await.status(), StatusCode::NOT_FOUND, "{place}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_response_tells_limit_remaining_and_reset_of_one_policy() {
    let limiter = builder()
        .policy(Policy::fixed_window("hour", Quota::per_hour(100)).global())
        .policy(Policy::sliding_window("minute", Quota::per_minute(2)).global())
        .build()
        .unwrap();
    let app = Router::new().route("/", get(|| async { "hi" })).layer(RateLimitLayer::new(limiter));
    tokio::time::advance(Duration::from_millis(300)).await;
    for remaining in ["1", "0"] {
        let response = send(&app, "/").await;
        assert_eq!(response.status(), StatusCode::OK);
        let told = [
            ("x-ratelimit-limit", "2"),
            ("x-ratelimit-remaining", remaining),
            ("x-ratelimit-reset", "86461"),
        ];
        assert_eq!(quota(&response), pairs(told));
    }
    tokio::time::advance(Duration::from_secs(15)).await;
    let refused = send(&app, "/").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let told = [
        ("retry-after", "45"),
        ("x-ratelimit-limit", "2"),
        ("x-ratelimit-remaining", "0"),
        ("x-ratelimit-reset", "86461"),
    ];
    assert_eq!(quota(&refused), pairs(told));
    let body = to_bytes(refused.into_body(), 4_096).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body,
        json!({
            "error": "rate_limit_exceeded",
            "message": "Quota of policy `minute` is used up (2 per 60s). Retry after 45 seconds.",
            "policy": "minute",
            "limit": 2,
            "remaining": 0,
            "retry_after": 45,
        })
    );
    tokio::time::advance(Duration::from_secs(45)).await;
    assert_eq!(send(&app, "/").await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn of_stacked_layers_the_one_speaks_that_has_the_smaller_share_left() {
    let layer = |name, units| {
        let policy = Policy::fixed_window(name, Quota::per_minute(units)).global();
        RateLimitLayer::new(builder().policy(policy).build().unwrap())
    };
    let app = Router::new()
        .route("/", get(|| async { ([("x-ratelimit-limit", "7")], "hi") }))
        .layer(layer("inner", 5))
        .layer(layer("outer", 10));
    let told = [
        ("x-ratelimit-limit", "5"),
        ("x-ratelimit-remaining", "4"),
        ("x-ratelimit-reset", "86460"),
    ];
    assert_eq!(quota(&send(&app, "/").await), pairs(told));
}

#[tokio::test(start_paused = true)]
async fn the_decision_reaches_the_handler() {
    let policy = Policy::fixed_window("p", Quota::per_minute(5)).global();
    let limiter = builder().policy(policy).build().unwrap();
    let handler = |Extension(decision): Extension<Decision>| async move {
        format!("{} left", decision.tightest().unwrap().remaining())
    };
    let app = Router::new()
        .route("/", get(handler))
        .layer(RateLimitLayer::builder(limiter).expose_decision().build().unwrap());
    let body = to_bytes(send(&app, "/").await.into_body(), 64).await.unwrap();
    assert_eq!(body, "4 left");
}

#[tokio::test(start_paused = true)]
async fn a_rejection_becomes_what_a_closure_makes_of_it() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1)).key(header("x-key")).or_refuse();
    let limiter = builder().policy(policy).build().unwrap();
    let layer =
        RateLimitLayer::builder(limiter).headers([]).on_rejection(|rejection: &Rejection| {
            let outcome = rejection.outcome().unwrap();
            let text = format!(
                "{} {} {:?} {} {} {:?} {} {:?} {:?}",
                rejection.policy(),
                outcome.key_kind(),
                outcome.quota(),
                outcome.limit(),
                outcome.remaining(),
                outcome.reset(),
                rejection.resets_at_seconds(),
                rejection.retry_after(),
                rejection.request_id(),
            );
            http::Response::builder().status(503).body(text).unwrap()
        });
    let app = Router::new().route("/", get(|| async { "hi" })).layer(layer.build().unwrap());
    let request = || {
        let request = Request::get("/").header("x-key", "a").header("x-request-id", "req_1");
        request.body(Body::empty()).unwrap()
    };
    let first = app.clone().oneshot(request()).await.unwrap();
    assert_eq!((first.status(), quota(&first)), (StatusCode::OK, vec![]));
    let refused = app.oneshot(request()).await.unwrap();
    assert_eq!(refused.status(), 503);
    assert_eq!(quota(&refused), pairs([("retry-after", "60")]), "no client has to guess");
    let body = to_bytes(refused.into_body(), 4_096).await.unwrap();
    assert_eq!(body, "p x-key 1 per 60s 1 0 60s 86460 Some(60s) Some(\"req_1\")");
}

#[tokio::test(start_paused = true)]
async fn a_handler_may_answer_with_a_rejection_itself() {
    let policy = Policy::fixed_window("exports", Quota::per_minute(1));
    let limiter = builder().check_only(policy).build().unwrap();
    let handler = move || {
        let limiter = limiter.clone();
        async move {
            let decision = limiter.check("exports", "tenant").await.unwrap();
            Rejection::of(&decision).map_or("exported".into_response(), IntoResponse::into_response)
        }
    };
    let app = Router::new().route("/", get(handler));
    assert_eq!(send(&app, "/").await.status(), StatusCode::OK);
    assert_eq!(send(&app, "/").await.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn uncounted_requests_have_no_quota_headers() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1)).global();
    let limiter = builder().policy(policy).exempt(Matcher::get("/health")).build().unwrap();
    let app = Router::new().route("/health", get(|| async { "ok" })).layer(
        RateLimitLayer::builder(limiter).headers([HeaderStyle::x_ratelimit()]).build().unwrap(),
    );
    for _ in 0..3 {
        let response = send(&app, "/health").await;
        assert_eq!((response.status(), quota(&response)), (StatusCode::OK, vec![]));
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_read_from_connect_info() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1)).key(ClientIp::new()).or_refuse();
    let limiter = builder().policy(policy).build().unwrap();
    let app = Router::new().route("/", any(|| async { "hi" })).layer(RateLimitLayer::new(limiter));
    let from = |ip: [u8; 4]| app.clone().layer(MockConnectInfo(SocketAddr::from((ip, 80))));
    assert_eq!(send(&from([1, 1, 1, 1]), "/").await.status(), StatusCode::OK);
    assert_eq!(send(&from([1, 1, 1, 1]), "/").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(send(&from([2, 2, 2, 2]), "/").await.status(), StatusCode::OK);
}
