//! The overrides of one caller: [`CallersOwn`].

use std::{sync::Arc, time::Duration};

use super::{known::Known, source::Found};
use crate::{
    clock::Now,
    override_record::{Override, OverrideKind},
    quota::Quota,
};

/// The overrides of one caller that apply at one time.
#[derive(Clone, Debug)]
pub(in crate::limiter) struct CallersOwn {
    /// What operators have set.
    known: Option<Arc<[Known]>>,
    /// What the source says.
    found: Option<Found>,
    at: u64,
}

impl CallersOwn {
    /// What operators have set, with that which has ended already; `None` if all of it has.
    pub(super) fn known(known: &Arc<[Known]>, now: Now) -> Option<Self> {
        let at = now.monotonic_nanos();
        let applies = known.iter().any(|known| known.ends_at > at);
        applies.then(|| Self { known: Some(Arc::clone(known)), found: None, at })
    }

    /// The overrides.
    pub(in crate::limiter) fn all(&self) -> impl Iterator<Item = &Override> {
        self.applying().map(|known| &known.data)
    }

    /// The overrides, with their times by the clock of `now`.
    pub(in crate::limiter) fn views(&self, now: Now) -> impl Iterator<Item = Override> {
        self.applying().map(move |known| known.view(now))
    }

    /// The policies whose quotas the source replaces.
    pub(in crate::limiter) fn source_policies(&self) -> impl Iterator<Item = &str> {
        let found = self.found.iter().flat_map(|found| &found.overrides.quotas);
        found.map(|(policy, _)| &**policy)
    }

    fn applying(&self) -> impl Iterator<Item = &Known> {
        let known = self.known.iter().flat_map(|known| known.iter());
        known.filter(|known| known.ends_at > self.at)
    }

    /// The same caller, with what the source says of it.
    pub(in crate::limiter) fn with_source(own: Option<Self>, found: Found, now: Now) -> Self {
        let known = own.and_then(|own| own.known);
        Self { known, found: Some(found), at: now.monotonic_nanos() }
    }

    /// The caller's quota override under a policy: an operator's, or else the source's.
    pub(in crate::limiter) fn quota(&self, policy: &str) -> Option<Quota> {
        let own = self.all().find_map(|own| match &own.kind {
            OverrideKind::Quota { policy: name, quota } if name == policy => Some(*quota),
            _ => None,
        });
        own.or_else(|| {
            let found = self.found.iter().flat_map(|found| &found.overrides.quotas);
            found.rev().find_map(|(name, quota)| (name == policy).then_some(*quota))
        })
    }

    /// How long the caller is still blocked; `None` if it is not.
    pub(in crate::limiter) fn blocked_for(&self) -> Option<Duration> {
        self.lasts(None).max(self.blocked_by_source_for())
    }

    /// Whether the source blocks the caller, and no operator for as long.
    #[cfg(feature = "describe")]
    pub(in crate::limiter) fn is_blocked_by_source(&self) -> bool {
        self.blocked_by_source_for() > self.lasts(None)
    }

    fn blocked_by_source_for(&self) -> Option<Duration> {
        let found = self.found.as_ref()?;
        let age = Duration::from_nanos(self.at.saturating_sub(found.at));
        found.overrides.block?.checked_sub(age).filter(|left| !left.is_zero())
    }

    /// How long the caller's quota override under a policy still lasts.
    #[cfg(feature = "describe")]
    pub(in crate::limiter) fn quota_lasts(&self, policy: &str) -> Option<Duration> {
        self.lasts(Some(policy))
    }

    fn lasts(&self, policy: Option<&str>) -> Option<Duration> {
        let known = self.applying().find(|known| known.is_of(policy))?;
        Some(Duration::from_nanos(known.ends_at.saturating_sub(self.at)))
    }
}
