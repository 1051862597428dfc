use std::{
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Asked, Limiter, Rule};
use crate::{
    decision::Decision,
    describe::{CategoryDescription, Description, PolicyDescription, Requests},
    policy::Policy,
    quota::Quota,
    store::{MemoryStore, Store},
};

impl Limiter {
    /// What it holds requests to, as data; see the module [`describe`](crate::describe).
    #[must_use]
    pub fn describe(&self) -> Description {
        let inner = &*self.inner;
        let described = |rules: &[Rule]| -> Vec<_> {
            rules.iter().map(|rule| PolicyDescription::new(&rule.policy, rule.hold)).collect()
        };
        let categories = inner.categories.iter().map(|category| CategoryDescription {
            name: category.name.clone(),
            requests: category.matchers.iter().map(Requests::from).collect(),
            policies: described(&category.rules),
        });
        let of_requests: Vec<_> = self.rules_of_requests().map(|rule| &rule.policy).collect();
        let mut direct: Vec<Rule> = inner.by_name.values().cloned().collect();
        direct.retain(|rule| !of_requests.iter().any(|policy| policy.is(&rule.policy)));
        direct.sort_by(|one, other| one.policy.name().cmp(other.policy.name()));
        Description {
            title: "Rate limits".to_owned(),
            every_request: described(&inner.every_request),
            categories: categories.collect(),
            direct: described(&direct),
            exempt: inner.exempt.iter().map(Requests::from).collect(),
            responses: None,
        }
    }

    /// What is decided about a caller who has used up a policy's quota: the first that refuses
    /// requests, of the first category that has one. It is charged to counts of its own, those of
    /// the first kind of key and the first plan. `None` where no request is ever refused.
    pub(crate) fn example_refusal(&self) -> Option<Decision> {
        let inner = &*self.inner;
        let of_categories = inner.categories.iter().map(|category| &*category.rules);
        let mut all = of_categories.chain([&[][..]]);
        all.find_map(|rules| self.used_up(inner.every_request.iter().chain(rules)))
    }

    /// What `rules` say when the first of them is used up.
    fn used_up<'a>(&self, rules: impl Iterator<Item = &'a Rule> + Clone) -> Option<Decision> {
        let limited = rules.filter_map(|rule| Some((rule, example_quota(&rule.policy)?)));
        let (first, quota) = limited.clone().find(|(rule, _)| !rule.policy.is_dry_run())?;
        let (store, now) = (MemoryStore::with_max_keys(1_024), self.inner.clock.now());
        let key = self.inner.fingerprints.fingerprint(0, &"example".into());
        let decide = |mut asked: Asked| {
            let mut usages = store.charge(&asked.charges, now);
            match Pin::new(&mut usages).poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(usages) => Some(asked.decide(&usages, now, Duration::ZERO)),
                Poll::Pending => None,
            }
        };
        let mut all_of_it = Asked::default();
        all_of_it.charge(first, 0, key, quota, first.policy.algorithm().capacity(&quota));
        decide(all_of_it)?;
        let mut one_more = Asked::default();
        for (rule, quota) in limited {
            one_more.charge(rule, 0, key, quota, 1);
        }
        decide(one_more)
    }
}

/// The quota of the first plan, or the policy's own; `None` where it is unlimited.
fn example_quota(policy: &Policy) -> Option<Quota> {
    let plans = policy.listed_plans().iter().map(|(_, quota)| *quota);
    plans.chain([policy.quota()]).find(|quota| !quota.is_unlimited())
}
