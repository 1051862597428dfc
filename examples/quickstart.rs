//! 60 requests a minute for each client address, with a burst of 10.

use std::net::SocketAddr;

use axum::{Router, routing::get};
use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let per_client = Policy::token_bucket("per client", Quota::per_minute(60).burst(10))
        .key(ClientIp::new()) // behind a load balancer: .trust_proxies(["10.0.0.0/8"])
        .or_refuse();
    let rate_limit = RateLimitLayer::new(Limiter::builder().policy(per_client).build()?);
    let rate_limits = rate_limit.limits_route(|limits| limits); // the limits, for callers

    let app = Router::new()
        .route("/", get(|| async { "hello\n" }))
        .layer(rate_limit)
        .route("/rate-limits", rate_limits)
        .into_make_service_with_connect_info::<SocketAddr>();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("listening on http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
