//! The target of a check or a refund: a policy, a key, and the key's quota.

use std::fmt;

use smallvec::SmallVec;

use super::{
    Core, Limiter,
    check_error::CheckError,
    evaluation::{Evaluation, Members},
    overrides::{AwaitedCaller, CallersOwn},
    rules::{Rule, RuleId, RuleSet},
};
use crate::{algorithm::Algorithm, key::Key, quota::Quota, store::Change};

/// One key of one policy.
#[derive(Clone)]
pub(super) struct Target<'a> {
    pub(super) limiter: &'a Limiter,
    pub(super) policy: &'a str,
    /// A rule of the policy, if it was found already.
    pub(super) rule: Option<&'a RuleId>,
    pub(super) key: Key<'a>,
    pub(super) kind: Option<&'a str>,
    pub(super) plan: Option<Plan<'a>>,
}

/// Which quota the key has.
#[derive(Clone, Copy)]
pub(super) enum Plan<'a> {
    Named(&'a str),
    Quota(Quota),
}

impl<'a> Target<'a> {
    #[inline]
    pub(super) fn new(limiter: &'a Limiter, policy: &'a str, key: impl Into<Key<'a>>) -> Self {
        Self { limiter, policy, rule: None, key: key.into(), kind: None, plan: None }
    }

