//! Never more than the quota and all or nothing, from any number of threads.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    thread,
};

use http::{Request, request::Parts};
use tower_quota::{
    Clock, Decision, Limiter, LimiterBuilder, Policy, Quota, key::header, store::MemoryStore,
};

const THREADS: u64 = 8;
const REQUESTS: u64 = 2_000;

fn request(headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// In memory the decision is there at once.
fn decide(limiter: &Limiter, request: &Parts) -> Decision {
    now(limiter.decide(request))
}

fn now<F: Future>(future: F) -> F::Output {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("the memory store answers at once"),
    }
}

/// A day that has just begun, so that no window ends during a test.
fn limiter() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + std::time::Duration::from_secs(20_000 * 86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// Runs `work` in all threads at once, with the number of the thread and of the round.
fn hammer(work: impl Fn(u64, u64) + Sync) {
    let start = Barrier::new(THREADS as usize);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (start, work) = (&start, &work);
            scope.spawn(move || {
                start.wait();
                for round in 0..REQUESTS {
                    work(thread, round);
                }
            });
        }
    });
}

#[test]
fn many_threads_on_one_key_are_admitted_exactly_the_quota() {
    let quota = Quota::per_day(1_000);
    for policy in [
        Policy::token_bucket("policy", quota),
        Policy::fixed_window("policy", quota),
        Policy::sliding_window("policy", quota),
    ] {
        let policy = policy.key(header("x-key")).or_refuse();
        let algorithm = policy.algorithm();
        let limiter = limiter().policy(policy).build().unwrap();
        let admitted = AtomicU64::new(0);
        hammer(|_, _| {
            let allowed = decide(&limiter, &request(&[("x-key", "one")])).is_allowed();
            admitted.fetch_add(u64::from(allowed), SeqCst);
        });
        assert_eq!(admitted.into_inner(), 1_000, "{algorithm:?}");
    }
}

#[test]
fn what_one_policy_refuses_costs_nothing_in_another_under_concurrency() {
    // Each of four keys has a quota of its own; all share a larger one, and a third that is never
    // reached. What passed is what each of them lost: nothing more.
    let each = Policy::fixed_window("each", Quota::per_day(300)).key(header("x-key")).or_refuse();
    let all = Policy::sliding_window("all", Quota::per_day(1_000)).global();
    let roomy = Policy::token_bucket("roomy", Quota::per_day(1_000_000)).global();
    let limiter = limiter().policy(all).policy(each.clone()).policy(roomy).build().unwrap();
    let admitted = AtomicU64::new(0);
    hammer(|thread, round| {
        let key = ["a", "b", "c", "d"][((thread + round) % 4) as usize];
        let allowed = decide(&limiter, &request(&[("x-key", key)])).is_allowed();
        admitted.fetch_add(u64::from(allowed), SeqCst);
    });
    let admitted = admitted.into_inner();
    assert_eq!(admitted, 1_000, "the larger quota is reached, and used by nothing refused");

    let left = |policy: &str, key: &str| {
        let nothing = now(limiter.check(policy, key).cost(0).into_future()).unwrap();
        nothing.outcomes().next().unwrap().remaining()
    };
    let used: u64 = ["a", "b", "c", "d"].iter().map(|key| 300 - left("each", key)).sum();
    assert_eq!(used, admitted, "refused requests have cost the keys nothing");
}

#[test]
fn two_policies_of_one_key_and_one_of_all_lose_nothing_to_each_other() {
    let bucket = Policy::token_bucket("bucket", Quota::per_day(900)).key(header("x-key"));
    let window = Policy::fixed_window("window", Quota::per_day(600)).key(header("x-key"));
    let all = Policy::token_bucket("all", Quota::per_day(1_100)).global();
    let (bucket, window) = (bucket.or_refuse(), window.or_refuse());
    let limiter = limiter().policy(bucket).policy(window).policy(all).build().unwrap();
    let admitted = [AtomicU64::new(0), AtomicU64::new(0)];
    hammer(|_, round| {
        let key = (round % 2) as usize;
        let allowed = decide(&limiter, &request(&[("x-key", ["a", "b"][key])])).is_allowed();
        admitted[key].fetch_add(u64::from(allowed), SeqCst);
    });
    let [a, b] = admitted.map(AtomicU64::into_inner);
    assert!(a <= 600 && b <= 600, "{a} and {b}");
    assert_eq!(a + b, 1_100);
    for (key, used) in [("a", a), ("b", b)] {
        for (policy, quota) in [("bucket", 900), ("window", 600)] {
            let left = now(limiter.check(policy, key).cost(0).into_future()).unwrap();
            assert_eq!(
                left.outcomes().next().unwrap().remaining(),
                quota - used,
                "{policy} of {key}"
            );
        }
    }
}

#[test]
fn two_keys_charged_in_either_order_do_not_deadlock() {
    let a = Policy::fixed_window("a", Quota::per_day(1_000_000)).key(header("x-a")).or_refuse();
    let b = Policy::fixed_window("b", Quota::per_day(1_000_000)).key(header("x-b")).or_refuse();
    // Many shards, so that the two are mostly in different ones.
    let store = MemoryStore::with_max_keys(1_000_000);
    let limiter = limiter().policy(a).policy(b).store(store).build().unwrap();
    let admitted = AtomicU64::new(0);
    hammer(|thread, round| {
        let (x, y) = ((thread * round % 7).to_string(), (round % 5).to_string());
        let allowed = decide(&limiter, &request(&[("x-a", &x), ("x-b", &y)])).is_allowed();
        admitted.fetch_add(u64::from(allowed), SeqCst);
    });
    assert_eq!(admitted.into_inner(), THREADS * REQUESTS);
}

#[test]
fn held_from_many_threads_never_more_than_the_quota_passes_and_no_one_is_lost() {
    // On the real clock, because threads are real; only what each decision says of its time counts.
    let quota = Quota::per_second(200).burst(5);
    let policy = Policy::token_bucket("p", quota).key(header("x-key")).or_refuse();
    let limiter = limiter()
        .policy(policy.hold(std::time::Duration::from_secs(20)))
        .max_held_per_key(1_000)
        .build()
        .unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
    let decisions = runtime.block_on(async {
        let ask = |_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { limiter.decide(&request(&[("x-key", "one")])).await })
        };
        let asked: Vec<_> = (0..200).map(ask).collect();
        let mut decisions = Vec::new();
        for decision in asked {
            decisions.push(decision.await.unwrap());
        }
        decisions
    });
    assert!(decisions.iter().all(Decision::is_allowed), "each has its turn within the hold");
    let mut times: Vec<u128> =
        decisions.iter().map(|decision| decision.decided_at().as_nanos()).collect();
    times.sort_unstable();
    // In billionths of a token: a nanosecond adds 200 of these.
    const TOKEN: u128 = 1_000_000_000;
    let (mut level, mut last) = (5 * TOKEN, times[0]);
    for at in times {
        level = (level + (at - last) * 200).min(5 * TOKEN);
        last = at;
        assert!(level >= TOKEN, "overdrawn");
        level -= TOKEN;
    }
}
