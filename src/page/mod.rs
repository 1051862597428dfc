//! What all pages of this crate have in common: the choice of a format by the request's `Accept`, the
//! security headers, and `theme.css`, with which each style sheet begins.

#[cfg(feature = "axum")]
mod accept;

#[cfg(feature = "axum")]
use axum::{body::Body, response::Response};
#[cfg(feature = "axum")]
use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{
        CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};

#[cfg(feature = "axum")]
pub(crate) use self::accept::preferred;

/// A `Content-Security-Policy` that allows what its argument says, and an icon in a `data:` URL. A page
/// has an empty icon, or the browser would ask the server for one.
macro_rules! content_security_policy {
    ($allowed:literal) => {
        concat!(
            "default-src 'none'; ",
            $allowed,
            "; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
    };
}

pub(crate) use content_security_policy;

/// A response with the headers that say what a browser may do with it.
#[cfg(feature = "axum")]
pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    content_security_policy: &'static str,
    body: impl Into<Body>,
) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CONTENT_SECURITY_POLICY, content_security_policy),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // One address answers in several formats.
        (VARY, "accept"),
    ];
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
