//! Each algorithm against a naive one: any quota, any sequence of times and costs.

use std::{collections::HashMap, time::Duration};

use proptest::prelude::*;

use super::{Algorithm, Count, State};
use crate::{clock::Now, quota::Quota};

/// The simplest thing that could be right.
trait Oracle {
    /// Whether `cost` fits at `now`; if so it is used.
    fn admit(&mut self, now: u64, cost: u64) -> bool;
    /// The last use was none after all.
    fn give_back(&mut self, now: u64);
    /// The least and the most that may be left at `now`.
    fn left(&mut self, now: u64) -> (u64, u64);
}

/// Tokens in units of 1/window: each nanosecond adds `units` of these.
struct Bucket {
    quota: Quota,
    level: u128,
    at: u64,
    last: u64,
}

impl Bucket {
    fn new(quota: Quota) -> Self {
        Self { quota, level: u128::from(quota.capacity()) * window(quota), at: 0, last: 0 }
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
            self.last = (cost / window(self.quota)) as u64;
        }
        fits
    }

    fn give_back(&mut self, now: u64) {
        let full = u128::from(self.quota.capacity()) * window(self.quota);
        self.flow(now);
        self.level = (self.level + u128::from(self.last) * window(self.quota)).min(full);
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
        let used = self.used.entry(now / self.quota.window_nanos()).or_default();
        let fits = *used + cost <= self.quota.units();
        if fits {
            *used += cost;
            self.last = (now / self.quota.window_nanos(), cost);
        }
        fits
    }

    fn give_back(&mut self, _: u64) {
        let (window, cost) = self.last;
        *self.used.entry(window).or_default() -= cost;
    }

    fn left(&mut self, now: u64) -> (u64, u64) {
        let used = self.used.get(&(now / self.quota.window_nanos())).copied().unwrap_or(0);
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
    /// Told by the subject what it admitted: the oracle only knows what it must and must not.
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

fn at(nanos: u64) -> Now {
    Now::new(Duration::from_nanos(nanos), Duration::from_nanos(nanos))
}

/// Runs the subject beside the oracle, and asks it at each step whether what it says of the future
/// comes true.
fn compare(algorithm: Algorithm, quota: Quota, steps: &[Step], oracle: &mut dyn Oracle) {
    let mut state = State::new(algorithm);
    let mut now = 0;
    let mut last = None;
    for &Step { later, cost, give_back } in steps {
        now += later;
        if let Some((at_last, cost)) = last.take().filter(|_| give_back) {
            state.give_back(&quota, at(now), at(at_last), cost);
            oracle.give_back(now);
        }
        let (least, most) = oracle.left(now);
        let remaining = state.remaining(&quota, at(now));
        assert!(least <= remaining && remaining <= most, "{least} <= {remaining} <= {most}");

        let fits = state.wait(&quota, at(now), cost) == 0;
        assert_eq!(fits, cost <= remaining, "remaining is what fits, at {now}");
        if fits {
            assert!(oracle.admit(now, cost), "over the quota at {now}");
            state.take(&quota, at(now), cost);
            assert_eq!(state.remaining(&quota, at(now)), remaining - cost);
            last = Some((now, cost));
        }
        told_truly(&state, &quota, now, cost);
    }
}

/// What `state` says of the future is neither early nor late.
fn told_truly(state: &State, quota: &Quota, now: u64, cost: u64) {
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

    let forgotten = state.forgotten_in(quota, at(now));
    assert_eq!(state.remaining(quota, at(now + forgotten)), quota.capacity());
    if forgotten > 0 {
        let before = state.remaining(quota, at(now + forgotten - 1));
        assert!(before < quota.capacity(), "kept longer than needed");
    }
}

/// Several callers who each wait their turn: what `wait` says of costs beyond the capacity.
fn queue_of_single_units(algorithm: Algorithm, quota: Quota, used: u64, callers: u64) {
    let mut state = State::new(algorithm);
    state.take(&quota, at(0), used);
    let told: Vec<u64> = (1..=callers).map(|cost| state.wait(&quota, at(0), cost)).collect();
    let mut last = 0;
    for due in told {
        assert_eq!(state.wait(&quota, at(due), 1), 0, "due at {due}");
        assert!(due == last || state.wait(&quota, at(due - 1), 1) > 0, "passes before {due}");
        last = due;
        state.take(&quota, at(due), 1);
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
    fn those_who_queue_are_told_their_turn(quota in quotas(), used in 0u64..5_000, callers in 1u64..60) {
        let used = used.min(quota.units());
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow] {
            queue_of_single_units(algorithm, quota, used, callers);
        }
    }

    /// Whatever numbers come in, no arithmetic overflows.
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
                let _ = (state.reset(&quota, now), state.forgotten_in(&quota, now));
                state.take(&quota, now, cost);
                state.give_back(&quota, at(cost), now, cost / 2);
            }
        }
    }
}

const SECOND: u64 = 1_000_000_000;
const ALL: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

