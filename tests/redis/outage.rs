//! A Redis server that is slow, absent, stopped or lost: how long requests wait, and how soon it heals.
#![cfg(feature = "redis")]

use std::{
    future::{Future, IntoFuture},
    time::{Duration, Instant},
};

use common::redis::{Cluster, PATIENCE, Proxy, Server};
use tokio::task::JoinSet;
use tower_quota::{
    Algorithm, Clock, Decision, Limiter, OnStoreFailure, Policy, Quota, Reason,
    store::{Change, Charge, Correction, RedisStore, RedisStoreBuilder, Store},
    warning::Code,
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;

/// On a busy machine, too.
fn patient(store: RedisStoreBuilder) -> RedisStoreBuilder {
    store.connect_timeout(PATIENCE).response_timeout(PATIENCE).decision_timeout(PATIENCE)
}

fn limiter(store: RedisStoreBuilder, then: OnStoreFailure) -> Limiter {
    let policy = Policy::token_bucket("p", Quota::per_hour(1_000)).on_store_failure(then);
    let store = store.secret(SECRET).build().unwrap();
    Limiter::builder().check_only(policy).store(store).build().unwrap()
}

async fn ask(limiter: &Limiter) -> Decision {
    limiter.check("p", "k").await.unwrap()
}

fn is_counted(decision: &Decision) -> bool {
    decision.reason() != Some(Reason::StoreUnavailable)
}

/// Looks every 2 ms until it is so: the servers are real, and so is the time.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Waits until the server decides again.
async fn heals(limiter: &Limiter) {
    until("the server to decide", async || is_counted(&ask(limiter).await)).await;
}

#[tokio::test]
async fn the_server_counts() {
    let server = Server::start();
    let limiter = limiter(patient(RedisStore::builder(server.url())), OnStoreFailure::Refuse);
    for left in [999, 998] {
        assert_eq!(ask(&limiter).await.outcomes().next().unwrap().remaining(), left);
    }
    let _ = limiter.reset("p", "k").await.unwrap();
    assert_eq!(limiter.peek("p", "k").await.unwrap().outcomes().next().unwrap().remaining(), 1_000);
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
async fn a_correction_that_a_dead_server_does_not_make_is_an_error_and_no_panic() {
    let server = Server::start();
    let store = RedisStore::builder(server.url()).secret(SECRET).build().unwrap();
    server.kill();
    let charge = Charge::new(1, 1, Algorithm::TokenBucket, Quota::per_hour(1_000));
    for change in [Change::GiveBack(1), Change::Take(1), Change::Reset] {
        let correction = Correction::new(charge, change);
        let error = store.correct(&[correction], Clock::system().now()).await.unwrap_err();
        // The text that a task that has panicked leaves.
        assert_ne!(error.to_string(), "the tokio runtime has ended");
    }
}

#[tokio::test]
async fn a_dead_server_costs_requests_nothing() {
    let server = Server::start();
    let timeout = Duration::from_millis(300);
    let store = RedisStore::builder(server.url()).response_timeout(timeout);
    let limiter = limiter(store.decision_timeout(2 * timeout), OnStoreFailure::Refuse);
    heals(&limiter).await;
    server.pause();
    let mut waited = Vec::new();
    for _ in 0..1_000 {
        let start = Instant::now();
        assert!(!is_counted(&ask(&limiter).await));
        waited.push(start.elapsed());
    }
    let slow = waited.iter().filter(|waited| **waited >= timeout).count();
    assert!((1..=3).contains(&slow), "{slow} requests cost a time-out each");
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
    let limiter = limiter(patient(RedisStore::builder(proxy.url())), OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    proxy.lose_replies("EVALSHA", 1);
    assert!(!is_counted(&ask(&limiter).await));
    heals(&limiter).await;
    let left = ask(&limiter).await.outcomes().next().unwrap().remaining();
    assert_eq!(left, 1_000 - 4, "one that was answered, one that was not, and two since");
}

#[tokio::test]
async fn a_cluster_counts_and_goes_on_without_a_master() {
    let cluster = Cluster::start();
    let limiter = limiter(RedisStore::cluster_builder(cluster.urls()), OnStoreFailure::Refuse);
    all_are_counted(&limiter).await;
    cluster.nodes()[0].pause();
    let mut counted = 0;
    for _ in 0..30 {
        counted += count_fifty(&limiter).await;
    }
    assert!((300..1_300).contains(&counted), "{counted} of 1,500 were counted");
    cluster.nodes()[0].resume();
    all_are_counted(&limiter).await;
}

/// Asks for fifty keys, on all servers of a cluster, and returns how many the servers counted.
async fn count_fifty(limiter: &Limiter) -> u64 {
    let mut counted = 0;
    for key in 0..50_u64 {
        counted += u64::from(is_counted(&limiter.check("p", key).await.unwrap()));
    }
    counted
}

async fn all_are_counted(limiter: &Limiter) {
    until("all servers to decide", async || count_fifty(limiter).await == 50).await;
}

/// The probe passes and requests fail, as where a user may write the probe's key alone.
#[tokio::test]
async fn a_server_that_fails_again_at_once_is_probed_less_and_less() {
    let user = "--user replica on nopass ~tower-quota:{AAAAAAAAAAA}* +@all";
    let server = Server::start_with(&user.split(' ').collect::<Vec<_>>());
    let proxy = Proxy::before(&server);
    let url = format!("redis://replica:any@127.0.0.1:{}/", proxy.port());
    let limiter = limiter(RedisStore::builder(url), OnStoreFailure::Refuse);
    let (start, mut asked) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(1) {
        assert!(!is_counted(&ask(&limiter).await));
        asked += 1;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let connections = proxy.connections();
    assert!((2..=8).contains(&connections), "{connections} connections, {asked} requests");
}

/// Its connection ends with the runtime that opened it.
#[test]
fn another_runtime_connects_anew() {
    let (server, cluster) = (Server::start(), Cluster::start());
    for store in [RedisStore::builder(server.url()), RedisStore::cluster_builder(cluster.urls())] {
        let limiter = limiter(store, OnStoreFailure::Refuse);
        for _ in 0..3 {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let first = runtime.block_on(async {
                heals(&limiter).await;
                ask(&limiter).await
            });
            assert!(is_counted(&first));
        }
    }
}

/// Those who waited for the connection give up before its first question to the server does.
#[tokio::test]
async fn a_connection_that_fails_when_it_opens_is_given_up_once() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    // Each of these times is so long that a busy machine does not matter.
    proxy.delay_replies(Duration::from_millis(35));
    let store = RedisStore::builder(proxy.url()).connect_timeout(Duration::from_millis(450));
    let store = store.response_timeout(Duration::from_millis(200));
    let store = store.decision_timeout(Duration::from_millis(250));
    let limiter = limiter(store, OnStoreFailure::Refuse);
    let waiting: Vec<_> = (0..5)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { ask(&limiter).await })
        })
        .collect();
    // The script is sent to be known, and then with the probe.
    until("the probe", async || server.calls("EVAL") > 0).await;
    proxy.swallow();
    for one in waiting {
        assert!(!is_counted(&one.await.unwrap()));
    }
    let start = Instant::now();
    let mut slow = 0;
    while start.elapsed() < Duration::from_millis(1_500) {
        let begun = Instant::now();
        assert!(!is_counted(&ask(&limiter).await));
        slow += u32::from(begun.elapsed() >= Duration::from_millis(150));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(slow <= 1, "{slow} requests wait though it is down");
}

/// What was carried out before its connection ended is not asked for once more: units would come
/// back that were never used.
#[tokio::test]
async fn a_cluster_is_not_asked_twice() {
    let cluster = Cluster::start();
    let patience = Duration::from_secs(2);
    let store = RedisStore::cluster_builder(cluster.urls()).response_timeout(patience);
    let limiter = limiter(store.decision_timeout(patience), OnStoreFailure::Refuse);
    let _ = limiter.check("p", "k").cost(100).await.unwrap();
    let counts = |node: &&Server| node.keys().iter().any(|key| !key.contains("{AAAAAAAAAAA}"));
    let node = cluster.nodes().iter().find(counts).unwrap();

    let kill = redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal"]).get_packed_command();
    const ROUNDS: u64 = 6;
    for _ in 0..ROUNDS {
        let mut others = node.connection();
        node.pause();
        let gives_back = {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.give_back("p", "k", 10).await.unwrap() })
        };
        // Mostly in this order: units are given back, and the connection ends before the reply.
        tokio::time::sleep(Duration::from_millis(20)).await;
        others.send_packed_command(&kill).unwrap();
        node.resume();
        let _ = gives_back.await.unwrap();
        heals(&limiter).await;
    }
    let left = limiter.peek("p", "k").await.unwrap().outcomes().next().unwrap().remaining();
    // At most ten for each time, of which one was used when it had healed. Of a thousand an hour, two
    // may have come back by themselves.
    assert!(left <= 900 + 9 * ROUNDS + 2, "{left} are left");
}

