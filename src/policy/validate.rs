//! Finds settings that cannot work, and says what to write instead: [`problems`].

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    fair_weights::FairWeights,
    keys::{Keys, WithoutKey},
    on_store_failure::OnStoreFailure,
    plans::{Plans, quota_problem},
    settings::Settings,
};
use crate::{
    algorithm::Algorithm,
    error::{BuildProblem, Setting, named},
    key::KeyExtractor,
    penalty::{Counted, Penalty},
    shown_text::{MAX_NAME, text_problem},
};

/// The problems of a policy. `for_requests` is false if only checks use the policy: a check brings its
/// key itself.
pub(crate) fn problems(settings: &Settings, for_requests: bool) -> Vec<BuildProblem> {
    let culprit = named("policy", &settings.name);
    let mut problems = Vec::new();
    let mut add = |(method, index), problem: String| {
        let problem = BuildProblem::new(&*culprit, problem).in_setting(method);
        problems.push(match index {
            Some(index) => problem.at(index),
            None => problem,
        });
    };
    find(settings, for_requests, &mut add);
    problems
}

fn find(settings: &Settings, for_requests: bool, add: &mut impl FnMut(Setting, String)) {
    let mut at = |method, problem: String| add((method, None), problem);
    if settings.name.is_empty() {
        at("", "write one like `read`".into());
    }
    let unfit = |what, text: &str| {
        text_problem(what, text, MAX_NAME).map(|problem| format!("{problem}; write another one"))
    };
    let plans =
        settings.plan_table().iter().map(|(plan, _)| ("plans", "the name of a plan", &**plan));
    let weights = settings.fair_weights.iter().flat_map(|weights| &weights.table);
    let plans =
        plans.chain(weights.map(|(plan, _)| ("fair_weights", "the name of a plan", &**plan)));
    let unit = settings.unit.as_deref().map(|unit| ("unit", "its unit", unit));
    let texts = std::iter::once(("", "its name", &*settings.name)).chain(unit).chain(plans);
    for (method, what, text) in texts {
        if let Some(problem) = unfit(what, text) {
            at(method, problem);
        }
    }
    if let Some(method) = settings.set_twice {
        let problem =
            format!("it says `.{method}(…)` twice, and the first would be lost; write it once");
        at(method, problem);
    }
    if let Some(problem) = quota_problem(settings.algorithm, &settings.quota) {
        at("quota", problem);
    }
    #[cfg(feature = "calendar")]
    for (index, (hours, quota)) in settings.schedules.iter().enumerate() {
        let problem = hours.problem().or_else(|| quota_problem(settings.algorithm, quota));
        if let Some(problem) = problem {
            let problem = format!("the schedule `{}`: {problem}", hours.text());
            add(("schedule", Some(index)), problem);
        }
    }
    let mut at = |method, problem: String| add((method, None), problem);
    if settings.plans.is_some() && settings.plan_table().is_empty() {
        let problem = "its table of plans is empty; write one there, or leave `.plans(…)` out";
        at("plans", problem.into());
    }
    if let Some(plan) = settings.plans.as_ref().and_then(Plans::duplicate) {
        at("plans", format!("two plans are named `{plan}`; give each its own name"));
    }
    for (index, (plan, quota)) in settings.plan_table().iter().enumerate() {
        if let Some(problem) = quota_problem(settings.algorithm, quota) {
            add(("plans", Some(index)), format!("plan `{plan}`: {problem}"));
        }
    }
    let mut at = |method, problem: String| add((method, None), problem);
    if settings.unit.as_deref() == Some("") {
        at("unit", "its unit has no name; write `.unit(\"tokens\")`, or leave it out".into());
    }
    let unset_key = || unset_key(&settings.keys).filter(|_| for_requests).map(str::to_owned);
    if let Some(problem) = keys_problem(&settings.keys).or_else(unset_key) {
        at("key", problem);
    }
    for (index, extractor) in settings.keys.extractors.iter().enumerate() {
        if let Some(problem) = extractor.problem() {
            add(("key", Some(index)), problem);
        }
    }
    let mut at = |method, problem: String| add((method, None), problem);
    if settings.on_store_failure == (OnStoreFailure::CountLocally { replicas: 0 }) {
        let problem = "0 replicas have no share of the quota; write how many there are";
        at("on_store_failure", problem.into());
    }
    for (method, problem) in in_flight_problems(settings) {
        at(method, problem.to_owned());
    }
    for (method, problem) in check_problems(settings).filter(|_| !for_requests) {
        at(method, problem.to_owned());
    }
    if settings.lease > 0 && settings.is_settled() {
        let problem = "it has a lease, and responses settle its cost: each request asks the store anyway; leave one out";
        at("lease", problem.into());
    }
    if let Some(problem) = settings.penalty.as_ref().and_then(|penalty| {
        penalty.problem().or_else(|| penalty_problem(settings, penalty, for_requests))
    }) {
        at("penalty", problem);
    }
    if let Some(problem) = waterfall_problem(settings) {
        at("or_else", problem);
    }
    if settings.fair_by.is_some() {
        let problem = match settings.hold {
            _ if settings.dry_run => Some("a dry run holds no request; leave `.fair_by(…)` out"),
            _ if !for_requests => {
                Some("checks have no tenant, and only they use it; leave `.fair_by(…)` out")
            }
            Some(Duration::ZERO) => Some(
                "its tenants take turns where requests are held, and it holds none; write `.hold(…)` with a time, or leave `.fair_by(…)` out",
            ),
            _ if has_key_of_tenant(settings) => Some(
                "its key is the tenant, so each line has only one; leave `.fair_by(…)` out, or count by another key",
            ),
            _ => None,
        };
        problem.into_iter().for_each(|problem| at("fair_by", problem.into()));
    } else if settings.fair_weights.is_some() {
        let problem =
            "it has weights, and no tenants; add `.fair_by(…)`, or leave `.fair_weights(…)` out";
        at("fair_weights", problem.into());
    }
    if let Some(problem) = settings.fair_by.as_ref().and_then(|tenant| tenant.problem()) {
        at("fair_by", problem);
    }
    for (index, problem) in settings.fair_weights.iter().flat_map(FairWeights::problems) {
        add(("fair_weights", index), problem);
    }
    let mut at = |method, problem: String| add((method, None), problem);
    if let Some(problem) = settings.shard.as_ref().and_then(|shard| shard.problem()) {
        at("shard", problem);
    }
}

