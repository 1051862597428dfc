//! An operator's blocks and quotas for single callers, for a time: [`Overrides`]. The
//! [`OverrideTable`] keeps them.

mod table;

use std::{error::Error, fmt, time::Duration};

pub(super) use self::table::{Override, OverrideTable};
use self::table::{Until, left};
use super::{Core, Limiter};
use crate::{
    clock::{Now, nanos},
    key::{Fingerprint, Key},
    policy::quota_problem,
    quota::Quota,
};

/// The longest time of an override.
const MAX_TIME: Duration = Duration::from_secs(366 * 86_400);

/// Blocks single callers, or gives them other quotas, for a time. From [`Limiter::overrides`].
///
/// An override applies to the requests and to the checks of one caller. The caller of a request is
/// what [`LimiterBuilder::caller`](crate::LimiterBuilder::caller) finds; the caller of a
/// [`check`](Limiter::check) is its key.
///
/// A block comes before exemptions and all policies. The decision has the verdict
/// [`Blocked`](crate::Verdict::Blocked), and nothing is charged. While any caller has an override,
/// a request whose caller cannot be read is refused, as it may be that caller.
///
/// Overrides exist only in this process: other replicas do not see them, and they end with the
/// process. At most 10,000 callers have overrides at once, each for at most 366 days.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::{Limiter, Policy, Quota, Reason, key};
///
/// let reads = Policy::fixed_window("read", Quota::per_minute(60)).key(key::bearer()).or_refuse();
/// let limiter = Limiter::builder().policy(reads).caller(key::bearer()).build()?;
///
/// let hour = Duration::from_secs(3_600);
/// let caller = limiter.overrides().caller("sk_live_1")?;
/// caller.set_quota("read", Quota::per_minute(600), hour)?;
/// assert_eq!(limiter.check("read", "sk_live_1").at_once()?.remaining(), 599);
/// caller.block(hour)?;
/// let decision = limiter.check("read", "sk_live_1").at_once()?;
/// assert_eq!(decision.reason(), Some(Reason::Blocked));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Overrides {
    pub(super) limiter: Limiter,
}

/// The overrides of one caller, from [`Overrides::caller`].
#[derive(Clone, Debug)]
pub struct CallerOverrides {
    limiter: Limiter,
    caller: u128,
}

/// The overrides of one caller at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OverrideView {
    /// The caller.
    pub caller: Fingerprint,
    /// How long the caller is still blocked; `None` if it is not.
    pub blocked: Option<Duration>,
    /// The caller's quota overrides, in the order of the limiter's policies.
    pub quotas: Vec<QuotaOverride>,
}

/// A quota that one caller has instead of the policy's, or of its plan's.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaOverride {
    /// The policy's name.
    pub policy: String,
    /// The caller's quota.
    pub quota: Quota,
    /// How long the override still lasts.
    pub left: Duration,
}

/// Why an override was not set. Nothing was changed.
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
    /// The time is zero, or longer than 366 days.
    InvalidTime,
    /// 10,000 other callers have overrides. There is room when one of these ends.
    Full,
}

impl Overrides {
    /// The overrides of the caller with this key.
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`] if the limiter has policies for requests and no
    /// [`caller`](crate::LimiterBuilder::caller): the override would not apply to requests.
    /// [`OverrideError::UnfitKey`] if no request can have this key.
    pub fn caller<'k>(&self, key: impl Into<Key<'k>>) -> Result<CallerOverrides, OverrideError> {
        let caller = self.limiter.core.caller_of_key(key.into());
        self.by_fingerprint(Fingerprint(caller.ok_or(OverrideError::UnfitKey)?))
    }

    /// The overrides of the caller with this fingerprint, such as one from a request log that uses
    /// the same [`Caller`](crate::key::Caller).
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`], as in [`caller`](Self::caller).
    pub fn by_fingerprint(&self, caller: Fingerprint) -> Result<CallerOverrides, OverrideError> {
        let core = &*self.limiter.core;
        if core.caller.is_none() && core.rules().for_requests().next().is_some() {
            return Err(OverrideError::NoCaller);
        }
        Ok(CallerOverrides { limiter: self.limiter.clone(), caller: caller.0 })
    }

    /// All overrides that apply now, in any order.
    #[must_use]
    pub fn list(&self) -> Vec<OverrideView> {
        let core = &*self.limiter.core;
        let now = core.clock.now();
        let all = core.overrides.all(now).into_iter();
        all.map(|(caller, own)| OverrideView::new(caller, &own, core, now)).collect()
    }
}

