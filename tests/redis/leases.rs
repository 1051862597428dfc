//! Units that are leased in batches from a Redis server, and used without a command each.
#![cfg(feature = "redis")]

use std::{
    future::{Future, IntoFuture, poll_fn},
    pin::pin,
    task::Poll,
    time::Duration,
};

use common::redis::{Cluster, PATIENCE, Proxy, Server};
use tokio::{task::JoinSet, time::Instant};
use tower_quota::{
    Limiter, OnStoreFailure, Policy, Quota, Reason,
    store::{RedisStore, RedisStoreBuilder},
};

const SECRET: u128 = 0x0123_4567_89ab_cdef_0123_4567_89ab_cdef;
const ALGORITHMS: [fn(&'static str, Quota) -> Policy; 3] = [
    |name, quota| Policy::token_bucket(name, quota),
    |name, quota| Policy::fixed_window(name, quota),
    |name, quota| Policy::sliding_window(name, quota),
];

/// A window that no test outlives, and that ends in none.
fn long(units: u64) -> Quota {
    Quota::per_window(units, Duration::from_secs(100 * 365 * 86_400))
}

/// So patient that a busy machine fails no request.
fn patient(store: RedisStoreBuilder) -> RedisStoreBuilder {
    let (response, decision) = (Duration::from_secs(10), Duration::from_secs(20));
    store.response_timeout(response).decision_timeout(decision).connect_timeout(response)
}

/// One replica.
fn replica(store: RedisStoreBuilder, policy: Policy) -> (Limiter, RedisStore) {
    let store = store.secret(SECRET).build().unwrap();
    let policy = policy.on_store_failure(OnStoreFailure::Refuse);
    (Limiter::builder().check_only(policy).store(store.clone()).build().unwrap(), store)
}

async fn passes(limiter: &Limiter, cost: u64) -> bool {
    limiter.check("p", "k").cost(cost).await.unwrap().is_allowed()
}

async fn admitted(limiter: &Limiter) -> u64 {
    let mut admitted = 0;
    while passes(limiter, 1).await {
        admitted += 1;
    }
    admitted
}

async fn remaining(limiter: &Limiter) -> u64 {
    limiter.peek("p", "k").await.unwrap().outcomes().next().unwrap().remaining()
}

/// Spends units of a quota until this replica holds so many more. Returns how many it has spent.
async fn hold(limiter: &Limiter, quota: u64, at_least: u64) -> u64 {
    let mut spent = 0;
    loop {
        // A batch is larger the faster units are used.
        for _ in 0..at_least {
            assert!(passes(limiter, 1).await);
            spent += 1;
        }
        if remaining(limiter).await + spent + at_least <= quota {
            return spent;
        }
    }
}

/// Waits until the server has as much left.
async fn comes_back(limiter: &Limiter, units: u64) -> Duration {
    let start = Instant::now();
    while remaining(limiter).await != units {
        assert!(start.elapsed() < PATIENCE, "{} are left", remaining(limiter).await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    start.elapsed()
}

#[tokio::test]
async fn a_batch_takes_one_command_and_one_replica_admits_the_quota() {
    for policy in ALGORITHMS {
        let server = Server::start();
        let policy = policy("p", long(10_000)).lease(100);
        let (limiter, _) = replica(patient(RedisStore::builder(server.url())), policy);
        for left in (0..10_000).rev() {
            let decision = limiter.check("p", "k").await.unwrap();
            assert!(decision.is_allowed());
            assert_eq!(decision.outcomes().next().unwrap().remaining(), left);
        }
        // The first batches are smaller, leases that end while this runs take one more each, and one
        // command has opened it.
        let commands = server.calls("evalsha");
        assert!((101..=130).contains(&commands), "{commands} commands");
        assert!(!passes(&limiter, 1).await);
        assert_eq!(server.keys_without_ttl(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn many_tasks_share_a_batch_and_admit_the_quota() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(20_000)).lease(100);
    let (limiter, _) = replica(patient(RedisStore::builder(server.url())), policy);
    let mut tasks = JoinSet::new();
    for _ in 0..512 {
        let limiter = limiter.clone();
        tasks.spawn(async move { admitted(&limiter).await });
    }
    let all: u64 = tasks.join_all().await.iter().sum();
    assert_eq!(all, 20_000);
    let commands = server.calls("evalsha");
    assert!(commands < 400, "{commands} commands for 20,512 requests");
}

/// Each reply serves all that wait when its command is sent, however small the lease.
#[tokio::test]
async fn those_who_wait_share_a_command() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(20_000)).lease(2);
    let (limiter, store) = replica(patient(RedisStore::builder(server.url())), policy);
    let mut tasks = JoinSet::new();
    for _ in 0..256 {
        let limiter = limiter.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                assert!(passes(&limiter, 1).await);
            }
        });
    }
    tasks.join_all().await;
    let commands = server.calls("evalsha");
    assert!(commands < 400, "{commands} commands for 12,800 requests");
    store.give_back_leases().await.unwrap();
    assert_eq!(remaining(&limiter).await, 20_000 - 12_800);
}

