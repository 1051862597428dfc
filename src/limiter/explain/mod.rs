//! Why a request would pass or be refused: what [`Limiter::explain`](crate::Limiter::explain) returns.
//!
//! An explanation takes the same steps as a decision, and keeps what it sees on the way. It charges
//! nothing, and counts in no metric, log or [warning](crate::warning).
//!
//! ```
//! use http::Request;
//! use tower_quota::{Category, Limiter, Matcher, Policy, Quota, explain::ExpectedVerdict, key};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let reads = Policy::token_bucket("read", Quota::per_minute(100)).key(key::bearer()).or_refuse();
//! let category = Category::new("read").on(Matcher::get("/v1/users/{id}")).policy(reads);
//! let limiter = Limiter::builder().category(category).build()?;
//!
//! let request = Request::get("/v1/users/7").header("authorization", "Bearer secret").body(())?;
//! let explanation = limiter.explain(&request.into_parts().0).await;
//! assert_eq!(explanation.verdict, ExpectedVerdict::Admitted);
//! assert_eq!(explanation.policies[0].numbers.as_ref().map(|numbers| numbers.remaining), Some(99));
//! let text = explanation.to_string();
//! assert!(text.contains("category `read`: GET, HEAD /v1/users/{id}"), "{text}");
//! assert!(!text.contains("secret"));
//! # Ok(())
//! # }
//! ```
//!
//! # What it shows, and what it does not
//! It shows names and settings of the limiter: policies, categories, plans in a table, kinds of key,
//! path patterns. Of the request, it shows addresses only: a policy that counts by address cannot be
//! explained without them. It shows no key, no header, no path and no query, neither as `Display`,
//! `Debug` nor JSON. So it may be logged where addresses may be.

mod policy;
mod steps;
mod text;

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use serde::Serialize;

pub use self::policy::{Numbers, PolicyExplanation, PolicyVerdict, QuotaFrom, TriedKey};
use self::steps::Steps;
use super::{
    Core, Decision, Limiter, Reason, Verdict,
    current_rules::KeptRules,
    decide::{Foreseen, foresee},
    evaluation::Evaluation,
    queue::Turn,
};
use crate::{
    clock::Now,
    describe::{Requests, optional_seconds, seconds},
    first_requests::without_counting,
    key::AddressWalk,
    override_record::Override,
};

/// What would be decided about a request now, and why. From
/// [`Limiter::explain`](crate::Limiter::explain).
///
/// `Display` is plain text of several lines. As JSON, durations are in seconds. The module has an
/// example.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Explanation {
    /// What would be decided.
    #[serde(flatten)]
    pub verdict: ExpectedVerdict,
    /// The matchers that were tried, in order: those of exemptions, and then those of categories, up to
    /// the first that matches. A path that routers read in different ways is tried again in all its
    /// readings.
    pub tried: Vec<TriedMatcher>,
    /// Whether an exemption matches, so that no policy counts the request.
    pub exempt: bool,
    /// The request's category.
    pub category: Option<String>,
    /// Further categories in which the request counts, as routers read its path in different ways.
    pub other_categories: Vec<String>,
    /// The request's caller; `None` if no caller has an override now, so that it was not read, or if the
    /// limiter has no [`caller`](crate::LimiterBuilder::caller).
    pub caller: Option<CallerExplanation>,
    /// How the client's address was found, for each different way in which the settings find it.
    pub addresses: Vec<AddressWalk>,
    /// The policies that apply, in the order in which they were evaluated.
    pub policies: Vec<PolicyExplanation>,
    /// Whether the store does not answer, so that each policy does what it is [set to do
    /// then](crate::Policy::on_store_failure).
    pub without_store: bool,
}

/// The verdict of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
#[non_exhaustive]
pub enum ExpectedVerdict {
    /// The request would pass.
    Admitted,
    /// The request would be held, and would then pass, if the units come back as expected.
    Held {
        /// How long.
        #[serde(rename = "wait_seconds", serialize_with = "seconds")]
        wait: Duration,
    },
    /// The request would be refused.
    Refused {
        /// The policy that refuses, with the longest wait. `None` if the caller is blocked, or cannot be
        /// read while callers have overrides, or if the override source does not answer.
        #[serde(rename = "refused_by")]
        policy: Option<String>,
        /// Why.
        reason: Reason,
        /// How long to wait until the same request passes; `None` if waiting does not help.
        #[serde(rename = "retry_after_seconds", serialize_with = "optional_seconds")]
        retry_after: Option<Duration>,
    },
}

