//! Requests that are held while limits are replaced.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, sleep, timeout},
};
use tower_quota::{
    Algorithm, Decision, Limiter, LimiterBuilder, Now, Policy, Quota,
    store::{Charge, Correction, MemoryStore, Store, StoreFuture, Usage},
};

use super::{HOUR, SECOND, clock, limits};
use crate::by_key::{decide, policy, request};

fn slow(quota: Quota) -> Policy {
    policy("slow", Algorithm::TokenBucket, quota).hold(HOUR)
}

/// Decides in a task of its own, and returns the decision and its time.
async fn ask(limiter: &Limiter, key: &str) -> JoinHandle<(Decision, Duration)> {
    let (deciding, asked) = (decide(limiter, request("/", key)), Instant::now());
    let task = tokio::spawn(async move { (deciding.await, asked.elapsed()) });
    yield_now().await;
    task
}

/// What becomes of three requests behind one unit a minute, if `next` is applied after 10 seconds:
/// whether each passes, and after how many seconds.
async fn fates(next: LimiterBuilder) -> Vec<(bool, u64)> {
    let limiter = limits([slow(Quota::per_minute(1))]).clock(clock()).build().unwrap();
    assert!(limiter.decide(&request("/", "a")).await.is_allowed());
    let mut asked = Vec::new();
    for _ in 0..3 {
        asked.push(ask(&limiter, "a").await);
    }
    sleep(10 * SECOND).await;
    limiter.apply(next).unwrap();
    let mut fates = Vec::new();
    for asked in asked {
        let (decision, took) = asked.await.unwrap();
        assert_eq!(decision.held(), took);
        fates.push((decision.is_allowed(), took.as_secs()));
    }
    fates
}

#[tokio::test(start_paused = true)]
async fn held_requests_pass_earlier_under_a_larger_quota_in_their_order() {
    let faster = slow(Quota::per_window(1, 20 * SECOND));
    // After 10 s of a minute, five sixths of a unit are used: that takes five sixths of 20 s.
    assert_eq!(fates(limits([faster])).await, [(true, 26), (true, 46), (true, 66)]);
    let burst = slow(Quota::per_minute(60).burst(10));
    assert_eq!(fates(limits([burst])).await, [(true, 10), (true, 10), (true, 10)]);
    let unlimited = slow(Quota::unlimited());
    assert_eq!(fates(limits([unlimited])).await, [(true, 10), (true, 10), (true, 10)]);
}

#[tokio::test(start_paused = true)]
async fn held_requests_wait_longer_under_a_smaller_quota_or_are_refused() {
    let slower = slow(Quota::per_window(1, 600 * SECOND));
    assert_eq!(fates(limits([slower])).await, [(true, 510), (true, 1_110), (true, 1_710)]);
    let slowest = slow(Quota::per_day(1));
    assert_eq!(fates(limits([slowest])).await, [(false, 10), (false, 10), (false, 10)]);
}

#[tokio::test(start_paused = true)]
async fn held_requests_of_a_policy_that_is_gone_pass_when_they_would_have() {
    let fast = policy("fast", Algorithm::TokenBucket, Quota::per_second(100));
    assert_eq!(fates(limits([fast])).await, [(true, 60), (true, 120), (true, 180)]);
    assert_eq!(fates(limits([])).await, [(true, 60), (true, 120), (true, 180)]);
    // What has another algorithm is another policy.
    let window = policy("slow", Algorithm::FixedWindow, Quota::per_day(100)).hold(HOUR);
    assert_eq!(fates(limits([window])).await, [(true, 60), (true, 120), (true, 180)]);
}

#[tokio::test(start_paused = true)]
async fn the_hold_and_the_policies_of_a_held_request_stay() {
    // Its hold is over before, or it is a dry run: that is for later requests.
    let no_hold = policy("slow", Algorithm::TokenBucket, Quota::per_minute(1));
    assert_eq!(fates(limits([no_hold])).await, [(true, 60), (true, 120), (true, 180)]);
    let one_more = policy("new", Algorithm::FixedWindow, Quota::per_day(1));
    let next = limits([slow(Quota::per_minute(1)), one_more]);
    assert_eq!(fates(next).await, [(true, 60), (true, 120), (true, 180)]);
}

