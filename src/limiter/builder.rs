use std::{
    collections::BTreeMap,
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
    time::Duration,
};

use super::{Inner, Limiter, Members, NO_KIND, Rule, reach};
use crate::{
    category::Category,
    clock::Clock,
    error::BuildError,
    first_requests::FirstRequests,
    key::Fingerprinter,
    limiter::Outcome,
    limiter::queue::{Line, MaxHeld},
    matcher::Matcher,
    policy::{Labels, Policy, english, validate},
    quota::MAX_WINDOW,
    store::{Announcement, Charge, MemoryStore, Mode, Store, Usage},
};
#[cfg(feature = "metrics")]
use crate::{metrics::Metrics, store::MeteredStore};

/// The longest hold: no window is longer, and sums of times do not overflow.
const LONGEST_HOLD: Duration = Duration::from_nanos(MAX_WINDOW);
const DEFAULT_MAX_HELD: usize = 10_000;
const DEFAULT_MAX_HELD_PER_KEY: usize = 100;

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
    max_held: Option<usize>,
    max_held_per_caller: Option<usize>,
    max_held_per_key: Option<usize>,
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

    /// A policy that holds for no request: only [`Limiter::check`] and its like use it.
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
        let secret = self.store.as_ref().and_then(|store| store.secret());
        let fingerprints =
            secret.map_or_else(Fingerprinter::undisclosed, Fingerprinter::with_secret);
        let (mut rules, mut by_name) = (Vec::<Rule>::new(), BTreeMap::new());
        // The first place of each.
        let mut key_sources = BTreeMap::new();
        let mut add = |rules: &mut Vec<Rule>, policy: Policy, for_requests, hold: Duration| {
            validate(&policy.settings, for_requests)?;
            let id =
                fingerprints.fingerprint(NO_KIND, &policy.settings.counts_name().into()) as u64;
            let hold = policy.settings.hold.unwrap_or(hold).min(LONGEST_HOLD);
            let place = rules.len() as u32;
            let key_source = match policy.settings.keys.identity() {
                Some(source) => *key_sources.entry(source).or_insert(place),
                None => place,
            };
            let unasked = unasked(&policy, id, place);
            let domains = fingerprints.domains(unasked.labels.kinds());
            let without_key = FirstRequests::default();
            let shard_domain = fingerprints.domain(&policy.settings.shard_kind());
            let rule =
                Rule { unasked, policy, hold, key_source, domains, shard_domain, without_key };
            let known = *by_name.entry(rule.policy.name().to_owned()).or_insert(place);
            if rules
                .get(known as usize)
                .is_some_and(|known| !known.policy.is_clone_of(&rule.policy))
            {
                let culprit = format!("policy `{}`", rule.policy.name());
                let problem = "two policies have this name; give each its own, or clone the one";
                return Err(BuildError::new(culprit, problem));
            }
            rules.push(rule);
            Ok(())
        };

        check_matchers(&self.exempt, "an exemption")?;
        for category in &self.categories {
            check_matchers(&category.matchers, &format!("category `{}`", category.name))?;
        }
        reach::check(&self.exempt, &self.every_request, &self.categories)?;
        for policy in self.every_request {
            add(&mut rules, policy, true, Duration::ZERO)?;
        }
        let every_request = 0..rules.len();
        let mut categories = Vec::new();
        for Category { name, matchers, policies, hold } in self.categories {
            let first = rules.len();
            for policy in policies {
                let mut same = rules[every_request.clone()].iter().chain(&rules[first..]);
                if same.any(|rule| rule.policy.is_clone_of(&policy)) {
                    let problem =
                        format!("policy `{}` holds for it twice; leave one out", policy.name());
                    return Err(BuildError::new(format!("category `{name}`"), problem));
                }
                add(&mut rules, policy, true, hold)?;
            }
            let rules = places(first..rules.len());
            categories.push(Members { name, matchers, rules });
        }
        for policy in self.direct {
            add(&mut rules, policy, false, Duration::ZERO)?;
        }
        let store = store(self.store);
        let inner = Inner {
            announced: announce(&*store, &rules),
            #[cfg(feature = "metrics")]
            metrics: metrics(&rules, every_request.clone(), &categories),
            exempt: self.exempt,
            all_exempt: FirstRequests::default(),
            rules,
            every_request: places(every_request),
            categories,
            by_name,
            store,
            local: OnceLock::new(),
            is_shared: secret.is_some(),
            clock: self.clock,
            fingerprints,
            line: Line::new(MaxHeld {
                all: self.max_held.unwrap_or(DEFAULT_MAX_HELD),
                per_caller: self.max_held_per_caller.unwrap_or(usize::MAX),
                per_key: self.max_held_per_key.unwrap_or(DEFAULT_MAX_HELD_PER_KEY),
            }),
            #[cfg(all(feature = "usage", feature = "axum"))]
            overrides: super::overrides::Overrides::default(),
        };
        Ok(Limiter { inner: Arc::new(inner) })
    }
}

/// What the rule of a policy, which is at `place`, says of nobody yet.
fn unasked(policy: &Policy, id: u64, place: u32) -> Outcome {
    let charge = Charge {
        mode: if policy.settings.dry_run { Mode::DryRun } else { Mode::Enforced },
        is_settled: policy.settings.settle.is_some(),
        lease: policy.settings.lease,
        ..Charge::new(id, 0, policy.algorithm(), policy.quota())
    };
    Outcome {
        labels: Labels::of(policy),
        place,
        key_kind: 0,
        refused: None,
        unreadable: None,
        replicas: 1,
        charge,
        usage: Usage::default(),
    }
}

fn places(places: Range<usize>) -> Range<u32> {
    places.start as u32..places.end as u32
}

/// Tells the store of the policies, each once.
fn announce(store: &dyn Store, rules: &[Rule]) -> Arc<[Announcement]> {
    let mut announced: Vec<Announcement> = Vec::new();
    for rule in rules {
        let fingerprint = rule.unasked.charge.policy;
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

/// The memory's needs no watch: it answers at once.
fn store(chosen: Option<Arc<dyn Store>>) -> Arc<dyn Store> {
    let Some(store) = chosen else { return Arc::new(MemoryStore::new()) };
    #[cfg(feature = "metrics")]
    let store = Arc::new(MeteredStore::new(store));
    store
}

#[cfg(feature = "metrics")]
fn metrics(rules: &[Rule], every_request: Range<usize>, categories: &[Members]) -> Metrics {
    let policies = |rules: &[Rule]| rules.iter().map(|rule| rule.policy.clone()).collect();
    let named = categories.iter().map(|category| {
        let Range { start, end } = category.rules;
        let mut of_category: Vec<_> = policies(&rules[every_request.clone()]);
        of_category.append(&mut policies(&rules[start as usize..end as usize]));
        (category.name.clone(), of_category)
    });
    Metrics::new(policies(rules), named)
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
