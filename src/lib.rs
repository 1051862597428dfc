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
//! let sign_in = Policy::sliding_window("sign-in", Quota::per_minute(10))
//!     .key(ClientIp::new().trust_proxies(["10.0.0.0/8"]))
//!     .or_refuse();
//! let reads = Policy::token_bucket("read", Quota::per_minute(100).burst(20))
//!     .key(key::header("x-api-key"))
//!     .or_key(ClientIp::new().trust_proxies(["10.0.0.0/8"]))
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
//! # How a request is decided
//!
//! A [`Limiter`] finds the **policies** that hold for the request: those of every request, and
//! those of its **category**, which is the first that matches its method and path. Each [`Policy`]
//! finds the request's **key**, looks up its **quota**, and asks for its cost. All of them are
//! charged, or none: a request that one policy refuses costs nothing in the others. The
//! [`Decision`] tells what each of them says, and the [`RateLimitLayer`] tells it the caller, in
//! headers and, if it does not pass, in a [`Rejection`] that is yours to render.
//!
//! # Which algorithm
//!
//! | | admits in any one window | memory per key | choose it for |
//! |---|---|---|---|
//! | [token bucket](Policy::token_bucket) | burst + units | small | smoothing; most APIs |
//! | [fixed window](Policy::fixed_window) | up to 2 × units, around an edge | small | "resets on the hour" |
//! | [sliding window](Policy::sliding_window) | units | up to 1 KB | limits that must hold, such as sign-in |
//!
//! # Holding instead of refusing
//!
//! A policy or a category may [hold](Policy::hold) a request up to a maximum instead of refusing it.
//! A held request charges nothing until its turn: its place in the line reserves its units, because
//! whoever comes later to one of its keys must leave room for them. It is held only when it is sure
//! to pass in time. When its caller leaves, those behind move up. The line is bounded,
//! [per key](LimiterBuilder::max_held_per_key) and [in all](LimiterBuilder::max_held); a held
//! request takes less than 2 KB beside the request itself.
//!
//! # What it does not do
//!
//! Counts live in the memory of one process: two replicas have two sets of counts. An extractor is
//! synchronous: where identity takes a look-up, an earlier middleware does it and leaves an
//! extension for [`key::extension`].
//!
//! # Under other servers than axum's
//!
//! Any `tower::Service<http::Request<B>>` whose response body has `Bytes` as its data can be
//! wrapped. Put the peer's address into the extensions as [`key::PeerAddr`].
//!
//! # Features
//!
//! | feature | default | adds |
//! |---|---|---|
//! | `axum` | yes | reads the peer from axum's `ConnectInfo`, the path from `OriginalUri`; `Rejection` is an `IntoResponse` |
//! | `tracing` | yes | logs what an operator has to know: a missing peer address, a full store, a plan that cannot be, what a dry run would refuse |
//! | `grpc` | no | answers refused gRPC calls with a gRPC status and its details |
//! | `usage` | no | the module `usage`: a log of requests, and with `axum` a page that shows callers their usage, and one for the operator |
//! | `usage-sqlite` | no | keeps that log in a SQLite file; builds SQLite, for which it takes a C compiler |

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
    clippy::print_stdout
)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod algorithm;
mod body;
mod category;
mod clock;
mod decision;
mod error;
mod future;
mod headers;
mod hold;
pub mod key;
mod layer;
mod limiter;
mod matcher;
mod policy;
mod quota;
mod rejection;
mod report;
pub mod response;
mod service;
mod spread;
pub mod store;
#[cfg(feature = "usage")]
pub mod usage;

pub use crate::{
    algorithm::Algorithm,
    body::ResponseBody,
    category::Category,
    clock::{Clock, Now},
    decision::{Decision, Outcome, Reason},
    error::BuildError,
    future::ResponseFuture,
    headers::{HeaderStyle, ResetFormat},
    layer::{RateLimitLayer, RateLimitLayerBuilder},
    limiter::{Check, CheckFuture, DecisionFuture, Limiter, LimiterBuilder, UnknownPolicy},
    matcher::Matcher,
    policy::Policy,
    quota::Quota,
    rejection::Rejection,
    service::RateLimit,
};

/// The README's code compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
