//! The core without HTTP: which policies, whose quota, may it pass.

use std::{
    collections::HashMap,
    fmt,
    future::{Future, IntoFuture},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::request::Parts;
use smallvec::SmallVec;

use crate::{
    category::{Category, any_matches},
    clock::Clock,
    decision::{Decision, Outcome, Reason},
    error::BuildError,
    key::{Fingerprinter, Key},
    matcher::Matcher,
    policy::Policy,
    quota::Quota,
    store::{Charge, MemoryStore, Store, StoreFuture, Usage},
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
    categories: Vec<(Vec<Matcher>, Vec<Rule>)>,
    by_name: HashMap<String, Rule>,
    store: Arc<dyn Store>,
    clock: Clock,
    fingerprints: Fingerprinter,
}

/// A policy as the limiter holds it.
#[derive(Clone)]
struct Rule {
    policy: Policy,
    /// Keeps the counts of policies apart in the store.
    id: u128,
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
            let category =
                inner.categories.iter().find(|(matchers, _)| any_matches(matchers, request));
            let of_category = category.map_or(&[][..], |(_, rules)| rules);
            for rule in inner.every_request.iter().chain(of_category) {
                asked.ask(rule, request, &inner.fingerprints);
            }
        }
        self.charge(asked)
    }

    /// Asks one policy, by its name, about a key. Awaiting it charges one unit, unless told
    /// otherwise, when that fits.
    ///
    /// This is for work that is no HTTP request: a background job, a message from a queue.
    ///
    /// # Errors
    /// Awaiting fails with [`UnknownPolicy`] when no policy has that name.
    pub fn check<'a>(&self, policy: &'a str, key: impl Into<Key<'a>>) -> Check<'a> {
        Check { limiter: self.clone(), policy, key: key.into(), cost: 1, quota: None }
    }

    /// The policies that requests are held to, some of them more than once.
    pub(crate) fn request_policies(&self) -> impl Iterator<Item = &Policy> {
        let of_categories = self.inner.categories.iter().flat_map(|(_, rules)| rules);
        self.inner.every_request.iter().chain(of_categories).map(|rule| &rule.policy)
    }

    /// The fingerprint of the key that may be told to anybody; `None` where there is no key.
    pub(crate) fn public_fingerprint(&self, outcome: &Outcome) -> Option<u64> {
        outcome.fingerprint.map(|fingerprint| self.inner.fingerprints.public(fingerprint))
    }

    fn charge(&self, asked: Asked) -> DecisionFuture {
        let now = self.inner.clock.now();
        // A request that lacks a key is refused by that, and costs nothing anywhere.
        let waits_for_store = !asked.charges.is_empty() && asked.missing.is_empty();
        let usages = waits_for_store.then(|| self.inner.store.charge(&asked.charges, now));
        DecisionFuture { asked, usages, decided_at: now.unix() }
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.inner.by_name.keys().collect();
        f.debug_struct("Limiter").field("policies", &names).finish_non_exhaustive()
    }
}

/// What a request's policies ask of the store.
#[derive(Default)]
struct Asked {
    charges: SmallVec<[Charge; 4]>,
    /// The policies of `charges`, and the kinds of key found.
    policies: SmallVec<[(Policy, u8); 4]>,
    /// The policies that refuse because the request has no key.
    missing: SmallVec<[Outcome; 1]>,
}

impl Asked {
    fn ask(&mut self, rule: &Rule, request: &Parts, fingerprints: &Fingerprinter) {
        let policy = &rule.policy;
        let quota = policy.quota_of(request);
        if quota.is_unlimited() {
            return;
        }
        match policy.key_of(request) {
            Some((kind, key)) => {
                self.charge(
                    rule,
                    kind,
                    fingerprints.fingerprint(kind, &key),
                    quota,
                    policy.cost_of(request),
                );
            }
            None if policy.skips_without_key() => {}
            None => self.missing.push(Outcome {
                policy: policy.clone(),
                key_kind: 0,
                fingerprint: None,
                quota,
                refused: Some(Reason::MissingKey),
                remaining: 0,
                reset: Duration::ZERO,
                wait: Duration::ZERO,
            }),
        }
    }

