//! The units that a request uses under one policy: [`Count`].

use std::sync::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Release},
};

use smallvec::SmallVec;

use super::failure::Failure;
use crate::{
    limiter::Labels,
    store::{Change, Charge, Correction},
};

/// The units that a request has used under one policy.
pub(in crate::limiter) struct Count {
    pub(super) policy: &'static str,
    /// A dry run is counted, and refuses no request.
    is_dry_run: bool,
    /// The charge, and the answer to it.
    pub(super) charged: Correction,
    /// The units that are charged: as many as were reserved, unless the head of the response has settled
    /// another number.
    reserved: AtomicU64,
    used: AtomicU64,
    pub(super) failure: Failure,
}

/// In `used`: the request has ended, and what is added from now on is charged at once.
const ENDED: u64 = 1 << 63;
/// In `used`, at the end: the units used by then are charged, and no longer those reserved.
const SETTLED: u64 = 1 << 62;
/// In `used`: the units plus 1; 0 if nothing was ever added.
const UNITS: u64 = SETTLED.saturating_sub(1);

impl Count {
    /// Nothing is used yet of what is `charged`, a correction that changes nothing.
    pub(in crate::limiter) fn new(
        labels: &'static Labels,
        is_dry_run: bool,
        charged: Correction,
    ) -> Self {
        let (reserved, used) = (AtomicU64::new(charged.charge.cost), AtomicU64::new(0));
        let failure = Failure::new(labels);
        Self { policy: &labels.policy, is_dry_run, charged, reserved, used, failure }
    }

    /// Whether the request has to stop when its units are used up: not in a dry run, nor under an unlimited
    /// quota.
    pub(super) fn is_enforced(&self) -> bool {
        !self.is_dry_run && !self.charged.charge.only_looks()
    }

    /// The correction that counts the request as a failure; only at the first call.
    pub(super) fn fail(&self) -> Option<Correction> {
        let penalty = self.failure.penalty.filter(|_| self.failure.count_once())?;
        Some(Correction::new(self.charged.charge, Change::Penalize(penalty)))
    }

    /// Adds units. Returns how many of them have to be charged at once, as the request has ended; and
    /// whether they use up what was reserved.
    pub(super) fn add(&self, units: u64) -> (u64, bool) {
        let added = |used: u64| {
            let sum = (used & UNITS).max(1).saturating_add(units).min(UNITS);
            used & !UNITS | sum
        };
        let update = |used| Some(added(used));
        let (Ok(before) | Err(before)) = self.used.fetch_update(AcqRel, Acquire, update);
        let after = added(before);
        let reserved = self.reserved.load(Acquire);
        let charged = if before & SETTLED == 0 { reserved } else { 0 };
        let cost = |used: u64| units_of(used).max(charged);
        let taken = if before & ENDED == 0 { 0 } else { cost(after).saturating_sub(cost(before)) };
        let uses_up = units_of(before) < reserved && units_of(after) >= reserved;
        (taken, uses_up && self.is_enforced())
    }

    /// Sets how many units are charged. Returns whether the request has used these up already, and has to stop.
    pub(super) fn set_charged(&self, cost: u64) -> bool {
        self.reserved.store(cost, Release);
        // A write, so that it comes either before an `add`, which then sees the new cost, or after it.
        let used = self.used.fetch_or(0, AcqRel);
        units_of(used) >= cost && self.is_enforced()
    }

    /// The units that were added.
    pub(super) fn used(&self) -> u64 {
        units_of(self.used.load(Acquire))
    }

    /// Whether anything was added; `None` if the request has ended, or if there is nothing to meter.
    pub(super) fn is_metered(&self) -> Option<bool> {
        let used = self.used.load(Acquire);
        let is_due = used & ENDED == 0 && (used > 0 || self.reserved.load(Acquire) > 0);
        is_due.then_some(used > 0)
    }

    pub(super) fn left(&self) -> u64 {
        self.reserved.load(Acquire).saturating_sub(units_of(self.used.load(Acquire)))
    }

