//! The quota that a decision drew on, without its key: [`QuotaRef`].

use super::{decision::Outcome, decision::RuleId};
use crate::store::Charge;

/// A key's quota under one policy, as a decision drew on it; from [`Outcome::quota_ref`]. It has no
/// key, only what the store knows the key by: with it, a quota is looked at and reset by code that
/// does not have the key, such as an operator's page.
///
/// It is of one limiter: another limiter's answer would be of another key.
#[derive(Clone, Copy, Debug)]
pub struct QuotaRef {
    pub(super) rule: RuleId,
    pub(super) key_kind: u8,
    pub(super) charge: Charge,
}

impl QuotaRef {
    /// Whether both are of one policy.
    #[must_use]
    pub fn is_of_same_policy(&self, other: &Self) -> bool {
        self.charge.policy == other.charge.policy
    }

    /// The same, with the quota of `before`: the one that holds when an override has ended.
    #[cfg(all(feature = "usage", feature = "axum"))]
    pub(crate) fn with_quota_of(mut self, before: &Self) -> Self {
        self.charge.quota = before.charge.quota;
        self
    }
}

impl Outcome<'_> {
    /// The quota that this outcome drew on; `None` where all callers share the quota, or the request
    /// has no key.
    #[must_use]
    pub fn quota_ref(&self) -> Option<QuotaRef> {
        self.fingerprint()?;
        let (rule, key_kind) = (self.entry.rule, self.entry.key_kind);
        Some(QuotaRef { rule, key_kind, charge: *self.charge })
    }
}
