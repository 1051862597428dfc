use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Limiter, future::DecisionFuture};
use crate::{decision::Decision, key::Key, quota::Quota, store::Change};

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
#[derive(Debug)]
#[must_use = "nothing is asked unless it is awaited"]
pub struct Check<'a> {
    limiter: &'a Limiter,
    action: Action,
    policy: &'a str,
    key: Key<'a>,
    cost: u64,
    quota: Option<Quota>,
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
        Self { limiter, action, policy, key, cost: 1, quota: None, deciding: None }
    }

    /// How many units it uses, or gives back. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// The quota of this key's plan. Default: the policy's own.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    /// Decides, where that needs nothing but a store that answers at once.
    ///
    /// A decision is large to move about: it is written where its caller wants it.
    fn decide_at_once(&self, decision: &mut Decision) -> bool {
        let inner = &*self.limiter.inner;
        let Some(&place) = inner.by_name.get(self.policy) else { return false };
        let rule = inner.rule(place);
        let quota = match self.quota {
            None => rule.unasked.charge.quota,
            own => rule.policy.planned(own),
        };
        let is_plain = matches!(self.action, Action::Charge) && !inner.is_shared;
        if !is_plain || quota.is_unlimited() {
            return false;
        }
        let now = inner.clock.now();
        let key = inner.fingerprints.fingerprint(0, &self.key);
        rule.ask(decision, 0, (key, None), quota, self.cost);
        inner.decide_at_once(decision, now)
    }

    /// Asks; the answer is in `decision`, or else it comes later.
    fn ask(&self, decision: &mut Decision) -> Result<Option<Box<DecisionFuture>>, UnknownPolicy> {
        let inner = &*self.limiter.inner;
        let place = inner.by_name.get(self.policy);
        let place = *place.ok_or_else(|| UnknownPolicy(self.policy.to_owned()))?;
        let rule = inner.rule(place);
        let quota = rule.policy.planned(self.quota);
        if !quota.is_unlimited() {
            let shard = inner.shard(0, &self.key, || None);
            let key = inner.fingerprints.fingerprint(0, &self.key);
            rule.ask(decision, 0, (key, shard), quota, self.cost);
        }
        let change = match self.action {
            Action::Charge => return Ok(DecisionFuture::at_once(self.limiter, decision)),
            Action::Peek => {
                decision.only_peek();
                return Ok(DecisionFuture::at_once(self.limiter, decision));
            }
            Action::GiveBack => Change::GiveBack(self.cost),
            Action::Reset => Change::Reset,
        };
        let asked = decision.take();
        Ok(Some(Box::new(DecisionFuture::correcting(self.limiter.clone(), asked, change))))
    }

    fn poll_slowly(&mut self, context: &mut Context<'_>) -> Poll<Result<Decision, UnknownPolicy>> {
        let deciding = match self.deciding.take() {
            Some(deciding) => deciding,
            None => {
                let mut decision = Decision::new();
                match self.ask(&mut decision) {
                    Err(unknown) => return Poll::Ready(Err(unknown)),
                    Ok(None) => return Poll::Ready(Ok(decision)),
                    Ok(Some(later)) => later,
                }
            }
        };
        Pin::new(self.deciding.insert(deciding)).poll(context).map(Ok)
    }
}

impl Future for Check<'_> {
    type Output = Result<Decision, UnknownPolicy>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.deciding.is_none() {
            let mut decision = Decision::new();
            if self.decide_at_once(&mut decision) {
                return Poll::Ready(Ok(decision));
            }
        }
        self.poll_slowly(context)
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
