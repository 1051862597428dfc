//! Holding under random arrivals and hang-ups, with several policies, compared with an oracle.

use std::{cell::RefCell, rc::Rc, time::Duration};

use http::{Request, request::Parts};
use proptest::prelude::*;
use tokio::{
    task::{LocalSet, spawn_local, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};
use tower_quota::{Clock, Limiter, LimiterBuilder, Policy, Quota, Reason, key::header};

use crate::by_key::decide;

const HOUR: u64 = 3_600_000;

/// A quota whose times are whole milliseconds, as tokio's timers are.
#[derive(Clone, Copy, Debug)]
struct Rule {
    algorithm: Algorithm,
    units: u64,
    window_ms: u64,
    hold_ms: u64,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    Bucket,
    Fixed,
    Sliding,
}

#[derive(Clone, Debug)]
struct Arrival {
    /// Milliseconds after the one before.
    later: u64,
    keys: [u8; 2],
    cost: u64,
    /// When its caller hangs up, if it still waits.
    patience: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Passed { at: u64 },
    Refused { at: u64 },
    HungUp,
}

impl Rule {
    fn policy(self, name: &'static str) -> Policy {
        let quota = Quota::per_window(self.units, Duration::from_millis(self.window_ms));
        let policy = match self.algorithm {
            Algorithm::Bucket => Policy::token_bucket(name, quota),
            Algorithm::Fixed => Policy::fixed_window(name, quota),
            Algorithm::Sliding => Policy::sliding_window(name, quota),
        };
        policy
            .key(header(name))
            .or_refuse()
            .hold(Duration::from_millis(self.hold_ms))
            .cost(|request| request.headers["cost"].to_str().unwrap().parse().unwrap())
    }

    /// Fails if the uses, in order of time, are ever more than the quota.
    fn verify(self, uses: &[(u64, u64)]) {
        let Self { units, window_ms, .. } = self;
        match self.algorithm {
            Algorithm::Bucket => {
                // In units of 1/window: a millisecond adds `units` of these.
                let (mut level, mut last) = (units * window_ms, 0);
                for &(at, cost) in uses {
                    level = (level + (at - last) * units).min(units * window_ms);
                    last = at;
                    assert!(level >= cost * window_ms, "{self:?} overdrawn at {at}: {uses:?}");
                    level -= cost * window_ms;
                }
            }
            Algorithm::Fixed => {
                for window in uses.chunk_by(|a, b| a.0 / window_ms == b.0 / window_ms) {
                    let used: u64 = window.iter().map(|(_, cost)| cost).sum();
                    assert!(used <= units, "{self:?}: {used} in one window: {uses:?}");
                }
            }
            Algorithm::Sliding => {
                for (last, &(at, _)) in uses.iter().enumerate() {
                    let in_window = uses[..=last].iter().filter(|use_| use_.0 + window_ms > at);
                    let used: u64 = in_window.map(|(_, cost)| cost).sum();
                    assert!(used <= units, "{self:?}: {used} in one interval: {uses:?}");
                }
            }
        }
    }
}

fn request(arrival: &Arrival) -> Parts {
    let request = Request::get("/")
        .header("first", arrival.keys[0].to_string())
        .header("second", arrival.keys[1].to_string())
        .header("cost", arrival.cost.to_string());
    request.body(()).unwrap().into_parts().0
}

/// Runs `story` with a limiter of these rules, on a clock that is paused at midnight.
fn with_limiter<T>(rules: &[Rule], story: impl AsyncFnOnce(Limiter) -> T) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    LocalSet::new().block_on(&runtime.unwrap(), async {
        let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
        let limiter = Limiter::builder().clock(Clock::tokio(midnight));
        let policies = rules.iter().zip(["first", "second"]).map(|(rule, name)| rule.policy(name));
        story(policies.fold(limiter, LimiterBuilder::policy).build().unwrap()).await
    })
}

