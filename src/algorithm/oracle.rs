//! Each algorithm against a naive one: any quota, any sequence of times and costs.

use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::{Algorithm, PastUse, State};
use crate::{clock::Now, quota::Quota};

/// The simplest thing that could be right.
trait Oracle {
    /// Whether `cost` fits at `now`. If so, it is used.
    fn admit(&mut self, now: u64, cost: u64) -> bool;
    /// Gives the last use back.
    fn give_back(&mut self, now: u64);
    /// The least and the most that may be left at `now`.
    fn left(&mut self, now: u64) -> (u64, u64);
}

/// Tokens in units of 1/window: each nanosecond adds `units` of these.
struct Bucket {
    quota: Quota,
    level: u128,
    at: u64,
    /// The last use: when it was, what was missing right after it, and its units.
    last: (u64, u128, u64),
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self { quota, level: u128::from(quota.capacity()) * window(quota), at: 0, last: (0, 0, 0) }
    }

    fn flow(&mut self, now: u64) {
        let full = u128::from(self.quota.capacity()) * window(self.quota);
        let refill = u128::from(now - self.at) * u128::from(self.quota.units());
        self.level = (self.level + refill).min(full);
        self.at = now;
    }
}

impl Oracle for Bucket {
    fn admit(&mut self, now: u64, cost: u64) -> bool {
        self.flow(now);
        let cost = u128::from(cost) * window(self.quota);
        let fits = cost <= self.level;
        if fits {
            self.level -= cost;
            let full = u128::from(self.quota.capacity()) * window(self.quota);
            self.last = (now, full - self.level, (cost / window(self.quota)) as u64);
        }
        fits
    }

    /// Does not give back what has come back by itself since the use.
    fn give_back(&mut self, now: u64) {
        let full = u128::from(self.quota.capacity()) * window(self.quota);
        self.flow(now);
        let back = u128::from(now - self.last.0) * u128::from(self.quota.units());
        let still = self.last.1.saturating_sub(back);
        let units = u128::from(self.last.2) * window(self.quota);
        self.level = (self.level + units.min(still)).min(full);
    }

    fn left(&mut self, now: u64) -> (u64, u64) {
        self.flow(now);
        let left = (self.level / window(self.quota)) as u64;
        (left, left)
    }
}

struct Windows {
    quota: Quota,
    used: HashMap<u64, u64>,
    last: (u64, u64),
}

impl Oracle for Windows {
    fn admit(&mut self, now: u64, cost: u64) -> bool {
        let used = self.used.entry(self.quota.window_start(now)).or_default();
        let fits = *used + cost <= self.quota.units();
        if fits {
            *used += cost;
            self.last = (self.quota.window_start(now), cost);
        }
        fits
    }

    fn give_back(&mut self, _: u64) {
        let (window, cost) = self.last;
        *self.used.entry(window).or_default() -= cost;
    }

    fn left(&mut self, now: u64) -> (u64, u64) {
        let used = self.used.get(&self.quota.window_start(now)).copied().unwrap_or(0);
        (self.quota.units() - used, self.quota.units() - used)
    }
}

/// Every use, for ever.
struct Log {
    quota: Quota,
    uses: Vec<(u64, u64)>,
}

impl Log {
    fn used_within(&self, now: u64, span: u64) -> u64 {
        self.uses.iter().filter(|(at, _)| at + span > now).map(|(_, cost)| cost).sum()
    }
}

impl Oracle for Log {
    /// The subject decides what fits: the oracle only knows the least and the most that may be left.
    fn admit(&mut self, now: u64, cost: u64) -> bool {
        let fits = cost <= self.left(now).1;
        if fits {
            self.uses.push((now, cost));
        }
        fits
    }

    fn give_back(&mut self, _: u64) {
        self.uses.pop();
    }

    fn left(&mut self, now: u64) -> (u64, u64) {
        let window = self.quota.window_nanos();
        let units = self.quota.units();
        let most = units - self.used_within(now, window);
        let least = units.saturating_sub(self.used_within(now, window + window / 60));
        (least, most)
    }
}

