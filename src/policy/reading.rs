//! What a policy says of a request, for the limiter.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{request::Parts, response};

use super::{OnStoreFailure, Plans, Policy, Said, Settings, WithoutKey};
use crate::{
    first_requests::FirstRequests,
    key::{Extracted, Key, KeyExtractor},
    quota::Quota,
    warning::{Code, warn},
};

impl Policy {
    /// The request's key, and which of the policy's kinds it is: the first that is not missing.
    #[inline]
    pub(crate) fn key_of<'a>(&self, request: &'a Parts) -> (u8, Extracted<'a>) {
        if self.0.global {
            return (0, Extracted::Found("".into()));
        }
        for (kind, key) in (0_u8..).zip(&self.0.keys) {
            let extracted = key.extract(request);
            let is_unreadable = matches!(extracted, Extracted::Unreadable(_));
            if !(extracted.is_missing() || is_unreadable && self.0.unreadable_as_missing) {
                return (kind, extracted);
            }
        }
        (0, Extracted::Missing)
    }

    /// What it reads to find a key: policies of which this is the same find the same. `None` where
    /// nobody knows.
    pub(crate) fn key_source(&self) -> Option<Vec<String>> {
        let source =
            |key: &Arc<dyn KeyExtractor>| Some(format!("{:?}", (key.kind(), key.identity()?)));
        let as_missing = self.0.unreadable_as_missing.then(|| Some("or unreadable".to_owned()));
        self.0.keys.iter().map(source).chain(as_missing).collect()
    }

    /// None of the first requests had the key by which it counts first.
    pub(crate) fn log_key_never_found(&self) {
        let kind = self.0.keys.first().map_or(Cow::Borrowed("key"), |key| key.kind());
        warn(Code::KeyNeverFound, &self.0.name, || {
            let then = match (self.0.keys.len(), self.without_key()) {
                (0 | 1, WithoutKey::Skip) => "so that they passed uncounted",
                (0 | 1, _) => "so that they were refused",
                _ => "which leaves the other keys",
            };
            format!(
                "policy `{}`: none of its first {} requests had its key, {kind}, {then}. Compare the name with what callers send; where another middleware finds out the key, add its layer after the limiter's, so that it is outside",
                self.0.name,
                FirstRequests::MANY
            )
        });
    }

    /// What a response has cost, where that is settled afterwards.
    pub(crate) fn settled_cost(&self, response: &response::Parts) -> Option<u64> {
        self.0.settle.as_ref().and_then(|settle| settle(response))
    }

    #[inline]
    pub(crate) fn is_settled(&self) -> bool {
        self.0.settle.is_some()
    }

    pub(crate) fn held_up_to(&self) -> Option<Duration> {
        self.0.hold
    }

    #[inline]
    pub(crate) fn is_dry_run(&self) -> bool {
        self.0.dry_run
    }

    #[inline]
    pub(crate) fn leased(&self) -> u32 {
        self.0.lease
    }

    pub(crate) fn store_failure(&self) -> OnStoreFailure {
        self.0.store_failure
    }

    pub(crate) fn shard_kind(&self) -> Cow<'_, str> {
        self.0.shard.as_ref().map_or(Cow::Borrowed(""), |shard| shard.kind())
    }

    pub(crate) fn shard_of<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        let shard = self.0.shard.as_ref();
        shard.map_or(Extracted::Missing, |shard| shard.extract(request))
    }

    /// What its counts are kept under, in a store that several processes share. Its quota is no
    /// part of it: a release that changes the quota changes every key's plan, and what was used
    /// stays used. Nor are its kinds of key, each of which tells its keys from those of the others.
    pub(crate) fn identity(&self) -> String {
        let Settings { name, algorithm, .. } = &*self.0;
        format!("{name}\n{algorithm:?}")
    }

    /// Whether all requests count together.
    pub(crate) fn is_global(&self) -> bool {
        self.0.global
    }

    /// Whether these are clones of one policy.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    pub(crate) fn skips_without_key(&self) -> bool {
        self.without_key() == WithoutKey::Skip
    }

    pub(crate) fn quota_of(&self, request: &Parts) -> Quota {
        let own = self.0.plan.as_ref().and_then(|plan| plan(request));
        match own {
            Some(quota) => self.planned(quota),
            // `build()` has looked at all of the table.
            None => {
                let plans = self.0.plans.as_ref();
                plans
                    .and_then(|plans| plans.quota_of(&self.0.name, request))
                    .unwrap_or(self.0.quota)
            }
        }
    }

    /// Whether a key that comes from elsewhere than a request is already as it is counted.
    #[inline]
    pub(crate) fn counts_keys_as_they_are(&self) -> bool {
        self.0.keys.is_empty() && !self.0.global
    }

    /// A key that comes from elsewhere than a request, as one of this kind is counted; `None` where
    /// no request can have it.
    pub(crate) fn canonical_key<'a>(&self, kind: u8, key: Key<'a>) -> Option<Key<'a>> {
        match self.0.keys.get(usize::from(kind)) {
            Some(extractor) => extractor.canonical(key),
            None => Some("".into()),
        }
    }

    pub(crate) fn has_shard(&self) -> bool {
        self.0.shard.is_some()
    }

    /// Whether the quota of a request may be another than the policy's own.
    #[inline]
    pub(crate) fn has_plans(&self) -> bool {
        self.0.plan.is_some() || self.0.plans.is_some()
    }

    /// The quota of a plan that `build()` has not seen: one of no units, where it cannot be.
    #[inline]
    pub(crate) fn planned(&self, quota: Quota) -> Quota {
        match self.problem_of(&quota) {
            Some(problem) if quota.units() > 0 => self.invalid_plan(quota, &problem),
            _ => quota,
        }
    }

    #[cold]
    fn invalid_plan(&self, quota: Quota, problem: &str) -> Quota {
        let name = self.name();
        let report = || {
            warn(Code::InvalidPlan, name, || {
                format!(
                    "policy `{name}`: a plan's quota cannot be ({problem}); its requests are refused"
                )
            });
        };
        self.0.invalid_plan.call_once(report);
        quota.nothing()
    }

    /// The plans that are known beforehand, and their quotas.
    pub(crate) fn listed_plans(&self) -> &[(String, Quota)] {
        self.0.plans.as_ref().map_or(&[], Plans::quotas)
    }

    /// Whether a request may have a quota of its own, which nobody knows beforehand.
    #[cfg(feature = "describe")]
    pub(crate) fn has_plan(&self) -> bool {
        self.0.plan.is_some()
    }

    /// What it counts, where that is not requests.
    pub(crate) fn counted_unit(&self) -> Option<&str> {
        self.0.unit.as_deref()
    }

    #[cfg(feature = "describe")]
    pub(crate) fn has_cost(&self) -> bool {
        self.0.cost.is_some()
    }

    pub(crate) fn without_key(&self) -> WithoutKey {
        match self.0.said {
            Said { skip: 0, refuse: 0, .. } => WithoutKey::Unsaid,
            Said { skip: 0, .. } => WithoutKey::Refuse,
            _ => WithoutKey::Skip,
        }
    }

    /// The paths outside of which its keys are not found.
    pub(crate) fn key_paths(&self) -> impl Iterator<Item = String> {
        self.0.keys.iter().flat_map(|key| key.paths())
    }

    /// The kinds of key, in the order in which they are tried.
    pub(crate) fn key_kinds(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.0.keys.iter().map(|key| key.kind())
    }

    pub(crate) fn cost_of(&self, request: &Parts) -> u64 {
        self.0.cost.as_ref().map_or(1, |cost| cost(request))
    }
}
