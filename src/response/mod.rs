//! Formats of refusals, for [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection).
//!
//! | | content type |
//! |---|---|
//! | [`Rejection::to_response`](crate::Rejection::to_response), the default | `application/json` |
//! | [`Problem`] | `application/problem+json` (RFC 9457) |
//! | [`json`] | `application/json`, with a body of the house's own |
//! | [`plain_text`] | `text/plain` |
//!
//! All of them answer with [`Rejection::status`](crate::Rejection::status). Any other format is a
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

mod json;
mod plain_text;
mod problem;

pub use self::{json::json, plain_text::plain_text, problem::Problem};
