use std::{
    fmt,
    future::Future,
    iter,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use super::{Inner, Limiter, Rule, future::DecisionFuture};
use crate::{
    decision::{Decision, Outcome, Reason},
    key::Key,
    quota::Quota,
    store::{Answer, Change, Correction, Mode, Usage},
};

/// A question to one policy; made by [`Limiter::check`] and its like. It is asked by awaiting it, or
/// by [`at_once`](Self::at_once) where nothing can be awaited.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .direct(Policy::token_bucket("export rows", Quota::per_hour(10_000)))
///     .build()?;
/// let decision = limiter.check("export rows", "tenant-7").cost(2_500).await?;
/// assert_eq!(decision.outcomes()[0].remaining(), 7_500);
/// limiter.give_back("export rows", "tenant-7").cost(500).await?;
/// assert_eq!(limiter.peek("export rows", "tenant-7").await?.outcomes()[0].remaining(), 8_000);
/// assert!(limiter.check("exprot rows", "tenant-7").await.is_err());
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is asked unless it is awaited, or asked `at_once`"]
pub struct Check<'a> {
    limiter: &'a Limiter,
    action: Action,
    policy: &'a str,
    key: Key<'a>,
    cost: u64,
    plan: Option<Quota>,
    /// Boxed: mostly the answer is there at once.
    deciding: Option<Box<DecisionFuture>>,
}

/// What a [`Check`] does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    Charge,
    Peek,
    GiveBack,
    Reset,
}

impl<'a> Check<'a> {
    #[inline]
    pub(super) fn new(limiter: &'a Limiter, action: Action, policy: &'a str, key: Key<'a>) -> Self {
        Self { limiter, action, policy, key, cost: 1, plan: None, deciding: None }
    }

    /// How many units it uses, or gives back. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// The quota of this key's plan. Default: the policy's own.
    #[inline]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.plan = Some(quota);
        self
    }

    /// Asks from code that is not async: a thread, a callback, a loop over messages. It needs no
    /// runtime, and answers with what the policy says, of which awaiting makes a [`Decision`].
    ///
    /// Nothing is held: where the policy would have others wait, this is refused, and
    /// [`Outcome::retry_after`] tells how long to wait. A [dry run](crate::Policy::dry_run) lets it
    /// pass. Of an unlimited quota, [`u64::MAX`] units remain.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota};
    ///
    /// let limiter = Limiter::builder()
    ///     .direct(Policy::token_bucket("log lines", Quota::per_second(100)))
    ///     .build()?;
    /// let outcome = limiter.check("log lines", "worker-3").at_once()?;
    /// assert!(outcome.is_allowed());
    /// assert_eq!(outcome.remaining(), 99);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// [`CheckError::UnknownPolicy`] when no policy has that name. [`CheckError::WouldWait`] where
    /// the store has to be waited for, as one on Redis has: then nothing is charged. What is given
    /// back, or reset, is so all the same.
    pub fn at_once(self) -> Result<Outcome, CheckError> {
        let (inner, rule) = (&*self.limiter.inner, self.rule()?);
        let mut outcome = rule.unasked;
        self.fill(rule, &mut outcome);
        let answered = match self.change() {
            _ if outcome.charge.quota.is_unlimited() => {
                outcome.usage = Usage::of_nanos(0, u64::MAX, 0);
                true
            }
            None => inner.decide_without_waiting(&mut outcome),
            Some(change) => inner.correct_without_waiting(&mut outcome, change),
        };
        if answered { Ok(outcome) } else { Err(CheckError::WouldWait) }
    }

    #[inline]
    fn rule(&self) -> Result<&'a Rule, CheckError> {
        let inner = &*self.limiter.inner;
        match inner.by_name.get(self.policy) {
            Some(&place) => Ok(inner.rule(place)),
            None => Err(CheckError::UnknownPolicy(self.policy.to_owned())),
        }
    }

    /// Writes what is asked into what the rule says of nobody yet.
    #[inline]
    fn fill(&self, rule: &Rule, asked: &mut Outcome) {
        let inner = &*self.limiter.inner;
        let charge = &mut asked.charge;
        let shard = inner.shard(rule, 0, &self.key);
        charge.key = inner.fingerprint(rule, 0, &self.key);
        charge.shard = shard.unwrap_or(charge.key as u64);
        charge.cost = self.cost;
        if self.plan.is_some() {
            charge.quota = rule.policy.planned(self.plan);
        }
        if let Action::Peek = self.action {
            charge.mode = Mode::Peek;
        }
    }

    /// What changes of what was used; `None` where it is asked to use.
    fn change(&self) -> Option<Change> {
        match self.action {
            Action::Charge | Action::Peek => None,
            Action::GiveBack => Some(Change::GiveBack(self.cost)),
            Action::Reset => Some(Change::Reset),
        }
    }

    /// Asks; the answer is in `asked`, or else it comes later.
    #[inline]
    fn ask(&self, asked: &mut Decision) -> Result<Option<Box<DecisionFuture>>, CheckError> {
        let rule = self.rule()?;
        let outcome = asked.push(&rule.unasked);
        self.fill(rule, outcome);
        if outcome.charge.quota.is_unlimited() {
            asked.retain(|_| false);
        }
        let Some(change) = self.change() else {
            return Ok(DecisionFuture::at_once(self.limiter, asked));
        };
        let correcting = DecisionFuture::correcting(self.limiter.clone(), asked.take(), change);
        Ok(Some(Box::new(correcting)))
    }
}

