//! The settings of a limiter: [`LimiterBuilder`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{
    Core, Limiter,
    apply::announce,
    counts_of::CountsOf,
    current_rules::CurrentRules,
    overrides::{ActiveOverrides, CachedSource},
    queue::{MaxHeld, WaitQueue},
    rules::{Policies, RuleSet},
    validate,
};
#[cfg(feature = "metrics")]
use crate::metrics::Metrics;
use crate::{
    category::Category,
    clock::Clock,
    error::{BuildError, BuildProblem},
    first_requests::FirstRequests,
    key::{Caller, Fingerprinter},
    lock::Mutex,
    matcher::Matcher,
    policy::Policy,
    store::{MemoryStore, Store},
};

/// The settings of a [`Limiter`], from [`Limiter::builder`]. Without policies, every request
/// passes.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::{Limiter, Policy, Quota, key};
///
/// let reads = Policy::token_bucket("read", Quota::per_minute(600))
///     .key(key::bearer())
///     .or_refuse()
///     .hold(Duration::from_secs(2));
/// let limiter = Limiter::builder().policy(reads).max_held(1_000).build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Default)]
#[must_use]
pub struct LimiterBuilder {
    pub(super) policies: Policies,
    caller: Option<Caller>,
    override_source: Option<CachedSource>,
    store: Option<Box<dyn Store>>,
    /// The limiter whose counts are carried over, and the one that has them.
    counts_of: Option<Arc<Core>>,
    clock: Option<Clock>,
    pub(super) max_held: MaxHeld,
}

