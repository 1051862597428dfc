//! The values of the label `verdict`: [`VerdictLabel`].

use std::time::Duration;

use crate::limiter::{Outcome, Reason};

/// What a policy decided about a request, as a value of the label `verdict`.
#[derive(Clone, Copy, Debug)]
pub(super) enum VerdictLabel {
    Allowed,
    Held,
    Refused,
    MissingKey,
    UnreadableKey,
    Unavailable,
    Blocked,
    DryRunAllowed,
    DryRunRefused,
}

impl VerdictLabel {
    pub(super) const ALL: [Self; 9] = [
        Self::Allowed,
        Self::Held,
        Self::Refused,
        Self::MissingKey,
        Self::UnreadableKey,
        Self::Unavailable,
        Self::Blocked,
        Self::DryRunAllowed,
        Self::DryRunRefused,
    ];

    /// `held` is how long the request waited.
    pub(super) fn new(outcome: Outcome<'_>, held: Duration) -> Self {
        match (outcome.is_dry_run(), outcome.reason()) {
            (true, None) => Self::DryRunAllowed,
            (true, Some(_)) => Self::DryRunRefused,
            (false, Some(Reason::MissingKey)) => Self::MissingKey,
            (false, Some(Reason::UnreadableKey)) => Self::UnreadableKey,
            (false, Some(Reason::StoreUnavailable)) => Self::Unavailable,
            (false, Some(Reason::QuotaExceeded | Reason::CostExceedsQuota | Reason::NoQuota)) => {
                Self::Refused
            }
            (false, Some(Reason::Blocked)) => Self::Blocked,
            (false, None) if held.is_zero() => Self::Allowed,
            (false, None) => Self::Held,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::MissingKey => "missing_key",
            Self::UnreadableKey => "unreadable_key",
            Self::Unavailable => "unavailable",
            Self::Blocked => "blocked",
            Self::DryRunAllowed => "dry_run_allowed",
            Self::DryRunRefused => "dry_run_refused",
        }
    }

    pub(super) fn is_dry_run(self) -> bool {
        matches!(self, Self::DryRunAllowed | Self::DryRunRefused)
    }
}
