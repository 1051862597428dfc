//! The core without HTTP: which policies hold, whose quota is charged, and what is decided.
//!
//! A request becomes an [`Evaluation`](evaluation::Evaluation), the store answers it, and it becomes
//! a [`Decision`]: `rules` finds the policies, `evaluation` reads keys and quotas, `decision_future`
//! charges and holds, `queue` orders the requests that are held. `correct` changes what was charged.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod builder;
mod check;
mod check_error;
mod core;
mod correcting;
mod decision;
mod decision_future;
#[cfg(feature = "describe")]
mod describe;
mod evaluation;
mod fallback;
mod labels;
mod overrides;
mod policy_handle;
mod queue;
mod quota_ref;
mod reachability;
mod refund;
mod rules;
mod target;
mod telemetry;

use std::{fmt, future::poll_fn, sync::Arc};

use http::{request, response};

#[cfg(feature = "metrics")]
pub(crate) use self::decision::Ruling;
pub use self::{
    builder::LimiterBuilder,
    check::Check,
    check_error::CheckError,
    decision::{Decision, Outcome, Reason, Verdict},
    decision_future::DecisionFuture,
    overrides::{CallerOverrides, OverrideError, OverrideView, Overrides, QuotaOverride},
    policy_handle::PolicyHandle,
    quota_ref::QuotaRef,
    refund::Refund,
};
use self::{core::Core, evaluation::Evaluation, target::Target};
pub(crate) use self::{correcting::Correcting, decision::error_status, labels::Labels};
use crate::{
    clock::Now,
    key::{Fingerprint, Key},
    policy::Policy,
    store::Change,
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
    core: Arc<Core>,
}

impl Limiter {
    /// A limiter without policies, to which they are added.
    pub fn builder() -> LimiterBuilder {
        LimiterBuilder::default()
    }

    /// Decides about a request, and charges it when it passes.
    pub fn decide(&self, request: &request::Parts) -> DecisionFuture {
        let evaluation = Evaluation::of_request(&self.core, request);
        DecisionFuture::new(self.clone(), evaluation, self.now())
    }

    /// Decides as [`decide`](Self::decide) does, if that needs no waiting; or else returns the future
    /// of the decision.
    #[inline]
    pub(crate) fn try_decide(
        &self,
        request: &request::Parts,
    ) -> Result<Decision, Box<DecisionFuture>> {
        let evaluation = Evaluation::of_request(&self.core, request);
        decision_future::try_decide(self, evaluation)
    }

    /// Says what each policy says of a request's keys, and charges nothing.
    ///
    /// Unlike [`decide`](Self::decide), it evaluates the policies of all categories, so that a usage
    /// page can show the whole API: each policy that finds a key in this request, as if the request
    /// cost one unit. It leaves out what is [global](crate::Policy::global), as that shows all
    /// callers, and what is unlimited. Exemptions do not count.
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
    pub fn peek_request(&self, request: &request::Parts) -> DecisionFuture {
        let evaluation = Evaluation::of_all_policies(&self.core, request);
        DecisionFuture::new(self.clone(), evaluation, self.now())
    }

    /// Says what these quotas have left, as if each were charged one unit, and charges nothing.
    /// Quotas that the caller has of its own ([`Overrides`]) count instead of those that it drew on.
    pub fn peek_quotas(&self, quotas: &[QuotaRef], caller: Option<Fingerprint>) -> DecisionFuture {
        let own = caller.and_then(|caller| self.core.overrides.get(caller.0, self.now()));
        let mut evaluation = Evaluation::of_quotas(&self.core, quotas, own.as_ref());
        evaluation.only_peek();
        DecisionFuture::new(self.clone(), evaluation, self.now())
    }

    /// Gives each of these quotas back as a whole. Where the store does not answer, the decision
    /// refuses with [`Reason::StoreUnavailable`].
    pub async fn reset_quotas(&self, quotas: &[QuotaRef]) -> Decision {
        let mut evaluation = Evaluation::of_quotas(&self.core, quotas, None);
        let mut correcting = correcting::correct(self, &evaluation, Change::Reset);
        poll_fn(|context| correcting.poll_corrected(&mut evaluation, context)).await
    }

    /// A policy, by its name, to check it without looking it up each time.
    ///
    /// # Errors
    /// [`CheckError::UnknownPolicy`].
    pub fn policy(&self, name: &str) -> Result<PolicyHandle, CheckError> {
        let rule = self.core.rules.by_name(name);
        let rule = rule.ok_or_else(|| CheckError::UnknownPolicy(name.to_owned()))?;
        Ok(PolicyHandle::new(self.clone(), rule))
    }

