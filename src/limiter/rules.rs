//! The policies of a limiter, and which of them apply to a request: [`RuleSet`].

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::request::Parts;

use super::{
    Labels,
    categories::{AllCategories, Categories, CategoryRules},
    decision::{Entry, Special, Standing},
    overrides::CallersOwn,
    policy_names::PolicyNames,
    trace::Trace,
};
#[cfg(feature = "metrics")]
use crate::metrics::{CountedPolicy, DecisionMetrics};
use crate::{
    algorithm::Algorithm,
    category::Category,
    first_requests::FirstRequests,
    key::{Domain, Fingerprinter},
    matcher::Matcher,
    path::SentPath,
    policy::{Policy, QuotaSource},
    quota::{MAX_WINDOW, Quota},
    store::{Charge, Mode},
    warning::{Code, warn},
};

/// The longest hold. No window is longer, and sums of times do not overflow.
const LONGEST_HOLD: Duration = Duration::from_nanos(MAX_WINDOW);

/// The domain of the fingerprints of policies, which are no keys.
pub(super) const NO_KIND: u64 = 0;

/// All policies of a limiter, and to which requests each applies.
pub(super) struct RuleSet {
    /// No other rule set of the process has this number, and none has 0.
    number: u64,
    pub(super) exempt: Vec<Matcher>,
    /// Watches whether all of the first requests are exempt.
    all_exempt: FirstRequests,
    /// The rules for every request; then those of each category; then those for checks only; then those
    /// that others fall back on.
    rules: Vec<Rule>,
    every_request: Range<u32>,
    check_only: Range<u32>,
    pub(super) categories: AllCategories,
    /// The first rule of each policy, by its name.
    by_name: PolicyNames,
    /// The same by the [`Charge::policy`].
    by_policy: BTreeMap<u64, u32>,
    #[cfg(feature = "metrics")]
    pub(super) metrics: DecisionMetrics,
}

/// The first rule of a policy. It is found at once in one rule set, and by the policy in any other.
#[derive(Clone, Copy, Debug)]
pub(super) struct RuleId {
    rule_set: u64,
    index: u32,
    /// The [`Charge::policy`].
    policy: u64,
}

/// A policy in one category, or for every request.
pub(super) struct Rule {
    pub(super) policy: Policy,
    /// The template of its entries.
    pub(super) entry: Entry,
    /// The template of its charges.
    pub(super) charge: Charge,
    /// The indices of the rules of [`Policy::or_else`].
    fallbacks: Box<[u32]>,
    /// Whether each key has the policy's own quota, at all times.
    pub(super) has_one_quota: bool,
    /// Rules with the same number find the same key in a request.
    pub(super) key_source: u32,
    /// Watches whether all of the first requests lack the policy's first kind of key.
    without_key: FirstRequests,
    /// Watches whether none of the first requests has a plan.
    without_plan: FirstRequests,
    /// Watches whether nothing is metered in the first requests.
    without_meter: FirstRequests,
    /// The domain of each kind of key.
    pub(super) domains: Box<[Domain]>,
    /// The fingerprint of the only key, if all requests count together.
    pub(super) only_key: Option<u128>,
    /// The domain of the key that chooses a cluster's server, if the policy has a shard.
    pub(super) shard_domain: Domain,
    /// The domain of the tenants that take turns, if the policy is fair.
    pub(super) tenant_domain: Domain,
}

/// The policies and exemptions of a [`LimiterBuilder`](super::LimiterBuilder).
#[derive(Debug, Default)]
pub(super) struct Policies {
    pub(super) exempt: Vec<Matcher>,
    pub(super) every_request: Vec<Policy>,
    pub(super) categories: Vec<Category>,
    pub(super) check_only: Vec<Policy>,
}

