//! A Redis server that is slow, absent, stopped or lost: what requests wait, and how soon it heals.
#![cfg(feature = "redis")]

#[path = "common/redis/mod.rs"]
mod harness;

use std::time::{Duration, Instant};

use harness::{Cluster, PATIENCE, Proxy, Server};
use tower_quota::{
    Decision, Limiter, OnStoreFailure, Policy, Quota, Reason,
    store::{RedisStore, RedisStoreBuilder},
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

fn limiter(store: RedisStoreBuilder, then: OnStoreFailure) -> Limiter {
    let policy = Policy::token_bucket("p", Quota::per_hour(1_000)).on_store_failure(then);
    let store = store.secret(SECRET).build().unwrap();
    Limiter::builder().direct(policy).store(store).build().unwrap()
}

async fn ask(limiter: &Limiter) -> Decision {
    limiter.check("p", "k").await.unwrap()
}

fn is_counted(decision: &Decision) -> bool {
    decision.reason() != Some(Reason::StoreUnavailable)
}

/// How long it takes until the server decides again.
async fn heals(limiter: &Limiter) -> Duration {
    let start = Instant::now();
    while !is_counted(&ask(limiter).await) {
        assert!(start.elapsed() < PATIENCE, "it does not heal");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn the_server_counts() {
    let server = Server::start();
    let limiter = limiter(RedisStore::builder(server.url()), OnStoreFailure::Refuse);
    for left in [999, 998] {
        assert_eq!(ask(&limiter).await.outcomes()[0].remaining(), left);
    }
    limiter.reset("p", "k").await.unwrap();
    assert_eq!(limiter.peek("p", "k").await.unwrap().outcomes()[0].remaining(), 1_000);
    assert!(server.keys().iter().all(|key| key.starts_with("tower-quota:")));
}

#[tokio::test]
async fn a_server_that_is_absent_at_the_start_is_found_later() {
    let server = Server::start();
    server.kill();
    let limiter = limiter(RedisStore::builder(server.url()), OnStoreFailure::Refuse);
    assert!(!is_counted(&ask(&limiter).await));
    server.restart();
    heals(&limiter).await;
}

#[tokio::test]
async fn a_dead_server_costs_requests_nothing() {
    let server = Server::start();
    let limiter = limiter(RedisStore::builder(server.url()), OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    server.pause();
    let mut waited = Vec::new();
    for _ in 0..1_000 {
        let start = Instant::now();
        assert!(!is_counted(&ask(&limiter).await));
        waited.push(start.elapsed());
    }
    let slow = waited.iter().filter(|waited| **waited >= Duration::from_millis(40)).count();
    assert_eq!(slow, 3, "of which each costs one time-out");
    server.resume();
    heals(&limiter).await;
    server.kill();
    assert!(!is_counted(&ask(&limiter).await));
    server.restart();
    heals(&limiter).await;
}

#[tokio::test]
async fn a_lost_reply_is_not_asked_for_twice() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let limiter = limiter(RedisStore::builder(proxy.url()), OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    proxy.lose_replies("EVALSHA", 1);
    assert!(!is_counted(&ask(&limiter).await));
    heals(&limiter).await;
    let left = ask(&limiter).await.outcomes()[0].remaining();
    assert_eq!(left, 1_000 - 4, "one that was answered, one that was not, and two since");
}

#[tokio::test]
async fn a_cluster_counts_and_goes_on_without_a_master() {
    let cluster = Cluster::start();
    let limiter = limiter(RedisStore::cluster(cluster.urls()), OnStoreFailure::Refuse);
    for _ in 0..3 {
        for key in 0..50_u64 {
            assert!(is_counted(&limiter.check("p", key).await.unwrap()));
        }
    }
    cluster.nodes()[0].pause();
    let mut counted = 0;
    for _ in 0..30 {
        for key in 0..50_u64 {
            counted += u64::from(is_counted(&limiter.check("p", key).await.unwrap()));
        }
    }
    assert!((600..1_300).contains(&counted), "{counted} of 1,500 were counted");
    cluster.nodes()[0].resume();
    let start = Instant::now();
    loop {
        let mut all = true;
        for key in 0..50_u64 {
            all &= is_counted(&limiter.check("p", key).await.unwrap());
        }
        if all {
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it does not heal");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
