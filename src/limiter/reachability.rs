//! Finds settings that no request can ever use: `build()` refuses them.

use http::Method;

use super::rules::Policies;
use crate::{
    category::Category,
    error::{BuildProblem, named},
    key::hold_all_callers,
    matcher::{Kind, Matcher},
    path::{Pattern, covers, overlap},
    policy::Policy,
    shown_text::{MAX_NAME, text_problem},
};

/// Exemptions that leave no request, categories that no request reaches, and policies by a part of the
/// path that no request of their categories can have.
pub(super) fn problems(policies: &Policies) -> Vec<BuildProblem> {
    let Policies { exempt, every_request, categories, .. } = policies;
    let mut problems = Vec::new();
    for (index, matcher) in exempt.iter().enumerate() {
        if let Some(problem) = exempts_all(matcher) {
            problems
                .push(BuildProblem::new("an exemption", problem).in_setting("exempt").at(index));
        }
    }
    for (index, category) in categories.iter().enumerate() {
        find_of(category, exempt, &categories[..index], &mut problems);
    }
    let of_categories = categories.iter().flat_map(|category| &category.policies);
    // To count by the path is rare, and what else there is need not be compared.
    let by_path = |policy: &&Policy| policy.settings.keys.paths().next().is_some();
    let mut seen: Vec<&Policy> = every_request.iter().collect();
    for policy in of_categories.filter(by_path) {
        if seen.iter().any(|other| other.is_clone_of(policy)) {
            continue;
        }
        seen.push(policy);
        if let Some(path) = path_of_no_category(policy, categories) {
            let problem = format!(
                "it counts by a parameter of the path `{path}`, and no category that it is in has \
                 such a path; write the path of one, or add it there"
            );
            let culprit = named("policy", policy.name());
            problems.push(BuildProblem::new(culprit, problem).in_setting("key"));
        }
    }
    problems
}

fn exempts_all(matcher: &Matcher) -> Option<&'static str> {
    match &matcher.kind {
        Kind::Route { methods: None, pattern: Some(pattern), .. } if pattern.matches_all() => {
            Some("it has all requests, so that none is counted; write the paths that are free")
        }
        Kind::ClientIp { networks, .. } if hold_all_callers(networks) => Some(
            "its networks are all addresses, so that no request is counted; write those of your own",
        ),
        Kind::Any(parts) => parts.iter().find_map(exempts_all),
        Kind::All(parts) if parts.iter().all(|part| exempts_all(part).is_some()) => {
            parts.iter().find_map(exempts_all)
        }
        _ => None,
    }
}

/// Why no request reaches a category that comes after those in `before`.
fn find_of(
    category: &Category,
    exempt: &[Matcher],
    before: &[Category],
    problems: &mut Vec<BuildProblem>,
) {
    let Category { name, matchers, .. } = category;
    let mut add = |method, problem: &str| {
        problems.push(BuildProblem::new(named("category", name), problem).in_setting(method));
    };
    if name.is_empty() {
        add("name", "write one like `read`");
    } else if before.iter().any(|other| other.name == *name) {
        add("name", "two categories have this name; give each its own");
    }
    if let Some(problem) = text_problem("its name", name, MAX_NAME) {
        add("name", &format!("{problem}; write another one"));
    }
    if matchers.is_empty() {
        add("on", "it holds for no request; add `.on(Matcher::…)`");
    }
    // Another check reports a matcher that cannot be.
    let valid = matchers.iter().enumerate().filter(|(_, matcher)| matcher.problem.is_none());
    for (index, matcher) in valid {
        if let Some(problem) = why_unreached(matcher, exempt, before) {
            let culprit = named("category", name);
            problems.push(BuildProblem::new(culprit, problem).in_setting("on").at(index));
        }
    }
}

fn why_unreached(matcher: &Matcher, exempt: &[Matcher], before: &[Category]) -> Option<String> {
    if matches_none(matcher) {
        return Some(
            "requests by an empty list of networks or keys match nothing; write some, or leave them \
             out"
                .into(),
        );
    }
    let (path, _) = route(matcher)?;
    if has_all_of(exempt, matcher) {
        return Some(format!(
            "an exemption has all its requests to `{path}`; leave one of them out"
        ));
    }
    let first = before.iter().find(|other| has_all_of(&other.matchers, matcher))?;
    Some(format!(
        "{} comes before it and has all its requests to `{path}`; put the narrower one first, or \
         leave one out",
        named("category", &first.name)
    ))
}

fn matches_none(matcher: &Matcher) -> bool {
    match &matcher.kind {
        Kind::ClientIp { networks, .. } => networks.is_empty(),
        Kind::Key { known, .. } => known.is_empty(),
        Kind::All(parts) => parts.iter().any(matches_none),
        Kind::Any(parts) => parts.iter().all(matches_none),
        Kind::Route { .. } | Kind::Closure(_) | Kind::Not(_) => false,
    }
}

fn route(matcher: &Matcher) -> Option<(&str, &Pattern)> {
    match &matcher.kind {
        Kind::Route { path, pattern, .. } => Some((path, pattern.as_deref()?)),
        _ => None,
    }
}

/// Whether `matchers` certainly match each request that `matcher` matches.
fn has_all_of(matchers: &[Matcher], matcher: &Matcher) -> bool {
    let Kind::Route { methods, pattern: Some(pattern), .. } = &matcher.kind else { return false };
    let has_all = |method: Option<&Method>| {
        matchers.iter().any(|other| match &other.kind {
            Kind::Route { methods, pattern: Some(other), .. } => {
                let has_method = methods
                    .as_ref()
                    .is_none_or(|methods| method.is_some_and(|method| methods.contains(method)));
                has_method && covers(other, pattern)
            }
            _ => false,
        })
    };
    match methods {
        None => has_all(None),
        Some(methods) => methods.iter().all(|method| has_all(Some(method))),
    }
}

/// A path of the policy's key that none of its categories can have.
fn path_of_no_category(policy: &Policy, categories: &[Category]) -> Option<String> {
    let own = categories
        .iter()
        .filter(|category| category.policies.iter().any(|other| other.is_clone_of(policy)))
        .flat_map(|category| &category.matchers);
    let patterns = own.map(|matcher| route(matcher).map(|(_, pattern)| pattern));
    let patterns = patterns.collect::<Option<Vec<_>>>()?;
    let is_of_none = |path: &String| {
        // Another check reports a path that does not parse.
        let key = Pattern::parse(path);
        key.is_ok_and(|key| !patterns.iter().any(|pattern| overlap(pattern, &key)))
    };
    policy.settings.keys.paths().find(is_of_none)
}