fn window(quota: Quota) -> u128 {
    u128::from(quota.window_nanos())
}

pub(super) fn at(nanos: u64) -> Now {
    Now::new(Duration::from_nanos(nanos), Duration::from_nanos(nanos))
}

/// Runs the subject beside the oracle, and checks at each step that what it answers about the future
/// comes true.
fn compare(algorithm: Algorithm, quota: Quota, steps: &[Step], oracle: &mut dyn Oracle) {
    let mut state = State::new(algorithm);
    let mut now = 0;
    let (mut last, mut left) = (None, None);
    for &Step { later, cost, give_back } in steps {
        now += later;
        if let Some((at_last, cost)) = last.take().filter(|_| give_back) {
            let made = PastUse { at: at(at_last), cost, left, given_back: 0 };
            state.give_back(&quota, at(now), cost, &made);
            oracle.give_back(now);
        }
        let (least, most) = oracle.left(now);
        let remaining = state.remaining(&quota, at(now));
        assert!(least <= remaining && remaining <= most, "{least} <= {remaining} <= {most}");

        let fits = state.wait(&quota, at(now), cost) == 0;
        assert_eq!(fits, cost <= remaining, "remaining is what fits, at {now}");
        if fits {
            assert!(oracle.admit(now, cost), "over the quota at {now}");
            state.consume(&quota, at(now), cost);
            assert_eq!(state.remaining(&quota, at(now)), remaining - cost);
            last = Some((now, cost));
            left = Some((state.remaining(&quota, at(now)), state.reset(&quota, at(now))));
        }
        assert_times_come_true(&state, &quota, now, cost);
    }
}

/// The times that `state` answers are neither early nor late.
fn assert_times_come_true(state: &State, quota: &Quota, now: u64, cost: u64) {
    let remaining = state.remaining(quota, at(now));

    let reset = state.reset(quota, at(now));
    if reset > 0 && remaining < quota.capacity() {
        assert!(state.remaining(quota, at(now + reset)) > remaining, "reset comes too early");
        assert_eq!(state.remaining(quota, at(now + reset - 1)), remaining, "reset comes late");
    }

    let wait = state.wait(quota, at(now), cost);
    if wait > 0 && cost <= quota.capacity() {
        assert_eq!(state.wait(quota, at(now + wait), cost), 0, "a retry in time is refused");
        assert!(state.wait(quota, at(now + wait - 1), cost) > 0, "an early retry passes");
    }

    let forgotten = state.expires_in(quota, at(now));
    assert_eq!(state.remaining(quota, at(now + forgotten)), quota.capacity());
    if forgotten > 0 {
        let before = state.remaining(quota, at(now + forgotten - 1));
        assert!(before < quota.capacity(), "kept longer than needed");
    }
}

/// Callers that wait one after another: the `wait` of costs beyond the capacity.
fn queue_of_single_units(algorithm: Algorithm, quota: Quota, used: u64, callers: u64) {
    let mut state = State::new(algorithm);
    state.consume(&quota, at(0), used);
    let waits: Vec<u64> = (1..=callers).map(|cost| state.wait(&quota, at(0), cost)).collect();
    let mut last = 0;
    for due in waits {
        assert_eq!(state.wait(&quota, at(due), 1), 0, "due at {due}");
        assert!(due == last || state.wait(&quota, at(due - 1), 1) > 0, "passes before {due}");
        last = due;
        state.consume(&quota, at(due), 1);
    }
}

fn quotas() -> impl Strategy<Value = Quota> {
    let window =
        prop_oneof![1u64..200, 1_000u64..100_000, Just(1_000_000_000), Just(3_600_000_000_000)];
    let units = prop_oneof![1u64..20, 1u64..5_000];
    (units, window)
        .prop_map(|(units, window)| Quota::per_window(units, Duration::from_nanos(window)))
}

#[derive(Clone, Debug)]
struct Step {
    /// Nanoseconds after the step before.
    later: u64,
    cost: u64,
    /// Whether the use before this one is taken back first.
    give_back: bool,
}

