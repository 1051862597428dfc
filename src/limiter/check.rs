//! One policy checked for one key, without a request: [`Check`].

use std::{
    fmt,
    future::Future,
    iter,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use super::{CheckError, Inner, Limiter, Rule, future::DecisionFuture};
use crate::{
    key::Key,
    limiter::{Decision, Outcome, Reason},
    quota::Quota,
    store::{Answer, Change, Correction, Mode, Usage},
};

/// A check of one policy for one key; made by [`Limiter::check`] and its like. It runs when it is
/// awaited, or by [`at_once`](Self::at_once) where nothing can be awaited.
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
#[must_use = "a check does nothing unless it is awaited, or made `at_once`"]
pub struct Check<'a> {
    limiter: &'a Limiter,
    action: Action,
    policy: &'a str,
    key: Key<'a>,
    kind: Option<&'a str>,
    cost: u64,
    plan: Option<Plan<'a>>,
    /// Boxed, as the answer is mostly there at once.
    deciding: Option<Box<DecisionFuture>>,
    /// Whether the key is known to have used units that a change can give back.
    is_known: bool,
}

/// Which quota the key has.
#[derive(Clone, Copy)]
enum Plan<'a> {
    Named(&'a str),
    Quota(Quota),
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
        let (kind, plan, deciding) = (None, None, None);
        Self { limiter, action, policy, key, kind, cost: 1, plan, deciding, is_known: false }
    }

    /// How many units it uses, or gives back. Default: 1.
    #[inline]
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// The kind of the key, by the name that its extractor has: `ip`, `x-api-key`. A policy that
    /// counts by several kinds ([`Policy::or_key`](crate::Policy::or_key)) needs it, as equal keys of
    /// two kinds have two quotas. Default: the policy's only kind.
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
    /// assert_eq!(limiter.peek("read", neighbour).kind("ip").await?.outcomes()[0].remaining(), 59);
    /// # Ok(())
    /// # }
    /// ```
    pub fn kind(mut self, name: &'a str) -> Self {
        self.kind = Some(name);
        self
    }

    /// The plan of the key, by its name in [`Policy::plans`](crate::Policy::plans). A policy with
    /// plans needs this or [`quota`](Self::quota): it finds a key's plan in a request, and a check
    /// has none. The last of the two that is called counts.
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
    pub fn plan(mut self, name: &'a str) -> Self {
        self.plan = Some(Plan::Named(name));
        self
    }

    /// The quota of this key's plan. Default: the policy's own, unless the policy has plans.
    #[inline]
    pub fn quota(mut self, quota: Quota) -> Self {
        self.plan = Some(Plan::Quota(quota));
        self
    }

    /// Makes the check from code that is not async: a thread, a callback, a loop over messages. It
    /// needs no runtime. The answer is the policy's [`Outcome`]; awaiting the check answers with a
    /// [`Decision`] that has it.
    ///
    /// Nothing is held: where a policy would hold a request, the check is refused, and
    /// [`Outcome::retry_after`] says how long to wait. A [dry run](crate::Policy::dry_run) lets it
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
    /// Those of [`Limiter::check`], and [`CheckError::WouldWait`] where the store does not answer at
    /// once, as Redis does not. Then nothing is charged; units that the check gives back, or a key
    /// that it resets, will be so all the same.
    pub fn at_once(self) -> Result<Outcome, CheckError> {
        let (inner, rule) = (&*self.limiter.inner, self.rule()?);
        let mut outcome = rule.unasked;
        self.fill(rule, &mut outcome)?;
        let answered = match self.change() {
            _ if outcome.charge.quota.is_unlimited() => {
                outcome.usage = Usage::from_nanos(0, u64::MAX, 0);
                true
            }
            None if !outcome.has_key() => {
                inner.observe_answer(&mut outcome);
                true
            }
            None => inner.decide_without_waiting(&mut outcome),
            Some(_) if inner.is_unused(&outcome) => return Err(self.nothing_used()),
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

    /// Writes the check into the rule's outcome, which has no key yet.
    #[inline]
    fn fill(&self, rule: &Rule, outcome: &mut Outcome) -> Result<(), CheckError> {
        let inner = &*self.limiter.inner;
        if inner.is_shared && rule.policy.settings.shard.is_some() {
            return Err(CheckError::Sharded(self.policy.to_owned()));
        }
        let kind = self.kind_of(rule)?;
        let counted;
        let key = if rule.policy.settings.keys.are_canonical() {
            &self.key
        } else {
            counted = self.counted_key(rule, kind)?;
            &counted
        };
        outcome.key_kind = kind;
        let charge = &mut outcome.charge;
        let shard = inner.shard(rule, kind, key);
        charge.key = inner.fingerprint(rule, kind, key);
        charge.shard = shard.unwrap_or(charge.key as u64);
        charge.cost = self.cost;
        if let Action::Peek = self.action {
            charge.mode = Mode::Peek;
        }
        if self.plan.is_some() || rule.policy.settings.has_plans() {
            let quota = self.quota_of(rule)?;
            match (quota.units(), self.action) {
                (0, Action::Charge | Action::Peek) => {
                    charge.quota = quota;
                    outcome.refused = Some(Reason::NoQuota);
                }
                // Units that were used before the plan had none stay, under the policy's own quota.
                (0, Action::GiveBack | Action::Reset) => {}
                _ => charge.quota = quota,
            }
        }
        Ok(())
    }

    #[inline]
    fn kind_of(&self, rule: &Rule) -> Result<u8, CheckError> {
        match self.kind {
            None if rule.domains.len() == 1 => Ok(0),
            name => self.named_kind(rule, name),
        }
    }

    #[inline(never)]
    fn named_kind(&self, rule: &Rule, name: Option<&str>) -> Result<u8, CheckError> {
        let kinds = || rule.unasked.labels.kinds().map(str::to_owned).collect();
        let policy = || self.policy.to_owned();
        let Some(name) = name else {
            return Err(CheckError::WhichKind { policy: policy(), kinds: kinds() });
        };
        let found = (0..=u8::MAX).zip(rule.unasked.labels.kinds()).find(|(_, kind)| *kind == name);
        let unknown =
            || CheckError::UnknownKind { policy: policy(), kind: name.to_owned(), kinds: kinds() };
        found.map(|(number, _)| number).ok_or_else(unknown)
    }

    /// The key as the policy counts it.
    #[inline(never)]
    fn counted_key(&self, rule: &Rule, kind: u8) -> Result<Key<'a>, CheckError> {
        let unfit = || {
            let kind = rule.unasked.labels.kind(kind).to_owned();
            CheckError::UnfitKey { policy: self.policy.to_owned(), kind }
        };
        rule.policy.settings.keys.canonical(kind, self.key.clone()).ok_or_else(unfit)
    }

    fn quota_of(&self, rule: &Rule) -> Result<Quota, CheckError> {
        let plans = rule.policy.settings.plan_table();
        let names = || plans.iter().map(|(name, _)| name.clone()).collect();
        match self.plan {
            Some(Plan::Quota(quota)) => Ok(rule.policy.settings.checked(quota)),
            Some(Plan::Named(name)) => match plans.iter().find(|(plan, _)| plan == name) {
                Some((_, quota)) => Ok(*quota),
                None => Err(CheckError::UnknownPlan {
                    policy: self.policy.to_owned(),
                    plan: name.to_owned(),
                    plans: names(),
                }),
            },
            None => Err(CheckError::WhichPlan { policy: self.policy.to_owned(), plans: names() }),
        }
    }

    /// The change to what was used; `None` for a charge.
    fn change(&self) -> Option<Change> {
        match self.action {
            Action::Charge | Action::Peek => None,
            Action::GiveBack => Some(Change::GiveBack(self.cost)),
            Action::Reset => Some(Change::Reset),
        }
    }

    fn nothing_used(&self) -> CheckError {
        CheckError::NothingUsed(self.policy.to_owned())
    }

    /// Begins the check. The answer is in `decision` if no future is returned.
    #[inline]
    fn begin(&self, decision: &mut Decision) -> Result<Option<Box<DecisionFuture>>, CheckError> {
        let rule = self.rule()?;
        let outcome = decision.push(&rule.unasked);
        self.fill(rule, outcome)?;
        let change = self.change();
        if change.is_some() && !self.is_known {
            outcome.charge.mode = Mode::Peek;
        }
        if outcome.charge.quota.is_unlimited() {
            decision.retain(|_| false);
        }
        let Some(change) = change.filter(|_| self.is_known) else {
            return Ok(DecisionFuture::at_once(self.limiter, decision));
        };
        let correcting = DecisionFuture::correcting(self.limiter.clone(), decision.take(), change);
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
            self.observe_answer(outcome);
        }
        charged
    }

    /// Whether the store says at once that the key has used nothing.
    fn is_unused(&self, outcome: &Outcome) -> bool {
        let mut peeked = *outcome;
        peeked.charge.mode = Mode::Peek;
        self.charge_one_at_once(&mut peeked, self.clock.now()) && peeked.is_unused()
    }

    /// Reports the outcome to metrics and events. A dry run refuses nothing.
    #[inline]
    fn observe_answer(&self, outcome: &mut Outcome) {
        if outcome.charge.mode != Mode::Peek {
            self.observe_one(outcome);
        }
        if outcome.charge.mode == Mode::DryRun {
            outcome.refused = None;
        }
    }

    /// Changes what was used; `false` where it is not yet known what is left.
    fn correct_without_waiting(&self, outcome: &mut Outcome, change: Change) -> bool {
        let charge = outcome.charge;
        let correction = Correction::new(charge, change);
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
        loop {
            let decision = match self.deciding.as_mut() {
                Some(deciding) => ready!(Pin::new(deciding).poll(context)),
                None => {
                    let mut decision = Decision::new();
                    match self.begin(&mut decision)? {
                        None => decision,
                        Some(later) => {
                            self.deciding = Some(later);
                            continue;
                        }
                    }
                }
            };
            if self.change().is_none() || self.is_known {
                return Poll::Ready(Ok(decision));
            }
            // Nothing is given back to a key that may be misspelt.
            if decision.is_unused() {
                return Poll::Ready(Err(self.nothing_used()));
            }
            (self.is_known, self.deciding) = (true, None);
        }
    }
}

impl Decision {
    /// Whether the store has said that the keys have used nothing.
    fn is_unused(&self) -> bool {
        !self.record.counted_locally && self.all().all(Outcome::is_unused)
    }
}

impl Outcome {
    fn is_unused(&self) -> bool {
        self.remaining() >= self.limit()
    }
}