#[tokio::test]
async fn a_cluster_that_lacks_a_master_at_the_start_counts_on_the_others() {
    let cluster = Cluster::start();
    // It has the slot of the probe.
    cluster.nodes()[1].kill();
    let limiter = limiter(RedisStore::cluster_builder(cluster.urls()), OnStoreFailure::Refuse);
    let mut counted = 0;
    until("two servers to decide", async || {
        counted += count_fifty(&limiter).await;
        counted >= 20
    })
    .await;
}

#[test]
fn without_a_runtime_policies_decide_without_the_store() {
    let server = Server::start();
    let limiter = limiter(patient(RedisStore::builder(server.url())), OnStoreFailure::Refuse);
    let asked = std::pin::pin!(limiter.check("p", "k").into_future());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match asked.poll(&mut context) {
        std::task::Poll::Ready(Ok(decision)) => assert!(!is_counted(&decision)),
        _ => panic!("it is decided at once"),
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    assert!(is_counted(&runtime.block_on(ask(&limiter))));
}

/// All at once, each as a task: how many were admitted, and how many decided by the server.
async fn crowd(limiter: &Limiter, callers: usize) -> (usize, usize) {
    let ask = |_| {
        let limiter = limiter.clone();
        async move { ask(&limiter).await }
    };
    let decisions = (0..callers).map(ask).collect::<JoinSet<_>>().join_all().await;
    let allowed = decisions.iter().filter(|decision| decision.is_allowed()).count();
    (allowed, decisions.iter().filter(|decision| is_counted(decision)).count())
}

/// Long enough that it is no busy machine's fault, and shorter than a crowd takes.
const AMPLE: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_of_our_own_is_no_failure_of_the_server() {
    let server = Server::start();
    let timeout = 2 * AMPLE;
    let store = RedisStore::builder(server.url()).response_timeout(timeout);
    // Each takes a command.
    let store = store.decision_timeout(timeout).queue_timeout(PATIENCE).max_denied(0);
    let store = store.secret(SECRET).build().unwrap();
    let policy = Policy::sliding_window("p", Quota::per_hour(1_000));
    let policy = policy.on_store_failure(OnStoreFailure::Allow);
    let limiter = Limiter::builder().check_only(policy).store(store).build().unwrap();
    assert!(is_counted(&ask(&limiter).await));
    let (allowed, _) = crowd(&limiter, 20_000).await;
    assert_eq!(allowed, 999, "of a thousand, one was used before");
}

#[tokio::test]
async fn a_crowd_before_a_server_that_stalls_gives_up_together() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let timeout = 4 * AMPLE;
    let store = RedisStore::builder(proxy.url()).response_timeout(timeout);
    let store = store.decision_timeout(timeout).queue_timeout(PATIENCE);
    let limiter = limiter(store, OnStoreFailure::Refuse);
    heals(&limiter).await;
    proxy.swallow();
    let start = Instant::now();
    assert_eq!(crowd(&limiter, 3_000).await, (0, 0));
    // They are more than ten times as many as have a turn at once. Those that have none do not even
    // wait for the probe.
    assert!(start.elapsed() < timeout + 3 * AMPLE, "they waited one after the other");
    // One more question goes to it in the background, and then no request waits.
    let mut slow = 0;
    for _ in 0..500 {
        let begun = Instant::now();
        assert!(!is_counted(&ask(&limiter).await));
        slow += u32::from(begun.elapsed() >= timeout / 2);
    }
    assert!(slow <= 2, "{slow} requests waited though it is down");
    proxy.pass();
    heals(&limiter).await;
    assert_eq!(crowd(&limiter, 500).await.1, 500);
}