impl RuleSet {
    /// The rules of policies that have no [problems](super::validate::problems).
    pub(super) fn new(policies: Policies, keys: &Fingerprinter) -> Self {
        let Policies { exempt, every_request, categories, check_only } = policies;
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let mut set = Self {
            number: NEXT.fetch_add(1, Relaxed),
            exempt,
            all_exempt: FirstRequests::default(),
            rules: Vec::new(),
            every_request: 0..0,
            check_only: 0..0,
            categories: AllCategories::new(Vec::new()),
            by_name: PolicyNames::default(),
            by_policy: BTreeMap::new(),
            #[cfg(feature = "metrics")]
            metrics: DecisionMetrics::new([], []),
        };
        // The first rule of each source of keys.
        let sources = &mut BTreeMap::new();
        set.every_request = set.add_all(every_request, Duration::ZERO, keys, sources);
        let categories = categories.into_iter().map(|category| {
            let Category { name, matchers, policies, hold } = category;
            let rules = set.add_all(policies, hold, keys, sources);
            CategoryRules { name, matchers, hold, rules }
        });
        set.categories = AllCategories::new(categories.collect());
        set.check_only = set.add_all(check_only, Duration::ZERO, keys, sources);
        set.add_fallbacks(keys, sources);
        #[cfg(feature = "metrics")]
        {
            set.metrics = set.new_metrics();
        }
        set
    }

    fn add_all(
        &mut self,
        policies: Vec<Policy>,
        hold: Duration,
        keys: &Fingerprinter,
        sources: &mut BTreeMap<Vec<String>, u32>,
    ) -> Range<u32> {
        let first = self.rules.len() as u32;
        for policy in policies {
            let index = self.rules.len() as u32;
            self.by_name.add(policy.name(), index);
            let mut rule = Rule::new(policy, index, hold, keys);
            self.by_policy.entry(rule.charge.policy).or_insert(index);
            if let Some(source) = rule.policy.settings.keys.identity() {
                rule.key_source = *sources.entry(source).or_insert(index);
            }
            self.rules.push(rule);
        }
        first..self.rules.len() as u32
    }

    /// Adds the rules of policies that others fall back on, unless requests or checks have them already.
    fn add_fallbacks(&mut self, keys: &Fingerprinter, sources: &mut BTreeMap<Vec<String>, u32>) {
        let mut index = 0;
        while index < self.rules.len() {
            let policies = self.rules[index].policy.settings.fallbacks.clone();
            let find = |policy: Policy| match self.by_name.get(policy.name()) {
                Some(known) => known,
                None => self.add_all(vec![policy], Duration::ZERO, keys, sources).start,
            };
            let fallbacks = policies.into_iter().map(find).collect();
            self.rules[index].fallbacks = fallbacks;
            index = index.saturating_add(1);
        }
    }

    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    #[inline]
    fn at(&self, index: u32) -> &Rule {
        &self.rules[index as usize]
    }

    /// The first rule of the policy; `None` if it is not here, or has another algorithm.
    #[inline]
    pub(super) fn rule(&self, id: RuleId) -> Option<&Rule> {
        match id.rule_set == self.number {
            true => Some(self.at(id.index)),
            false => self.by_policy.get(&id.policy).map(|index| self.at(*index)),
        }
    }

    /// The first rule of the policy with this name.
    #[inline]
    pub(super) fn by_name(&self, policy: &str) -> Option<&Rule> {
        self.by_name.get(policy).map(|index| self.at(index))
    }

    /// Finds the first rule of the policy with this name again.
    pub(super) fn id_of(&self, policy: &str) -> Option<RuleId> {
        let index = self.by_name.get(policy)?;
        let policy = self.at(index).charge.policy;
        Some(RuleId { rule_set: self.number, index, policy })
    }

    /// The first rule of the policy that makes these charges, also those under an earlier rule set:
    /// it has the same name and the same algorithm.
    pub(super) fn of_charge(&self, charge: &Charge) -> Option<&Rule> {
        self.by_policy.get(&charge.policy).map(|index| self.at(*index))
    }

    /// The first rule of each policy.
    pub(super) fn policies(&self) -> impl Iterator<Item = &Rule> {
        let all = (0..).zip(&self.rules);
        let first =
            all.filter(|(index, rule)| self.by_name.get(rule.policy.name()) == Some(*index));
        first.map(|(_, rule)| rule)
    }

    #[inline]
    pub(super) fn range(&self, range: &Range<u32>) -> &[Rule] {
        &self.rules[range.start as usize..range.end as usize]
    }

