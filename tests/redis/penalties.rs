//! Penalties that replicas share through Redis.
#![cfg(feature = "redis")]

use std::time::Duration;

use common::redis::{PATIENCE, Server};
use http::{Request, request::Parts};
use tokio::time::sleep;
use tower_quota::{
    Decision, Limiter, LimiterBuilder, Penalty, Policy, Quota, Reason, key::header,
    store::RedisStore,
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const MINUTE: Duration = Duration::from_secs(60);

/// A replica, which has its own connection. Three refusals within a minute block.
fn replica(server: &Server, block: Duration) -> Limiter {
    let store = RedisStore::builder(server.url()).secret(SECRET);
    let store =
        store.connect_timeout(PATIENCE).response_timeout(PATIENCE).decision_timeout(PATIENCE);
    let penalty = Penalty::after(3).refusals_within(MINUTE).block(block).then(2 * block);
    let reads = Policy::fixed_window("read", Quota::per_day(2)).key(header("x-key")).or_skip();
    let limiter = Limiter::builder().policy(reads.penalty(penalty)).caller(header("x-key"));
    limiter.store(store.build().unwrap()).build().unwrap()
}

fn request(key: &str) -> Parts {
    Request::get("/").header("x-key", key).body(()).unwrap().into_parts().0
}

async fn decide(limiter: &Limiter) -> Decision {
    limiter.decide(&request("a")).await
}

fn block(decision: &Decision) -> Option<Duration> {
    decision.outcome("read")?.blocked_for()
}

#[tokio::test]
async fn a_block_that_begins_on_one_replica_holds_on_all_at_once() {
    let server = Server::start();
    let replicas = [(); 3].map(|()| replica(&server, MINUTE));
    let [a, b, c] = &replicas;
    for limiter in [a, b] {
        assert!(decide(limiter).await.is_allowed());
    }
    // Each refuses once, by what the server says or by what it remembers. Together these are three.
    for limiter in [a, b] {
        assert_eq!(decide(limiter).await.reason(), Some(Reason::QuotaExceeded));
    }
    let third = decide(c).await;
    assert_eq!(third.reason(), Some(Reason::Penalty), "the third one tells the block");
    // It counts from the decision, which was made before the refusal was counted.
    assert!(block(&third).is_some_and(|block| block > MINUTE / 2));
    for limiter in &replicas {
        let refused = decide(limiter).await;
        assert_eq!(refused.reason(), Some(Reason::Penalty));
        let left = block(&refused).unwrap();
        // Between a replica's clock and the server's, there is what a round trip takes.
        assert!(left > MINUTE / 2 && left <= MINUTE + PATIENCE, "{left:?}");
    }
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());

    // From the next request on, where it is lifted.
    let caller = a.overrides().caller("a").unwrap();
    caller.unblock().await.unwrap();
    let refused = decide(a).await;
    assert_eq!((refused.reason(), block(&refused)), (Some(Reason::QuotaExceeded), None));
    assert_eq!(a.reset("read", "a").await.unwrap().remaining(), 2);
    assert!(decide(a).await.is_allowed());
}

#[tokio::test]
async fn a_block_survives_a_new_process_and_the_next_one_is_longer() {
    let server = Server::start();
    let short = Duration::from_millis(300);
    for refusals in [5, 3] {
        let limiter = replica(&server, short);
        for _ in 0..refusals {
            let _ = decide(&limiter).await;
        }
        let refused = decide(&replica(&server, short)).await;
        let longest = if refusals == 5 { short } else { 2 * short };
        // A busy machine may have slept for the whole block.
        assert!(block(&refused).is_none_or(|block| block <= longest), "{refused:?}");
        sleep(longest).await;
        assert!(block(&decide(&limiter).await).is_none_or(|block| block > short));
    }
}

#[tokio::test]
async fn a_penalty_takes_no_round_trip_from_what_passes_and_few_from_a_flood() {
    let server = Server::start();
    let limiter = replica(&server, MINUTE);
    assert!(decide(&limiter).await.is_allowed());
    let before = server.calls("evalsha");
    assert!(decide(&limiter).await.is_allowed());
    assert_eq!(server.calls("evalsha") - before, 1, "one round trip for a request that passes");
    for _ in 0..3 {
        assert!(!decide(&limiter).await.is_allowed());
    }
    // One charge that is refused, and each refusal counts.
    assert_eq!(server.calls("evalsha") - before, 1 + 1 + 3);
    for _ in 0..500 {
        assert_eq!(decide(&limiter).await.reason(), Some(Reason::Penalty));
    }
    let asked = server.calls("evalsha") - before - 5;
    // A refusal is remembered for a short time only.
    assert!(asked <= 30, "{asked} round trips for 500 requests of a blocked key");
}

/// A builder with a store of its own.
fn shared(server: &Server) -> LimiterBuilder {
    let store = RedisStore::builder(server.url()).secret(SECRET).connect_timeout(PATIENCE);
    let store = store.response_timeout(PATIENCE).decision_timeout(PATIENCE);
    Limiter::builder().store(store.build().unwrap())
}

#[tokio::test]
async fn an_unlimited_quota_lifts_no_block_in_any_way_of_asking() {
    let server = Server::start();
    common::unlimited::stay_blocked_whatever_the_quota(|| shared(&server)).await;
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test]
async fn a_failure_that_is_known_at_the_end_counts_once() {
    let server = Server::start();
    common::failures::count_once_at_the_end(|| shared(&server)).await;
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}