    fn charge(&mut self, rule: &Rule, kind: u8, key: u128, quota: Quota, cost: u64) {
        let Rule { policy, id } = rule;
        let algorithm = policy.algorithm();
        self.charges.push(Charge { policy: *id, key, algorithm, quota, cost });
        self.policies.push((policy.clone(), kind));
    }
}

/// A [`Decision`] to come. In memory it is there at the first poll.
#[must_use = "nothing is decided unless it is awaited"]
pub struct DecisionFuture {
    asked: Asked,
    usages: Option<StoreFuture>,
    decided_at: Duration,
}

impl Future for DecisionFuture {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let usages = match &mut self.usages {
            Some(usages) => ready!(Pin::new(usages).poll(context)),
            None => SmallVec::new(),
        };
        let asked = std::mem::take(&mut self.asked);
        if self.usages.is_none() {
            return Poll::Ready(Decision::new(
                asked.missing.into_iter().collect(),
                self.decided_at,
            ));
        }
        let outcomes = asked.policies.into_iter().zip(asked.charges).zip(usages).map(outcome);
        Poll::Ready(Decision::new(outcomes.collect(), self.decided_at))
    }
}

fn outcome((((policy, key_kind), charge), usage): (((Policy, u8), Charge), Usage)) -> Outcome {
    let Usage { wait, remaining, reset } = usage;
    let refused = match wait {
        Duration::ZERO => None,
        _ if charge.cost > policy.capacity(&charge.quota) => Some(Reason::CostExceedsQuota),
        _ => Some(Reason::QuotaExceeded),
    };
    let fingerprint = (!policy.is_global()).then_some(charge.key);
    let quota = charge.quota;
    Outcome { policy, key_kind, fingerprint, quota, refused, remaining, reset, wait }
}

impl fmt::Debug for DecisionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionFuture").finish_non_exhaustive()
    }
}

/// A question to one policy; made by [`Limiter::check`] and asked by awaiting it.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .direct(Policy::token_bucket("export rows", Quota::per_hour(10_000)))
///     .build()?;
/// let decision = limiter.check("export rows", "tenant-7").cost(2_500).await?;
/// assert_eq!(decision.outcomes()[0].remaining(), 7_500);
/// assert!(limiter.check("exprot rows", "tenant-7").await.is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "nothing is asked unless it is awaited"]
pub struct Check<'a> {
    limiter: Limiter,
    policy: &'a str,
    key: Key<'a>,
    cost: u64,
    quota: Option<Quota>,
}

impl Check<'_> {
    /// How many units it uses. Default: 1.
    pub fn cost(mut self, units: u64) -> Self {
        self.cost = units;
        self
    }

    /// The quota of this key's plan. Default: the policy's own.
    pub fn quota(mut self, quota: Quota) -> Self {
        self.quota = Some(quota);
        self
    }

    fn ask(self) -> Result<DecisionFuture, UnknownPolicy> {
        let Inner { by_name, fingerprints, .. } = &*self.limiter.inner;
        let rule = by_name.get(self.policy).ok_or_else(|| UnknownPolicy(self.policy.to_owned()))?;
        let mut asked = Asked::default();
        let quota = rule.policy.planned(self.quota);
        if !quota.is_unlimited() {
            asked.charge(rule, 0, fingerprints.fingerprint(0, &self.key), quota, self.cost);
        }
        Ok(self.limiter.charge(asked))
    }
}

impl<'a> IntoFuture for Check<'a> {
    type Output = Result<Decision, UnknownPolicy>;
    type IntoFuture = CheckFuture;

    fn into_future(self) -> CheckFuture {
        CheckFuture(self.ask())
    }
}

/// The answer to a [`Check`] to come.
#[derive(Debug)]
#[must_use = "nothing is decided unless it is awaited"]
pub struct CheckFuture(Result<DecisionFuture, UnknownPolicy>);