    #[inline]
    pub(super) fn for_every_request(&self) -> &[Rule] {
        self.range(&self.every_request)
    }

    /// The rules of a category, by its index, without those for every request.
    #[inline]
    pub(super) fn of_category(&self, category: Option<u32>) -> &[Rule] {
        category.map_or(&[], |index| self.range(&self.categories[index as usize].rules))
    }

    /// The rules for requests; several of them may be of one policy.
    pub(super) fn for_requests(&self) -> impl Iterator<Item = &Rule> {
        let categories = self.categories.iter().flat_map(|category| self.range(&category.rules));
        self.for_every_request().iter().chain(categories)
    }

    /// The rules for checks only.
    pub(super) fn check_only(&self) -> &[Rule] {
        self.range(&self.check_only)
    }

    /// A rule, and then those that it falls back on, in their order.
    pub(super) fn waterfall<'r>(&'r self, head: &'r Rule) -> impl Iterator<Item = &'r Rule> {
        [head].into_iter().chain(head.fallbacks.iter().map(|index| self.at(*index)))
    }

    #[cfg(any(feature = "tracing", feature = "testing"))]
    pub(super) fn category_name(&self, category: Option<u32>) -> Option<&str> {
        self.categories.get(category? as usize).map(|category| &*category.name)
    }

    /// The enforced policies for requests. A policy in several categories comes several times.
    pub(super) fn enforced_for_requests(&self) -> Vec<Policy> {
        let all =
            self.for_requests().flat_map(|rule| self.waterfall(rule)).map(|rule| &rule.policy);
        all.filter(|policy| !policy.settings.dry_run).cloned().collect()
    }

    /// Whether requests need no matching: there are no exemptions and no categories.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.exempt.is_empty() && self.categories.is_empty()
    }

    #[cfg(feature = "metrics")]
    fn new_metrics(&self) -> DecisionMetrics {
        let policy = |rule: &Rule| CountedPolicy {
            name: &rule.entry.labels.policy,
            is_dry_run: rule.policy.settings.dry_run,
        };
        let named = self.categories.iter().map(|category| {
            let all = self.for_every_request().iter().chain(self.range(&category.rules));
            let all = all.flat_map(|rule| self.waterfall(rule));
            (category.name.clone(), all.map(policy).collect())
        });
        DecisionMetrics::new(self.policies().map(policy), named)
    }

    /// The categories of a request; `None` if the request is exempt.
    pub(super) fn categories_of(
        &self,
        request: &Parts,
        trace: &mut impl Trace,
    ) -> Option<Categories> {
        let path = SentPath::from_request(request);
        if !self.exempt.is_empty() {
            let is_exempt = self.exempt.iter().any(|matcher| {
                let matches = matcher.surely_matches(request, &path);
                trace.exemption(matcher, matches);
                matches
            });
            self.all_exempt.watch(!is_exempt, || {
                warn(Code::AllExempt, "", || {
                    format!(
                        "the first {} requests were all exempt, and nothing was counted; write \
                         exemptions that match less, unless these are health checks",
                        FirstRequests::MANY
                    )
                });
            });
            if is_exempt {
                return None;
            }
        }
        let categories = self.categories.of(request, &path, trace);
        Some(categories)
    }
}

impl Rule {
    fn new(policy: Policy, index: u32, hold: Duration, keys: &Fingerprinter) -> Self {
        let labels = Labels::intern(&policy);
        let lasts = policy.algorithm() == Algorithm::InFlight;
        let hold = policy.settings.hold.unwrap_or(hold).min(LONGEST_HOLD);
        let policy_id = keys.fingerprint(NO_KIND, &policy.settings.counts_name().into()) as u64;
        let domains = keys.domains(labels.kinds());
        let only = domains.first().filter(|_| labels.is_global);
        Self {
            entry: Entry {
                labels,
                key_kind: 0,
                standing: Standing::Passes,
                unreadable: None,
                replicas: 1,
                special: Special::new(hold, lasts, policy.settings.settles_at_end),
            },
            charge: Charge {
                mode: if policy.settings.dry_run { Mode::DryRun } else { Mode::Enforced },
                is_settled: policy.settings.is_settled() || lasts,
                lease: policy.settings.lease,
                has_penalty: policy.settings.penalty.is_some(),
                ..Charge::new(policy_id, 0, policy.algorithm(), policy.quota())
            },
            fallbacks: Box::default(),
            has_one_quota: policy.settings.has_one_quota(),
            key_source: index,
            without_key: FirstRequests::default(),
            without_plan: FirstRequests::default(),
            without_meter: FirstRequests::default(),
            only_key: only.map(|domain| keys.fingerprint(domain.key, &"".into())),
            domains,
            shard_domain: keys.domain(&policy.settings.shard_kind()),
            tenant_domain: keys.domain(&policy.settings.tenant_kind()),
            policy,
        }
    }

