//! A plain text body: [`plain_text`].

use bytes::Bytes;
use http::Response;

use crate::layer::rejection::Rejection;

/// A body in plain text: the rejection's message.
///
/// ```
/// use tower_quota::{Limiter, RateLimitLayer, response};
///
/// let limiter = Limiter::builder().build()?;
/// let layer =
///     RateLimitLayer::builder(limiter).on_rejection(response::plain_text()).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub fn plain_text() -> impl Fn(&Rejection) -> Response<Bytes> + Send + Sync + 'static {
    |rejection| rejection.respond("text/plain; charset=utf-8", rejection.to_string())
}
