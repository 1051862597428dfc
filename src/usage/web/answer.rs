//! What the pages of the request log answer: [`HtmlPage`], JSON and problem details.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header::CACHE_CONTROL, request::Parts};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    page::{self, content_security_policy},
    usage::log::{ReadError, Reader},
};

/// Script, style and data come from the page's own origin.
const CONTENT_SECURITY_POLICY: &str =
    content_security_policy!("script-src 'self'; style-src 'self'; connect-src 'self'");

const STYLE: &str = concat!(include_str!("../../page/theme.css"), include_str!("style.css"));

/// The problem of a log without a sink that can be read.
pub(super) const UNREADABLE: &str =
    "its log has no sink that can be read; add `.sink(MemoryLog::new())` to the `RequestLog`";

/// A page that draws with its script the JSON of its own address.
pub(super) struct HtmlPage {
    pub(super) html: &'static str,
    pub(super) script: &'static str,
}

impl HtmlPage {
    /// The page or one of its parts. `None` where the request asks for JSON.
    pub(super) fn answer(&self, request: &Parts) -> Option<Response> {
        let (content_type, body) = match request.uri.query() {
            Some("style.css") => ("text/css; charset=utf-8", STYLE),
            Some("script.js") => ("text/javascript; charset=utf-8", self.script),
            _ => {
                let formats =
                    [("application/json", None), ("text/html; charset=utf-8", Some(self.html))];
                let &(content_type, body) = page::preferred(&request.headers, &formats);
                (content_type, body?)
            }
        };
        Some(respond(StatusCode::OK, content_type, body))
    }
}

#[expect(clippy::expect_used, reason = "it cannot fail")]
pub(super) fn json(value: &impl Serialize) -> Response {
    let body = serde_json::to_vec(value).expect("strings and numbers, under names, are JSON");
    respond(StatusCode::OK, "application/json", body)
}

/// Problem details (RFC 9457).
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, json!({}))
}

/// Problem details with extension members.
pub(super) fn problem_with(status: StatusCode, detail: &str, mut members: Value) -> Response {
    members["title"] = json!(status.canonical_reason());
    members["status"] = json!(status.as_u16());
    members["detail"] = json!(detail);
    respond(status, "application/problem+json", members.to_string())
}

/// Reads the log on a thread that may block.
///
/// # Errors
/// The answer where the log cannot be read.
pub(super) async fn read<T: Send + 'static>(
    reader: &Arc<dyn Reader>,
    read: impl FnOnce(&dyn Reader) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Response> {
    let reader = Arc::clone(reader);
    let read = tokio::task::spawn_blocking(move || read(&*reader)).await;
    read.unwrap_or_else(|error| Err(ReadError::new(error.to_string()))).map_err(|error| {
        #[cfg(feature = "tracing")]
        tracing::warn!(%error, "a page of the request log could not be served");
        #[cfg(not(feature = "tracing"))]
        let _ = error;
        problem(StatusCode::SERVICE_UNAVAILABLE, "The request log cannot be read now.")
    })
}

/// What a page shows is for its reader only: nothing keeps it.
fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = page::respond(status, content_type, CONTENT_SECURITY_POLICY, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
