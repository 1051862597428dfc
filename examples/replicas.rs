//! Two servers that share one quota through Redis or Valkey.
//!
//! Run `redis-server` and `cargo run --release --features redis --example replicas`, then
//! `for port in 3000 3001 3000 3001 3000 3001; do curl -i http://127.0.0.1:$port/; done`: five
//! requests pass in all, whichever server gets them. Without Redis, each server counts by itself.
//!
//! Set `REDIS_URL` to the address of Redis, and `QUOTA_SECRET` to the output of
//! `openssl rand -hex 16`, the same for all servers.

mod common;

use std::{env, error::Error, net::SocketAddr};

use axum::{Router, routing::get};
use tokio::net::TcpListener;
use tower_quota::{
    Limiter, OnStoreFailure, Policy, Quota, RateLimitLayer, key::ClientIp, store::RedisStore,
};
use tracing_subscriber::filter::LevelFilter;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(LevelFilter::INFO).init();
    let redis = env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379/".to_owned());
    let secret = common::shared_secret()?;
    let port = env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let port: u16 = port.parse().map_err(|_| format!("PORT is `{port}`; write 0 to 65534"))?;
    // As on two machines: the servers share nothing but Redis.
    let first = serve(port, app("first", &redis, secret)?);
    let second = serve(if port == 0 { 0 } else { port + 1 }, app("second", &redis, secret)?);
    tokio::try_join!(first, second)?;
    Ok(())
}

/// One replica. All of them together admit 5 requests a minute for each address.
fn app(name: &'static str, redis: &str, secret: u128) -> Result<Router, Box<dyn Error>> {
    let per_client = Policy::sliding_window("per client", Quota::per_minute(5))
        .key(ClientIp::new())
        .or_refuse()
        .on_store_failure(OnStoreFailure::CountLocally { replicas: 2 });
    let store = RedisStore::builder(redis).secret(secret).build()?;
    let limiter = Limiter::builder().policy(per_client).store(store).build()?;
    let rate_limit = RateLimitLayer::new(limiter);
    let rate_limits = rate_limit.limits_route(|limits| limits);
    Ok(Router::new()
        .route("/", get(move || async move { format!("hello from the {name}\n") }))
        .layer(rate_limit)
        .route("/rate-limits", rate_limits))
}

async fn serve(port: u16, app: Router) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    Ok(axum::serve(listener, app).with_graceful_shutdown(stop).await?)
}
