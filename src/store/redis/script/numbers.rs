//! The numbers that the script counts with, which are exact below 2^53; and a quota in them: [`Rate`].

use std::time::Duration;

use super::calendars;
use crate::{
    algorithm::Algorithm,
    clock::Now,
    quota::{MAX_UNITS, MAX_WINDOW, Quota},
    store::{Correction, Usage},
};

pub(super) const NANOS_PER_MICRO: u64 = 1_000;
/// Whole numbers are exact below this.
pub(super) const EXACT: u64 = 1 << 53;
/// Counts end here, far above every quota.
pub(super) const MAX_COUNT: u64 = 1 << 52;
pub(super) const MAX_WINDOW_MICROS: u64 = MAX_WINDOW / NANOS_PER_MICRO;

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rate {
    pub(super) units: u64,
    /// In microseconds; or the [number](calendars::number) of a calendar.
    pub(super) window: u64,
    pub(super) capacity: u64,
}

impl Rate {
    /// All numbers and their sums are exact in the script: a quota that a builder accepts has units and
    /// a window far below 2^52. Any other quota is counted as a slower one, or as none.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a divisor of both is not 0, and no more than either"
    )]
    pub(super) fn new(algorithm: Algorithm, quota: &Quota) -> Self {
        let units = quota.units().clamp(1, MAX_UNITS);
        if algorithm == Algorithm::FixedWindow
            && let Some(window) = calendars::number(quota)
        {
            return Self { units, window, capacity: quota.units().min(MAX_UNITS) };
        }
        // Rounded up: never faster than the quota.
        let window = quota.window_nanos().max(1).div_ceil(NANOS_PER_MICRO);
        let capacity = match quota.units() {
            0 => 0,
            _ if window > MAX_WINDOW_MICROS && !quota.is_unlimited() => 0,
            _ => algorithm.capacity(quota).min(MAX_UNITS),
        };
        let window = window.min(MAX_WINDOW_MICROS);
        // For a bucket only the ratio matters, and small numbers keep the arithmetic short.
        let common = if algorithm == Algorithm::TokenBucket { gcd(units, window) } else { 1 };
        Self { units: units / common, window: window / common, capacity }
    }

    /// What was missing in a bucket when it had this usage, as whole units and parts of one unit. `None`
    /// where that is not known.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the sum of a capacity and one is exact, and so is a time by a count"
    )]
    pub(super) fn missing(&self, usage: &Usage) -> Option<(u64, u64)> {
        if !usage.is_known() {
            return None;
        }
        let Some(others) = self.capacity.saturating_sub(usage.remaining()).checked_sub(1) else {
            return Some((0, 0));
        };
        // The parts of the unit that comes back next.
        let parts = usage.reset().as_nanos() * u128::from(self.units) / u128::from(NANOS_PER_MICRO);
        match u64::try_from(parts).ok().filter(|parts| *parts < self.window) {
            Some(parts) => Some((others, parts)),
            None => Some((others + 1, 0)),
        }
    }

    /// The quota by which the algorithms count the script's states of `quota`. Its nanoseconds are the
    /// script's microseconds.
    pub(super) fn quota(&self, algorithm: Algorithm, quota: &Quota) -> Quota {
        if algorithm == Algorithm::FixedWindow
            && let Some(quota) = quota.in_micros()
        {
            return quota.with_units(self.capacity);
        }
        let window = Duration::from_nanos(self.window);
        match algorithm {
            Algorithm::TokenBucket => Quota::per_window(self.units, window).burst(self.capacity),
            Algorithm::InFlight => Quota::in_flight(self.capacity),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => {
                Quota::per_window(self.capacity, window)
            }
        }
    }
}

#[expect(clippy::arithmetic_side_effects, reason = "it ends before it divides by 0")]
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The correction of units in flight with the number of a statement, which is in the place of a time.
pub(crate) fn stamped(correction: &Correction, statement: u64) -> Correction {
    let number = Duration::from_micros(statement);
    Correction { charged_at: Some(Now::new(number, number)), ..*correction }
}

/// The script has one clock, which shows the time since 1970.
pub(super) fn micros(now: Now) -> u64 {
    (now.unix_nanos() / NANOS_PER_MICRO).min(EXACT - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_becomes_small_numbers_and_never_a_faster_quota() {
        let rate = |algorithm, quota: Quota| {
            let Rate { units, window, capacity } = Rate::new(algorithm, &quota);
            (units, window, capacity)
        };
        let per_minute = Quota::per_minute(600);
        assert_eq!(rate(Algorithm::TokenBucket, per_minute), (1, 100_000, 600));
        assert_eq!(rate(Algorithm::TokenBucket, per_minute.burst(5)), (1, 100_000, 5));
        assert_eq!(rate(Algorithm::FixedWindow, per_minute), (600, 60_000_000, 600));
        let odd = Quota::per_window(3, Duration::from_nanos(7_001));
        assert_eq!(rate(Algorithm::SlidingWindow, odd), (3, 8, 3));
        // No builder accepts these: nothing fits.
        let century = Duration::from_nanos(MAX_WINDOW);
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow]
        {
            for none in [
                Quota::per_window(0, Duration::ZERO),
                Quota::per_second(0).burst(5),
                Quota::per_window(9, century + Duration::from_micros(1)),
            ] {
                assert_eq!(rate(algorithm, none).2, 0, "{algorithm:?} of {none:?}");
            }
            // It is never counted. If it were, as much as can be counted would fit.
            assert_eq!(rate(algorithm, Quota::unlimited()).2, MAX_UNITS);
        }
    }

    /// A count may be twice the capacity, and is added to.
    #[test]
    fn what_can_be_built_is_exact_in_the_script() {
        let century = Duration::from_nanos(MAX_WINDOW);
        let most = Quota::per_window(MAX_UNITS, century).burst(MAX_UNITS);
        assert!(most.problem().is_none());
        for algorithm in [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow]
        {
            let Rate { units, window, capacity } = Rate::new(algorithm, &most);
            assert!([units, window, 2 * capacity].iter().all(|number| *number < MAX_COUNT));
        }
    }
}
