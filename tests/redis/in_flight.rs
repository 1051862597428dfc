//! Units in flight that several replicas share, while servers and replicas fail.
//!
//! Time is real here, as it is the servers' clock that counts: no test can pause that. A pause lets
//! statements pass, or is work that holds a unit; no result depends on its length.

use std::time::{Duration, Instant};

#[cfg(feature = "axum")]
use common::endings::{each_way_gives_back_once, four_streams};
use common::{
    redis::{Cluster, Proxy, Server},
    until,
};
use tower_quota::{
    AcquireError, Limiter, OnStoreFailure, Permit, Policy, Reason,
    store::{RedisStore, RedisStoreBuilder},
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
/// After this long, the units of a replica that says no more are free.
const LASTS: Duration = Duration::from_secs(2);
/// A replica states what it holds so often.
const STATEMENT: Duration = Duration::from_millis(400);
/// How late a busy machine may be.
const LATE: Duration = Duration::from_secs(8);

/// So patient that a busy machine fails no request.
fn patient(builder: RedisStoreBuilder) -> RedisStoreBuilder {
    let (response, decision) = (Duration::from_secs(10), Duration::from_secs(20));
    builder.response_timeout(response).decision_timeout(decision).connect_timeout(response)
}

fn replica_of(store: RedisStoreBuilder, policy: Policy) -> Limiter {
    let store = store.secret(SECRET).in_flight_timeout(LASTS).build().unwrap();
    let policy = policy.on_store_failure(OnStoreFailure::Refuse);
    Limiter::builder().check_only(policy).store(store).build().unwrap()
}

fn replica(url: String) -> Limiter {
    replica_of(patient(RedisStore::builder(url)), Policy::in_flight("p", 4))
}

async fn enter(limiter: &Limiter) -> Option<Permit> {
    match limiter.policy("p").unwrap().enter("k").await {
        Ok(permit) => Some(permit),
        Err(AcquireError::Refused(decision)) => {
            assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn enter_times(limiter: &Limiter, times: usize) -> Vec<Permit> {
    let mut permits = Vec::new();
    for _ in 0..times {
        permits.push(enter(limiter).await.expect("there are units"));
    }
    permits
}

/// `None`: the server does not answer.
async fn left(limiter: &Limiter) -> Option<u64> {
    limiter.peek("p", "k").await.unwrap().outcome("p").map(|outcome| outcome.remaining())
}

/// Waits until so many are left, and returns how long that took.
async fn comes_to_leave(limiter: &Limiter, units: u64) -> Duration {
    let began = Instant::now();
    let is_so = async || Ok((left(limiter).await == Some(units)).then_some(()));
    if until(is_so).await.is_err() {
        panic!("{:?} are left, and not {units}", left(limiter).await);
    }
    began.elapsed()
}

#[cfg(feature = "axum")]
#[tokio::test(flavor = "multi_thread")]
async fn each_unit_comes_back_once_however_its_request_ends() {
    let server = Server::start();
    let store = patient(RedisStore::builder(server.url())).secret(SECRET).build().unwrap();
    let limiter = Limiter::builder().policy(four_streams()).store(store).build().unwrap();
    each_way_gives_back_once(&limiter).await;
    assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn three_replicas_hold_the_quota_together_for_as_long_as_they_live() {
    let (server, cluster) = (Server::start(), Cluster::start());
    let one = || replica(server.url());
    let clustered = || {
        replica_of(patient(RedisStore::cluster_builder(cluster.urls())), Policy::in_flight("p", 4))
    };
    for replicas in [[one(), one(), one()], [clustered(), clustered(), clustered()]] {
        let mut held = Vec::new();
        for replica in replicas.iter().cycle().take(4) {
            held.push(enter(replica).await.expect("four fit"));
        }
        // For longer than the units of a replica that says no more.
        let began = Instant::now();
        while began.elapsed() < 2 * LASTS {
            for replica in &replicas {
                assert!(enter(replica).await.is_none());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        for left in 1..=4 {
            drop(held.pop());
            comes_to_leave(&replicas[0], left).await;
        }
    }
    let says_nothing_of_keys = |key: &String| key.contains("policy:") || key.ends_with("secret");
    assert!(server.keys().iter().all(says_nothing_of_keys), "{:?}", server.keys());
}

/// A replica in a runtime of its own, which can be killed.
fn killed_while_it_holds(url: String, units: usize) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let limiter = replica(url);
        let permits = runtime.block_on(enter_times(&limiter, units));
        // Nothing is dropped in a process that is killed.
        std::mem::forget((permits, limiter));
        runtime.shutdown_background();
    })
    .join()
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_units_of_a_killed_replica_come_back_in_time_and_no_others() {
    let server = Server::start();
    let survivor = replica(server.url());
    let _held = enter(&survivor).await.unwrap();
    let began = Instant::now();
    killed_while_it_holds(server.url(), 3);
    assert!(enter(&survivor).await.is_none());
    comes_to_leave(&survivor, 3).await;
    let took = began.elapsed();
    assert!(LASTS <= took + Duration::from_millis(50) && took < LASTS + LATE, "{took:?}");
    tokio::time::sleep(LASTS).await;
    assert_eq!(left(&survivor).await, Some(3), "the survivor still holds its own");
}

/// What a partition, or a pause, does: the replica says no more, and its requests go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_was_cut_off_leads_to_no_more_than_it_holds() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let brief = RedisStore::builder(proxy.url())
        .response_timeout(Duration::from_millis(100))
        .decision_timeout(Duration::from_millis(200));
    let cut_off = replica_of(brief, Policy::in_flight("p", 4));
    let other = replica(server.url());
    let mut held = Vec::new();
    until(async || {
        held.extend(cut_off.policy("p").unwrap().enter("k").await.ok());
        Ok((held.len() == 3).then_some(()))
    })
    .await
    .unwrap();
    comes_to_leave(&other, 1).await;

    proxy.refuse_connections();
    proxy.drop_connections();
    comes_to_leave(&other, 4).await;
    let others = enter_times(&other, 4).await;
    assert!(enter(&other).await.is_none());
    assert!(cut_off.policy("p").unwrap().enter("k").await.is_err(), "the policy refuses then");

    // It is back, and states its three: nobody enters until they and others have ended.
    proxy.pass();
    drop(others);
    comes_to_leave(&other, 1).await;
    drop(held);
    comes_to_leave(&other, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_has_lost_is_counted_again_with_the_next_statement() {
    let server = Server::start();
    let replicas = [replica(server.url()), replica(server.url())];
    let held = [enter_times(&replicas[0], 2).await, enter_times(&replicas[1], 1).await];
    // As after a fail-over to a server that has not heard of them.
    server.kill();
    server.restart();
    let took = comes_to_leave(&replicas[1], 1).await;
    assert!(took < STATEMENT + LATE, "{took:?}");
    drop(held);
    comes_to_leave(&replicas[0], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_could_not_be_given_back_is_put_right_by_the_next_statement() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let replicas = [replica(proxy.url()), replica(server.url())];
    let mut held = enter_times(&replicas[0], 3).await;
    // The server does it, or does not: the replica cannot know.
    proxy.lose_replies("EVALSHA", 1);
    drop(held.pop());
    comes_to_leave(&replicas[1], 2).await;
    proxy.drop_connections();
    drop(held.pop());
    comes_to_leave(&replicas[1], 3).await;
    // Nor is any of them given back twice.
    tokio::time::sleep(2 * STATEMENT).await;
    assert_eq!(left(&replicas[1]).await, Some(3));
    drop(held);
    comes_to_leave(&replicas[1], 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permit_gives_back_where_there_is_no_runtime() {
    let server = Server::start();
    let limiter = replica(server.url());
    let held = enter_times(&limiter, 2).await;
    std::thread::spawn(move || drop(held)).join().unwrap();
    comes_to_leave(&limiter, 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_enters_when_another_replica_gives_back() {
    let server = Server::start();
    let policy = || Policy::in_flight("p", 1).hold(Duration::from_secs(60));
    let new = || replica_of(patient(RedisStore::builder(server.url())), policy());
    let (first, second) = (new(), new());
    let held = enter(&first).await.unwrap();
    let waits = tokio::spawn(async move { enter(&second).await.is_some() });
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waits.is_finished());
    drop(held);
    let entered = tokio::time::timeout(LATE, waits).await.expect("it asks again").unwrap();
    assert!(entered);
}

/// Charges and units that come back cross with statements, on three replicas.
#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_never_hold_more_than_the_quota_and_leave_nothing() {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    let server = Server::start();
    let held = Arc::new(AtomicU64::new(0));
    let until = Instant::now() + 3 * LASTS;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let limiter = replica(server.url());
        for _ in 0..4 {
            let (limiter, held) = (limiter.clone(), Arc::clone(&held));
            tasks.spawn(async move {
                let mut entered = 0_u64;
                while Instant::now() < until {
                    if let Some(permit) = enter(&limiter).await {
                        assert!(held.fetch_add(1, SeqCst) < 4, "more than four at once");
                        tokio::time::sleep(Duration::from_micros(300)).await;
                        held.fetch_sub(1, SeqCst);
                        drop(permit);
                        entered += 1;
                    }
                }
                entered
            });
        }
    }
    let entered: u64 = tasks.join_all().await.into_iter().sum();
    assert!(entered > 100, "{entered}");
    comes_to_leave(&replica(server.url()), 4).await;
}

/// At each statement, charges are under way that are refused. They are not held.
#[tokio::test(flavor = "multi_thread")]
async fn callers_who_try_again_without_a_pause_are_not_locked_out() {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    };

    let server = Server::start();
    let limiter = replica(server.url());
    let (held, entered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let (limiter, held, entered) = (limiter.clone(), Arc::clone(&held), Arc::clone(&entered));
        callers.spawn(async move {
            loop {
                if let Some(permit) = enter(&limiter).await {
                    assert!(held.fetch_add(1, SeqCst) < 4, "more than four at once");
                    tokio::time::sleep(Duration::from_millis(2)).await;
                    held.fetch_sub(1, SeqCst);
                    drop(permit);
                    entered.fetch_add(1, SeqCst);
                }
            }
        });
    }
    // As long as 20 statements, and however slow the machine is: callers that are locked out stay so.
    let began = Instant::now();
    while began.elapsed() < 20 * STATEMENT {
        let before = entered.load(SeqCst);
        let more = async || Ok((entered.load(SeqCst) > before + 4).then_some(()));
        until(more).await.expect("callers enter again and again");
    }
    assert!(callers.try_join_next().is_none(), "nobody panics");
    callers.shutdown().await;
    comes_to_leave(&limiter, 4).await;
}

/// A runtime of its own in which a unit was taken, and with it the task that states what is held.
fn begun_elsewhere(limiter: &Limiter) -> (tokio::runtime::Runtime, Permit) {
    let limiter = limiter.clone();
    let begun = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let permit = runtime.block_on(enter(&limiter)).unwrap();
        (runtime, permit)
    });
    begun.join().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_runtime_holds_is_stated_after_another_has_ended() {
    // Whichever was the last that took a unit.
    for is_last in [false, true] {
        let server = Server::start();
        let limiter = replica(server.url());
        let (runtime, first) = begun_elsewhere(&limiter);
        let held = enter_times(&limiter, 2).await;
        if is_last {
            let limiter = limiter.clone();
            drop(runtime.spawn(async move { enter(&limiter).await }).await.unwrap().unwrap());
        }
        runtime.shutdown_background();
        tokio::time::sleep(2 * LASTS).await;
        assert_eq!(left(&replica(server.url())).await, Some(1), "three are held");
        drop((first, held));
        comes_to_leave(&limiter, 4).await;
    }
}
