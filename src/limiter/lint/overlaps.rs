//! What no request reaches, and which requests match more than one setting.

use super::{
    Lint, LintKind,
    ordered_matchers::OrderedMatcher,
    subject::{Example, Subject, requests_of, route_of},
};
use crate::{
    key::{KeyExtractor, hold_all_callers},
    limiter::{categories::CategoryRules, rules::Rule},
    matcher::{Kind, Matcher},
    path::{Pattern, SentPath, overlap},
};

const ALL: &str = "/{*rest}";

pub(super) fn find_all_exempt(subject: &Subject<'_>, lints: &mut Vec<Lint>) {
    let exempt = &subject.rules.exempt;
    let is_exempt = |example: &Example| {
        let path = example.path();
        exempt.iter().any(|matcher| example.is_exempt(matcher, &path))
    };
    let all = || subject.examples(None, &Pattern::parse(ALL).ok()?);
    let has_paths = exempt.iter().any(|matcher| route_of(matcher).is_some());
    let all_paths = has_paths && all().is_some_and(|all| all.iter().all(is_exempt));
    let of_ips = exempt.iter().filter_map(|matcher| match &matcher.kind {
        Kind::ClientIp { client_ip, networks } => Some((client_ip.identity(), networks)),
        _ => None,
    });
    let mut by_ip: Vec<(Option<String>, Vec<_>)> = Vec::new();
    for (identity, networks) in of_ips {
        match by_ip.iter_mut().find(|(other, _)| *other == identity) {
            Some((_, all)) => all.extend(networks.iter().copied()),
            None => by_ip.push((identity, networks.clone())),
        }
    }
    if all_paths || by_ip.iter().any(|(_, networks)| hold_all_callers(networks)) {
        let problem = "together they have all requests, so that none is counted; leave one of them \
                       out, or write less into it";
        lints.push(Lint::new(LintKind::AllExempt, "exemptions", problem));
    }
}

pub(super) fn find_of_categories(subject: &Subject<'_>, lints: &mut Vec<Lint>) {
    for ordered in subject.matchers.iter() {
        if let Some(category) = ordered.category {
            find_of_matcher(subject, category, ordered, lints);
        }
    }
}

fn find_of_matcher(
    subject: &Subject<'_>,
    category: &CategoryRules,
    ordered: &OrderedMatcher<'_>,
    lints: &mut Vec<Lint>,
) {
    let matcher = ordered.matcher;
    let examples = route_of(matcher).and_then(|(methods, own)| subject.examples(methods, own));
    let Some(examples) = examples else { return };
    let culprit = format!("category `{}`", category.name);
    let first =
        |example| subject.matchers.first(example).filter(|number| *number < ordered.earlier);
    let firsts: Vec<_> = examples.iter().map(|example| (example, first(example))).collect();
    let mut winners: Vec<usize> = firsts.iter().filter_map(|(_, first)| *first).collect();
    winners.sort_unstable();
    winners.dedup();
    let winners =
        winners.into_iter().filter_map(|number| Some((number, subject.matchers.get(number)?)));
    if firsts.iter().all(|(_, first)| first.is_some()) {
        let mut names: Vec<_> = winners.map(|(_, winner)| winner.owner()).collect();
        names.dedup();
        let why = match &names[..] {
            [name] => format!("{name} comes first and matches all of them"),
            names => format!("{} come first and together match all of them", names.join(" and ")),
        };
        let problem = format!(
            "no request reaches it by {}: {why}; put the narrower ones first, or leave it out",
            requests_of(matcher),
        );
        return lints.push(Lint::new(LintKind::Unreachable, culprit, problem));
    }
    for (number, winner) in winners {
        if is_narrower(subject, winner.matcher, matcher) {
            continue;
        }
        let Some((example, _)) = firsts.iter().find(|(_, first)| *first == Some(number)) else {
            continue;
        };
        let problem = format!(
            "requests like {} match its {}, and {} of {}, which comes first and has them; if they \
             belong to `{}`, put it first, or write the narrower path",
            example.text(),
            requests_of(matcher),
            requests_of(winner.matcher),
            winner.owner(),
            category.name
        );
        lints.push(Lint::new(LintKind::Overlap, &*culprit, problem));
    }
}

/// Whether all paths of `one` are paths of `other`, so that `one` is meant to come first.
fn is_narrower(subject: &Subject<'_>, one: &Matcher, other: &Matcher) -> bool {
    let (Some((_, one)), Some((_, other))) = (route_of(one), route_of(other)) else {
        return false;
    };
    let paths = subject.paths.of(one);
    paths.is_some_and(|paths| paths.iter().all(|path| other.matches_as_sent(&SentPath::new(path))))
}

/// Policies all of whose keys are parts of paths that no request of their category has.
pub(super) fn find_keys_never_found(subject: &Subject<'_>, lints: &mut Vec<Lint>) {
    for category in subject.rules.categories.iter() {
        let patterns = category.matchers.iter().map(|matcher| Some(route_of(matcher)?.1));
        let Some(patterns) = patterns.collect::<Option<Vec<_>>>() else { continue };
        let rules = subject.rules.range(&category.rules).iter();
        for rule in rules.flat_map(|rule| subject.rules.waterfall(rule)) {
            if let Some(path) = path_never_found(rule, &patterns) {
                let problem = format!(
                    "it counts by a parameter of the path `{path}`, which no request of category \
                     `{}` has; write the path of one, or leave the policy out of this category",
                    category.name
                );
                let culprit = format!("policy `{}`", rule.policy.name());
                lints.push(Lint::new(LintKind::KeyNeverFound, culprit, problem));
            }
        }
    }
}

/// The path of the first key, if no request with these patterns can have any of the policy's keys.
fn path_never_found(rule: &Rule, patterns: &[&Pattern]) -> Option<String> {
    let is_there = |path: &String| {
        let key = Pattern::parse(path);
        key.is_ok_and(|key| patterns.iter().any(|pattern| overlap(pattern, &key)))
    };
    let never = |paths: Vec<String>| paths.into_iter().find(|path| !is_there(path));
    let extractors = &rule.policy.settings.keys.extractors;
    let never = extractors.iter().map(|extractor| never(extractor.paths()));
    never.collect::<Option<Vec<_>>>()?.into_iter().next()
}
