//! What was decided, and why: [`Verdict`] and [`Reason`].

use std::time::Duration;

use http::StatusCode;

use super::Outcome;

/// What was decided about a request, and what decided it.
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
    /// This policy refuses the request. Of several that refuse, it is the one with the longest wait;
    /// of several with the same wait, the last.
    Refused(Outcome<'a>),
    /// An operator has blocked the caller ([`Overrides`](crate::Overrides)).
    Blocked {
        /// How long the block still lasts.
        wait: Duration,
    },
    /// Some callers have overrides, and the caller of this request cannot be read: it may be one of
    /// them.
    UnreadableCaller {
        /// The status to answer with.
        status: StatusCode,
    },
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The quota is used up.
    QuotaExceeded,
    /// The request costs more than the whole quota: it never passes.
    CostExceedsQuota,
    /// The key's plan has no units, or an invalid quota: none of its requests ever passes.
    NoQuota,
    /// The request has none of the keys by which the policy counts.
    MissingKey,
    /// The request has a key that cannot be read: the key is there twice, or malformed. The request
    /// costs nothing under any policy.
    UnreadableKey,
    /// The store does not answer, and the policy refuses then
    /// ([`OnStoreFailure::Refuse`](crate::OnStoreFailure)).
    StoreUnavailable,
    /// An operator has blocked the caller for a time.
    Blocked,
}

impl Reason {
    /// Whether the outcome has numbers of a quota.
    pub(crate) const fn is_counted(self) -> bool {
        matches!(self, Self::QuotaExceeded | Self::CostExceedsQuota)
    }

    /// Whether the store has nothing to count: no key, or no quota.
    pub(crate) const fn lacks_key(self) -> bool {
        matches!(self, Self::MissingKey | Self::UnreadableKey | Self::NoQuota)
    }
}