#[tokio::test]
async fn many_tasks_of_several_replicas_admit_no_more_than_the_quota() {
    for policy in ALGORITHMS {
        let server = Server::start();
        let policy = policy("p", long(3_000)).lease(40);
        let replicas: Vec<_> = (0..3)
            .map(|_| {
                // A refusal is not remembered here: what ends it is another replica's doing.
                let store = patient(RedisStore::builder(server.url())).max_denied(0);
                replica(store, policy.clone())
            })
            .collect();
        let mut tasks = JoinSet::new();
        for task in 0..96 {
            let limiter = replicas[task % 3].0.clone();
            tasks.spawn(async move { admitted(&limiter).await });
        }
        let mut all: u64 = tasks.join_all().await.iter().sum();
        assert!((3_000 - 2 * 40..=3_000).contains(&all), "{all} passed");
        // What others have held goes back, and is not lost.
        for (_, store) in &replicas {
            store.give_back_leases().await.unwrap();
        }
        all += admitted(&replicas[0].0).await;
        assert_eq!(all, 3_000);
    }
}

#[tokio::test]
async fn shutting_down_gives_back_what_is_not_spent() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(1_000)).lease(100);
    let (first, store) = replica(patient(RedisStore::builder(server.url())), policy.clone());
    let (second, _) = replica(patient(RedisStore::builder(server.url())), policy);
    let mut left = 1_000 - hold(&first, 1_000, 3).await;
    assert!(remaining(&second).await < left);
    store.give_back_leases().await.unwrap();
    assert_eq!(remaining(&second).await, left);

    left -= hold(&first, left, 3).await;
    assert!(remaining(&second).await < left);
    drop((first, store));
    let waited = comes_back(&second, left).await;
    assert!(waited < Duration::from_millis(900), "a lease has ended by then");
}

#[tokio::test]
async fn what_nobody_asks_for_any_more_goes_back_by_itself() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", Quota::per_minute(1_000));
    let (limiter, _) = replica(patient(RedisStore::builder(server.url())), policy.lease(100));
    let left = 1_000 - hold(&limiter, 1_000, 3).await;
    // After a second, and long before the window has passed.
    comes_back(&limiter, left).await;
}

/// The task that gives them back ends with its runtime. The next command starts another.
#[test]
fn what_a_runtime_that_has_ended_has_leased_goes_back_by_itself() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", Quota::per_minute(1_000));
    let (limiter, _) = replica(patient(RedisStore::builder(server.url())), policy.lease(100));
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let left = 1_000 - runtime().block_on(hold(&limiter, 1_000, 3));
    runtime().block_on(async {
        comes_back(&limiter, left).await;
    });
}

#[tokio::test]
async fn a_reset_and_another_plan_count_what_was_spent() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(1_000)).lease(100);
    let (limiter, store) = replica(patient(RedisStore::builder(server.url())), policy);
    assert!(passes(&limiter, 5).await);
    let _ = limiter.reset("p", "k").await.unwrap();
    let whole = limiter.check("p", "k").cost(5).await.unwrap();
    assert_eq!(whole.outcomes().next().unwrap().remaining(), 995);
    let raised = limiter.check("p", "k").quota(long(2_000)).await.unwrap();
    assert_eq!(raised.outcomes().next().unwrap().remaining(), 1_994);
    let _ = limiter.reset("p", "k").await.unwrap();
    store.give_back_leases().await.unwrap();
    assert_eq!(remaining(&limiter).await, 1_000);
    assert!(passes(&limiter, 1).await);
    store.give_back_leases().await.unwrap();
    assert_eq!(remaining(&limiter).await, 999);
}

