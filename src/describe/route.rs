//! Routes that serve a description in all its formats: [`Description::route`] and [`live_route`].

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    response::Response,
    routing::{MethodRouter, get},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{CONTENT_SECURITY_POLICY, Description};
use crate::page::{preferred, respond};

/// Each format with its content type.
type Formats = [(&'static str, Bytes); 3];

impl Description {
    /// A route that serves the description as HTML, Markdown (`text/markdown`) or JSON
    /// (`application/json`), whichever the request's `Accept` prefers (RFC 9110, section 12.5.1);
    /// HTML if it prefers none.
    ///
    /// It serves this description for ever, also when other limits are
    /// [applied](crate::Limiter::apply). [`RateLimitLayer::limits_route`](crate::RateLimitLayer::limits_route)
    /// serves the limits that apply at each request.
    ///
    /// Add the route after the limiter's layer, so that requests for it are not counted.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};
    ///
    /// let per_ip = Policy::token_bucket("per ip", Quota::per_minute(60)).key(ClientIp::new()).or_refuse();
    /// let rate_limit = RateLimitLayer::new(Limiter::builder().policy(per_ip).build()?);
    /// let rate_limits = rate_limit.describe();
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(rate_limit)
    ///     .route("/rate-limits", rate_limits.route());
    /// # let _ = app;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn route<S: Clone + Send + Sync + 'static>(&self) -> MethodRouter<S> {
        let formats = self.formats();
        get(async move |headers: HeaderMap| answer(&headers, &formats))
    }

    fn formats(&self) -> Formats {
        [
            ("text/html; charset=utf-8", self.to_html().into()),
            ("text/markdown; charset=utf-8", self.to_markdown().into()),
            ("application/json", self.to_json().into()),
        ]
    }
}

/// A route that describes the limits again when their number is another one.
pub(crate) fn live_route<S: Clone + Send + Sync + 'static>(
    number: impl Fn() -> u64 + Send + Sync + 'static,
    describe: impl Fn() -> Description + Send + Sync + 'static,
) -> MethodRouter<S> {
    // The number is read first: if the limits change meanwhile, the next request describes them again.
    let describe = move |number| Arc::new((number, describe().formats()));
    let described = ArcSwap::new(describe(number()));
    let shared = Arc::new((number, describe, described));
    get(async move |headers: HeaderMap| {
        let (number, describe, described) = &*shared;
        let (mut current, number) = (described.load_full(), number());
        if current.0 != number {
            current = describe(number);
            described.store(Arc::clone(&current));
        }
        answer(&headers, &current.1)
    })
}

fn answer(headers: &HeaderMap, formats: &Formats) -> Response {
    let (content_type, body) = preferred(headers, formats);
    respond(StatusCode::OK, content_type, CONTENT_SECURITY_POLICY, body.clone())
}