impl LimiterBuilder {
    /// Adds a policy for every request, in addition to the policies of the request's category.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.policies.every_request.push(policy);
        self
    }

    /// Adds a category: requests that share some policies. A request is in the first category that
    /// matches.
    pub fn category(mut self, category: Category) -> Self {
        self.policies.categories.push(category);
        self
    }

    /// Adds a policy that applies to no request: only [`Limiter::check`] and the like use it. Each key has
    /// a quota of its own. For one quota for all keys together, set [`Policy::global`].
    pub fn check_only(mut self, policy: Policy) -> Self {
        self.policies.check_only.push(policy);
        self
    }

    /// Exempts requests: they pass, and no policy counts them. A request of a blocked caller
    /// ([`Overrides`](crate::overrides::Overrides)) is refused even so.
    pub fn exempt(mut self, matcher: Matcher) -> Self {
        self.policies.exempt.push(matcher);
        self
    }

    /// Sets how the caller of a request is found, for an operator's
    /// [`Overrides`](crate::overrides::Overrides). Each policy may count by another key, but a request has one
    /// caller. Default: none; then overrides do not apply to requests.
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

    /// Sets where overrides of callers are looked up, such as a database. Default: none; then only what
    /// operators set applies.
    pub fn override_source(mut self, source: CachedSource) -> Self {
        self.override_source = Some(source);
        self
    }

    /// Sets the store, which keeps the counts. Default: [`MemoryStore::new`], in this process.
    pub fn store(mut self, store: impl Store) -> Self {
        self.store = Some(Box::new(store));
        self
    }

    /// Carries over the counts of another limiter: this one uses its store, its clock and its secret, so
    /// that each policy goes on with what the policy of the same name, algorithm and kind of key has
    /// counted, units in flight and penalties included. Both limiters may be in use, and count together.
    ///
    /// [`Limiter::apply`] does the same without a second limiter: prefer it where the settings that it can
    /// change are enough. Carry counts over where all else changes: the [caller](Self::caller), the
    /// [override source](Self::override_source), or which layer has which policies. Not carried over are:
    ///
    /// - overrides, unless the store shares them: [`save`](crate::overrides::Overrides::save) them, and
    ///   [`load`](crate::overrides::Overrides::load) them into the new limiter;
    /// - the requests that the other limiter [holds](crate::Policy::hold): they wait there, and this one
    ///   does not see what is reserved for them;
    /// - what the other one has counted by itself while its store did not answer.
    ///
    /// The other limiter is kept in memory as long as this one. It is an error of [`build`](Self::build)
    /// to set a store or a clock too. Default: the counts begin with nothing used.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota, key};
    ///
    /// let mails = || Policy::fixed_window("mails", Quota::per_day(100));
    /// let before = Limiter::builder().check_only(mails()).build()?;
    /// before.check("mails", "tenant-7").cost(30).at_once()?;
    ///
    /// let after = Limiter::builder()
    ///     .caller(key::bearer())
    ///     .check_only(mails())
    ///     .counts_of(&before)
    ///     .build()?;
    /// assert_eq!(after.peek("mails", "tenant-7").at_once()?.remaining(), 70);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn counts_of(mut self, limiter: &Limiter) -> Self {
        let core = &limiter.core;
        self.counts_of = Some(Arc::clone(core.counts_of.as_ref().unwrap_or(core)));
        self
    }

    /// Sets the clock. Default: [`Clock::system`].
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Sets how many requests may be held at once, over all keys. Further requests are refused at
    /// once. Default: 10,000.
    pub fn max_held(mut self, requests: usize) -> Self {
        self.max_held.all = requests;
        self
    }

    /// Sets how many requests of one caller may be held at once, over all policies. Further
    /// requests are refused at once. Default: as many as are still free of
    /// [`max_held`](Self::max_held). So one caller holds at most half of them, and two callers hold
    /// a third each.
    ///
    /// Here, a caller is each key that a request has under its policies, except for
    /// [global](Policy::global) ones. A request with several keys counts for each of them. If all
    /// policies are global, this bound does not apply.
    ///
    /// If clients can invent keys, such as email addresses, one client is many callers. Then add a
    /// policy that counts by [`ClientIp`](crate::key::ClientIp), which may be a [dry
    /// run](Policy::dry_run).
    pub fn max_held_per_caller(mut self, requests: usize) -> Self {
        self.max_held.per_caller = requests;
        self
    }

    /// Sets how many requests may be held at once for one key of a policy. Further requests are
    /// refused at once. Default: 100.
    ///
    /// Under a [global](Policy::global) policy all callers share one queue. There, one caller holds
    /// at most as many requests as are still free in it. In a [fair](Policy::fair_by) line, each tenant
    /// holds its share at most, once others come.
    pub fn max_held_per_key(mut self, requests: usize) -> Self {
        self.max_held.per_key = requests;
        self
    }

    /// Builds the limiter.
    ///
    /// # Errors
    /// Settings that cannot work. The error has all of them: each names its policy or category, and
    /// says what to write instead.
    pub fn build(self) -> Result<Limiter, BuildError> {
        BuildError::if_any(self.problems())?;
        let secret = self.used_store().and_then(Store::secret);
        let (keys, clock, store): (_, _, Box<dyn Store>) = match &self.counts_of {
            Some(other) => {
                let store = Box::new(CountsOf(Arc::clone(other)));
                (other.keys.clone(), other.clock.clone(), store)
            }
            None => (
                secret.map_or_else(Fingerprinter::undisclosed, Fingerprinter::with_secret),
                self.clock.unwrap_or_default(),
                self.store.unwrap_or_else(|| Box::new(MemoryStore::new())),
            ),
        };
        let rules = RuleSet::new(self.policies, &keys);
        let callers = self.caller.as_ref().map_or(&keys, Caller::fingerprints);
        let shared = store.overrides().map(|store| (store, callers.identity()));
        let overrides = ActiveOverrides::new(clock.clone(), shared, self.override_source);
        let core = Core {
            announced: Mutex::default(),
            dependents: Mutex::default(),
            rules: CurrentRules::new(rules),
            store,
            counts_of: self.counts_of,
            local: OnceLock::new(),
            is_shared: secret.is_some(),
            clock,
            keys,
            caller: self.caller,
            overrides,
            without_caller: FirstRequests::default(),
            queue: WaitQueue::new(self.max_held),
            #[cfg(feature = "metrics")]
            metrics: Metrics::default(),
        };
        announce(&core);
        Ok(Limiter { core: Arc::new(core) })
    }

    /// The enforced policies for requests. A policy in several categories comes several times.
    #[cfg(feature = "config")]
    pub(crate) fn request_policies(&self) -> impl Iterator<Item = &Policy> {
        let categories = self.policies.categories.iter().flat_map(|category| &category.policies);
        let all = self.policies.every_request.iter().chain(categories).flat_map(Policy::waterfall);
        all.filter(|policy| !policy.settings.dry_run)
    }

    /// What is wrong with the settings, in their order.
    pub(crate) fn problems(&self) -> Vec<BuildProblem> {
        let caller = self.caller.as_ref().and_then(|caller| caller.extractor.problem());
        let mut problems = validate::problems(&self.policies);
        problems.extend(caller.map(|problem| BuildProblem::new("caller", problem)));
        problems.extend(self.override_source.iter().flat_map(CachedSource::problems));
        if self.override_source.is_some() && self.caller.is_none() {
            let problem =
                "it is asked for the caller of a request, and none is known; add `.caller(…)`";
            problems.push(BuildProblem::new("override source", problem));
        }
        let set = [("store", self.store.is_some()), ("clock", self.clock.is_some())];
        let contradicts = |(setting, is_set): (&'static str, bool)| {
            let problem = format!(
                "it is that of the limiter whose counts are carried over; leave `.{setting}(…)` or \
                 `.counts_of(…)` out"
            );
            let problem = BuildProblem::new(setting, problem).in_setting(setting);
            (is_set && self.counts_of.is_some()).then_some(problem)
        };
        problems.extend(set.into_iter().filter_map(contradicts));
        let store = self.used_store();
        let not_counted = store.map(|store| validate::not_counted(&self.policies, store));
        problems.extend(not_counted.into_iter().flatten());
        let secret = store.and_then(Store::secret);
        if let (Some(secret), Some(caller)) = (secret, &self.caller)
            && !caller.adopt(secret)
        {
            problems.push(BuildProblem::new("caller", OTHER_SECRET));
        }
        problems
    }

    /// The store, if it is set or another limiter's.
    fn used_store(&self) -> Option<&dyn Store> {
        let of_other = self.counts_of.as_ref().map(|other| &*other.store);
        of_other.or(self.store.as_deref())
    }

    /// Which of the settings an apply cannot change. `caller` is the limiter's.
    pub(super) fn problems_of_change(&self, caller: Option<&Caller>) -> Vec<BuildProblem> {
        let is_other = |new: &Caller| caller.is_none_or(|caller| !caller.may_become(new));
        let fixed = [
            ("caller", self.caller.as_ref().is_some_and(is_other)),
            ("override_source", self.override_source.is_some()),
            ("store", self.store.is_some()),
            ("counts_of", self.counts_of.is_some()),
            ("clock", self.clock.is_some()),
        ];
        let changed = fixed.into_iter().filter(|(_, is_changed)| *is_changed);
        let problem = |(setting, _): (&'static str, bool)| {
            let problem = format!(
                "it cannot change while the limiter runs; leave `.{setting}(…)` out, or build \
                 another limiter"
            );
            BuildProblem::new(setting.replace('_', " "), problem).in_setting(setting)
        };
        changed.map(problem).collect()
    }
}

