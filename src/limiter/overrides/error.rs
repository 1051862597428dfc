//! Why an override was not set, ended or loaded: [`OverrideError`].

use std::{error::Error, fmt};

use crate::store::{MAX_OVERRIDES, StoreError};

/// Why an override was not set or ended. Nothing was changed, unless the variant says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverrideError {
    /// The limiter cannot find the caller of a request: it has no
    /// [`caller`](crate::LimiterBuilder::caller).
    NoCaller,
    /// No request can have this key: it is empty or has blanks around it, or it is no IP address
    /// though the caller is one, or it has another number of parts than the caller.
    UnfitKey,
    /// No policy of the limiter has this name.
    UnknownPolicy(String),
    /// The policy cannot have this quota.
    InvalidQuota {
        /// The policy.
        policy: String,
        /// What is wrong.
        problem: String,
    },
    /// The time is shorter than a microsecond, or longer than 366 days.
    InvalidTime,
    /// The reason or the author is too long, or has a control character.
    InvalidText(String),
    /// There are 10,000 overrides. There is room when one of these ends.
    Full,
    /// The store cannot answer at once, as Redis cannot: await the change instead.
    WouldWait,
    /// The store shares overrides, and has not answered in time. The change may have been made: then
    /// the limiter sees it as soon as the store answers again.
    Store(StoreError),
    /// Callers have other fingerprints in the next process, so that overrides cannot be saved: the
    /// limiter's [`caller`](crate::LimiterBuilder::caller) has no
    /// [`secret`](crate::key::Caller::secret).
    NoSecret,
    /// The overrides were saved by a limiter with another secret, and would apply to no caller.
    OtherSecret,
    /// The store shares the overrides, and keeps them itself.
    KeptByStore,
}

impl fmt::Display for OverrideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCaller => f.write_str(
                "the limiter does not know who a request comes from; add `.caller(…)` to its builder",
            ),
            Self::UnfitKey => f.write_str(
                "no request has such a caller; write a key without blanks around it, an address as an `IpAddr`, and several keys together as a tuple",
            ),
            Self::UnknownPolicy(name) => write!(f, "no policy is named `{name}`"),
            Self::InvalidQuota { policy, problem } => {
                write!(f, "policy `{policy}` cannot have this quota: {problem}")
            }
            Self::InvalidTime => f.write_str("an override lasts from 1 microsecond to 366 days"),
            Self::InvalidText(problem) => f.write_str(problem),
            Self::Full => {
                write!(f, "there are {MAX_OVERRIDES} overrides already; end some of them")
            }
            Self::WouldWait => {
                f.write_str("the store cannot answer at once; await the change instead")
            }
            Self::Store(error) => write!(f, "the store has not answered: {error}"),
            Self::NoSecret => f.write_str(
                "callers have other fingerprints in the next process; give the caller a secret, as in `.caller(Caller::new(…).secret(…))`",
            ),
            Self::OtherSecret => f.write_str(
                "these overrides were saved by a limiter whose caller has another secret; use the same secret",
            ),
            Self::KeptByStore => {
                f.write_str("the store keeps the overrides itself; there is nothing to load")
            }
        }
    }
}

impl Error for OverrideError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => Some(error),
            _ => None,
        }
    }
}