    /// Checks one policy, by its name, for a key. Awaiting the check charges one unit, or its
    /// [`cost`](Check::cost), if that fits; [`Check::at_once`] does the same without awaiting. Code
    /// that checks one policy again and again finds it once, by [`policy`](Self::policy).
    ///
    /// This is for work that is no HTTP request: a background job, a message from a queue. A key
    /// counts as it does in a request: an address by its network, and all keys of a
    /// [global](crate::Policy::global) policy together. Where the policy counts by several kinds of
    /// key, [`Check::kind`] names the key's kind. Where the policy has plans, [`Check::plan`] or
    /// [`Check::quota`] says the key's. An operator's [override](Self::overrides) of a caller with this
    /// key holds.
    ///
    /// # Errors
    /// A [`CheckError`] says what the check lacks, such as [`CheckError::UnknownPolicy`].
    #[inline]
    pub fn check<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(policy, key))
    }

    /// Checks as [`check`](Self::check) does, and charges nothing.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn peek<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(policy, key)).only_peek()
    }

    /// Gives `units` back that a key has used, and never more than are used now. Units that have come
    /// back by themselves are not given back again. The limiter does not know when the units were
    /// used, so a window gives back those that were used last.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] where the key has used
    /// nothing: it may be misspelt.
    pub fn give_back<'a>(
        &'a self,
        policy: &'a str,
        key: impl Into<Key<'a>>,
        units: u64,
    ) -> Refund<'a> {
        Refund::new(self.target(policy, key), Change::GiveBack(units))
    }

    /// Gives a key its whole quota back.
    ///
    /// # Errors
    /// Those of [`check`](Self::check), and [`CheckError::NothingUsed`] where the key has used
    /// nothing: it may be misspelt.
    pub fn reset<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Refund<'a> {
        Refund::new(self.target(policy, key), Change::Reset)
    }

    #[inline]
    fn target<'a>(&'a self, policy: &'a str, key: impl Into<Key<'a>>) -> Target<'a> {
        Target::new(self, self.core.rules.by_name(policy).ok_or(policy), key)
    }

    /// Blocks of callers, and quotas of their own.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        Overrides::new(self.clone())
    }

    /// The path pattern by which a request is in its category: `/v1/users/{id}`. `None` where the
    /// request is in no category, or the category's matcher has no path.
    #[must_use]
    pub fn matched_pattern(&self, request: &request::Parts) -> Option<Arc<str>> {
        self.core.rules.matcher_of(request)?.pattern().cloned()
    }

    /// What requests are held to, as data; see the module [`describe`](crate::describe).
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn describe(&self) -> crate::describe::Description {
        describe::describe(&self.core)
    }

    /// Sets the gauges `tower_quota_live_keys` and `tower_quota_held_requests`, and counts on
    /// `tower_quota_overflowed_total`: to be called when an exporter reads the metrics, or every few
    /// seconds. With the store in memory it goes over all keys, a million in a few milliseconds; no
    /// request waits for more than some 4,000 of them.
    ///
    /// Of several limiters in a process, the gauges have the sum.
    #[cfg(feature = "metrics")]
    pub fn update_gauges(&self) {
        let core = &*self.core;
        let live_keys = core.store.live_keys(self.now());
        let overflowed = |policy: &str| {
            let rule = core.rules.by_name(policy)?;
            core.store.overflowed(core.rules.rule(rule).charge.policy)
        };
        core.metrics.update_gauges(live_keys, core.queue.waiting(), overflowed);
    }

    #[inline]
    pub(crate) fn now(&self) -> Now {
        self.core.clock.now()
    }

    /// Who a request comes from.
    #[cfg(all(feature = "usage", feature = "axum"))]
    pub(crate) fn caller(&self) -> Option<&crate::key::Caller> {
        self.core.caller.as_ref()
    }

    /// Begins to correct what a decision has charged by what the response says, where it says that.
    pub(crate) fn settle(
        &self,
        decision: &Decision,
        response: &response::Parts,
    ) -> Option<Correcting> {
        correcting::settle(self, decision, response)
    }

    /// Gives back all that a decision has charged: the request was never served.
    pub(crate) fn undo(&self, decision: &Decision) {
        correcting::undo(&self.core, decision);
    }

    /// The enforced policies for requests, some of them more than once.
    pub(crate) fn request_policies(&self) -> impl Iterator<Item = &Policy> {
        let all = self.core.rules.for_requests().map(|rule| &rule.policy);
        all.filter(|policy| !policy.settings.dry_run)
    }

    /// The fingerprint of a key that anybody may see; `None` where there is no key.
    pub(crate) fn public_fingerprint(&self, outcome: &Outcome<'_>) -> Option<u64> {
        outcome.fingerprint().map(|fingerprint| self.core.keys.public(fingerprint))
    }

    /// The decision about a caller who has used up a quota.
    #[cfg(feature = "describe")]
    pub(crate) fn example_refusal(&self) -> Option<Decision> {
        describe::example_refusal(&self.core)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.core.rules.names().collect();
        f.debug_struct("Limiter").field("policies", &names).finish_non_exhaustive()
    }
}
