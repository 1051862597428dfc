//! Requests that share policies: [`Category`].

use std::time::Duration;

use crate::{matcher::Matcher, policy::Policy};

/// The requests that share policies: auth, read, write, bulk.
///
/// A request counts in the first category that matches it, in the order in which the categories were
/// added. If routers may read its path in different ways, it counts in each category that a router
/// may choose: see [`Matcher`].
///
/// ```
/// use tower_quota::{Category, Matcher, Policy, Quota, key};
///
/// let bulk = Policy::sliding_window("bulk", Quota::per_minute(50)).key(key::bearer()).or_refuse();
/// let category = Category::new("bulk")
///     .on(Matcher::post("/v1/admin/users/search"))
///     .on(Matcher::post("/v1/{resource}/bulk"))
///     .policy(bulk);
/// # let _ = category;
/// ```
#[derive(Debug)]
#[must_use]
pub struct Category {
    pub(crate) name: String,
    pub(crate) matchers: Vec<Matcher>,
    pub(crate) policies: Vec<Policy>,
    pub(crate) hold: Duration,
}

impl Category {
    /// A category without requests or policies.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), matchers: Vec::new(), policies: Vec::new(), hold: Duration::ZERO }
    }

    /// Adds the requests that `matcher` matches.
    pub fn on(mut self, matcher: Matcher) -> Self {
        self.matchers.push(matcher);
        self
    }

    /// Adds a policy that each request of the category must pass.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.push(policy);
        self
    }

    /// Holds requests up to `max`, as [`Policy::hold`] does, for the policies of the category that do
    /// not call it themselves. Default: zero, so that requests are refused at once.
    pub fn hold(mut self, max: Duration) -> Self {
        self.hold = max;
        self
    }
}
