//! Why units were not acquired: [`AcquireError`].

use std::{fmt, time::Duration};

use super::{
    check_error::CheckError,
    decision::{Decision, Verdict},
};

/// Why nothing was [entered](crate::PolicyHandle::enter) or [reserved](crate::Limiter::reserve). Nothing is
/// charged under any policy, except perhaps in the case of [`CheckError::WouldWait`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum AcquireError {
    /// A policy refuses, the caller is blocked, or its overrides are not known. The decision says which,
    /// why, and for how long, if that is known; as that of a [`Check`](crate::Check).
    Refused(Decision),
    /// The call is incomplete or wrong.
    Check(CheckError),
}

impl AcquireError {
    /// How long to wait before the same units may be free; see [`Decision::retry_after`]. `None` if that is
    /// not known, as for units [in flight](crate::Policy::in_flight), and for a call that is wrong.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(decision) => decision.retry_after(),
            Self::Check(_) => None,
        }
    }
}

impl From<CheckError> for AcquireError {
    fn from(error: CheckError) -> Self {
        Self::Check(error)
    }
}

impl fmt::Display for AcquireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = match self {
            Self::Refused(decision) => decision,
            Self::Check(error) => return error.fmt(f),
        };
        match decision.verdict() {
            Verdict::Refused(outcome) => write!(f, "policy `{}` refuses it", outcome.policy())?,
            Verdict::Blocked { .. } => f.write_str("the caller is blocked")?,
            Verdict::SourceUnavailable => f.write_str("the override source does not answer")?,
            _ => f.write_str("it is refused")?,
        }
        match self.retry_after() {
            Some(wait) => write!(f, "; it may pass in {wait:?}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for AcquireError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(_) => None,
            Self::Check(error) => Some(error),
        }
    }
}
