//! Settings that `build()` accepts, and that are probably not meant: [`Lint`].

mod addresses;
mod ordered_matchers;
mod overlaps;
mod policies;
mod routes;
mod subject;
mod waterfalls;

use std::fmt;

use serde::Serialize;

use self::{routes::Route, subject::Subject};
use super::rules::RuleSet;

/// A setting that `build()` accepts, and that is probably not meant. From
/// [`Limiter::lint`](crate::Limiter::lint) and [`Limiter::lint_routes`](crate::Limiter::lint_routes).
///
/// `Display` names the setting and says what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lint {
    kind: LintKind,
    culprit: String,
    problem: String,
}

/// What a [`Lint`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LintKind {
    /// The exemptions together have all requests, so that none is counted.
    AllExempt,
    /// Exemptions and earlier categories together have all requests of a category's matcher.
    Unreachable,
    /// Some requests match two categories, or an exemption and a category, and neither is the narrower
    /// one. The first wins. This may be meant.
    Overlap,
    /// A policy counts by a part of the path that no request of its category has.
    KeyNeverFound,
    /// Nothing draws on a policy that others [fall back on](crate::Policy::or_else).
    NeverDrawnOn,
    /// A policy's own quota is larger than one of its [plans](crate::Policy::plans): a request whose plan is
    /// not found gets more than that plan allows. This may be meant.
    OwnQuotaLarger,
    /// A policy [settles at the end](crate::Policy::settle_at_end) and has no [cost](crate::Policy::cost), so
    /// that each request reserves one unit. This may be meant, if none uses more.
    NoEstimate,
    /// A policy settles at the end, and counts in a window that is shorter than an hour: if the window ends
    /// before the request does, what the request uses beyond its estimate is never paid. This may be meant, if
    /// the estimate is the most that a request can use.
    SettlesInShortWindow,
    /// A matcher or a policy reads the client's address in another way than the first policy or matcher that
    /// reads it.
    AddressesDiffer,
    /// No policy and no exemption has all requests of a route.
    RouteWithoutPolicy,
    /// A matcher, or the path of a key, fits none of the routes.
    NoSuchRoute,
    /// A route of the list cannot be.
    InvalidRoute,
}

impl LintKind {
    /// The kind as text, as in JSON: `all_exempt`, `unreachable`, `overlap`, `key_never_found`,
    /// `never_drawn_on`, `own_quota_larger`, `no_estimate`, `settles_in_short_window`, `addresses_differ`,
    /// `route_without_policy`, `no_such_route`, `invalid_route`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AllExempt => "all_exempt",
            Self::Unreachable => "unreachable",
            Self::Overlap => "overlap",
            Self::KeyNeverFound => "key_never_found",
            Self::NeverDrawnOn => "never_drawn_on",
            Self::OwnQuotaLarger => "own_quota_larger",
            Self::NoEstimate => "no_estimate",
            Self::SettlesInShortWindow => "settles_in_short_window",
            Self::AddressesDiffer => "addresses_differ",
            Self::RouteWithoutPolicy => "route_without_policy",
            Self::NoSuchRoute => "no_such_route",
            Self::InvalidRoute => "invalid_route",
        }
    }
}

impl Lint {
    fn new(kind: LintKind, culprit: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { kind, culprit: culprit.into(), problem: problem.into() }
    }

    /// What it is about.
    #[must_use]
    pub fn kind(&self) -> LintKind {
        self.kind
    }

    /// The setting, such as ``category `read` ``.
    #[must_use]
    pub fn culprit(&self) -> &str {
        &self.culprit
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.culprit, self.problem)
    }
}

/// What the settings show by themselves.
pub(super) fn lint(rules: &RuleSet) -> Vec<Lint> {
    let subject = Subject::new(rules, &[]);
    let mut lints = Vec::new();
    overlaps::find_all_exempt(&subject, &mut lints);
    overlaps::find_of_categories(&subject, &mut lints);
    overlaps::find_keys_never_found(&subject, &mut lints);
    waterfalls::find_never_drawn_on(rules, &mut lints);
    policies::find_larger_than_plans(rules, &mut lints);
    policies::find_settled_at_end(rules, &mut lints);
    addresses::find_that_differ(rules, &mut lints);
    lints
}

/// The same, and what these routes show: each a method, or `*` for any, and a path.
pub(super) fn lint_routes<M: AsRef<str>, P: AsRef<str>>(
    rules: &RuleSet,
    routes: impl IntoIterator<Item = (M, P)>,
) -> Vec<Lint> {
    let mut lints = lint(rules);
    let parse = |(method, path): (M, P)| Route::parse(method.as_ref(), path.as_ref());
    let mut parsed = Vec::new();
    for route in routes.into_iter().map(parse) {
        match route {
            Ok(route) => parsed.push(route),
            Err(lint) => lints.push(lint),
        }
    }
    let subject = Subject::new(rules, &parsed);
    routes::find_without_policy(&subject, &parsed, &mut lints);
    routes::find_without_route(&subject, &parsed, &mut lints);
    lints
}