impl Inner {
    /// Decides about one policy, if the store answers at once.
    fn decide_without_waiting(&self, outcome: &mut Outcome) -> bool {
        let now = self.clock.now();
        if self.line.is_waited_in() {
            self.line.look(iter::once(&mut outcome.charge), None, now);
        }
        let charged = self.charge_one_at_once(outcome, now);
        if charged {
            if outcome.refused == Some(Reason::QuotaExceeded) && self.line.is_waited_in() {
                self.lengthen_wait(outcome, false, now);
            }
            if outcome.charge.mode != Mode::Peek {
                self.observe_one(outcome);
            }
            if outcome.charge.mode == Mode::DryRun {
                outcome.refused = None;
            }
        }
        charged
    }

    /// Changes what was used; `false` where nobody knows yet what is left.
    fn correct_without_waiting(&self, outcome: &mut Outcome, change: Change) -> bool {
        let charge = outcome.charge;
        let correction = Correction::of_now(charge, change);
        let now = self.clock.now();
        let mut correcting = self.store.correct(&[correction], now);
        let answer = Pin::new(&mut correcting).poll(&mut Context::from_waker(Waker::noop()));
        self.line.freed([&charge], now);
        let Poll::Ready(Ok(Answer { usages, .. })) = answer else { return false };
        usages.iter().for_each(|usage| outcome.answer(usage));
        true
    }
}

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("action", &self.action)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl Future for Check<'_> {
    type Output = Result<Decision, CheckError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let deciding = match self.deciding.take() {
            Some(deciding) => deciding,
            None => {
                let mut asked = Decision::new();
                match self.ask(&mut asked)? {
                    None => return Poll::Ready(Ok(asked)),
                    Some(later) => later,
                }
            }
        };
        Pin::new(self.deciding.insert(deciding)).poll(context).map(Ok)
    }
}

/// Why a [`Check`] has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CheckError {
    /// No policy of the limiter has this name.
    UnknownPolicy(String),
    /// The store has to be waited for, and was asked by [`Check::at_once`].
    WouldWait,
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPolicy(name) => write!(
                f,
                "no policy is named `{name}`; add it to the limiter, as with `.direct(…)`"
            ),
            Self::WouldWait => f.write_str(
                "the limiter's store cannot answer at once; write `.await` for `.at_once()`",
            ),
        }
    }
}

impl std::error::Error for CheckError {}
