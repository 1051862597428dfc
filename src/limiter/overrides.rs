//! What an operator decides about one key, for a time.

use std::{
    collections::HashMap,
    sync::{
        LazyLock, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::{StatusCode, request::Parts};

use super::{Decision, DecisionFuture, Limiter, Outcome, Reason, decision::NO_POLICY};
use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    key,
    policy::{Labels, Policy},
    quota::Quota,
    store::{Change, Charge, Usage},
};

/// How many keys an operator may treat differently at once.
const MAX_KEYS: usize = 10_000;
/// The policy that refuses whoever is blocked.
const BLOCKED: &str = "blocked";

/// By the request log's fingerprint of a key.
#[derive(Default)]
pub(super) struct Overrides {
    /// Nearly always there are none, and no request has to look.
    any: AtomicBool,
    by_key: RwLock<HashMap<u128, Override>>,
}

/// Until when a key is treated differently, by the monotonic clock.
#[derive(Clone, Default)]
struct Override {
    blocked: Option<Until>,
    quotas: Vec<(u64, Quota, Until)>,
}

type Until = u64;

/// What holds for one key instead of what holds for others, and how long still.
#[derive(Default)]
pub(crate) struct Exception {
    pub(crate) blocked: Option<Duration>,
    /// Policies, and how long the key has another quota of each.
    pub(crate) quotas: Vec<(Policy, Duration)>,
}

/// What a key has drawn on: by this, it is asked about again without the key itself.
#[derive(Clone, Copy)]
pub(crate) struct Drawn {
    place: u32,
    key_kind: u8,
    charge: Charge,
}

impl Drawn {
    /// From a quota that is the key's own.
    pub(crate) fn of(outcome: &Outcome) -> Option<Self> {
        outcome.fingerprint()?;
        let Outcome { place, key_kind, charge, .. } = *outcome;
        Some(Self { place, key_kind, charge })
    }

    pub(crate) fn is_of_policy_of(&self, other: &Self) -> bool {
        self.charge.policy == other.charge.policy
    }

    /// Where the quota is an exception, the one that holds when that ends.
    pub(crate) fn without_exception(mut self, before: &Self) -> Self {
        self.charge.quota = before.charge.quota;
        self
    }
}

/// Why an operator's change was not made.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unchanged {
    /// There is no room for more exceptions.
    TooMany,
    /// No policy has that name.
    UnknownPolicy,
}

impl Overrides {
    /// What holds for a key now.
    fn of(&self, key: u128, now: impl Fn() -> Now) -> Option<Override> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        let by_key = self.by_key.read().unwrap_or_else(PoisonError::into_inner);
        let mut own = by_key.get(&key)?.clone();
        own.expire(now());
        Some(own)
    }

    fn change(
        &self,
        key: u128,
        now: Now,
        change: impl FnOnce(&mut Override),
    ) -> Result<(), Unchanged> {
        let mut by_key = self.by_key.write().unwrap_or_else(PoisonError::into_inner);
        by_key.retain(|_, own| {
            own.expire(now);
            !own.is_empty()
        });
        if by_key.len() >= MAX_KEYS && !by_key.contains_key(&key) {
            return Err(Unchanged::TooMany);
        }
        change(by_key.entry(key).or_default());
        by_key.retain(|_, own| !own.is_empty());
        self.any.store(!by_key.is_empty(), Ordering::Release);
        Ok(())
    }
}

impl Override {
    fn expire(&mut self, now: Now) {
        let now = now.monotonic_nanos();
        self.blocked = self.blocked.filter(|until| *until > now);
        self.quotas.retain(|(_, _, until)| *until > now);
    }

    fn is_empty(&self) -> bool {
        self.blocked.is_none() && self.quotas.is_empty()
    }

    fn adjust(&self, asked: &mut Decision) {
        for charge in asked.charges_mut() {
            let own = self.quotas.iter().find(|(policy, _, _)| *policy == charge.policy);
            own.into_iter().for_each(|(_, quota, _)| charge.quota = *quota);
        }
    }
}