impl Future for CheckFuture {
    type Output = Result<Decision, UnknownPolicy>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Ok(decision) => Pin::new(decision).poll(context).map(Ok),
            Err(unknown) => Poll::Ready(Err(unknown.clone())),
        }
    }
}

/// No policy of the limiter has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownPolicy(String);

impl fmt::Display for UnknownPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no policy is named `{}`; add it to the limiter, as with `.direct(…)`", self.0)
    }
}

impl std::error::Error for UnknownPolicy {}

/// Collects what a [`Limiter`] needs.
#[derive(Default)]
#[must_use]
pub struct LimiterBuilder {
    exempt: Vec<Matcher>,
    every_request: Vec<Policy>,
    categories: Vec<Category>,
    direct: Vec<Policy>,
    store: Option<Arc<dyn Store>>,
    clock: Clock,
}

impl LimiterBuilder {
    /// A policy that every request must pass, beside those of its category.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.every_request.push(policy);
        self
    }

    /// A category of requests with policies of its own. The first that matches a request counts.
    pub fn category(mut self, category: Category) -> Self {
        self.categories.push(category);
        self
    }

    /// A policy that holds for no request: it is asked through [`Limiter::check`].
    pub fn direct(mut self, policy: Policy) -> Self {
        self.direct.push(policy);
        self
    }

    /// Requests that are not counted at all.
    pub fn exempt(mut self, matcher: Matcher) -> Self {
        self.exempt.push(matcher);
        self
    }

    /// Where counts live. Default: [`MemoryStore::new`].
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Arc::new(store));
        self
    }

    /// Where the time is read. Default: [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// A setting that cannot work: the error names its policy or category and says what to write
    /// instead.
    pub fn build(self) -> Result<Limiter, BuildError> {
        let fingerprints = Fingerprinter::random();
        let mut by_name = HashMap::new();
        let mut add = |policy: Policy, for_requests| {
            policy.validate(for_requests)?;
            let id = fingerprints.fingerprint(u8::MAX, &policy.name().into());
            let rule = Rule { policy, id };
            let known =
                by_name.entry(rule.policy.name().to_owned()).or_insert_with(|| rule.clone());
            if !known.policy.is(&rule.policy) {
                let culprit = format!("policy `{}`", rule.policy.name());
                let problem = "two policies have this name; give each its own, or clone the one";
                return Err(BuildError::new(culprit, problem));
            }
            Ok(rule)
        };

        check_matchers(&self.exempt, "an exemption")?;
        let every_request: Vec<Rule> = self
            .every_request
            .into_iter()
            .map(|policy| add(policy, true))
            .collect::<Result<_, _>>()?;
        let mut categories = Vec::new();
        for Category { name, matchers, policies } in self.categories {
            check_matchers(&matchers, &format!("category `{name}`"))?;
            if matchers.is_empty() {
                let problem = "it holds for no request; add `.on(Matcher::…)`";
                return Err(BuildError::new(format!("category `{name}`"), problem));
            }
            let mut rules: Vec<Rule> = Vec::new();
            for policy in policies {
                if every_request.iter().chain(&rules).any(|rule| rule.policy.is(&policy)) {
                    let problem =
                        format!("policy `{}` holds for it twice; leave one out", policy.name());
                    return Err(BuildError::new(format!("category `{name}`"), problem));
                }
                rules.push(add(policy, true)?);
            }
            categories.push((matchers, rules));
        }
        for policy in self.direct {
            add(policy, false)?;
        }
        let inner = Inner {
            exempt: self.exempt,
            every_request,
            categories,
            by_name,
            store: self.store.unwrap_or_else(|| Arc::new(MemoryStore::new())),
            clock: self.clock,
            fingerprints,
        };
        Ok(Limiter { inner: Arc::new(inner) })
    }
}

fn check_matchers(matchers: &[Matcher], culprit: &str) -> Result<(), BuildError> {
    match matchers.iter().find_map(Matcher::problem) {
        Some(problem) => Err(BuildError::new(culprit, problem)),
        None => Ok(()),
    }
}

impl fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterBuilder")
            .field("every_request", &self.every_request)
            .field("categories", &self.categories)
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}
