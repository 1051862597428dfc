//! Units in flight: how many of a key's units are held now, by requests that have begun and not ended.

use super::quota_state::{Charged, PastUse, QuotaState, units_required};
use crate::{clock::Now, quota::Quota};

/// The wait for units that come back at an unknown time, in nanoseconds.
pub(crate) const NOT_KNOWN: u64 = u64::MAX;

/// The units of a key that are held. Time gives none of them back: only [`give_back`] does.
///
/// [`give_back`]: QuotaState::give_back
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct InFlight {
    pub(crate) held: u64,
    /// When units were taken or given back last: a monotonic time in nanoseconds. With it, a store can keep a key
    /// for a while after its last unit has come back.
    pub(crate) changed_at: u64,
}

impl InFlight {
    /// No quota has a unit left.
    pub(crate) const FULL: Self = Self { held: u64::MAX, changed_at: 0 };
}

impl QuotaState for InFlight {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        if cost <= self.remaining(quota, now) { 0 } else { NOT_KNOWN }
    }

    #[inline]
    fn consume(&mut self, _: &Quota, now: Now, cost: u64) {
        self.held = self.held.saturating_add(cost);
        self.changed_at = now.monotonic_nanos();
    }

    fn give_back(&mut self, _: &Quota, now: Now, units: u64, _: &PastUse) -> u64 {
        let given = units.min(self.held);
        self.held = self.held.saturating_sub(given);
        self.changed_at = now.monotonic_nanos();
        given
    }

    #[inline]
    fn remaining(&self, quota: &Quota, _: Now) -> u64 {
        quota.units().saturating_sub(self.held)
    }

    /// The time at which more are left is unknown.
    #[inline]
    fn reset(&self, _: &Quota, _: Now) -> u64 {
        0
    }

    #[inline]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
        let wait = self.wait(quota, now, units_required(ahead, cost));
        if wait == 0 {
            self.consume(quota, now, cost);
        }
        self.charged(quota, now, wait)
    }

    /// What is held is held under any quota.
    fn convert(&self, _: &Quota, _: &Quota, _: Now) -> Self {
        *self
    }

    fn merge(&mut self, other: &Self, _: &Quota, _: Now) {
        self.held = self.held.max(other.held);
        self.changed_at = self.changed_at.max(other.changed_at);
    }

    fn expires_in(&self, _: &Quota, _: Now) -> u64 {
        if self.held == 0 { 0 } else { NOT_KNOWN }
    }
}
