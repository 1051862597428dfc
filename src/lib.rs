//! Quotas for HTTP APIs: a [tower] layer that finds out whose quota a request uses, and lets it
//! pass or refuses it with a typed 429.
//!
//! [tower]: https://docs.rs/tower
//!
//! ```
//! use axum::{Router, routing::get};
//! use tower_quota::{
//!     Category, Limiter, Matcher, Policy, Quota, RateLimitLayer,
//!     key::{self, ClientIp},
//! };
//!
//! /// Your own middleware checks the API key, and leaves this in the request.
//! #[derive(Clone)]
//! struct Caller {
//!     tenant: String,
//! }
//!
//! let client_ip = ClientIp::new().trust_proxies(["10.0.0.0/8"]);
//! let sign_in = Policy::sliding_window("sign-in", Quota::per_minute(10))
//!     .key(client_ip.clone())
//!     .or_refuse();
//! let reads = Policy::token_bucket("read", Quota::per_minute(100).burst(20))
//!     .key(key::extension("tenant", |caller: &Caller| caller.tenant.as_str().into()))
//!     .or_key(client_ip)
//!     .or_refuse();
//!
//! let limiter = Limiter::builder()
//!     .exempt(Matcher::get("/health"))
//!     .category(Category::new("auth").on(Matcher::post("/v1/sign-in")).policy(sign_in))
//!     .category(Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(reads))
//!     .build()?;
//!
//! let app: Router = Router::new()
//!     .route("/v1/things", get(|| async { "things" }))
//!     .layer(RateLimitLayer::new(limiter));
//! # let _ = app;
//! # Ok::<(), tower_quota::BuildError>(())
//! ```
//!
//! The [`guide`] has a chapter for each question of a first project: algorithms, the order of layers,
//! gRPC, proxies, plans, replicas, log-ins, responses, testing, operating, security.
//!
//! # Count by keys that callers cannot invent
//!
//! Each key has its own quota. So a caller that can invent keys has as many quotas as it likes, and a
//! header, a bearer token, a query parameter or a field of the body may be invented. Put the layer inside of the middleware that authenticates, and count by what that middleware
//! leaves in the request ([`key::extension`]), as above; or add a second policy for every request, by
//! [`key::ClientIp`]. The guide says more about [security](guide::security), and about the
//! [order](guide::placement) of layers that makes guesses of keys cost units.
//!
//! # How a request is decided
//!
//! 1. The [`Limiter`] finds the **policies** of the request: those of every request, and those of
//!    its **category**. The first category that matches the request is its category.
//! 2. Each [`Policy`] finds the request's **key**, and the **quota** and the **cost** of the
//!    request.
//! 3. All policies are charged, or none: a request that one policy refuses costs nothing in the
//!    others.
//! 4. The [`Decision`] has the answer of each policy.
//! 5. The [`RateLimitLayer`] writes the decision into headers. If the request is refused, it
//!    answers with a [`Rejection`], in a format of your choice.
//!
//! An operator can block a caller, or give it other quotas for a time: see [`Limiter::overrides`]. A
//! running limiter can get other limits: see [`Limiter::apply`]. `Limiter::explain` says what would be
//! decided about a request, and why.
//!
//! # Missing and unreadable keys
//!
//! A key is found, missing or unreadable ([`key::Extracted`]):
//!
//! - Without its key, a policy tries another one ([`Policy::or_key`]), does not count the request
//!   ([`Policy::or_skip`]), or refuses it ([`Policy::or_refuse`]).
//! - A key is unreadable if it is sent twice, or malformed: the handler may read another key than
//!   the layer. Such a request is refused, unless the policy [counts the key as
//!   missing](Policy::unreadable_as_missing).
//!
//! # Mistakes in the settings
//!
//! A mistake that the crate can see never removes a limit silently:
//!
//! | mistake | what happens |
//! |---|---|
//! | the settings alone show it | [`LimiterBuilder::build`] fails; the error names every wrong setting and says what to write instead |
//! | only requests show it, such as a load balancer that is not trusted | a [`warning`] with a code, once for each wrong setting; the feature `tracing` logs it |
//! | the limit of a request is not known, because a function returns an invalid quota or no layer has read a field of the body | the request is refused, and a warning is given |
//!
//! The crate sees no routes: a category whose path has a typo matches no request. `Limiter::lint_routes`
//! compares your routes with the settings: assert in a test that it finds nothing. `Limiter::lint` does
//! without the routes.
//!
//! # Which algorithm
//!
//! | | admits in any window | memory per key | choose it for |
//! |---|---|---|---|
//! | [token bucket](Policy::token_bucket) | burst + units | 35 bytes | smoothing; most APIs |
//! | [fixed window](Policy::fixed_window) | up to 2 × units, around an edge | 35 bytes | "resets on the hour" |
//! | [sliding window](Policy::sliding_window) | units | 90 bytes; 370 to 1,250 if its uses are spread | limits that must hold, such as sign-in |
//! | [in flight](Policy::in_flight) | units at once | 35 bytes, and 300 for each request under way | what lasts: exports, streams, sockets |
//!
//! For a cost that is known [at the end](Policy::settle_at_end) of a response, such as tokens per minute, choose a
//! token bucket, and reserve the most that a request can use: a window that has passed no longer counts what
//! goes beyond the estimate. The guide has an [example](guide::algorithms#questions).
//!
//! A window includes only one of its two ends: two requests that are exactly one window apart are
//! not in the same window. The guide [shows](guide::algorithms) which requests pass under each.
//!
//! # Holding instead of refusing
//!
//! A policy or a category may [hold](Policy::hold) a request for a time instead of refusing it.
//! Holding needs a tokio runtime with time.
//!
//! - A held request charges nothing until its turn. Its units are reserved: a later request for one
//!   of its keys passes only if it leaves these units.
//! - A request is held only if its units are expected in time. If replicas share the counts,
//!   another replica may use the units first. Then the request waits longer, or is refused.
//! - When the caller of a held request leaves, the requests behind it move up.
//! - A request whose turn has come, but which is not polled for 100 ms, lets others pass until it
//!   is polled.
//! - Where tenants share a line, as under a [global](Policy::global) policy, they may
//!   [take turns](Policy::fair_by): a flood by one of them delays the others by its turns alone.
//! - The number of held requests is bounded [in all](LimiterBuilder::max_held), [per
//!   caller](LimiterBuilder::max_held_per_caller) and [per key](LimiterBuilder::max_held_per_key).
//!   A held request takes less than 2 KB, beside the request itself.
//!
//! # What lasts
//!
//! A limiter may count more of a request than its arrival:
//!
//! | what lasts | how it is counted |
//! |---|---|
//! | how many requests of a key are under way | [`Policy::in_flight`] |
//! | a cost that is known when the response has ended: tokens, rows, bytes | [`Policy::settle_at_end`], with a [`Meter`] for the handler |
//! | a cost that the head of the response shows | [`Policy::settle`] |
//! | the same for work that is no request | [`PolicyHandle::enter`], and [`Limiter::reserve`] for several policies at once |
//!
//! # Limits that change while they run
//!
//! - [`Limiter::apply`] replaces all limits of a running limiter, or none. `config::Watch` does so whenever
//!   a file of limits changes.
//! - [`Limiter::overrides`] blocks one caller, or gives it another quota, for a time. Replicas that share
//!   a store share them too. An [`OverrideSource`](overrides::OverrideSource) reads them from a database.
//! - `Limiter::explain` says why a request would pass or be refused, and charges nothing.
//!
//! # Limits that document themselves
//!
//! With the feature `describe`, [`RateLimitLayer::describe`] describes the limits for callers. It
//! reads the same settings that decide about requests. The module [`describe`] turns that into
//! JSON, Markdown and an HTML page.
//!
//! # Metrics
//!
//! With the feature `metrics`, these metrics go to the process's recorder for the
//! [`metrics`](https://docs.rs/metrics) facade:
//!
//! | metric | kind | labels | meaning |
//! |---|---|---|---|
//! | `tower_quota_decisions_total` | counter | `policy`, `category`, `verdict` | what each policy decided about requests |
//! | `tower_quota_held_duration_seconds` | histogram | `category` | how long held requests waited, whether or not they passed then |
//! | `tower_quota_store_duration_seconds` | histogram | `operation` | how long a store took to `charge`, to `correct`, or to read or change `overrides`, and how long an `override_source` took; the memory store answers at once and is not measured |
//! | `tower_quota_store_errors_total` | counter | `operation` | how often a store did not answer, so that policies decided without it, or by the `overrides` that were known |
//! | `tower_quota_deny_cache_hits_total` | counter | | requests refused by a remembered refusal, without a command to Redis |
//! | `tower_quota_overflowed_total` | counter | `policy` | charges for which the memory store had no room, so that new keys share a quota |
//! | `tower_quota_reloads_total` | counter | `result` | new limits that `Limiter::apply` got: `applied`, or `failed` |
//! | `tower_quota_live_keys` | gauge | | keys in the store, each once per policy, if the store knows |
//! | `tower_quota_held_requests` | gauge | | requests that are held now |
//! | `tower_quota_overrides` | gauge | | overrides of callers that apply now; each replica that shares them shows all |
//!
//! | verdict | meaning |
//! |---|---|
//! | `allowed` | the policy let the request pass |
//! | `held` | the same, after a wait |
//! | `refused` | too few units were left, or the quota has none |
//! | `missing_key`, `unreadable_key` | the request was refused without a key to count by |
//! | `unavailable` | the store did not answer, and the policy refuses then; or the [source](overrides::OverrideSource) of overrides did not, and is set to refuse |
//! | `blocked` | an operator has blocked the caller |
//! | `penalty` | the key is blocked by the policy's [penalty](Penalty), or this refusal begins a block |
//! | `dry_run_allowed`, `dry_run_refused`, `dry_run_penalty` | what a [dry run](Policy::dry_run) would have decided |
//!
//! Labels are names of policies and categories, and the words above: never a key or a path.
//! `policy` is empty if no policy has decided: the caller is blocked, or the
//! [caller's](LimiterBuilder::caller) key is unreadable, or the source of overrides does not answer.
//! `category` is empty for a request without a category, and for [`Limiter::check`].
//!
//! Install the recorder before the first request: a series is registered when it is first needed,
//! and then kept. `Limiter::update_gauges` sets the gauges and `tower_quota_overflowed_total`; call
//! it before an exporter reads the numbers. Without a recorder, the feature costs a decision by one
//! policy about 170 processor instructions.
//!
//! # Events
//!
//! With the feature `tracing`, there are these events. Their targets begin with `tower_quota`:
//!
//! | level | what happened | fields | how often |
//! |---|---|---|---|
//! | debug | a request was refused | `policy`, `category`, `reason`, `key_kind`, `limit`, `retry_after` | each |
//! | debug | a request was held, and is decided now | `category`, `held` | each |
//! | debug | a request was decided without the store | `error` | each |
//! | info | a dry run would have refused a request | `policy`, `category` | each |
//! | info | a [penalty](Penalty) blocks a key: a refusal or a failure that counted has begun the block, or met it | `policy`, `key_kind`, `dry_run`, `blocked_for` | each |
//! | warn | a request showed a mistake in the settings: see the module [`warning`] | `code`, `culprit` | once for each culprit, and once more after an apply |
//! | warn | a watched file has a [lint](Limiter::lint) that the limits before it did not have | `file`, `lint` | each |
//! | info | limits were applied | `changes`, if there are any | each time |
//! | error | limits were not applied, and nothing has changed | `problems`, and `file` if it cannot be used | each time |
//! | info | the [overrides] of limits from a file were applied | `set`, `ended`, `of_operators`: how many | each time, if there are any |
//! | error | the overrides of a watched file could not be set | `error` | once for each problem |
//! | info | they are set now | | each time |
//! | info | an operator has changed what holds for a key, on the operator's page | `operator`, `key`, `change` | each |
//! | warn | the processor's counter is not steady, so the system's clock is read instead | | once |
//! | warn | Redis does not answer, and is not used until it does | `error` | each time |
//! | info | Redis answers again | | each time |
//! | warn | the store's overrides cannot be read | `error` | each time |
//! | info | they can be read again | | each time |
//! | warn | the override source does not answer | `error` | once in an outage, at most once a minute |
//! | info | the override source answers again | | after each such event |
//! | warn | Redis evicts counts when it is full | `policy`: its `maxmemory-policy` | when first connected |
//!
//! # More than one replica
//!
//! By default, counts live in the memory of one process, so two replicas have two sets of counts.
//! With the feature `redis`, replicas share their counts through a Redis or Valkey server or a
//! cluster, in one round trip a request:
//! `.store(RedisStore::builder(url).secret(secret).build()?)`. The secret turns keys into
//! fingerprints, and is the same for all replicas.
//!
//! No more than the quota is admitted, by the server's clock, as long as the server forgets nothing. It
//! forgets if it is killed without an append-only file, if it fails over to a replica that lacks the last
//! charges, or if it is full and evicts counts. The guide has a table of [faults](guide::replicas#what-happens-on-a-fault):
//! what callers see, what is admitted, and how soon it heals.
//!
//! A decision waits for the server for 50 ms at most, by default. If a server does not answer in
//! time, it is probed once in the background, and not used if it does not answer the probe either.
//! [`Policy::on_store_failure`] says what is decided then. Many requests at once are no fault of
//! the server: those that cannot be sent yet wait in a queue of this process, for a second at most.
//! The docs of `store::RedisStore` have the rest, and the guide says what a
//! [release](guide::replicas#a-release) changes.
//!
//! # What it does not do
//!
//! An extractor cannot wait. If it takes a look-up to know the caller, a [`LookUpLayer`] does it first, or
//! a middleware of your own, which leaves an extension for [`key::extension`].
//!
//! # Other servers than axum's
//!
//! The layer wraps any `tower::Service<http::Request<B>>` whose response body has `Bytes` as its
//! data. Put the peer's address into the request's extensions as [`key::PeerAddr`], or
//! [`key::UnixPeer`] for a peer on a Unix socket. The feature `tonic` reads tonic's.
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | reads the peer's address from axum's `ConnectInfo`, and the path from `OriginalUri`; `Rejection` is an `IntoResponse` |
//! | `tracing` | yes | the [events](#events) above |
//! | `describe` | yes | the module `describe`: the limits as JSON, Markdown and an HTML page, and with `axum` a route that serves them; the module `explain`: why a request would pass or be refused; lints, which find settings that are probably not meant |
//! | `calendar` | no | the module `calendar`: quotas by calendar month, week, day or year in a time zone, and other quotas at some hours of the week |
//! | `metrics` | no | the [metrics](#metrics) above |
//! | `redis` | no | `store::RedisStore`: counts that several replicas share, in Redis or Valkey |
//! | `redis-tls` | no | speaks TLS with these servers, by `rustls` |
//! | `grpc` | no | answers refused gRPC calls with a gRPC status and its details |
//! | `config` | no | the module `config`: limits from a TOML file, or from any other format of serde; applies a file that changes |
//! | `testing` | no | the module `testing`, for tests of your limits: a clock that is moved by hand, a client whose assertions say what each policy decided, a store that fails on command |
//! | `tonic` | no | includes `grpc`; reads the peer's address from tonic's `TcpConnectInfo`, and a peer on a Unix socket from `UdsConnectInfo` |
//! | `usage` | no | includes `describe`; the module `usage`: a log of requests, and with `axum` a page that shows callers their usage, and one for operators |
//! | `usage-sqlite` | no | keeps that log in a SQLite file; needs a C compiler, to build SQLite |

