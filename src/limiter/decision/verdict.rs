//! What was decided, and why: [`Verdict`] and [`Reason`].

use std::{fmt, time::Duration};

use http::StatusCode;

use super::Outcome;

/// What was decided about a request: it passes, or what refuses it. From
/// [`Decision::verdict`](crate::Decision::verdict).
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota, Verdict};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("delivery", Quota::per_hour(1)))
///     .build()?;
/// limiter.check("delivery", "key").at_once()?;
/// let decision = limiter.check("delivery", "key").at_once()?;
/// match decision.verdict() {
///     Verdict::Refused(outcome) => assert_eq!(outcome.policy(), "delivery"),
///     verdict => panic!("{verdict:?}"),
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Verdict<'a> {
    /// The request passes.
    Admitted,
    /// A policy refuses the request. If several refuse it, this is the one with the longest wait;
    /// if waits are equal, the last one.
    Refused(Outcome<'a>),
    /// An operator has blocked the caller ([`Overrides`](crate::overrides::Overrides)).
    Blocked {
        /// How long the block still lasts.
        wait: Duration,
    },
    /// The caller of this request cannot be read, while some callers have overrides. The request is
    /// refused, as its caller may be a blocked one.
    UnreadableCaller {
        /// The HTTP status for the response, from the caller's extractor.
        status: StatusCode,
    },
    /// The source of the caller's overrides does not answer, and is set to refuse then
    /// ([`OnSourceFailure::Refuse`](crate::overrides::OnSourceFailure)).
    SourceUnavailable,
}

/// Why a request was refused. [`Rejection::status`](crate::Rejection::status) gives the HTTP
/// status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "describe", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Reason {
    /// Fewer units are left than the request costs. The same request passes later.
    QuotaExceeded,
    /// The request costs more than the whole quota: it never passes.
    CostExceedsQuota,
    /// The key's quota has no units, or is invalid: none of the key's requests ever passes. The
    /// warning [`invalid_plan`](crate::warning#invalid_plan) reports an invalid quota.
    NoQuota,
    /// The request has none of the keys by which the policy counts.
    MissingKey,
    /// The key of the request cannot be read: it is there twice, or is malformed. The request is
    /// charged nothing under any policy.
    UnreadableKey,
    /// The store does not answer, and the policy is set to refuse then
    /// ([`OnStoreFailure::Refuse`](crate::OnStoreFailure)).
    StoreUnavailable,
    /// The source of the caller's overrides does not answer, and is set to refuse then
    /// ([`OnSourceFailure::Refuse`](crate::overrides::OnSourceFailure)).
    SourceUnavailable,
    /// An operator has blocked the caller for a time.
    Blocked,
    /// The key is blocked for a time, as it kept on being refused or failing
    /// ([`Penalty`](crate::Penalty)). [`Outcome::blocked_for`](crate::Outcome::blocked_for) says how
    /// long.
    Penalty,
}

impl Reason {
    /// Whether the refusal has numbers of a quota to show.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::CostExceedsQuota | Self::Penalty)
    }

    /// Whether the store has nothing to count: no key, or no quota.
    pub(crate) const fn lacks_key(self) -> bool {
        matches!(self, Self::MissingKey | Self::UnreadableKey | Self::NoQuota)
    }
}

/// In words, such as `too few units are left`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QuotaExceeded => "too few units are left",
            Self::CostExceedsQuota => "the request costs more than the whole quota",
            Self::NoQuota => "the quota has no units",
            Self::MissingKey => "the request has no key",
            Self::UnreadableKey => "the key cannot be read",
            Self::StoreUnavailable => "the store does not answer",
            Self::SourceUnavailable => "the override source does not answer",
            Self::Blocked => "the caller is blocked",
            Self::Penalty => "the key is blocked by the penalty",
        })
    }
}