/// Settings that do not fit units in flight, and those that fit nothing else.
fn in_flight_problems(settings: &Settings) -> impl Iterator<Item = (&'static str, &'static str)> {
    let is_in_flight = settings.algorithm == Algorithm::InFlight;
    let waits = "only units in flight come back at an unknown time; leave `.retry_after(…)` out";
    let none = "a wait of zero is none; write how long, such as 5 seconds, or leave it out";
    let lease = "a replica cannot lease units in flight, as they come back one by one; leave `.lease(…)` out";
    let settle =
        "its units come back when the request ends, whatever it has cost; leave `.settle(…)` out";
    let at_end = "its units come back when the request ends, whatever it has cost; leave `.settle_at_end()` out";
    let has_wait = settings.retry_after.is_some();
    [
        (!is_in_flight && has_wait, "retry_after", waits),
        (is_in_flight && settings.retry_after == Some(Duration::ZERO), "retry_after", none),
        (is_in_flight && settings.lease > 0, "lease", lease),
        (is_in_flight && settings.settle.is_some(), "settle", settle),
        (is_in_flight && settings.settles_at_end, "settle_at_end", at_end),
    ]
    .into_iter()
    .filter_map(|(is_wrong, method, problem)| is_wrong.then_some((method, problem)))
}

/// Settings that read a request or a response, which checks do not have.
fn check_problems(settings: &Settings) -> impl Iterator<Item = (&'static str, &'static str)> {
    let cost = "only checks use it, and they have no request whose cost `.cost(…)` could read; leave it out, and write the cost in each check: `limiter.check(…).cost(…)`";
    let settle = "only checks use it, and they have no response that could settle their cost; leave `.settle(…)` out, or apply the policy to requests";
    // Units in flight have no cost that could be settled: that is said already.
    let is_settled = settings.settle.is_some() && settings.algorithm != Algorithm::InFlight;
    [(settings.cost.is_some(), "cost", cost), (is_settled, "settle", settle)]
        .into_iter()
        .filter_map(|(is_wrong, method, problem)| is_wrong.then_some((method, problem)))
}

