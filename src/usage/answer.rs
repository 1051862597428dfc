//! What pages answer. All of it says what a browser may do with them.

use std::sync::Arc;

use axum::{body::Body, response::Response};
use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{
        ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{ReadError, Reader};

/// Script, style and data come from the same origin, and nothing from anywhere else. The icon is
/// an empty one, or browsers would ask the server for one.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

pub(super) fn html(page: &'static str) -> Response {
    respond(StatusCode::OK, "text/html; charset=utf-8", page)
}

pub(super) fn style() -> Response {
    respond(StatusCode::OK, "text/css; charset=utf-8", include_str!("assets/style.css"))
}

pub(super) fn script(script: &'static str) -> Response {
    respond(StatusCode::OK, "text/javascript; charset=utf-8", script)
}

pub(super) fn json(value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => respond(StatusCode::OK, "application/json", body),
        Err(_) => respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", ""),
    }
}

/// Problem details (RFC 9457), with members of their own.
pub(super) fn problem(status: StatusCode, detail: &str, mut more: Value) -> Response {
    more["title"] = json!(status.canonical_reason());
    more["status"] = json!(status.as_u16());
    more["detail"] = json!(detail);
    respond(status, "application/problem+json", more.to_string())
}

pub(super) fn unreadable(error: &ReadError) -> Response {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "a page of the request log could not be served");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
    let detail = "The request log cannot be read now.";
    problem(StatusCode::SERVICE_UNAVAILABLE, detail, json!({}))
}

/// Whether a browser wants to show a page, instead of a script that wants data.
pub(super) fn accepts_html(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with("text/html"))
}

/// Reads on a thread that may block.
pub(super) async fn read<T: Send + 'static>(
    reader: &Arc<dyn Reader>,
    read: impl FnOnce(&dyn Reader) -> Result<T, ReadError> + Send + 'static,
) -> Result<T, ReadError> {
    let reader = Arc::clone(reader);
    let read = tokio::task::spawn_blocking(move || read(&*reader));
    read.await.unwrap_or_else(|error| Err(ReadError::new(error.to_string())))
}

fn respond(status: StatusCode, kind: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    for (name, value) in [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // One address answers with a page or with data; and neither is for anybody else.
        (VARY, "accept"),
        (CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
