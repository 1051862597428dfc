//! What a layer answers, and how: [`RateLimitLayerBuilder`].

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Response;

use super::{
    HeaderStyle, RateLimitLayer, Rejection, ResponseObserver, jitter::Jitter, responder::Responder,
};
use crate::error::BuildError;

/// Collects what a [`RateLimitLayer`] answers; made by [`RateLimitLayer::builder`].
///
/// ```
/// use tower_quota::{HeaderStyle, Limiter, Policy, Quota, RateLimitLayer};
///
/// let hourly = Policy::sliding_window("hourly", Quota::per_hour(1_000)).global();
/// let burst = Policy::sliding_window("burst", Quota::per_minute(100)).global();
/// let limiter = Limiter::builder().policy(hourly).policy(burst).build()?;
/// let layer = RateLimitLayer::builder(limiter)
///     .headers([HeaderStyle::x_ratelimit()])
///     .header_policy("hourly")
///     .retry_after(false)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[must_use]
pub struct RateLimitLayerBuilder {
    responder: Responder,
}

impl RateLimitLayerBuilder {
    pub(super) fn new(responder: Responder) -> Self {
        Self { responder }
    }

    /// The families of quota headers; none of them for an empty list. Default:
    /// [`HeaderStyle::x_ratelimit`]. Every response to a counted request has them.
    ///
    /// A layer further inside, or the handler, may have written the same headers. Then headers of one
    /// policy stay those of the policy with the smaller share left (`remaining` of `limit`), all of
    /// them from one policy, and lists have the policies of both. So give nested layers the same
    /// styles. A response that a layer further inside has refused stays as it is. A [`Rejection`]
    /// that the handler answers with gets its own decision's quota headers, and stays as it is
    /// otherwise.
    pub fn headers(mut self, styles: impl IntoIterator<Item = HeaderStyle>) -> Self {
        self.responder.headers.styles = styles.into_iter().collect();
        self
    }

    /// The policy whose numbers stand in headers of one policy, whatever layers further inside have
    /// written there. Default, and where the policy does not hold for the request: the
    /// [tightest](crate::Decision::tightest). A refusal always has the numbers of the policy that
    /// refused, with the longest wait.
    pub fn header_policy(mut self, name: impl Into<String>) -> Self {
        self.responder.headers.policy = Some(name.into());
        self
    }

    /// Whether refusals have `Retry-After` (RFC 9110, section 10.2.3): the seconds after which the
    /// same request would pass, or after which the store may answer again. Default: true.
    pub fn retry_after(mut self, has_header: bool) -> Self {
        self.responder.headers.retry_after = has_header;
        self
    }

    /// Lengthens the wait of each refused caller by up to `at_most`, so that callers that are refused
    /// together do not come back in one wave. A caller's share of `at_most` is fixed for its key.
    /// Default: zero, which is the exact wait.
    ///
    /// `Retry-After`, the body and gRPC's retry delay have the longer wait; a reset stays exact.
    /// Under a global policy, the key of another policy of the request fixes the share; without one,
    /// all callers wait equally long.
    pub fn jitter_retry_after(mut self, at_most: Duration) -> Self {
        self.responder.jitter = Jitter(at_most);
        self
    }

    /// The response to a refused request. The layer adds the quota headers and `Retry-After`, and
    /// `Cache-Control: no-store` (RFC 9111, section 5.2.2.5) where the response has none. The layer
    /// does not read the request's body. To an HTTP/1 request with a body it therefore answers with
    /// `Connection: close` (RFC 9112, section 9.6): the server cannot find the next request behind the
    /// body.
    /// Default: [`Rejection::to_response`]. The module [`response`](crate::layer::response) has other
    /// formats.
    ///
    /// ```
    /// use http::Response;
    /// use tower_quota::{Limiter, RateLimitLayer};
    ///
    /// let limiter = Limiter::builder().build()?;
    /// let layer = RateLimitLayer::builder(limiter)
    ///     .on_rejection(|rejection| {
    ///         let mut response = Response::new(format!("slow down: {rejection}"));
    ///         *response.status_mut() = rejection.status();
    ///         response
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn on_rejection<F, B>(mut self, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        self.responder.render = Arc::new(move |rejection| respond(rejection).map(Into::into));
        self
    }

    /// Puts the [`Decision`](crate::Decision) into the extensions of requests that pass, for their
    /// handlers. Off by default: it allocates.
    pub fn expose_decision(mut self) -> Self {
        self.responder.expose_decision = true;
        self
    }

    /// Lets `observer` watch each request, refused and exempt requests included. Default: none; the
    /// last one counts.
    pub fn observe(mut self, observer: impl ResponseObserver) -> Self {
        self.responder.observer = Some(Arc::new(observer));
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// A setting that cannot work: the error names it and says what to write instead.
    pub fn build(self) -> Result<RateLimitLayer, BuildError> {
        self.responder.headers.validate(&self.responder.limiter)?;
        Ok(RateLimitLayer { responder: Arc::new(self.responder) })
    }
}

impl fmt::Debug for RateLimitLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.responder.fmt(f)
    }
}
