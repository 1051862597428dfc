//! The tower layer: decides about each HTTP request, and answers the ones that are refused.
//!
//! `service` and `future` lead a request through the limiter and the inner service. All clones
//! share a `responder`, of which `responders` has a copy for each thread: it writes the `headers`, and
//! turns a refusal into a `rejection` and then a `response`. `observer` is the hook for a request log.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod body;
mod builder;
#[cfg(feature = "describe")]
mod explain;
mod future;
mod headers;
mod jitter;
mod observer;
mod rejection;
mod responder;
mod responders;
pub mod response;
mod service;

use std::sync::Arc;

use http::HeaderName;
use tower::Layer;

#[cfg(feature = "describe")]
pub use self::explain::{ExpectedResponse, LayerExplanation};
#[cfg(feature = "testing")]
pub(crate) use self::observer::ObservedBy;
pub use self::{
    body::ResponseBody,
    builder::RateLimitLayerBuilder,
    future::ResponseFuture,
    headers::{HeaderStyle, ResetFormat},
    observer::{Ended, PendingResponse, ResponseObserver},
    rejection::Rejection,
    service::RateLimit,
};
use self::{responder::Responder, responders::Responders};
use crate::{
    error::BuildError,
    key::{self, ClientIp},
    limiter::Limiter,
    policy::Policy,
    quota::Quota,
};

/// A tower layer that applies a [`Limiter`] to the HTTP requests of a service.
///
/// The inner service is called only for requests that pass. A refused request gets a response, by
/// default a 429 with a JSON body (see [`Rejection`]). A refusal is no error: the service's error
/// type stays the same.
///
/// In axum, add it with `Router::layer`. `Router::route_layer` does not limit requests that match
/// no route, nor the fallbacks of nested routers.
///
/// ```
/// use axum::{Router, routing::get};
/// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};
///
/// let per_ip = Policy::token_bucket("per ip", Quota::per_minute(60)).key(ClientIp::new()).or_refuse();
/// let limiter = Limiter::builder().policy(per_ip).build()?;
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(RateLimitLayer::new(limiter));
/// // Without the peer's address, each request is refused with 400.
/// let server = app.into_make_service_with_connect_info::<std::net::SocketAddr>();
/// # let _ = server;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct RateLimitLayer {
    responders: Responders,
}

impl RateLimitLayer {
    /// A layer with the defaults: responses have the `X-RateLimit-*` headers, and refusals also
    /// `Retry-After` and a JSON body.
    pub fn new(limiter: Limiter) -> Self {
        // The defaults work for any limiter: there is nothing to validate.
        Self { responders: Responders::new(Arc::new(Responder::new(limiter))) }
    }

    /// A layer that gives each client address this quota, by a token bucket. It is short for the policy
    /// `per ip` by [`ClientIp::new`](crate::key::ClientIp::new) in a limiter of its own.
    ///
    /// The address is that of the peer. No header is read:
    ///
    /// - Behind a proxy, all clients have the proxy's address and share one quota. The warning
    ///   [`forwarded_unread`](crate::warning#forwarded_unread) says so. Write the policy yourself then, with
    ///   [`trust_proxies`](crate::key::ClientIp::trust_proxies).
    /// - A request whose peer is not known is refused with 400, and the warning
    ///   [`no_peer_address`](crate::warning#no_peer_address) is given. In axum, serve the router with
    ///   `into_make_service_with_connect_info::<SocketAddr>()`.
    ///
    /// An IPv6 client is its network of 64 bits.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Quota, RateLimitLayer};
    ///
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(RateLimitLayer::per_ip(Quota::per_minute(60).burst(10))?);
    /// # let _ = app;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// A quota that cannot be, such as one of no units. The error says what to write instead.
    pub fn per_ip(quota: Quota) -> Result<Self, BuildError> {
        Self::of_one(Policy::token_bucket("per ip", quota).key(ClientIp::new()))
    }