#[tokio::test]
async fn a_request_that_another_policy_refuses_spends_nothing() {
    let (server, cluster) = (Server::start(), Cluster::start());
    let stores = [
        patient(RedisStore::builder(server.url())),
        patient(RedisStore::cluster_builder(cluster.urls())),
    ];
    for store in stores {
        let store = store.secret(SECRET).build().unwrap();
        let leased = Policy::sliding_window("leased", long(1_000)).lease(50);
        let leased = leased.key(tower_quota::key::header("x-one")).or_refuse();
        let small = Policy::token_bucket("small", long(20)).lease(8);
        let small = small.key(tower_quota::key::header("x-other")).or_refuse();
        let exact = Policy::token_bucket("exact", long(30));
        let exact = exact.key(tower_quota::key::header("x-third")).or_refuse();
        let limiter = Limiter::builder().policy(leased).policy(small).policy(exact);
        let limiter = limiter.store(store.clone()).build().unwrap();
        let request = http::Request::get("/")
            .header("x-one", "a")
            .header("x-other", "b")
            .header("x-third", "c")
            .body(())
            .unwrap();
        let (request, ()) = request.into_parts();
        let mut passed = 0;
        for _ in 0..40 {
            passed += u64::from(limiter.decide(&request).await.is_allowed());
        }
        assert_eq!(passed, 20);
        store.give_back_leases().await.unwrap();
        for (policy, key, left) in [("leased", "a", 980), ("small", "b", 0), ("exact", "c", 10)] {
            let peeked = limiter.peek(policy, key).await.unwrap();
            assert_eq!(peeked.outcomes().next().unwrap().remaining(), left, "{policy}");
        }
    }
}

#[tokio::test]
async fn a_refused_flood_asks_once_a_lease() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(100)).lease(30);
    let (limiter, store) = replica(patient(RedisStore::builder(server.url())), policy);
    assert_eq!(admitted(&limiter).await, 100);
    let (commands, start) = (server.calls("evalsha"), Instant::now());
    for _ in 0..5_000 {
        assert!(!passes(&limiter, 1).await);
    }
    let asked = server.calls("evalsha") - commands;
    let seconds = start.elapsed().as_secs() + 1;
    assert!(asked <= seconds, "{asked} commands in {seconds} seconds");
    assert!(store.denied_from_cache() >= 4_990);
}

#[tokio::test]
async fn a_refusal_is_forgotten_as_soon_as_others_may_give_back() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(100)).lease(50);
    let (first, _) = replica(patient(RedisStore::builder(server.url())), policy.clone());
    let (second, store) = replica(patient(RedisStore::builder(server.url())), policy);
    let spent = hold(&second, 100, 3).await;
    assert!(admitted(&first).await + spent <= 97);
    store.give_back_leases().await.unwrap();
    let start = Instant::now();
    while !passes(&first, 1).await {
        assert!(start.elapsed() < Duration::from_secs(5), "it is still remembered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// In a cluster, what was taken on one server goes back when another refuses: all of the batch.
#[tokio::test]
async fn a_batch_goes_back_when_another_server_refuses() {
    let cluster = Cluster::start();
    let store = patient(RedisStore::cluster_builder(cluster.urls())).secret(SECRET).max_denied(0);
    let leased = Policy::sliding_window("leased", long(1_000)).lease(50);
    let spent = Policy::token_bucket("spent", long(1));
    let limiter = Limiter::builder()
        .policy(leased.key(tower_quota::key::header("x-one")).or_refuse())
        .policy(spent.global())
        .store(store.build().unwrap())
        .build()
        .unwrap();
    let request =
        |key: u32| http::Request::get("/").header("x-one", key).body(()).unwrap().into_parts().0;
    assert!(limiter.decide(&request(0)).await.is_allowed());
    for key in 1..=20 {
        assert!(!limiter.decide(&request(key)).await.is_allowed());
        let peeked = limiter.peek("leased", &*key.to_string()).await.unwrap();
        assert_eq!(peeked.outcomes().next().unwrap().remaining(), 1_000);
    }
}

#[tokio::test]
async fn what_is_held_is_spent_while_the_server_is_down() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(1_000)).lease(100);
    let (limiter, _) = replica(RedisStore::builder(server.url()), policy);
    while !passes(&limiter, 1).await {}
    hold(&limiter, 999, 30).await;
    server.pause();
    for _ in 0..30 {
        assert!(passes(&limiter, 1).await);
    }
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let start = Instant::now();
    let decision = limiter.check("p", "k").await.unwrap();
    assert_eq!(decision.reason(), Some(Reason::StoreUnavailable), "the lease has ended");
    assert!(start.elapsed() < Duration::from_millis(500));
    server.resume();
}

