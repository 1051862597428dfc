//! The core without HTTP: which policies apply, whose quota is charged, and what is decided.
//!
//! `rules` finds the policies of a request, and `evaluation` reads their keys, quotas and costs.
//! `decide` sends the charges to the store and makes the [`Decision`]; `deciding` does so if it has
//! to wait, and `queue` orders the requests that are held. `correcting` changes a charge afterwards.
//! `current_rules` keeps the rules, and `apply` replaces them. `overrides` has what operators set for
//! callers. `explain` and `lint` only read.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]
#![allow(
    clippy::cast_possible_truncation,
    reason = "half of a fingerprint is meant, or the number of a rule or kind, which fits"
)]

mod acquire_error;
mod apply;
mod builder;
mod categories;
mod changes;
mod check;
mod check_error;
mod core;
mod correcting;
mod counts_of;
mod current_rules;
mod decide;
mod deciding;
mod decision;
mod decision_future;
#[cfg(feature = "describe")]
mod describe;
mod enter;
mod evaluation;
#[cfg(feature = "describe")]
pub mod explain;
mod fallback;
mod labels;
#[cfg(feature = "describe")]
mod lint;
mod meter;
pub mod overrides;
mod penalizing;
mod permit;
mod policy_handle;
mod policy_names;
mod queue;
mod queued;
mod quota_ref;
mod reachability;
mod refund;
mod release;
mod reservation;
mod reserve;
mod rules;
mod target;
mod telemetry;
mod trace;
mod validate;

use std::{fmt, sync::Arc};

use http::request;

#[cfg(feature = "describe")]
pub use self::lint::{Lint, LintKind};
pub use self::{
    acquire_error::AcquireError,
    builder::LimiterBuilder,
    changes::{Changes, SettingChange},
    check::Check,
    check_error::CheckError,
    decision::{Decision, Outcome, Reason, Verdict},
    decision_future::DecisionFuture,
    enter::Enter,
    meter::Meter,
    permit::Permit,
    policy_handle::PolicyHandle,
    quota_ref::QuotaRef,
    refund::Refund,
    reservation::{Commit, Reservation},
    reserve::Reserve,
};
pub(crate) use self::{apply::DependsOnPolicies, decision::error_status};
use self::{
    core::Core, correcting::correct, evaluation::Evaluation, overrides::Overrides, target::Target,
};
pub(crate) use self::{
    correcting::{Correcting, undo},
    deciding::Deciding,
    labels::Labels,
};
use crate::{
    algorithm::Algorithm,
    clock::Now,
    error::BuildError,
    key::{Fingerprint, Key},
    store::Change,
};

/// Decides whether requests pass. For each request, the limiter finds the policies that apply and
/// the quota of the request's key under each. It charges all of these quotas, or none if a policy
/// refuses.
///
/// Clones are cheap and share all counts. [`RateLimitLayer`](crate::RateLimitLayer) calls the
/// limiter for each HTTP request. For other work, such as background jobs, call
/// [`check`](Self::check).
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
///     .policy(
///         Policy::token_bucket("each key", Quota::per_minute(600))
///             .key(key::bearer())
///             .or_key(ClientIp::new())
///             .or_refuse(),
///     )
///     .build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone)]
pub struct Limiter {
    core: Arc<Core>,
}

#[cfg(feature = "testing")]
impl Limiter {
    pub(crate) fn clock(&self) -> &crate::clock::Clock {
        &self.core.clock
    }

    /// The category of a request that the current limits have decided about.
    pub(crate) fn category_of(&self, decision: &Decision) -> Option<String> {
        self.core.rules().category_name(decision.record.category).map(str::to_owned)
    }
}