#[tokio::test]
async fn a_server_that_was_late_is_asked_before_it_is_given_up() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let store = RedisStore::builder(proxy.url()).response_timeout(AMPLE).decision_timeout(AMPLE);
    let limiter = limiter(store, OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    proxy.delay_replies(3 * AMPLE / 2);
    let late = {
        let limiter = limiter.clone();
        tokio::spawn(async move { crowd(&limiter, 10).await })
    };
    until("the question after the crowd's", async || server.calls("evalsha") >= 12).await;
    proxy.delay_replies(Duration::ZERO);
    assert_eq!(late.await.unwrap(), (0, 0));
    // Its answer to that question is behind those that were late.
    while !is_counted(&ask(&limiter).await) {}
    assert_eq!(crowd(&limiter, 10).await, (10, 10));
    assert_eq!(proxy.connections(), 1, "it was never given up");
    // The next time that it is late, it gets another probe.
    proxy.swallow();
    until("requests to fail at once", async || {
        let begun = Instant::now();
        assert!(!is_counted(&ask(&limiter).await));
        begun.elapsed() < AMPLE / 2
    })
    .await;
}

/// It is remembered until the server's own refusal ends.
#[tokio::test]
async fn a_refusal_whose_reply_was_late_ends_in_time() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let store = patient(RedisStore::builder(proxy.url())).secret(SECRET).build().unwrap();
    let policy = Policy::sliding_window("p", Quota::per_window(1, 2 * AMPLE));
    let policy = policy.on_store_failure(OnStoreFailure::Refuse);
    let limiter = Limiter::builder().check_only(policy).store(store).build().unwrap();
    assert!(ask(&limiter).await.is_allowed());
    let used_by = Instant::now();
    proxy.delay_replies(AMPLE);
    assert!(!ask(&limiter).await.is_allowed());
    proxy.delay_replies(Duration::ZERO);
    let until_back = (used_by + 2 * AMPLE).saturating_duration_since(Instant::now());
    tokio::time::sleep(until_back + Duration::from_millis(1)).await;
    assert!(ask(&limiter).await.is_allowed());
}

