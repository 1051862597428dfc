//! What a limiter is made of: [`LimiterBuilder`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

#[cfg(feature = "metrics")]
use super::rules::Rule;
use super::{
    Core, Limiter,
    overrides::OverrideTable,
    queue::{MaxHeld, WaitQueue},
    rules::{Policies, RuleSet},
};
use crate::{
    category::Category,
    clock::Clock,
    error::BuildError,
    key::{Caller, Fingerprinter},
    matcher::Matcher,
    policy::{Policy, english},
    store::{Announcement, MemoryStore, Store},
};
#[cfg(feature = "metrics")]
use crate::{
    metrics::{CountedPolicy, Metrics},
    store::MeteredStore,
};

const DEFAULT_MAX_HELD: usize = 10_000;
const DEFAULT_MAX_HELD_PER_KEY: usize = 100;

/// Collects what a [`Limiter`] needs.
#[derive(Default)]
#[must_use]
pub struct LimiterBuilder {
    policies: Policies,
    caller: Option<Caller>,
    store: Option<Arc<dyn Store>>,
    clock: Clock,
    max_held: Option<usize>,
    max_held_per_caller: Option<usize>,
    max_held_per_key: Option<usize>,
}

impl LimiterBuilder {
    /// A policy that every request must pass, beside those of its category.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.every_request.push(policy);
        self
    }

    /// A category of requests with policies of its own. The first that matches a request counts.
    pub fn category(mut self, category: Category) -> Self {
        self.policies.categories.push(category);
        self
    }

    /// A policy that holds for no request: only [`Limiter::check`] and its like use it.
    pub fn check_only(mut self, policy: Policy) -> Self {
        self.policies.check_only.push(policy);
        self
    }

    /// Requests that are not counted at all.
    pub fn exempt(mut self, matcher: Matcher) -> Self {
        self.policies.exempt.push(matcher);
        self
    }

    /// Who a request comes from: whom an operator's [`Overrides`](crate::Overrides) are for. A key of
    /// a policy says whose quota a request draws on; a request has one caller, whatever its policies.
    /// Default: none, and then requests have no overrides.
    ///
    /// ```
    /// use tower_quota::{Limiter, key};
    ///
    /// let limiter = Limiter::builder().caller(key::header("x-api-key")).build()?;
    /// # let _ = limiter;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn caller(mut self, caller: impl Into<Caller>) -> Self {
        self.caller = Some(caller.into());
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

    /// How many requests may be held at once, over all keys; beyond, they are refused at once.
    /// Default: 10,000.
    pub fn max_held(mut self, requests: usize) -> Self {
        self.max_held = Some(requests);
        self
    }

    /// How many requests of one caller may be held at once, over all policies; beyond, they are
    /// refused at once. Default: as many as are still free of [`max_held`](Self::max_held). So one
    /// caller holds half of them at most, and two callers hold a third each.
    ///
    /// A caller is a key: each of the keys that a request has under its policies, but for
    /// [global](Policy::global) ones. A request with several keys counts for each of them. Where all
    /// policies are global, callers are not distinguished. A key that callers can make up, such as
    /// an email address, makes as many callers as it has values: then add a policy that counts by
    /// [`ClientIp`](crate::key::ClientIp), if only as a [dry run](Policy::dry_run).
    pub fn max_held_per_caller(mut self, requests: usize) -> Self {
        self.max_held_per_caller = Some(requests);
        self
    }

    /// How many requests may be held at once for one key of a policy; beyond, they are refused at
    /// once. Default: 100.
    ///
    /// All callers share the line of a [global](Policy::global) policy: there, each holds no more
    /// requests than are still free of it.
    pub fn max_held_per_key(mut self, requests: usize) -> Self {
        self.max_held_per_key = Some(requests);
        self
    }

    /// The limiter.
    ///
    /// # Errors
    /// A setting that cannot work: the error names its policy or category and says what to write
    /// instead.
    pub fn build(self) -> Result<Limiter, BuildError> {
        if let Some(problem) = self.caller.as_ref().and_then(Caller::problem) {
            return Err(BuildError::new("caller", problem));
        }
        let secret = self.store.as_ref().and_then(|store| store.secret());
        let keys = secret.map_or_else(Fingerprinter::undisclosed, Fingerprinter::with_secret);
        let rules = RuleSet::new(self.policies, &keys)?;
        let store = meter(self.store);
        let core = Core {
            announced: announce(&*store, &rules),
            #[cfg(feature = "metrics")]
            metrics: metrics(&rules),
            rules,
            store,
            local: OnceLock::new(),
            is_shared: secret.is_some(),
            clock: self.clock,
            keys,
            caller: self.caller,
            overrides: OverrideTable::default(),
            queue: WaitQueue::new(MaxHeld {
                all: self.max_held.unwrap_or(DEFAULT_MAX_HELD),
                per_caller: self.max_held_per_caller.unwrap_or(usize::MAX),
                per_key: self.max_held_per_key.unwrap_or(DEFAULT_MAX_HELD_PER_KEY),
            }),
        };
        Ok(Limiter { core: Arc::new(core) })
    }
}

/// Announces each policy to the store once.
fn announce(store: &dyn Store, rules: &RuleSet) -> Arc<[Announcement]> {
    let mut announced: Vec<Announcement> = Vec::new();
    for rule in rules.all() {
        let fingerprint = rule.charge.policy;
        if announced.iter().all(|known| known.policy != fingerprint) {
            announced.push(Announcement::new(
                rule.policy.name(),
                fingerprint,
                english::settings(&rule.policy),
            ));
        }
    }
    let announced = announced.into();
    store.announce(&announced);
    announced
}

/// The store with metrics. The memory needs none, as it answers at once.
fn meter(store: Option<Arc<dyn Store>>) -> Arc<dyn Store> {
    let Some(store) = store else { return Arc::new(MemoryStore::new()) };
    #[cfg(feature = "metrics")]
    let store = Arc::new(MeteredStore::new(store));
    store
}

#[cfg(feature = "metrics")]
fn metrics(rules: &RuleSet) -> Metrics {
    let policy = |rule: &Rule| CountedPolicy {
        name: &rule.entry.labels.policy,
        is_dry_run: rule.policy.settings.dry_run,
    };
    let every_request = || rules.for_every_request().map(policy);
    let named = rules.categories().map(|(name, _, rules)| {
        (name.to_owned(), every_request().chain(rules.map(policy)).collect())
    });
    Metrics::new(rules.all().map(policy), named)
}

impl fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterBuilder")
            .field("every_request", &self.policies.every_request)
            .field("categories", &self.policies.categories)
            .field("check_only", &self.policies.check_only)
            .finish_non_exhaustive()
    }
}
