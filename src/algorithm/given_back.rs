//! What was given back to a key's bucket lately: [`GivenBack`].
//!
//! A bucket refills units in the order in which they were used. If a use gives units back, the units of later
//! uses move forward: the clock brings them back earlier. A correction must not give these back once more. So
//! it has to know how many units were given back *since* its charge, of uses that were *no later* than its
//! charge.

use crate::clock::Now;

/// The most steps that are kept.
const MAX_STEPS: usize = 16;

/// For each time of a use, the units that were given back since then, of uses that were no later. This is a
/// function in steps.
#[derive(Clone, Debug, Default)]
pub(crate) struct GivenBack {
    /// The last monotonic nanosecond of each step, and the units that were given back since a use in this
    /// step. The earliest step comes first, and has no beginning. There are none for uses after the last step.
    steps: Vec<(u64, u64)>,
    /// The monotonic nanosecond at which the steps stop mattering: no use counts any more that was made before
    /// the last unit was given back.
    expires_at: u64,
}

impl GivenBack {
    /// The units that were given back since a use, of uses that were no later. Times of uses are in
    /// monotonic nanoseconds.
    pub(crate) fn since(&self, used_at: u64, now: Now) -> u64 {
        let step = self.steps.iter().find(|(until, _)| used_at <= *until);
        step.filter(|_| self.expires_in(now) > 0).map_or(0, |(_, units)| *units)
    }

    /// Adds units of a use that are given back now. `used_at` is 0 if the time of the use is not known, as it
    /// may have been the first use. A use counts for `longest` nanoseconds at most.
    pub(crate) fn add(&mut self, units: u64, used_at: u64, now: Now, longest: u64) {
        if self.expires_in(now) == 0 {
            self.steps.clear();
        }
        let now = now.monotonic_nanos();
        self.expires_at = self.expires_at.max(now.saturating_add(longest));
        let used_at = used_at.min(now);
        if let Some(before) = used_at.checked_sub(1) {
            self.split(before);
        }
        self.split(now);
        for (_, since) in self.steps.iter_mut().filter(|(until, _)| *until >= used_at) {
            *since = since.saturating_add(units);
        }
        while self.steps.len() > MAX_STEPS {
            self.merge_two();
        }
    }

    /// For how many nanoseconds it still matters.
    pub(crate) fn expires_in(&self, now: Now) -> u64 {
        self.expires_at.saturating_sub(now.monotonic_nanos())
    }

    /// The monotonic nanosecond from which on it may be forgotten.
    pub(crate) fn expires_at(&self) -> u64 {
        self.expires_at
    }

    /// Makes a step end at `until`.
    fn split(&mut self, until: u64) {
        let index = self.steps.partition_point(|(other, _)| *other < until);
        let units = match self.steps.get(index) {
            Some((other, _)) if *other == until => return,
            Some((_, units)) => *units,
            None => 0,
        };
        self.steps.insert(index, (until, units));
    }

    /// Merges the two steps that differ least. The larger number stays, so that corrections give back too
    /// few units, and not too many.
    #[expect(clippy::indexing_slicing, reason = "a pair has two steps, and begins at its index")]
    fn merge_two(&mut self) {
        let differences = self.steps.windows(2).map(|pair| pair[0].1.abs_diff(pair[1].1));
        if let Some((index, _)) = differences.enumerate().min_by_key(|(_, difference)| *difference)
        {
            let (_, units) = self.steps.remove(index);
            self.steps[index].1 = self.steps[index].1.max(units);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Compares with a list of all units that were ever given back: the answer is exact while there are few
        /// steps, and never too small after that.
        #[test]
        fn no_unit_that_was_given_back_is_forgotten(
            steps in prop::collection::vec((0..50_u64, 0..60_u64, 1..9_u64), 1..60),
            ask in prop::collection::vec(0..120_u64, 1..20),
        ) {
            let at = |nanos| Now::new(Duration::from_nanos(nanos), Duration::ZERO);
            let (mut given_back, mut all, mut now) = (GivenBack::default(), Vec::new(), 0);
            for (later, ago, units) in steps {
                now += later;
                let used_at = now.saturating_sub(ago);
                given_back.add(units, used_at, at(now), u64::MAX);
                all.push((used_at, now, units));
                for ago in &ask {
                    let used = now.saturating_sub(*ago);
                    let since = all.iter().filter(|(from, to, _)| *from <= used && used <= *to);
                    let exact: u64 = since.map(|(.., units)| units).sum();
                    let answered = given_back.since(used, at(now));
                    prop_assert!(answered >= exact);
                    if 2 * all.len() <= MAX_STEPS {
                        prop_assert_eq!(answered, exact);
                    }
                }
            }
        }
    }
}
