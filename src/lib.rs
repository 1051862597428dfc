//! Quotas for HTTP APIs: a [tower] layer that finds out whose quota a request draws on, and lets it
//! pass or answers with a typed 429.
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
//! /// What your own middleware leaves in the request of a caller whose API key is good.
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
//! # A key has to be authenticated
//!
//! Each key has a quota of its own. Whoever can make keys up has as many quotas as they like: a
//! policy by [`key::header`], [`key::bearer`], [`key::query`] or a field of the body counts what the
//! request says, whether or not it is true. So put the layer inside of the middleware that
//! authenticates, and count by what that leaves in the request ([`key::extension`]), as above; or
//! add a second policy, by [`key::ClientIp`], for every request.
//!
//! A caller that guesses keys is limited only if that middleware lets unknown callers through to the
//! layer, without the extension. `or_key(client_ip)` then counts them by address, and the handler, or a
//! middleware inside of the layer, answers 401.
//!
//! # How a request is decided
//!
//! A [`Limiter`] finds the **policies** that hold for the request: those of every request, and
//! those of its **category**, which is the first that matches its method and path. Each [`Policy`]
//! finds the request's **key**, looks up its **quota**, and charges its cost. All of them are
//! charged, or none: a request that one policy refuses costs nothing in the others. The
//! [`Decision`] has what each of them says. The [`RateLimitLayer`] passes it on to the caller, in
//! headers and, if the request does not pass, in a [`Rejection`] that is yours to render.
//!
//! # Missing and unreadable keys
//!
//! A key is found, missing or unreadable ([`key::Extracted`]). A policy says what happens without
//! its key: another key ([`Policy::or_key`]), no count ([`Policy::or_skip`]) or a refusal
//! ([`Policy::or_refuse`]). A key is unreadable where it is there twice, or malformed, so that the
//! handler may read another one: then the request is refused, unless the policy
//! [says otherwise](Policy::unreadable_as_missing).
//!
//! # Kinds of mistakes
//!
//! A mistake in the settings never means that a limit is silently not there:
//!
//! - What the settings alone show is an error of [`LimiterBuilder::build`], which names the setting
//!   and says what to write instead.
//! - What only requests show, such as a load balancer that is not trusted, is a [`warning`], given
//!   once. It has a code, and is logged with the feature `tracing`.
//! - What leaves the limit of a request unknown refuses that request: a plan with an invalid quota,
//!   a body field that no layer has read.
//!
//! # Which algorithm
//!
//! | | admits in any one window | memory per key | choose it for |
//! |---|---|---|---|
//! | [token bucket](Policy::token_bucket) | burst + units | 35 bytes | smoothing; most APIs |
//! | [fixed window](Policy::fixed_window) | up to 2 × units, around an edge | 35 bytes | "resets on the hour" |
//! | [sliding window](Policy::sliding_window) | units | 90 bytes, or 370 to 1,250 | limits that must hold, such as sign-in |
//!
//! A window is half-open: a unit comes back exactly one window after it was used. So the bound holds
//! for intervals that have one of their two ends; an interval with both ends may admit more.
//!
//! # Holding instead of refusing
//!
//! A policy or a category may [hold](Policy::hold) a request up to a maximum instead of refusing it.
//! A held request charges nothing until its turn. It reserves its units by its place in the line: a
//! later request for one of its keys must leave room for them. A request is held only where its units
//! are expected in time. Where replicas share the counts, another one may take them first; then the
//! request waits on, or is refused. When its caller leaves, those behind move up. A request that is
//! due and is not polled for a tenth of a second is passed over until it is polled. The line is
//! bounded [in all](LimiterBuilder::max_held), [per caller](LimiterBuilder::max_held_per_caller) and
//! [per key](LimiterBuilder::max_held_per_key); a held request takes less than 2 KB beside the
//! request itself. Holding needs a tokio runtime with time.
//!
//! # Limits that document themselves
//!
//! With the feature `describe`, [`RateLimitLayer::describe`] describes the limits for callers, from
//! the settings that decide; the module [`describe`] turns that into JSON, Markdown and an HTML page.
//!
//! # What operators see
//!
//! With the feature `metrics`, these metrics go to the recorder that the process has installed for the
//! [`metrics`](https://docs.rs/metrics) facade:
//!
//! | metric | kind | labels | meaning |
//! |---|---|---|---|
//! | `tower_quota_decisions_total` | counter | `policy`, `category`, `verdict` | what each policy said of requests: `allowed`, `held` (allowed after a wait), `refused`, `missing_key`, `unreadable_key`, `unavailable` (the store did not answer), `blocked` (an operator has blocked the caller; `policy` is empty then), `dry_run_allowed`, `dry_run_refused` |
//! | `tower_quota_held_duration_seconds` | histogram | `category` | how long held requests waited, whether or not they passed then |
//! | `tower_quota_store_duration_seconds` | histogram | `operation` | how long a store took to `charge` or to `correct`; the memory store answers at once and is not measured |
//! | `tower_quota_store_errors_total` | counter | `operation` | how often a store has not answered, so that policies decided without it |
//! | `tower_quota_deny_cache_hits_total` | counter | | requests refused by what is remembered, without asking Redis |
//! | `tower_quota_overflowed_total` | counter | `policy` | charges for which the memory store had no room, so that new keys share a quota |
//! | `tower_quota_live_keys` | gauge | | keys in the store, each once per policy, where the store knows |
//! | `tower_quota_held_requests` | gauge | | requests that wait now |
//!
//! Labels are the names of policies and categories, and the words above: never a key or a path.
//! `category` is empty where there is none, and for [`Limiter::check`]. Install the recorder before
//! the first request: a series is registered when it is first needed, and then kept.
//! `Limiter::update_gauges` sets the gauges and `tower_quota_overflowed_total`; an exporter calls it
//! before it reads the numbers. Where no recorder is installed, a decision by one policy takes some
//! 170 processor instructions more than without the feature.
//!
//! With the feature `tracing`, there are events, their targets under `tower_quota`:
//!
//! | level | what happened | fields | how often |
//! |---|---|---|---|
//! | debug | a request was refused | `policy`, `category`, `reason`, `key_kind`, `limit`, `retry_after` | each |
//! | debug | a request was held, and is decided now | `category`, `held` | each |
//! | info | a dry run would have refused a request | `policy`, `category` | each |
//! | warn | a request showed a mistake in the settings: see the module [`warning`] | `code`, `culprit` | the first time |
//! | warn | the processor's counter is not steady, and the time is read from the system's clock | | once |
//!
//! # More than one replica
//!
//! Counts live in the memory of one process, and two replicas have two sets of them. With the feature
//! `redis`, replicas share theirs through a Redis or Valkey server or a cluster, in one round trip a
//! request: `.store(RedisStore::builder(url).secret(secret).build()?)`, where the secret makes
//! fingerprints of keys and is the same for all replicas. By the server's clock, never more than the
//! quota is admitted, as long as the server forgets nothing. A server that is killed without an
//! append-only file admits up to one more quota for each kill. A fail-over admits once more what was
//! not replicated, and a full server that evicts one more quota for each count.
//!
//! By default, a decision waits 50 ms for the server at most. A server that has not answered in time gets one
//! more question in the background, and is not used while it does not answer that either. Meanwhile
//! [`Policy::on_store_failure`] says what is decided. Requests beyond those on their way to the server
//! wait in a queue of this process, which is no failure of the server, for a second at most. The
//! README has what callers see of each fault, and the docs of `store::RedisStore` have the rest.
//!
//! With `tracing`, these are logged as well:
//!
//! | level | what happened | fields | how often |
//! |---|---|---|---|
//! | warn | Redis does not answer, and is not used until it does | `error` | each time |
//! | info | Redis answers again | | each time |
//! | warn | Redis evicts counts when it is full | `policy` | when first connected |
//! | debug | a request was decided without the store | `error` | each |
//!
//! # What it does not do
//!
//! An extractor is synchronous: where identity takes a look-up, an earlier middleware does it and
//! leaves an extension for [`key::extension`].
//!
//! # Under other servers than axum's
//!
//! Any `tower::Service<http::Request<B>>` whose response body has `Bytes` as its data can be
//! wrapped. Put the peer's address into the extensions as [`key::PeerAddr`]; the feature `tonic` reads
//! tonic's. A peer on a Unix socket is a [`key::UnixPeer`].
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | reads the peer's address from axum's `ConnectInfo`, and the path from `OriginalUri`; `Rejection` is an `IntoResponse` |
//! | `tracing` | yes | logs what an operator has to know: refusals, what a dry run would refuse, and each [`warning`] |
//! | `describe` | yes | the module `describe`: the limits as JSON, Markdown and an HTML page, and with `axum` a route that serves them |
//! | `metrics` | no | counts decisions, waits and keys for the recorder of the `metrics` facade |
//! | `redis` | no | `store::RedisStore`: counts that several replicas share, in Redis or Valkey |
//! | `grpc` | no | answers refused gRPC calls with a gRPC status and its details |
//! | `tonic` | no | reads the peer's address from tonic's `TcpConnectInfo`, and a peer on a Unix socket from `UdsConnectInfo` |
//! | `usage` | no | the module `usage`: a log of requests, and with `axum` a page that shows callers their usage, and one for the operator |
//! | `usage-sqlite` | no | keeps that log in a SQLite file; builds SQLite, for which it takes a C compiler |

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
#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::unreachable)
)]

