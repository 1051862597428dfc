//! Finds settings that cannot work, and says what to write instead: [`validate`].

use std::collections::HashSet;

use super::{
    keys::{Keys, WithoutKey},
    on_store_failure::OnStoreFailure,
    plans::{Plans, quota_problem},
    settings::Settings,
};
use crate::error::BuildError;

/// Fails on settings that cannot work. `for_requests` is false if only checks use the policy: a check
/// brings its key itself.
pub(crate) fn validate(settings: &Settings, for_requests: bool) -> Result<(), BuildError> {
    let unset = || if for_requests { unset_key(&settings.keys).map(str::to_owned) } else { None };
    match problem(settings).or_else(unset) {
        Some(problem) => Err(BuildError::new(format!("policy `{}`", settings.name), problem)),
        None => Ok(()),
    }
}

fn problem(settings: &Settings) -> Option<String> {
    if settings.name.is_empty() {
        return Some("it has no name; write one like `read`".into());
    }
    if let Some(method) = settings.set_twice {
        return Some(format!(
            "it says `.{method}(…)` twice, and the first would be lost; write it once"
        ));
    }
    if let Some(problem) = quota_problem(settings.algorithm, &settings.quota) {
        return Some(problem);
    }
    if settings.plans.is_some() && settings.plan_table().is_empty() {
        return Some(
            "its table of plans is empty; write one there, or leave `.plans(…)` out".into(),
        );
    }
    for (plan, quota) in settings.plan_table() {
        if let Some(problem) = quota_problem(settings.algorithm, quota) {
            return Some(format!("plan `{plan}`: {problem}"));
        }
    }
    if let Some(plan) = settings.plans.as_ref().and_then(Plans::duplicate) {
        return Some(format!("two plans are named `{plan}`; give each its own name"));
    }
    if settings.unit.as_deref() == Some("") {
        return Some("its unit has no name; write `.unit(\"tokens\")`, or leave it out".into());
    }
    if let Some(problem) = keys_problem(&settings.keys) {
        return Some(problem);
    }
    if settings.on_store_failure == (OnStoreFailure::CountLocally { replicas: 0 }) {
        return Some("0 replicas have no share of the quota; write how many there are".into());
    }
    if settings.lease > 0 && settings.settle.is_some() {
        return Some(
            "it has a lease, and responses settle its cost: each request asks the store anyway; leave one out".into(),
        );
    }
    settings.shard.as_ref().and_then(|shard| shard.problem())
}

fn keys_problem(keys: &Keys) -> Option<String> {
    let Keys { extractors, without_key, .. } = keys;
    if let Some(problem) = extractors.iter().find_map(|extractor| extractor.problem()) {
        return Some(problem);
    }
    if keys.is_global && !extractors.is_empty() {
        return Some("it is global and has a key; leave one out".into());
    }
    let method = without_key.first().map(|first| match first {
        WithoutKey::Skip => ".or_skip()",
        WithoutKey::Refuse => ".or_refuse()",
    });
    let as_missing = keys.unreadable_as_missing.then_some(".unreadable_as_missing()");
    if let Some(method) = method.or(as_missing).filter(|_| keys.is_global) {
        return Some(format!("it is global and has no key to lack; leave `{method}` out"));
    }
    if keys.first_keys > 1 {
        return Some("it has two keys; write `.key((a, b))` to count by both together, or `.key(a).or_key(b)`".into());
    }
    if keys.first_keys == 0 && !extractors.is_empty() {
        return Some("it has another key and none that is tried first; write `.key(…)` for the first `.or_key(…)`".into());
    }
    if without_key.contains(&WithoutKey::Skip) && without_key.contains(&WithoutKey::Refuse) {
        return Some("it both skips and refuses a request without its key; leave `.or_skip()` or `.or_refuse()` out".into());
    }
    if let Some(method) = method.filter(|_| without_key.len() > 1) {
        return Some(format!("it says `{method}` twice; write it once"));
    }
    if extractors.len() > usize::from(u8::MAX) {
        return Some("more than 255 kinds of key; write fewer".into());
    }
    let mut seen = HashSet::new();
    let known = extractors.iter().filter_map(|key| Some((key.kind(), key.identity()?)));
    let again = known.into_iter().find(|key| !seen.insert(key.clone()));
    again.map(|(kind, _)| format!("it tries the key `{kind}` twice; leave one out"))
}

/// What a policy for requests does not say of its keys.
fn unset_key(keys: &Keys) -> Option<&'static str> {
    match (keys.is_global, &keys.extractors[..], keys.without_key()) {
        (false, [], _) => Some(
            "it does not say whose quota it is; add `.key(ClientIp::new())` or another key, or `.global()`",
        ),
        (false, [_], None) => Some(
            "it does not say what happens to a request without its key; add `.or_key(…)`, `.or_skip()` or `.or_refuse()`",
        ),
        (false, _, None) => Some(
            "it does not say what happens to a request with none of its keys; add `.or_skip()` or `.or_refuse()`",
        ),
        _ => None,
    }
}