    /// The quota that a caller has instead of the policy's. What another release or a program of the
    /// user's has set may not fit the policy: then it is a quota of 0 units.
    #[cold]
    pub(super) fn overridden(&self, own: &CallersOwn) -> Option<Quota> {
        let settings = &self.policy.settings;
        own.quota(self.policy.name()).map(|quota| settings.checked(quota))
    }

    /// Whether a request that has used up the quota draws on another.
    #[inline]
    pub(super) fn has_fallback(&self) -> bool {
        !self.fallbacks.is_empty()
    }

    /// The rule's charge of a key in the waterfall of `head`, which says how long requests are held.
    pub(super) fn member(
        &self,
        head: &Self,
        key_kind: u8,
        (key, shard): (u128, u64),
        quota: Quota,
        cost: u64,
    ) -> (Entry, Charge) {
        let special = self.entry.special.with_hold_of(head.entry.special);
        let entry = Entry { key_kind, special, ..self.entry };
        (entry, Charge { key, shard, quota, cost, ..self.charge })
    }

    /// The domain of the keys of this kind.
    #[inline]
    pub(super) fn domain(&self, kind: u8) -> Domain {
        self.domains[usize::from(kind)]
    }

    /// Warns if none of the first requests has the policy's first kind of key.
    #[inline]
    pub(super) fn watch_key(&self, is_first_kind: bool) {
        let keys = &self.policy.settings.keys;
        self.without_key.watch(is_first_kind, || keys.warn_never_found(self.policy.name()));
    }

    /// Whether a request has no plan, as long as this is watched. The first request with a plan ends the watch.
    #[inline]
    pub(super) fn lacks_plan(&self, source: QuotaSource<'_>) -> bool {
        if self.without_plan.are_over() || !self.policy.settings.has_plans() {
            return false;
        }
        if source.is_of_request() {
            self.without_plan.end();
        }
        !source.is_of_request()
    }

    /// Counts a request without a plan. Warns if none of the first requests has one.
    #[cold]
    pub(super) fn count_without_plan(&self) {
        self.without_plan.watch(false, || self.policy.settings.warn_plan_never_found());
    }

    /// Warns if nothing was metered in any of the first requests whose cost is known at their end.
    #[inline]
    pub(super) fn watch_meter(&self, is_metered: bool) {
        self.without_meter.watch(is_metered, || warn_never_metered(self.policy.name()));
    }

    #[cfg(test)]
    pub(super) fn for_test(policy: Policy) -> Self {
        Self::new(policy, 0, Duration::ZERO, &Fingerprinter::undisclosed())
    }
}

#[cold]
fn warn_never_metered(policy: &str) {
    warn(Code::NeverMetered, policy, || {
        format!(
            "policy `{policy}`: no handler has added anything to the `Meter` of its first {} requests, so \
             that each has cost its estimate. Let the handler take the `Meter` from the request, and add \
             what the request uses; or leave `.settle_at_end()` out",
            FirstRequests::MANY
        )
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quota::Quota;

    #[test]
    fn a_request_is_held_for_no_longer_than_the_longest_window() {
        let policy = Policy::fixed_window("p", Quota::per_hour(1));
        assert_eq!(
            Rule::for_test(policy.clone().hold(Duration::MAX)).entry.special.hold(),
            MAX_WINDOW
        );
        assert_eq!(Rule::for_test(policy.hold(LONGEST_HOLD)).entry.special.hold(), MAX_WINDOW);
    }
}
