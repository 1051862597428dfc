//! The token bucket, as a generic cell rate algorithm without rounding.
//!
//! GCRA keeps the moment at which the bucket will be full again. That is not always a whole number
//! of nanoseconds, so the rest is kept beside it, in the quota's parts: 3 units per second are back
//! after one second, not one nanosecond later.

use super::{Count, ceil_div, saturate};
use crate::{clock::Now, quota::Quota};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// The monotonic time at which the bucket is full, rounded down.
    pub(crate) full_at: u64,
    /// The rest, in parts of which the quota has some in a nanosecond: less than those.
    pub(crate) parts: u64,
}

impl TokenBucket {
    /// What is missing at `now`, in the quota's parts.
    #[inline]
    fn missing(&self, quota: &Quota, now: u64) -> u128 {
        match self.full_at.checked_sub(now) {
            Some(nanos) => product(nanos, quota.parts_per_nano()) + u128::from(self.parts),
            None => 0,
        }
    }

    /// The bucket from which `missing` parts are missing at `now`.
    #[inline]
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
    #[inline]
    pub(crate) fn wait(self, quota: &Quota, cost: u64) -> u64 {
        let wanted = self.0.saturating_add(product(cost, quota.parts_per_unit()));
        let short = wanted.saturating_sub(product(quota.capacity(), quota.parts_per_unit()));
        if short == 0 { 0 } else { ceil_div(short, quota.parts_per_nano()) }
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
        Missing(self.missing(quota, now.monotonic_nanos())).wait(quota, cost)
    }

    #[inline]
    fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        let now = now.monotonic_nanos();
        let cost = product(cost, quota.parts_per_unit());
        *self = Self::lacking(self.missing(quota, now).saturating_add(cost), quota, now);
    }

    fn give_back(&mut self, quota: &Quota, now: Now, _: Now, units: u64) {
        let now = now.monotonic_nanos();
        let units = product(units, quota.parts_per_unit());
        *self = Self::lacking(self.missing(quota, now).saturating_sub(units), quota, now);
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

    /// What is missing stays missing, in whole units, up to the whole bucket.
    #[inline]
    fn under(&mut self, before: &Quota, quota: &Quota, now: Now) {
        if before == quota {
            return;
        }
        let now = now.monotonic_nanos();
        let units = ceil_div(self.missing(before, now), before.parts_per_unit());
        let missing = product(units.min(quota.capacity()), quota.parts_per_unit());
        *self = Self::lacking(missing, quota, now);
    }
}

#[inline]
fn product(a: u64, b: u64) -> u128 {
    u128::from(a) * u128::from(b)
}
