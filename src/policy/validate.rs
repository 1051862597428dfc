//! Settings that cannot work, and what to write instead.

use super::{OnStoreFailure, Plans, Policy, WithoutKey};
use crate::{algorithm::Algorithm, error::BuildError, quota::Quota};

impl Policy {
    /// What is wrong with a quota of this policy.
    fn problem_of(&self, quota: &Quota) -> Option<String> {
        let no_burst = quota.has_burst() && self.0.algorithm != Algorithm::TokenBucket;
        let no_burst = no_burst.then(|| {
            "only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out"
                .to_owned()
        });
        quota.problem().or(no_burst)
    }

    /// Fails on settings that cannot work; `for_requests`: it must find keys by itself.
    pub(crate) fn validate(&self, for_requests: bool) -> Result<(), BuildError> {
        let fail =
            |problem: &str| Err(BuildError::new(format!("policy `{}`", self.0.name), problem));
        if let Some(problem) = self.problem_of(&self.0.quota) {
            return fail(&problem);
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
        if self.0.two_keys {
            return fail(
                "it has two keys; write `.key((a, b))` to count by both together, or `.key(a).or_key(b)`",
            );
        }
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
        match (self.0.global, self.0.keys.is_empty(), self.0.without_key) {
            (true, false, _) => fail("it is global and has a key; leave one out"),
            (false, true, _) => fail(
                "it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
            ),
            (false, false, WithoutKey::Unsaid) => fail(
                "it does not say what happens to a request without its key; add `.or_key(…)`, `.or_skip()` or `.or_refuse()`",
            ),
            _ => Ok(()),
        }
    }
}
