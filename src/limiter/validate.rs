//! Finds what is wrong with the policies of a limiter, and says what to write instead: [`problems`].

use std::collections::HashMap;

use super::{reachability, rules::Policies};
use crate::{
    category::Category,
    error::{BuildProblem, named},
    matcher::Matcher,
    policy::{self, Policy},
    store::Store,
};

/// All problems, in the order of the settings.
pub(super) fn problems(policies: &Policies) -> Vec<BuildProblem> {
    let Policies { exempt, every_request, categories, check_only } = policies;
    let mut problems = Vec::new();
    find_of_matchers(exempt, "an exemption", "exempt", &mut problems);
    for Category { name, matchers, .. } in categories {
        find_of_matchers(matchers, &named("category", name), "on", &mut problems);
    }
    problems.extend(reachability::problems(policies));
    find_twice(every_request, &[], "every request", "every_request", &mut problems);
    let mut seen = HashMap::new();
    find_of_policies(every_request, true, &mut seen, &mut problems);
    for category in categories {
        find_of_category(category, every_request, &mut problems);
        find_of_policies(&category.policies, true, &mut seen, &mut problems);
    }
    find_of_policies(check_only, false, &mut seen, &mut problems);
    find_not_held(every_request, None, &mut problems);
    find_fair_twice(&[], every_request, "every request", "every_request", &mut problems);
    for category in categories {
        find_not_held(&category.policies, Some(category), &mut problems);
        let culprit = named("category", &category.name);
        find_fair_twice(every_request, &category.policies, &culprit, "policy", &mut problems);
    }
    problems
}

/// The policies that the store does not count, or whose penalties it does not keep.
pub(super) fn not_counted(policies: &Policies, store: &dyn Store) -> Vec<BuildProblem> {
    let Policies { every_request, categories, check_only, .. } = policies;
    let of_categories = categories.iter().flat_map(|category| &category.policies);
    let all = || every_request.iter().chain(of_categories.clone()).chain(check_only);
    let not_counted = all().filter(|policy| !store.counts(policy.algorithm()));
    let penalized = all().filter(|policy| policy.settings.penalty.is_some());
    let not_kept = penalized.filter(|_| !store.keeps_penalties()).map(|policy| {
        let problem = "it has a penalty, and the store keeps none; leave `.penalty(…)` out, or use a \
                       store that keeps penalties, such as `MemoryStore`";
        BuildProblem::new(named("policy", policy.name()), problem).in_setting("penalty")
    });
    let problem = |policy: &Policy| {
        let problem = format!(
            "the limiter's store does not count by `{}`; write another algorithm, or leave `.store(…)` out",
            policy.algorithm().as_str()
        );
        BuildProblem::new(named("policy", policy.name()), problem)
    };
    not_counted.map(problem).chain(not_kept).collect()
}

fn find_of_matchers(
    matchers: &[Matcher],
    culprit: &str,
    method: &'static str,
    problems: &mut Vec<BuildProblem>,
) {
    for (index, matcher) in matchers.iter().enumerate() {
        if let Some(problem) = &matcher.problem {
            problems.push(BuildProblem::new(culprit, &**problem).in_setting(method).at(index));
        }
    }
}

/// `seen` are the policies before these. A clone of one of them has the same problems.
fn find_of_policies<'a>(
    policies: &'a [Policy],
    for_requests: bool,
    seen: &mut HashMap<&'a str, Vec<&'a Policy>>,
    problems: &mut Vec<BuildProblem>,
) {
    for policy in policies.iter().flat_map(Policy::waterfall) {
        // Clones have one name.
        let seen = seen.entry(policy.name()).or_default();
        if seen.iter().any(|other| other.is_clone_of(policy)) {
            continue;
        }
        if !seen.is_empty() {
            let problem = "two policies have this name; give each its own, or clone the one";
            problems.push(BuildProblem::new(named("policy", policy.name()), problem));
        }
        problems.extend(policy::problems(&policy.settings, for_requests));
        seen.push(policy);
    }
}

/// Finds fair policies that leave it to their category whether they hold requests, and that holds none.
fn find_not_held(
    policies: &[Policy],
    category: Option<&Category>,
    problems: &mut Vec<BuildProblem>,
) {
    let holds = category.is_some_and(|category| !category.hold.is_zero());
    // The hold of the first policy of a waterfall holds for all.
    let not_held = policies.iter().filter(|policy| policy.settings.hold.is_none());
    for policy in not_held.flat_map(Policy::waterfall) {
        if policy.settings.fair_by.is_some() && !holds {
            let problem = match category {
                None => "its tenants take turns where requests are held, and it holds none; add \
                         `.hold(…)`, or leave `.fair_by(…)` out"
                    .to_owned(),
                Some(category) => format!(
                    "its tenants take turns where requests are held, and {} holds none; add \
                     `.hold(…)`, or leave `.fair_by(…)` out",
                    named("category", &category.name)
                ),
            };
            let culprit = named("policy", policy.name());
            problems.push(BuildProblem::new(culprit, problem).in_setting("fair_by"));
        }
    }
}

/// Finds fair policies that apply to a request beside another one: a request takes turns in one line.
fn find_fair_twice<'a>(
    others: &'a [Policy],
    policies: &'a [Policy],
    culprit: &str,
    method: &'static str,
    problems: &mut Vec<BuildProblem>,
) {
    let is_fair = |policy: &&Policy| policy.settings.fair_by.is_some();
    let mut all = others.iter().chain(policies).flat_map(Policy::waterfall);
    let Some(first) = all.find(is_fair) else { return };
    let indexed = policies.iter().enumerate();
    let each = |(index, policy): (usize, &'a Policy)| {
        policy.waterfall().map(move |policy| (index, policy))
    };
    for (index, policy) in indexed.flat_map(each) {
        if is_fair(&policy) && !policy.is_clone_of(first) {
            let problem = format!(
                "a request takes turns in one line only, and both {} and {} are fair for it; leave \
                 `.fair_by(…)` out of one",
                named("policy", first.name()),
                named("policy", policy.name())
            );
            problems.push(BuildProblem::new(culprit, problem).in_setting(method).at(index));
        }
    }
}

fn find_of_category(
    category: &Category,
    every_request: &[Policy],
    problems: &mut Vec<BuildProblem>,
) {
    let Category { name, policies, .. } = category;
    let culprit = named("category", name);
    if policies.is_empty() && every_request.is_empty() {
        let problem = "it has no policy, and its requests would pass uncounted; add \
                       `.policy(…)`, or write `.exempt(…)` for its matchers";
        problems.push(BuildProblem::new(&*culprit, problem).in_setting("policy"));
    }
    find_twice(policies, every_request, &culprit, "policy", problems);
}

/// Finds policies by which a request would be counted twice: here, or here and in `others`.
fn find_twice(
    policies: &[Policy],
    others: &[Policy],
    culprit: &str,
    method: &'static str,
    problems: &mut Vec<BuildProblem>,
) {
    for (index, policy) in policies.iter().enumerate() {
        let before = || others.iter().chain(&policies[..index]).flat_map(Policy::waterfall);
        for policy in policy.waterfall() {
            if before().any(|other| other.is_clone_of(policy)) {
                let problem =
                    format!("{} holds for it twice; leave one out", named("policy", policy.name()));
                problems.push(BuildProblem::new(culprit, problem).in_setting(method).at(index));
            }
        }
    }
}