    #[inline(always)]
    fn rule<'r>(&self, rules: &'r RuleSet) -> Result<&'r Rule, CheckError> {
        match self.rule.and_then(|id| rules.rule(*id)) {
            Some(rule) => Ok(rule),
            None => self.rule_by_name(rules),
        }
    }

    #[inline(never)]
    fn rule_by_name<'r>(&self, rules: &'r RuleSet) -> Result<&'r Rule, CheckError> {
        let found = rules.by_name(self.policy);
        found.ok_or_else(|| CheckError::UnknownPolicy(self.policy.to_owned()))
    }

    /// The charge of a check. An unlimited quota is not counted.
    #[inline(always)]
    pub(super) fn charge(&self, rules: &RuleSet, cost: u64) -> Result<Evaluation, CheckError> {
        if !self.limiter.core.overrides.table.can_skip() {
            return self.charge_overridden(rules, cost);
        }
        let (rule, kind) = self.rule_and_kind(rules)?;
        if rule.has_fallback() {
            return self.charge_waterfall(rules, rule, cost, None, Evaluation::default());
        }
        let quota = self.quota_of(rule)?;
        self.evaluate(Evaluation::default(), rule, kind, cost, quota)
    }

    /// The charges of a policy and of those that it falls back on, for the same key.
    #[cold]
    fn charge_waterfall(
        &self,
        rules: &RuleSet,
        head: &Rule,
        cost: u64,
        own: Option<&CallersOwn>,
        mut evaluation: Evaluation,
    ) -> Result<Evaluation, CheckError> {
        let mut members = Members::new();
        for rule in rules.waterfall(head) {
            let kind = self.usable_kind_of(rule)?;
            let is_head = rule.charge.policy == head.charge.policy;
            let quota = match own.and_then(|own| rule.overridden(own)) {
                Some(own_quota) => own_quota,
                None if is_head => self.quota_of(rule)?,
                None => self.quota_of_fallback(rule)?,
            };
            let key = self.limiter.core.key_of(rule, kind, &self.counted_key(rule, kind)?);
            members.push(rule.member(head, kind, key, quota, cost));
        }
        evaluation.add_members(members);
        Ok(evaluation)
    }

    /// The quota of a key under a policy that is fallen back on. Its plan is one of the checked policy,
    /// which this policy may have as well. A quota that nothing names is an error, as it would be in a
    /// check of this policy.
    fn quota_of_fallback(&self, rule: &Rule) -> Result<Quota, CheckError> {
        let settings = &rule.policy.settings;
        let named = match self.plan {
            Some(Plan::Named(name)) => settings.plan_table().iter().find(|(plan, _)| plan == name),
            Some(Plan::Quota(_)) | None => None,
        };
        match named {
            Some((_, quota)) => Ok(*quota),
            None if settings.has_plans() => Err(CheckError::MissingPlan {
                policy: rule.policy.name().to_owned(),
                plans: settings.plan_table().iter().map(|(name, _)| name.clone()).collect(),
            }),
            None => Ok(settings.quota_now(&self.limiter.core.clock).0),
        }
    }

    #[cold]
    fn charge_overridden(&self, rules: &RuleSet, cost: u64) -> Result<Evaluation, CheckError> {
        // A mistake in the check is an error whatever the caller's overrides are.
        let (rule, kind) = self.rule_and_kind(rules)?;
        let quota = self.quota_of(rule)?;
        match begin(&self.limiter.core, &self.key) {
            Ok((evaluation, own)) if rule.has_fallback() => {
                self.charge_waterfall(rules, rule, cost, own.as_ref(), evaluation)
            }
            Ok((evaluation, own)) => {
                let own = own.and_then(|own| rule.overridden(&own));
                self.evaluate(evaluation, rule, kind, cost, own.unwrap_or(quota))
            }
            Err(ruled) => Ok(ruled),
        }
    }

    /// The charges of several targets at once, each with its cost. `caller` is the key of whom
    /// overrides are.
    pub(super) fn charge_all(
        caller: &Key<'_>,
        targets: &[(Self, u64)],
        core: &Core,
        rules: &RuleSet,
    ) -> Result<Evaluation, CheckError> {
        let mut found: SmallVec<[_; 4]> = SmallVec::new();
        let mut seen: SmallVec<[u64; 4]> = SmallVec::new();
        for (target, _) in targets {
            let (rule, kind) = target.rule_and_kind(rules)?;
            found.push((rule, kind, target.quota_of(rule)?));
            for rule in rules.waterfall(rule) {
                if seen.contains(&rule.charge.policy) {
                    return Err(CheckError::ListedTwice(rule.policy.name().to_owned()));
                }
                seen.push(rule.charge.policy);
            }
        }
        let (mut evaluation, own) = match core.overrides.table.can_skip() {
            true => (Evaluation::default(), None),
            false => match begin(core, caller) {
                Ok(begun) => begun,
                Err(ruled) => return Ok(ruled),
            },
        };
        for ((target, cost), (rule, kind, quota)) in targets.iter().zip(found) {
            if rule.has_fallback() {
                evaluation =
                    target.charge_waterfall(rules, rule, *cost, own.as_ref(), evaluation)?;
                continue;
            }
            let own = own.as_ref().and_then(|own| rule.overridden(own));
            evaluation = target.evaluate(evaluation, rule, kind, *cost, own.unwrap_or(quota))?;
        }
        Ok(evaluation)
    }

    /// The error of a policy that has no units in flight.
    #[cold]
    pub(super) fn ensure_in_flight(&self, rules: &RuleSet) -> Result<(), CheckError> {
        match self.rule(rules)?.policy.algorithm() {
            Algorithm::InFlight => Ok(()),
            _ => Err(CheckError::NotInFlight(self.policy.to_owned())),
        }
    }

    /// The caller, if its overrides are not known yet.
    pub(super) fn awaited(&self) -> Option<Box<AwaitedCaller>> {
        let core = &*self.limiter.core;
        if core.overrides.table.can_skip() {
            return None;
        }
        core.overrides_by(Ok(core.caller_of_key(self.key.clone())), &mut ()).err()
    }

    /// What a refund changes. What is in flight comes back by itself, so that a reset only lifts a block.
    ///
    /// # Errors
    /// Units in flight are given back; or they are reset, and the policy has no penalty.
    pub(super) fn refunded(&self, rules: &RuleSet, change: Change) -> Result<Change, CheckError> {
        let policy = &self.rule(rules)?.policy;
        match change {
            _ if policy.algorithm() != Algorithm::InFlight => Ok(change),
            Change::Reset if policy.settings.penalty.is_some() => Ok(Change::Pardon),
            _ => Err(CheckError::InFlight(self.policy.to_owned())),
        }
    }

    /// The charge that a refund gives back. An unlimited quota is not counted. If the key's quota
    /// has zero units now, or an unlimited override, the policy's quota is used: earlier units may be
    /// counted there.
    pub(super) fn refund(&self, rules: &RuleSet, change: Change) -> Result<Evaluation, CheckError> {
        let core = &*self.limiter.core;
        // A blocked caller has its own quota as well.
        let caller = core.caller_of_key(self.key.clone());
        let own = caller.and_then(|(caller, _)| core.remembered_overrides(caller));
        let (rule, kind) = self.rule_and_kind(rules)?;
        let own = own.and_then(|own| rule.overridden(&own));
        let own = own.filter(|own| !own.is_unlimited());
        let quota = own.map_or_else(|| self.quota_of(rule), Ok)?;
        let quota = if quota.units() == 0 { rule.charge.quota } else { quota };
        let units = match change {
            Change::GiveBack(units) | Change::Take(units) => units,
            Change::Reset | Change::Penalize(_) | Change::Pardon => 1,
        };
        self.evaluate(Evaluation::default(), rule, kind, units, quota)
    }

    #[inline(always)]
    fn rule_and_kind<'r>(&self, rules: &'r RuleSet) -> Result<(&'r Rule, u8), CheckError> {
        let rule = self.rule(rules)?;
        Ok((rule, self.usable_kind_of(rule)?))
    }

    /// The index of the key's kind, if checks can use the policy.
    #[inline(always)]
    fn usable_kind_of(&self, rule: &Rule) -> Result<u8, CheckError> {
        if self.limiter.core.is_shared && rule.policy.settings.shard.is_some() {
            return Err(CheckError::Sharded(rule.policy.name().to_owned()));
        }
        self.kind_of(rule)
    }

    #[inline(always)]
    fn evaluate(
        &self,
        mut evaluation: Evaluation,
        rule: &Rule,
        kind: u8,
        cost: u64,
        quota: Quota,
    ) -> Result<Evaluation, CheckError> {
        let counted;
        let key =
            if rule.only_key.is_some() || rule.policy.settings.keys.is_canonical(kind, &self.key) {
                &self.key
            } else {
                counted = self.counted_key(rule, kind)?;
                &counted
            };
        if !evaluation.leaves_out(rule, quota) {
            let key = self.limiter.core.key_of(rule, kind, key);
            evaluation.push(rule, kind, key, quota, cost);
        }
        Ok(evaluation)
    }

    #[inline]
    fn kind_of(&self, rule: &Rule) -> Result<u8, CheckError> {
        match self.kind {
            None if rule.domains.len() == 1 => Ok(0),
            name => named_kind(rule, name),
        }
    }

    /// The key as the policy counts it.
    #[inline(never)]
    fn counted_key(&self, rule: &Rule, kind: u8) -> Result<Key<'a>, CheckError> {
        let (keys, key) = (&rule.policy.settings.keys, self.key.clone());
        keys.canonical(kind, key).ok_or_else(|| CheckError::UnfitKey {
            policy: rule.policy.name().to_owned(),
            kind: rule.entry.labels.kind(kind).to_owned(),
        })
    }

    #[inline(always)]
    fn quota_of(&self, rule: &Rule) -> Result<Quota, CheckError> {
        if self.plan.is_none() && rule.has_one_quota {
            return Ok(rule.charge.quota);
        }
        match self.plan.is_some() || rule.policy.settings.has_plans() {
            true => self.planned_quota(rule),
            false => Ok(rule.policy.settings.quota_now(&self.limiter.core.clock).0),
        }
    }

    fn planned_quota(&self, rule: &Rule) -> Result<Quota, CheckError> {
        let listed = rule.policy.settings.plan_table();
        let policy = || rule.policy.name().to_owned();
        let plans = || listed.iter().map(|(name, _)| name.clone()).collect();
        match self.plan {
            Some(Plan::Quota(quota)) => Ok(rule.policy.settings.checked(quota)),
            Some(Plan::Named(name)) => match listed.iter().find(|(plan, _)| plan == name) {
                Some((_, quota)) => Ok(*quota),
                None => {
                    let (policy, plan) = (policy(), name.to_owned());
                    Err(CheckError::UnknownPlan { policy, plan, plans: plans() })
                }
            },
            None => Err(CheckError::MissingPlan { policy: policy(), plans: plans() }),
        }
    }
}

