//! The token bucket, as a generic cell rate algorithm without rounding.
//!
//! GCRA keeps the moment at which the bucket will be full again. That is not always a whole number
//! of nanoseconds, so the rest is kept beside it, in the quota's parts: 3 units per second are back
//! after one second, not one nanosecond later.

use super::{Count, Made, ceil_div, saturate, wanted};
use crate::{clock::Now, quota::Quota};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// The monotonic time at which the bucket is full, rounded down.
    pub(crate) full_at: u64,
    /// The rest, in parts of which the quota has some in a nanosecond: less than those.
    pub(crate) parts: u64,
}

impl TokenBucket {
    /// What [`charge`](Count::charge) does, in few steps: where a part is a nanosecond, and all
    /// numbers are of usual size.
    #[inline(always)]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "with the checks before, none is more than what is missing or what it is taken off"
    )]
    fn charge_nanos(
        &mut self,
        quota: &Quota,
        now: u64,
        ahead: u64,
        cost: u64,
    ) -> Option<(u64, u64, u64)> {
        let (unit, capacity) = (quota.parts_per_unit(), quota.capacity());
        if quota.parts_per_nano() != 1 || self.parts != 0 || unit == 0 || cost == 0 {
            return None;
        }
        let full = unit.checked_mul(capacity)?;
        let wanted = unit.checked_mul(ahead.checked_add(cost)?)?;
        let mut missing = self.full_at.saturating_sub(now);
        let missing_after = missing.checked_add(wanted)?;
        let wait = missing_after.saturating_sub(full);
        if wait == 0 {
            // The units ahead have to come back within the time that can be counted as well.
            now.checked_add(missing_after)?;
            missing += unit * cost;
            self.full_at = now + missing;
        }
        // Overdrawn, the units beyond the capacity come first.
        let units = missing.div_ceil(unit).min(capacity);
        let reset = missing - units.saturating_sub(1) * unit;
        Some((wait, capacity - units, reset))
    }

    /// What [`charge`](Count::charge) does, for any quota and any number.
    #[inline(never)]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "it fits, so that the sum is no more than the capacity"
    )]
    fn charge_parts(&mut self, quota: &Quota, now: u64, ahead: u64, cost: u64) -> (u64, u64, u64) {
        let mut missing = Missing(self.missing(quota, now));
        let wait = missing.wait_at(now, quota, wanted(ahead, cost));
        if wait == 0 && cost > 0 {
            missing.0 += product(cost, quota.parts_per_unit());
            *self = Self::lacking(missing.0, quota, now);
        }
        (wait, missing.remaining(quota), missing.reset(quota))
    }

    /// Whether more is missing than in another bucket of the same quota.
    pub(super) fn is_emptier(&self, than: &Self) -> bool {
        (self.full_at, self.parts) > (than.full_at, than.parts)
    }

    /// What is missing at `now`, in the quota's parts.
    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the product of two numbers of 64 bits leaves room for one more in 128"
    )]
    fn missing(&self, quota: &Quota, now: u64) -> u128 {
        match self.full_at.checked_sub(now) {
            Some(nanos) => product(nanos, quota.parts_per_nano()) + u128::from(self.parts),
            None => 0,
        }
    }

    /// Uses `cost` units, until `most` parts are missing.
    fn lack(&mut self, quota: &Quota, now: Now, cost: u64, most: u128) {
        let now = now.monotonic_nanos();
        let before = self.missing(quota, now);
        let missing = before.saturating_add(product(cost, quota.parts_per_unit()));
        *self = Self::lacking(missing.min(most.max(before)), quota, now);
    }

    /// Gives back `units` of a use right after which so many parts were `missing`, but no more than
    /// have not come back of these.
    fn refill(&mut self, quota: &Quota, now: Now, units: u64, missing: u128, made: &Made) {
        let left = missing.saturating_sub(refilled(quota, now, made));
        let units = product(units, quota.parts_per_unit()).min(left);
        let now = now.monotonic_nanos();
        *self = Self::lacking(self.missing(quota, now).saturating_sub(units), quota, now);
    }

    /// The bucket from which `missing` parts are missing at `now`.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "the divisor is not 0")]
    fn lacking(missing: u128, quota: &Quota, now: u64) -> Self {
        let per_nano = quota.parts_per_nano().max(1);
        let (nanos, parts) = match u64::try_from(missing) {
            // The usual case, which needs no division.
            Ok(missing) if per_nano == 1 => (missing, 0),
            Ok(missing) => (missing / per_nano, missing % per_nano),
            Err(_) => {
                let per_nano = u128::from(per_nano);
                (saturate(missing / per_nano), saturate(missing % per_nano))
            }
        };
        Self { full_at: now.saturating_add(nanos), parts }
    }
}

