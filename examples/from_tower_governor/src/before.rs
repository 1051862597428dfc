//! Before: `tower_governor` 0.8.

use std::{thread, time::Duration};

use axum::{
    Json, Router,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use tower_governor::{
    GovernorError, GovernorLayer, governor::GovernorConfigBuilder,
    key_extractor::SmartIpKeyExtractor,
};

use crate::handlers::{notes, sign_in};

/// The application with its limits.
///
/// # Panics
/// If the settings of the limits cannot work.
pub fn app() -> Router {
    // 20 requests at once, then one every two seconds
    let requests = GovernorConfigBuilder::default()
        .per_second(2)
        .burst_size(20)
        .key_extractor(SmartIpKeyExtractor)
        .use_headers()
        .finish()
        .unwrap();
    // 3 sign-ins at once, then one a minute
    let sign_ins = GovernorConfigBuilder::default()
        .per_second(60)
        .burst_size(3)
        .key_extractor(SmartIpKeyExtractor)
        .use_headers()
        .finish()
        .unwrap();

    let limiters = (requests.limiter().clone(), sign_ins.limiter().clone());
    thread::spawn(move || {
        loop {
            thread::sleep(Duration::from_secs(60));
            limiters.0.retain_recent();
            limiters.1.retain_recent();
        }
    });

    let requests = GovernorLayer::new(requests).error_handler(refusal);
    let sign_ins = GovernorLayer::new(sign_ins).error_handler(refusal);
    Router::new()
        .route("/notes", get(notes))
        .route("/sign-in", post(sign_in).layer(sign_ins))
        .layer(requests)
}

fn refusal(error: GovernorError) -> Response {
    let body = Json(json!({ "error": error.to_string() }));
    match error {
        GovernorError::TooManyRequests { headers, .. } => {
            (StatusCode::TOO_MANY_REQUESTS, headers.unwrap_or_default(), body).into_response()
        }
        GovernorError::UnableToExtractKey => {
            (StatusCode::INTERNAL_SERVER_ERROR, body).into_response()
        }
        GovernorError::Other { code, headers, .. } => {
            (code, headers.unwrap_or_default(), body).into_response()
        }
    }
}
