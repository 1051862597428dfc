//! Reservations that Redis counts, for all replicas.
#![cfg(feature = "redis")]

use std::time::Duration;

use common::redis::{Cluster, PATIENCE, Server};
use tower_quota::{
    AcquireError, CheckError, Limiter, LimiterBuilder, Policy, Quota, Reason,
    store::{RedisStore, RedisStoreBuilder},
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

fn limiter(store: RedisStoreBuilder) -> Limiter {
    let store = store.connect_timeout(PATIENCE).response_timeout(PATIENCE);
    let store = store.decision_timeout(PATIENCE).secret(SECRET);
    let policies = [
        Policy::token_bucket("tokens", Quota::per_day(10_000)),
        Policy::sliding_window("requests", Quota::per_day(3)),
    ];
    let builder = policies.into_iter().fold(Limiter::builder(), LimiterBuilder::check_only);
    builder.store(store.build().unwrap()).build().unwrap()
}

async fn left(limiter: &Limiter) -> (u64, u64) {
    let left = async |policy| limiter.peek(policy, "k").await.unwrap().remaining();
    (left("tokens").await, left("requests").await)
}

/// Waits until a correction that nobody awaits has been made.
async fn until_left(limiter: &Limiter, expected: (u64, u64)) {
    let is_made = async {
        while left(limiter).await != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let made = tokio::time::timeout(Duration::from_secs(20), is_made).await;
    assert!(made.is_ok(), "{:?} are left instead of {expected:?}", left(limiter).await);
}

#[tokio::test]
async fn a_correction_takes_nothing_off_uses_since_a_reset() {
    let server = Server::start();
    let builder = || {
        let store = RedisStore::builder(server.url()).connect_timeout(PATIENCE);
        let store = store.response_timeout(PATIENCE).decision_timeout(PATIENCE).secret(SECRET);
        Limiter::builder().store(store.build().unwrap())
    };
    let pause = Duration::from_millis(1);
    common::resets::take_nothing_off_later_uses(builder, 0..4, pause).await;
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test]
async fn what_is_dropped_or_committed_on_one_replica_is_seen_by_the_others() {
    let server = Server::start();
    let (here, there) =
        (limiter(RedisStore::builder(server.url())), limiter(RedisStore::builder(server.url())));
    let reserve = || here.reserve(["tokens", "requests"], "k").cost("tokens", 4_000);
    assert!(matches!(reserve().at_once(), Err(AcquireError::Check(CheckError::WouldWait))));
    let (first, second) = (reserve().await.unwrap(), reserve().await.unwrap());
    assert_eq!(left(&there).await, (2_000, 1));
    let Err(AcquireError::Refused(refused)) =
        there.reserve(["requests", "tokens"], "k").cost("tokens", 4_000).await
    else {
        panic!("4,000 are not left");
    };
    assert_eq!(refused.reason(), Some(Reason::QuotaExceeded));
    assert_eq!(left(&there).await, (2_000, 1), "nothing of it was charged");

    drop(first);
    until_left(&there, (6_000, 2)).await;
    // The refusal is not remembered, as units that are reserved may come back.
    let third = there.reserve(["requests", "tokens"], "k").cost("tokens", 5_000).await.unwrap();
    let committed = third.commit([("tokens", 5_500)]).await.unwrap();
    assert_eq!(committed.outcome("tokens").unwrap().remaining(), 500);
    // In a thread that has no runtime, nobody can ask Redis.
    std::thread::spawn(|| drop(second)).join().unwrap();
    assert_eq!(left(&there).await, (500, 1));
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test]
async fn a_panic_and_a_task_that_is_aborted_give_back() {
    let server = Server::start();
    let limiter = limiter(RedisStore::builder(server.url()));
    let reserve = |limiter: Limiter| async move {
        limiter.reserve(["tokens", "requests"], "k").cost("tokens", 4_000).await.unwrap()
    };
    let of_task = limiter.clone();
    let panics = tokio::spawn(async move {
        let reservation = reserve(of_task).await;
        assert_eq!(reservation.reserved("tokens"), 0, "on purpose");
    });
    assert!(panics.await.unwrap_err().is_panic());
    until_left(&limiter, (10_000, 3)).await;
    let (of_task, (reserved, is_reserved)) = (limiter.clone(), tokio::sync::oneshot::channel());
    let aborted = tokio::spawn(async move {
        let _reservation = reserve(of_task).await;
        reserved.send(()).unwrap();
        std::future::pending::<()>().await;
    });
    is_reserved.await.unwrap();
    assert_eq!(left(&limiter).await, (6_000, 2));
    aborted.abort();
    until_left(&limiter, (10_000, 3)).await;
}

#[tokio::test]
async fn two_servers_of_a_cluster_are_charged_both_or_none_and_both_corrected() {
    let cluster = Cluster::start();
    let limiter = limiter(RedisStore::cluster_builder(cluster.urls()));
    // Keys that are on different servers, sooner or later.
    for number in 0..8_u64 {
        let (org, user) = (format!("org {number}"), format!("user {number}"));
        let reserve = || {
            let reserve = limiter.reserve(["tokens", "requests"], &*user);
            reserve.key("tokens", &*org).cost("tokens", 4_000).cost("requests", 2)
        };
        let left = async || {
            let tokens = limiter.peek("tokens", &*org).await.unwrap().remaining();
            (tokens, limiter.peek("requests", &*user).await.unwrap().remaining())
        };
        let reservation = reserve().await.unwrap();
        assert_eq!(left().await, (6_000, 1));
        assert!(matches!(reserve().await, Err(AcquireError::Refused(_))));
        assert_eq!(left().await, (6_000, 1), "refused by one, charged by none");
        let _ = reservation.commit([("tokens", 100), ("requests", 0)]).await.unwrap();
        assert_eq!(left().await, (9_900, 3));
    }
}