/// What is missing in a bucket, in its quota's parts.
#[derive(Clone, Copy)]
pub(crate) struct Missing(pub(crate) u128);

impl Missing {
    /// What was missing in a bucket that answered with `remaining` and `reset`. It is less than one
    /// nanosecond's parts too much.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the product of two numbers of 64 bits leaves room for one more in 128"
    )]
    fn answered(quota: &Quota, remaining: u64, reset: u64) -> Self {
        let Some(further) = quota.capacity().saturating_sub(remaining).checked_sub(1) else {
            return Self(0);
        };
        let unit = quota.parts_per_unit();
        let first = product(reset, quota.parts_per_nano()).min(unit.into());
        Self(product(further, unit) + first)
    }

    #[inline]
    pub(crate) fn wait(self, quota: &Quota, cost: u64) -> u64 {
        if cost == 0 {
            return 0;
        }
        let wanted = self.0.saturating_add(product(cost, quota.parts_per_unit()));
        let short = wanted.saturating_sub(product(quota.capacity(), quota.parts_per_unit()));
        if short == 0 { 0 } else { ceil_div(short, quota.parts_per_nano()) }
    }

    /// The wait for a bucket that keeps the moment at which it is full. A use that takes longer to come
    /// back than time can be counted would be forgotten, so it never fits.
    #[inline]
    fn wait_at(self, now: u64, quota: &Quota, cost: u64) -> u64 {
        let wait = self.wait(quota, cost);
        if wait > 0 || cost == 0 {
            return wait;
        }
        let missing = self.0.saturating_add(product(cost, quota.parts_per_unit()));
        if missing > product(u64::MAX.saturating_sub(now), quota.parts_per_nano()) {
            u64::MAX
        } else {
            0
        }
    }

    #[inline]
    pub(crate) fn remaining(self, quota: &Quota) -> u64 {
        quota.capacity().saturating_sub(ceil_div(self.0, quota.parts_per_unit()))
    }

    #[inline]
    pub(crate) fn reset(self, quota: &Quota) -> u64 {
        // Overdrawn, the units beyond the capacity come first.
        let units = ceil_div(self.0, quota.parts_per_unit()).min(quota.capacity());
        let still_missing = product(units.saturating_sub(1), quota.parts_per_unit());
        ceil_div(self.0.saturating_sub(still_missing), quota.parts_per_nano())
    }
}