impl Limiter {
    /// A builder without policies.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder::default()
    }

    /// Decides about an HTTP request. A request that passes is charged its cost under each policy
    /// that applies; a refused request is charged nothing.
    ///
    /// The future waits if a policy [holds](crate::Policy::hold) the request, and while a remote store
    /// answers. If the store does not answer, each policy's
    /// [`OnStoreFailure`](crate::OnStoreFailure) decides.
    ///
    /// The future borrows the limiter. In a task that is spawned, call this on a clone that the task owns.
    ///
    /// ```
    /// use http::Request;
    /// use tower_quota::{Limiter, Policy, Quota, key};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let daily = Policy::fixed_window("daily", Quota::per_day(1)).key(key::bearer()).or_refuse();
    /// let limiter = Limiter::builder().policy(daily).build()?;
    /// let request = Request::get("/").header("authorization", "Bearer key").body(())?;
    /// let (head, _) = request.into_parts();
    /// assert!(limiter.decide(&head).await.is_allowed());
    /// let refused = limiter.decide(&head).await;
    /// assert!(!refused.is_allowed() && refused.retry_after().is_some());
    /// # Ok(())
    /// # }
    /// ```
    pub fn decide(&self, request: &request::Parts) -> DecisionFuture<'_> {
        let rules = self.core.rules();
        let evaluation = Evaluation::of_request(&self.core, &rules, request);
        let turn = evaluation.turn(&self.core, &rules, Some(request));
        DecisionFuture::new(self, rules, evaluation, turn)
    }

    /// Like [`decide`](Self::decide), but returns the decision itself if no waiting is needed.
    #[inline]
    pub(crate) fn try_decide(&self, request: &request::Parts) -> Result<Decision, Box<Deciding>> {
        let rules = self.core.rules();
        let evaluation = Evaluation::of_request(&self.core, &rules, request);
        deciding::try_decide(self, rules, evaluation, Some(request))
    }

    /// Reports what is left under each policy for the keys of a request, and charges nothing.
    ///
    /// This is for usage pages, which show the limits of the whole API. So it evaluates the
    /// policies of all categories, whatever the request's path, as if the request cost one unit. It
    /// leaves out policies that find no key in the request, [global](crate::Policy::global) ones,
    /// as their numbers show the traffic of all callers, and unlimited quotas. It ignores
    /// exemptions.
    ///
    /// ```
    /// use http::Request;
    /// use tower_quota::{Category, Limiter, Matcher, Policy, Quota, key};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let reads = Policy::token_bucket("read", Quota::per_minute(100)).key(key::bearer()).or_refuse();
    /// let category = Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(reads);
    /// let limiter = Limiter::builder().category(category).build()?;
    ///
    /// let request = Request::get("/my/usage").header("authorization", "Bearer key").body(())?;
    /// let usage = limiter.peek_request(&request.into_parts().0).await;
    /// assert_eq!(usage.remaining(), 100);
    /// # Ok(())
    /// # }
    /// ```
    pub fn peek_request(&self, request: &request::Parts) -> DecisionFuture<'_> {
        let rules = self.core.rules();
        let evaluation = Evaluation::of_all_policies(&self.core, &rules, request);
        DecisionFuture::new(self, rules, evaluation, None)
    }

    /// Reports what is left of these quotas, and charges nothing. Each is evaluated as if one unit
    /// were charged. If `caller` has [quota overrides](Overrides), the overrides are reported
    /// instead.
    pub fn peek_quotas(
        &self,
        quotas: &[QuotaRef],
        caller: Option<Fingerprint>,
    ) -> DecisionFuture<'_> {
        let own = caller.and_then(|caller| self.core.remembered_overrides(caller.0));
        let rules = self.core.rules();
        let mut evaluation = Evaluation::of_quotas(&rules, quotas, own.as_ref());
        evaluation.only_peek();
        DecisionFuture::new(self, rules, evaluation, None)
    }

    /// Gives back all used units of these quotas, without those that are
    /// [in flight](crate::Policy::in_flight), as their requests still hold them. The decision shows what is
    /// left afterwards. If the store does not answer, it is a refusal with [`Reason::StoreUnavailable`].
    pub async fn reset_quotas(&self, quotas: &[QuotaRef]) -> Decision {
        let comes_back = |quota: &&QuotaRef| quota.charge.algorithm != Algorithm::InFlight;
        let quotas: Vec<_> = quotas.iter().filter(comes_back).copied().collect();
        let evaluation = Evaluation::of_quotas(&self.core.rules(), &quotas, None);
        correct(&self.core, evaluation, Change::Reset).await
    }

    /// Lifts the penalties of quotas. Returns whether any of them was blocked.
    #[cfg(all(feature = "usage", feature = "axum"))]
    pub(crate) async fn pardon_quotas(&self, quotas: &[QuotaRef]) -> bool {
        let peeked = self.peek_quotas(quotas, None).await;
        let mut all = peeked.outcomes().chain(peeked.dry_runs());
        if all.all(|outcome| outcome.blocked_for().is_none()) {
            return false;
        }
        let evaluation = Evaluation::of_quotas(&self.core.rules(), quotas, None);
        drop(correct(&self.core, evaluation, Change::Pardon).await);
        true
    }

    /// Finds a policy by its name. Checks by the handle need no look-up.
    ///
    /// # Errors
    /// [`CheckError::UnknownPolicy`] if no policy has this name.
    pub fn policy(&self, name: &str) -> Result<PolicyHandle, CheckError> {
        let rule = self.core.rules().id_of(name);
        let rule = rule.ok_or_else(|| CheckError::UnknownPolicy(name.to_owned()))?;
        Ok(PolicyHandle { limiter: self.clone(), name: name.into(), rule })
    }

    /// Checks one policy for one key, for work that is no HTTP request: a background job, a message
    /// from a queue. Await the [`Check`], or call [`Check::at_once`] in code that is not async. A
    /// check that passes charges one unit, or its [`cost`](Check::cost); a refused check charges
    /// nothing.
    ///
    /// **A refusal is `Ok` too**: look at [`Decision::is_allowed`]. An error only says that the check itself
    /// cannot work.
    ///
    /// The key counts as in a request: an IP address by its network, and all keys of a
    /// [global](crate::Policy::global) policy together. An [override](Self::overrides) of the
    /// caller with this key applies.
    ///
    /// - If the policy counts by several kinds of key ([`or_key`](crate::Policy::or_key)), name the kind with
    ///   [`Check::kind`]. Otherwise the check fails with [`CheckError::MissingKind`].
    /// - If the policy has plans, set the key's plan with [`Check::plan`] or [`Check::quota`].
    /// - Units [in flight](crate::Policy::in_flight) come back when the decision and its
    ///   [permit](Decision::permit) are dropped. [`PolicyHandle::enter`] returns a permit alone.
    ///
    /// To check one policy many times, find it once with [`policy`](Self::policy).
    ///
    /// # Errors
    /// The result is a [`CheckError`] if the check is incomplete or wrong:
    /// [`CheckError::UnknownPolicy`] for a misspelt name, for example.
    #[inline]
    pub fn check<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(policy, key))
    }

    /// Like [`check`](Self::check), but charges nothing. The decision says whether the cost would
    /// fit, and what is left now; it does not consider requests that are held. If the policy counts by
    /// several kinds of key, name the kind with [`Check::kind`].
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn peek<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(policy, key)).only_peek()
    }

    /// Gives back `units` that a key has used, at most as many as are used now. The decision shows
    /// what is left afterwards.
    ///
    /// The limiter does not know when the units were used: a window gives back those that were used
    /// last. So give units back only while they still count. After a fixed window has ended, or when
    /// the units have come back by themselves, this would give back what other work has used since. A key
    /// that has used a token bucket under a [plan](crate::Policy::plans) gets units back under that plan only.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] if the key has used
    /// nothing: it may be misspelt.
    pub fn give_back<'a>(
        &'a self,
        policy: &'a str,
        key: impl Into<Key<'a>>,
        units: u64,
    ) -> Refund<'a> {
        Refund::new(self.target(policy, key), Change::GiveBack(units))
    }

    /// Gives back all units that a key has used, and lifts the block of its
    /// [penalty](crate::Policy::penalty). Units [in flight](crate::Policy::in_flight) stay held: under such a
    /// policy, a reset only lifts the block, and without a penalty it is an error. A key that shares a count,
    /// because the [store is full](crate::store::MemoryStore), gets nothing back: the units may be another
    /// key's.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] if the key has used
    /// nothing: it may be misspelt.
    pub fn reset<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Refund<'a> {
        Refund::new(self.target(policy, key), Change::Reset)
    }

    /// Reserves units of several policies for work that is no HTTP request, until it is known how many
    /// the work has used: see [`Reservation`]. All policies are charged in one step, or none. Set the
    /// [cost](Reserve::cost) under each; the default is 1.
    ///
    /// **All units come back if the reservation is dropped**: `reserve(…).await.is_ok()` limits nothing. To keep
    /// them, as for [calls to another API](crate::guide::algorithms#outgoing-calls),
    /// [commit](Reservation::commit) it, or set [`keep_if_dropped`](Reserve::keep_if_dropped).
    ///
    /// The key counts as in [`check`](Self::check), under all of these policies unless one has [a key of
    /// its own](Reserve::key). Overrides of its caller apply, policies [hold](crate::Policy::hold), and
    /// do what they are set to do if the [store fails](crate::Policy::on_store_failure).
    ///
    /// # Errors
    /// [`AcquireError::Refused`] with the decision, if a policy refuses. [`AcquireError::Check`] with the
    /// errors of [`check`](Self::check), or with [`CheckError::NoPolicy`], [`CheckError::NotListed`] and
    /// [`CheckError::ListedTwice`] for a list that cannot be meant.
    pub fn reserve<'a>(
        &'a self,
        policies: impl IntoIterator<Item = &'a str>,
        key: impl Into<Key<'a>>,
    ) -> Reserve<'a> {
        Reserve::new(self, policies, key.into())
    }

    #[inline]
    fn target<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Target<'a> {
        Target::new(self, policy, key)
    }

    /// Replaces the limits by those of `builder`: its policies, categories, exemptions, and bounds of
    /// held requests. All clones of the limiter, its layers and pages decide by them from now on.
    ///
    /// The new limits are built and validated first, as by [`build`](LimiterBuilder::build). If
    /// anything is wrong, nothing changes. Otherwise all of them apply at once. The store, the clock
    /// and the [caller](LimiterBuilder::caller) stay, and so do counts, leases, and
    /// [overrides](crate::overrides::Overrides):
    ///
    /// - A policy is the same one if it has the same name and the same algorithm. It keeps what its
    ///   keys have used, whatever its quota is now.
    /// - A new policy begins with nothing used. A policy that is gone limits no new request. If it
    ///   comes back, what its keys had used still counts, as long as it would have otherwise. The
    ///   same is true of overrides of its quota.
    /// - A request that is being decided ends under the policies that it began with. If it is
    ///   [held](crate::Policy::hold), its quota is from now on the new one: it passes earlier under a larger
    ///   quota, and waits longer or is refused under a smaller one. Under a policy that is gone, it
    ///   waits as it would have, at most as long as the policy holds requests: new policies have not
    ///   counted it.
    /// - A response [settles](crate::Policy::settle) the cost as the policy says then. If the policy is
    ///   gone, the charge stays as it is.
    /// - A [`PolicyHandle`](crate::PolicyHandle) finds its policy again by the name.
    ///
    /// A [layer](crate::RateLimitLayer) may name a policy, as by
    /// [`header_policy`](crate::RateLimitLayerBuilder::header_policy). Limits without that
    /// policy are an error, as long as the layer is there.
    ///
    /// With several replicas, apply the same limits on each. Until then they may differ: of one key,
    /// never more passes than the largest of the quotas allows.
    ///
    /// The limits of `build` are kept in memory as long as the limiter, and of all others only the last
    /// ones. For each new name of a policy, some hundred bytes are kept for the life of the process.
    ///
    /// ```
    /// use tower_quota::{Limiter, LimiterBuilder, Policy, Quota};
    ///
    /// fn limits(mails: u64) -> LimiterBuilder {
    ///     Limiter::builder().check_only(Policy::fixed_window("mails", Quota::per_day(mails)))
    /// }
    /// let limiter = limits(100).build()?;
    /// limiter.check("mails", "tenant-7").cost(30).at_once()?;
    ///
    /// let changes = limiter.apply(limits(200))?;
    /// assert_eq!(changes.to_string(), "policy `mails`: quota 100 per day → 200 per day");
    /// assert_eq!(limiter.peek("mails", "tenant-7").at_once()?.remaining(), 170);
    ///
    /// assert!(limiter.apply(limits(0)).is_err(), "and nothing has changed");
    /// assert_eq!(limiter.peek("mails", "tenant-7").at_once()?.remaining(), 170);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// All settings that cannot work, or cannot change: a store, [the counts of another
    /// limiter](LimiterBuilder::counts_of), a clock, an override source, another
    /// caller than the limiter's, and policies that a layer needs. The store, the clock, the caller and the
    /// override source stay; leave them out of the new limits.
    pub fn apply(&self, builder: LimiterBuilder) -> Result<Changes, BuildError> {
        apply::apply(&self.core, builder)
    }

    /// Adds what names policies of this limiter, as long as it is alive.
    ///
    /// # Errors
    /// Its settings do not fit the current policies.
    pub(crate) fn register_dependent<N: DependsOnPolicies + 'static>(
        &self,
        dependent: &Arc<N>,
    ) -> Result<(), BuildError> {
        apply::register_dependent(&self.core, dependent)
    }

    /// Blocks of single callers, and quotas that replace those of their plans.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides { limiter: self.clone() }
    }

    /// Explains what would be decided about a request now, and why; see the module
    /// [`explain`](crate::explain). It charges nothing, and counts in no metric, log or warning.
    ///
    /// The verdict is what [`decide`](Self::decide) would return at this moment. Other requests may
    /// change it before the explanation is read. Except with a
    /// [`MemoryStore`](crate::store::MemoryStore), the numbers may be of slightly different moments: see
    /// [`Store::preview`](crate::store::Store::preview).
    #[cfg(feature = "describe")]
    pub fn explain(
        &self,
        request: &request::Parts,
    ) -> impl Future<Output = explain::Explanation> + Send + use<> {
        let explained = explain::explain(self, request);
        async move { explained.await.0 }
    }

    /// Finds settings that are probably not meant, though [`build`](LimiterBuilder::build) accepts
    /// them: categories that no request reaches, exemptions that together have all requests, requests
    /// that match two categories of which neither is the narrower, keys that no request has, addresses that
    /// are read in two ways, and quotas that hardly limit anything. [`LintKind`](crate::LintKind) has all.
    ///
    /// It looks at methods and paths. It does not know what closures, addresses and keys match.
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn lint(&self) -> Vec<Lint> {
        lint::lint(&self.core.rules())
    }

    /// Like [`lint`](Self::lint), and compares the settings with the routes of the program: their
    /// methods, or `*` for any, and their whole paths in axum's syntax. So it also finds a route without
    /// a policy, and a path in the settings that has a typo.
    ///
    /// In a test of your application, assert that there are none:
    ///
    /// ```
    /// use tower_quota::{Category, Limiter, Matcher, Policy, Quota, key};
    ///
    /// let reads = Policy::token_bucket("read", Quota::per_minute(100)).key(key::bearer()).or_refuse();
    /// let limiter = Limiter::builder()
    ///     .exempt(Matcher::get("/health"))
    ///     .category(Category::new("read").on(Matcher::get("/v1/users/{id}")).policy(reads))
    ///     .build()?;
    ///
    /// let routes = [("GET", "/health"), ("GET", "/v1/users/{id}")];
    /// let lints = limiter.lint_routes(routes);
    /// assert!(lints.is_empty(), "{lints:#?}");
    ///
    /// let lints = limiter.lint_routes([("GET", "/health"), ("GET", "/v1/people/{id}")]);
    /// assert_eq!(
    ///     lints[0].to_string(),
    ///     "route `GET /v1/people/{id}`: requests like `GET /v1/people/7` are in no category, and no \
    ///      policy holds for every request: nothing limits them; add a matcher for them to a category, \
    ///      or write `.exempt(…)`"
    /// );
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn lint_routes<M: AsRef<str>, P: AsRef<str>>(
        &self,
        routes: impl IntoIterator<Item = (M, P)>,
    ) -> Vec<Lint> {
        lint::lint_routes(&self.core.rules(), routes)
    }

    /// The path pattern that puts a request into its category, such as `/v1/users/{id}`. `None` if
    /// the request is in no category, or if the category's matcher has no path.
    #[must_use]
    pub fn matched_pattern(&self, request: &request::Parts) -> Option<Arc<str>> {
        self.core.rules().categories.matcher_of(request)?.pattern().cloned()
    }

    /// The limits as data; see the module [`describe`](crate::describe).
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn describe(&self) -> crate::describe::Description {
        describe::describe(&self.core)
    }

    /// Another number after each [`apply`](Self::apply).
    #[cfg(all(feature = "describe", feature = "axum"))]
    pub(crate) fn rules_number(&self) -> u64 {
        self.core.rules.number()
    }

    /// Updates the gauges `tower_quota_live_keys`, `tower_quota_held_requests` and
    /// `tower_quota_overrides`, and the counter `tower_quota_overflowed_total`. Call it when an exporter
    /// reads the metrics, or every few seconds. It goes through all keys of a memory store, a million in
    /// a few milliseconds; a request waits for about 4,000 of them at most.
    ///
    /// If a process has several limiters, the gauges show their sums.
    #[cfg(feature = "metrics")]
    pub fn update_gauges(&self) {
        let core = &*self.core;
        let live_keys = core.store.live_keys(self.now());
        let rules = core.rules();
        let overflowed = rules.policies().filter_map(|rule| {
            Some((rule.policy.name(), core.store.overflowed(rule.charge.policy)?))
        });
        // Collected first, as the metrics have a lock of their own.
        let overflowed: Vec<_> = overflowed.collect();
        core.overrides.update_gauge(self.now());
        core.metrics.update_gauges(live_keys, core.queue.waiting(), &overflowed);
    }

    #[inline]
    pub(crate) fn now(&self) -> Now {
        self.core.clock.now()
    }

    /// The extractor of the caller, from [`LimiterBuilder::caller`].
    #[cfg(all(feature = "usage", feature = "axum"))]
    pub(crate) fn caller(&self) -> Option<&crate::key::Caller> {
        self.core.caller.as_ref()
    }

    /// A fingerprint of the key for use in public: it discloses neither the key nor the store's
    /// fingerprint. `None` if there is no key, or if all callers share the quota.
    pub(crate) fn public_fingerprint(&self, outcome: &Outcome<'_>) -> Option<u64> {
        outcome.fingerprint().map(|fingerprint| self.core.keys.public(fingerprint))
    }

    /// An example for documentation: a decision that refuses a caller who has used up a quota.
    #[cfg(feature = "describe")]
    pub(crate) fn example_refusal(&self) -> Option<Decision> {
        describe::example_refusal(&self.core)
    }

    /// The same for each reason, and for each category.
    #[cfg(feature = "describe")]
    pub(crate) fn example_refusals(&self) -> Vec<(Option<String>, Decision)> {
        describe::example_refusals(&self.core)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = self.core.rules();
        let names: Vec<_> = rules.policies().map(|rule| rule.policy.name()).collect();
        f.debug_struct("Limiter").field("policies", &names).finish_non_exhaustive()
    }
}
