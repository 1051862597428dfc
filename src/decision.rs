//! What was decided about a request: [`Decision`].

use std::{slice, time::Duration};

use smallvec::SmallVec;

use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    policy::Labels,
    quota::Quota,
    store::{Charge, Mode, Usage},
};

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
    reason: Option<Reason>,
    all: SmallVec<[Outcome; 4]>,
    /// How many of `all` requests feel: they come first, and then what is only tried out.
    enforced: u32,
    pub(crate) now: Now,
    /// In nanoseconds.
    held: u64,
    /// The number of the request's category.
    pub(crate) category: Option<u32>,
    /// Counted on this replica alone, because the store did not answer.
    pub(crate) counted_locally: bool,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The quota is used up.
    QuotaExceeded,
    /// The request costs more than the whole quota: it will never pass.
    CostExceedsQuota,
    /// The request has none of the keys by which the policy counts.
    MissingKey,
    /// The store does not answer, and the policy refuses then
    /// ([`OnStoreFailure::Refuse`](crate::OnStoreFailure)).
    StoreUnavailable,
}

impl Reason {
    /// Whether there is a quota to tell of.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::CostExceedsQuota)
    }
}

impl Decision {
    /// About nothing, at the beginning of time.
    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            reason: None,
            all: SmallVec::new(),
            enforced: 0,
            now: Now::ZERO,
            held: 0,
            category: None,
            counted_locally: false,
        }
    }

    /// Adds what another policy says, to be completed where it is: to make it first and move it
    /// would take longer.
    #[inline]
    pub(crate) fn push(&mut self, outcome: &Outcome) -> &mut Outcome {
        let is_tried_out = outcome.charge.mode == Mode::DryRun;
        let place = if is_tried_out { self.all.len() } else { self.enforced as usize };
        self.enforced += u32::from(!is_tried_out);
        self.all.insert_from_slice(place, slice::from_ref(outcome));
        &mut self.all[place]
    }

    /// There will be so many.
    #[inline]
    pub(crate) fn reserve(&mut self, policies: usize) {
        self.all.reserve(policies);
    }

    pub(crate) fn retain(&mut self, keeps: impl Fn(&Outcome) -> bool) {
        self.enforced = self.outcomes().iter().filter(|outcome| keeps(outcome)).count() as u32;
        self.all.retain(|outcome| keeps(outcome));
    }

    /// All is said.
    #[inline]
    pub(crate) fn close(&mut self, now: Now, held: Duration) {
        self.reason = self.refusing().and_then(|outcome| outcome.refused);
        (self.now, self.held) = (now, nanos(held));
    }

    /// The outcomes, and after them those of dry runs.
    #[inline]
    pub(crate) fn all(&self) -> slice::Iter<'_, Outcome> {
        self.all.iter()
    }

    #[inline]
    pub(crate) fn all_mut(&mut self) -> slice::IterMut<'_, Outcome> {
        self.all.iter_mut()
    }

    /// Whether the request passes.
    #[must_use]
    #[inline]
    pub fn is_allowed(&self) -> bool {
        self.reason.is_none()
    }

    /// Why it does not pass.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// What each policy says, in the order in which they were asked. Empty where nothing was
    /// counted: the request was exempt, or no policy holds for it. A policy is left out where nobody
    /// knows what is left of it: the store does not answer, or has not been asked because another
    /// policy is known to refuse.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.all[..self.enforced as usize]
    }

    /// What the policies say that are a [dry run](crate::Policy::dry_run): an
    /// [`Outcome::is_allowed`] that is `false` would be a refusal.
    #[must_use]
    pub fn dry_runs(&self) -> &[Outcome] {
        &self.all[self.enforced as usize..]
    }

    /// The policy that its caller will feel first: the one that refused, with the longest wait; or
    /// else the one with the least left, the longest until it resets among equals.
    #[must_use]
    pub fn tightest(&self) -> Option<&Outcome> {
        self.refusing().or_else(|| {
            self.outcomes()
                .iter()
                .min_by_key(|outcome| (outcome.remaining(), std::cmp::Reverse(outcome.reset())))
        })
    }

    /// When it was decided, since 1970 UTC; by the store's clock, where it has one of its own.
    #[must_use]
    pub fn decided_at(&self) -> Duration {
        self.now.unix()
    }

    /// How long the request was held before it was decided.
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.held)
    }

    /// Whether all pass, and at once.
    #[cfg(feature = "tracing")]
    #[inline]
    pub(crate) fn is_uneventful(&self) -> bool {
        self.reason.is_none() && self.dry_runs().is_empty() && self.held == 0
    }

    /// Whether a response may change what was charged.
    pub(crate) fn is_settled_later(&self) -> bool {
        self.all.iter().any(|outcome| outcome.charge.is_settled)
    }

    /// With longer waits, where it refuses.
    pub(crate) fn delay(&mut self, by: Duration) {
        let enforced = &mut self.all[..self.enforced as usize];
        for outcome in enforced.iter_mut().filter(|outcome| !outcome.is_allowed()) {
            outcome.usage = outcome.usage.later(nanos(by), 0);
        }
    }

    #[inline]
    fn refusing(&self) -> Option<&Outcome> {
        let refusing = self.outcomes().iter().filter(|outcome| !outcome.is_allowed());
        refusing.max_by_key(|outcome| outcome.wait_or_never())
    }
}

