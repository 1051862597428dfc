//! Why a [`Check`](super::Check), a [`Refund`](super::Refund) or a [`Reserve`](super::Reserve) has no
//! decision: [`CheckError`].

use std::fmt;

/// Why a [`Check`](crate::Check), a [`Refund`](crate::Refund) or a [`Reserve`](crate::Reserve) has no
/// decision. Nothing was charged or given back, except in the case of [`WouldWait`](Self::WouldWait).
///
/// ```
/// use tower_quota::{CheckError, Limiter, Policy, Quota};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::token_bucket("delivery", Quota::per_hour(100)))
///     .build()?;
/// let misspelt = limiter.check("delivrey", "tenant-7").at_once();
/// assert!(matches!(misspelt, Err(CheckError::UnknownPolicy(name)) if name == "delivrey"));
/// assert_eq!(
///     limiter.reset("delivery", "tenant-7").at_once().unwrap_err(),
///     CheckError::NothingUsed("delivery".to_owned()),
/// );
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError {
    /// No policy of the limiter has this name.
    UnknownPolicy(String),
    /// The policy counts by several kinds of key, and the check [names](crate::Check::kind) none.
    MissingKind {
        /// The policy.
        policy: String,
        /// Its kinds of key.
        kinds: Vec<String>,
    },
    /// The policy does not count by this kind of key.
    UnknownKind {
        /// The policy.
        policy: String,
        /// The kind that the check [names](crate::Check::kind).
        kind: String,
        /// Its kinds of key.
        kinds: Vec<String>,
    },
    /// No request can have this key. Either the policy counts by IP address and the key is none, or
    /// it counts by several keys together and the key has another number of parts.
    UnfitKey {
        /// The policy.
        policy: String,
        /// The kind of key by which it counts.
        kind: String,
    },
    /// The policy has plans, and the check has neither a [plan](crate::Check::plan) nor a
    /// [quota](crate::Check::quota).
    MissingPlan {
        /// The policy.
        policy: String,
        /// Its [plans](crate::Policy::plans).
        plans: Vec<String>,
    },
    /// The policy has no plan of this name.
    UnknownPlan {
        /// The policy.
        policy: String,
        /// The plan that the check [names](crate::Check::plan).
        plan: String,
        /// Its [plans](crate::Policy::plans).
        plans: Vec<String>,
    },
    /// The key has used nothing of the policy with this name: there is nothing to give back.
    NothingUsed(String),
    /// The units of the policy with this name are [in flight](crate::Policy::in_flight): each comes back
    /// when what holds it ends, and not otherwise. A [reset](crate::Limiter::reset) lifts the block of its
    /// [penalty](crate::Policy::penalty), if it has one.
    InFlight(String),
    /// The policy with this name has no units [in flight](crate::Policy::in_flight).
    NotInFlight(String),
    /// The counts of the policy with this name are on a server of a cluster that only a request
    /// determines ([`Policy::shard`](crate::Policy::shard)).
    Sharded(String),
    /// A [reservation](crate::Limiter::reserve) of no policy would limit nothing.
    NoPolicy,
    /// The list of a [reservation](crate::Limiter::reserve) does not have the policy of this name, for
    /// which a cost, a key, a plan or what was used is given.
    NotListed(String),
    /// A list has the policy of this name twice, or a policy of the list [falls back
    /// on](crate::Policy::or_else) it.
    ListedTwice(String),
    /// The store cannot answer at once, as [`at_once`](crate::Check::at_once) needs. A check has
    /// charged nothing. A refund or a [commit](crate::Reservation::commit) is on its way, and will be made.
    WouldWait,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |names: &[String], last: &str| {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            names.join(last)
        };
        match self {
            Self::UnknownPolicy(name) => write!(
                f,
                "no policy is named `{name}`; add it to the limiter, as with `.check_only(…)`"
            ),
            Self::MissingKind { policy, kinds } => {
                let kinds = quoted(kinds, " or ");
                write!(f, "policy `{policy}` counts by {kinds}; write which, as `.kind(\"…\")`")
            }
            Self::UnknownKind { policy, kind, kinds } => {
                let kinds = quoted(kinds, " or ");
                write!(f, "policy `{policy}` does not count by `{kind}`; write {kinds}")
            }
            Self::UnfitKey { policy, kind } => write!(
                f,
                "no request has such a key under policy `{policy}`, which counts by `{kind}`; write a key without blanks around it, an address as an `IpAddr`, and several keys together as a tuple"
            ),
            Self::MissingPlan { policy, plans } if plans.is_empty() => {
                write!(f, "policy `{policy}` has plans; write the key's quota, as `.quota(…)`")
            }
            Self::MissingPlan { policy, plans } => {
                let plans = quoted(plans, " or ");
                write!(
                    f,
                    "policy `{policy}` has the plans {plans}; write the key's, as `.plan(\"…\")`, or its quota, as `.quota(…)`"
                )
            }
            Self::UnknownPlan { policy, plan, plans } if plans.is_empty() => write!(
                f,
                "policy `{policy}` has no plan `{plan}`; write the key's quota, as `.quota(…)`"
            ),
            Self::UnknownPlan { policy, plan, plans } => {
                let plans = quoted(plans, " or ");
                write!(f, "policy `{policy}` has no plan `{plan}`; write {plans}")
            }
            Self::NothingUsed(policy) => write!(
                f,
                "the key has used nothing of policy `{policy}`, and nothing was changed; compare the key with what the policy counts by"
            ),
            Self::InFlight(policy) => write!(
                f,
                "policy `{policy}` counts what is in flight: a unit comes back when its request ends, or when its `Permit` is dropped, and not otherwise"
            ),
            Self::NotInFlight(policy) => write!(
                f,
                "policy `{policy}` has no units in flight; write `.check(…)`, or make it a `Policy::in_flight`"
            ),
            Self::Sharded(policy) => write!(
                f,
                "policy `{policy}` has a shard, which only a request has; leave `.shard(…)` out, or use `Limiter::decide`"
            ),
            Self::NoPolicy => f.write_str(
                "a reservation of no policy limits nothing; write the names of its policies, as `.reserve([\"tokens\", \"requests\"], …)`",
            ),
            Self::NotListed(name) => write!(
                f,
                "the reservation does not have policy `{name}`; add it to the list of `.reserve([…], …)`, or compare the names"
            ),
            Self::ListedTwice(name) => {
                write!(f, "policy `{name}` is listed twice, or another falls back on it; write it once")
            }
            Self::WouldWait => f.write_str(
                "the limiter's store cannot answer at once; write `.await` instead of `.at_once()`",
            ),
        }
    }
}

impl std::error::Error for CheckError {}