#[tokio::test]
async fn three_errors_in_a_row_bring_a_server_down_and_no_fewer() {
    let server = Server::start();
    let limiter = limiter(patient(RedisStore::builder(server.url())), OnStoreFailure::Refuse);
    let set_rule = |rule| {
        let rule = redis::cmd("ACL").arg(&["SETUSER", "default", rule]).clone();
        server.ask::<()>(&rule).unwrap();
    };
    assert!(is_counted(&ask(&limiter).await));
    for (errors, is_down) in [(2, false), (2, false), (3, true)] {
        set_rule("-evalsha");
        for _ in 0..errors {
            assert!(!is_counted(&ask(&limiter).await));
        }
        set_rule("+evalsha");
        // The task that connects again has not run yet.
        assert_eq!(is_counted(&ask(&limiter).await), !is_down, "after {errors} errors");
    }
    heals(&limiter).await;
}

#[tokio::test]
async fn who_waits_too_long_for_a_turn_is_decided_without_the_server() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let store = patient(RedisStore::builder(proxy.url())).queue_timeout(Duration::from_millis(20));
    let limiter = limiter(store, OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    proxy.delay_replies(AMPLE);
    let (allowed, counted) = crowd(&limiter, 900).await;
    assert_eq!((allowed, counted), (256, 256), "as many as are on their way at once");
    proxy.pass();
    assert!(is_counted(&ask(&limiter).await), "it was never given up");
    assert_eq!(proxy.connections(), 1);
    let warned = tower_quota::warning::warnings();
    let warned: Vec<_> =
        warned.iter().filter(|warning| warning.code() == Code::RedisQueue).collect();
    assert_eq!(warned.len(), 1);
    assert!(warned[0].to_string().contains("waited 20ms for their turn"), "{}", warned[0]);
}

/// Their commands are carried out, and their replies are dropped.
#[tokio::test]
async fn callers_that_leave_take_no_other_s_answer() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let limiter = limiter(patient(RedisStore::builder(proxy.url())), OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    proxy.delay_replies(Duration::from_millis(10));
    let mut staying = JoinSet::new();
    for cost in 1..=900_u64 {
        let limiter = limiter.clone();
        let asked = async move {
            let decision = limiter.check("p", cost).cost(cost).await.unwrap();
            (cost, decision.outcomes().next().unwrap().remaining())
        };
        if cost % 3 == 0 {
            staying.spawn(asked);
        } else {
            // Some before they have a turn, some before they are answered.
            let leaves = tokio::time::timeout(Duration::from_millis(cost % 12), asked);
            tokio::spawn(leaves);
        }
    }
    for (cost, left) in staying.join_all().await {
        assert_eq!(left, 1_000 - cost);
    }
    proxy.pass();
    // What those who left were charged has come back.
    for cost in (1..=900).filter(|cost| cost % 12 == 1) {
        until("what was charged to come back", async || {
            limiter.peek("p", cost).await.unwrap().outcomes().next().unwrap().remaining() == 1_000
        })
        .await;
    }
}

