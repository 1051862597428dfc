use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Inner, Limiter, future::DecisionFuture};
use crate::{
    decision::{Decision, Outcome},
    key::Key,
    quota::Quota,
    store::Change,
};

/// A question to one policy; made by [`Limiter::check`] and its like, and asked by awaiting it.
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
#[must_use = "nothing is asked unless it is awaited"]
pub struct Check<'a> {
    limiter: &'a Limiter,
    action: Action,
    policy: &'a str,
    /// What is asked; nothing where no policy has that name.
    asked: Decision,
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
    /// The key is needed no longer.
    #[inline]
    pub(super) fn new(
        limiter: &'a Limiter,
        action: Action,
        policy: &'a str,
        key: &Key<'_>,
    ) -> Self {
        let asked = limiter.inner.ask_by_name(policy, key);
        Self { limiter, action, policy, asked, deciding: None }
    }

    /// How many units it uses, or gives back. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.asked.all_mut().for_each(|outcome| outcome.charge.cost = units);
        self
    }

    /// The quota of this key's plan. Default: the policy's own.
    pub fn quota(mut self, quota: Quota) -> Self {
        for outcome in self.asked.all_mut() {
            let policy = &self.limiter.inner.rule(outcome.place).policy;
            outcome.charge.quota = policy.planned(Some(quota));
        }
        self
    }

    /// Asks; the answer is in `asked`, or else it comes later.
    #[inline]
    fn ask(&mut self) -> Result<Option<Box<DecisionFuture>>, UnknownPolicy> {
        let Self { limiter, asked, .. } = self;
        let Some(Outcome { charge, .. }) = asked.all().next() else {
            return Err(UnknownPolicy(self.policy.to_owned()));
        };
        let cost = charge.cost;
        if charge.quota.is_unlimited() {
            asked.retain(|_| false);
        }
        let change = match self.action {
            Action::Charge => return Ok(DecisionFuture::at_once(limiter, asked)),
            Action::Peek => {
                asked.only_peek();
                return Ok(DecisionFuture::at_once(limiter, asked));
            }
            Action::GiveBack => Change::GiveBack(cost),
            Action::Reset => Change::Reset,
        };
        let correcting = DecisionFuture::correcting(limiter.clone(), asked.take(), change);
        Ok(Some(Box::new(correcting)))
    }
}

impl Inner {
    /// What is asked of the policy of a name; nothing where there is none.
    fn ask_by_name(&self, policy: &str, key: &Key<'_>) -> Decision {
        let shard = self.shard(0, key, || None);
        let key = self.fingerprint(0, key);
        let Some(&place) = self.by_name.get(policy) else { return Decision::new() };
        let rule = self.rule(place);
        let mut asked = Decision::new();
        let quota = rule.unasked.charge.quota;
        rule.ask(&mut asked, 0, (key, shard.unwrap_or(key as u64)), quota, 1);
        asked
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
    type Output = Result<Decision, UnknownPolicy>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let deciding = match self.deciding.take() {
            Some(deciding) => deciding,
            None => match self.ask()? {
                None => return Poll::Ready(Ok(self.asked.take())),
                Some(later) => later,
            },
        };
        Pin::new(self.deciding.insert(deciding)).poll(context).map(Ok)
    }
}

/// No policy of the limiter has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy(String);

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no policy is named `{}`; add it to the limiter, as with `.direct(…)`", self.0)
    }
}

impl std::error::Error for UnknownPolicy {}
