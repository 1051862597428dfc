//! Describes the limits as data, from the settings by which the limiter decides.

use std::{borrow::Cow, time::Duration};

use http::StatusCode;

use super::{
    Core,
    categories::CategoryRules,
    decision::{Decision, Entry, Reason, Ruling, Standing},
    evaluation::Evaluation,
    overrides::OnSourceFailure,
    rules::{NO_KIND, Rule, RuleSet},
};
use crate::{
    describe::{CategoryDescription, Description, PolicyDescription, Requests},
    policy::{OnStoreFailure, Policy, WithoutKey},
    quota::Quota,
    store::{Charge, MemoryStore},
};

pub(super) fn describe(core: &Core) -> Description {
    let rules = &*core.rules();
    let categories = rules.categories.iter().map(|category| CategoryDescription {
        name: category.name.clone(),
        requests: category.matchers.iter().map(Requests::from).collect(),
        policies: describe_all(rules, rules.range(&category.rules)),
    });
    Description {
        title: "Rate limits".to_owned(),
        every_request: describe_all(rules, rules.for_every_request()),
        categories: categories.collect(),
        check_only: describe_all(rules, rules.check_only()),
        exempt: rules.exempt.iter().map(Requests::from).collect(),
        responses: None,
    }
}

/// Each policy, and behind it those that it falls back on.
fn describe_all(all: &RuleSet, rules: &[Rule]) -> Vec<PolicyDescription> {
    let mut described: Vec<PolicyDescription> = Vec::new();
    for head in rules {
        let hold = Duration::from_nanos(head.entry.special.hold());
        for rule in all.waterfall(head) {
            if described.iter().all(|known| known.name != rule.policy.name()) {
                described.push(PolicyDescription::new(&rule.policy, hold));
            }
        }
    }
    described
}

/// An example of a refusal: a caller has used up the quota of the first policy that refuses
/// requests, in the first category that has one. The counts are separate, and of the first kind of
/// key and the first plan. `None` if no request is ever refused.
pub(super) fn example_refusal(core: &Core) -> Option<Decision> {
    let rules = &*core.rules();
    let of_categories = rules.categories.iter().map(|category| rules.range(&category.rules));
    of_categories.chain([&[][..]]).find_map(|of_category| used_up(core, &all(rules, of_category)))
}

/// An example of each refusal that a request may get: first of those without a category, then of those
/// of each category, whose name comes with it.
pub(super) fn example_refusals(core: &Core) -> Vec<(Option<String>, Decision)> {
    let rules = &*core.rules();
    let of_category = |category: &CategoryRules| {
        (Some(category.name.clone()), all(rules, rules.range(&category.rules)))
    };
    let none = (None, all(rules, &[]));
    let mut examples = Vec::new();
    for (name, rules_of) in std::iter::once(none).chain(rules.categories.iter().map(of_category)) {
        let decisions = [
            used_up(core, &rules_of),
            without_key(core, rules, &rules_of, None),
            without_key(core, rules, &rules_of, Some(StatusCode::BAD_REQUEST)),
            without_store(core, rules, &rules_of),
        ];
        examples.extend(decisions.into_iter().flatten().map(|decision| (name.clone(), decision)));
    }
    examples
}

/// The rules for every request, and then those of a category.
fn all<'r>(rules: &'r RuleSet, of_category: &'r [Rule]) -> Vec<&'r Rule> {
    rules.for_every_request().iter().chain(of_category).collect()
}

/// The decision when a request lacks the key of an enforced policy, or when the key is unreadable and
/// refused with this status. `None` if no caller can cause it: an address is missing only if the server
/// is set up wrongly, and is never unreadable.
fn without_key(
    core: &Core,
    rules: &RuleSet,
    rules_of: &[&Rule],
    status: Option<StatusCode>,
) -> Option<Decision> {
    let refuses = |rule: &&Rule| {
        let keys = &rule.policy.settings.keys;
        let is_address = |kind: Cow<'_, str>| kind == "ip";
        !rule.policy.settings.dry_run
            && match status {
                None => {
                    keys.without_key() == Some(WithoutKey::Refuse) && !keys.kinds().any(is_address)
                }
                Some(_) => !keys.unreadable_as_missing && !keys.kinds().all(is_address),
            }
    };
    let mut all = rules_of.iter().flat_map(|head| rules.waterfall(head));
    let rule = all.find(refuses)?;
    let reason = if status.is_some() { Reason::UnreadableKey } else { Reason::MissingKey };
    let key_kind = match status {
        None => 0,
        Some(_) => (0..).zip(rule.policy.settings.keys.kinds()).find(|(_, kind)| kind != "ip")?.0,
    };
    let entry =
        Entry { key_kind, standing: Standing::Refuses(reason), unreadable: status, ..rule.entry };
    let mut evaluation = Evaluation::default();
    evaluation.record.insert(entry, Charge { cost: 0, ..rule.charge });
    Some(evaluation.into_uncounted_decision(core.clock.now(), Duration::ZERO))
}

/// The decision when the store, or the source of overrides, does not answer, if the request is refused
/// then.
fn without_store(core: &Core, rules: &RuleSet, rules_of: &[&Rule]) -> Option<Decision> {
    let source = core.overrides.source.as_ref();
    let refuses = |rule: &Rule| rule.policy.settings.on_store_failure == OnStoreFailure::Refuse;
    let all_refuse =
        |head: &&&Rule| !head.policy.settings.dry_run && rules.waterfall(head).all(refuses);
    let evaluation = if let Some(rule) = rules_of.iter().find(all_refuse) {
        let mut evaluation = Evaluation::default();
        evaluation.push(rule, 0, (0, 0), rule.charge.quota, 1);
        evaluation.record.refuse_without_store(0);
        evaluation
    } else if source.is_some_and(|source| source.settings.on_failure == OnSourceFailure::Refuse) {
        Evaluation::ruled(Ruling::SourceUnavailable)
    } else {
        return None;
    };
    Some(evaluation.into_decision(core.clock.now(), Duration::ZERO))
}

/// The decision by these rules when the quota of the first enforced one is used up.
fn used_up(core: &Core, rules_of: &[&Rule]) -> Option<Decision> {
    let limited = rules_of.iter().filter_map(|rule| Some((*rule, example_quota(&rule.policy)?)));
    let limited: Vec<_> = limited.collect();
    let enforced = |(rule, _): &&(&Rule, Quota)| !rule.policy.settings.dry_run;
    let (first, quota) = limited.iter().find(enforced)?;
    let (store, now) = (MemoryStore::with_max_keys(1_024), core.clock.now());
    let key = core.keys.fingerprint(NO_KIND, &"example".into());
    // The store in memory answers at once.
    let decide = |evaluation: Evaluation| evaluation.decide_at_once(&store, now, |_| {}).ok();
    let mut all_of_it = Evaluation::default();
    let capacity = first.policy.algorithm().capacity(quota);
    all_of_it.push(first, 0, (key, key as u64), *quota, capacity);
    decide(all_of_it).map(drop)?;
    let mut one_more = Evaluation::default();
    for (rule, quota) in &limited {
        one_more.push(rule, 0, (key, key as u64), *quota, 1);
    }
    decide(one_more).filter(|decision| !decision.is_allowed())
}

/// The quota of the first plan, or else of the policy; `None` if that is unlimited.
fn example_quota(policy: &Policy) -> Option<Quota> {
    let plans = policy.settings.plan_table().iter().map(|(_, quota)| *quota);
    plans.chain([policy.quota()]).find(|quota| !quota.is_unlimited())
}