#[tokio::test]
async fn callers_that_leave_before_their_turn_cost_the_server_nothing() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let limiter = limiter(patient(RedisStore::builder(proxy.url())), OnStoreFailure::Refuse);
    assert!(is_counted(&ask(&limiter).await));
    let before = server.calls("evalsha");
    proxy.delay_replies(AMPLE);
    let (mut staying, mut leaving) = (JoinSet::new(), JoinSet::new());
    for caller in 0..800 {
        let limiter = limiter.clone();
        let asking = if caller < 256 { &mut staying } else { &mut leaving };
        asking.spawn(async move { is_counted(&ask(&limiter).await) });
    }
    tokio::task::yield_now().await;
    leaving.shutdown().await;
    assert!(!staying.join_all().await.contains(&false));
    proxy.pass();
    assert_eq!(ask(&limiter).await.outcomes().next().unwrap().remaining(), 1_000 - 1 - 256 - 1);
    assert_eq!(server.calls("evalsha") - before, 256 + 1);
}

#[tokio::test]
async fn the_longest_times_are_no_panic() {
    let (server, cluster) = (Server::start(), Cluster::start());
    for store in [RedisStore::builder(server.url()), RedisStore::cluster_builder(cluster.urls())] {
        let store = store.connect_timeout(Duration::MAX).response_timeout(Duration::MAX);
        let store = store.decision_timeout(Duration::MAX).queue_timeout(Duration::MAX);
        let limiter = limiter(store, OnStoreFailure::Refuse);
        assert!(is_counted(&ask(&limiter).await));
        let _ = limiter.give_back("p", "k", 1).await.unwrap();
        assert_eq!(crowd(&limiter, 1_000).await, (1_000, 1_000));
    }
}

#[tokio::test]
async fn a_store_says_whether_it_is_up() {
    let server = Server::start();
    let store = RedisStore::builder(server.url()).secret(SECRET);
    let store = store.decision_timeout(PATIENCE).connect_timeout(PATIENCE).build().unwrap();
    assert!(store.is_up().await, "the first call opens the connection");
    let set_replicas = |replicas: &str| {
        let mut set = redis::cmd("CONFIG");
        server.ask::<()>(set.arg(&["SET", "min-replicas-to-write", replicas])).unwrap();
    };
    set_replicas("1");
    assert!(!store.is_up().await, "a server that cannot write counts nothing");
    set_replicas("0");
    assert!(store.is_up().await, "one error does not bring it down");
    server.kill();
    assert!(!store.is_up().await, "without any request before");
    let start = Instant::now();
    assert!(!store.is_up().await);
    assert!(start.elapsed() < PATIENCE / 2, "a server that is known to be down is not asked");
    server.restart();
    until("the server to be up", async || store.is_up().await).await;
}

#[tokio::test]
async fn a_cluster_is_up_if_no_server_is_known_to_be_down() {
    let cluster = Cluster::start();
    let store = RedisStore::cluster_builder(cluster.urls()).secret(SECRET).build().unwrap();
    let policy = Policy::token_bucket("p", Quota::per_hour(1_000));
    let policy = policy.on_store_failure(OnStoreFailure::Refuse);
    let limiter = Limiter::builder().check_only(policy).store(store.clone()).build().unwrap();
    all_are_counted(&limiter).await;
    until("the cluster to be up", async || store.is_up().await).await;
    // It has no slot of the probe.
    cluster.nodes()[0].pause();
    until("the server to be given up", async || {
        let _ = count_fifty(&limiter).await;
        !store.is_up().await
    })
    .await;
    cluster.nodes()[0].resume();
    until("the cluster to be up", async || store.is_up().await).await;
}

#[test]
fn without_a_runtime_no_store_is_up() {
    let server = Server::start();
    let store = patient(RedisStore::builder(server.url())).secret(SECRET).build().unwrap();
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let asked = std::pin::pin!(store.is_up());
    assert_eq!(asked.poll(&mut context), std::task::Poll::Ready(false));
}
