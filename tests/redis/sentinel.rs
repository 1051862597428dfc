//! A store that finds its master by Sentinels.
#![cfg(feature = "redis")]

use common::redis::{PATIENCE, Sentinel, Server};
use redis::{
    ConnectionAddr,
    sentinel::{SentinelClientBuilder, SentinelServerType},
};
use tower_quota::{Limiter, OnStoreFailure, Policy, Quota, Reason, store::RedisStore};

use crate::{outage::until, store::documented_rules};

/// A limiter that asks the Sentinels in this order.
fn limiter(sentinels: [u16; 2]) -> Limiter {
    let sentinels = sentinels.map(|port| ConnectionAddr::Tcp("127.0.0.1".into(), port));
    let client =
        SentinelClientBuilder::new(sentinels, Sentinel::MASTER, SentinelServerType::Master)
            .unwrap()
            .set_client_to_redis_username("quota")
            .set_client_to_redis_password("password")
            .build()
            .unwrap();
    let store = RedisStore::sentinel_builder(client);
    let store = store.response_timeout(PATIENCE).decision_timeout(PATIENCE);
    let policy = Policy::sliding_window("p", Quota::per_hour(1_000));
    Limiter::builder()
        .check_only(policy.on_store_failure(OnStoreFailure::Refuse))
        .store(store.secret(1).build().unwrap())
        .build()
        .unwrap()
}

/// A server with the documented user.
fn server(options: &[&str]) -> Server {
    let mut all = vec!["--user"];
    all.extend(documented_rules());
    all.extend(options);
    Server::start_with(&all)
}

/// The units that are left, if the master has counted one.
async fn count(limiter: &Limiter) -> Option<u64> {
    let decision = limiter.check("p", "k").await.unwrap();
    let is_counted = decision.reason() != Some(Reason::StoreUnavailable);
    is_counted.then(|| decision.outcomes().next().unwrap().remaining())
}

/// The old master is killed, or becomes a replica. The first Sentinel never answers: then the store asks the second.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_fail_over_the_new_master_counts() {
    for is_killed in [true, false] {
        let (master, silent) = (server(&[]), Server::start());
        silent.pause();
        let port = master.port().to_string();
        let replica = server(&["--replicaof", "127.0.0.1", &port]);
        let sentinel = Sentinel::watch(&master, 1);
        let limiter = limiter([silent.port(), sentinel.port()]);

        assert_eq!(count(&limiter).await, Some(999));
        assert_eq!((master.calls("evalsha") > 0, replica.calls("evalsha")), (true, 0));
        let replicated = async || replica.keys().len() == master.keys().len();
        until("the replica to have the count", replicated).await;

        if is_killed {
            master.kill();
        } else {
            sentinel.fail_over();
        }
        let is_over = async || sentinel.master() == replica.port();
        until("the Sentinel to name the replica", is_over).await;
        let mut left = None;
        let counts = async || {
            left = count(&limiter).await;
            left.is_some() && replica.calls("evalsha") > 0
        };
        until("the new master to count", counts).await;
        // The new master has the count that was replicated.
        assert!(left.unwrap() < 999, "{left:?} left");
    }
}

#[tokio::test]
async fn a_master_that_no_sentinel_knows_is_an_outage() {
    let server = Server::start();
    // It is no Sentinel.
    let limiter = limiter([server.port(), server.port()]);
    assert_eq!(count(&limiter).await, None);
    assert_eq!(server.keys(), Vec::<String>::new());
}