/// Steps near the scale of the quota: bursts, single intervals, whole windows.
fn steps(quota: Quota) -> impl Strategy<Value = Vec<Step>> {
    let window = quota.window_nanos();
    let interval = window.div_ceil(quota.units());
    let later = prop_oneof![
        4 => Just(0),
        4 => 0..=interval * 2,
        2 => Just(interval),
        2 => 0..=window / 30 + 1,
        1 => Just(window),
        1 => 0..=window * 2,
    ];
    let cost =
        prop_oneof![6 => Just(1u64), 3 => 0..=quota.capacity(), 1 => 0..=quota.capacity() * 2];
    let step = (later, cost, prop::bool::weighted(0.2)).prop_map(|(later, cost, give_back)| Step {
        later,
        cost,
        give_back,
    });
    prop::collection::vec(step, 1..120)
}

#[cfg(feature = "calendar")]
fn by_calendar() -> impl Strategy<Value = Quota> {
    use crate::calendar::Period;
    let period = prop::sample::select(vec![Period::Day, Period::Week, Period::Month, Period::Year]);
    let zone = prop::sample::select(vec!["UTC", "Europe/Berlin", "Asia/Tokyo", "Africa/Monrovia"]);
    (1u64..20, period, zone)
        .prop_map(|(units, period, zone)| Quota::per_calendar(units, period).in_zone(zone))
}

fn quota_and_steps() -> impl Strategy<Value = (Quota, Vec<Step>)> {
    quotas().prop_flat_map(|quota| (Just(quota), steps(quota)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn token_bucket((quota, steps) in quota_and_steps(), burst in prop::option::of(1u64..100)) {
        let quota = burst.map_or(quota, |burst| quota.burst(burst));
        compare(Algorithm::TokenBucket, quota, &steps, &mut Bucket::new(quota));
    }

    #[cfg(feature = "calendar")]
    #[test]
    fn fixed_window_by_the_calendar((quota, steps) in by_calendar().prop_flat_map(|quota| (Just(quota), steps(quota)))) {
        let mut oracle = Windows { quota, used: HashMap::new(), last: (0, 0) };
        compare(Algorithm::FixedWindow, quota, &steps, &mut oracle);
    }

    #[test]
    fn fixed_window((quota, steps) in quota_and_steps()) {
        let mut oracle = Windows { quota, used: HashMap::new(), last: (0, 0) };
        compare(Algorithm::FixedWindow, quota, &steps, &mut oracle);
    }

    #[test]
    fn sliding_window((quota, steps) in quota_and_steps()) {
        compare(Algorithm::SlidingWindow, quota, &steps, &mut Log { quota, uses: Vec::new() });
    }

    #[test]
    fn queued_callers_pass_at_their_turn(quota in quotas(), used in 0u64..5_000, callers in 1u64..60) {
        let used = used.min(quota.units());
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
            queue_of_single_units(algorithm, quota, used, callers);
        }
    }

    /// No number makes any arithmetic overflow.
    #[test]
    fn nothing_panics(
        units: u64, window: u64, burst: Option<u64>, calls in prop::collection::vec((any::<u64>(), any::<u64>()), 1..20)
    ) {
        let quota = Quota::per_window(units, Duration::from_nanos(window));
        let quota = burst.map_or(quota, |burst| quota.burst(burst));
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
            let mut state = State::new(algorithm);
            for &(now, cost) in &calls {
                let now = at(now);
                let _ = (state.wait(&quota, now, cost), state.remaining(&quota, now));
                let _ = (state.reset(&quota, now), state.expires_in(&quota, now));
                state.consume(&quota, now, cost);
                let left = (cost % 2 == 0).then_some((cost, now.monotonic_nanos()));
                let made = PastUse { at: now, cost, left, given_back: cost / 3 };
                state.give_back(&quota, at(cost), cost / 2, &made);
                state.record(&quota, now, cost);
                state.give_back(&quota, at(cost), cost / 2, &made);
                let other = Quota::per_window(cost, Duration::from_nanos(units)).burst(window);
                let state = state.convert(&quota, &other, now);
                let _ = (state.wait(&other, now, cost), state.reset(&other, now));
            }
        }
    }
}
