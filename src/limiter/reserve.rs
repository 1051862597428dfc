//! Units of several policies that are reserved without a request: [`Reserve`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use smallvec::SmallVec;

use super::{
    AcquireError, Limiter,
    check_error::CheckError,
    decide::decide_at_once,
    deciding::{Deciding, try_decide},
    decision::Decision,
    evaluation::Evaluation,
    reservation::Reservation,
    rules::RuleSet,
    target::{Plan, Target},
};
use crate::{key::Key, quota::Quota};

/// Reserves units of several policies, all or none; from [`Limiter::reserve`]. It runs when it is
/// awaited, or by [`at_once`](Self::at_once) in code that is not async.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota, AcquireError};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("tokens", Quota::per_day(10_000)))
///     .check_only(Policy::sliding_window("requests", Quota::per_minute(60)))
///     .build()?;
/// let reserve = || limiter.reserve(["tokens", "requests"], "acme").cost("tokens", 4_000);
///
/// let reservation = reserve().await?;
/// assert_eq!(limiter.peek("tokens", "acme").await?.remaining(), 6_000);
/// let made = 2_500; // … the work …
/// let decision = reservation.commit([("tokens", made)]).await?;
/// assert_eq!(decision.outcome("tokens").map(|tokens| tokens.remaining()), Some(7_500));
///
/// // Dropped, as by an error: all of it is given back.
/// drop(reserve().await?);
/// assert_eq!(limiter.peek("tokens", "acme").await?.remaining(), 7_500);
/// assert_eq!(limiter.peek("requests", "acme").await?.remaining(), 59);
///
/// match reserve().cost("tokens", 8_000).await {
///     Err(AcquireError::Refused(decision)) => assert!(decision.retry_after().is_some()),
///     other => panic!("{other:?}"),
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is reserved unless it is awaited, or made `at_once`"]
pub struct Reserve<'a> {
    limiter: &'a Limiter,
    /// Of whom overrides are, and what the policies count unless they have a key of their own here.
    key: Key<'a>,
    /// What is charged under each policy.
    targets: SmallVec<[(Target<'a>, u64); 4]>,
    keeps: bool,
    /// A mistake that is reported when this runs.
    mistake: Option<CheckError>,
    /// Boxed, as it is seldom needed: mostly the store answers at once.
    deciding: Option<Box<Deciding>>,
}

impl<'a> Reserve<'a> {
    pub(super) fn new(
        limiter: &'a Limiter,
        policies: impl IntoIterator<Item = &'a str>,
        key: Key<'a>,
    ) -> Self {
        let targets = SmallVec::new();
        let mut this = Self { limiter, key, targets, keeps: false, mistake: None, deciding: None };
        for policy in policies {
            if this.targets.iter().any(|(listed, _)| listed.policy == policy) {
                this.mistake = Some(CheckError::ListedTwice(policy.to_owned()));
            }
            this.targets.push((Target::new(limiter, policy, this.key.clone()), 1));
        }
        if this.targets.is_empty() {
            this.mistake = Some(CheckError::NoPolicy);
        }
        this
    }

    fn set(mut self, policy: &str, change: impl FnOnce(&mut (Target<'a>, u64))) -> Self {
        match self.targets.iter_mut().find(|(target, _)| target.policy == policy) {
            Some(target) => change(target),
            None => {
                self.mistake.get_or_insert_with(|| CheckError::NotListed(policy.to_owned()));
            }
        }
        self
    }

    /// Sets how many units are reserved under a policy. Default: 1.
    pub fn cost(self, policy: &str, units: u64) -> Self {
        self.set(policy, |(_, cost)| *cost = units)
    }

    /// Sets the key that a policy counts. Default: the key of the reservation, which stays the caller
    /// of whom [overrides](Limiter::overrides) are.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota};
    ///
    /// let limiter = Limiter::builder()
    ///     .check_only(Policy::fixed_window("tokens of an org", Quota::per_day(10_000)))
    ///     .check_only(Policy::sliding_window("requests of a user", Quota::per_minute(60)))
    ///     .build()?;
    /// let reservation = limiter
    ///     .reserve(["requests of a user", "tokens of an org"], "ann")
    ///     .key("tokens of an org", "acme")
    ///     .at_once()?;
    /// assert_eq!(limiter.peek("tokens of an org", "acme").at_once()?.remaining(), 9_999);
    /// # drop(reservation);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn key(self, policy: &str, key: impl Into<Key<'a>>) -> Self {
        self.set(policy, |(target, _)| target.key = key.into())
    }

    /// Names the kind of the key under a policy; see [`Check::kind`](crate::Check::kind).
    pub fn kind(self, policy: &str, name: &'a str) -> Self {
        self.set(policy, |(target, _)| target.kind = Some(name))
    }

    /// Names the key's plan under a policy; see [`Check::plan`](crate::Check::plan).
    pub fn plan(self, policy: &str, name: &'a str) -> Self {
        self.set(policy, |(target, _)| target.plan = Some(Plan::Named(name)))
    }

    /// Sets the quota of the key's plan under a policy; see [`Check::quota`](crate::Check::quota).
    pub fn quota(self, policy: &str, quota: Quota) -> Self {
        self.set(policy, |(target, _)| target.plan = Some(Plan::Quota(quota)))
    }

    /// Keeps the units if the [`Reservation`] is dropped: they stay charged. Default: they are given
    /// back. Choose this where work that breaks off has cost as much as it could.
    pub fn keep_if_dropped(mut self) -> Self {
        self.keeps = true;
        self
    }

    /// Reserves in code that is not async, such as a thread or a callback. It needs no runtime, and
    /// never waits: where a policy would hold it, it is refused.
    ///
    /// # Errors
    /// Those of [`Limiter::reserve`], and [`CheckError::WouldWait`] if the store cannot answer at once,
    /// as Redis cannot. Then nothing is reserved.
    pub fn at_once(self) -> Result<Reservation, AcquireError> {
        let rules = self.limiter.core.rules();
        let evaluation = self.evaluate(&rules)?;
        let decided = decide_at_once(self.limiter, &rules, evaluation);
        let decision = decided.ok_or(CheckError::WouldWait)?;
        self.decided(decision)
    }

    fn evaluate(&self, rules: &RuleSet) -> Result<Evaluation, CheckError> {
        if let Some(mistake) = &self.mistake {
            return Err(mistake.clone());
        }
        let core = &*self.limiter.core;
        let mut evaluation = Target::charge_all(&self.key, &self.targets, core, rules)?;
        // What is given back may be used by others before a refusal is over.
        evaluation.charges_mut().iter_mut().for_each(|charge| charge.is_settled = true);
        Ok(evaluation)
    }

    fn decided(&self, decision: Decision) -> Result<Reservation, AcquireError> {
        if !decision.is_allowed() {
            return Err(AcquireError::Refused(decision));
        }
        let rules = self.limiter.core.rules();
        let waterfall = |(target, _): &(Target<'_>, u64)| -> Box<[Box<str>]> {
            let listed = rules.by_name(target.policy).into_iter();
            let all = listed.flat_map(|rule| rules.waterfall(rule)).skip(1);
            let others = all.map(|rule| rule.policy.name().into());
            std::iter::once(target.policy.into()).chain(others).collect()
        };
        let policies = self.targets.iter().map(waterfall).collect();
        Ok(Reservation::new(self.limiter.clone(), decision, policies, self.keeps))
    }
}

impl Future for Reserve<'_> {
    type Output = Result<Reservation, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let limiter = this.limiter;
        let deciding = match &mut this.deciding {
            Some(deciding) => deciding,
            None => {
                let rules = limiter.core.rules();
                let evaluation = this.evaluate(&rules)?;
                match try_decide(limiter, rules, evaluation, None) {
                    Ok(decision) => return Poll::Ready(this.decided(decision)),
                    Err(deciding) => this.deciding.insert(deciding),
                }
            }
        };
        let decision = ready!(deciding.poll(limiter, context));
        Poll::Ready(this.decided(decision))
    }
}

impl fmt::Debug for Reserve<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let targets = self.targets.iter().map(|(target, cost)| (target.policy, cost));
        f.debug_map().entries(targets).finish()
    }
}
