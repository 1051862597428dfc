//! The rules that a lint examines, and sample requests that show which rules match: [`Subject`].

use http::{Method, Request, request::Parts};

use super::{ordered_matchers::OrderedMatchers, routes::Route};
use crate::{
    describe::Requests,
    limiter::rules::RuleSet,
    matcher::{Kind, Matcher},
    path::{ExamplePaths, Pattern, SentPath},
};

pub(super) struct Subject<'r> {
    pub(super) rules: &'r RuleSet,
    /// Finds example paths. The patterns of all matchers and routes tell the kinds apart.
    pub(super) paths: ExamplePaths,
    /// The methods of all matchers and routes, and another one.
    methods: Vec<Method>,
    pub(super) matchers: OrderedMatchers<'r>,
}

/// A request that stands for all of its kind: the same matchers by method and path match them.
pub(super) struct Example {
    head: Parts,
    pub(super) path: String,
}

impl Example {
    pub(super) fn path(&self) -> SentPath<'_> {
        SentPath::new(&self.path)
    }

    pub(super) fn matches(&self, matcher: &Matcher, path: &SentPath<'_>) -> bool {
        route_of(matcher).is_some() && matcher.matches_as_sent(&self.head, path)
    }

    pub(super) fn is_exempt(&self, matcher: &Matcher, path: &SentPath<'_>) -> bool {
        route_of(matcher).is_some() && matcher.surely_matches(&self.head, path)
    }

    /// `GET /v1/users/1`
    pub(super) fn text(&self) -> String {
        format!("`{} {}`", self.head.method, self.path)
    }
}

/// The methods and the pattern of a matcher by method and path.
pub(super) fn route_of(matcher: &Matcher) -> Option<(Option<&[Method]>, &Pattern)> {
    match &matcher.kind {
        Kind::Route { methods, pattern, .. } => Some((methods.as_deref(), pattern.as_deref()?)),
        _ => None,
    }
}

/// The matcher's requests, such as `GET, HEAD /v1/users/{id}`.
pub(super) fn requests_of(matcher: &Matcher) -> String {
    format!("`{}`", Requests::from(matcher))
}

impl<'r> Subject<'r> {
    pub(super) fn new(rules: &'r RuleSet, routes: &[Route]) -> Self {
        let of_categories = rules.categories.iter().flat_map(|category| &category.matchers);
        let matchers = rules.exempt.iter().chain(of_categories).filter_map(route_of);
        let of_routes = routes.iter().map(|route| (route.methods(), &route.pattern));
        let (mut patterns, mut methods): (_, Vec<Method>) = (Vec::new(), Vec::new());
        for (its_methods, pattern) in matchers.chain(of_routes) {
            patterns.push(pattern);
            for method in its_methods.unwrap_or_default() {
                if !methods.contains(method) {
                    methods.push(method.clone());
                }
            }
        }
        let others = [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::TRACE];
        methods.extend(others.into_iter().find(|other| !methods.contains(other)));
        let paths = ExamplePaths::new(patterns);
        Self { rules, paths, methods, matchers: OrderedMatchers::new(rules) }
    }

    /// An example for each kind of request with these methods and this pattern; any method if there are
    /// none. `None` if there are too many kinds.
    pub(super) fn examples(
        &self,
        methods: Option<&[Method]>,
        pattern: &Pattern,
    ) -> Option<Vec<Example>> {
        let paths = self.paths.of(pattern)?;
        let methods = methods.unwrap_or(&self.methods);
        let of = |path: &String| {
            let path = path.clone();
            methods.iter().map(move |method| {
                let mut head = Request::new(()).into_parts().0;
                head.method = method.clone();
                Example { head, path: path.clone() }
            })
        };
        Some(paths.iter().flat_map(of).collect())
    }
}
