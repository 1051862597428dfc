//! Quotas for HTTP APIs.
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
pub mod key;
mod layer;
mod limiter;
mod matcher;
mod policy;
mod quota;
mod rejection;
pub mod response;
mod service;
mod spread;
pub mod store;

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