/// What does not fit between a penalty and other settings.
fn penalty_problem(settings: &Settings, penalty: &Penalty, for_requests: bool) -> Option<String> {
    let problem = if settings.keys.is_global {
        "it is global and has a penalty, which would block all callers; leave `.penalty(…)` out, or count by a key"
    } else if settings.lease > 0 {
        "it has a lease and a penalty: replicas spend leased units without asking whether their key is blocked; leave one out"
    } else if penalty.counts(Counted::Failures) && settings.algorithm == Algorithm::InFlight {
        "its penalty counts failures, which are responses that cost something, and units in flight come back whatever a response has cost; write `.refusals_within(…)`"
    } else if penalty.counts(Counted::Failures) && !for_requests {
        "its penalty counts failures, which are responses, and only checks use it; write `.refusals_within(…)`, or apply the policy to requests"
    } else if penalty.counts(Counted::Failures) && !settings.is_settled() {
        "its penalty counts failures, and no response is one; add `.settle(…)`, which says what a response costs: 0 if it has not failed; or `.settle_at_end()`, if that is known when the response has ended"
    } else if penalty.counts(Counted::Refusals)
        && settings.quota.is_unlimited()
        && settings.has_one_quota()
    {
        "its quota is unlimited, so that its penalty counts no refusal; leave `.penalty(…)` out, or write a quota"
    } else {
        return None;
    };
    Some(problem.to_owned())
}

/// What cannot work between a policy and those that it falls back on.
fn waterfall_problem(settings: &Settings) -> Option<String> {
    let others = || settings.fallbacks.iter().map(|other| &*other.settings);
    let mut seen = HashSet::from([&*settings.name]);
    for other in others() {
        let policy = named("policy", &other.name);
        if !seen.insert(&other.name) {
            return Some(format!("it falls back on {policy} twice, or on itself; leave one out"));
        }
        if other.hold.is_some() {
            return Some(format!(
                "it falls back on {policy}, which says how long it holds a request: the first policy's \
                 hold holds for all; leave `.hold(…)` of {policy} out"
            ));
        }
        if other.dry_run != settings.dry_run {
            return Some(format!(
                "it falls back on {policy}, and one of them is a dry run; write `.dry_run()` for both, \
                 or for neither"
            ));
        }
    }
    if settings.fallbacks.is_empty() {
        return None;
    }
    let all = || std::iter::once(settings).chain(others());
    if let Some(other) = all().find(|policy| policy.algorithm == Algorithm::InFlight) {
        return Some(format!(
            "{} is of units in flight, which are held and not used up; leave it out of `.or_else(…)`",
            named("policy", &other.name)
        ));
    }
    if let Some(other) = all().find(|policy| policy.penalty.is_some()) {
        return Some(format!(
            "{} has a penalty, and who is blocked must not draw on another quota; leave `.penalty(…)` out",
            named("policy", &other.name)
        ));
    }
    let leases = all().find(|policy| policy.lease > 0)?;
    let policy = named("policy", &leases.name);
    Some(format!(
        "{policy} has a lease, and only the store knows which quota has room; leave `.lease(…)` out"
    ))
}

/// Whether the first key of the policy is the tenant that takes turns.
fn has_key_of_tenant(settings: &Settings) -> bool {
    let identity = |key: &Arc<dyn KeyExtractor>| Some((key.kind().into_owned(), key.identity()?));
    let tenant = settings.fair_by.as_ref().and_then(identity);
    tenant.is_some() && settings.keys.extractors.first().and_then(identity) == tenant
}

fn keys_problem(keys: &Keys) -> Option<String> {
    let Keys { extractors, without_key, .. } = keys;
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
