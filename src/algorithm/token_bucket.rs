//! The token bucket, as a generic cell rate algorithm (GCRA) without rounding.
//!
//! The GCRA of ITU-T I.371 (in its form as virtual scheduling) has two parameters and one variable.
//! They are called here:
//!
//! | I.371 | here |
//! |---|---|
//! | T, the emission interval | the time in which one unit comes back: [`Quota::parts_per_unit`] |
//! | τ, the tolerance | the burst beyond one unit: (capacity - 1) · T |
//! | TAT, the theoretical arrival time | when the bucket is full again: `full_at` and `parts` |
//!
//! A request at time t conforms if TAT - t ≤ τ. That is the same as: with one unit more, no more
//! than the capacity is missing. Then TAT becomes max(t, TAT) + T, so T more is missing.
//!
//! What is missing, TAT - t, is the [`Deficit`]. It is not always a whole number of nanoseconds: at
//! 3 units per second, T is a third of a second. So it is counted in parts of a nanosecond
//! ([`Quota::parts_per_nano`]), of which T is a whole number. 3 units are back after exactly one
//! second, not one nanosecond later.

use super::quota_state::{Charged, PastUse, QuotaState, ceil_div, saturate, units_required};
use crate::{clock::Now, quota::Quota};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// The TAT: the monotonic time in nanoseconds at which the bucket is full, rounded down.
    pub(crate) full_at: u64,
    /// The rest of the TAT in the quota's parts: less than one nanosecond has.
    pub(crate) parts: u64,
}

impl TokenBucket {
    /// Does what [`charge`](QuotaState::charge) does in few steps, if a part is a nanosecond and
    /// all numbers are of usual size.
    #[inline(always)]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the checks before leave no sum above the capacity, and no difference below 0"
    )]
    fn charge_in_nanos(
        &mut self,
        quota: &Quota,
        now: u64,
        ahead: u64,
        cost: u64,
    ) -> Option<Charged> {
        let (unit, capacity) = (quota.parts_per_unit(), quota.capacity());
        if quota.parts_per_nano() != 1 || self.parts != 0 || unit == 0 || cost == 0 {
            return None;
        }
        let full = unit.checked_mul(capacity)?;
        let required = unit.checked_mul(ahead.checked_add(cost)?)?;
        let mut deficit = self.full_at.saturating_sub(now);
        let deficit_after = deficit.checked_add(required)?;
        let wait = deficit_after.saturating_sub(full);
        if wait == 0 {
            // The units ahead have to come back within the time that can be counted as well.
            now.checked_add(deficit_after)?;
            deficit += unit * cost;
            self.full_at = now + deficit;
        }
        // The units that are owed beyond the capacity come back first.
        let units = deficit.div_ceil(unit).min(capacity);
        let reset = deficit - units.saturating_sub(1) * unit;
        Some(Charged { wait, remaining: capacity - units, reset })
    }

    /// Does what [`charge`](QuotaState::charge) does, for any quota and any number. It takes the bucket
    /// by value, so that one which does not come here stays in registers.
    #[inline(never)]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the cost fits, so that the sum is no more than the capacity"
    )]
    fn charge_in_parts(
        mut self,
        quota: &Quota,
        now: u64,
        ahead: u64,
        cost: u64,
    ) -> (Charged, Self) {
        let mut deficit = self.deficit(quota, now);
        let wait = deficit.wait_at(now, quota, units_required(ahead, cost));
        if wait == 0 && cost > 0 {
            deficit.0 += product(cost, quota.parts_per_unit());
            self = Self::with_deficit(deficit.0, quota, now);
        }
        (Charged { wait, remaining: deficit.remaining(quota), reset: deficit.reset(quota) }, self)
    }

    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the product of two numbers of 64 bits leaves room for one more in 128"
    )]
    fn deficit(&self, quota: &Quota, now: u64) -> Deficit {
        Deficit(match self.full_at.checked_sub(now) {
            Some(nanos) => product(nanos, quota.parts_per_nano()) + u128::from(self.parts),
            None => 0,
        })
    }

    /// The bucket of which `deficit` parts are missing at `now`.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "the divisor is not 0")]
    fn with_deficit(deficit: u128, quota: &Quota, now: u64) -> Self {
        let per_nano = quota.parts_per_nano().max(1);
        let (nanos, parts) = match u64::try_from(deficit) {
            // The usual case, which needs no division.
            Ok(deficit) if per_nano == 1 => (deficit, 0),
            Ok(deficit) => (deficit / per_nano, deficit % per_nano),
            Err(_) => {
                let per_nano = u128::from(per_nano);
                (saturate(deficit / per_nano), saturate(deficit % per_nano))
            }
        };
        Self { full_at: now.saturating_add(nanos), parts }
    }

    /// Uses `cost` units, until `most` parts are missing.
    fn consume_until(&mut self, most: u128, quota: &Quota, now: Now, cost: u64) {
        let now = now.monotonic_nanos();
        let before = self.deficit(quota, now).0;
        let after = before.saturating_add(product(cost, quota.parts_per_unit()));
        *self = Self::with_deficit(after.min(most.max(before)), quota, now);
    }

    /// Gives back `units` of a use. `then` is the deficit right after the use: at most as much is given back
    /// as has not come back of that deficit. Returns the units, rounded up.
    #[expect(clippy::arithmetic_side_effects, reason = "no more is given back than is missing")]
    fn give_back_of(
        &mut self,
        then: u128,
        quota: &Quota,
        now: Now,
        units: u64,
        past_use: &PastUse,
    ) -> u64 {
        let left = then.saturating_sub(refilled_since(past_use, quota, now));
        let now = now.monotonic_nanos();
        let before = self.deficit(quota, now).0;
        let given = product(units, quota.parts_per_unit()).min(left).min(before);
        *self = Self::with_deficit(before - given, quota, now);
        ceil_div(given, quota.parts_per_unit())
    }

    /// Whether the bucket may have been empty at any time since a use. Then uses under other quotas may be
    /// recorded in part or not at all.
    pub(super) fn may_have_been_empty(&self, quota: &Quota, now: Now, past_use: &PastUse) -> bool {
        let deficit = self.deficit(quota, now.monotonic_nanos()).0;
        deficit.saturating_add(refilled_since(past_use, quota, now)) >= full_deficit(quota)
    }

    /// Whether nothing that counts was used after a use. Then no later correction needs to know what
    /// that use gives back.
    pub(super) fn is_last_use(&self, quota: &Quota, now: Now, past_use: &PastUse) -> bool {
        let left =
            deficit_after(past_use, quota).saturating_sub(refilled_since(past_use, quota, now));
        // Some stores round their answers by less than a microsecond, so a unit must take a microsecond at
        // least.
        let is_exact = product(quota.units(), 1_000) <= quota.window_nanos().into();
        is_exact && past_use.given_back == 0 && self.deficit(quota, now.monotonic_nanos()).0 <= left
    }
}

