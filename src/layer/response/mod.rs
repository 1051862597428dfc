//! Formats of refusals, for [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
//!
//! | | content type |
//! |---|---|
//! | [`Rejection::to_response`](crate::Rejection::to_response), the default | `application/json` |
//! | [`Problem`] | `application/problem+json` (RFC 9457) |
//! | [`json`] | `application/json`, with a body of the house's own |
//! | [`plain_text`] | `text/plain` |
//!
//! With the feature `grpc`, a refused gRPC call is answered as gRPC, whatever `on_rejection` says:
//! HTTP status 200, no body, and in the headers `grpc-status` 8 (`RESOURCE_EXHAUSTED`; 3,
//! `INVALID_ARGUMENT`, where the key is missing), the message, `grpc-status-details-bin` with
//! `RetryInfo` and `QuotaFailure` of `google.rpc`, and `grpc-retry-pushback-ms` (gRFC A6), which is
//! -1 where a retry does not help. A call is known by a content type that begins with
//! `application/grpc`.
//!
//! All others answer with [`Rejection::status`](crate::Rejection::status). Any other format is a
//! closure that returns a response.
//!
//! ```
//! use tower_quota::{Limiter, RateLimitLayer, response};
//!
//! let limiter = Limiter::builder().build()?;
//! let layer = RateLimitLayer::builder(limiter)
//!     .on_rejection(response::json(|rejection| {
//!         serde_json::json!({ "success": false, "error": { "message": rejection.to_string() } })
//!     }))
//!     .build()?;
//! # let _ = layer;
//! # Ok::<(), tower_quota::BuildError>(())
//! ```

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

#[cfg(feature = "grpc")]
pub(super) mod grpc;
mod json;
mod plain_text;
mod problem;

pub use self::{json::json, plain_text::plain_text, problem::Problem};
