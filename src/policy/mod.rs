//! A named quota, its algorithm, its key, and what a request costs: [`Policy`].

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

pub(crate) mod english;
mod on_store_failure;
mod plans;
mod reading;
mod validate;

use std::{
    fmt,
    sync::{Arc, Once},
    time::Duration,
};

use http::{request::Parts, response};

pub use self::on_store_failure::OnStoreFailure;
use self::plans::Plans;
pub(crate) use crate::limiter::Labels;
use crate::{algorithm::Algorithm, key::KeyExtractor, quota::Quota};

type Plan = Arc<dyn Fn(&Parts) -> Option<Quota> + Send + Sync>;
type Cost = Arc<dyn Fn(&Parts) -> u64 + Send + Sync>;
type Settle = Arc<dyn Fn(&response::Parts) -> Option<u64> + Send + Sync>;

/// A named quota, how it is counted, whose it is, and what a request costs.
///
/// A clone is the same policy: categories that each hold a clone share its counts. What a limiter's
/// policies and their kinds of key are called is kept for the life of the process, each name once:
/// names are words of the configuration, not of callers.
///
/// A policy that requests are held to needs a [`key`](Self::key), and says what happens to a
/// request without one: [`or_key`](Self::or_key), [`or_skip`](Self::or_skip) or
/// [`or_refuse`](Self::or_refuse). Or it is [`global`](Self::global). A request whose key cannot be
/// read is refused in any case, unless the policy counts such a key
/// [as missing](Self::unreadable_as_missing).
///
/// ```
/// use tower_quota::{Policy, Quota, key::{self, ClientIp}};
///
/// let reads = Policy::sliding_window("read", Quota::per_minute(100))
///     .key(key::header("x-api-key"))
///     .or_key(ClientIp::new())
///     .or_refuse()
///     .plan(|request| {
///         let plan = request.headers.get("x-plan")?;
///         (plan == "pro").then(|| Quota::per_minute(1_000))
///     });
/// # let _ = reads;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Policy(pub(crate) Arc<Settings>);

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    algorithm: Algorithm,
    quota: Quota,
    keys: Vec<Arc<dyn KeyExtractor>>,
    said: Said,
    unreadable_as_missing: bool,
    pub(crate) global: bool,
    plan: Option<Plan>,
    /// An invalid plan is reported once.
    invalid_plan: Arc<Once>,
    plans: Option<Plans>,
    cost: Option<Cost>,
    pub(crate) unit: Option<Arc<str>>,
    settle: Option<Settle>,
    hold: Option<Duration>,
    dry_run: bool,
    store_failure: OnStoreFailure,
    shard: Option<Arc<dyn KeyExtractor>>,
    lease: u32,
}

/// How often each method was called that may be called once at most.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    key: u32,
    skip: u32,
    refuse: u32,
}

/// What happens to a request that has none of a policy's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutKey {
    Unsaid,
    Skip,
    Refuse,
}

