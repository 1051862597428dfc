//! What the routes of a program show: a route without a policy, and a matcher without a route.

use http::Method;

use super::{
    Lint, LintKind,
    subject::{Subject, requests_of, route_of},
};
use crate::{
    matcher::Matcher,
    path::{Pattern, overlap},
};

/// A route of the program.
pub(super) struct Route {
    /// One method, or none for any.
    methods: Vec<Method>,
    path: String,
    pub(super) pattern: Pattern,
}

impl Route {
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(method: &str, path: &str) -> Result<Self, Lint> {
        let invalid = |problem: String| {
            Err(Lint::new(LintKind::InvalidRoute, format!("route `{method} {path}`"), problem))
        };
        let methods = match (method, Method::from_bytes(method.as_bytes())) {
            ("*", _) => Vec::new(),
            (_, Ok(method)) => vec![method],
            (_, Err(_)) => {
                return invalid("it has no method; write one like `GET`, or `*` for any".into());
            }
        };
        match Pattern::parse(path) {
            Ok(pattern) => Ok(Self { methods, path: path.to_owned(), pattern }),
            Err(problem) => invalid(problem),
        }
    }

    pub(super) fn methods(&self) -> Option<&[Method]> {
        Some(&*self.methods).filter(|methods| !methods.is_empty())
    }

    /// `GET /v1/users/{id}`
    fn text(&self) -> String {
        let method = self.methods.first().map_or("*", Method::as_str);
        format!("`{method} {}`", self.path)
    }

    fn may_match(&self, matcher: &Matcher) -> bool {
        let Some((methods, pattern)) = route_of(matcher) else { return true };
        let shares_method = match (methods, self.methods()) {
            (Some(methods), Some(own)) => own.iter().any(|own| methods.contains(own)),
            (None, _) | (_, None) => true,
        };
        shares_method && overlap(pattern, &self.pattern)
    }
}

/// Routes whose requests no policy counts, and no exemption has.
pub(super) fn find_without_policy(subject: &Subject<'_>, routes: &[Route], lints: &mut Vec<Lint>) {
    let rules = subject.rules;
    let mut matchers = rules.categories.iter().flat_map(|category| &category.matchers);
    // A category by a closure, an address or a key may have any request.
    let is_unknown = matchers.any(|matcher| route_of(matcher).is_none());
    if !rules.for_every_request().is_empty() || is_unknown {
        return;
    }
    for route in routes {
        let Some(examples) = subject.examples(route.methods(), &route.pattern) else { continue };
        let free = examples.iter().find(|example| subject.matchers.first(example).is_none());
        if let Some(free) = free {
            let problem = format!(
                "requests like {} are in no category, and no policy holds for every request: nothing \
                 limits them; add a matcher for them to a category, or write `.exempt(…)`",
                free.text()
            );
            let culprit = format!("route {}", route.text());
            lints.push(Lint::new(LintKind::RouteWithoutPolicy, culprit, problem));
        }
    }
}

/// Matchers, and paths of keys, that fit none of the routes.
pub(super) fn find_without_route(subject: &Subject<'_>, routes: &[Route], lints: &mut Vec<Lint>) {
    let rules = subject.rules;
    let exempt = rules.exempt.iter().map(|matcher| ("exemption".to_owned(), matcher));
    let of_categories = rules.categories.iter().flat_map(|category| {
        let culprit = format!("category `{}`", category.name);
        category.matchers.iter().map(move |matcher| (culprit.clone(), matcher))
    });
    for (culprit, matcher) in exempt.chain(of_categories) {
        if routes.iter().all(|route| !route.may_match(matcher)) {
            let path = matcher.pattern().map_or("", |path| &**path);
            let problem = format!(
                "{} fits none of the routes; {}",
                requests_of(matcher),
                remedy(path, routes)
            );
            lints.push(Lint::new(LintKind::NoSuchRoute, culprit, problem));
        }
    }
    for rule in rules.policies() {
        let is_of_none = |path: &String| {
            let key = Pattern::parse(path);
            key.is_ok_and(|key| !routes.iter().any(|route| overlap(&route.pattern, &key)))
        };
        if let Some(path) = rule.policy.settings.keys.paths().find(is_of_none) {
            let problem = format!(
                "it counts by a parameter of the path `{path}`, which fits none of the routes; {}",
                remedy(&path, routes)
            );
            let culprit = format!("policy `{}`", rule.policy.name());
            lints.push(Lint::new(LintKind::NoSuchRoute, culprit, problem));
        }
    }
}

/// What to write instead of a path that fits none of the routes.
fn remedy(path: &str, routes: &[Route]) -> String {
    let similarity = |route: &&Route| {
        let equal = |(one, other): &(u8, u8)| one == other;
        let ahead = path.bytes().zip(route.path.bytes()).take_while(equal).count();
        let behind = path.bytes().rev().zip(route.path.bytes().rev()).take_while(equal).count();
        ahead.saturating_add(behind)
    };
    match routes.iter().max_by_key(similarity) {
        Some(route) => format!("write the path of one, such as {}, or leave it out", route.text()),
        None => "write the routes of the program into the list".to_owned(),
    }
}