/// A matcher that was compared with a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct TriedMatcher {
    /// The category; `None` for an exemption.
    pub category: Option<String>,
    /// The requests that it matches: the pattern, not the path.
    pub requests: Requests,
    /// Whether all readings of the path were tried, and not only the path as it was sent.
    pub in_all_readings: bool,
    /// Whether it matches.
    pub matches: bool,
}

/// The caller in an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CallerExplanation {
    /// The kind of key by which the limiter knows callers.
    pub key: TriedKey,
    /// How long the caller is still blocked; `None` if it is not.
    #[serde(rename = "blocked_seconds", serialize_with = "optional_seconds")]
    pub blocked: Option<Duration>,
    /// Whether the [override source](crate::overrides::OverrideSource) blocks the caller, and no operator for as long.
    pub blocked_by_source: bool,
    /// What operators have set for the caller, and why.
    pub overrides: Vec<Override>,
    /// Whether the [override source](crate::overrides::OverrideSource) does not answer, and nothing is remembered
    /// of the caller.
    pub source_unavailable: bool,
}

/// A request that was evaluated to be explained.
struct Evaluated {
    now: Now,
    rules: KeptRules,
    evaluation: Evaluation,
    turn: Option<Turn>,
    explanation: Explanation,
    /// The number under which each policy is counted.
    counted_as: Vec<u64>,
}

impl Evaluated {
    fn new(core: &Core, request: &Parts) -> Self {
        let (now, rules) = (core.clock.now(), core.rules());
        let mut steps = Steps::new(now, request);
        let (evaluation, turn) = without_counting(|| {
            let evaluation = Evaluation::of_request_traced(core, &rules, request, &mut steps);
            let turn = evaluation.turn(core, &rules, Some(request));
            (evaluation, turn)
        });
        let rules = rules.keep().for_long();
        let (explanation, counted_as) = steps.end();
        Self { now, rules, evaluation, turn, explanation, counted_as }
    }
}

/// Explains a request. The decision is the one that would be made, if the request is not held.
pub(crate) fn explain(
    limiter: &Limiter,
    request: &Parts,
) -> impl Future<Output = (Explanation, Decision)> + Send + use<> {
    let core = Arc::clone(&limiter.core);
    let mut evaluated = Evaluated::new(&core, request);
    // The overrides of the caller may not be known yet. Then the request is evaluated once more.
    let later = evaluated.evaluation.awaited().is_some().then(|| request.clone());
    async move {
        if let (Some(awaited), Some(request)) = (evaluated.evaluation.awaited(), later) {
            awaited.await;
            evaluated = Evaluated::new(&core, &request);
        }
        let Evaluated { now, rules, mut evaluation, turn, mut explanation, counted_as } = evaluated;
        let rules = core.rules.of(&rules);
        if let Some(awaited) = evaluation.awaited() {
            awaited.await;
        }
        evaluation.apply_overrides(&core, rules);
        let Foreseen { decision, held } = foresee(&core, rules, evaluation, turn, now).await;
        for (policy, counted_as) in explanation.policies.iter_mut().zip(counted_as) {
            policy.decided(&decision, counted_as);
        }
        explanation.without_store = decision.record.counted_locally;
        explanation.verdict = ExpectedVerdict::new(&decision, held);
        (explanation, decision)
    }
}

impl ExpectedVerdict {
    fn new(decision: &Decision, held: Option<Duration>) -> Self {
        if let Some(wait) = held {
            return Self::Held { wait };
        }
        let Some(reason) = decision.reason() else { return Self::Admitted };
        let policy = match decision.verdict() {
            Verdict::Refused(outcome) => Some(outcome.policy().to_owned()),
            Verdict::Admitted
            | Verdict::Blocked { .. }
            | Verdict::UnreadableCaller { .. }
            | Verdict::SourceUnavailable => None,
        };
        Self::Refused { policy, reason, retry_after: decision.retry_after() }
    }
}
