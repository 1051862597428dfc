//! A route that serves a description in all its formats: [`Description::route`].

use axum::routing::{MethodRouter, get};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::{CONTENT_SECURITY_POLICY, Description};
use crate::page::{preferred, respond};

impl Description {
    /// A route that serves the description as HTML, Markdown (`text/markdown`) or JSON
    /// (`application/json`), whichever the request's `Accept` prefers (RFC 9110, section 12.5.1);
    /// HTML if it prefers none.
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
        let formats: [(&str, Bytes); 3] = [
            ("text/html; charset=utf-8", self.to_html().into()),
            ("text/markdown; charset=utf-8", self.to_markdown().into()),
            ("application/json", self.to_json().into()),
        ];
        get(async move |headers: HeaderMap| {
            let (content_type, body) = preferred(&headers, &formats);
            respond(StatusCode::OK, content_type, CONTENT_SECURITY_POLICY, body.clone())
        })
    }
}
