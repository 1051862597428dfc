//! The Gather API, as its rate-limit page describes it.
//!
//! `cargo run --release --example gather`, then for example
//! `curl -i -H 'x-api-key: mine' http://127.0.0.1:3000/qsi/gather/questions`.

mod common;

use std::{error::Error, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{Request, rejection::BytesRejection},
    http::StatusCode,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};
use tower_quota::{
    BuildError, Clock, Decision, Limiter, Policy, Quota, RateLimitLayer, Reason, Rejection,
    key::{self, ClientIp},
    response,
};
use uuid::Uuid;

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    common::serve(app(rate_limit(Clock::system())?)).await
}

const API_KEY: &str = "x-api-key";

/// The page's two windows, by `clock`.
pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
    let per_key = |name, quota| {
        Policy::sliding_window(name, quota)
            .key(key::header(API_KEY))
            .or_key(ClientIp::new())
            .or_refuse()
    };
    let limiter = Limiter::builder()
        .clock(clock)
        .policy(per_key("hourly", Quota::per_hour(1_000)))
        .policy(per_key("burst", Quota::per_minute(100)))
        .build()?;
    RateLimitLayer::builder(limiter)
        .header_policy("hourly")
        // The page documents no `Retry-After`: callers wait for the reset.
        .retry_after(false)
        .on_rejection(response::json(refusal))
        .expose_decision()
        .build()
}

/// The API, held to the limits of `rate_limit`, which exposes its decisions.
pub fn app(rate_limit: RateLimitLayer) -> Router {
    let rate_limits =
        rate_limit.limits_route(|limits| limits.title("Rate limits of the Gather API"));
    Router::new()
        .route("/qsi/gather/questions", get(questions))
        .route("/qsi/gather/answers", post(answer))
        .layer(middleware::from_fn(authorize))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(rate_limit)
        .route("/rate-limits", rate_limits)
}

/// Refuses requests without a key, which were counted by address. It runs inside of the limiter, so
/// that guessing keys is limited too.
async fn authorize(
    Extension(decision): Extension<Decision>,
    request: Request,
    next: Next,
) -> Response {
    if decision.outcomes().all(|outcome| outcome.key_kind() == API_KEY) {
        return next.run(request).await;
    }
    error(&decision, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "Send `x-api-key`.")
}

// --- Responses -------------------------------------------------------------------------------

#[derive(Serialize)]
pub struct Envelope {
    #[serde(flatten)]
    content: Content,
    meta: Meta,
}

#[derive(Serialize)]
#[serde(rename_all = "lowercase")]
enum Content {
    Data(Value),
    Error(Complaint),
}

#[derive(Serialize)]
struct Complaint {
    code: &'static str,
    message: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    limit: u64,
    remaining: u64,
    reset_at: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    request_id: String,
    timestamp: String,
}

impl Envelope {
    fn new(content: Content, at: Duration) -> Self {
        let meta = Meta { request_id: Uuid::new_v4().to_string(), timestamp: moment(at.as_secs()) };
        Self { content, meta }
    }
}

/// RFC 3339 in whole seconds, as on the page.
fn moment(unix_seconds: u64) -> String {
    let seconds = i64::try_from(unix_seconds).ok();
    let moment = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.unwrap_or(Timestamp::MAX).to_string()
}

/// The page's 429.
pub fn refusal(rejection: &Rejection) -> Envelope {
    let complaint = match rejection.reason() {
        Reason::MissingKey => {
            let message = "The caller has neither key nor address.";
            Complaint { code: "BAD_REQUEST", message, details: None }
        }
        _ => Complaint {
            code: "RATE_LIMIT_EXCEEDED",
            message: "Rate limit exceeded. Please try again later.",
            details: Some(Details {
                limit: rejection.outcome().map_or(0, |outcome| outcome.limit()),
                remaining: rejection.decision().remaining(),
                reset_at: moment(rejection.resets_at_seconds()),
            }),
        },
    };
    Envelope::new(Content::Error(complaint), rejection.decision().decided_at())
}

fn data(decision: &Decision, data: Value) -> Json<Envelope> {
    Json(Envelope::new(Content::Data(data), decision.decided_at()))
}

fn error(
    decision: &Decision,
    status: StatusCode,
    code: &'static str,
    message: &'static str,
) -> Response {
    let complaint = Complaint { code, message, details: None };
    let envelope = Envelope::new(Content::Error(complaint), decision.decided_at());
    (status, Json(envelope)).into_response()
}

// --- The API ---------------------------------------------------------------------------------

async fn questions(Extension(decision): Extension<Decision>) -> Json<Envelope> {
    data(&decision, json!([{ "id": "que_1", "text": "Why this role?" }]))
}

/// Accepts any JSON object as an answer, or an empty body.
async fn answer(
    Extension(decision): Extension<Decision>,
    sent: Result<Bytes, BytesRejection>,
) -> Response {
    let sent = match sent {
        Ok(sent) => sent,
        Err(why) => {
            return error(&decision, why.status(), "BAD_REQUEST", "The body cannot be read.");
        }
    };
    if !sent.is_empty() && serde_json::from_slice::<Map<String, Value>>(&sent).is_err() {
        let message = "The body is not a JSON object.";
        return error(&decision, StatusCode::BAD_REQUEST, "BAD_REQUEST", message);
    }
    (StatusCode::CREATED, data(&decision, json!({ "id": "ans_1" }))).into_response()
}

async fn not_found(Extension(decision): Extension<Decision>) -> Response {
    error(&decision, StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing here.")
}

async fn method_not_allowed(Extension(decision): Extension<Decision>) -> Response {
    let code = "METHOD_NOT_ALLOWED";
    error(&decision, StatusCode::METHOD_NOT_ALLOWED, code, "Not with this method.")
}