/// However many wait for one batch, each is decided in time.
#[tokio::test]
async fn nobody_waits_longer_than_a_decision_may_take() {
    let server = Server::start();
    let policy = Policy::sliding_window("p", long(1_000)).lease(100);
    let time = Duration::from_millis(400);
    let store = RedisStore::builder(server.url()).response_timeout(time).decision_timeout(time);
    let (limiter, _) = replica(store, policy);
    while !passes(&limiter, 100).await {}
    server.pause();
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for _ in 0..512 {
        let limiter = limiter.clone();
        tasks.spawn(async move { passes(&limiter, 1).await });
    }
    assert!(!tasks.join_all().await.contains(&true));
    // Far less than one after the other, also on a busy machine.
    assert!(start.elapsed() < 5 * time, "{:?}", start.elapsed());
    server.resume();
}

#[tokio::test]
async fn who_leaves_gives_back() {
    let server = Server::start();
    let proxy = Proxy::before(&server);
    let policy = Policy::sliding_window("p", long(1_000)).lease(100);
    let (limiter, store) = replica(patient(RedisStore::builder(proxy.url())), policy);
    assert_eq!(remaining(&limiter).await, 1_000);
    proxy.delay_replies(Duration::from_millis(30));
    {
        let mut leaves = pin!(limiter.check("p", "k").cost(7).into_future());
        let polled = poll_fn(|context| Poll::Ready(leaves.as_mut().poll(context)));
        assert!(polled.await.is_pending());
        // Other requests wait for the units that it requested, and get them.
        assert!(passes(&limiter, 0).await);
    }
    assert!(passes(&limiter, 1).await);
    proxy.pass();
    store.give_back_leases().await.unwrap();
    comes_back(&limiter, 999).await;
}

#[cfg(feature = "describe")]
#[tokio::test]
async fn an_explanation_counts_the_units_that_are_here() {
    use tower_quota::explain::ExpectedVerdict;

    let server = Server::start();
    let build = || {
        let store = patient(RedisStore::builder(server.url())).secret(SECRET).build().unwrap();
        let policy = Policy::fixed_window("p", long(20)).global().lease(10);
        let policy = policy.on_store_failure(OnStoreFailure::Refuse);
        Limiter::builder().policy(policy).store(store).build().unwrap()
    };
    let (first, second) = (build(), build());
    let head = http::Request::new(()).into_parts().0;
    let mut left = 20;
    // The first replica takes all that the server has.
    while second.explain(&head).await.verdict == ExpectedVerdict::Admitted {
        assert!(first.decide(&head).await.is_allowed());
        left -= 1;
    }
    assert!(left > 0);
    for left in (0..=left).rev().skip(1) {
        let explained = first.explain(&head).await;
        assert_eq!(explained.verdict, ExpectedVerdict::Admitted);
        assert_eq!(explained.policies[0].numbers.unwrap().remaining, left);
        let other = second.explain(&head).await.verdict;
        assert!(matches!(other, ExpectedVerdict::Refused { .. }), "{other:?}");
        assert_eq!(first.explain(&head).await.verdict, ExpectedVerdict::Admitted);
        assert!(first.decide(&head).await.is_allowed());
    }
    let explained = first.explain(&head).await;
    assert!(matches!(explained.verdict, ExpectedVerdict::Refused { .. }), "{explained}");
    assert!(!first.decide(&head).await.is_allowed());
}
