//! Charges of a sliding window in its entry: [`charge`] does what
//! [`SlidingWindow`](crate::algorithm::SlidingWindow) does, on the packed words. To unpack a log, and to pack
//! it again, takes several times as long.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use super::entry::{Entry, OlderSteps, bits_of_window, pack_step, unpack_step};
use crate::{
    algorithm::{Charged, SlidingWindow, is_same_step},
    clock::Now,
    quota::Quota,
};

/// Charges the log in an entry, under the quota that it is counted by. `None` in rare cases, in which the log
/// has to be unpacked: it needs more steps than an entry has, it is empty, the cost is 0, or the cost and
/// what is reserved ahead of it exceed the quota.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "what is counted leaves after now, each older step was before the newest, and no more is \
              used than the quota where the units fit"
)]
pub(super) fn charge<const N: usize>(
    entry: &Entry<N>,
    quota: &Quota,
    now: Now,
    ahead: u64,
    cost: u64,
) -> Option<(Charged, Entry<N>)> {
    let (now, units, window) = (now.monotonic_nanos(), quota.units(), quota.window_nanos());
    let (newest_use, newest_units) = (entry.time(), entry.number());
    let required = ahead.checked_add(cost)?;
    if cost == 0 || required > units || newest_units == 0 {
        return None;
    }
    let older = entry.0.get(2..N.checked_sub(1)?)?;
    // The time of each step is only known from that of the newest, which may change.
    let mut log = Log { newest: (newest_use, newest_units), older, quota, window, now, counted: 0 };
    let used = log.count();
    let wait = log.wait(used.saturating_add(required).saturating_sub(units));
    if wait > 0 {
        let reset = log.reset(used.saturating_sub(units));
        return Some((Charged { wait, remaining: units.saturating_sub(used), reset }, *entry));
    }
    let last_use = now.max(newest_use);
    let is_newest_counted = log.counted > 0;
    let merges = is_newest_counted && is_same_step(newest_use, last_use, window);
    // With no more used than the quota, the next units come back when the oldest step leaves.
    let first = log.first().filter(|(first_use, _)| !merges || *first_use != newest_use);
    let reset = log.leaves(first.map_or(last_use, |(first_use, _)| first_use)) - now;
    let after = log.with_use(entry, last_use, cost, merges)?;
    Some((Charged { wait: 0, remaining: units - used - cost, reset }, after))
}

/// Charges a long log by the sum of its older steps, under the quota that it is counted by. `None` if a
/// step has left since the sum was made, or if a step begins, and where [`charge`] answers `None`.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "what leaves later than now is counted, and no more is used than the quota where the units \
              fit"
)]
pub(super) fn charge_long<const N: usize>(
    entry: &Entry<N>,
    older: &OlderSteps,
    quota: &Quota,
    now: Now,
    ahead: u64,
    cost: u64,
) -> Option<(Charged, Entry<N>)> {
    let (now, units) = (now.monotonic_nanos(), quota.units());
    let (newest_use, newest_units) = (entry.time(), entry.number());
    let required = ahead.checked_add(cost)?;
    let newest_leaves = SlidingWindow::leaves(newest_use, quota);
    let (first_leaves, first_units) = match older.first_units {
        0 => (newest_leaves, newest_units),
        units => (older.first_leaves, units),
    };
    if cost == 0 || required > units || first_leaves <= now {
        return None;
    }
    let used = older.units.saturating_add(newest_units);
    let short = used.saturating_add(required).saturating_sub(units);
    if short > 0 {
        let until_first = first_leaves - now;
        let is_enough = short <= first_units && used.saturating_sub(units) < first_units;
        let remaining = units.saturating_sub(used);
        let refused = Charged { wait: until_first, remaining, reset: until_first };
        return is_enough.then_some((refused, *entry));
    }
    let last_use = now.max(newest_use);
    if last_use >= older.next_step {
        return None;
    }
    let mut after = *entry;
    after.set(last_use, newest_units.checked_add(cost)?)?;
    let first_leaves = match older.first_units {
        0 => SlidingWindow::leaves(last_use, quota),
        _ => first_leaves,
    };
    let (remaining, reset) = (units - used - cost, first_leaves - now);
    Some((Charged { wait: 0, remaining, reset }, after))
}

