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
