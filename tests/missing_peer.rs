//! A server does not pass on the peer's address: one warning, and never a 500. In a process of its
//! own, because the warning is logged once in a process.

use axum::{Router, body::Body, http::Request, routing::get};
use common::Lines;
use tower::ServiceExt;
use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};

#[tokio::test]
async fn without_connect_info_one_warning_is_logged_and_the_policy_says_what_happens() {
    let lines = Lines::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(lines.clone()).finish();
    let _guard = tracing::subscriber::set_default(subscriber);

    let by_ip = || Policy::token_bucket("per ip", Quota::per_minute(1)).key(ClientIp::new());
    for (policy, status) in [(by_ip().or_skip(), 200), (by_ip().or_refuse(), 400)] {
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        let app =
            Router::new().route("/", get(|| async { "hi" })).layer(RateLimitLayer::new(limiter));
        for _ in 0..5 {
            let request = Request::get("/").body(Body::empty()).unwrap();
            assert_eq!(app.clone().oneshot(request).await.unwrap().status(), status);
        }
    }

    let log = lines.text();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("into_make_service_with_connect_info::<SocketAddr>()"), "{log}");
}
