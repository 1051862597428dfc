//! After: `tower-quota`.

use std::time::Duration;

use axum::{
    Router,
    routing::{get, post},
};
use serde_json::json;
use tower_quota::{
    BuildError, Category, Limiter, Matcher, Policy, Quota, RateLimitLayer, key::ClientIp, response,
};

use crate::handlers::{notes, sign_in};

/// The application with its limits.
///
/// # Errors
/// If the settings of the limits cannot work. The error says what to write instead.
pub fn app() -> Result<Router, BuildError> {
    let client = ClientIp::new().trust_proxies(["10.0.0.0/8"]);
    // 20 requests at once, then one every two seconds
    let one_every_two_seconds = Quota::per_window(1, Duration::from_secs(2));
    let requests = Policy::token_bucket("requests", one_every_two_seconds.burst(20))
        .key(client.clone())
        .or_refuse();
    // 3 sign-ins at once, then one a minute
    let sign_ins =
        Policy::token_bucket("sign-ins", Quota::per_minute(1).burst(3)).key(client).or_refuse();

    let limiter = Limiter::builder()
        .policy(requests)
        .category(Category::new("sign-in").on(Matcher::post("/sign-in")).policy(sign_ins))
        .build()?;
    let rate_limit = RateLimitLayer::builder(limiter)
        .on_rejection(response::json(|rejection| json!({ "error": rejection.to_string() })))
        .build()?;
    Ok(Router::new().route("/notes", get(notes)).route("/sign-in", post(sign_in)).layer(rate_limit))
}