impl Count for TokenBucket {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let now = now.monotonic_nanos();
        Missing(self.missing(quota, now)).wait_at(now, quota, cost)
    }

    #[inline]
    fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.lack(quota, now, cost, whole(quota).saturating_mul(2));
    }

    fn take_elsewhere(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.lack(quota, now, cost, whole(quota));
    }

    #[inline(always)]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> (u64, u64, u64) {
        let now = now.monotonic_nanos();
        let charged = self.charge_nanos(quota, now, ahead, cost);
        charged.unwrap_or_else(|| self.charge_parts(quota, now, ahead, cost))
    }

    /// A use has come back once all that was missing right after it has. Where that is not known, it
    /// was the use itself at least.
    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        let missing = match made.left {
            Some((remaining, reset)) => Missing::answered(quota, remaining, reset).0,
            None => product(made.cost, quota.parts_per_unit()),
        };
        self.refill(quota, now, units, missing, made);
    }

    /// A bucket that may have been empty at the time of the use counted it in part or not at all, and
    /// gives nothing back.
    fn give_back_elsewhere(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        let missing = self.missing(quota, now.monotonic_nanos());
        if missing.saturating_add(refilled(quota, now, made)) < whole(quota) {
            self.refill(quota, now, units, product(made.cost, quota.parts_per_unit()), made);
        }
    }

    #[inline]
    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        Missing(self.missing(quota, now.monotonic_nanos())).remaining(quota)
    }

    #[inline]
    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        Missing(self.missing(quota, now.monotonic_nanos())).reset(quota)
    }

    fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        ceil_div(self.missing(quota, now.monotonic_nanos()), quota.parts_per_nano())
    }

    /// As many units stay missing and the same fraction of one, rounded up to a part, up to the whole
    /// bucket.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the divisor is not 0, and what is left of a division is no more than 64 bits"
    )]
    fn under(&self, before: &Quota, quota: &Quota, now: Now) -> Self {
        let now = now.monotonic_nanos();
        let (old, new) = (before.parts_per_unit().max(1).into(), quota.parts_per_unit().into());
        let missing = self.missing(before, now);
        let (units, rest): (u128, u128) = (missing / old, missing % old);
        let missing = units.saturating_mul(new).saturating_add((rest * new).div_ceil(old));
        Self::lacking(missing.min(whole(quota)), quota, now)
    }
}

/// The parts of a full bucket.
fn whole(quota: &Quota) -> u128 {
    product(quota.capacity(), quota.parts_per_unit())
}

/// The parts that have come back since a use.
fn refilled(quota: &Quota, now: Now, made: &Made) -> u128 {
    let since = now.monotonic_nanos().saturating_sub(made.at.monotonic_nanos());
    product(since, quota.parts_per_nano())
}

#[inline]
#[expect(clippy::arithmetic_side_effects, reason = "128 bits hold it")]
fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::{super::charge_by_steps, *};

    /// Numbers of every size, small ones as often as large ones.
    fn number() -> impl Strategy<Value = u64> {
        (0_u32..64, any::<u64>()).prop_map(|(bits, number)| number >> bits)
    }

    /// A number, or one that is just below, at or just above an edge.
    fn near(edge: u64, number: u64, pick: u8) -> u64 {
        match pick {
            0 => edge.saturating_sub(1),
            1 => edge,
            2 => edge.saturating_add(1),
            _ => number,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn few_steps_say_what_many_say(
            (unit, units, burst) in (number(), number(), number()),
            (full_at, now, ahead, cost) in (number(), number(), number(), number()),
            (cost_edge, now_edge) in (0_u8..6, 0_u8..6),
        ) {
            let units = units.max(1);
            let window = Duration::from_nanos(unit.saturating_mul(units));
            let quota = Quota::per_window(units, window).burst(burst);
            // All that is left of the bucket is wanted, or the bucket is full when time ends.
            let cost = near(quota.capacity().saturating_sub(ahead), cost, cost_edge);
            let wanted = quota.parts_per_unit().saturating_mul(ahead.saturating_add(cost));
            let now = near(u64::MAX.saturating_sub(wanted), now, now_edge);
            let mut few = TokenBucket { full_at, parts: 0 };
            let mut many = few;
            if let Some(charged) = few.charge_nanos(&quota, now, ahead, cost) {
                prop_assert_eq!(charged, many.charge_parts(&quota, now, ahead, cost));
            }
            prop_assert_eq!(few, many);
            let mut steps = TokenBucket { full_at, parts: 0 };
            let now_read = Now::new(Duration::from_nanos(now), Duration::ZERO);
            let by_steps = charge_by_steps(&mut steps, &quota, now_read, ahead, cost);
            let mut many = TokenBucket { full_at, parts: 0 };
            prop_assert_eq!(many.charge_parts(&quota, now, ahead, cost), by_steps);
            prop_assert_eq!(many, steps);
        }
    }
}