    /// A layer that gives each value of a header this quota, by a token bucket: each API key, say. It is
    /// short for the policy `per key` by [`key::header`](crate::key::header) in a limiter of its own.
    ///
    /// A request without the header, or with an empty one, is refused with 400. So is one that has it
    /// twice.
    ///
    /// Callers can invent keys, and each has a quota of its own. So let a middleware that checks the key
    /// run first, or add [`per_ip`](Self::per_ip) too.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Quota, RateLimitLayer};
    ///
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(RateLimitLayer::per_key("x-api-key", Quota::per_minute(600))?)
    ///     .layer(RateLimitLayer::per_ip(Quota::per_minute(6_000))?);
    /// # let _ = app;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    ///
    /// # Errors
    /// A header or a quota that cannot be. The error names it and says what to write instead.
    pub fn per_key(header: impl AsRef<str>, quota: Quota) -> Result<Self, BuildError> {
        Self::of_one(Policy::token_bucket("per key", quota).key(key::header(header)))
    }

    /// A layer with one policy, which refuses requests without its key.
    fn of_one(policy: Policy) -> Result<Self, BuildError> {
        Ok(Self::new(Limiter::builder().policy(policy.or_refuse()).build()?))
    }

    /// A builder with the defaults of [`new`](Self::new).
    pub fn builder(limiter: Limiter) -> RateLimitLayerBuilder {
        RateLimitLayerBuilder { responder: Responder::new(limiter) }
    }

    /// The layer's limiter.
    #[must_use]
    pub fn limiter(&self) -> &Limiter {
        &self.responders.of_thread().limiter
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
        self.responders.of_thread().headers.names().collect()
    }

    /// Explains what the layer would answer to a request now, and why. It charges nothing, and counts
    /// in no metric, log or warning; an [observer](RateLimitLayerBuilder::observe) does not see it.
    #[cfg(feature = "describe")]
    pub fn explain(
        &self,
        request: &http::request::Parts,
    ) -> impl Future<Output = LayerExplanation> + Send + use<> {
        LayerExplanation::new(self.responders.of_thread(), request)
    }

    /// The limits and the headers of responses as data, with an example of a refusal; see the module
    /// [`describe`](crate::describe).
    ///
    /// The example is what [`on_rejection`](RateLimitLayerBuilder::on_rejection) responds to a
    /// caller who has used up a quota: that of the first policy that refuses requests, with its
    /// first kind of key and its first plan.
    #[cfg(feature = "describe")]
    #[must_use]
    pub fn describe(&self) -> crate::describe::Description {
        self.responders.of_thread().describe()
    }

    /// A route that serves the limits that apply now: as HTML, Markdown (`text/markdown`) or JSON
    /// (`application/json`), whichever the request's `Accept` prefers; HTML if it prefers none. After
    /// [`Limiter::apply`], the next request gets the new limits.
    ///
    /// `change` may set the title of [the description](Self::describe), or let it say less. It is called now,
    /// and after each apply.
    ///
    /// Add the route after the layer, so that requests for it are not counted.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Quota, RateLimitLayer};
    ///
    /// let rate_limit = RateLimitLayer::per_ip(Quota::per_minute(60))?;
    /// let rate_limits = rate_limit.limits_route(|limits| limits.title("Rate limits of the API"));
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(rate_limit)
    ///     .route("/rate-limits", rate_limits);
    /// # let _ = app;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    #[cfg(all(feature = "describe", feature = "axum"))]
    pub fn limits_route<S: Clone + Send + Sync + 'static>(
        &self,
        change: impl Fn(crate::describe::Description) -> crate::describe::Description
        + Send
        + Sync
        + 'static,
    ) -> axum::routing::MethodRouter<S> {
        let (limiter, layer) = (self.limiter().clone(), self.clone());
        crate::describe::live_route(
            move || limiter.rules_number(),
            move || change(layer.describe()),
        )
    }
}

impl<S> Layer<S> for RateLimitLayer {
    type Service = RateLimit<S>;

    fn layer(&self, inner: S) -> RateLimit<S> {
        RateLimit { inner, responders: self.responders.clone() }
    }
}
