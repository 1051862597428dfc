//! What is seen while a request is evaluated to be explained: [`Steps`].

use http::request::Parts;

use super::{
    CallerExplanation, ExpectedVerdict, Explanation, PolicyExplanation, PolicyVerdict, QuotaFrom,
    TriedKey, TriedMatcher,
};
use crate::{
    clock::Now,
    describe::Requests,
    key::{Caller, Extracted, KeyExtractor},
    limiter::{
        categories::{Categories, CategoryRules},
        overrides::CallersOwn,
        rules::Rule,
        trace::Trace,
    },
    matcher::{Kind, Matcher},
    policy::QuotaSource,
    quota::Quota,
};

/// The trace that becomes an [`Explanation`].
pub(super) struct Steps<'r> {
    request: &'r Parts,
    now: Now,
    explanation: Explanation,
    /// The number under which each of the explained policies is counted.
    counted_as: Vec<u64>,
    /// The keys of the last search.
    searched: Vec<TriedKey>,
    own: Option<CallersOwn>,
}

impl<'r> Steps<'r> {
    pub(super) fn new(now: Now, request: &'r Parts) -> Self {
        let explanation = Explanation {
            verdict: ExpectedVerdict::Admitted,
            tried: Vec::new(),
            exempt: false,
            category: None,
            other_categories: Vec::new(),
            caller: None,
            addresses: Vec::new(),
            policies: Vec::new(),
            without_store: false,
        };
        let (counted_as, searched) = (Vec::new(), Vec::new());
        Self { request, now, explanation, counted_as, searched, own: None }
    }

    /// What was seen, and the number under which each policy is counted.
    pub(super) fn end(self) -> (Explanation, Vec<u64>) {
        (self.explanation, self.counted_as)
    }

    fn walk(&mut self, extractor: &dyn KeyExtractor) {
        if let Some(walk) = extractor.address_walk(self.request)
            && !self.explanation.addresses.contains(&walk)
        {
            self.explanation.addresses.push(walk);
        }
    }

    /// How the addresses by which a matcher matches are found.
    fn walk_by(&mut self, by: &Matcher) {
        match &by.kind {
            Kind::ClientIp { client_ip, .. } => self.walk(client_ip),
            Kind::Key { extractor, .. } => self.walk(&**extractor),
            Kind::All(parts) | Kind::Any(parts) => {
                parts.iter().for_each(|part| self.walk_by(part));
            }
            Kind::Not(part) => self.walk_by(part),
            Kind::Route { .. } | Kind::Closure(_) => {}
        }
    }

    fn tried(
        &mut self,
        category: Option<&str>,
        by: &Matcher,
        in_all_readings: bool,
        matches: bool,
    ) {
        self.walk_by(by);
        let (category, requests) = (category.map(str::to_owned), Requests::from(by));
        self.explanation.tried.push(TriedMatcher { category, requests, in_all_readings, matches });
    }

    /// The caller's override for a policy.
    fn override_of(&self, policy: &str) -> QuotaFrom {
        let left = self.own.as_ref().and_then(|own| own.quota_lasts(policy));
        let Some(left) = left else { return QuotaFrom::OverrideSource };
        let mut overrides = self.explanation.caller.iter().flat_map(|caller| &caller.overrides);
        let own = overrides.find(|own| own.policy() == Some(policy));
        let (author, reason) = own.map(|own| (own.author.clone(), own.reason.clone())).unzip();
        QuotaFrom::Override { left, author: author.flatten(), reason: reason.flatten() }
    }

    fn policy(&mut self) -> Option<&mut PolicyExplanation> {
        self.explanation.policies.last_mut()
    }
}

impl Trace for Steps<'_> {
    fn watches_all(&self) -> bool {
        true
    }

    fn exemption(&mut self, matcher: &Matcher, matches: bool) {
        self.tried(None, matcher, false, matches);
        self.explanation.exempt |= matches;
    }

    fn category(&mut self, of: &CategoryRules, by: &Matcher, as_sent: bool, matches: bool) {
        self.tried(Some(&of.name), by, !as_sent, matches);
    }

    fn categories(&mut self, all: &[CategoryRules], found: &Categories) {
        let name = |index: u32| all.get(index as usize).map(|category| category.name.clone());
        self.explanation.category = found.first.and_then(name);
        self.explanation.other_categories =
            found.others.iter().filter_map(|index| name(*index)).collect();
    }

    fn caller(&mut self, caller: &Caller, extracted: &Extracted<'_>) {
        self.walk(&*caller.extractor);
        let key = TriedKey::new(caller.extractor.kind(), extracted);
        self.explanation.caller = Some(CallerExplanation {
            key,
            blocked: None,
            blocked_by_source: false,
            overrides: Vec::new(),
            source_unavailable: false,
        });
    }

    fn source_unavailable(&mut self) {
        self.explanation.caller.iter_mut().for_each(|caller| caller.source_unavailable = true);
    }

    fn overrides(&mut self, own: Option<&CallersOwn>) {
        self.own = own.cloned();
        if let Some(caller) = &mut self.explanation.caller {
            caller.blocked = own.and_then(CallersOwn::blocked_for);
            caller.blocked_by_source = own.is_some_and(CallersOwn::is_blocked_by_source);
            caller.overrides = own.into_iter().flat_map(|own| own.views(self.now)).collect();
        }
    }

    fn policy(&mut self, rule: &Rule) {
        self.explanation.policies.push(PolicyExplanation::new(rule));
        self.counted_as.push(rule.charge.policy);
    }

    fn quota_source(&mut self, rule: &Rule, from: Option<QuotaSource<'_>>) {
        let from = match from {
            Some(from) => from.into(),
            None => self.override_of(rule.policy.name()),
        };
        self.policy().into_iter().for_each(|policy| policy.quota_from = from.clone());
    }

    fn quota(&mut self, quota: Quota) {
        if let Some(policy) = self.policy() {
            policy.quota = quota;
            if quota.is_unlimited() {
                policy.verdict = PolicyVerdict::Unlimited;
            }
        }
    }

    fn key_search(&mut self) {
        self.searched.clear();
    }

    fn key(&mut self, rule: &Rule, kind: u8, extracted: &Extracted<'_>) {
        if let Some(extractor) = rule.policy.settings.keys.extractors.get(usize::from(kind)) {
            self.walk(&**extractor);
            self.searched.push(TriedKey::new(extractor.kind(), extracted));
        }
    }

    fn key_searched(&mut self) {
        let keys = self.searched.clone();
        self.policy().into_iter().for_each(|policy| policy.keys.clone_from(&keys));
    }

    fn skipped(&mut self) {
        self.policy().into_iter().for_each(|policy| policy.verdict = PolicyVerdict::Skipped);
    }
}
