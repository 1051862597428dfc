//! Formats of refusals, for [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
//!
//! | | content type |
//! |---|---|
//! | [`Rejection::to_response`](crate::Rejection::to_response), the default | `application/json` |
//! | [`Problem`] | `application/problem+json` (RFC 9457) |
//! | [`json`] | `application/json`, with a body of your own |
//! | [`plain_text`] | `text/plain` |
//!
//! With the feature `grpc`, which `tonic` includes, a refused gRPC call gets a gRPC response, whatever
//! `on_rejection` is. A call is a request with a content type of gRPC, such as `application/grpc+proto`. The
//! HTTP status is 200, there is no body, and the headers are:
//!
//! - `grpc-status`: 8 (`RESOURCE_EXHAUSTED`); 3 (`INVALID_ARGUMENT`) if the key is missing or
//!   unreadable; 14 (`UNAVAILABLE`) if the store or a
//!   look-up does not answer
//! - `grpc-message`: the message
//! - `grpc-status-details-bin`, with status 8: `RetryInfo` and `QuotaFailure` of `google.rpc`
//! - `grpc-retry-pushback-ms` (gRFC A6): the wait in milliseconds, or -1 if a retry does not help
//!
//! All other responses have the status [`Rejection::status`](crate::Rejection::status). For any
//! other format, write a closure that returns a response.
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

mod default_body;
#[cfg(feature = "grpc")]
pub(super) mod grpc;
mod grpc_content_type;
mod json;
mod plain_text;
mod problem;

pub(super) use self::default_body::default_body;
#[cfg(not(feature = "grpc"))]
pub(super) use self::grpc_content_type::grpc_content_type;
pub use self::{json::json, plain_text::plain_text, problem::Problem};