/// What one policy says of a request: one snapshot of one quota.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub(crate) labels: &'static Labels,
    /// Of the limiter's rules.
    pub(crate) place: u32,
    pub(crate) key_kind: u8,
    pub(crate) refused: Option<Reason>,
    /// Among how many the quota is divided: this replica counts alone where it is more than 1.
    pub(crate) replicas: u32,
    /// What was asked of the store, unless the key is missing.
    pub(crate) charge: Charge,
    pub(crate) usage: Usage,
}

impl Outcome {
    /// The policy's name.
    #[must_use]
    pub fn policy(&self) -> &str {
        &self.labels.policy
    }

    /// How it counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.charge.algorithm
    }

    /// What kind of key it counted by: `ip`, `x-api-key`; `all` where all requests count together.
    #[must_use]
    pub fn key_kind(&self) -> &str {
        self.labels.kind(self.key_kind)
    }

    /// The quota that held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.charge.quota.share(self.replicas)
    }

    /// The most that `remaining` can be: the units of a window, or the burst of a token bucket.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.algorithm().capacity(&self.quota())
    }

    /// The units left after this request.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.usage.remaining()
    }

    /// How long until `remaining` grows: the end of a fixed window, the oldest unit leaving a
    /// sliding one, the next token of a bucket. Zero for a bucket or a sliding window of which
    /// nothing is used.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.usage.reset()
    }

    #[inline]
    pub(crate) fn has_key(&self) -> bool {
        self.refused != Some(Reason::MissingKey)
    }

    /// What was asked of the store.
    #[inline]
    pub(crate) fn charge(&self) -> Option<&Charge> {
        self.has_key().then_some(&self.charge)
    }

    /// The charge as it was made.
    pub(crate) fn made(&self) -> Charge {
        Charge { quota: self.quota(), ..self.charge }
    }

    /// What the store has answered.
    #[inline]
    pub(crate) fn answer(&mut self, usage: &Usage) {
        self.usage = *usage;
        self.refused = match usage.fits() {
            true => None,
            false if self.charge.cost > self.limit() => Some(Reason::CostExceedsQuota),
            false => Some(Reason::QuotaExceeded),
        };
    }

    /// Of the key, as the store knows it; `None` where there is none: the policy is global, or the
    /// key is missing.
    pub(crate) fn fingerprint(&self) -> Option<u128> {
        self.charge().filter(|_| !self.labels.is_global).map(|charge| charge.key)
    }

    /// Whether this policy lets the request pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.refused.is_none()
    }

    /// Where this policy refuses: how long until the same request would pass. `None` where it
    /// passes, and where waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        (self.refused == Some(Reason::QuotaExceeded)).then_some(self.usage.wait())
    }

    /// Longer than any wait where waiting does not help.
    pub(crate) fn wait_or_never(&self) -> Duration {
        self.retry_after().unwrap_or(Duration::MAX)
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
        decision.close(Now::ZERO, Duration::ZERO);
        decision
    }
}

#[cfg(test)]
impl Outcome {
    /// What a policy says of a key that has used nothing.
    pub(crate) fn unused(policy: crate::policy::Policy) -> Self {
        let (quota, algorithm) = (policy.quota(), policy.algorithm());
        Self {
            labels: Labels::of(&policy),
            place: 0,
            key_kind: 0,
            replicas: 1,
            charge: Charge::new(0, 7, algorithm, quota),
            refused: None,
            usage: Usage::of_nanos(0, algorithm.capacity(&quota), 0),
        }
    }
}
