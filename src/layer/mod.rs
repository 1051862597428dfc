//! The tower layer: asks the limiter about each HTTP request, and answers refusals.

mod body;
mod future;
mod headers;
mod jitter;
mod rejection;
mod report;
pub mod response;
mod service;

pub use self::{
    body::ResponseBody,
    future::ResponseFuture,
    headers::{HeaderStyle, ResetFormat},
    rejection::Rejection,
    service::RateLimit,
};
#[cfg(feature = "describe")]
use self::{future::X_REQUEST_ID, report::Report};
use self::{headers::Headers, jitter::Spread, rejection::Renderer};

use std::{fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Response};
use tower::Layer;

#[cfg(feature = "usage")]
use crate::usage::RequestLog;
#[cfg(feature = "describe")]
use crate::{
    describe::{Description, HeaderDescription, RefusalDescription, ResponseDescription},
    limiter::{Decision, Outcome},
};
use crate::{error::BuildError, limiter::Limiter};

/// The id of the request that is refused for an example.
#[cfg(feature = "describe")]
const EXAMPLE_ID: &str = "req_example";

/// Holds the requests of a service to a [`Limiter`]'s policies.
///
/// The inner service is called only for requests that pass. The others are answered with a typed
/// rejection, as a response: the service's error type stays what it is.
///
/// Add it with axum's `Router::layer`. `route_layer` leaves out what no route matches, and with it the
/// fallbacks of nested routers.
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
pub(crate) struct Face {
    pub(crate) limiter: Limiter,
    pub(crate) headers: Headers,
    pub(crate) spread: Spread,
    pub(crate) renderer: Renderer,
    pub(crate) expose_decision: bool,
    #[cfg(feature = "usage")]
    pub(crate) log: Option<RequestLog>,
}

impl RateLimitLayer {
    /// With the `X-RateLimit-*` headers, `Retry-After` on refusals, and a JSON body for these.
    pub fn new(limiter: Limiter) -> Self {
        // The defaults hold for any limiter: there is nothing to validate.
        Self { face: Arc::new(Face::new(limiter)) }
    }

    /// The defaults of [`new`](Self::new), which the builder's methods change.
    pub fn builder(limiter: Limiter) -> RateLimitLayerBuilder {
        RateLimitLayerBuilder { face: Face::new(limiter) }
    }

    /// The names of the headers that the layer may add to a response, for
    /// `Access-Control-Expose-Headers`: without it, scripts on other origins cannot read them.
    /// `tower_http::cors::CorsLayer::expose_headers` takes this list.
    ///
    /// ```
    /// # let limiter = tower_quota::Limiter::builder().build()?;
    /// let layer = tower_quota::RateLimitLayer::new(limiter);
    /// assert_eq!(
    ///     layer.exposed_headers(),
    ///     ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"],
    /// );
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    #[must_use]
    pub fn exposed_headers(&self) -> Vec<HeaderName> {
        self.face.headers.names()
    }

    /// What requests are held to and what responses tell, with a refusal for an example, as data;
    /// see the module [`describe`](crate::describe).
    ///
    /// The example is made as all refusals of HTTP requests are, by
    /// [`on_rejection`](RateLimitLayerBuilder::on_rejection) too, for a caller that there is not. The
    /// policy is the first that refuses; it counts by the first of its kinds of key, under the
    /// first of its plans.
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn describe(&self) -> Description {
        let Face { limiter, headers, .. } = &*self.face;
        let refusal = limiter.example_refusal().map(|decision| self.face.example(decision));
        let responses = ResponseDescription {
            headers: headers.describe().map(HeaderDescription::new).collect(),
            header_policy: headers.policy.clone(),
            refusal,
        };
        Description { responses: Some(responses), ..limiter.describe() }
    }
}

/// Collects what a [`RateLimitLayer`] tells, and how; made by [`RateLimitLayer::builder`].
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
    face: Face,
}

impl RateLimitLayerBuilder {
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
        self.face.headers.styles = styles.into_iter().collect();
        self
    }

    /// The policy whose numbers stand in headers of one policy, whatever layers further inside have
    /// written there. Default, and where the policy does not hold for the request: the
    /// [tightest](crate::Decision::tightest). A refusal always has the numbers of the policy that
    /// refused, with the longest wait.
    pub fn header_policy(mut self, name: impl Into<String>) -> Self {
        self.face.headers.policy = Some(name.into());
        self
    }

    /// Whether refusals have `Retry-After` (RFC 9110, section 10.2.3): the seconds after which the
    /// same request would pass, or after which the store may answer again. Default: true.
    pub fn retry_after(mut self, has_header: bool) -> Self {
        self.face.headers.retry_after = has_header;
        self
    }

    /// Tells each caller to wait up to `at_most` longer than it must, by a share that is fixed for
    /// its key, so that those who were refused together do not come back in one wave. Default:
    /// zero, which is the exact wait.
    ///
    /// It shows in `Retry-After`, the body and gRPC's retry delay alike; a reset is told as it is.
    /// Callers under a global policy are told apart by the key of another policy of the request;
    /// without one, they all wait the same.
    pub fn spread_retry_after(mut self, at_most: Duration) -> Self {
        self.face.spread = Spread(at_most);
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
        self.face.renderer = Arc::new(move |rejection| respond(rejection).map(Into::into));
        self
    }

    /// Puts the [`Decision`](crate::Decision) into the extensions of requests that pass, for their
    /// handlers. Off by default: it allocates.
    pub fn expose_decision(mut self) -> Self {
        self.face.expose_decision = true;
        self
    }

    /// Tells `log` of each request, when the head of its response is ready, refusals and exempt
    /// requests included. Default: none.
    #[cfg(feature = "usage")]
    pub fn log(mut self, log: RequestLog) -> Self {
        self.face.log = Some(log);
        self
    }

    /// The layer.
    ///
    /// # Errors
    /// A setting that cannot work: the error names it and says what to write instead.
    pub fn build(self) -> Result<RateLimitLayer, BuildError> {
        self.face.headers.validate(&self.face.limiter)?;
        Ok(RateLimitLayer { face: Arc::new(self.face) })
    }
}

impl Face {
    fn new(limiter: Limiter) -> Self {
        Self {
            limiter,
            headers: Headers::default(),
            spread: Spread::default(),
            renderer: Arc::new(Rejection::to_response),
            expose_decision: false,
            #[cfg(feature = "usage")]
            log: None,
        }
    }

    /// The response to a request that `decision` refuses.
    #[cfg(feature = "describe")]
    fn example(&self, decision: Decision) -> RefusalDescription {
        let mut head = http::Request::new(()).into_parts().0;
        head.headers.insert(X_REQUEST_ID, http::HeaderValue::from_static(EXAMPLE_ID));
        let policy = decision.tightest().map_or("", Outcome::policy).to_owned();
        let response = self.refuse(&head, decision, &mut Report::default());
        RefusalDescription::new(&policy, EXAMPLE_ID, response)
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

impl fmt::Debug for RateLimitLayerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.face.fmt(f)
    }
}

impl fmt::Debug for Face {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit")
            .field("limiter", &self.limiter)
            .field("headers", &self.headers)
            .field("spread", &self.spread.0)
            .field("expose_decision", &self.expose_decision)
            .finish_non_exhaustive()
    }
}
