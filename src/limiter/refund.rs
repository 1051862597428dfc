//! Units given back without a request: [`Refund`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use super::{
    CheckError, Limiter,
    correcting::{Correcting, correct},
    decision::{Decision, Outcome},
    decision_future::{DecisionFuture, decide_at_once, try_decide},
    evaluation::Evaluation,
    target::{Plan, Target},
};
use crate::{quota::Quota, store::Change};

/// Gives units back to one key of one policy; from [`Limiter::give_back`], [`Limiter::reset`] or a
/// [`PolicyHandle`](crate::PolicyHandle). It runs when it is awaited, or by
/// [`at_once`](Self::at_once) in code that is not async.
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
    step: Step,
}

enum Step {
    Begun,
    /// Finds out whether the key has used anything.
    Peeking(Box<DecisionFuture>),
    Correcting(Box<(Evaluation, Correcting)>),
}

impl<'a> Refund<'a> {
    pub(super) fn new(target: Target<'a>, change: Change) -> Self {
        Self { target, change, step: Step::Begun }
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
    /// Those of [`Limiter::give_back`], and [`CheckError::WouldWait`] if the store cannot answer at
    /// once, as Redis cannot. Even then, the units will be given back.
    pub fn at_once(self) -> Result<Decision, CheckError> {
        let peeked = decide_at_once(&self.limiter().core, self.peek()?);
        if peeked.is_some_and(|peeked| is_unused(&peeked)) {
            return Err(self.nothing_used());
        }
        let (mut evaluation, mut correcting) = self.correct()?;
        let context = &mut Context::from_waker(Waker::noop());
        match correcting.poll_corrected(&mut evaluation, context) {
            Poll::Ready(decision) => Ok(decision),
            Poll::Pending => Err(CheckError::WouldWait),
        }
    }

    fn limiter(&self) -> &'a Limiter {
        self.target.limiter
    }

    fn units(&self) -> u64 {
        match self.change {
            Change::GiveBack(units) | Change::Take(units) => units,
            Change::Reset => 1,
        }
    }

    fn peek(&self) -> Result<Evaluation, CheckError> {
        let mut evaluation = self.target.refund(self.units())?;
        evaluation.only_peek();
        Ok(evaluation)
    }

    fn correct(&self) -> Result<(Evaluation, Correcting), CheckError> {
        let evaluation = self.target.refund(self.units())?;
        let correcting = correct(self.limiter(), &evaluation, self.change);
        Ok((evaluation, correcting))
    }

    /// The error for a key that has used nothing.
    fn nothing_used(&self) -> CheckError {
        let policy = self.target.rule().map(|rule| rule.policy.name().to_owned());
        policy.map_or_else(|error| error, CheckError::NothingUsed)
    }
}

/// Whether the store says that the key has used nothing.
fn is_unused(peeked: &Decision) -> bool {
    !peeked.record.counted_locally
        && peeked.record.outcomes().all(|outcome| Outcome::is_unused(&outcome))
}

impl Future for Refund<'_> {
    type Output = Result<Decision, CheckError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            let peeked = match &mut this.step {
                Step::Begun => match try_decide(this.target.limiter, this.peek()?) {
                    Ok(peeked) => peeked,
                    Err(peeking) => {
                        this.step = Step::Peeking(peeking);
                        continue;
                    }
                },
                Step::Peeking(peeking) => ready!(Pin::new(peeking).poll(context)),
                Step::Correcting(step) => {
                    let (evaluation, correcting) = &mut **step;
                    return correcting.poll_corrected(evaluation, context).map(Ok);
                }
            };
            if is_unused(&peeked) {
                return Poll::Ready(Err(this.nothing_used()));
            }
            this.step = Step::Correcting(Box::new(this.correct()?));
        }
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