#![cfg_attr(docsrs, feature(doc_cfg))]
#![forbid(unsafe_code)]
#![warn(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    clippy::must_use_candidate,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::unreachable,
    clippy::unimplemented,
    clippy::print_stdout
)]
// Modules that calculate, or that read what callers send, add lints of arithmetic and of indexing.
#![cfg_attr(not(test), warn(clippy::cast_possible_truncation, clippy::string_slice))]
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

// The fuzz targets, which tests run as well, name the crate.
#[cfg(test)]
extern crate self as tower_quota;

mod algorithm;
mod body_field;
#[cfg(feature = "calendar")]
pub mod calendar;
mod category;
mod clock;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "describe")]
pub mod describe;
mod error;
mod first_requests;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub mod guide;
mod json_object;
pub mod key;
mod layer;
mod limiter;
mod lock;
mod look_up;
mod matcher;
#[cfg(feature = "metrics")]
mod metrics;
mod override_record;
#[cfg(any(feature = "describe", all(feature = "usage", feature = "axum")))]
mod page;
mod path;
mod penalty;
mod policy;
mod quota;
mod shown_text;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(feature = "usage")]
pub mod usage;
pub mod warning;

pub use crate::{
    algorithm::Algorithm,
    body_field::{BodyField, BodyFieldLayer, PeekedBody},
    category::Category,
    clock::{Clock, Now},
    error::{BuildError, BuildProblem},
    layer::{
        Ended, HeaderStyle, PendingResponse, RateLimit, RateLimitLayer, RateLimitLayerBuilder,
        Rejection, ResetFormat, ResponseBody, ResponseFuture, ResponseObserver, response,
    },
    limiter::{
        AcquireError, Changes, Check, CheckError, Commit, Decision, DecisionFuture, Enter, Limiter,
        LimiterBuilder, Meter, Outcome, Permit, PolicyHandle, QuotaRef, Reason, Refund,
        Reservation, Reserve, SettingChange, Verdict, overrides,
    },
    look_up::{LookUp, LookUpLayer},
    matcher::Matcher,
    penalty::Penalty,
    policy::{OnStoreFailure, Policy},
    quota::Quota,
};
#[cfg(feature = "describe")]
pub use crate::{
    layer::{ExpectedResponse, LayerExplanation},
    limiter::{Lint, LintKind, explain},
};

/// The README's code compiles.
#[cfg(all(doctest, feature = "axum", feature = "describe", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
