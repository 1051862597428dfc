//! A limiter's metrics for Prometheus, at `/metrics`. `dashboard.json` shows them in Grafana.
//!
//! `cargo run --release --package prometheus-example`, then
//! `curl -i http://127.0.0.1:3000/search` until it refuses, `curl -X POST
//! http://127.0.0.1:3000/exports` until it holds, and `curl http://127.0.0.1:3000/metrics`.

#[path = "../common/mod.rs"]
mod common;

use std::{error::Error, time::Duration};

use axum::{
    Json, Router,
    routing::{get, post},
};
use metrics_exporter_prometheus::{Matcher as Metrics, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tower_quota::{
    BuildError, Category, Clock, Limiter, Matcher, Policy, Quota, RateLimitLayer, key::ClientIp,
};

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    // Before the first request: what is counted without a recorder is lost.
    let prometheus = exporter()?;
    let upkeep = prometheus.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    common::serve(app(prometheus, Clock::system())?).await
}

/// The recorder of this process.
pub fn exporter() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    // Buckets, not quantiles: quantiles of several servers cannot be added up.
    let seconds = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
    PrometheusBuilder::new()
        .set_buckets_for_metric(Metrics::Suffix("_duration_seconds".to_owned()), &seconds)?
        .install_recorder()
}

/// A route that refuses, one that holds, and the metrics of both.
pub fn app(prometheus: PrometheusHandle, clock: Clock) -> Result<Router, BuildError> {
    let per_client = |policy: Policy| policy.key(ClientIp::new()).or_refuse();
    let search = Policy::sliding_window("search", Quota::per_minute(30));
    let stricter = Policy::sliding_window("stricter search", Quota::per_minute(10)).dry_run();
    let export = Policy::token_bucket("export", Quota::per_second(1).burst(2));
    let limiter = Limiter::builder()
        .clock(clock)
        .category(
            Category::new("search")
                .on(Matcher::get("/search"))
                .policy(per_client(search))
                .policy(per_client(stricter)),
        )
        .category(
            Category::new("export")
                .on(Matcher::post("/exports"))
                .policy(per_client(export))
                .hold(Duration::from_secs(2)),
        )
        .build()?;
    let levels = limiter.clone();
    let metrics = async move || {
        levels.update_gauges();
        prometheus.render()
    };
    let rate_limit = RateLimitLayer::new(limiter);
    let rate_limits = rate_limit.limits_route(|limits| limits.title("Rate limits of the search"));
    Ok(Router::new()
        .route("/search", get(|| async { Json(json!({ "results": ["one", "two"] })) }))
        .route("/exports", post(|| async { Json(json!({ "rows": 2 })) }))
        .layer(rate_limit)
        .route("/rate-limits", rate_limits)
        // Outside of the limiter. In production, serve it on an address that callers cannot reach.
        .route("/metrics", get(metrics)))
}
