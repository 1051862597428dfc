//! A check of one policy for one key, without a request: [`Check`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    CheckError, Limiter,
    decide::decide_at_once,
    deciding::{Deciding, try_decide},
    decision::Decision,
    evaluation::Evaluation,
    rules::RuleSet,
    target::{Plan, Target},
};
use crate::quota::Quota;

/// A check of one policy for one key, from [`Limiter::check`](crate::Limiter::check),
/// [`Limiter::peek`](crate::Limiter::peek) or a [`PolicyHandle`](crate::PolicyHandle). It runs when
/// it is awaited, or by [`at_once`](Self::at_once) in code that is not async.
///
/// A refusal is a [`Decision`] too, so `is_ok()` does not say whether the check has passed; a [`CheckError`]
/// means that the check itself cannot work.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .check_only(Policy::token_bucket("export rows", Quota::per_hour(10_000)))
///     .build()?;
/// let decision = limiter.check("export rows", "tenant-7").cost(2_500).await?;
/// assert!(decision.is_allowed());
/// assert_eq!(decision.remaining(), 7_500);
/// limiter.give_back("export rows", "tenant-7", 500).await?;
/// assert_eq!(limiter.peek("export rows", "tenant-7").await?.remaining(), 8_000);
/// assert!(limiter.check("exprot rows", "tenant-7").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a check does nothing unless it is awaited, or made `at_once`"]
pub struct Check<'a> {
    target: Target<'a>,
    cost: u64,
    purpose: Purpose,
    /// Boxed, as few checks need it: mostly the store answers at once.
    deciding: Option<Box<Deciding>>,
}

#[derive(Clone, Copy, Debug)]
enum Purpose {
    Charge,
    Peek,
    /// It is an error if the policy has no units in flight.
    Enter,
}

impl<'a> Check<'a> {
    #[inline]
    pub(super) fn new(target: Target<'a>) -> Self {
        Self { target, cost: 1, purpose: Purpose::Charge, deciding: None }
    }

    pub(super) fn enter(target: Target<'a>) -> Self {
        Self { purpose: Purpose::Enter, ..Self::new(target) }
    }

    #[inline]
    pub(super) fn only_peek(mut self) -> Self {
        self.purpose = Purpose::Peek;
        self
    }

    /// Sets how many units the check charges. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// Names the kind of the key: the name of its extractor, such as `ip` or `x-api-key`. A policy
    /// that counts by several kinds ([`Policy::or_key`](crate::Policy::or_key)) needs this, as
    /// equal keys of two kinds have two quotas. Default: the policy's only kind.
    ///
    /// ```
    /// use std::net::IpAddr;
    ///
    /// use tower_quota::{Limiter, Policy, Quota, key::{self, ClientIp}};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let reads = Policy::sliding_window("read", Quota::per_minute(60))
    ///     .key(key::header("x-api-key"))
    ///     .or_key(ClientIp::new())
    ///     .or_refuse();
    /// let limiter = Limiter::builder().policy(reads).build()?;
    /// // An address counts as in requests: this one by its /64.
    /// let address: IpAddr = "2001:db8::7".parse()?;
    /// assert!(limiter.check("read", address).kind("ip").await?.is_allowed());
    /// let neighbour: IpAddr = "2001:db8::8".parse()?;
    /// assert_eq!(limiter.peek("read", neighbour).kind("ip").await?.remaining(), 59);
    /// # Ok(())
    /// # }
    /// ```
    #[inline]
    pub fn kind(mut self, name: &'a str) -> Self {
        self.target.kind = Some(name);
        self
    }

    /// Names the key's plan, one of [`Policy::plans`](crate::Policy::plans). A policy with plans
    /// needs this or [`quota`](Self::quota), as it finds plans only in requests. If both are
    /// called, the last one counts.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota, key};
    ///
    /// let reads = Policy::sliding_window("read", Quota::per_minute(60))
    ///     .key(key::bearer())
    ///     .or_refuse()
    ///     .plans([("pro", Quota::per_minute(1_000))], |_| None);
    /// let limiter = Limiter::builder().policy(reads).build()?;
    /// assert_eq!(limiter.check("read", "sk_live_1").plan("pro").at_once()?.remaining(), 999);
    /// assert!(limiter.check("read", "sk_live_1").plan("por").at_once().is_err());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[inline]
    pub fn plan(mut self, name: &'a str) -> Self {
        self.target.plan = Some(Plan::Named(name));
        self
    }

    /// Sets the quota of the key's plan. Default: the policy's quota. A policy with plans has no
    /// default.
    #[inline]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.target.plan = Some(Plan::Quota(quota));
        self
    }

    pub(super) fn limiter(&self) -> &'a Limiter {
        self.target.limiter
    }

    /// Runs the check in code that is not async, such as a thread or a callback. It needs no
    /// runtime.
    ///
    /// The check never waits. Where a policy would hold it, it is refused, and
    /// [`Decision::retry_after`] says how long to wait.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota};
    ///
    /// let limiter = Limiter::builder()
    ///     .check_only(Policy::token_bucket("log lines", Quota::per_second(100)))
    ///     .build()?;
    /// let decision = limiter.check("log lines", "worker-3").at_once()?;
    /// assert!(decision.is_allowed());
    /// assert_eq!(decision.remaining(), 99);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`Limiter::check`](crate::Limiter::check), and [`CheckError::WouldWait`] if the store
    /// cannot answer at once, as Redis cannot. Then nothing is charged.
    #[inline]
    pub fn at_once(self) -> Result<Decision, CheckError> {
        self.decide_at_once()
    }

    /// By reference, so that callers do not move the check.
    fn decide_at_once(&self) -> Result<Decision, CheckError> {
        let rules = self.target.limiter.core.rules();
        let evaluation = self.evaluate(&rules)?;
        match decide_at_once(self.target.limiter, &rules, evaluation) {
            Some(decision) => Ok(decision),
            None => Err(CheckError::WouldWait),
        }
    }

    /// Not inlined, so that checks that are decided at once do not pay for its registers.
    #[inline(never)]
    #[expect(clippy::expect_used, reason = "it is called when there is one")]
    fn poll_deciding(&mut self, context: &mut Context<'_>) -> Poll<Result<Decision, CheckError>> {
        let deciding = self.deciding.as_mut().expect("the check is being decided");
        deciding.poll(self.target.limiter, context).map(Ok)
    }

    #[inline(always)]
    fn evaluate(&self, rules: &RuleSet) -> Result<Evaluation, CheckError> {
        let mut evaluation = self.target.charge(rules, self.cost)?;
        match self.purpose {
            Purpose::Charge => {}
            Purpose::Peek => evaluation.only_peek(),
            Purpose::Enter => self.target.ensure_in_flight(rules)?,
        }
        Ok(evaluation)
    }
}

impl Future for Check<'_> {
    type Output = Result<Decision, CheckError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let limiter = self.target.limiter;
        if self.deciding.is_none() {
            let rules = limiter.core.rules();
            let evaluation = self.evaluate(&rules)?;
            match try_decide(limiter, rules, evaluation, None) {
                Ok(decision) => return Poll::Ready(Ok(decision)),
                Err(deciding) => self.deciding = Some(deciding),
            }
        }
        self.poll_deciding(context)
    }
}