// The fuzz targets, which tests run as well, name the crate.
#[cfg(test)]
extern crate self as tower_quota;

mod algorithm;
mod body_field;
mod category;
mod clock;
#[cfg(feature = "describe")]
pub mod describe;
mod error;
mod first_requests;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
pub mod key;
mod layer;
mod limiter;
mod matcher;
#[cfg(feature = "metrics")]
mod metrics;
#[cfg(any(feature = "describe", all(feature = "usage", feature = "axum")))]
mod page;
mod path;
mod policy;
mod quota;
pub mod store;
#[cfg(feature = "usage")]
pub mod usage;
pub mod warning;

pub use crate::{
    algorithm::Algorithm,
    body_field::{BodyField, BodyFieldLayer, PeekedBody},
    category::Category,
    clock::{Clock, Now},
    error::BuildError,
    layer::{
        Ended, HeaderStyle, PendingResponse, RateLimit, RateLimitLayer, RateLimitLayerBuilder,
        Rejection, ResetFormat, ResponseBody, ResponseFuture, ResponseObserver, response,
    },
    limiter::{
        CallerOverrides, Check, CheckError, Decision, DecisionFuture, Limiter, LimiterBuilder,
        Outcome, OverrideError, OverrideView, Overrides, PolicyHandle, QuotaOverride, QuotaRef,
        Reason, Refund, Verdict,
    },
    matcher::Matcher,
    policy::{OnStoreFailure, Policy},
    quota::Quota,
};

/// The README's code compiles.
#[cfg(all(doctest, feature = "axum", feature = "describe", feature = "redis"))]
#[doc = include_str!("../README.md")]
struct Readme;