/// What is missing in a bucket, in its quota's parts: TAT - t.
#[derive(Clone, Copy)]
pub(crate) struct Deficit(pub(crate) u128);

impl Deficit {
    /// The deficit of a bucket that answered with `remaining` and `reset`. It is too large by less
    /// than the parts of one nanosecond.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the product of two numbers of 64 bits leaves room for one more in 128"
    )]
    fn from_answer(quota: &Quota, remaining: u64, reset: u64) -> Self {
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
        let after = self.0.saturating_add(product(cost, quota.parts_per_unit()));
        let short = after.saturating_sub(full_deficit(quota));
        if short == 0 { 0 } else { ceil_div(short, quota.parts_per_nano()) }
    }

    /// The wait in a bucket that keeps its TAT. A use after which the TAT is later than can be
    /// counted would be forgotten, so it never fits.
    #[inline]
    fn wait_at(self, now: u64, quota: &Quota, cost: u64) -> u64 {
        let after = || self.0.saturating_add(product(cost, quota.parts_per_unit()));
        let most = || product(u64::MAX.saturating_sub(now), quota.parts_per_nano());
        match self.wait(quota, cost) {
            0 if cost > 0 && after() > most() => u64::MAX,
            wait => wait,
        }
    }

    #[inline]
    pub(crate) fn remaining(self, quota: &Quota) -> u64 {
        quota.capacity().saturating_sub(ceil_div(self.0, quota.parts_per_unit()))
    }

    #[inline]
    pub(crate) fn reset(self, quota: &Quota) -> u64 {
        // The units that are owed beyond the capacity come back first.
        let units = ceil_div(self.0, quota.parts_per_unit()).min(quota.capacity());
        let still_missing = product(units.saturating_sub(1), quota.parts_per_unit());
        ceil_div(self.0.saturating_sub(still_missing), quota.parts_per_nano())
    }
}