impl Limiter {
    /// Decides as [`decide_at_once`](Self::decide_at_once) does, about a request of a key that the
    /// log knows.
    pub(crate) fn decide_at_once_for(
        &self,
        request: &Parts,
        key: u128,
        decision: &mut Decision,
    ) -> Option<Box<DecisionFuture>> {
        let Some(own) = self.inner.overrides.of(key, || self.now()) else {
            return self.decide_at_once(request, decision);
        };
        if let Some(until) = own.blocked {
            let now = self.now();
            let left = until.saturating_sub(now.monotonic_nanos());
            self.refuse(request, &blocked(Duration::from_nanos(left)), now, decision);
            return None;
        }
        self.inner.ask(request, decision);
        own.adjust(decision);
        DecisionFuture::at_once(self, decision)
    }

    /// Decides as [`decide_at_once`](Self::decide_at_once) does, about a request of which the log
    /// cannot read the key. Where some key is treated differently, this may be it, and the request
    /// is refused with this status.
    #[cold]
    pub(crate) fn decide_at_once_unread(
        &self,
        request: &Parts,
        status: StatusCode,
        decision: &mut Decision,
    ) -> Option<Box<DecisionFuture>> {
        if !self.inner.overrides.any.load(Ordering::Acquire) {
            return self.decide_at_once(request, decision);
        }
        static LABELS: LazyLock<&Labels> = LazyLock::new(|| {
            let key = key::from_fn("the caller's key", |_| None);
            Labels::of(&Policy::fixed_window(BLOCKED, Quota::per_second(0)).key(key))
        });
        let unread = Outcome {
            labels: *LABELS,
            refused: Some(Reason::UnreadableKey),
            unreadable: Some(status),
            ..blocked(Duration::ZERO)
        };
        self.refuse(request, &unread, self.now(), decision);
        None
    }

    /// Refuses a request before a policy decides about it, and lets metrics and events know.
    #[cold]
    fn refuse(&self, request: &Parts, outcome: &Outcome, now: Now, decision: &mut Decision) {
        let categories = self.inner.categories_of(request);
        decision.record.category = categories.and_then(|(category, _)| category);
        decision.push(outcome);
        decision.record.close(now, Duration::ZERO);
        self.inner.observe(decision);
    }

    /// Peeks as [`peek_request`](Self::peek_request) does, for a key that the log knows.
    pub(crate) fn peek_request_for(&self, request: &Parts, key: u128) -> DecisionFuture {
        self.peek_adjusted(self.ask_to_peek(request), key)
    }

    /// What these policies would do, if they were asked for one unit now.
    pub(crate) fn peek_drawn(&self, drawn: &[Drawn], key: u128) -> DecisionFuture {
        let mut asked = self.ask_again(drawn);
        asked.only_peek();
        self.peek_adjusted(asked, key)
    }

    fn peek_adjusted(&self, mut asked: Decision, key: u128) -> DecisionFuture {
        if let Some(own) = self.inner.overrides.of(key, || self.now()) {
            own.adjust(&mut asked);
        }
        DecisionFuture::new(self.clone(), asked)
    }

    /// Gives back all that was drawn.
    pub(crate) fn reset_drawn(&self, drawn: &[Drawn]) -> DecisionFuture {
        DecisionFuture::correcting(self.clone(), self.ask_again(drawn), Change::Reset)
    }

    fn ask_again(&self, drawn: &[Drawn]) -> Decision {
        let mut asked = Decision::new();
        for Drawn { place, key_kind, charge } in drawn {
            let rule = self.inner.rule(*place);
            let key = (charge.key, charge.shard);
            rule.ask(&mut asked, *key_kind, key, charge.quota, 1);
        }
        asked
    }

    /// Refuses a key for a time, or not any more.
    pub(crate) fn block(&self, key: u128, time: Option<Duration>) -> Result<(), Unchanged> {
        let until = time.map(|time| self.until(time));
        self.inner.overrides.change(key, self.now(), |own| own.blocked = until)
    }

