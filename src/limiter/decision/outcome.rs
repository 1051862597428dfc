//! The outcome of a request under one policy: [`Outcome`].

use std::{cmp::Ordering, time::Duration};

use http::StatusCode;

use super::{
    Reason,
    record::{Entry, Standing},
};
use crate::{
    algorithm::Algorithm,
    quota::Quota,
    store::{Charge, Usage},
};

/// The outcome of a request under one policy: whether it passes, and what is left of the quota at
/// the time of the decision. From [`Decision::outcomes`](crate::Decision::outcomes).
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::token_bucket("mails", Quota::per_minute(60).burst(5)))
///     .build()?;
/// let decision = limiter.check("mails", "tenant-7").cost(5).at_once()?;
/// let mails = decision.outcome("mails").expect("the policy was checked");
/// assert_eq!((mails.limit(), mails.cost(), mails.remaining()), (5, 5, 0));
/// assert!(mails.is_allowed() && mails.retry_after().is_none());
///
/// let refused = limiter.check("mails", "tenant-7").at_once()?;
/// let mails = refused.outcome("mails").expect("the policy was checked");
/// assert!(mails.retry_after().is_some_and(|wait| wait.as_secs_f64() <= 1.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Outcome<'a> {
    pub(crate) entry: &'a Entry,
    pub(crate) charge: &'a Charge,
    pub(crate) usage: &'a Usage,
}

/// The wait if the store or the override source does not answer. The limiter itself tries the store more
/// often than that.
pub(super) const RETRY: Duration = Duration::from_secs(1);

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

    /// The kind of key by which the policy counted, such as `ip` or `x-api-key`; `all` if all
    /// requests count together.
    #[must_use]
    pub fn key_kind(&self) -> &'a str {
        self.entry.labels.kind(self.entry.key_kind)
    }

    /// The quota that applied: the policy's, that of the key's plan, or an override. While this
    /// replica [counts alone](crate::OnStoreFailure::CountLocally), it is the replica's share.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.charge.quota.share(self.entry.replicas)
    }

    /// The largest possible [`remaining`](Self::remaining): the units of a window, or the burst of
    /// a token bucket.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.algorithm().capacity(&self.quota())
    }

    /// How many units the request costs.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.charge.cost
    }

    /// How many units are left after this request.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.usage.remaining()
    }

    /// How long until `remaining` grows: a fixed window ends, the oldest unit leaves a sliding
    /// window, or a bucket gets its next token. Zero for a bucket or a sliding window of which
    /// nothing is used; and for units [in flight](crate::Policy::in_flight), which come back at an
    /// unknown time.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.usage.reset()
    }

    /// How long until `remaining` grows; `None` if that is unknown.
    #[inline]
    pub(crate) fn known_reset(&self) -> Option<Duration> {
        (self.charge.algorithm != Algorithm::InFlight).then(|| self.reset())
    }

    /// Whether this policy lets the request pass.
    #[must_use]
    pub fn is_allowed(&self) -> bool {
        self.entry.refused().is_none()
    }

    /// Whether the request draws on this quota, if it passes: this policy lets it pass, and speaks for
    /// its [waterfall](crate::Policy::or_else). In a waterfall, the request draws on the first quota
    /// with room, and the numbers of the others are those without the request. If none has room, the
    /// policy with the shortest wait refuses the request; of the others, `is_allowed` is `true`, and this
    /// is `false`.
    #[must_use]
    pub fn is_drawn_on(&self) -> bool {
        self.entry.standing == Standing::Passes
    }

    /// Whether another policy of its waterfall speaks for it.
    #[cfg(any(feature = "metrics", feature = "describe"))]
    pub(crate) fn is_passed_over(&self) -> bool {
        self.entry.standing == Standing::PassedOver
    }

    /// Why this policy refuses the request; `None` if the policy lets it pass.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.entry.refused()
    }

    /// How long to wait until this policy lets the same request pass. `None` if it passes now, or
    /// if waiting does not help, or if the wait is unknown, as with units
    /// [in flight](crate::Policy::in_flight) without [`retry_after`](crate::Policy::retry_after). One
    /// second if the store does not answer.
    ///
    /// If other requests are held, this is the longest wait, provided that no further request
    /// comes.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.entry.refused()? {
            Reason::QuotaExceeded => self.usage.known_wait(),
            Reason::Penalty => self.usage.known_wait().or_else(|| self.usage.blocked_for()),
            Reason::StoreUnavailable => Some(RETRY.saturating_add(self.usage.wait())),
            Reason::CostExceedsQuota
            | Reason::NoQuota
            | Reason::MissingKey
            | Reason::UnreadableKey
            | Reason::SourceUnavailable
            | Reason::Blocked => None,
        }
    }

    /// How much longer the key is blocked by the policy's [penalty](crate::Penalty), since the
    /// [decision](crate::Decision::decided_at); `None` if it is not. [`retry_after`](Self::retry_after)
    /// is longer if the quota has too few units at the end of the block.
    ///
    /// A response that passes may be the failure with which a block begins: then this is the block of
    /// the requests to come.
    #[must_use]
    pub fn blocked_for(&self) -> Option<Duration> {
        self.usage.blocked_for()
    }

    /// The charge, with the quota that applied.
    pub(crate) fn effective_charge(&self) -> Charge {
        Charge { quota: self.quota(), ..*self.charge }
    }

    /// The key's fingerprint in the store; `None` if the policy is global, or if the key is missing
    /// or unreadable.
    pub(crate) fn fingerprint(&self) -> Option<u128> {
        (self.entry.has_key() && !self.entry.labels.is_global).then_some(self.charge.key)
    }

    /// Whether nothing of the quota is used.
    pub(crate) fn is_unused(&self) -> bool {
        self.remaining() >= self.limit()
    }

    /// The wait, or the longest possible one if waiting may not help.
    pub(crate) fn wait_or_never(&self) -> Duration {
        match self.entry.refused() {
            Some(Reason::StoreUnavailable) => Duration::MAX,
            _ => self.retry_after().unwrap_or(Duration::MAX),
        }
    }

    /// The order of `Decision::tightest`: the tighter outcome is the lesser one.
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

/// The status for an unreadable key: 400 if a custom extractor gives a status that is no error.
pub(crate) fn error_status(status: Option<StatusCode>) -> StatusCode {
    let is_error = |status: &StatusCode| status.is_client_error() || status.is_server_error();
    status.filter(is_error).unwrap_or(StatusCode::BAD_REQUEST)
}