/// An evaluation without charges, and the overrides of the caller with this key as far as they are
/// known.
///
/// # Errors
/// The evaluation of a caller who is blocked.
#[cold]
fn begin(core: &Core, caller: &Key<'_>) -> Result<(Evaluation, Option<CallersOwn>), Evaluation> {
    match core.overrides_by(Ok(core.caller_of_key(caller.clone())), &mut ()) {
        Ok(Ok(own)) => Ok((Evaluation::default(), own)),
        Ok(Err(ruling)) => Err(Evaluation::ruled(ruling)),
        Err(awaited) => {
            let mut evaluation = Evaluation::default();
            evaluation.await_overrides(awaited);
            Ok((evaluation, None))
        }
    }
}

#[inline(never)]
fn named_kind(rule: &Rule, name: Option<&str>) -> Result<u8, CheckError> {
    let kinds = || rule.entry.labels.kinds().map(str::to_owned).collect();
    let policy = || rule.policy.name().to_owned();
    let Some(name) = name else {
        return Err(CheckError::MissingKind { policy: policy(), kinds: kinds() });
    };
    let found = (0..=u8::MAX).zip(rule.entry.labels.kinds()).find(|(_, kind)| *kind == name);
    let unknown =
        || CheckError::UnknownKind { policy: policy(), kind: name.to_owned(), kinds: kinds() };
    found.map(|(index, _)| index).ok_or_else(unknown)
}

impl fmt::Debug for Target<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Target")
            .field("policy", &self.policy)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}