/// The log in an entry.
struct Log<'a> {
    /// The last use, and the units of its step.
    newest: (u64, u64),
    /// The words of the older steps, the newest first. Those that are not used are 0.
    older: &'a [u64],
    quota: &'a Quota,
    window: u64,
    now: u64,
    /// How many steps are still in the window, counted from the newest.
    counted: usize,
}

impl Log<'_> {
    const fn leaves(&self, last_use: u64) -> u64 {
        last_use.saturating_add(self.window)
    }

    /// The last use and the units of the older step at `index`; `None` if there is none.
    #[expect(clippy::arithmetic_side_effects, reason = "each older step was before the newest")]
    fn older(&self, index: usize) -> Option<(u64, u64)> {
        let word = *self.older.get(index)?;
        let (before, units) = unpack_step(word, self.quota);
        (word != 0).then(|| (self.newest.0 - before, units))
    }

    /// Counts the steps, and sums up their units.
    #[expect(clippy::arithmetic_side_effects, reason = "an entry has few words")]
    fn count(&mut self) -> u64 {
        if self.leaves(self.newest.0) <= self.now {
            return 0;
        }
        let mut used = self.newest.1;
        self.counted = 1;
        while let Some((last_use, units)) = self.older(self.counted - 1) {
            if self.leaves(last_use) <= self.now {
                break;
            }
            used = used.saturating_add(units);
            self.counted += 1;
        }
        used
    }

    /// The steps that count, the oldest first.
    #[expect(clippy::arithmetic_side_effects, reason = "the range begins at 1")]
    fn steps(&self) -> impl Iterator<Item = (u64, u64)> {
        let older = (1..self.counted).rev().filter_map(|step| self.older(step - 1));
        older.chain((self.counted > 0).then_some(self.newest))
    }

    fn first(&self) -> Option<(u64, u64)> {
        self.steps().next()
    }

    /// How long until so many units have come back; 0 for none.
    #[expect(clippy::arithmetic_side_effects, reason = "what is counted leaves after now")]
    fn wait(&self, mut short: u64) -> u64 {
        if short == 0 {
            return 0;
        }
        for (last_use, units) in self.steps() {
            short = short.saturating_sub(units);
            if short == 0 {
                return self.leaves(last_use) - self.now;
            }
        }
        0
    }

    /// How long until fewer are used than the quota, of which so many are used in `excess`.
    #[expect(clippy::arithmetic_side_effects, reason = "what is counted leaves after now")]
    fn reset(&self, mut excess: u64) -> u64 {
        for (last_use, units) in self.steps() {
            if units > excess {
                return self.leaves(last_use) - self.now;
            }
            excess -= units;
        }
        0
    }

    /// The entry after one more use; `None` if it has no room.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the last use is no earlier than the newest"
    )]
    fn with_use<const N: usize>(
        &self,
        entry: &Entry<N>,
        last_use: u64,
        cost: u64,
        merges: bool,
    ) -> Option<Entry<N>> {
        let (moved, mut after) = (last_use - self.newest.0, *entry);
        let number = if merges { self.newest.1.checked_add(cost)? } else { cost };
        after.set(last_use, number)?;
        let mut words = after.0.get_mut(2..N.checked_sub(1)?)?.iter_mut();
        if !merges && self.counted > 0 {
            *words.next()? = pack_step(moved, self.newest.1, self.quota)?;
        }
        let bits = bits_of_window(self.quota);
        for word in self.older.iter().take(self.counted.saturating_sub(1)) {
            let before = word & ((1 << bits) - 1);
            // Less than the window, as the step is counted: it does not reach the units.
            debug_assert!((before + moved) >> bits == 0);
            *words.next()? = word + moved;
        }
        words.for_each(|word| *word = 0);
        Some(after)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::{
        algorithm::{Algorithm, QuotaState, State},
        store::memory::{address::Address, entry::LOG, quota_table::QuotaTable},
    };

    fn at(nanos: u64) -> Now {
        Now::new(Duration::from_nanos(nanos), Duration::ZERO)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// Whatever was used before, in up to six steps, and more than the quota if its plan was lowered.
        #[test]
        fn a_packed_log_is_charged_as_an_unpacked_one(
            (units, step, begins) in (1_u64..40, 1_u64..1_000, 0_u64..1_000_000),
            uses in prop::collection::vec((0_u64..90_000, 1_u64..20), 0..12),
            (later, is_behind, ahead, cost) in (0_u64..90_000, any::<bool>(), 0_u64..20, 0_u64..20),
        ) {
            let quotas = QuotaTable::new();
            // Now and then of a length that 60 does not divide.
            let quota = Quota::per_window(units, Duration::from_nanos(60 * step + units % 3));
            let mut state = State::new(Algorithm::SlidingWindow);
            let mut time = begins;
            for (later, units) in uses {
                time += later * step / 1_000;
                state.consume(&quota, at(time), units);
            }
            let entry = Entry::<LOG>::pack(&Address::new(1), 7, &state, &quota, &quotas);
            let Some(entry) = entry else { return Ok(()) };
            // A thread that read the clock earlier may come later.
            let later = later * step / 1_000;
            let now = at(if is_behind { time.saturating_sub(later) } else { time + later });
            let mut unpacked = entry.sliding_window(&quotas).unwrap();
            let charged = unpacked.charge(&quota, now, ahead, cost);
            let is_made = charged.wait == 0 && cost > 0;
            let after = if is_made { entry.with(&unpacked, &quota) } else { Some(entry) };
            match (charge(&entry, &quota, now, ahead, cost), after) {
                (Some((packed, entry)), Some(after)) => {
                    prop_assert_eq!(packed, charged);
                    prop_assert_eq!(entry.0, after.0);
                }
                (None, None) => {}
                (None, Some(_)) => {
                    let is_empty = entry.number() == 0;
                    prop_assert!(cost == 0 || ahead + cost > units || is_empty);
                }
                (Some(_), None) => prop_assert!(false, "it has no room"),
            }
        }

        /// The sum of a log answers as the log, or not at all.
        #[test]
        fn a_long_log_is_charged_by_its_sum_as_the_log_is(
            (units, step, begins) in (1_u64..40, 1_u64..1_000, 0_u64..1_000_000),
            uses in prop::collection::vec((0_u64..3_000, 1_u64..20), 1..40),
            (later, is_behind, ahead, cost) in (0_u64..90_000, any::<bool>(), 0_u64..20, 0_u64..20),
        ) {
            let (quotas, address) = (QuotaTable::new(), Address::new(1));
            let quota = Quota::per_window(units, Duration::from_nanos(60 * step + units % 3));
            let (mut log, mut time) = (SlidingWindow::default(), begins);
            for (later, units) in uses {
                time += later * step / 1_000;
                log.consume(&quota, at(time), units);
            }
            let entry = Entry::<LOG>::long_log(&address, 7, (&quota, &log), &quotas, 5).unwrap();
            let older = entry.older_steps().unwrap();
            let later = later * step / 10_000;
            let now = at(if is_behind { time.saturating_sub(later) } else { time + later });
            let is_soon = now.monotonic_nanos() < older.next_step;
            let mut expected = log.clone();
            let charged = expected.charge(&quota, now, ahead, cost);
            match charge_long(&entry, &older, &quota, now, ahead, cost) {
                Some((by_sum, after)) => {
                    prop_assert_eq!(by_sum, charged);
                    let expected = entry.with_long_log(&expected, &quota, 5).unwrap();
                    prop_assert_eq!(after.0, expected.0);
                }
                None => {
                    let has_left = log.entries().next().is_some_and(|(last_use, _)| {
                        SlidingWindow::leaves(last_use, &quota) <= now.monotonic_nanos()
                    });
                    let is_refused = charged.wait > 0;
                    prop_assert!(cost == 0 || has_left || !is_soon || is_refused);
                }
            }
        }
    }
}