impl Policy {
    /// A bucket that holds the quota's burst and refills evenly: smooths, and forgives a burst.
    /// In any window, at most the burst and the units of that window pass.
    pub fn token_bucket(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::TokenBucket, quota)
    }

    /// Windows aligned to the wall clock, in UTC: simple to explain. They are counted from the
    /// beginning of 1970. A window of an hour begins on the hour and one of a day at midnight; one
    /// whose length does not divide a day begins at another time each day. Around the edge of two
    /// windows, both quotas may be used in quick succession.
    pub fn fixed_window(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::FixedWindow, quota)
    }

    /// Never more than the quota in any half-open interval of the window's length, which has one of
    /// its two ends. A unit comes back when the window has passed over it, at most 1/60 of the window
    /// late.
    pub fn sliding_window(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::SlidingWindow, quota)
    }

    fn new(name: impl Into<String>, algorithm: Algorithm, quota: Quota) -> Self {
        Self(Arc::new(Settings {
            name: name.into().into(),
            algorithm,
            quota,
            keys: Vec::new(),
            said: Said::default(),
            unreadable_as_missing: false,
            global: false,
            plan: None,
            invalid_plan: Arc::new(Once::new()),
            plans: None,
            cost: None,
            unit: None,
            settle: None,
            hold: None,
            dry_run: false,
            store_failure: OnStoreFailure::default(),
            shard: None,
            lease: 0,
        }))
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// Counts by this key. Several keys together are a tuple.
    pub fn key(self, key: impl KeyExtractor) -> Self {
        self.set(|settings| {
            settings.said.key = settings.said.key.saturating_add(1);
            settings.keys.insert(0, Arc::new(key));
        })
    }

    /// Counts requests without the key by this other one. Equal values of two kinds of key do not
    /// share a quota.
    pub fn or_key(self, key: impl KeyExtractor) -> Self {
        self.set(|settings| settings.keys.push(Arc::new(key)))
    }

    /// Lets requests without the key pass uncounted.
    pub fn or_skip(self) -> Self {
        self.set(|settings| settings.said.skip = settings.said.skip.saturating_add(1))
    }

    /// Refuses requests without the key.
    pub fn or_refuse(self) -> Self {
        self.set(|settings| settings.said.refuse = settings.said.refuse.saturating_add(1))
    }

    /// Counts an unreadable key as missing: [`or_key`](Self::or_key), [`or_skip`](Self::or_skip) or
    /// [`or_refuse`](Self::or_refuse) then says what happens. Default: the request is refused with the
    /// status of [`Extracted::Unreadable`](crate::key::Extracted::Unreadable), and costs nothing
    /// anywhere.
    ///
    /// A key is unreadable where it is there twice, or malformed. A handler may still read it. So a
    /// caller can choose whether this policy counts its requests: write this only where that does no
    /// harm.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key::{self, ClientIp}};
    ///
    /// let reads = Policy::token_bucket("read", Quota::per_minute(60))
    ///     .key(key::header("x-api-key"))
    ///     .or_key(ClientIp::new())
    ///     .or_refuse()
    ///     .unreadable_as_missing(); // two `x-api-key` lines count by the address
    /// # let _ = reads;
    /// ```
    pub fn unreadable_as_missing(self) -> Self {
        self.set(|settings| settings.unreadable_as_missing = true)
    }

    /// Counts all requests together, whoever sends them.
    pub fn global(self) -> Self {
        self.set(|settings| settings.global = true)
    }

    /// The request's plan: the quota that holds for it, or `None` for the policy's own. The function
    /// is called for each request, so a plan may change at any time: what was used under one plan
    /// counts under the next. A key that changes between more than four quotas begins anew, by what
    /// the last one says, under the one that remembers for the shortest time.
    ///
    /// A quota of 0 units refuses the plan's requests. So does an invalid one, such as a window of 0:
    /// how much the plan may use is then not known, and the policy's own quota may be more. The
    /// warning [`invalid_plan`](crate::warning#invalid_plan) is given once.
    pub fn plan(self, plan: impl Fn(&Parts) -> Option<Quota> + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.plan = Some(Arc::new(plan)))
    }

    /// The quotas of plans by their names, and a function that returns the name of the request's
    /// plan, or `None`. The policy's own quota holds for `None`, and for a name that is not in the
    /// table; the warning [`unknown_plan`](crate::warning#unknown_plan) is then given once. The
    /// function is called for each request, so a caller may change its plan at any time: what was
    /// used under one plan counts under the next.
    ///
    /// It is better than [`plan`](Self::plan) where the plans are known beforehand: `build()` checks
    /// them, and [`Limiter::describe`](crate::Limiter::describe) lists them. With both, a quota that
    /// `plan` returns comes first.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// let reads = Policy::sliding_window("read", Quota::per_minute(60))
    ///     .key(key::header("x-api-key"))
    ///     .or_refuse()
    ///     .plans(
    ///         [("free", Quota::per_minute(100)), ("pro", Quota::per_minute(1_000))],
    ///         |request| request.headers.get("x-plan")?.to_str().ok(),
    ///     );
    /// # let _ = reads;
    /// ```
    pub fn plans<N: Into<String>>(
        self,
        quotas: impl IntoIterator<Item = (N, Quota)>,
        plan_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.plans = Some(Plans::new(quotas, plan_of)))
    }

    /// How many units the request uses. Default: 1. A request that costs 0 passes uncounted; one
    /// that costs more than the whole quota is refused without `Retry-After`.
    ///
    /// Read the cost as the handler reads the request. Any cost does for a request that the handler
    /// refuses.
    ///
    /// ```
    /// use axum::extract::Query;
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Export { rows: u64 } // The handler takes `Query<Export>` too.
    ///
    /// let exports = Policy::token_bucket("exports", Quota::per_hour(100_000))
    ///     .key(key::header("x-api-key"))
    ///     .or_refuse()
    ///     .unit("rows")
    ///     .cost(|request| {
    ///         Query::try_from_uri(&request.uri).map_or(1, |Query(export): Query<Export>| export.rows)
    ///     });
    /// # let _ = exports;
    /// ```
    pub fn cost(self, cost: impl Fn(&Parts) -> u64 + Send + Sync + 'static) -> Self {
        self.set(|settings| settings.cost = Some(Arc::new(cost)))
    }

    /// The name of the policy's units, such as `tokens` or `content-bytes`. Default: `requests`.
    ///
    /// The name changes nothing in the counting. It is the parameter `qu` of
    /// [`HeaderStyle::ratelimit_lists`](crate::HeaderStyle::ratelimit_lists)
    /// (draft-ietf-httpapi-ratelimit-headers-11, section 3.1.2, which registers `content-bytes` and
    /// `concurrent-requests` beside `requests`), and part of
    /// [`Limiter::describe`](crate::Limiter::describe).
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// let tokens = Policy::token_bucket("model", Quota::per_minute(100_000))
    ///     .key(key::bearer())
    ///     .or_refuse()
    ///     .unit("tokens")
    ///     .cost(|request| match request.uri.path() {
    ///         "/v1/embeddings" => 100,
    ///         _ => 1_000,
    ///     });
    /// # let _ = tokens;
    /// ```
    pub fn unit(self, name: impl Into<String>) -> Self {
        self.set(|settings| {
            let name = name.into();
            settings.unit = (name != "requests").then(|| name.into());
        })
    }

    /// What the request has cost after all, once its response is there; `None` where it stays as
    /// it was charged.
    ///
    /// So a policy counts only what failed, or only what succeeded; or the handler tells the cost
    /// in an extension of its response. The cost is charged before the handler is called, so that
    /// many requests at once do not pass on the same unit.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key::ClientIp};
    ///
    /// #[derive(Clone)]
    /// struct Rows(u64);
    ///
    /// let failed_sign_ins = Policy::sliding_window("failed sign-ins", Quota::per_minute(5))
    ///     .key(ClientIp::new())
    ///     .or_refuse()
    ///     .settle(|response| Some(u64::from(response.status == 401)));
    /// let exported_rows = Policy::token_bucket("exported rows", Quota::per_hour(100_000))
    ///     .key(ClientIp::new())
    ///     .or_refuse()
    ///     .settle(|response| response.extensions.get().map(|rows: &Rows| rows.0));
    /// # let _ = (failed_sign_ins, exported_rows);
    /// ```
    pub fn settle(
        self,
        cost: impl Fn(&response::Parts) -> Option<u64> + Send + Sync + 'static,
    ) -> Self {
        self.set(|settings| settings.settle = Some(Arc::new(cost)))
    }

    /// Holds a request up to `max` instead of refusing it, when its units will be there by then.
    /// Those of one key pass in the order in which they came. One that would wait longer is
    /// refused at once; so is one that finds the line too long, see
    /// [`LimiterBuilder::max_held`](crate::LimiterBuilder::max_held). A request whose turn has come
    /// and that is not polled for 100 ms holds up those behind it no longer; it passes when it is
    /// polled and there are units.
    ///
    /// A request held for several policies waits for the latest of them, and is charged once. While
    /// held, it has charged nothing and keeps none of the inner service's permits.
    ///
    /// Holding takes a tokio runtime whose time is enabled. Without it, a request that would be held
    /// is refused at once, and the warning [`no_timer`](crate::warning#no_timer) is given once.
    pub fn hold(self, max: Duration) -> Self {
        self.set(|settings| settings.hold = Some(max))
    }

    /// Counts and reports, and never refuses: to see what a policy would do. A request that others
    /// refuse costs nothing here, and what would be refused here costs the others what it costs.
    ///
    /// What it would refuse is logged with the feature `tracing`, and is in
    /// [`Decision::dry_runs`](crate::Decision::dry_runs). No header speaks of it.
    pub fn dry_run(self) -> Self {
        self.set(|settings| settings.dry_run = true)
    }

    /// What happens while the store is slow or down. Default: requests are counted in the memory of
    /// this replica, against the whole quota.
    pub fn on_store_failure(self, then: OnStoreFailure) -> Self {
        self.set(|settings| settings.store_failure = then)
    }

    /// In a cluster of servers, keeps the counts on the one where those of `key` are: one round trip
    /// charges all policies of a request that have the same shard. `key` has to follow from the
    /// policy's own key, as a user's tenant does: one caller must not be counted in two places. It is
    /// read from requests, so [`Limiter::check`](crate::Limiter::check) cannot use the policy.
    ///
    /// Default: the policy's key, or the first of a tuple.
    pub fn shard(self, key: impl KeyExtractor) -> Self {
        self.set(|settings| settings.shard = Some(Arc::new(key)))
    }

    /// Lets each replica take up to `units` of a key at once from a store that several share, and
    /// spend them by itself: most requests then take no round trip. Default: 0, each request asks
    /// the store. A store in memory knows no leases and is exact.
    ///
    /// Units count from when they are taken. They are spent within a second, or within a tenth of a
    /// window below ten seconds, and never after the fixed window they were taken in; what is left
    /// then goes back. A replica never holds more than `units` of a key. So with a number of
    /// replicas:
    /// - No interval of the window's length sees more than the quota and `units` for each replica
    ///   (of a token bucket: more than the burst, the units of the window, and `units` for each
    ///   replica). A fixed window never sees more than its quota, but for what requests hold that are
    ///   on their way to the store when it ends.
    /// - A key may be refused while the other replicas hold up to `units` each; and so much of its
    ///   quota may not be used, if they do not spend it. One replica alone, asked one by one, admits
    ///   the quota.
    /// - What is told as remaining is what the store had left when it was asked at last, and what
    ///   this replica holds.
    /// - What a replica holds when it dies counts as used. When it shuts down,
    ///   `RedisStore::give_back_leases` gives that back.
    ///
    /// While the store is down, what is held is spent. Requests that cost `units` or more ask the
    /// store, as do those of a [dry run](Self::dry_run). Not together with
    /// [`settle`](Self::settle), which asks the store for each response.
    pub fn lease(self, units: u32) -> Self {
        self.set(|settings| settings.lease = units)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How it is counted.
    #[must_use]
    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The quota of requests without a plan.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.0.quota
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<_> = self.key_kinds().collect();
        f.debug_struct("Policy")
            .field("name", &self.0.name)
            .field("algorithm", &self.0.algorithm)
            .field("quota", &self.0.quota)
            .field("keys", &kinds)
            .field("without_key", &self.without_key())
            .field("global", &self.0.global)
            .finish_non_exhaustive()
    }
}
