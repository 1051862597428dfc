//! What was decided about a request: [`Decision`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod outcome;
mod record;

use std::{mem, slice, time::Duration};

#[cfg(all(feature = "usage", feature = "axum"))]
pub(crate) use self::outcome::NO_POLICY;
pub use self::outcome::Outcome;
use self::record::{Fields, Record};
use crate::{clock::nanos, store::Mode};

/// The verdict over all policies of a request, and what each of them says.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .direct(Policy::sliding_window("delivery", Quota::per_hour(100)))
///     .build()?;
/// let decision = limiter.check("delivery", "sk_live_pro_tenant").await?;
/// assert!(decision.is_allowed());
/// let outcome = decision.tightest().expect("one policy was asked");
/// assert_eq!((outcome.policy(), outcome.limit(), outcome.remaining()), ("delivery", 100, 99));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Decision {
    pub(crate) record: Record,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The quota is used up.
    QuotaExceeded,
    /// The request costs more than the whole quota: it will never pass.
    CostExceedsQuota,
    /// The key's plan has no units, or an invalid quota: none of its requests ever passes.
    NoQuota,
    /// The request has none of the keys by which the policy counts.
    MissingKey,
    /// The request has a key that cannot be read: it is there twice, or malformed. It costs nothing
    /// anywhere.
    UnreadableKey,
    /// The store does not answer, and the policy refuses then
    /// ([`OnStoreFailure::Refuse`](crate::OnStoreFailure)).
    StoreUnavailable,
    /// An operator refuses the key for a time.
    Blocked,
}

impl Reason {
    /// Whether there is a quota to tell of.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::CostExceedsQuota | Self::Blocked)
    }

    /// Whether there is nothing to count: no key, or no quota.
    pub(crate) const fn lacks_key(self) -> bool {
        matches!(self, Self::MissingKey | Self::UnreadableKey | Self::NoQuota)
    }
}

impl Decision {
    /// About nothing, at the beginning of time.
    #[inline]
    pub(crate) fn new() -> Self {
        Self { record: Record::default() }
    }

    /// Takes it away; what stays behind is about nothing.
    #[inline]
    pub(crate) fn take(&mut self) -> Self {
        Self { record: mem::take(&mut self.record) }
    }

    /// Adds what another policy says, to be completed where it is: to make it first and move it
    /// would take longer.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "it is a place of one that is there")]
    pub(crate) fn push(&mut self, outcome: &Outcome) -> &mut Outcome {
        let Fields { all, enforced, .. } = &mut *self.record;
        let mut place = all.len();
        if outcome.charge.mode != Mode::DryRun {
            place = mem::replace(enforced, *enforced + 1);
        }
        if place == all.len() {
            all.push(*outcome);
        } else {
            // Before what is only tried out.
            all.insert(place, *outcome);
        }
        &mut all[place]
    }

    /// There will be so many.
    #[inline]
    pub(crate) fn reserve(&mut self, policies: usize) {
        self.record.all.reserve(policies);
    }

    pub(crate) fn retain(&mut self, keeps: impl Fn(&Outcome) -> bool) {
        self.record.enforced = self.outcomes().iter().filter(|outcome| keeps(outcome)).count();
        self.record.all.retain(|outcome| keeps(outcome));
    }

    /// The outcomes, and after them those of dry runs.
    #[inline]
    pub(crate) fn all(&self) -> slice::Iter<'_, Outcome> {
        self.record.all.iter()
    }

    #[inline]
    pub(crate) fn all_mut(&mut self) -> slice::IterMut<'_, Outcome> {
        self.record.all.iter_mut()
    }

    /// Whether the request passes.
    #[must_use]
    #[inline]
    pub fn is_allowed(&self) -> bool {
        self.record.reason.is_none()
    }

    /// Why it does not pass.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.record.reason
    }

    /// What each policy says, in the order in which they were asked. Empty where nothing was
    /// counted: the request was exempt, or no policy holds for it. A policy is left out where it is
    /// not known what is left of it: the store does not answer, or was not used because another
    /// policy is known to refuse.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        self.record.outcomes()
    }

    /// What the policies say that are a [dry run](crate::Policy::dry_run): an
    /// [`Outcome::is_allowed`] that is `false` would be a refusal.
    #[must_use]
    pub fn dry_runs(&self) -> &[Outcome] {
        &self.record.all[self.record.enforced..]
    }

    /// The policy that limits the caller first.
    ///
    /// In a refusal, it is the policy that refused, with the longest wait; of several with the same
    /// wait, the last. Otherwise it is the policy under which the fewest such requests still fit:
    /// [`remaining`](Outcome::remaining) divided by the request's [cost](crate::Policy::cost), which
    /// counts as 1 at least. Ties go to the smaller share of the [`limit`](Outcome::limit) left, then
    /// to the longer time until more is left, then to the policy that comes first.
    #[must_use]
    pub fn tightest(&self) -> Option<&Outcome> {
        match self.outcomes() {
            [only] => Some(only),
            all => self.record.refusing().or_else(|| all.iter().min_by(|a, b| a.cmp_room(b))),
        }
    }

    /// When it was decided, since 1970 UTC; by the store's clock, where it has one of its own.
    #[must_use]
    pub fn decided_at(&self) -> Duration {
        self.record.now.unix()
    }

    /// How long the request was held before it was decided.
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.record.held)
    }

    /// Whether all pass, and at once.
    #[cfg(feature = "tracing")]
    #[inline]
    pub(crate) fn is_uneventful(&self) -> bool {
        self.record.reason.is_none()
            && self.record.enforced == self.record.all.len()
            && self.record.held == 0
    }

    /// Whether a response may change what was charged.
    pub(crate) fn is_settled_later(&self) -> bool {
        self.record.all.iter().any(|outcome| outcome.charge.is_settled)
    }

    /// With longer waits, where it refuses.
    pub(crate) fn delay(&mut self, by: Duration) {
        let record = &mut *self.record;
        let enforced = &mut record.all[..record.enforced];
        for outcome in enforced.iter_mut().filter(|outcome| !outcome.is_allowed()) {
            outcome.usage = outcome.usage.later(nanos(by), 0);
        }
    }
}

#[cfg(test)]
impl Decision {
    /// What is decided at the beginning of time.
    pub(crate) fn of(outcomes: impl IntoIterator<Item = Outcome>) -> Self {
        let mut decision = Self::new();
        for outcome in outcomes {
            decision.push(&outcome);
        }
        decision.record.close(crate::clock::Now::ZERO, Duration::ZERO);
        decision
    }
}
