//! The sliding window log, in steps. They are so coarse that it stays small, and it never admits too much.
//!
//! Time is divided into steps of 1/60 of the window. Uses within a step share an entry, and the
//! entry leaves when the window has passed over its *last* use. So no interval of the window's
//! length ever holds more than the quota, and no unit comes back more than 1/60 of the window late.
//! A log holds at most 62 entries.

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::quota_state::{Charged, PastUse, QuotaState, units_required};
use crate::{clock::Now, quota::Quota};

pub(crate) const STEPS_PER_WINDOW: u64 = 60;

#[derive(Clone, Debug, Default)]
pub(crate) struct SlidingWindow {
    /// In order of time. Most callers make few requests in a window: uses in up to six steps need
    /// no heap.
    entries: SmallVec<[Entry; 6]>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    last_use: u64,
    units: u64,
}

impl SlidingWindow {
    /// The last use and the units of each entry, in order of time.
    pub(crate) fn entries(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> {
        self.entries.iter().map(|entry| (entry.last_use, entry.units))
    }

    /// Replaces the newest entry, of the same step.
    pub(crate) fn set_newest(&mut self, last_use: u64, units: u64) {
        if let Some(newest) = self.entries.last_mut() {
            *newest = Entry { last_use, units };
        }
    }

    /// When a use leaves the window.
    pub(crate) fn leaves(last_use: u64, quota: &Quota) -> u64 {
        Entry { last_use, units: 0 }.leaves(quota.window_nanos())
    }

    /// Adds units to the newest entry if that is of the same step, or else in an entry of their own.
    fn add(&mut self, used: Entry, window: u64) {
        match self.entries.last_mut() {
            Some(newest) if is_same_step(newest.last_use, used.last_use, window) => {
                newest.last_use = used.last_use;
                newest.units = newest.units.saturating_add(used.units);
            }
            _ => self.entries.push(used),
        }
    }

    /// Adds units at any time: to an entry of the same step, if there is one.
    fn insert(&mut self, used: Entry, window: u64) {
        let index = self.entries.partition_point(|entry| entry.last_use < used.last_use);
        let (before, after) = self.entries.split_at_mut(index);
        let is_of_step =
            |entry: &&mut Entry| step(entry.last_use, window) == step(used.last_use, window);
        if let Some(same) = after.first_mut().filter(is_of_step) {
            same.units = same.units.saturating_add(used.units);
        } else if let Some(same) = before.last_mut().filter(is_of_step) {
            same.last_use = used.last_use;
            same.units = same.units.saturating_add(used.units);
        } else {
            self.entries.insert(index, used);
        }
    }

    /// Forgets the entries that the window has passed over.
    fn forget_passed(&mut self, window: u64, now: u64) {
        let left = self.entries.partition_point(|entry| entry.leaves(window) <= now);
        if left > 0 {
            self.entries.drain(..left);
        }
    }

    /// The entries that the window has not yet passed over.
    fn counted(&self, quota: &Quota, now: u64) -> impl Iterator<Item = &Entry> {
        let window = quota.window_nanos();
        self.entries.iter().skip_while(move |entry| entry.leaves(window) <= now)
    }

    fn used(&self, quota: &Quota, now: u64) -> u64 {
        self.counted(quota, now).fold(0, |used, entry| used.saturating_add(entry.units))
    }

    /// How long until `cost` units fit beside the units `used`.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "neither the cost nor the units are 0, and what is counted leaves after now"
    )]
    fn wait_beside(&self, used: u64, quota: &Quota, now: u64, cost: u64) -> u64 {
        let (units, window) = (quota.units(), quota.window_nanos());
        if cost == 0 {
            return 0;
        }
        if units == 0 {
            return u64::MAX;
        }
        // The units beyond a whole quota wait for those before them, a window for each quota.
        let whole_windows = (cost - 1) / units;
        let cost = cost - whole_windows * units;
        let later = whole_windows.saturating_mul(window);
        let mut short = used.saturating_add(cost).saturating_sub(units);
        for entry in self.counted(quota, now) {
            if short == 0 {
                break;
            }
            short = short.saturating_sub(entry.units);
            if short == 0 {
                return (entry.leaves(window) - now).saturating_add(later);
            }
        }
        later
    }

    /// How long until fewer are used than `used`, or than the quota.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "what is counted leaves after now, and an excess is no less than what is taken off it"
    )]
    fn reset_from(&self, used: u64, quota: &Quota, now: u64) -> u64 {
        // With more used than the quota (a plan was lowered), the first to leave change nothing.
        let mut excess = used.saturating_sub(quota.units());
        for entry in self.counted(quota, now) {
            if entry.units > excess {
                return entry.leaves(quota.window_nanos()) - now;
            }
            excess -= entry.units;
        }
        0
    }
}

/// From the last use and the units of each entry.
impl FromIterator<(u64, u64)> for SlidingWindow {
    #[inline]
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(entries: I) -> Self {
        let entry = |(last_use, units)| Entry { last_use, units };
        Self { entries: entries.into_iter().map(entry).collect() }
    }
}

