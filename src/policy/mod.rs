//! A named quota, how it is counted, whose it is, and what a request costs: [`Policy`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

pub(crate) mod english;
mod fair_weights;
mod keys;
mod on_store_failure;
mod plans;
mod settings;
mod validate;

use std::{fmt, sync::Arc, time::Duration};

use http::{request::Parts, response};

pub use self::on_store_failure::OnStoreFailure;
pub(crate) use self::{
    fair_weights::FairWeights, keys::WithoutKey, plans::quota_problem, settings::QuotaSource,
    validate::problems,
};
use self::{keys::Keys, plans::Plans, settings::Settings};
#[cfg(feature = "calendar")]
use crate::calendar::Hours;
use crate::{algorithm::Algorithm, key::KeyExtractor, penalty::Penalty, quota::Quota};

/// A named quota, how it is counted, whose it is, and what a request costs.
///
/// A policy for requests is either [`global`](Self::global), or it has a [`key`](Self::key) and says
/// what happens to a request without it:
///
/// | method | a request without the key |
/// |---|---|
/// | [`or_key`](Self::or_key) | is counted by another key |
/// | [`or_skip`](Self::or_skip) | passes, and is not counted |
/// | [`or_refuse`](Self::or_refuse) | is refused, with 400 Bad Request |
///
/// `or_key` may be called several times; `or_skip` or `or_refuse` then says what happens to a request
/// with none of the keys. `build()` fails if neither is called, or both. A request with an unreadable
/// key is refused, unless the policy counts it [as missing](Self::unreadable_as_missing).
///
/// A clone is the same policy: if several categories have a clone of it, they share its counts. The
/// names of policies and of their kinds of key stay in memory until the process ends, each name once.
/// So take names from the configuration, and never from requests.
///
/// ```
/// use tower_quota::{Policy, Quota, key::{self, ClientIp}};
///
/// /// What your authentication leaves in the request.
/// #[derive(Clone)]
/// struct User { id: String, per_minute: u64 }
///
/// let reads = Policy::sliding_window("read", Quota::per_minute(100))
///     .key(key::extension("user", |user: &User| user.id.as_str().into()))
///     .or_key(ClientIp::new())
///     .or_refuse()
///     .quota_by(|request| {
///         let user = request.extensions.get::<User>()?;
///         Some(Quota::per_minute(user.per_minute))
///     });
/// # let _ = reads;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Policy {
    pub(crate) settings: Arc<Settings>,
}