#[tokio::test(start_paused = true)]
async fn held_requests_keep_their_plans() {
    let of = |pro| {
        let policy = slow(Quota::per_minute(1)).plans([("pro", pro)], |_| Some("pro"));
        limits([policy])
    };
    let first = Quota::per_minute(1).burst(2);
    let limiter = of(first).clock(clock()).build().unwrap();
    for _ in 0..2 {
        assert!(limiter.decide(&request("/", "a")).await.is_allowed());
    }
    let held = ask(&limiter, "a").await;
    sleep(10 * SECOND).await;
    limiter.apply(of(Quota::per_minute(60))).unwrap();
    assert_eq!(held.await.unwrap().1, 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_held_twice_over_has_the_last_quota() {
    let limiter = limits([slow(Quota::per_minute(1))]).clock(clock()).build().unwrap();
    assert!(limiter.decide(&request("/", "a")).await.is_allowed());
    let held = ask(&limiter, "a").await;
    for seconds in [600, 300, 30] {
        sleep(SECOND).await;
        limiter.apply(limits([slow(Quota::per_window(1, seconds * SECOND))])).unwrap();
    }
    let (decision, took) = held.await.unwrap();
    // Of the unit, 59 of 60 s are left after the first second, then 589 of 600. After the third, these
    // are 588 of 600: the most that any of the quotas says.
    let left = Duration::from_millis(29_400);
    assert_eq!((decision.is_allowed(), took), (true, 3 * SECOND + left));
    assert_eq!(decision.outcome("slow").unwrap().quota(), Quota::per_window(1, 30 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn the_bounds_of_held_requests_change_for_those_that_come_later() {
    let of = |most| limits([slow(Quota::per_minute(1))]).max_held(most);
    let limiter = of(10).clock(clock()).build().unwrap();
    assert!(limiter.decide(&request("/", "a")).await.is_allowed());
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(ask(&limiter, "a").await);
    }
    limiter.apply(of(1)).unwrap();
    assert!(!ask(&limiter, "a").await.await.unwrap().0.is_allowed());
    for held in held {
        assert!(held.await.unwrap().0.is_allowed());
    }
    // Without a bound in the new limits, it is the default.
    limiter.apply(limits([slow(Quota::per_minute(1))])).unwrap();
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(ask(&limiter, "a").await);
    }
    for held in held {
        assert!(held.await.unwrap().0.is_allowed());
    }
}

/// What runs once, if it is set.
type Once = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

/// A store that has answered a charge, and then runs a function before the limiter gets the answer.
struct RunsAfterward {
    counts: MemoryStore,
    function: Once,
    at_once: bool,
}

impl Store for RunsAfterward {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let answer = self.counts.charge(charges, now);
        self.run();
        StoreFuture::later(answer)
    }

    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let is_charged = self.at_once && self.counts.charge_at_once(charges, usages, now);
        if is_charged {
            self.run();
        }
        is_charged
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.counts.correct(corrections, now)
    }
}

impl RunsAfterward {
    fn run(&self) {
        let function = self.function.lock().unwrap().take();
        if let Some(function) = function {
            function();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_about_to_be_held_does_not_miss_a_larger_quota() {
    for at_once in [true, false] {
        let function = Once::default();
        let counts = MemoryStore::new();
        let store = RunsAfterward { counts, function: Arc::clone(&function), at_once };
        let limiter = limits([slow(Quota::per_hour(1))]).clock(clock()).store(store);
        let limiter = limiter.build().unwrap();
        assert!(limiter.decide(&request("/", "a")).await.is_allowed());
        // The store refuses, and before the request is in the queue the quota is a larger one.
        let applies = limiter.clone();
        *function.lock().unwrap() = Some(Box::new(move || {
            applies.apply(limits([slow(Quota::per_hour(9))])).unwrap();
        }));
        let held = limiter.decide(&request("/", "a"));
        let decision = timeout(SECOND, held).await.expect("it waits no hour");
        assert!(decision.is_allowed(), "{at_once}");
    }
}
