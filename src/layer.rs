use std::{fmt, sync::Arc};

use bytes::Bytes;
use http::Response;
use tower::Layer;

use crate::{
    headers::HeaderStyle,
    limiter::Limiter,
    rejection::{Rejection, Renderer},
    service::RateLimit,
};

/// Holds the requests of a service to a [`Limiter`]'s policies.
///
/// The inner service is called only for requests that pass. The others are answered with a typed
/// rejection, as a response: the service's error type stays what it is.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};
///
/// let per_ip = Policy::token_bucket("per ip", Quota::per_minute(60)).key(ClientIp::new()).or_skip();
/// let limiter = Limiter::builder().policy(per_ip).build()?;
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(RateLimitLayer::new(limiter));
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone)]
#[must_use]
pub struct RateLimitLayer {
    face: Arc<Face>,
}

/// What the limiter looks like from outside, shared by every clone of every service.
#[derive(Clone)]
pub(crate) struct Face {
    pub(crate) limiter: Limiter,
    pub(crate) styles: Vec<HeaderStyle>,
    pub(crate) renderer: Renderer,
    pub(crate) expose_decision: bool,
}

impl RateLimitLayer {
    /// With the `X-RateLimit-*` headers, `Retry-After` on refusals, and a JSON body for these.
    pub fn new(limiter: Limiter) -> Self {
        let face = Face {
            limiter,
            styles: vec![HeaderStyle::x_ratelimit()],
            renderer: Arc::new(Rejection::to_response),
            expose_decision: false,
        };
        Self { face: Arc::new(face) }
    }

    /// The families of quota headers; none of them for an empty list. Default:
    /// [`HeaderStyle::x_ratelimit`]. Every response to a counted request has them.
    pub fn headers(mut self, styles: impl IntoIterator<Item = HeaderStyle>) -> Self {
        Arc::make_mut(&mut self.face).styles = styles.into_iter().collect();
        self
    }

    /// The response to a refused request. The layer adds the quota headers and `Retry-After`.
    /// Default: [`Rejection::to_response`].
    ///
    /// ```
    /// use http::Response;
    /// use tower_quota::{Limiter, RateLimitLayer, Rejection};
    ///
    /// let limiter = Limiter::builder().build()?;
    /// let layer = RateLimitLayer::new(limiter).on_rejection(|rejection: &Rejection| {
    ///     let mut response = Response::new(format!("slow down: {rejection}"));
    ///     *response.status_mut() = rejection.status();
    ///     response
    /// });
    /// # let _ = layer;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn on_rejection<F, B>(mut self, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        let renderer: Renderer = Arc::new(move |rejection| respond(rejection).map(Into::into));
        Arc::make_mut(&mut self.face).renderer = renderer;
        self
    }

    /// Puts the [`Decision`](crate::Decision) into the extensions of requests that pass, for their
    /// handlers. Off by default: it is the only thing here that allocates.
    pub fn expose_decision(mut self) -> Self {
        Arc::make_mut(&mut self.face).expose_decision = true;
        self
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit::new(inner, Arc::clone(&self.face))
    }
}

impl fmt::Debug for RateLimitLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.face.fmt(f)
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("limiter", &self.limiter)
            .field("headers", &self.styles)
            .field("expose_decision", &self.expose_decision)
            .finish_non_exhaustive()
    }
}