    /// Gives a key a quota of its own for a time, or the one that others have.
    pub(crate) fn set_quota(
        &self,
        key: u128,
        policy: &str,
        quota: Option<(Quota, Duration)>,
    ) -> Result<(), Unchanged> {
        let place = self.inner.by_name.get(policy).ok_or(Unchanged::UnknownPolicy)?;
        let rule = self.inner.rule(*place);
        let quota =
            quota.map(|(quota, time)| (rule.unasked.charge.policy, quota, self.until(time)));
        self.inner.overrides.change(key, self.now(), |own| {
            own.quotas.retain(|(policy, _, _)| *policy != rule.unasked.charge.policy);
            own.quotas.extend(quota);
        })
    }

    pub(crate) fn exception(&self, key: u128) -> Exception {
        let Some(own) = self.inner.overrides.of(key, || self.now()) else {
            return Exception::default();
        };
        let now = self.now().monotonic_nanos();
        let left = |until: Until| Duration::from_nanos(until.saturating_sub(now));
        let quota = |(id, _, until): &(u64, Quota, Until)| {
            let rule = self.inner.rules.iter().find(|rule| rule.unasked.charge.policy == *id)?;
            Some((rule.policy.clone(), left(*until)))
        };
        Exception {
            blocked: own.blocked.map(left),
            quotas: own.quotas.iter().filter_map(quota).collect(),
        }
    }

    fn until(&self, time: Duration) -> Until {
        nanos(self.now().monotonic().saturating_add(time))
    }
}

/// What refuses a blocked key: a quota of nothing until the block ends. No store is asked, and no
/// rule of the limiter's.
fn blocked(left: Duration) -> Outcome {
    static LABELS: LazyLock<&Labels> =
        LazyLock::new(|| Labels::of(&Policy::fixed_window(BLOCKED, Quota::per_second(0)).global()));
    let quota = Quota::per_window(0, left);
    Outcome {
        labels: *LABELS,
        charge: Charge::new(NO_POLICY, 0, Algorithm::FixedWindow, quota),
        place: 0,
        key_kind: 0,
        refused: Some(Reason::Blocked),
        unreadable: None,
        replicas: 1,
        usage: Usage::new(left, 0, left),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::ZERO)
    }

    #[test]
    fn exceptions_are_bounded_and_room_comes_with_time() {
        let overrides = Overrides::default();
        let until = |seconds: u64| Some(seconds * 1_000_000_000);
        for key in 0..MAX_KEYS as u128 {
            overrides.change(key, at(0), |own| own.blocked = until(60)).unwrap();
        }
        let one_more = |now| overrides.change(u128::MAX, at(now), |own| own.blocked = until(120));
        assert!(one_more(59).is_err());
        assert!(overrides.change(7, at(59), |own| own.blocked = None).is_ok(), "a known one may");
        assert!(one_more(59).is_ok(), "and makes room");
        assert!(one_more(60).is_ok());
        assert_eq!(overrides.by_key.read().unwrap().len(), 1);
    }

    #[test]
    fn a_policy_that_there_is_not_is_no_success() {
        let policy = Policy::token_bucket("read", Quota::per_minute(1)).global();
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        let quota = || Some((Quota::per_minute(2), Duration::from_secs(1)));
        assert_eq!(limiter.set_quota(7, "read", quota()), Ok(()));
        for change in [quota(), None] {
            assert_eq!(limiter.set_quota(7, "raed", change), Err(Unchanged::UnknownPolicy));
        }
    }

    #[test]
    fn without_exceptions_nobody_looks() {
        let overrides = Overrides::default();
        let never = || panic!("the clock is not read");
        assert!(overrides.of(7, never).is_none());
        overrides.change(7, at(0), |own| own.blocked = Some(1)).unwrap();
        assert!(overrides.of(7, || at(0)).is_some());
        overrides.change(7, at(0), |own| own.blocked = None).unwrap();
        assert!(overrides.of(7, never).is_none());
    }
}
