//! What the pages of the request log answer: [`HtmlPage`], JSON and problem details.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header::CACHE_CONTROL, request::Parts};
use serde_json::Value;

use crate::{
    json_object::{ABOUT_BLANK, Object, PROBLEM},
    page::{self, content_security_policy},
    usage::log::{ReadError, Reader, RequestLog},
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
    /// The page or one of its parts. `None` if the request prefers JSON.
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

pub(super) fn json(value: &Value) -> Response {
    respond(StatusCode::OK, "application/json", value.to_string())
}

/// Problem details (RFC 9457).
pub(super) fn problem(status: StatusCode, detail: &str) -> Response {
    problem_with(status, detail, [])
}

/// Problem details with extension members.
pub(super) fn problem_with<const N: usize>(
    status: StatusCode,
    detail: &str,
    members: [(&'static str, &str); N],
) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let mut body = Object::new();
    body.text("type", ABOUT_BLANK);
    body.text("title", title);
    body.number("status", status.as_u16().into());
    body.text("detail", detail);
    for (name, text) in members {
        body.text(name, text);
    }
    respond(status, PROBLEM, body.end())
}

/// Reads the log on a thread that may block.
///
/// # Errors
/// The answer, if the log cannot be read.
pub(super) async fn read<T: Send + 'static>(
    log: &RequestLog,
    read: impl FnOnce(&dyn Reader) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, Response> {
    let log = log.clone();
    let read = move || {
        let reader = log.reader().ok_or_else(|| ReadError::new(UNREADABLE))?;
        read(&*reader)
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(ReadError::new(error.to_string()))).map_err(|error| {
        #[cfg(feature = "tracing")]
        tracing::warn!(%error, "a page of the request log could not be served");
        #[cfg(not(feature = "tracing"))]
        let _ = error;
        problem(StatusCode::SERVICE_UNAVAILABLE, "The request log cannot be read now.")
    })
}

/// A page's data is for its reader only: no cache keeps it.
fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = page::respond(status, content_type, CONTENT_SECURITY_POLICY, body);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
