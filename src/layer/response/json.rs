//! A JSON body by a closure: [`json`].

use bytes::Bytes;
use http::Response;
use serde::Serialize;

use crate::layer::rejection::Rejection;

/// A JSON body (RFC 8259) that a closure makes from the rejection.
///
/// If serde cannot write the body, the response is [`Rejection::to_response`].
///
/// ```
/// use serde::Serialize;
/// use tower_quota::{Limiter, RateLimitLayer, response};
///
/// #[derive(Serialize)]
/// struct Refusal {
///     error: &'static str,
///     retry_after: Option<u64>,
/// }
///
/// let limiter = Limiter::builder().build()?;
/// let layer = RateLimitLayer::builder(limiter)
///     .on_rejection(response::json(|rejection| Refusal {
///         error: "rate_limit_exceeded",
///         retry_after: rejection.retry_after_seconds(),
///     }))
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub fn json<T: Serialize>(
    body: impl Fn(&Rejection) -> T + Send + Sync + 'static,
) -> impl Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static {
    move |rejection| match serde_json::to_vec(&body(rejection)) {
        Ok(body) => rejection.respond("application/json", body),
        Err(_) => rejection.to_response(),
    }
}