#[test]
fn a_third_of_a_second_is_exact() {
    let quota = Quota::per_second(3);
    let mut state = State::new(Algorithm::TokenBucket);
    state.take(&quota, at(7), 3);
    assert_eq!(state.remaining(&quota, at(7 + SECOND - 1)), 2);
    assert_eq!(state.remaining(&quota, at(7 + SECOND)), 3);
}

#[test]
fn what_was_used_stays_used_when_the_plan_changes() {
    for algorithm in ALL {
        let mut state = State::new(algorithm);
        let now = at(60 * SECOND);
        let first = Quota::per_minute(100);
        state.take(&first, now, 50);
        let left = |quota: Quota| {
            let mut state = state.clone();
            state.under(&first, &quota, now);
            state.remaining(&quota, now)
        };
        assert_eq!(left(Quota::per_minute(1_000)), 950, "{algorithm:?} raised");
        assert_eq!(left(Quota::per_minute(60)), 10, "{algorithm:?} lowered");
        assert_eq!(left(Quota::per_minute(20)), 0, "{algorithm:?} far lowered");
        assert_eq!(left(Quota::per_hour(1_000)), 950, "{algorithm:?} with a longer window");

        let raised = Quota::per_minute(1_000);
        state.under(&first, &raised, now);
        state.take(&raised, now, 900);
        assert_eq!(state.remaining(&raised, now), 50, "{algorithm:?}");
    }
}

#[test]
fn a_lowered_plan_blocks_no_longer_than_its_own_window() {
    for algorithm in ALL {
        let mut state = State::new(algorithm);
        let now = at(60 * SECOND);
        let (first, lowered) = (Quota::per_minute(1_000), Quota::per_minute(10));
        state.take(&first, now, 1_000);
        state.under(&first, &lowered, now);
        let wait = state.wait(&lowered, now, 1);
        assert!(wait <= 60 * SECOND, "{algorithm:?} waits {wait}");
        assert_eq!(state.reset(&lowered, now), wait, "{algorithm:?}");
    }
}

#[test]
fn windows_begin_on_the_hour() {
    let quota = Quota::per_hour(1_000);
    let mut state = State::new(Algorithm::FixedWindow);
    // 2024-01-16 10:59:59 UTC
    let unix =
        |seconds: u64| Now::new(Duration::ZERO, Duration::from_secs(1_705_402_799 + seconds));
    state.take(&quota, unix(0), 1_000);
    assert_eq!(state.wait(&quota, unix(0), 1), SECOND);
    assert_eq!(state.remaining(&quota, unix(1)), 1_000);
}

#[test]
fn a_wall_clock_set_back_neither_grants_a_window_twice_nor_blocks_for_hours() {
    let quota = Quota::per_minute(10);
    let read = |seconds: u64| Now::new(Duration::ZERO, Duration::from_secs(86_400 + seconds));
    let mut state = State::new(Algorithm::FixedWindow);
    state.take(&quota, read(60), 10);
    // A second back, over the edge of the window: it is still the later one.
    assert_eq!(state.remaining(&quota, read(59)), 0);
    assert_eq!(state.wait(&quota, read(59), 1), 61 * SECOND);
    // Twelve hours back: what was used stays used, until the end of the minute it is now.
    let back = Now::new(Duration::ZERO, Duration::from_secs(43_230));
    assert_eq!(state.remaining(&quota, back), 0);
    assert_eq!(state.wait(&quota, back, 1), 30 * SECOND);
}

#[test]
fn only_fixed_windows_follow_the_wall_clock() {
    let quota = Quota::per_minute(10);
    let later = Now::new(Duration::from_secs(1), Duration::from_secs(7_200));
    for (algorithm, left) in
        [(Algorithm::TokenBucket, 0), (Algorithm::SlidingWindow, 0), (Algorithm::FixedWindow, 10)]
    {
        let mut state = State::new(algorithm);
        state.take(&quota, Now::new(Duration::ZERO, Duration::from_secs(60)), 10);
        assert_eq!(state.remaining(&quota, later), left, "{algorithm:?}");
    }
}

#[test]
fn a_thread_that_read_the_clock_earlier_may_come_later() {
    for algorithm in ALL {
        let quota = Quota::per_second(2);
        let mut state = State::new(algorithm);
        state.take(&quota, at(5 * SECOND), 1);
        state.take(&quota, at(5 * SECOND - 1), 1);
        assert_eq!(state.remaining(&quota, at(5 * SECOND - 1)), 0, "{algorithm:?}");
        assert_eq!(state.remaining(&quota, at(5 * SECOND)), 0, "{algorithm:?}");
    }
}

#[test]
fn a_sliding_log_stays_small() {
    let quota = Quota::per_minute(1_000_000);
    let mut state = State::new(Algorithm::SlidingWindow);
    let mut largest = 0;
    for step in 0..10_000u64 {
        state.take(&quota, at(step * 37_000_000), 1);
        let State::SlidingWindow(log) = &state else { unreachable!() };
        largest = largest.max(log.len());
    }
    assert!((55..=62).contains(&largest), "{largest} entries");
}
