use std::{ops::Range, time::Duration};

use super::{Inner, Limiter, NO_KIND};
use crate::{
    describe::{CategoryDescription, Description, PolicyDescription, Requests},
    limiter::Decision,
    policy::Policy,
    quota::Quota,
    store::{MemoryStore, Store, Usages},
};

impl Limiter {
    /// What it holds requests to, as data; see the module [`describe`](crate::describe).
    #[must_use]
    pub fn describe(&self) -> Description {
        let inner = &*self.inner;
        let of_requests = inner.categories.last().map_or(&inner.every_request, |last| &last.rules);
        let direct = of_requests.end..inner.rules.len() as u32;
        let categories = inner.categories.iter().map(|category| CategoryDescription {
            name: category.name.clone(),
            requests: category.matchers.iter().map(Requests::from).collect(),
            policies: inner.described(&category.rules),
        });
        Description {
            title: "Rate limits".to_owned(),
            every_request: inner.described(&inner.every_request),
            categories: categories.collect(),
            direct: inner.described(&direct),
            exempt: inner.exempt.iter().map(Requests::from).collect(),
            responses: None,
        }
    }

    /// What is decided about a caller who has used up a policy's quota: the first that refuses
    /// requests, of the first category that has one. It is charged to counts of its own, those of
    /// the first kind of key and the first plan. `None` where no request is ever refused.
    pub(crate) fn example_refusal(&self) -> Option<Decision> {
        let inner = &*self.inner;
        let of_categories = inner.categories.iter().map(|category| category.rules.clone());
        let mut all = of_categories.chain(std::iter::once(0..0));
        all.find_map(|rules| inner.used_up(inner.every_request.clone().chain(rules)))
    }
}

impl Inner {
    fn described(&self, places: &Range<u32>) -> Vec<PolicyDescription> {
        let rules = places.clone().map(|place| self.rule(place));
        rules.map(|rule| PolicyDescription::new(&rule.policy, rule.hold)).collect()
    }

    /// What the rules at `places` say when the first of them is used up.
    fn used_up(&self, places: impl Iterator<Item = u32> + Clone) -> Option<Decision> {
        let quota = |place: u32| Some((place, example_quota(&self.rule(place).policy)?));
        let limited = places.filter_map(quota);
        let enforced = |(place, _): &(u32, Quota)| !self.rule(*place).policy.settings.dry_run;
        let (first, quota) = limited.clone().find(enforced)?;
        let capacity = self.rule(first).policy.algorithm().capacity(&quota);

        let (store, now) = (MemoryStore::with_max_keys(1_024), self.clock.now());
        let key = self.fingerprints.fingerprint(NO_KIND, &"example".into());
        let ask = |decision: &mut Decision, place, quota, cost| {
            self.rule(place).ask(decision, 0, (key, key as u64), quota, cost);
        };
        let decide = |mut decision: Decision| {
            let charges = decision.charges();
            let mut usages = Usages::unknown(charges.len());
            // In memory the answer is there at once.
            let charged = store.charge_at_once(&charges, &mut usages, now);
            let answered = charged && decision.answer(&usages);
            decision.finish(now, Duration::ZERO);
            answered.then_some(decision)
        };
        let mut all_of_it = Decision::new();
        ask(&mut all_of_it, first, quota, capacity);
        decide(all_of_it)?;
        let mut one_more = Decision::new();
        limited.for_each(|(place, quota)| ask(&mut one_more, place, quota, 1));
        decide(one_more).filter(|decision| !decision.is_allowed())
    }
}

/// The quota of the first plan, or the policy's own; `None` where it is unlimited.
fn example_quota(policy: &Policy) -> Option<Quota> {
    let plans = policy.settings.plan_table().iter().map(|(_, quota)| *quota);
    plans.chain([policy.quota()]).find(|quota| !quota.is_unlimited())
}