const OTHER_SECRET: &str = "it has another secret than the store, as a log or another limiter uses it \
                            already; add `.secret(…)` to the `Caller`, the same for all replicas";

impl fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterBuilder").field("policies", &self.policies).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::Now,
        quota::Quota,
        store::{Announcement, Charge, Correction, StoreError, StoreFuture},
    };

    #[test]
    fn each_bound_of_held_requests_is_set_by_its_own_step() {
        let builder = Limiter::builder().max_held(1).max_held_per_caller(2).max_held_per_key(3);
        let max = builder.max_held;
        assert_eq!((max.all, max.per_caller, max.per_key), (1, 2, 3));
    }

    /// A store that keeps the names that were announced.
    struct Announced(Arc<Mutex<Vec<String>>>);

    impl Store for Announced {
        fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
            StoreFuture::ready(Err(StoreError::new("it only keeps names")))
        }

        fn correct(&self, _: &[Correction], _: Now) -> StoreFuture {
            StoreFuture::ready(Err(StoreError::new("it only keeps names")))
        }

        fn announce(&self, policies: &Arc<[Announcement]>) {
            self.0.lock().extend(policies.iter().map(|policy| policy.name.clone()));
        }
    }

    #[test]
    fn a_policy_of_two_categories_is_announced_once() {
        let names = Arc::<Mutex<Vec<String>>>::default();
        let policy = Policy::fixed_window("shared", Quota::per_hour(1)).global();
        let category = |name: &str| {
            let matcher = Matcher::path(&format!("/{name}"));
            Category::new(name).on(matcher).policy(policy.clone())
        };
        let limiter = Limiter::builder()
            .category(category("a"))
            .category(category("b"))
            .check_only(Policy::fixed_window("jobs", Quota::per_hour(1)))
            .store(Announced(Arc::clone(&names)))
            .build()
            .unwrap();
        assert_eq!(*names.lock(), ["shared", "jobs"]);
        assert_eq!(format!("{limiter:?}"), r#"Limiter { policies: ["shared", "jobs"], .. }"#);
    }
}