/// Sends all arrivals. Returns the fate of each, and the order in which they passed.
fn run(rules: &[Rule], arrivals: &[Arrival]) -> (Vec<Fate>, Vec<usize>) {
    with_limiter(rules, async |limiter| {
        let start = Instant::now();
        let now = move || (Instant::now() - start).as_millis() as u64;
        let fates = Rc::new(RefCell::new(vec![Fate::HungUp; arrivals.len()]));
        let order = Rc::new(RefCell::new(Vec::new()));
        let mut tasks = Vec::new();
        let mut at = 0;
        for (place, arrival) in arrivals.iter().enumerate() {
            at += arrival.later;
            sleep_until(start + Duration::from_millis(at)).await;
            let deciding = decide(&limiter, request(arrival));
            let patience = Duration::from_millis(arrival.patience.unwrap_or(HOUR));
            let (fates, order) = (Rc::clone(&fates), Rc::clone(&order));
            tasks.push(spawn_local(async move {
                let Ok(decision) = timeout(patience, deciding).await else { return };
                fates.borrow_mut()[place] = if decision.is_allowed() {
                    order.borrow_mut().push(place);
                    Fate::Passed { at: now() }
                } else {
                    Fate::Refused { at: now() }
                };
            }));
            // It has arrived when it has been polled.
            yield_now().await;
        }
        for task in tasks {
            task.await.unwrap();
        }
        // Long after, nothing is reserved any more: each key has its whole quota.
        sleep(Duration::from_millis(HOUR)).await;
        for (rule, name) in rules.iter().zip(["first", "second"]) {
            for key in 0..3_u8 {
                let left = limiter.check(name, key.to_string()).cost(rule.units).await.unwrap();
                assert!(left.is_allowed(), "units of {name} {key} are lost");
            }
        }
        (fates.take(), order.take())
    })
}

fn verify(rules: &[Rule], arrivals: &[Arrival]) {
    let (fates, order) = run(rules, arrivals);
    let arrived: Vec<u64> = arrivals
        .iter()
        .scan(0, |at, arrival| {
            *at += arrival.later;
            Some(*at)
        })
        .collect();
    let passed = |place: usize| match fates[place] {
        Fate::Passed { at } => at,
        fate => unreachable!("{place} passed, and its fate is {fate:?}"),
    };
    for (which, rule) in rules.iter().enumerate() {
        for key in 0..3 {
            let of_key = order.iter().filter(|&&place| arrivals[place].keys[which] == key);
            let uses: Vec<_> = of_key.map(|&place| (passed(place), arrivals[place].cost)).collect();
            rule.verify(&uses);
        }
    }
    for (place, fate) in fates.iter().enumerate() {
        let longest = rules.iter().map(|rule| rule.hold_ms).max().unwrap();
        match *fate {
            Fate::Refused { at } => assert_eq!(at, arrived[place], "{place} waited for a refusal"),
            Fate::Passed { at } => {
                assert!(at - arrived[place] <= longest, "{place} waited too long")
            }
            Fate::HungUp => assert!(arrivals[place].patience.is_some(), "{place} has no fate"),
        }
    }
    // No request overtakes one with the same keys.
    for (earlier, &first) in order.iter().enumerate() {
        for &second in &order[earlier + 1..] {
            let same_keys = (0..rules.len())
                .all(|which| arrivals[first].keys[which] == arrivals[second].keys[which]);
            // What costs nothing takes nothing from those who wait.
            let free = arrivals[first].cost == 0;
            assert!(!same_keys || free || first < second, "{second} was overtaken by {first}");
        }
    }
}

/// Sends all arrivals. If the last is refused with a time to retry, sends it again at that time, and
/// returns whether it passes at once. `None`: it was not refused, or without such a time.
fn passes_when_told(rules: &[Rule], arrivals: &[Arrival]) -> Option<bool> {
    with_limiter(rules, async |limiter| {
        let (last, before) = arrivals.split_last()?;
        for arrival in before {
            sleep(Duration::from_millis(arrival.later)).await;
            let deciding = decide(&limiter, request(arrival));
            let patience = Duration::from_millis(arrival.patience.unwrap_or(HOUR));
            spawn_local(timeout(patience, deciding));
            yield_now().await;
        }
        sleep(Duration::from_millis(last.later)).await;
        let refused = limiter.decide(&request(last)).await;
        if refused.reason() != Some(Reason::QuotaExceeded) || refused.held() > Duration::ZERO {
            return None;
        }
        let waits = refused.outcomes().filter_map(|outcome| outcome.retry_after());
        sleep(waits.max()?).await;
        let again = limiter.decide(&request(last)).await;
        Some(again.is_allowed() && again.held() == Duration::ZERO)
    })
}

