//! Replicas whose limits are replaced one after the other.
#![cfg(feature = "redis")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use common::redis::{PATIENCE, Server};
use tokio::task::JoinSet;
use tower_quota::{
    Limiter, LimiterBuilder, OnStoreFailure, Policy, Quota,
    store::RedisStore,
    warning::{Code, warnings},
};

const ALGORITHMS: [fn(&'static str, Quota) -> Policy; 3] = [
    |name, quota| Policy::token_bucket(name, quota),
    |name, quota| Policy::fixed_window(name, quota),
    |name, quota| Policy::sliding_window(name, quota),
];

/// A window that no test outlives, and that ends in none.
fn limits(algorithm: usize, name: &'static str, units: u64) -> LimiterBuilder {
    let quota = Quota::per_window(units, Duration::from_secs(100 * 365 * 86_400));
    let policy = ALGORITHMS[algorithm](name, quota).on_store_failure(OnStoreFailure::Refuse);
    Limiter::builder().check_only(policy)
}

fn replica(server: &Server, limits: LimiterBuilder) -> Limiter {
    let store = RedisStore::builder(server.url())
        .secret(7)
        .connect_timeout(PATIENCE)
        .response_timeout(PATIENCE)
        .decision_timeout(PATIENCE);
    limits.store(store.build().unwrap()).build().unwrap()
}

async fn passes(limiter: &Limiter, name: &str) -> bool {
    limiter.check(name, "k").await.unwrap().is_allowed()
}

/// Asks until nothing more passes; returns how much has passed.
async fn use_up(limiter: &Limiter, name: &str) -> u64 {
    let mut passed = 0;
    while passes(limiter, name).await {
        passed += 1;
    }
    passed
}

#[tokio::test]
async fn of_replicas_that_reload_one_after_the_other_no_more_passes_than_the_largest_quota() {
    let server = Server::start();
    for (algorithm, name) in ["bucket", "fixed", "sliding"].into_iter().enumerate() {
        let of = |units| limits(algorithm, name, units);
        let replicas = [replica(&server, of(100)), replica(&server, of(100))];
        let [first, second] = &replicas;
        let mut passed = 0;
        for _ in 0..30 {
            passed += u64::from(passes(first, name).await) + u64::from(passes(second, name).await);
        }
        assert_eq!(passed, 60, "{name}");
        // One replica has the larger quota already.
        first.apply(of(200)).unwrap();
        passed += use_up(second, name).await;
        assert_eq!(passed, 100, "{name}");
        passed += use_up(first, name).await;
        assert_eq!(passed, 200, "{name}");
        second.apply(of(200)).unwrap();
        assert_eq!(use_up(second, name).await, 0, "{name}: what was used is known to all");
        // One has the smaller one already: a unit that is given back is the larger quota's.
        first.apply(of(50)).unwrap();
        assert!(second.give_back(name, "k", 1).await.is_ok());
        assert_eq!(use_up(first, name).await, 0, "{name}");
        assert_eq!(use_up(second, name).await, 1, "{name}");
        second.apply(of(50)).unwrap();
        assert_eq!(use_up(first, name).await + use_up(second, name).await, 0, "{name}");
    }
    // Replicas that differ for a moment are no mistake.
    let given = warnings();
    let differs = given.iter().filter(|given| given.code() == Code::PolicyDiffers);
    let differs: Vec<_> = differs.map(|given| given.culprit()).collect();
    assert!(
        ["bucket", "fixed", "sliding"].iter().all(|name| !differs.contains(name)),
        "{differs:?}"
    );
}

/// Both reload while both are asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_load_no_more_passes_than_the_largest_quota() {
    let server = Server::start();
    let of = |units| limits(2, "busy", units);
    let replicas = [replica(&server, of(100)), replica(&server, of(100))];
    let (is_over, passed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut asking = JoinSet::new();
    for limiter in replicas.clone() {
        let (is_over, passed) = (Arc::clone(&is_over), Arc::clone(&passed));
        asking.spawn(async move {
            while !is_over.load(SeqCst) {
                passed.fetch_add(u64::from(passes(&limiter, "busy").await), SeqCst);
            }
        });
    }
    for units in [100, 200, 50].repeat(5) {
        for limiter in &replicas {
            limiter.apply(of(units)).unwrap();
            // So that some requests of both are between.
            let at = passed.load(SeqCst);
            for _ in 0..3 {
                passed.fetch_add(u64::from(passes(limiter, "busy").await), SeqCst);
            }
            assert!(passed.load(SeqCst) >= at);
        }
    }
    is_over.store(true, SeqCst);
    while asking.join_next().await.is_some() {}
    let [limiter, _] = &replicas;
    limiter.apply(of(200)).unwrap();
    passed.fetch_add(use_up(limiter, "busy").await, SeqCst);
    assert_eq!(passed.load(SeqCst), 200, "no more, and no count is lost");
}

#[tokio::test]
async fn a_policy_that_comes_back_has_its_counts_on_the_server() {
    let server = Server::start();
    let limiter = replica(&server, limits(1, "p", 10));
    for _ in 0..4 {
        assert!(passes(&limiter, "p").await);
    }
    limiter.apply(Limiter::builder()).unwrap();
    assert!(limiter.check("p", "k").await.is_err());
    limiter.apply(limits(1, "p", 10)).unwrap();
    assert_eq!(use_up(&limiter, "p").await, 6);
}
