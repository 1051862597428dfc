use std::{cmp::Ordering, time::Duration};

use http::StatusCode;

use super::Reason;
use crate::{
    algorithm::Algorithm,
    policy::Labels,
    quota::Quota,
    store::{Charge, Usage},
};

/// What one policy says of a request: one snapshot of one quota.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub(crate) labels: &'static Labels,
    /// Of the limiter's rules.
    pub(crate) place: u32,
    pub(crate) key_kind: u8,
    pub(crate) refused: Option<Reason>,
    /// With which status, where the key is unreadable.
    pub(crate) unreadable: Option<StatusCode>,
    /// Among how many the quota is divided: this replica counts alone where it is more than 1.
    pub(crate) replicas: u32,
    /// What was asked of the store, unless the key is missing or unreadable.
    pub(crate) charge: Charge,
    pub(crate) usage: Usage,
}

/// When to come back where the store does not answer: whether it does again is looked at more often
/// than that.
const STORE_RETRY: Duration = Duration::from_secs(1);

/// The id of what is no policy of a limiter's.
#[cfg(any(feature = "metrics", all(feature = "usage", feature = "axum")))]
pub(crate) const NO_POLICY: u64 = 0;

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

    /// Whether it is what an operator blocks, about which no rule of the limiter's decides.
    #[cfg(feature = "metrics")]
    pub(crate) fn is_of_no_policy(&self) -> bool {
        self.charge.policy == NO_POLICY
    }

    #[inline]
    pub(crate) fn has_key(&self) -> bool {
        !self.refused.is_some_and(Reason::lacks_key)
    }

    /// With which status an unreadable key is refused.
    pub(crate) fn unreadable_status(&self) -> StatusCode {
        let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
        self.unreadable.filter(is_error).unwrap_or(StatusCode::BAD_REQUEST)
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
        self.judge();
    }

    /// Says what follows from its usage.
    #[inline]
    pub(crate) fn judge(&mut self) {
        self.refused = match self.usage.fits() {
            true => None,
            false if self.charge.cost > self.limit() => Some(Reason::CostExceedsQuota),
            false => Some(Reason::QuotaExceeded),
        };
    }

    /// Of the key, as the store knows it; `None` where there is none: the policy is global, or the
    /// key is missing or unreadable.
    pub(crate) fn fingerprint(&self) -> Option<u128> {
        self.charge().filter(|_| !self.labels.is_global).map(|charge| charge.key)
    }

    /// Whether this policy lets the request pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.refused.is_none()
    }

    /// Where this policy refuses: how long until the same request would pass. `None` where it
    /// passes, and where waiting does not help. Beside requests that are held, it would pass then if
    /// no other comes, and perhaps before.
    /// Where the store does not answer, that is not known, and it is a second.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.refused? {
            Reason::QuotaExceeded | Reason::Blocked => Some(self.usage.wait()),
            Reason::StoreUnavailable => Some(STORE_RETRY.saturating_add(self.usage.wait())),
            Reason::CostExceedsQuota
            | Reason::NoQuota
            | Reason::MissingKey
            | Reason::UnreadableKey => None,
        }
    }

    /// Whether something is left, and the request costs more than that.
    pub(crate) fn lacks_some(&self) -> bool {
        (1..self.charge.cost).contains(&self.remaining())
    }

    /// Longer than any wait where it is not known whether waiting helps.
    pub(crate) fn wait_or_never(&self) -> Duration {
        match self.refused {
            Some(Reason::StoreUnavailable) => Duration::MAX,
            _ => self.retry_after().unwrap_or(Duration::MAX),
        }
    }

    /// Less where fewer such requests still fit; then where the smaller share is left, and then
    /// where it takes longer until more is.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "128 bits hold the product of two 64, and no cost of 0 divides"
    )]
    pub(super) fn cmp_room(&self, other: &Self) -> Ordering {
        let fit = |of: &Self| of.remaining() / of.charge.cost.max(1);
        let scaled = |of: &Self, by: &Self| u128::from(of.remaining()) * u128::from(by.limit());
        let share = || scaled(self, other).cmp(&scaled(other, self));
        let reset = || other.reset().cmp(&self.reset());
        fit(self).cmp(&fit(other)).then_with(share).then_with(reset)
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
            unreadable: None,
            usage: Usage::from_nanos(0, algorithm.capacity(&quota), 0),
        }
    }
}