impl QuotaState for SlidingWindow {
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let now = now.monotonic_nanos();
        self.wait_beside(self.used(quota, now), quota, now, cost)
    }

    fn consume(&mut self, quota: &Quota, now: Now, cost: u64) {
        if cost == 0 {
            return;
        }
        let now = now.monotonic_nanos();
        let window = quota.window_nanos();
        self.forget_passed(window, now);
        // A thread that read the clock earlier may come later.
        let last_use = self.entries.last().map_or(now, |newest| now.max(newest.last_use));
        self.add(Entry { last_use, units: cost }, window);
    }

    fn consume_late(&mut self, quota: &Quota, now: Now, units: u64, at: Now) {
        let (now, window) = (now.monotonic_nanos(), quota.window_nanos());
        self.forget_passed(window, now);
        let used = Entry { last_use: at.monotonic_nanos().min(now), units };
        if units > 0 && used.leaves(window) > now {
            self.insert(used, window);
        }
    }

    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) -> u64 {
        let used_at = past_use.at.monotonic_nanos();
        if used_at.saturating_add(quota.window_nanos()) <= now.monotonic_nanos() {
            return 0;
        }
        let later = self.entries.partition_point(|entry| entry.last_use < used_at);
        // The entry of that moment first. Then the entries before it, as the moment may not be
        // known exactly.
        let mut left = units;
        for entry in self.entries.iter_mut().take(later.saturating_add(1)).rev() {
            let given = entry.units.min(left);
            entry.units = entry.units.saturating_sub(given);
            left = left.saturating_sub(given);
        }
        // An empty entry would still collect later uses, and later corrections of its moment.
        // Without it, a log of which all is given back is a new one.
        self.entries.retain(|entry| entry.units > 0);
        units.saturating_sub(left)
    }

    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        quota.units().saturating_sub(self.used(quota, now.monotonic_nanos()))
    }

    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        let now = now.monotonic_nanos();
        self.reset_from(self.used(quota, now), quota, now)
    }

    /// Sums the log up once.
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
        let nanos = now.monotonic_nanos();
        let mut used = self.used(quota, nanos);
        let wait = self.wait_beside(used, quota, nanos, units_required(ahead, cost));
        if wait == 0 && cost > 0 {
            self.consume(quota, now, cost);
            used = used.saturating_add(cost);
        }
        let remaining = quota.units().saturating_sub(used);
        Charged { wait, remaining, reset: self.reset_from(used, quota, nanos) }
    }

    /// What both windows still cover, in the steps of `to`.
    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self {
        let now = now.monotonic_nanos();
        let window = to.window_nanos();
        let mut log = Self::default();
        for entry in self.counted(from, now).filter(|entry| entry.leaves(window) > now) {
            log.add(*entry, window);
        }
        log
    }

    /// At any later time, a log counts what was used since some moment. So for each moment, the merged log has
    /// the larger of what both logs have used since then.
    fn merge(&mut self, other: &Self, quota: &Quota, now: Now) {
        let (now, window) = (now.monotonic_nanos(), quota.window_nanos());
        let of = |log: &Self, is_mine| -> SmallVec<[(Entry, bool); 12]> {
            log.counted(quota, now).map(|entry| (*entry, is_mine)).collect()
        };
        let mut uses = of(self, true);
        uses.extend(of(other, false));
        uses.sort_unstable_by_key(|(entry, _)| Reverse(entry.last_use));
        let (mut mine, mut theirs, mut counted) = (0_u64, 0_u64, 0_u64);
        for (entry, is_mine) in &mut uses {
            let since = if *is_mine { &mut mine } else { &mut theirs };
            *since = since.saturating_add(entry.units);
            let most = mine.max(theirs);
            entry.units = most.saturating_sub(counted);
            counted = most;
        }
        self.entries.clear();
        for (entry, _) in uses.into_iter().rev().filter(|(entry, _)| entry.units > 0) {
            self.add(entry, window);
        }
    }

    fn looks_back(&self, quota: &Quota, _now: Now) -> u64 {
        quota.window_nanos()
    }

    fn expires_in(&self, quota: &Quota, now: Now) -> u64 {
        let newest = self.entries.last().map_or(0, |entry| entry.leaves(quota.window_nanos()));
        newest.saturating_sub(now.monotonic_nanos())
    }
}

/// The number of the step, from the beginning of time on.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "128 bits hold the product of two 64, and the window is not 0"
)]
fn step(time: u64, window: u64) -> u128 {
    let window = window.max(1);
    match time.checked_mul(STEPS_PER_WINDOW) {
        Some(steps) => u128::from(steps / window),
        None => u128::from(time) * u128::from(STEPS_PER_WINDOW) / u128::from(window),
    }
}

/// The first time that is of a later step than this one; `None` where it is centuries ahead.
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a quotient of 60 times a number has room for one more, and the window is not 0"
)]
pub(crate) fn next_step(time: u64, window: u64) -> Option<u64> {
    let window = window.max(1);
    let next = (time.checked_mul(STEPS_PER_WINDOW)? / window + 1).checked_mul(window)?;
    Some(next.div_ceil(STEPS_PER_WINDOW))
}

/// Whether two times are of the same step. The second is not before the first.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the window is not 0, and a quotient has room for one more"
)]
pub(crate) fn is_same_step(earlier: u64, later: u64, window: u64) -> bool {
    let steps = |time: u64| time.checked_mul(STEPS_PER_WINDOW);
    let next = |earlier: u64| (earlier / window.max(1) + 1).checked_mul(window.max(1));
    // One division, and not two.
    match (steps(earlier).and_then(next), steps(later)) {
        (Some(next), Some(later)) => later < next,
        _ => step(earlier, window) == step(later, window),
    }
}

impl Entry {
    fn leaves(&self, window: u64) -> u64 {
        self.last_use.saturating_add(window)
    }
}
