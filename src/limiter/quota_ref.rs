//! A quota that a decision has charged, without its key: [`QuotaRef`].

use super::{
    Labels,
    decision::Outcome,
    rules::{Rule, RuleSet},
};
use crate::store::Charge;

/// A reference to the quota of one key under one policy, from [`Outcome::quota_ref`]. It contains
/// the key's fingerprint, not the key. So code that has no keys, such as an operator's page, can
/// look at the quota ([`Limiter::peek_quotas`](crate::Limiter::peek_quotas)) or reset it
/// ([`Limiter::reset_quotas`](crate::Limiter::reset_quotas)).
///
/// Use it only with the limiter that made the decision: another one would find another key's count.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("mails", Quota::per_day(100)))
///     .build()?;
/// let decision = limiter.check("mails", "tenant-7").cost(30).await?;
/// let quotas: Vec<_> = decision.outcomes().filter_map(|outcome| outcome.quota_ref()).collect();
/// assert_eq!(limiter.peek_quotas(&quotas, None).await.remaining(), 70);
/// assert_eq!(limiter.reset_quotas(&quotas).await.remaining(), 100);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct QuotaRef {
    labels: &'static Labels,
    key_kind: u8,
    pub(super) charge: Charge,
}

impl QuotaRef {
    /// Whether both are quotas of the same policy.
    #[must_use]
    pub fn is_of_same_policy(&self, other: &Self) -> bool {
        self.charge.policy == other.charge.policy
    }

    /// The rule of the quota's policy, and the index of the key's kind there. `None` if the limiter
    /// has no such policy any more, or if the policy does not count by this kind any more.
    pub(super) fn find_in<'r>(&self, rules: &'r RuleSet) -> Option<(&'r Rule, u8)> {
        let rule = rules.of_charge(&self.charge)?;
        Some((rule, rule.entry.labels.same_kind(self.labels, self.key_kind)?))
    }

    /// Replaces the quota by that of `before`, which applies again after an override.
    #[cfg(all(feature = "usage", feature = "axum"))]
    pub(crate) fn with_quota_of(mut self, before: &Self) -> Self {
        self.charge.quota = before.charge.quota;
        self
    }
}

impl Outcome<'_> {
    /// A reference to this outcome's quota. `None` if all callers share the quota, or if the
    /// request has no key.
    #[must_use]
    pub fn quota_ref(&self) -> Option<QuotaRef> {
        self.fingerprint()?;
        let (labels, key_kind) = (self.entry.labels, self.entry.key_kind);
        Some(QuotaRef { labels, key_kind, charge: *self.charge })
    }
}
