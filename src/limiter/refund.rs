//! Units given back without a request: [`Refund`].

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use super::{
    CheckError,
    correcting::correct,
    decide::decide_at_once,
    deciding::{Deciding, try_decide},
    decision::Decision,
    evaluation::Evaluation,
    rules::RuleSet,
    target::{Plan, Target},
};
use crate::{quota::Quota, store::Change};

/// Gives units back to one key of one policy; from [`Limiter::give_back`](crate::Limiter::give_back),
/// [`Limiter::reset`](crate::Limiter::reset) or a [`PolicyHandle`](crate::PolicyHandle). It runs when
/// it is awaited, or by [`at_once`](Self::at_once) in code that is not async.
///
/// The [`Decision`] shows what is left afterwards. If the store does not answer, it is a refusal
/// with [`Reason::StoreUnavailable`](crate::Reason::StoreUnavailable).
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("mails", Quota::per_day(1_000)))
///     .build()?;
/// limiter.check("mails", "tenant-7").cost(300).at_once()?;
/// let decision = limiter.give_back("mails", "tenant-7", 100).at_once()?;
/// assert_eq!(decision.remaining(), 800);
/// let decision = limiter.reset("mails", "tenant-7").at_once()?;
/// assert_eq!(decision.remaining(), 1_000);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a refund does nothing unless it is awaited, or made `at_once`"]
pub struct Refund<'a> {
    target: Target<'a>,
    change: Change,
    /// Begins at the first poll.
    refunding: Option<Refunding<'a>>,
}

type Refunding<'a> = Pin<Box<dyn Future<Output = Result<Decision, CheckError>> + Send + 'a>>;

impl<'a> Refund<'a> {
    pub(super) fn new(target: Target<'a>, change: Change) -> Self {
        Self { target, change, refunding: None }
    }

    /// Names the kind of the key; see [`Check::kind`](crate::Check::kind).
    pub fn kind(mut self, name: &'a str) -> Self {
        self.target.kind = Some(name);
        self
    }

    /// Names the key's plan; see [`Check::plan`](crate::Check::plan).
    pub fn plan(mut self, name: &'a str) -> Self {
        self.target.plan = Some(Plan::Named(name));
        self
    }

    /// Sets the quota of the key's plan; see [`Check::quota`](crate::Check::quota).
    pub fn quota(mut self, quota: Quota) -> Self {
        self.target.plan = Some(Plan::Quota(quota));
        self
    }

    /// Gives the units back in code that is not async. It needs no runtime.
    ///
    /// # Errors
    /// Those of [`Limiter::give_back`](crate::Limiter::give_back), and [`CheckError::WouldWait`] if
    /// the store cannot answer at once, as Redis cannot. Even then, the units will be given back.
    pub fn at_once(self) -> Result<Decision, CheckError> {
        let Self { target, change, .. } = self;
        let core = &*target.limiter.core;
        let rules = core.rules();
        let change = target.refunded(&rules, change)?;
        if let Some(peeked) = decide_at_once(target.limiter, &rules, peek(&target, &rules, change)?)
        {
            check_used(&target, &peeked)?;
        }
        let correcting = pin!(correct(core, target.refund(&rules, change)?, change));
        match correcting.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(decision) => Ok(decision),
            Poll::Pending => Err(CheckError::WouldWait),
        }
    }
}

/// Gives units back, if the key has used any.
async fn refund(target: Target<'_>, change: Change) -> Result<Decision, CheckError> {
    let core = &*target.limiter.core;
    if let Some(awaited) = target.awaited() {
        awaited.await;
    }
    let peeked = match try_peek(&target, change)? {
        Ok(peeked) => peeked,
        Err(mut peeking) => poll_fn(|context| peeking.poll(target.limiter, context)).await,
    };
    check_used(&target, &peeked)?;
    // The peek may have waited, and the rules may be others now.
    let rules = core.rules();
    let change = target.refunded(&rules, change)?;
    let evaluation = target.refund(&rules, change)?;
    drop(rules);
    Ok(correct(core, evaluation, change).await)
}

/// Finds out whether the key has used anything: at once, or by a future.
fn try_peek(
    target: &Target<'_>,
    change: Change,
) -> Result<Result<Decision, Box<Deciding>>, CheckError> {
    let rules = target.limiter.core.rules();
    let peek = peek(target, &rules, target.refunded(&rules, change)?)?;
    Ok(try_decide(target.limiter, rules, peek, None))
}

/// The evaluation that finds out whether the key has used anything.
fn peek(target: &Target<'_>, rules: &RuleSet, change: Change) -> Result<Evaluation, CheckError> {
    let mut evaluation = target.refund(rules, change)?;
    evaluation.only_peek();
    Ok(evaluation)
}

/// Fails if the store says that the key has used nothing.
fn check_used(target: &Target<'_>, peeked: &Decision) -> Result<(), CheckError> {
    let record = &peeked.record;
    if record.counted_locally || record.outcomes().any(|outcome| !outcome.is_unused()) {
        return Ok(());
    }
    Err(CheckError::NothingUsed(target.policy.to_owned()))
}

impl Future for Refund<'_> {
    type Output = Result<Decision, CheckError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { target, change, refunding } = &mut *self;
        let refunding = refunding.get_or_insert_with(|| Box::pin(refund(target.clone(), *change)));
        refunding.as_mut().poll(context)
    }
}

impl fmt::Debug for Refund<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refund")
            .field("target", &self.target)
            .field("change", &self.change)
            .finish_non_exhaustive()
    }
}