impl CallerOverrides {
    /// Refuses all requests and checks of the caller for `time` from now. It replaces an earlier
    /// block. Requests that are held already are decided as they came.
    ///
    /// # Errors
    /// [`OverrideError::InvalidTime`] for zero or more than 366 days; [`OverrideError::Full`].
    pub fn block(&self, time: Duration) -> Result<(), OverrideError> {
        let until = self.until(time)?;
        self.change(|own| own.blocked = Some(until))
    }

    /// Ends the caller's block. Returns whether it was blocked.
    #[allow(clippy::must_use_candidate, reason = "it ends the block, whatever the caller asks")]
    pub fn unblock(&self) -> bool {
        self.end(|own| own.blocked.take().is_some())
    }

    /// Gives the caller another quota under a policy for `time` from now. Units that the caller has
    /// used still count. A quota of zero units refuses the caller under this policy.
    ///
    /// The new quota replaces the old one as a whole. If that has a [burst](Quota::burst), set one here
    /// too: without it, the caller may use all units of a window at once.
    ///
    /// # Errors
    /// [`OverrideError::UnknownPolicy`], [`OverrideError::InvalidQuota`],
    /// [`OverrideError::InvalidTime`], [`OverrideError::Full`].
    pub fn set_quota(
        &self,
        policy: &str,
        quota: Quota,
        time: Duration,
    ) -> Result<(), OverrideError> {
        let core = &*self.limiter.core;
        let rules = core.rules();
        let rule = rules.by_name(policy);
        let rule = rule.ok_or_else(|| OverrideError::UnknownPolicy(policy.to_owned()))?;
        if let Some(problem) =
            quota_problem(rule.policy.algorithm(), &quota).filter(|_| quota.units() > 0)
        {
            let policy = policy.to_owned();
            return Err(OverrideError::InvalidQuota { policy, problem });
        }
        let until = self.until(time)?;
        self.change(|own| own.quotas.insert(rule.charge.policy, (quota, until))).map(drop)
    }

    /// Ends the caller's quota override under a policy. Returns whether there was one.
    #[allow(clippy::must_use_candidate, reason = "it ends the override, whatever the caller asks")]
    pub fn restore_quota(&self, policy: &str) -> bool {
        let rules = self.limiter.core.rules();
        let Some(rule) = rules.by_name(policy) else { return false };
        self.end(|own| own.quotas.remove(&rule.charge.policy).is_some())
    }

    /// The caller's overrides now.
    #[must_use]
    pub fn get(&self) -> OverrideView {
        let core = &*self.limiter.core;
        let now = core.clock.now();
        let own = core.overrides.get(self.caller, now).unwrap_or_default();
        OverrideView::new(self.caller, &own, core, now)
    }

    fn until(&self, time: Duration) -> Result<Until, OverrideError> {
        if time.is_zero() || time > MAX_TIME {
            return Err(OverrideError::InvalidTime);
        }
        Ok(nanos(self.limiter.core.clock.now().monotonic().saturating_add(time)))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Override) -> T) -> Result<T, OverrideError> {
        let core = &*self.limiter.core;
        core.overrides.change(self.caller, core.clock.now(), change)
    }

    /// Ends an override. Returns whether there was one.
    fn end(&self, end: impl FnOnce(&mut Override) -> bool) -> bool {
        // A full table has no override of this caller.
        self.change(end).unwrap_or(false)
    }
}

impl OverrideView {
    fn new(caller: u128, own: &Override, core: &Core, now: Now) -> Self {
        let rules = core.rules();
        let quotas = rules.policies().filter_map(|rule| {
            let (quota, until) = *own.quotas.get(&rule.charge.policy)?;
            let policy = rule.policy.name().to_owned();
            Some(QuotaOverride { policy, quota, left: left(until, now) })
        });
        let blocked = own.blocked_for(now);
        Self { caller: Fingerprint(caller), blocked, quotas: quotas.collect() }
    }
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
            Self::InvalidTime => f.write_str("an override lasts from 1 nanosecond to 366 days"),
            Self::Full => f.write_str("10,000 callers have overrides already; end some of them"),
        }
    }
}

impl Error for OverrideError {}
