//! What a request charges: which policies apply, the key and the quota of each, and the cost.

use http::{StatusCode, request::Parts};
use smallvec::SmallVec;

use super::{Evaluation, Members, key_read::KeyRead};
use crate::{
    limiter::{
        Core,
        decision::{Entry, Reason, Standing},
        overrides::CallersOwn,
        rules::{Rule, RuleSet},
        trace::Trace,
    },
    policy::{QuotaSource, WithoutKey},
    quota::Quota,
    store::Charge,
};

/// What a policy has to count of a request.
enum Counted {
    /// A charge of this kind of key.
    Charge { kind: u8, key: (u128, u64), quota: Quota, cost: u64 },
    /// The quota is unlimited.
    Unlimited,
    /// The key is missing, and the policy skips such requests.
    Skipped,
    /// The key is missing or, with a status, unreadable.
    NoKey { kind: u8, status: Option<StatusCode>, quota: Quota },
}

impl Evaluation {
    /// The charges of all policies that apply to a request.
    #[inline]
    pub(in crate::limiter) fn of_request(core: &Core, rules: &RuleSet, request: &Parts) -> Self {
        Self::of_request_traced(core, rules, request, &mut ())
    }

    /// The same, step by step.
    #[inline]
    pub(in crate::limiter) fn of_request_traced(
        core: &Core,
        rules: &RuleSet,
        request: &Parts,
        trace: &mut impl Trace,
    ) -> Self {
        let mut evaluation = Self::default();
        let own = match core.overrides.table.can_skip() {
            true => None,
            false => match core.overrides_of(request, trace) {
                Ok(Ok(own)) => own,
                Err(awaited) => {
                    evaluation.await_overrides(awaited);
                    None
                }
                Ok(Err(ruling)) => {
                    evaluation = Self::ruled(ruling);
                    let categories = rules.categories_of(request, trace);
                    evaluation.record.category = categories.and_then(|categories| categories.first);
                    return evaluation;
                }
            },
        };
        let categories = match rules.is_plain() {
            true => Default::default(),
            false => match rules.categories_of(request, trace) {
                Some(categories) => categories,
                None => return evaluation,
            },
        };
        evaluation.record.category = categories.first;
        let mut read = None;
        for rule in rules.for_every_request() {
            evaluation.add_rule(core, rules, rule, request, own.as_ref(), &mut read, trace);
        }
        for rule in rules.of_category(categories.first) {
            evaluation.add_rule(core, rules, rule, request, own.as_ref(), &mut read, trace);
        }
        if !categories.others.is_empty() {
            evaluation.add_others(core, rules, &categories.others, request, own.as_ref(), trace);
        }
        evaluation
    }

    /// The charges, of one unit each, of all policies that find a key in a request, whatever its
    /// category. Global policies and unlimited quotas are left out.
    pub(in crate::limiter) fn of_all_policies(
        core: &Core,
        rules: &RuleSet,
        request: &Parts,
    ) -> Self {
        let mut evaluation = Self::default();
        let own = match core.overrides.table.can_skip() {
            true => None,
            false => match core.overrides_by(core.caller_of(request, &mut ()), &mut ()) {
                Ok(overridden) => overridden.unwrap_or_default(),
                Err(mut awaited) => {
                    awaited.ignores_block = true;
                    evaluation.await_overrides(awaited);
                    None
                }
            },
        };
        for head in rules.for_requests() {
            let mut members = Members::new();
            for rule in rules.waterfall(head) {
                let is_known = |charge: &Charge| charge.policy == rule.charge.policy;
                let own_quota = own.as_ref().and_then(|own| rule.overridden(own));
                let quota = own_quota
                    .unwrap_or_else(|| rule.policy.settings.quota_of(request, &core.clock, |_| {}));
                if rule.policy.settings.keys.is_global
                    || evaluation.leaves_out(rule, quota)
                    || evaluation.record.charges.iter().any(is_known)
                {
                    continue;
                }
                let KeyRead { kind, found, .. } = KeyRead::new(core, rule, request, &mut ());
                if let Ok((key, shard)) = found
                    && let Ok(shard) = core.shard_of(rule, request, shard)
                {
                    members.push(rule.member(head, kind, (key, shard), quota, 1));
                }
            }
            evaluation.add_members(members);
        }
        evaluation.only_peek();
        evaluation
    }

    /// Adds the policies of further categories, so that the request counts in each category, and once
    /// under each policy. Where its categories share policies, it draws on one that they share.
    #[cold]
    fn add_others(
        &mut self,
        core: &Core,
        rules: &RuleSet,
        others: &[u32],
        request: &Parts,
        own: Option<&CallersOwn>,
        trace: &mut impl Trace,
    ) {
        let mut read = None;
        for rule in others.iter().flat_map(|other| rules.of_category(Some(*other))) {
            let policies: SmallVec<[u64; 4]> =
                rules.waterfall(rule).map(|rule| rule.charge.policy).collect();
            if !self.record.narrow_waterfalls(&policies) {
                self.add_rule(core, rules, rule, request, own, &mut read, trace);
            }
        }
    }

