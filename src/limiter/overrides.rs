//! An operator's blocks and quotas for single callers, for a time: [`Overrides`].

use std::{
    collections::HashMap,
    error::Error,
    fmt,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Core, Limiter};
use crate::{
    clock::{Now, nanos},
    key::{Fingerprint, Key},
    policy::quota_problem,
    quota::Quota,
};

/// How many callers may have overrides at once.
const MAX_CALLERS: usize = 10_000;
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
    limiter: Limiter,
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
    /// The caller's quota overrides.
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
    /// No request can have this key. Either the caller is an IP address and the key is none, or the
    /// caller has several parts and the key has another number of them.
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
    pub(super) fn new(limiter: Limiter) -> Self {
        Self { limiter }
    }

    /// The overrides of the caller with this key.
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`] if the limiter has policies for requests and no
    /// [`caller`](crate::LimiterBuilder::caller): the override would not apply to requests.
    /// [`OverrideError::UnfitKey`] if no request can have this key.
    pub fn caller<'k>(&self, key: impl Into<Key<'k>>) -> Result<CallerOverrides, OverrideError> {
        let core = &*self.limiter.core;
        let key = match &core.caller {
            Some(caller) => {
                caller.extractor.canonical(key.into()).ok_or(OverrideError::UnfitKey)?
            }
            None => key.into(),
        };
        self.by_fingerprint(Fingerprint(core.caller_fingerprint(&key)))
    }

    /// The overrides of the caller with this fingerprint, such as one from a request log that uses
    /// the same [`Caller`](crate::key::Caller).
    ///
    /// # Errors
    /// [`OverrideError::NoCaller`], as in [`caller`](Self::caller).
    pub fn by_fingerprint(&self, caller: Fingerprint) -> Result<CallerOverrides, OverrideError> {
        let core = &*self.limiter.core;
        if core.caller.is_none() && core.rules.for_requests().next().is_some() {
            return Err(OverrideError::NoCaller);
        }
        Ok(CallerOverrides { limiter: self.limiter.clone(), caller: caller.0 })
    }

    /// All overrides that apply now, in any order.
    #[must_use]
    pub fn list(&self) -> Vec<OverrideView> {
        let core = &*self.limiter.core;
        let now = core.clock.now();
        let by_caller = core.overrides.by_caller.read().unwrap_or_else(PoisonError::into_inner);
        let all = by_caller.iter().map(|(caller, entry)| entry.view(*caller, core, now));
        all.filter(|view| view.blocked.is_some() || !view.quotas.is_empty()).collect()
    }
}

impl CallerOverrides {
    /// Refuses all requests and checks of the caller for `time` from now. It replaces an earlier
    /// block.
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
        let id = core.rules.by_name(policy);
        let id = id.ok_or_else(|| OverrideError::UnknownPolicy(policy.to_owned()))?;
        let rule = core.rules.rule(id);
        if let Some(problem) =
            quota_problem(rule.policy.algorithm(), &quota).filter(|_| quota.units() > 0)
        {
            let policy = policy.to_owned();
            return Err(OverrideError::InvalidQuota { policy, problem });
        }
        let (policy, until) = (rule.charge.policy, self.until(time)?);
        self.change(|own| {
            own.quotas.retain(|known| known.policy != policy);
            own.quotas.push(OwnQuota { policy, quota, until });
        })
    }

    /// Ends the caller's quota override under a policy. Returns whether there was one.
    #[allow(clippy::must_use_candidate, reason = "it ends the override, whatever the caller asks")]
    pub fn restore_quota(&self, policy: &str) -> bool {
        let core = &*self.limiter.core;
        let Some(id) = core.rules.by_name(policy) else { return false };
        let policy = core.rules.rule(id).charge.policy;
        self.end(|own| {
            let before = own.quotas.len();
            own.quotas.retain(|known| known.policy != policy);
            own.quotas.len() < before
        })
    }

    /// The caller's overrides now.
    #[must_use]
    pub fn get(&self) -> OverrideView {
        let core = &*self.limiter.core;
        let now = core.clock.now();
        core.overrides.get(self.caller, now).unwrap_or_default().view(self.caller, core, now)
    }

    fn until(&self, time: Duration) -> Result<Until, OverrideError> {
        if time.is_zero() || time > MAX_TIME {
            return Err(OverrideError::InvalidTime);
        }
        Ok(nanos(self.limiter.core.clock.now().monotonic().saturating_add(time)))
    }

    fn change(&self, change: impl FnOnce(&mut Override)) -> Result<(), OverrideError> {
        let core = &*self.limiter.core;
        core.overrides.change(self.caller, core.clock.now(), change)
    }

    /// Ends an override. Returns whether there was one.
    fn end(&self, end: impl FnOnce(&mut Override) -> bool) -> bool {
        let core = &*self.limiter.core;
        let now = core.clock.now();
        if core.overrides.get(self.caller, now).is_none() {
            return false;
        }
        let mut ended = false;
        // This does not fail: a caller with overrides needs no more room.
        core.overrides.change(self.caller, now, |own| ended = end(own)).is_ok() && ended
    }
}

/// All overrides of a limiter, by the fingerprints of callers.
#[derive(Default)]
pub(super) struct OverrideTable {
    /// Whether there are any. Mostly there are none, and requests skip the lock.
    any: AtomicBool,
    by_caller: RwLock<HashMap<u128, Override>>,
}

/// The overrides of one caller.
#[derive(Clone, Default)]
pub(super) struct Override {
    blocked: Option<Until>,
    quotas: Vec<OwnQuota>,
}

#[derive(Clone, Copy)]
struct OwnQuota {
    /// The policy's fingerprint.
    policy: u64,
    quota: Quota,
    until: Until,
}

/// A monotonic time, in nanoseconds.
type Until = u64;

impl OverrideTable {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        !self.any.load(Ordering::Acquire)
    }

    /// The overrides of a caller at `now`.
    pub(super) fn get(&self, caller: u128, now: Now) -> Option<Override> {
        let by_caller = self.by_caller.read().unwrap_or_else(PoisonError::into_inner);
        let mut own = by_caller.get(&caller)?.clone();
        own.expire(now);
        Some(own)
    }

    fn change(
        &self,
        caller: u128,
        now: Now,
        change: impl FnOnce(&mut Override),
    ) -> Result<(), OverrideError> {
        let mut by_caller = self.by_caller.write().unwrap_or_else(PoisonError::into_inner);
        by_caller.retain(|_, own| {
            own.expire(now);
            !own.is_empty()
        });
        if by_caller.len() >= MAX_CALLERS && !by_caller.contains_key(&caller) {
            return Err(OverrideError::Full);
        }
        change(by_caller.entry(caller).or_default());
        by_caller.retain(|_, own| !own.is_empty());
        self.any.store(!by_caller.is_empty(), Ordering::Release);
        Ok(())
    }
}

impl Override {
    /// The caller's quota override under a policy.
    pub(super) fn quota(&self, policy: u64) -> Option<Quota> {
        self.quotas.iter().find(|own| own.policy == policy).map(|own| own.quota)
    }

    /// How long the caller is still blocked.
    pub(super) fn blocked_for(&self, now: Now) -> Option<Duration> {
        self.blocked.map(|until| left(until, now))
    }

    fn expire(&mut self, now: Now) {
        let now = now.monotonic_nanos();
        self.blocked = self.blocked.filter(|until| *until > now);
        self.quotas.retain(|own| own.until > now);
    }

    fn is_empty(&self) -> bool {
        self.blocked.is_none() && self.quotas.is_empty()
    }

    fn view(&self, caller: u128, core: &Core, now: Now) -> OverrideView {
        let mut own = self.clone();
        own.expire(now);
        let quota = |own: &OwnQuota| {
            let rule = core.rules.all().find(|rule| rule.charge.policy == own.policy)?;
            let policy = rule.policy.name().to_owned();
            Some(QuotaOverride { policy, quota: own.quota, left: left(own.until, now) })
        };
        OverrideView {
            caller: Fingerprint(caller),
            blocked: own.blocked_for(now),
            quotas: own.quotas.iter().filter_map(quota).collect(),
        }
    }
}

fn left(until: Until, now: Now) -> Duration {
    Duration::from_nanos(until.saturating_sub(now.monotonic_nanos()))
}

impl fmt::Display for OverrideError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCaller => f.write_str(
                "the limiter does not know who a request comes from; add `.caller(…)` to its builder",
            ),
            Self::UnfitKey => f.write_str(
                "no request has such a caller; write an address as an `IpAddr`, and several keys together as a tuple",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::ZERO)
    }

    #[test]
    fn exceptions_are_bounded_and_room_comes_with_time() {
        let overrides = OverrideTable::default();
        let until = |seconds: u64| Some(seconds * 1_000_000_000);
        for caller in 0..MAX_CALLERS as u128 {
            overrides.change(caller, at(0), |own| own.blocked = until(60)).unwrap();
        }
        let one_more = |now| overrides.change(u128::MAX, at(now), |own| own.blocked = until(120));
        assert_eq!(one_more(59), Err(OverrideError::Full));
        assert!(overrides.change(7, at(59), |own| own.blocked = None).is_ok(), "a known one may");
        assert!(one_more(59).is_ok(), "and makes room");
        assert!(one_more(60).is_ok());
        assert_eq!(overrides.by_caller.read().unwrap().len(), 1);
    }

    #[test]
    fn a_table_is_empty_again_after_the_last_override() {
        let overrides = OverrideTable::default();
        assert!(overrides.is_empty());
        overrides.change(7, at(0), |own| own.blocked = Some(1)).unwrap();
        assert!(!overrides.is_empty() && overrides.get(7, at(0)).is_some());
        overrides.change(7, at(0), |own| own.blocked = None).unwrap();
        assert!(overrides.is_empty());
    }
}
