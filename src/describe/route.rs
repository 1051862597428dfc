use axum::{
    http::{
        HeaderMap, HeaderName, HeaderValue,
        header::{ACCEPT, CONTENT_SECURITY_POLICY, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS},
    },
    response::{IntoResponse, Response},
    routing::{MethodRouter, get},
};
use bytes::Bytes;

use super::Description;

impl Description {
    /// What serves it: as HTML, as Markdown (`text/markdown`) or as JSON (`application/json`),
    /// whichever the request's `Accept` prefers (RFC 9110, section 12.5.1), and as HTML where that
    /// prefers none.
    ///
    /// Add the route after the limiter's layer, so that reading it is not counted.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, key::ClientIp};
    ///
    /// let per_ip = Policy::token_bucket("per ip", Quota::per_minute(60)).key(ClientIp::new()).or_skip();
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
        let formats = [
            Format::new(("text", "html"), "text/html; charset=utf-8", self.to_html()),
            Format::new(("text", "markdown"), "text/markdown; charset=utf-8", self.to_markdown()),
            Format::new(("application", "json"), "application/json", self.to_json()),
        ];
        get(async move |headers: HeaderMap| preferred(&formats, &headers).clone())
    }
}

/// The description as it is sent; a clone shares the text.
#[derive(Clone)]
struct Format {
    media_type: (&'static str, &'static str),
    content_type: &'static str,
    body: Bytes,
}

impl Format {
    fn new(
        media_type: (&'static str, &'static str),
        content_type: &'static str,
        body: String,
    ) -> Self {
        Self { media_type, content_type, body: body.into() }
    }

    /// How much `accept` wants it: what the range says that names it most closely, in thousandths.
    fn quality(&self, accept: &str) -> u16 {
        let (kind, subtype) = self.media_type;
        let wanted = accept.split(',').filter_map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let named = match parts.next()?.split_once('/')? {
                ("*", "*") => 0,
                (of_kind, "*") if of_kind.eq_ignore_ascii_case(kind) => 1,
                (of_kind, of_subtype)
                    if of_kind.eq_ignore_ascii_case(kind)
                        && of_subtype.eq_ignore_ascii_case(subtype) =>
                {
                    2
                }
                _ => return None,
            };
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            let weight = weight.map_or(1.0, |weight| weight.parse::<f32>().unwrap_or(0.0));
            Some((named, (weight.clamp(0.0, 1.0) * 1_000.0) as u16))
        });
        wanted.max().map_or(0, |(_, quality)| quality)
    }
}

impl IntoResponse for Format {
    fn into_response(self) -> Response {
        let headers: [(HeaderName, HeaderValue); 4] = [
            (CONTENT_TYPE, HeaderValue::from_static(self.content_type)),
            (CONTENT_SECURITY_POLICY, HeaderValue::from_static(super::CONTENT_SECURITY_POLICY)),
            (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
            (VARY, HeaderValue::from_static("accept")),
        ];
        (headers, self.body).into_response()
    }
}

/// The first of those that are wanted most.
#[expect(clippy::expect_used, reason = "there are three")]
fn preferred<'a>(formats: &'a [Format; 3], headers: &HeaderMap) -> &'a Format {
    let lines = headers.get_all(ACCEPT).iter().filter_map(|line| line.to_str().ok());
    let accept = lines.collect::<Vec<_>>().join(",");
    let best = formats.iter().rev().max_by_key(|format| format.quality(&accept));
    best.expect("there are three formats")
}
