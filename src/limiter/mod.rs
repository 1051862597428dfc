//! The core without HTTP: which policies, whose quota, may it pass.

mod asked;
mod builder;
mod check;
mod describe;
mod future;
mod observe;
mod settle;

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use http::request::Parts;

pub(crate) use self::settle::Settling;
use self::{asked::Asked, check::Action};
pub use self::{
    builder::LimiterBuilder,
    check::{Check, CheckFuture, UnknownPolicy},
    future::DecisionFuture,
};
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
use crate::{
    category::any_matches,
    clock::Clock,
    decision::Outcome,
    hold::Line,
    key::{Fingerprinter, Key},
    matcher::Matcher,
    policy::Policy,
    store::Store,
};

/// Decides about requests: finds the policies that hold for one, and whose quota each draws on,
/// and charges all of them or none.
///
/// A clone shares the counts. [`RateLimitLayer`](crate::RateLimitLayer) asks it for each HTTP
/// request; anything else asks [`check`](Self::check).
///
/// ```
/// use tower_quota::{Category, Limiter, Matcher, Policy, Quota, key::{self, ClientIp}};
///
/// let limiter = Limiter::builder()
///     .exempt(Matcher::get("/health"))
///     .category(
///         Category::new("sign-in").on(Matcher::post("/v1/auth/sign-in")).policy(
///             Policy::sliding_window("sign-in", Quota::per_minute(10))
///                 .key(ClientIp::new())
///                 .or_refuse(),
///         ),
///     )
///     .policy(Policy::token_bucket("each key", Quota::per_minute(600)).key(key::bearer()).or_skip())
///     .build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Limiter {
    inner: Arc<Inner>,
}

struct Inner {
    exempt: Vec<Matcher>,
    every_request: Vec<Rule>,
    categories: Vec<Members>,
    by_name: HashMap<String, Rule>,
    store: Arc<dyn Store>,
    clock: Clock,
    fingerprints: Fingerprinter,
    line: Line,
    #[cfg(feature = "metrics")]
    metrics: Metrics,
}

/// A category as the limiter holds it.
struct Members {
    name: String,
    matchers: Vec<Matcher>,
    rules: Vec<Rule>,
}

/// A policy as the limiter holds it.
#[derive(Clone)]
struct Rule {
    policy: Policy,
    /// Keeps the counts of policies apart in the store.
    id: u128,
    /// How long a request may be held for it.
    hold: Duration,
}

impl Limiter {
    /// A limiter without policies, to which they are added.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder::default()
    }

    /// Decides about a request, and charges it when it passes.
    pub fn decide(&self, request: &Parts) -> DecisionFuture {
        let inner = &*self.inner;
        let mut asked = Asked::default();
        if !any_matches(&inner.exempt, request) {
            let mut categories = inner.categories.iter();
            asked.category =
                categories.position(|category| any_matches(&category.matchers, request));
            let of_category =
                asked.category.map_or(&[][..], |number| &inner.categories[number].rules);
            for rule in inner.every_request.iter().chain(of_category) {
                asked.by_request(rule, request, &inner.fingerprints);
            }
        }
        DecisionFuture::new(self.clone(), asked)
    }

    /// The policies whose verdicts requests feel, some of them more than once.
    pub(crate) fn request_policies(&self) -> impl Iterator<Item = &Policy> {
        self.rules_of_requests().map(|rule| &rule.policy).filter(|policy| !policy.is_dry_run())
    }

    fn rules_of_requests(&self) -> impl Iterator<Item = &Rule> {
        let of_categories = self.inner.categories.iter().flat_map(|category| &category.rules);
        self.inner.every_request.iter().chain(of_categories)
    }

    /// The fingerprint of the key that may be told to anybody; `None` where there is no key.
    pub(crate) fn public_fingerprint(&self, outcome: &Outcome) -> Option<u64> {
        outcome.fingerprint().map(|fingerprint| self.inner.fingerprints.public(fingerprint))
    }

    /// Asks one policy, by its name, about a key. Awaiting it charges one unit, unless told
    /// otherwise, when that fits.
    ///
    /// This is for work that is no HTTP request: a background job, a message from a queue.
    ///
    /// # Errors
    /// Awaiting fails with [`UnknownPolicy`] when no policy has that name.
    pub fn check<'a>(&self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.clone(), Action::Charge, policy, key.into())
    }

    /// Asks as [`check`](Self::check) does, and charges nothing.
    ///
    /// # Errors
    /// Awaiting fails with [`UnknownPolicy`] when no policy has that name.
    pub fn peek<'a>(&self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.clone(), Action::Peek, policy, key.into())
    }

    /// Gives a key units back that it has used: one, or the [`cost`](Check::cost).
    ///
    /// # Errors
    /// Awaiting fails with [`UnknownPolicy`] when no policy has that name.
    pub fn give_back<'a>(&self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.clone(), Action::GiveBack, policy, key.into())
    }

    /// Gives a key its whole quota back.
    ///
    /// # Errors
    /// Awaiting fails with [`UnknownPolicy`] when no policy has that name.
    pub fn reset<'a>(&self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.clone(), Action::Reset, policy, key.into())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.inner.by_name.keys().collect();
        f.debug_struct("Limiter").field("policies", &names).finish_non_exhaustive()
    }
}
