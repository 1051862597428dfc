//! The overrides of all callers: the [`OverrideTable`].

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::OverrideError;
use crate::{clock::Now, lock::unpoisoned, quota::Quota};

/// How many callers may have overrides at once.
const MAX_CALLERS: usize = 10_000;

/// All overrides of a limiter, by the fingerprints of callers.
#[derive(Default)]
pub(in crate::limiter) struct OverrideTable {
    /// When the last of them ends; 0 if there are none. Mostly there are none, and requests skip the
    /// lock.
    last_end: AtomicU64,
    by_caller: RwLock<HashMap<u128, Override>>,
}

/// The overrides of one caller.
#[derive(Clone, Default)]
pub(in crate::limiter) struct Override {
    pub(super) blocked: Option<Until>,
    /// The quotas by the fingerprints of policies.
    pub(super) quotas: BTreeMap<u64, (Quota, Until)>,
}

/// The monotonic time at which an override ends, in nanoseconds.
pub(super) type Until = u64;

impl OverrideTable {
    #[inline]
    pub(in crate::limiter) fn is_empty(&self) -> bool {
        self.last_end.load(Ordering::Acquire) == 0
    }

    /// The overrides of a caller that apply at `now`; `None` if there are none.
    pub(in crate::limiter) fn get(&self, caller: u128, now: Now) -> Option<Override> {
        let by_caller = unpoisoned(self.by_caller.read());
        let mut own = by_caller.get(&caller)?.clone();
        own.expire(now).then_some(own)
    }

    /// Whether any override applies at `now`. It takes no lock, as a flood of callers that cannot be
    /// read calls it.
    pub(in crate::limiter) fn any_applies(&self, now: Now) -> bool {
        self.last_end.load(Ordering::Acquire) > now.monotonic_nanos()
    }

    /// All overrides that apply at `now`, by callers.
    pub(super) fn all(&self, now: Now) -> HashMap<u128, Override> {
        let mut all = unpoisoned(self.by_caller.read()).clone();
        all.retain(|_, own| own.expire(now));
        all
    }

    /// Changes the overrides of a caller.
    ///
    /// # Errors
    /// [`OverrideError::Full`] if the caller has no override yet, and other callers have as many as
    /// there may be.
    pub(super) fn change<T>(
        &self,
        caller: u128,
        now: Now,
        change: impl FnOnce(&mut Override) -> T,
    ) -> Result<T, OverrideError> {
        let mut by_caller = unpoisoned(self.by_caller.write());
        by_caller.retain(|_, own| own.expire(now));
        if by_caller.len() >= MAX_CALLERS && !by_caller.contains_key(&caller) {
            return Err(OverrideError::Full);
        }
        let own = by_caller.entry(caller).or_default();
        let changed = change(own);
        if !own.expire(now) {
            by_caller.remove(&caller);
        }
        let end =
            |own: &Override| own.quotas.values().map(|(_, end)| *end).chain(own.blocked).max();
        let last_end = by_caller.values().filter_map(end).max().unwrap_or(0);
        self.last_end.store(last_end, Ordering::Release);
        Ok(changed)
    }
}

impl Override {
    /// The caller's quota override under a policy.
    pub(in crate::limiter) fn quota(&self, policy: u64) -> Option<Quota> {
        self.quotas.get(&policy).map(|(quota, _)| *quota)
    }

    /// How long the caller's quota override under a policy still lasts.
    #[cfg(feature = "describe")]
    pub(in crate::limiter) fn quota_lasts(&self, policy: u64, now: Now) -> Option<Duration> {
        self.quotas.get(&policy).map(|(_, until)| left(*until, now))
    }

    /// How long the caller is still blocked.
    pub(in crate::limiter) fn blocked_for(&self, now: Now) -> Option<Duration> {
        self.blocked.map(|until| left(until, now))
    }

    /// Removes what has ended. Returns whether anything is left.
    fn expire(&mut self, now: Now) -> bool {
        let now = now.monotonic_nanos();
        self.blocked = self.blocked.filter(|until| *until > now);
        self.quotas.retain(|_, (_, until)| *until > now);
        self.blocked.is_some() || !self.quotas.is_empty()
    }
}

/// How long an override still applies.
pub(super) fn left(until: Until, now: Now) -> Duration {
    Duration::from_nanos(until.saturating_sub(now.monotonic_nanos()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::ZERO)
    }

    #[test]
    fn exceptions_are_bounded_and_room_comes_with_time() {
        let overrides = OverrideTable::default();
        let until = |seconds: u64| Some(seconds * 1_000_000_000);
        for caller in 0..MAX_CALLERS as u128 {
            overrides.change(caller, at(0), |own| own.blocked = until(60)).unwrap();
        }
        let one_more = |now| overrides.change(u128::MAX, at(now), |own| own.blocked = until(120));
        assert_eq!(one_more(59), Err(OverrideError::Full));
        assert!(overrides.change(7, at(59), |own| own.blocked = None).is_ok(), "a known one may");
        assert!(one_more(59).is_ok(), "and makes room");
        assert!(one_more(60).is_ok());
        assert_eq!(overrides.by_caller.read().unwrap().len(), 1);
    }

    #[test]
    fn a_table_is_empty_again_after_the_last_override() {
        let overrides = OverrideTable::default();
        assert!(overrides.is_empty());
        overrides.change(7, at(0), |own| own.blocked = Some(1)).unwrap();
        assert!(!overrides.is_empty() && overrides.get(7, at(0)).is_some());
        overrides.change(7, at(0), |own| own.blocked = None).unwrap();
        assert!(overrides.is_empty());
    }
}
