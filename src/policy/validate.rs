//! Settings that cannot work, and what to write instead.

use std::collections::HashSet;

use super::{OnStoreFailure, Plans, Policy, Settings, WithoutKey};
use crate::{
    algorithm::Algorithm,
    error::BuildError,
    quota::{MAX_WINDOW, Quota},
};

impl Policy {
    /// What is wrong with a quota of this policy.
    #[inline]
    pub(super) fn problem_of(&self, quota: &Quota) -> Option<String> {
        quota.problem().or_else(|| quota.has_burst().then(|| self.problem_of_burst(quota))?)
    }

    fn problem_of_burst(&self, quota: &Quota) -> Option<String> {
        let problem = if self.0.algorithm != Algorithm::TokenBucket {
            "only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out"
        } else if quota.time_to_fill().is_none_or(|time| time > u128::from(MAX_WINDOW)) {
            "the burst takes more than a hundred years to come back; write a smaller one, or more units in a window"
        } else {
            return None;
        };
        Some(problem.to_owned())
    }

    /// Fails on settings that cannot work; `for_requests`: it must find keys by itself.
    pub(crate) fn validate(&self, for_requests: bool) -> Result<(), BuildError> {
        let fail =
            |problem: &str| Err(BuildError::new(format!("policy `{}`", self.0.name), problem));
        if self.0.name.is_empty() {
            return fail("it has no name; write one like `read`");
        }
        if let Some(problem) = self.problem_of(&self.0.quota) {
            return fail(&problem);
        }
        if self.0.plans.is_some() && self.listed_plans().is_empty() {
            return fail("its table of plans is empty; write one there, or leave `.plans(…)` out");
        }
        for (plan, quota) in self.listed_plans() {
            if let Some(problem) = self.problem_of(quota) {
                return fail(&format!("plan `{plan}`: {problem}"));
            }
        }
        if let Some(plan) = self.0.plans.as_ref().and_then(Plans::twice) {
            return fail(&format!("two plans are named `{plan}`; give each its own name"));
        }
        if self.0.unit.as_deref() == Some("") {
            return fail("its unit has no name; write `.unit(\"tokens\")`, or leave it out");
        }
        if let Some(problem) = self.0.keys.iter().find_map(|key| key.problem()) {
            return fail(&problem);
        }
        self.validate_keys().map_or(Ok(()), |problem| fail(&problem))?;
        if self.0.keys.len() > usize::from(u8::MAX) {
            return fail("more than 255 kinds of key; write fewer");
        }
        if self.0.store_failure == (OnStoreFailure::CountLocally { replicas: 0 }) {
            return fail("0 replicas have no share of the quota; write how many there are");
        }
        if self.0.lease > 0 && self.0.settle.is_some() {
            return fail(
                "it has a lease, and responses settle its cost: each request asks the store anyway; leave one out",
            );
        }
        if let Some(problem) = self.0.shard.as_ref().and_then(|shard| shard.problem()) {
            return fail(&problem);
        }
        if !for_requests {
            return Ok(());
        }
        match (self.0.global, &self.0.keys[..], self.without_key()) {
            (false, [], _) => fail(
                "it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
            ),
            (false, [_], WithoutKey::Unsaid) => fail(
                "it does not say what happens to a request without its key; add `.or_key(…)`, `.or_skip()` or `.or_refuse()`",
            ),
            (false, _, WithoutKey::Unsaid) => fail(
                "it does not say what happens to a request with none of its keys; add `.or_skip()` or `.or_refuse()`",
            ),
            _ => Ok(()),
        }
    }

    /// What is wrong with what it says of keys.
    fn validate_keys(&self) -> Option<String> {
        let Settings { said, keys, global, unreadable_as_missing, .. } = &*self.0;
        let without_key = [(said.skip, ".or_skip()"), (said.refuse, ".or_refuse()")];
        let of_keys = without_key
            .into_iter()
            .chain([(u32::from(*unreadable_as_missing), ".unreadable_as_missing()")]);
        if *global && !keys.is_empty() {
            return Some("it is global and has a key; leave one out".into());
        }
        if let Some((_, method)) = of_keys.filter(|_| *global).find(|(times, _)| *times > 0) {
            return Some(format!("it is global and has no key to lack; leave `{method}` out"));
        }
        if said.key > 1 {
            return Some("it has two keys; write `.key((a, b))` to count by both together, or `.key(a).or_key(b)`".into());
        }
        if said.key == 0 && !keys.is_empty() {
            return Some("it has another key and none that is tried first; write `.key(…)` for the first `.or_key(…)`".into());
        }
        if said.skip > 0 && said.refuse > 0 {
            return Some("it both skips and refuses a request without its key; leave `.or_skip()` or `.or_refuse()` out".into());
        }
        if let Some((_, method)) = without_key.into_iter().find(|(times, _)| *times > 1) {
            return Some(format!("it says `{method}` twice; write it once"));
        }
        let mut seen = HashSet::new();
        let known = keys.iter().filter_map(|key| Some((key.kind(), key.identity()?)));
        let again = known.into_iter().find(|key| !seen.insert(key.clone()));
        again.map(|(kind, _)| format!("it tries the key `{kind}` twice; leave one out"))
    }
}
