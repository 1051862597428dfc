use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{Limiter, Rule, future::DecisionFuture};
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
#[must_use = "nothing is asked unless it is awaited"]
pub struct Check<'a> {
    limiter: &'a Limiter,
    action: Action,
    /// Or the name by which there is none.
    rule: Result<&'a Rule, &'a str>,
    key: u128,
    shard: u64,
    quota: Quota,
    cost: u64,
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
    pub(super) fn new(
        limiter: &'a Limiter,
        action: Action,
        policy: &'a str,
        key: &Key<'_>,
    ) -> Self {
        let inner = &*limiter.inner;
        let rule = inner.by_name.get(policy).map(|&place| inner.rule(place)).ok_or(policy);
        let quota = rule.map_or(Quota::unlimited(), |rule| rule.unasked.charge.quota);
        let shard = inner.shard(0, key, || None);
        let key = inner.fingerprints.fingerprint(0, key);
        let shard = shard.unwrap_or(key as u64);
        Self { limiter, action, rule, key, shard, quota, cost: 1, deciding: None }
    }

    /// How many units it uses, or gives back. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// The quota of this key's plan. Default: the policy's own.
    pub fn quota(mut self, quota: Quota) -> Self {
        if let Ok(rule) = self.rule {
            self.quota = rule.policy.planned(Some(quota));
        }
        self
    }

    /// Decides, where that needs nothing but a store that answers at once.
    fn decide_at_once(&self, decision: &mut Decision) -> bool {
        let inner = &*self.limiter.inner;
        let Ok(rule) = self.rule else { return false };
        let is_charge = matches!(self.action, Action::Charge);
        if !is_charge || inner.is_shared || self.quota.is_unlimited() {
            return false;
        }
        let now = inner.clock.now();
        rule.ask(decision, 0, (self.key, self.shard), self.quota, self.cost);
        inner.decide_at_once(decision, now)
    }

    /// Asks; the answer is in `decision`, or else it comes later.
    fn ask(&self, decision: &mut Decision) -> Result<Option<Box<DecisionFuture>>, UnknownPolicy> {
        let rule = self.rule.map_err(|name| UnknownPolicy(name.to_owned()))?;
        if !self.quota.is_unlimited() {
            rule.ask(decision, 0, (self.key, self.shard), self.quota, self.cost);
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

impl fmt::Debug for Check<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = self.rule.map_or_else(|name| name, |rule| rule.policy.name());
        f.debug_struct("Check")
            .field("action", &self.action)
            .field("policy", &policy)
            .field("cost", &self.cost)
            .finish_non_exhaustive()
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
