//! What one policy says of a request: [`Outcome`].

use std::{cmp::Ordering, time::Duration};

use http::StatusCode;

use super::{Reason, record::Entry};
use crate::{
    algorithm::Algorithm,
    quota::Quota,
    store::{Charge, Usage},
};

/// What one policy says of a request: one snapshot of one quota, as its
/// [`Decision`](crate::Decision) has it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) charge: &'a Charge,
    pub(crate) usage: &'a Usage,
}

/// When to come back where the store does not answer. The limiter looks more often than that whether
/// the store answers again.
const STORE_RETRY: Duration = Duration::from_secs(1);

impl<'a> Outcome<'a> {
    /// The policy's name.
    #[must_use]
    pub fn policy(&self) -> &'a str {
        &self.entry.labels.policy
    }

    /// How the policy counts.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.charge.algorithm
    }

    /// The kind of the key by which the policy counted: `ip`, `x-api-key`; `all` where all requests
    /// count together.
    #[must_use]
    pub fn key_kind(&self) -> &'a str {
        self.entry.labels.kind(self.entry.key_kind)
    }

    /// The quota that held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.charge.quota.share(self.entry.replicas)
    }

    /// The most that [`remaining`](Self::remaining) can be: the units of a window, or the burst of a
    /// token bucket.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.algorithm().capacity(&self.quota())
    }

    /// How many units the request costs.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.charge.cost
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

    /// Whether this policy lets the request pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.entry.refused.is_none()
    }

    /// Why this policy refuses the request; `None` where it lets the request pass.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.entry.refused
    }

    /// How long until the same request passes this policy; `None` where it passes now, and where
    /// waiting does not help. Where other requests are held, it passes then if no further request
    /// comes, and perhaps earlier. One second where the store does not answer, as the time is not
    /// known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.entry.refused? {
            Reason::QuotaExceeded => Some(self.usage.wait()),
            Reason::StoreUnavailable => Some(STORE_RETRY.saturating_add(self.usage.wait())),
            Reason::CostExceedsQuota
            | Reason::NoQuota
            | Reason::MissingKey
            | Reason::UnreadableKey
            | Reason::Blocked => None,
        }
    }

    #[cfg(feature = "metrics")]
    pub(crate) fn is_dry_run(&self) -> bool {
        self.charge.mode == crate::store::Mode::DryRun
    }

    #[inline]
    pub(crate) fn has_key(&self) -> bool {
        self.entry.has_key()
    }

    /// The status with which an unreadable key is refused.
    pub(crate) fn unreadable_status(&self) -> StatusCode {
        error_status(self.entry.unreadable)
    }

    /// The charge with the quota that held.
    pub(crate) fn effective_charge(&self) -> Charge {
        Charge { quota: self.quota(), ..*self.charge }
    }

    /// The key, as the store knows it; `None` where the policy is global, or the key is missing or
    /// unreadable.
    pub(crate) fn fingerprint(&self) -> Option<u128> {
        (self.has_key() && !self.entry.labels.is_global).then_some(self.charge.key)
    }

    /// Whether something is left, and the request costs more than that.
    pub(crate) fn lacks_some(&self) -> bool {
        (1..self.charge.cost).contains(&self.remaining())
    }

    /// Whether nothing of the quota is used.
    pub(crate) fn is_unused(&self) -> bool {
        self.remaining() >= self.limit()
    }

    /// The wait, or more than any wait where waiting may not help.
    pub(crate) fn wait_or_never(&self) -> Duration {
        match self.entry.refused {
            Some(Reason::StoreUnavailable) => Duration::MAX,
            _ => self.retry_after().unwrap_or(Duration::MAX),
        }
    }

    /// Less where fewer such requests still fit; then where the smaller share is left, and then
    /// where it takes longer until more is left.
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

/// The status of an unreadable key: an extractor of the user's may return one that is no error.
pub(crate) fn error_status(status: Option<StatusCode>) -> StatusCode {
    let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
    status.filter(is_error).unwrap_or(StatusCode::BAD_REQUEST)
}
