//! What was decided about a request: [`Decision`].

use std::{borrow::Cow, time::Duration};

use smallvec::SmallVec;

use crate::{algorithm::Algorithm, policy::Policy, quota::Quota};

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
    outcomes: SmallVec<[Outcome; 4]>,
    decided_at: Duration,
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
}

impl Decision {
    pub(crate) fn new(outcomes: SmallVec<[Outcome; 4]>, decided_at: Duration) -> Self {
        let mut decision = Self { reason: None, outcomes, decided_at };
        decision.reason = decision.refusing().and_then(|outcome| outcome.refused);
        decision
    }

    /// Whether the request passes.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.reason.is_none()
    }

    /// Why it does not pass.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    /// What each policy says, in the order in which they were asked. Empty where nothing was
    /// counted: the request was exempt, or no policy holds for it.
    #[must_use]
    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    /// The policy that its caller will feel first: the one that refused, with the longest wait; or
    /// else the one with the least left, the longest until it resets among equals.
    #[must_use]
    pub fn tightest(&self) -> Option<&Outcome> {
        self.refusing().or_else(|| {
            self.outcomes
                .iter()
                .min_by_key(|outcome| (outcome.remaining, std::cmp::Reverse(outcome.reset)))
        })
    }

    /// When it was decided, since 1970 UTC.
    #[must_use]
    pub fn decided_at(&self) -> Duration {
        self.decided_at
    }

    /// With longer waits, where it refuses.
    pub(crate) fn delayed(mut self, by: Duration) -> Self {
        for outcome in self.outcomes.iter_mut().filter(|outcome| !outcome.is_allowed()) {
            outcome.wait = outcome.wait.saturating_add(by);
        }
        self
    }

    fn refusing(&self) -> Option<&Outcome> {
        let refusing = self.outcomes.iter().filter(|outcome| !outcome.is_allowed());
        refusing.max_by_key(|outcome| outcome.wait_or_never())
    }
}

/// What one policy says of a request: one snapshot of one quota.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub(crate) policy: Policy,
    pub(crate) key_kind: u8,
    /// Of the key, as in the store; `None` where there is none: the policy is global, or the key
    /// is missing.
    pub(crate) fingerprint: Option<u128>,
    pub(crate) quota: Quota,
    pub(crate) refused: Option<Reason>,
    pub(crate) remaining: u64,
    pub(crate) reset: Duration,
    pub(crate) wait: Duration,
}

impl Outcome {
    /// The policy's name.
    #[must_use]
    pub fn policy(&self) -> &str {
        self.policy.name()
    }

    /// How it counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.policy.algorithm()
    }

    /// What kind of key it counted by: `ip`, `x-api-key`; `all` where all requests count together.
    #[must_use]
    pub fn key_kind(&self) -> Cow<'_, str> {
        self.policy.key_kind(self.key_kind)
    }

    /// The quota that held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.quota
    }

    /// The most that `remaining` can be: the units of a window, or the burst of a token bucket.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.policy.capacity(&self.quota)
    }

    /// The units left after this request.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// How long until `remaining` grows: the end of a fixed window, the oldest unit leaving a
    /// sliding one, the next token of a bucket. Zero when nothing is used.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.reset
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
        (self.refused == Some(Reason::QuotaExceeded)).then_some(self.wait)
    }

    /// Longer than any wait where waiting does not help.
    pub(crate) fn wait_or_never(&self) -> Duration {
        self.retry_after().unwrap_or(Duration::MAX)
    }
}
