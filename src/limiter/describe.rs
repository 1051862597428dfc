//! Describes the limits as data, from the settings by which the limiter decides.

use std::time::Duration;

use super::{
    Core,
    decision::Decision,
    evaluation::Evaluation,
    rules::{NO_KIND, Rule, RuleSet},
};
use crate::{
    describe::{CategoryDescription, Description, PolicyDescription, Requests},
    policy::Policy,
    quota::Quota,
    store::MemoryStore,
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
    of_categories.chain([&[][..]]).find_map(|of_category| {
        let all = rules.for_every_request().iter().chain(of_category);
        let limited = all.filter_map(|rule| Some((rule, example_quota(&rule.policy)?)));
        use_up(core, &limited.collect::<Vec<_>>())
    })
}

/// The decision by these rules when the quota of the first enforced one is used up.
fn use_up(core: &Core, limited: &[(&Rule, Quota)]) -> Option<Decision> {
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
    for (rule, quota) in limited {
        one_more.push(rule, 0, (key, key as u64), *quota, 1);
    }
    decide(one_more).filter(|decision| !decision.is_allowed())
}

/// The quota of the first plan, or else of the policy; `None` if that is unlimited.
fn example_quota(policy: &Policy) -> Option<Quota> {
    let plans = policy.settings.plan_table().iter().map(|(_, quota)| *quota);
    plans.chain([policy.quota()]).find(|quota| !quota.is_unlimited())
}