    /// At the first call: the correction of the charge, and the one that counts the request as a failure. Without
    /// a response, the request is a failure only if units were added.
    pub(super) fn end(&self, is_answered: bool) -> SmallVec<[Correction; 2]> {
        let ended = |used: u64| match used & ENDED {
            0 if used == 0 => Some(ENDED),
            0 => Some(used | ENDED | SETTLED),
            _ => None,
        };
        let mut corrections = SmallVec::new();
        let Ok(used) = self.used.fetch_update(AcqRel, Acquire, ended) else { return corrections };
        let reserved = self.reserved.load(Acquire);
        if used > 0 && !self.charged.charge.only_looks() {
            let change = Change::of_cost(reserved, units_of(used));
            corrections.extend(change.map(|change| self.correction(change)));
        }
        let has_failed = if used > 0 { units_of(used) > 0 } else { is_answered && reserved > 0 };
        corrections.extend(has_failed.then(|| self.fail()).flatten());
        corrections
    }

    /// A change to what is charged now.
    pub(super) fn correction(&self, change: Change) -> Correction {
        let charged = &self.charged;
        let (first, now) = (charged.charge.cost, self.reserved.load(Acquire));
        let charge = Charge { cost: now, ..charged.charge };
        Correction { charge, usage: charged.usage.recosted(first, now), change, ..*charged }
    }
}

fn units_of(used: u64) -> u64 {
    (used & UNITS).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Algorithm, Quota};

    fn count(reserved: u64) -> Count {
        let charge = Charge::new(1, 1, Algorithm::FixedWindow, Quota::per_day(9));
        Count {
            policy: "p",
            is_dry_run: false,
            charged: Correction::new(Charge { cost: reserved, ..charge }, Change::Take(0)),
            reserved: AtomicU64::new(reserved),
            used: AtomicU64::new(0),
            failure: Failure::default(),
        }
    }

    /// The change at the end, at the first call.
    fn end(count: &Count) -> Option<Change> {
        count.end(true).first().map(|correction| correction.change)
    }

    proptest! {
        /// Whatever is added when, the whole cost is what was added, or what was reserved.
        #[test]
        fn the_cost_is_what_was_added(
            reserved in 0_u64..20,
            before in prop::collection::vec(0_u64..9, 0..6),
            after in prop::collection::vec(0_u64..9, 0..6),
        ) {
            let count = count(reserved);
            let mut times_used_up = 0;
            for units in &before {
                let (taken, uses_up) = count.add(*units);
                prop_assert_eq!(taken, 0);
                times_used_up += u64::from(uses_up);
            }
            let mut cost = i128::from(reserved);
            let change = end(&count);
            cost += match change {
                Some(Change::Take(units)) => i128::from(units),
                Some(Change::GiveBack(units)) => -i128::from(units),
                _ => 0,
            };
            prop_assert!(end(&count).is_none(), "it ends once");
            let added: u64 = before.iter().sum();
            let is_counted = !before.is_empty();
            prop_assert_eq!(cost, i128::from(if is_counted { added } else { reserved }));
            for units in &after {
                let (taken, uses_up) = count.add(*units);
                cost += i128::from(taken);
                times_used_up += u64::from(uses_up);
            }
            let added = added + after.iter().sum::<u64>();
            let least = if is_counted { 0 } else { reserved };
            prop_assert_eq!(cost, i128::from(added.max(least)));
            prop_assert_eq!(times_used_up, u64::from(reserved > 0 && added >= reserved));
            prop_assert_eq!(count.left(), reserved.saturating_sub(added));
        }
    }

    #[test]
    fn no_number_of_units_overflows() {
        let count = count(5);
        assert_eq!(count.add(u64::MAX), (0, true));
        assert_eq!(count.add(u64::MAX), (0, false));
        let Some(Change::Take(units)) = end(&count) else {
            panic!("more was used than reserved");
        };
        assert!(units > u64::MAX / 8);
        assert_eq!(count.add(u64::MAX).0, 0);
    }
}
