//! Units in flight whose commands were lost, while callers ask for their keys without a pause: something
//! is under way at each statement, and the server's count is put right all the same.
//!
//! Time is real here, as in the tests of `in_flight.rs`.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use common::{
    redis::{Proxy, Server},
    until,
};
use tokio::task::JoinSet;
use tower_quota::{
    Limiter, OnStoreFailure, Permit, Policy,
    store::{RedisStore, RedisStoreBuilder},
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const UNITS: u64 = 4;
const LASTS: Duration = Duration::from_secs(2);
const STATEMENT: Duration = Duration::from_millis(400);
/// How late a busy machine may be.
const LATE: Duration = Duration::from_secs(8);

/// A server that is gone is noticed at once.
fn replica(store: RedisStoreBuilder) -> Limiter {
    let time = Duration::from_secs(5);
    let store = store.response_timeout(time).decision_timeout(time).in_flight_timeout(LASTS);
    let policy = Policy::in_flight("p", UNITS).on_store_failure(OnStoreFailure::Refuse);
    let store = store.secret(SECRET).build().unwrap();
    Limiter::builder().check_only(policy).store(store).build().unwrap()
}

async fn enter(limiter: &Limiter, key: &str) -> Option<Permit> {
    limiter.policy("p").unwrap().enter(key).await.ok()
}

/// A caller that takes a unit of the key again and again, and passes each to a closure.
fn hammer(
    callers: &mut JoinSet<()>,
    limiter: &Limiter,
    key: &str,
    with: impl Fn(Permit) + Send + 'static,
) {
    let (limiter, key, began) = (limiter.clone(), key.to_owned(), Instant::now());
    callers.spawn(async move {
        while began.elapsed() < Duration::from_secs(60) {
            enter(&limiter, &key).await.into_iter().for_each(&with);
            tokio::task::yield_now().await;
        }
    });
}

async fn left(limiter: &Limiter, key: &str) -> Option<u64> {
    limiter.peek("p", key).await.unwrap().outcome("p").map(|outcome| outcome.remaining())
}

#[tokio::test(flavor = "multi_thread")]
async fn units_that_could_not_be_given_back_come_back_while_requests_never_pause() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let limiter = replica(RedisStore::builder(proxy.url()));
    let mut held = Vec::new();
    for _ in 0..UNITS {
        held.push(enter(&limiter, "k").await.expect("there are units"));
    }
    proxy.refuse_connections();
    proxy.drop_connections();
    drop(held);
    let (mut callers, taken) = (JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
    // At each statement, more charges are under way than there are units. A caller that gets one keeps it.
    for _ in 0..4 * UNITS {
        let taken = Arc::clone(&taken);
        hammer(&mut callers, &limiter, "k", move |permit| taken.lock().unwrap().push(permit));
    }
    let watcher = replica(RedisStore::builder(server.url()));
    assert_eq!(left(&watcher, "k").await, Some(0), "the server was not told");
    proxy.pass();
    let began = Instant::now();
    let are_taken = async || Ok((taken.lock().unwrap().len() as u64 == UNITS).then_some(()));
    until(are_taken).await.expect("all units come back");
    let took = began.elapsed();
    assert!(took < STATEMENT + LATE, "{took:?}");
    callers.shutdown().await;
    taken.lock().unwrap().clear();
    until(async || Ok((left(&watcher, "k").await == Some(UNITS)).then_some(()))).await.unwrap();
}

/// Several commands state what is held. Charges that come between two of them are no reason to leave
/// the second one out.
#[tokio::test(flavor = "multi_thread")]
async fn units_that_a_server_has_lost_are_counted_again_while_requests_never_pause() {
    let server = Server::start();
    let limiter = replica(RedisStore::builder(server.url()));
    let keys: Vec<_> = (0..64 + 16).map(|key| key.to_string()).collect();
    let mut held = Vec::new();
    for key in &keys {
        for _ in 0..UNITS {
            held.push(enter(&limiter, key).await.expect("there are units"));
        }
    }
    server.kill();
    server.restart();
    let (mut callers, watcher) = (JoinSet::new(), replica(RedisStore::builder(server.url())));
    let began = Instant::now();
    for key in keys.iter().chain(&keys) {
        hammer(&mut callers, &limiter, key, drop);
    }
    let mut watched = JoinSet::new();
    for key in keys {
        let watcher = watcher.clone();
        watched.spawn(async move {
            while left(&watcher, &key).await != Some(0) {
                assert!(began.elapsed() < STATEMENT + LATE, "the units are counted again");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    watched.join_all().await;
    callers.shutdown().await;
}