impl Policy {
    /// A bucket that holds the quota's burst and refills evenly: it smooths requests and allows a
    /// burst. In any window, at most the burst and the units of one window pass.
    pub fn token_bucket(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::TokenBucket, quota)
    }

    /// Windows aligned to the wall clock, in UTC: simple to explain. With the feature `calendar`,
    /// a quota may have those of a calendar instead, in any time zone. Others are counted from the
    /// beginning of 1970. So an hour begins on the hour, and a day at midnight. A window whose
    /// length does not divide a day begins at another time each day. A caller may use the quotas of
    /// two windows in quick succession: one just before the edge, the other just after it.
    pub fn fixed_window(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::FixedWindow, quota)
    }

    /// Never more than the quota in any interval of the window's length, which includes only one of
    /// its two ends. A unit comes back one window after it was used, or at most 1/60 of the window
    /// later.
    pub fn sliding_window(name: impl Into<String>, quota: Quota) -> Self {
        Self::new(name, Algorithm::SlidingWindow, quota)
    }

    /// How many of a key's requests may be under way at once: `units`, if each costs one.
    ///
    /// A request takes its units when it is admitted, together with all its other charges. They come back
    /// when the response's body has ended, failed or was dropped, when the handler panics, and when the
    /// caller leaves, whatever comes first. For an upgraded connection, such as a WebSocket, and for work
    /// that goes on in the background, keep a [`Permit`](crate::Permit). Without HTTP, call
    /// [`PolicyHandle::enter`](crate::PolicyHandle::enter).
    ///
    /// - A unit comes back at an unknown time. So a refusal has no `Retry-After`, unless the policy
    ///   [sets](Self::retry_after) one, and no header has a reset.
    /// - A policy that [holds](Self::hold) lets the next request pass as soon as a unit comes back. As
    ///   that time is unknown, a request waits for its whole hold before it is refused.
    /// - While a shared store is down, [`CountLocally`](crate::OnStoreFailure::CountLocally) begins from
    ///   nothing: as much again may be under way on each replica.
    /// - The units are called `concurrent-requests` in headers, unless they have
    ///   [another name](Self::unit).
    /// - [`plans`](Self::plans) and overrides have quotas such as
    ///   [`Quota::in_flight(16)`](crate::Quota::in_flight). Under a smaller quota, units that are held stay
    ///   held, and no others are taken until enough have come back.
    /// - A request takes about 330 bytes of memory while it is under way, and 360 more with a
    ///   [`Meter`](crate::Meter).
    /// - In a full [`MemoryStore`](crate::store::MemoryStore), a key that holds units is never dropped. A
    ///   new key without room is refused, and the warning [`store_full`](crate::warning#store_full) is
    ///   given.
    ///
    /// ```
    /// use tower_quota::{Policy, key};
    ///
    /// let exports = Policy::in_flight("exports", 4).key(key::bearer()).or_refuse();
    /// # let _ = exports;
    /// ```
    pub fn in_flight(name: impl Into<String>, units: u64) -> Self {
        Self::new(name, Algorithm::InFlight, Quota::in_flight(units))
    }

    pub(crate) fn new(name: impl Into<String>, algorithm: Algorithm, quota: Quota) -> Self {
        Self { settings: Arc::new(Settings::new(name.into(), algorithm, quota)) }
    }

    fn set(mut self, change: impl FnOnce(&mut Settings)) -> Self {
        change(Arc::make_mut(&mut self.settings));
        self
    }

    /// Sets what would silently replace an earlier one: `build()` fails if `replace` says that it did.
    fn set_once(self, method: &'static str, replace: impl FnOnce(&mut Settings) -> bool) -> Self {
        self.set(|settings| {
            if replace(settings) {
                settings.set_twice = Some(method);
            }
        })
    }

    fn set_keys(self, change: impl FnOnce(&mut Keys)) -> Self {
        self.set(|settings| change(&mut settings.keys))
    }

    /// Counts by this key. To count by several keys together, pass a tuple of them.
    pub fn key(self, key: impl KeyExtractor) -> Self {
        self.set_keys(|keys| {
            keys.first_keys = keys.first_keys.saturating_add(1);
            keys.extractors.insert(0, Arc::new(key));
        })
    }

    /// Counts requests without the key by this other key. Call it again to add a third key, and so
    /// on: keys are tried in this order. Equal values of two kinds of key do not share a quota.
    pub fn or_key(self, key: impl KeyExtractor) -> Self {
        self.set_keys(|keys| keys.extractors.push(Arc::new(key)))
    }

    /// Lets requests pass, and does not count them, if they have none of the keys.
    pub fn or_skip(self) -> Self {
        self.set_keys(|keys| keys.without_key.push(WithoutKey::Skip))
    }

    /// Refuses requests that have none of the keys, with 400 Bad Request.
    pub fn or_refuse(self) -> Self {
        self.set_keys(|keys| keys.without_key.push(WithoutKey::Refuse))
    }

    /// Counts an unreadable key as missing: [`or_key`](Self::or_key), [`or_skip`](Self::or_skip) or
    /// [`or_refuse`](Self::or_refuse) says what happens then. Default: the request is refused with the
    /// status of [`Extracted::Unreadable`](crate::key::Extracted::Unreadable), and costs nothing in any
    /// policy.
    ///
    /// A key is unreadable if it is sent twice, or malformed; a handler may still read it. So with this
    /// setting, a caller can choose whether this policy counts its requests. Use it only if that does
    /// no harm.
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
        self.set_keys(|keys| keys.unreadable_as_missing = true)
    }

    /// Counts the requests of all callers together.
    pub fn global(self) -> Self {
        self.set_keys(|keys| keys.is_global = true)
    }

    /// Sets a function that returns the quota of a request, or `None` for the policy's own quota.
    ///
    /// The function is called for each request, so a key may get another quota at any time. What it
    /// has used under one quota counts under the next. A key has counts under its last four quotas.
    /// A fifth quota replaces the one with the shortest window, or of token buckets the one that
    /// fills soonest. If that quota comes back, it begins with what the key has used under the
    /// others.
    ///
    /// A quota of 0 units refuses the request. So does an invalid quota, such as one with a window
    /// of 0; the warning [`invalid_plan`](crate::warning#invalid_plan) is then given once. The
    /// policy's own quota is not used instead, as it may be larger than the intended one.
    ///
    /// Read the quota from what your authentication has found out, and never from a header that callers write:
    /// they would choose it. If the function returns `None` for the first 1,000 requests, the warning
    /// [`plan_never_found`](crate::warning#plan_never_found) is given.
    ///
    /// If the quotas are known in advance, [`plans`](Self::plans) is better.
    pub fn quota_by(
        self,
        quota_by: impl Fn(&Parts) -> Option<Quota> + Send + Sync + 'static,
    ) -> Self {
        self.set_once("quota_by", |settings| {
            settings.quota_by.replace(Arc::new(quota_by)).is_some()
        })
    }

    /// Sets a table of plans, each with its name and its quota, and a function that returns the name
    /// of a request's plan.
    ///
    /// The policy's own quota holds if the function returns `None`, or a name that is not in the
    /// table; for the latter, the warning [`unknown_plan`](crate::warning#unknown_plan) is given
    /// once. The function is called for each request, so a caller may change its plan at any time.
    /// What it has used under one plan counts under the next.
    ///
    /// **Make the policy's own quota the smallest**, and give callers without a contract a plan too: then no
    /// caller gets more if a plan is not found by mistake. If the function returns `None` for the first 1,000
    /// requests, the warning [`plan_never_found`](crate::warning#plan_never_found) is given. Read the plan from
    /// what your authentication has found out, and never from a header that callers write: they would choose it.
    ///
    /// `build()` checks the quotas, and [`Limiter::describe`](crate::Limiter::describe) lists the
    /// plans. A quota from [`quota_by`](Self::quota_by), if the policy has both, wins over the
    /// plan's.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// /// What your authentication leaves in the request.
    /// #[derive(Clone)]
    /// struct User { id: String, plan: String }
    ///
    /// let reads = Policy::sliding_window("read", Quota::per_minute(60))
    ///     .key(key::extension("user", |user: &User| user.id.as_str().into()))
    ///     .or_refuse()
    ///     .plans(
    ///         [("free", Quota::per_minute(100)), ("pro", Quota::per_minute(1_000))],
    ///         |request| Some(request.extensions.get::<User>()?.plan.as_str()),
    ///     );
    /// # let _ = reads;
    /// ```
    pub fn plans<N: Into<String>>(
        self,
        table: impl IntoIterator<Item = (N, Quota)>,
        name_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        self.set_once("plans", |settings| {
            settings.plans.replace(Plans::new(table, name_of)).is_some()
        })
    }

    /// Sets another quota for some hours of the week. Call it again for others: the first schedule that
    /// includes the time of a request holds, and else the policy's own quota.
    ///
    /// The time is that of the limiter's clock when the request comes, also for checks. What a key has
    /// used under one quota counts under the next, as with [`quota_by`](Self::quota_by), so an edge of
    /// the hours frees nothing that was used. The quota of a request's plan, or of `quota_by`, holds at
    /// all hours.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, calendar::hours, key};
    ///
    /// let exports = Policy::token_bucket("exports", Quota::per_hour(1_000))
    ///     .key(key::header("x-api-key"))
    ///     .or_refuse()
    ///     .schedule(hours("Mo-Fr 08:00-18:00", "Europe/Berlin"), Quota::per_hour(100));
    /// # let _ = exports;
    /// ```
    #[cfg(feature = "calendar")]
    pub fn schedule(self, hours: Hours, quota: Quota) -> Self {
        self.set(|settings| settings.schedules.push((hours, quota)))
    }

    /// Sets a function that returns how many units a request costs. Default: 1. A request that costs 0
    /// passes and is not counted. A request that costs more than the whole quota is refused, without
    /// `Retry-After`.
    ///
    /// Read the cost as the handler reads it, or a caller can pay less than it gets. A request that the
    /// handler refuses is charged all the same, unless its response [settles](Self::settle) the cost.
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
        self.set_once("cost", |settings| settings.cost.replace(Arc::new(cost)).is_some())
    }

    /// The name of the policy's units, such as `tokens` or `content-bytes`. Default: `requests`; and for
    /// units [in flight](Self::in_flight), `concurrent-requests`.
    ///
    /// The name does not change how requests are counted. It is the parameter `qu` of
    /// [`HeaderStyle::ratelimit_lists`](crate::HeaderStyle::ratelimit_lists)
    /// (draft-ietf-httpapi-ratelimit-headers-11, section 3.1.2, which registers `requests`,
    /// `content-bytes` and `concurrent-requests`), and part of
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

    /// Sets a function that corrects a request's cost by its response. It returns what the request
    /// really cost, or `None` to keep what was charged.
    ///
    /// Use it to count only requests that failed, or only those that succeeded. Or let the handler
    /// put the cost into an extension of its response. The [`cost`](Self::cost) is always charged
    /// before the handler is called, so that many requests at once cannot use the same unit. The
    /// difference is given back or charged as of that time: a window that has ended meanwhile is
    /// corrected, and not the one that follows.
    ///
    /// A token bucket gives back only what has not come back by time. For a slow request in a bucket that was
    /// nearly full, this may be nothing. For requests that overlap, it may be too little, but never too much.
    /// Windows are exact.
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
        self.set_once("settle", |settings| settings.settle.replace(Arc::new(cost)).is_some())
    }

    /// Settles the cost when the request has ended, by what its [`Meter`](crate::Meter) has counted: tokens
    /// of a stream, rows of an export, bytes of a body. Until then, the [`cost`](Self::cost) is an estimate,
    /// and is reserved: the request passes only if it is left.
    ///
    /// **Reserve the most that a request can use**, and choose a [token bucket](Self::token_bucket) for windows of
    /// minutes. With a smaller estimate, a window hardly limits a key that streams: what a response uses beyond
    /// the estimate counts in the window in which it began, and if that has passed, it counts nowhere. With an
    /// estimate of 500 under 10,000 tokens per minute, four streams at once of 90 seconds and 50,000 tokens each
    /// always pass under a fixed or a sliding window. A token bucket lets fewer pass, and still too many, as it
    /// owes one whole bucket at most. `Limiter::lint` finds such windows, and policies without an estimate.
    ///
    /// - The request ends when the body of the response has ended, failed or was dropped; when the handler
    ///   panics or fails; or when the caller leaves before the response. What the meter has counted by then
    ///   is charged: a caller who hangs up pays for what was made. For an upgraded connection, and without a
    ///   layer, it ends when the last clone of the meter is dropped.
    /// - Without a [`cost`](Self::cost), the estimate is 1.
    /// - If the handler adds nothing to its meter, not even 0, the estimate stays; after 1,000 such requests, the
    ///   warning [`never_metered`](crate::warning#never_metered) is given. It also stays if the process is killed:
    ///   in Redis, what its requests had reserved is used.
    /// - The difference is given back or charged as of when the request was admitted. A window that has
    ///   ended meanwhile is corrected, and not the one that follows: the day of the beginning gets its
    ///   units back. A token bucket, which has no windows, owes the difference from the end on.
    /// - More than was left may be charged. Then `remaining` is 0, and nothing passes until that is paid: a
    ///   window admits nothing until it has passed, and owes nothing beyond it; a token bucket owes at most
    ///   one whole capacity, and forgets the rest. [`Meter::left`](crate::Meter::left) and
    ///   [`Meter::exhausted`](crate::Meter::exhausted) let a stream stop when what was reserved is used up.
    /// - An estimate of 0 counts as 1: a request that reserves nothing would always pass, whatever is owed.
    /// - With [`settle`](Self::settle) as well, the head of the response settles the estimate first, such as
    ///   to 0 for a response that fails.
    /// - What a [dry run](Self::dry_run) would have refused is not charged, and stays so. If other limits are
    ///   [applied](crate::Limiter::apply) meanwhile, or the policy is gone, the request still settles: under
    ///   the quota that it was admitted under. A [reset](crate::Limiter::reset) meanwhile gives the reserved
    ///   units back already, so none are given back at the end.
    /// - The headers of the response, and observers, see the estimate: these are written before the end.
    ///
    /// ```
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// /// The handler lets no response have more tokens than this.
    /// const MOST: u64 = 1_000;
    ///
    /// let tokens = Policy::token_bucket("tokens", Quota::per_minute(10_000))
    ///     .key(key::bearer())
    ///     .or_refuse()
    ///     .unit("tokens")
    ///     .cost(|_| MOST)
    ///     .settle_at_end()
    ///     .settle(|response| response.status.is_client_error().then_some(0));
    /// # let _ = tokens;
    /// ```
    pub fn settle_at_end(self) -> Self {
        self.set(|settings| settings.settles_at_end = true)
    }

    /// Blocks a key that is refused, or fails, too often, and each time for longer; see
    /// [`Penalty`]. Not for a [`global`](Self::global) policy, as all callers would be blocked, and not
    /// together with a [`lease`](Self::lease), as replicas spend leased units without asking whether
    /// their key is blocked. A request that passes needs no further round trip for it; in memory, only
    /// keys for which something counts take longer.
    pub fn penalty(self, penalty: Penalty) -> Self {
        self.set_once("penalty", |settings| settings.penalty.replace(penalty).is_some())
    }

    /// Holds a request up to `max` instead of refusing it, if its units will be available by then.
    ///
    /// Default: the time of [`Category::hold`](crate::Category::hold). A policy for every request,
    /// or for checks only, has no category: its default is zero. Zero refuses at once, even if the
    /// category holds.
    ///
    /// - The held requests of one key pass in the order in which they came, or in
    ///   [turns](Self::fair_by).
    /// - A request that would wait longer than `max` is refused at once. So is a request that finds too
    ///   many held ones: see [`LimiterBuilder::max_held`](crate::LimiterBuilder::max_held).
    /// - A request that is held for several policies waits for the last of them, and is charged once. Time
    ///   that it waits for other policies first does not count: this one may then add up to `max`. In all,
    ///   a request waits no longer than the longest `max` of its policies.
    /// - Units [in flight](Self::in_flight) come back at an unknown time. So a request is held as if those
    ///   that are awaited, by it and by requests ahead of it, came back at once. It is refused later if
    ///   they do not come back in time.
    /// - A held request has charged nothing, and occupies no capacity of the inner service.
    /// - If a request's turn has come and it is not polled for 100 ms, the requests behind it pass
    ///   first. It passes when it is polled again and there are units.
    ///
    /// Holding needs a tokio runtime with time enabled. Without it, requests are refused at once, and
    /// the warning [`no_timer`](crate::warning#no_timer) is given once.
    pub fn hold(self, max: Duration) -> Self {
        self.set(|settings| settings.hold = Some(max))
    }

    /// Sets the `Retry-After` of a refusal, for units [in flight](Self::in_flight), which come back at an
    /// unknown time. Default: neither the header nor the body of a refusal has a wait.
    ///
    /// The layer's [jitter](crate::RateLimitLayerBuilder::jitter_retry_after) lengthens it too. Requests are
    /// not [held](Self::hold) by it. For other algorithms, which know the wait, `build()` fails.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_quota::{Policy, key};
    ///
    /// let exports = Policy::in_flight("exports", 4)
    ///     .key(key::bearer())
    ///     .or_refuse()
    ///     .retry_after(Duration::from_secs(5));
    /// # let _ = exports;
    /// ```
    pub fn retry_after(self, wait: Duration) -> Self {
        self.set(|settings| settings.retry_after = Some(wait))
    }

    /// Lets tenants take turns where requests are held: in the line of one key, such as that of a
    /// [`global`](Self::global) policy, whatever one of them sends. The policy must
    /// [hold](Self::hold) requests.
    ///
    /// - Each turn of a tenant is one unit, or as many as its [weight](Self::fair_weights). A request
    ///   that costs more takes several turns. This is a deficit round robin. The requests of one tenant
    ///   pass in the order in which they came.
    /// - A held request may be overtaken by those of other tenants, and is refused as soon as it can no
    ///   longer pass within the [hold](Self::hold).
    /// - If the [places of the line](crate::LimiterBuilder::max_held_per_key) are full, the tenant with the
    ///   most held requests for its weight makes room: its last one is refused, and so are its
    ///   further requests. A tenant that holds less than its share is never refused for that.
    ///   [Over all lines](crate::LimiterBuilder::max_held), one tenant holds at most as many requests as
    ///   are still free.
    /// - A refusal says when the request passes behind all that wait, of whatever tenant.
    ///
    /// Requests without the tenant's key are one tenant together. So are
    /// [checks](crate::Limiter::check), which have no request. A request whose tenant is
    /// [unreadable](crate::key::Extracted::Unreadable) is not held: it passes if there are units that
    /// no request waits for, and is refused otherwise. Tenants are kept as fingerprints only.
    ///
    /// The line is that of one replica: over several of them, tenants take turns only within each. With
    /// units in flight, a replica hands a unit that comes back to its own line, so a tenant on another
    /// replica may wait for as long as that line is full. At most one of the policies that apply to a
    /// request may be fair.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_quota::{Policy, Quota, key};
    ///
    /// /// What your authentication leaves in the request.
    /// #[derive(Clone)]
    /// struct Tenant { id: String, plan: String }
    ///
    /// let reports = Policy::token_bucket("reports", Quota::per_second(10))
    ///     .global()
    ///     .hold(Duration::from_secs(2))
    ///     .fair_by(key::extension("tenant", |tenant: &Tenant| tenant.id.as_str().into()))
    ///     .fair_weights([("free", 1), ("pro", 5)], |request| {
    ///         Some(request.extensions.get::<Tenant>()?.plan.as_str())
    ///     });
    /// # tower_quota::Limiter::builder().policy(reports).build().unwrap();
    /// ```
    pub fn fair_by(self, tenant: impl KeyExtractor) -> Self {
        self.set_once("fair_by", |settings| settings.fair_by.replace(Arc::new(tenant)).is_some())
    }

    /// Sets how many units a tenant of a [fair](Self::fair_by) line has in each turn, by plan: a table of
    /// weights from 1 to 1,000, and a function that returns the name of a request's plan. A tenant's
    /// weight is that of its last request. Default: 1, also for plans that are not in the table.
    pub fn fair_weights<N: Into<String>>(
        self,
        table: impl IntoIterator<Item = (N, u32)>,
        plan_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        self.set_once("fair_weights", |settings| {
            settings.fair_weights.replace(FairWeights::new(table, plan_of)).is_some()
        })
    }

    /// Counts and reports, but never refuses: it shows what the policy would do. A request that
    /// another policy refuses costs nothing under this one. A request that this policy would refuse
    /// is charged to the others as usual.
    ///
    /// [`Decision::dry_runs`](crate::Decision::dry_runs) has its answers, and the feature `tracing`
    /// logs what it would refuse. No header shows it.
    pub fn dry_run(self) -> Self {
        self.set(|settings| settings.dry_run = true)
    }

    /// What happens while the store is slow or down. Default: this replica counts requests in its own
    /// memory, against the whole quota.
    pub fn on_store_failure(self, on_store_failure: OnStoreFailure) -> Self {
        self.set(|settings| settings.on_store_failure = on_store_failure)
    }

    /// Chooses the server of a Redis cluster: counts are on the server of this key, not on that of
    /// the policy's own key. Policies with the same shard are charged in one round trip.
    ///
    /// A key must always have the same shard, as a user always has the same tenant. Otherwise it is
    /// counted on two servers, and has two quotas. The shard is read from requests, so
    /// [`Limiter::check`](crate::Limiter::check) cannot use the policy.
    ///
    /// Default: the policy's own key, or the first key of a tuple.
    pub fn shard(self, key: impl KeyExtractor) -> Self {
        self.set_once("shard", |settings| settings.shard.replace(Arc::new(key)).is_some())
    }

    /// Lets each replica lease up to `units` of a key from Redis and spend them by itself, so that
    /// most requests need no round trip. Default: 0, a round trip for each request. A store in
    /// memory has no leases and is exact.
    ///
    /// How many units are leased at once follows the key's use: as many as it uses in half of a
    /// lease's time, 1 at least, and at most twice as many as the time before. A busy key's next units
    /// are requested before the last are used up. Requests that must wait for units are decided in the
    /// order of their arrival, and one round trip asks for all that wait.
    ///
    /// Leased units count as used at once. A lease ends after a second, or after a tenth of the
    /// window if the window is shorter than ten seconds; and at the end of a fixed window. The
    /// units that are left then go back. A replica never holds more than `units` of a key, beside
    /// those that requests wait for. This means:
    /// - In an interval of the window's length, up to the quota plus `units` for each replica may
    ///   pass; under a token bucket, the burst too. In a fixed window, no more than its quota
    ///   passes, except requests that are on their way to Redis when the window ends.
    /// - A key may be refused while other replicas hold up to `units` each. If they do not spend these
    ///   units, that part of the quota is not used. With one replica and one request at a time, the
    ///   whole quota passes.
    /// - `remaining` is what Redis had left at its last answer, plus what this replica holds.
    /// - The units that a replica holds when it dies count as used. Call `RedisStore::give_back_leases`
    ///   when it shuts down.
    ///
    /// While Redis is down, leased units are still spent. A request that costs `units` or more
    /// takes a round trip, and so does each request of a [dry run](Self::dry_run). A policy cannot
    /// have both a lease and [`settle`](Self::settle) or [`settle_at_end`](Self::settle_at_end), which
    /// need a round trip for each response, nor a lease and a [`penalty`](Self::penalty).
    pub fn lease(self, units: u32) -> Self {
        self.set(|settings| settings.lease = units)
    }

    /// Lets a request that finds too little of this quota draw on that of `other`: a plan's tokens, and
    /// then bought credits. Call it again to add a third quota, and so on: a *waterfall*. Of its
    /// quotas, each request draws on the first that has room for its whole cost. It is decided in one
    /// step with all other policies of the request, in Redis in the one round trip.
    ///
    /// - A request is never split over two quotas. One that costs more than the first could ever have
    ///   draws on the next.
    /// - If no quota has room, the policy of the shortest wait refuses the request, and `Retry-After`
    ///   is when that one lets it pass.
    /// - Each policy keeps its own key, quota, plans and [cost](Self::cost). A policy that
    ///   [skips](Self::or_skip) a request without its key is left out of it; one that refuses it
    ///   refuses the request. A quota of 0 units is left out, and if a quota is unlimited, the request
    ///   passes and is not counted.
    /// - What is given back, or settled by a response, goes to the quota that was drawn on. A
    ///   [`give_back`](crate::Limiter::give_back) or a [`reset`](crate::Limiter::reset) changes the one
    ///   that it names.
    /// - A [check](crate::Limiter::check) of this policy draws on the others as well, with the same key,
    ///   kind of key and cost. Its plan is this policy's, and if `other` has plans and none has this
    ///   name, the check fails. A check of `other` draws only on `other`, and on what `other` falls back
    ///   on itself.
    /// - What a request [uses at its end](Self::settle_at_end) beyond its estimate goes to the quota that
    ///   it drew on, even if that has too little left. To draw on the next one, end the response when
    ///   [`Meter::left`](crate::Meter::left) is 0.
    /// - Headers with room for one policy show the one that is drawn on;
    ///   [`ratelimit_lists`](crate::HeaderStyle::ratelimit_lists) has all.
    ///   [`Outcome::is_drawn_on`](crate::Outcome::is_drawn_on) says which it is.
    /// - The [hold](Self::hold) of this policy holds for all: a request is held until the first of the
    ///   quotas has room.
    /// - A request that counts in several [categories](crate::Category) (routers may read its path in
    ///   different ways) draws on a quota that these share, if they share any: if one category has
    ///   `tokens` or else `credits`, and the other has `credits`, then on `credits`.
    ///
    /// A waterfall has no [lease](Self::lease), and is a [dry run](Self::dry_run) as a whole or not at
    /// all: `build()` says so. While the store is down, a quota whose policy
    /// [refuses](OnStoreFailure::Refuse) then has no room, and if one of them allows, the request
    /// passes. In a Redis cluster, the quotas should be on one server (see [`shard`](Self::shard)).
    /// Otherwise each quota after the first takes further round trips.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, Quota, key};
    ///
    /// let credits = Policy::fixed_window("credits", Quota::per_day(2_000))
    ///     .key(key::bearer())
    ///     .or_refuse();
    /// let tokens = Policy::fixed_window("tokens", Quota::per_day(10_000))
    ///     .key(key::bearer())
    ///     .or_refuse()
    ///     .or_else(credits);
    /// let limiter = Limiter::builder().policy(tokens).build()?;
    ///
    /// limiter.check("tokens", "sk_1").cost(9_900).at_once()?;
    /// let decision = limiter.check("tokens", "sk_1").cost(500).at_once()?;
    /// assert!(decision.is_allowed());
    /// let [tokens, credits] = ["tokens", "credits"].map(|name| decision.outcome(name).unwrap());
    /// assert_eq!((tokens.remaining(), tokens.is_drawn_on()), (100, false));
    /// assert_eq!((credits.remaining(), credits.is_drawn_on()), (1_500, true));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn or_else(self, other: Self) -> Self {
        self.set(|settings| {
            let further = other.settings.fallbacks.clone();
            settings.fallbacks.push(other);
            settings.fallbacks.extend(further);
        })
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// How requests are counted.
    #[must_use]
    #[inline]
    pub fn algorithm(&self) -> Algorithm {
        self.settings.algorithm
    }

    /// The quota of requests without a plan, where no schedule holds.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.settings.quota
    }

    /// This policy, and those that it falls back on.
    pub(crate) fn waterfall(&self) -> impl Iterator<Item = &Self> {
        [self].into_iter().chain(&self.settings.fallbacks)
    }

    pub(crate) fn is_clone_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.settings, &other.settings)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { name, algorithm, quota, keys, .. } = &*self.settings;
        let kinds: Vec<_> = keys.kinds().collect();
        f.debug_struct("Policy")
            .field("name", name)
            .field("algorithm", algorithm)
            .field("quota", quota)
            .field("keys", &kinds)
            .field("without_key", &keys.without_key())
            .field("global", &keys.is_global)
            .finish_non_exhaustive()
    }
}
