//! The core without HTTP: which policies, whose quota, may it pass.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod asked;
mod builder;
mod check;
mod check_error;
mod decision;
#[cfg(feature = "describe")]
mod describe;
mod fallback;
mod future;
mod labels;
mod observe;
#[cfg(all(feature = "usage", feature = "axum"))]
mod overrides;
mod queue;
mod reach;
mod settle;
#[cfg(feature = "usage")]
mod usage;

use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::request::Parts;

pub(crate) use self::labels::Labels;
#[cfg(all(feature = "usage", feature = "axum"))]
pub(crate) use self::overrides::{Drawn, Unchanged};
pub(crate) use self::settle::Settling;
pub use self::{
    builder::LimiterBuilder,
    check::Check,
    check_error::CheckError,
    decision::{Decision, Outcome, Reason},
    future::DecisionFuture,
};
use self::{check::Action, queue::Line};
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
use crate::{
    clock::Clock,
    first_requests::FirstRequests,
    key::{Domain, Fingerprinter, Key},
    matcher::Matcher,
    policy::Policy,
    store::{Announcement, MemoryStore, Store},
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
    /// Ended by the first request that is not exempt.
    all_exempt: FirstRequests,
    /// Those for every request; then those of each category, which says where; then the others.
    rules: Vec<Rule>,
    every_request: Range<u32>,
    categories: Vec<Members>,
    /// The first place of each policy, by its name.
    by_name: BTreeMap<String, u32>,
    store: Arc<dyn Store>,
    /// The store announces the policies to others for as long as this lives.
    announced: Arc<[Announcement]>,
    /// Where counts live while the store does not answer.
    local: OnceLock<MemoryStore>,
    /// Whether other processes share the counts.
    is_shared: bool,
    clock: Clock,
    fingerprints: Fingerprinter,
    line: Line,
    #[cfg(feature = "metrics")]
    metrics: Metrics,
    #[cfg(all(feature = "usage", feature = "axum"))]
    overrides: overrides::Overrides,
}

/// A category as the limiter holds it.
struct Members {
    #[cfg_attr(
        not(any(feature = "describe", feature = "metrics", feature = "tracing")),
        expect(dead_code, reason = "shown by these features only")
    )]
    name: String,
    matchers: Vec<Matcher>,
    rules: Range<u32>,
}

/// A policy as the limiter holds it.
struct Rule {
    policy: Policy,
    /// What it says of nobody yet: of each request, it says so with another key.
    unasked: Outcome,
    /// How long a request may be held for it.
    hold: Duration,
    /// Rules that have the same find the same key in a request.
    key_source: u32,
    /// Ended by the first request that has the key by which the policy counts first.
    without_key: FirstRequests,
    /// The domain of each kind of key.
    domains: Box<[Domain]>,
    /// The domain of the key that says where a cluster keeps the counts, if there is one.
    shard_domain: Domain,
}

impl Inner {
    fn rule(&self, place: u32) -> &Rule {
        &self.rules[place as usize]
    }
}

/// The domain of fingerprints that are not of a key: a policy's identity.
const NO_KIND: u64 = 0;

impl Limiter {
    /// A limiter without policies, to which they are added.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder::default()
    }

    /// Decides about a request, and charges it when it passes.
    pub fn decide(&self, request: &Parts) -> DecisionFuture {
        let mut asked = Decision::new();
        self.inner.ask(request, &mut asked);
        DecisionFuture::new(self.clone(), asked)
    }

    /// Decides as [`decide`](Self::decide) does, if that needs no waiting; or else it is decided
    /// later.
    pub(crate) fn decide_at_once(
        &self,
        request: &Parts,
        decision: &mut Decision,
    ) -> Option<Box<DecisionFuture>> {
        self.inner.ask(request, decision);
        DecisionFuture::at_once(self, decision)
    }

    /// How many charges of a policy, by its name, were counted in a quota that new keys share,
    /// because the store had no room for more keys; `None` where no policy has that name, or where
    /// the store does not know. [`MemoryStore`] knows, and says the sum over all policies in
    /// [`MemoryStore::overflowed`].
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota};
    ///
    /// let limiter = Limiter::builder()
    ///     .direct(Policy::token_bucket("delivery", Quota::per_hour(100)))
    ///     .build()?;
    /// assert_eq!(limiter.overflowed("delivery"), Some(0));
    /// assert_eq!(limiter.overflowed("delivrey"), None);
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    #[must_use]
    pub fn overflowed(&self, policy: &str) -> Option<u64> {
        let place = self.inner.by_name.get(policy)?;
        self.inner.store.overflowed(self.inner.rule(*place).unasked.charge.policy)
    }

    /// The policies whose verdicts requests feel, some of them more than once.
    pub(crate) fn request_policies(&self) -> impl Iterator<Item = &Policy> {
        let of_categories =
            self.inner.categories.iter().flat_map(|category| category.rules.clone());
        let all = self.inner.every_request.clone().chain(of_categories);
        let all = all.map(|place| &self.inner.rule(place).policy);
        all.filter(|policy| !policy.settings.dry_run)
    }

    /// The fingerprint of the key that may be told to anybody; `None` where there is no key.
    pub(crate) fn public_fingerprint(&self, outcome: &Outcome) -> Option<u64> {
        outcome.fingerprint().map(|fingerprint| self.inner.fingerprints.public(fingerprint))
    }

    /// Checks one policy, by its name, for a key. Awaiting the check charges one unit, or its
    /// [`cost`](Check::cost), if that fits; [`Check::at_once`] does the same without awaiting.
    ///
    /// This is for work that is no HTTP request: a background job, a message from a queue. A key
    /// counts as it does in a request: an address by its network, and all keys of a
    /// [global](crate::Policy::global) policy together. Where the policy counts by several kinds of
    /// key, [`Check::kind`] names the key's kind. Where the policy has plans, [`Check::plan`] or
    /// [`Check::quota`] says the key's. An operator's block or quota for a key of the request log
    /// (`usage::OperatorPage`) does not apply here.
    ///
    /// # Errors
    /// A [`CheckError`] says what the check lacks, such as [`CheckError::UnknownPolicy`].
    #[inline]
    pub fn check<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self, Action::Charge, policy, key.into())
    }

    /// Checks as [`check`](Self::check) does, and charges nothing.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn peek<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self, Action::Peek, policy, key.into())
    }

    /// Gives units back that a key has used: one, or the [`cost`](Check::cost), and never more than
    /// are used now. Units that have come back by themselves are not given back again. The check does
    /// not say when the units were used, so a window gives back those that were used last.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] where the key has used
    /// nothing: it may be misspelt.
    pub fn give_back<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self, Action::GiveBack, policy, key.into())
    }

    /// Gives a key its whole quota back.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] where the key has used
    /// nothing: it may be misspelt.
    pub fn reset<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self, Action::Reset, policy, key.into())
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.inner.by_name.keys().collect();
        f.debug_struct("Limiter").field("policies", &names).finish_non_exhaustive()
    }
}