impl QuotaState for TokenBucket {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let now = now.monotonic_nanos();
        self.deficit(quota, now).wait_at(now, quota, cost)
    }

    #[inline]
    fn consume(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.consume_until(full_deficit(quota).saturating_mul(2), quota, now, cost);
    }

    fn record(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.consume_until(full_deficit(quota), quota, now, cost);
    }

    fn record_late(&mut self, quota: &Quota, now: Now, units: u64, _at: Now) {
        self.record(quota, now, units);
    }

    #[inline(always)]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
        let now = now.monotonic_nanos();
        if let Some(charged) = self.charge_in_nanos(quota, now, ahead, cost) {
            return charged;
        }
        let (charged, after) = self.charge_in_parts(quota, now, ahead, cost);
        *self = after;
        charged
    }

    /// A use has come back once all that was missing right after it has, without what earlier uses have given
    /// back since.
    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) -> u64 {
        let [own, given_back] = [past_use.cost, past_use.given_back]
            .map(|units| product(units, quota.parts_per_unit()));
        let then = deficit_after(past_use, quota);
        let then = then.saturating_sub(given_back).max(own.min(then));
        self.give_back_of(then, quota, now, units, past_use)
    }

    #[inline]
    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        self.deficit(quota, now.monotonic_nanos()).remaining(quota)
    }

    #[inline]
    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        self.deficit(quota, now.monotonic_nanos()).reset(quota)
    }

    fn expires_in(&self, quota: &Quota, now: Now) -> u64 {
        ceil_div(self.deficit(quota, now.monotonic_nanos()).0, quota.parts_per_nano())
    }

    /// The same number of units stays missing, and the same fraction of one, rounded up to a part;
    /// but no more than the whole bucket.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "the divisor is not 0, and what is left of a division is no more than 64 bits"
    )]
    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self {
        let now = now.monotonic_nanos();
        let (old, new) = (from.parts_per_unit().max(1).into(), to.parts_per_unit().into());
        let deficit = self.deficit(from, now).0;
        let (units, rest): (u128, u128) = (deficit / old, deficit % old);
        let deficit = units.saturating_mul(new).saturating_add((rest * new).div_ceil(old));
        Self::with_deficit(deficit.min(full_deficit(to)), to, now)
    }

    /// The emptier bucket, which stays the emptier one until both are full.
    fn merge(&mut self, other: &Self, _: &Quota, _: Now) {
        if (other.full_at, other.parts) > (self.full_at, self.parts) {
            *self = *other;
        }
    }
}

/// The parts that are missing in an empty bucket.
#[inline]
fn full_deficit(quota: &Quota) -> u128 {
    product(quota.capacity(), quota.parts_per_unit())
}

/// What was missing right after a use. If that is not known, it was at least the use itself.
fn deficit_after(past_use: &PastUse, quota: &Quota) -> u128 {
    past_use.left.map_or_else(
        || product(past_use.cost, quota.parts_per_unit()),
        |(remaining, reset)| Deficit::from_answer(quota, remaining, reset).0,
    )
}

/// The parts that have come back since a use.
fn refilled_since(past_use: &PastUse, quota: &Quota, now: Now) -> u128 {
    let since = now.monotonic_nanos().saturating_sub(past_use.at.monotonic_nanos());
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

    use super::{super::quota_state::charge_by_steps, *};

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
        fn charges_in_nanos_and_in_parts_agree(
            (unit, units, burst) in (number(), number(), number()),
            (full_at, now, ahead, cost) in (number(), number(), number(), number()),
            (cost_edge, now_edge) in (0_u8..6, 0_u8..6),
        ) {
            let units = units.max(1);
            let window = Duration::from_nanos(unit.saturating_mul(units));
            let quota = Quota::per_window(units, window).burst(burst);
            // The cost is near all that is left, and the TAT near the end of time.
            let cost = near(quota.capacity().saturating_sub(ahead), cost, cost_edge);
            let required = quota.parts_per_unit().saturating_mul(ahead.saturating_add(cost));
            let now = near(u64::MAX.saturating_sub(required), now, now_edge);
            let mut few = TokenBucket { full_at, parts: 0 };
            let mut many = few;
            if let Some(charged) = few.charge_in_nanos(&quota, now, ahead, cost) {
                let (by_parts, after) = many.charge_in_parts(&quota, now, ahead, cost);
                prop_assert_eq!(charged, by_parts);
                many = after;
            }
            prop_assert_eq!(few, many);
            let mut steps = TokenBucket { full_at, parts: 0 };
            let now_read = Now::new(Duration::from_nanos(now), Duration::ZERO);
            let by_steps = charge_by_steps(&mut steps, &quota, now_read, ahead, cost);
            let many = TokenBucket { full_at, parts: 0 };
            prop_assert_eq!(many.charge_in_parts(&quota, now, ahead, cost), (by_steps, steps));
        }
    }
}
