//! The token bucket, as a generic cell rate algorithm without rounding.
//!
//! GCRA keeps the moment at which the bucket will be full again. That moment is
//! `since + taken * window / units`, rarely a whole number of nanoseconds; kept as the pair
//! (`since`, `taken`) it is exact, so that 3 units per second are back after one second, not one
//! nanosecond later.

use super::{mul_div, mul_div_ceil};
use crate::{clock::Now, quota::Quota};

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TokenBucket {
    /// A moment at which `taken` units were missing.
    since: u64,
    taken: u64,
    /// The rate that refilled the bucket up to now: another one takes over what is missing.
    units: u64,
    window: u64,
}

impl TokenBucket {
    /// Units that have flowed back since `since`.
    fn refilled(&self, now: u64) -> u64 {
        mul_div(now.saturating_sub(self.since), self.units, self.window)
    }

    /// The same bucket, refilling at the rate of `quota`, its `since` within a window of `now`.
    fn at(&self, quota: &Quota, now: u64) -> Self {
        let (units, window) = (quota.units(), quota.window_nanos());
        if self.units != units || self.window != window {
            // A rate has come or changed: what is missing stays missing, up to the whole bucket.
            let missing = self.taken.saturating_sub(self.refilled(now)).min(quota.capacity());
            return Self { since: now, taken: missing, units, window };
        }
        let windows = now.saturating_sub(self.since) / window.max(1);
        let refilled = windows.saturating_mul(units);
        if refilled >= self.taken || self.refilled(now) >= self.taken {
            return Self { since: now.max(self.since), taken: 0, units, window };
        }
        Self { since: self.since + windows * window, taken: self.taken - refilled, units, window }
    }

    /// How long until `units` of those missing are back.
    fn until_refilled(&self, now: u64, units: u64) -> u64 {
        let moment = mul_div_ceil(units, self.window, self.units);
        self.since.saturating_add(moment).saturating_sub(now)
    }

    pub(super) fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let now = now.monotonic_nanos();
        let bucket = self.at(quota, now);
        let short = bucket.taken.saturating_add(cost).saturating_sub(quota.capacity());
        if short == 0 { 0 } else { bucket.until_refilled(now, short) }
    }

    pub(super) fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        *self = self.at(quota, now.monotonic_nanos());
        self.taken = self.taken.saturating_add(cost);
    }

    pub(super) fn give_back(&mut self, quota: &Quota, now: Now, units: u64) {
        *self = self.at(quota, now.monotonic_nanos());
        self.taken = self.taken.saturating_sub(units);
    }

    pub(super) fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        let now = now.monotonic_nanos();
        let bucket = self.at(quota, now);
        let missing = bucket.taken.saturating_sub(bucket.refilled(now));
        quota.capacity().saturating_sub(missing)
    }

    pub(super) fn reset(&self, quota: &Quota, now: Now) -> u64 {
        let now = now.monotonic_nanos();
        let bucket = self.at(quota, now);
        if bucket.taken == 0 {
            return 0;
        }
        let overdrawn = bucket.taken.saturating_sub(quota.capacity());
        bucket.until_refilled(now, (bucket.refilled(now).max(overdrawn)).saturating_add(1))
    }

    pub(super) fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        let now = now.monotonic_nanos();
        let bucket = self.at(quota, now);
        bucket.until_refilled(now, bucket.taken)
    }
}