    #[inline(always)]
    #[expect(
        clippy::too_many_arguments,
        reason = "a struct of them would be written for each rule"
    )]
    fn add_rule(
        &mut self,
        core: &Core,
        rules: &RuleSet,
        rule: &Rule,
        request: &Parts,
        own: Option<&CallersOwn>,
        read: &mut Option<KeyRead>,
        trace: &mut impl Trace,
    ) {
        match rule.has_fallback() {
            true => self.add_waterfall(core, rules, rule, request, own, trace),
            false => self.add_one(core, rule, request, own, read, trace),
        }
    }

    fn add_one(
        &mut self,
        core: &Core,
        rule: &Rule,
        request: &Parts,
        own: Option<&CallersOwn>,
        read: &mut Option<KeyRead>,
        trace: &mut impl Trace,
    ) {
        match self.counted(core, rule, request, own, read, trace) {
            Counted::Charge { kind, key, quota, cost } => self.push(rule, kind, key, quota, cost),
            Counted::NoKey { kind, status, quota } => self.refuse_key(rule, kind, status, quota),
            Counted::Unlimited | Counted::Skipped => {}
        }
    }

    /// Adds the policies of a waterfall. One that skips the request is left out.
    #[cold]
    #[inline(never)]
    fn add_waterfall(
        &mut self,
        core: &Core,
        rules: &RuleSet,
        head: &Rule,
        request: &Parts,
        own: Option<&CallersOwn>,
        trace: &mut impl Trace,
    ) {
        let (mut members, mut read) = (Members::new(), None);
        for rule in rules.waterfall(head) {
            match self.counted(core, rule, request, own, &mut read, trace) {
                Counted::Charge { kind, key, quota, cost } => {
                    members.push(rule.member(head, kind, key, quota, cost));
                }
                Counted::NoKey { kind, status, quota } => {
                    self.refuse_key(rule, kind, status, quota);
                }
                Counted::Unlimited => return,
                Counted::Skipped => {}
            }
        }
        self.add_members(members);
    }

    #[inline(always)]
    fn counted(
        &self,
        core: &Core,
        rule: &Rule,
        request: &Parts,
        own: Option<&CallersOwn>,
        read: &mut Option<KeyRead>,
        trace: &mut impl Trace,
    ) -> Counted {
        let settings = &rule.policy.settings;
        trace.policy(rule);
        let mut lacks_plan = false;
        let quota = match own.and_then(|own| rule.overridden(own)) {
            Some(own_quota) => {
                trace.quota_source(rule, None);
                own_quota
            }
            None if rule.has_one_quota => {
                trace.quota_source(rule, Some(QuotaSource::Policy));
                rule.charge.quota
            }
            None => settings.quota_of(request, &core.clock, |from| {
                lacks_plan = rule.lacks_plan(from);
                trace.quota_source(rule, Some(from));
            }),
        };
        trace.quota(quota);
        if self.leaves_out(rule, quota) {
            return Counted::Unlimited;
        }
        let &mut KeyRead { kind, found, .. } = match read {
            Some(read) if read.source == rule.key_source => read,
            _ => read.insert(KeyRead::new(core, rule, request, trace)),
        };
        trace.key_searched();
        rule.watch_key(kind == 0 && found != Err(None));
        // A request without the policy's first key is not counted: its caller may rightly have no plan.
        if lacks_plan && kind == 0 && found.is_ok() {
            rule.count_without_plan();
        }
        let found = found.and_then(|(key, shard)| {
            let shard = core.shard_of(rule, request, shard).map_err(Some)?;
            Ok((key, shard))
        });
        match found {
            Ok(key) => Counted::Charge { kind, key, quota, cost: settings.cost_of(request) },
            Err(None) if settings.keys.without_key() == Some(WithoutKey::Skip) => {
                trace.skipped();
                Counted::Skipped
            }
            Err(status) => Counted::NoKey { kind, status, quota },
        }
    }

    /// Adds a policy that refuses the request for its key: it is missing or, with a status, unreadable.
    #[cold]
    fn refuse_key(&mut self, rule: &Rule, kind: u8, status: Option<StatusCode>, quota: Quota) {
        let reason = status.map_or(Reason::MissingKey, |_| Reason::UnreadableKey);
        let standing = Standing::Refuses(reason);
        let entry = Entry { key_kind: kind, standing, unreadable: status, ..rule.entry };
        self.record.insert(entry, Charge { quota, cost: 0, ..rule.charge });
    }
}