/// The simplest line that could be right, for one token bucket: each in turn, as soon as it may.
fn oracle(rule: Rule, arrivals: &[Arrival]) -> Vec<Fate> {
    let full = rule.units * rule.window_ms;
    // For each key: its level, and the time at which that was so.
    let mut keys = [(full, 0_u64); 3];
    let mut now = 0;
    let mut fates = Vec::new();
    for arrival in arrivals {
        now += arrival.later;
        if arrival.cost == 0 {
            fates.push(Fate::Passed { at: now });
            continue;
        }
        let (level, since) = keys[usize::from(arrival.keys[0])];
        let earliest = now.max(since);
        let level_then = (level + (earliest - since) * rule.units).min(full);
        let short = (arrival.cost * rule.window_ms).saturating_sub(level_then);
        let at = earliest + short.div_ceil(rule.units);
        if arrival.cost > rule.units || at - now > rule.hold_ms {
            fates.push(Fate::Refused { at: now });
            continue;
        }
        let level = (level_then + (at - earliest) * rule.units).min(full);
        keys[usize::from(arrival.keys[0])] = (level - arrival.cost * rule.window_ms, at);
        fates.push(Fate::Passed { at });
    }
    fates
}

fn rules() -> impl Strategy<Value = Rule> {
    let algorithm =
        prop_oneof![Just(Algorithm::Bucket), Just(Algorithm::Fixed), Just(Algorithm::Sliding)];
    // A unit is a whole number of milliseconds, and so is a sixtieth of a window.
    let window = prop_oneof![Just(600), Just(1_200), Just(6_000)];
    let units = prop_oneof![Just(1), Just(2), Just(3), Just(5), Just(10)];
    let hold = prop_oneof![Just(0), 0..500_u64, 0..5_000_u64];
    (algorithm, units, window, hold).prop_map(|(algorithm, units, window_ms, hold_ms)| Rule {
        algorithm,
        units,
        window_ms,
        hold_ms,
    })
}

fn arrivals() -> impl Strategy<Value = Vec<Arrival>> {
    let later = prop_oneof![3 => Just(0), 3 => 0..100_u64, 1 => 0..2_000_u64];
    let patience = prop_oneof![3 => Just(None), 1 => (0..1_500_u64).prop_map(Some)];
    let cost = prop_oneof![5 => Just(1), 1 => 0..4_u64];
    let arrival = (later, [0..3_u8, 0..3_u8], cost, patience)
        .prop_map(|(later, keys, cost, patience)| Arrival { later, keys, cost, patience });
    prop::collection::vec(arrival, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn never_over_the_quota_in_order_and_nothing_lost(
        rules in prop::collection::vec(rules(), 1..=2),
        arrivals in arrivals(),
    ) {
        verify(&rules, &arrivals);
    }

    #[test]
    fn who_is_refused_beside_a_line_passes_when_told(
        rules in prop::collection::vec(rules(), 1..=2),
        arrivals in arrivals(),
    ) {
        prop_assert_ne!(passes_when_told(&rules, &arrivals), Some(false));
    }

    #[test]
    fn one_bucket_is_used_as_soon_as_can_be(rule in rules(), arrivals in arrivals()) {
        let rule = Rule { algorithm: Algorithm::Bucket, ..rule };
        let patient: Vec<_> =
            arrivals.into_iter().map(|arrival| Arrival { patience: None, ..arrival }).collect();
        prop_assert_eq!(run(&[rule], &patient).0, oracle(rule, &patient));
    }
}

#[test]
fn ten_thousand_held_requests_take_less_than_two_kilobytes_each() {
    let policy = Policy::token_bucket("first", Quota::per_hour(1))
        .key(header("first"))
        .or_refuse()
        .hold(Duration::from_secs(4 * 3_600));
    // A small one, because memory that the store reserves and does not use must not be measured.
    let store = tower_quota::store::MemoryStore::with_max_keys(4_096);
    // With room for more: when the queue is nearly full, callers with many requests are not held.
    let limiter = Limiter::builder().policy(policy).store(store).max_held(10_100).build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let arrival = |key: u32| {
        let request = Request::get("/").header("first", (key / 4).to_string());
        request.body(()).unwrap().into_parts().0
    };
    runtime.block_on(async {
        let requests: Vec<_> = (0..13_334).map(arrival).collect();
        let mut held = Vec::with_capacity(requests.len());
        let mut size = 0;
        let memory = allocation_counter::measure(|| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            for request in &requests {
                let mut deciding = limiter.decide(request);
                size = size_of_val(&deciding);
                if std::pin::Pin::new(&mut deciding).poll(&mut context).is_pending() {
                    held.push(deciding);
                }
            }
        });
        // One of each four passes, and three are held.
        assert_eq!(held.len(), 10_000);
        let each = memory.bytes_current as usize / held.len() + size;
        assert!(each < 2_048, "{each} bytes for each held request");
        let given_back = allocation_counter::measure(|| drop(held));
        assert!(given_back.bytes_current < 0);
    });
}
