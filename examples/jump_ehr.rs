//! The Jump EHR API, as its rate-limit page describes it.
//!
//! `cargo run --release --features usage --example jump_ehr`, then for example
//! `curl -i -H 'Authorization: Bearer pk_live_mine'
//! http://127.0.0.1:3000/functions/v1/api-v1/patients`. What a key has used is at
//! http://127.0.0.1:3000/settings/api-keys/usage.

mod common;

use std::{
    error::Error,
    io::{IsTerminal, stderr},
};

use axum::{
    Extension, Json, Router,
    extract::{
        Path, Query, Request,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header::AUTHORIZATION, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower_http::{
    ServiceBuilderExt,
    request_id::{MakeRequestId, RequestId},
    trace::TraceLayer,
};
use tower_quota::{
    BuildError, Clock, Decision, HeaderStyle, Limiter, Policy, Quota, RateLimitLayer,
    RateLimitLayerBuilder, Reason, Rejection, ResetFormat,
    key::{self, ClientIp, Key},
    response,
    usage::{MemoryLog, RequestLog, TracingLog, UsagePage},
};
use tracing::{Span, info_span};
use ulid::Ulid;

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    let color = stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(stderr).with_ansi(color).init();
    let limiter = limiter(Clock::system())?;
    common::serve(app(limiter.clone(), responses(limiter))?).await
}

/// The page's quota, by `clock`.
pub fn limiter(clock: Clock) -> Result<Limiter, BuildError> {
    let hourly = Policy::fixed_window("hourly", Quota::per_hour(1_000))
        .key(key::from_fn(API_KEY, api_key))
        .or_key(ClientIp::new())
        .or_refuse();
    Limiter::builder().clock(clock).policy(hourly).build()
}

/// The page's headers and 429.
pub fn responses(limiter: Limiter) -> RateLimitLayerBuilder {
    RateLimitLayer::builder(limiter)
        .headers([HeaderStyle::x_ratelimit().reset(ResetFormat::Omitted)])
        .retry_after(false)
        .on_rejection(response::json(refusal))
        .expose_decision()
}

/// The API, held to the limits of `limiter`.
pub fn app(limiter: Limiter, rate_limit: RateLimitLayerBuilder) -> Result<Router, BuildError> {
    let log = RequestLog::builder(key::from_fn(API_KEY, api_key))
        .sink(TracingLog::new())
        .sink(MemoryLog::new())
        .build()?;
    let usage =
        UsagePage::builder(limiter, log.clone()).ask_for_key(AUTHORIZATION, "Bearer ").build()?;
    let rate_limit = rate_limit.observe(log).build()?;
    let rate_limits =
        rate_limit.limits_route(|limits| limits.title("Rate limits of the Jump EHR API"));
    Ok(Router::new()
        .route("/functions/v1/api-v1/patients", get(patients))
        .route("/functions/v1/api-v1/patients/{id}", get(patient))
        .layer(middleware::from_fn(authorize))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(
            ServiceBuilder::new()
                .map_request(without_request_id)
                .set_x_request_id(ReqUlid)
                .layer(
                    TraceLayer::new_for_http()
                        .make_span_with(request_span)
                        .on_request(())
                        .on_response(())
                        .on_failure(()),
                )
                .propagate_x_request_id()
                .layer(rate_limit),
        )
        // Outside of the limiter: requests for limits and usage are not counted.
        .route("/rate-limits", rate_limits)
        .nest("/settings/api-keys/usage", usage.router()))
}

// --- Callers ---------------------------------------------------------------------------------

pub const API_KEY: &str = "api key";

/// `Authorization: Bearer pk_live_<anything>`: any key of this shape is valid.
pub fn api_key(request: &Parts) -> Option<Key<'_>> {
    let (scheme, key) = request.headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let named = key.trim().strip_prefix("pk_live_").is_some_and(|name| !name.is_empty());
    (scheme.eq_ignore_ascii_case("bearer") && named).then(|| key.trim().into())
}

/// Refuses requests without a key, which were counted by address. It runs inside of the limiter, so
/// that guessing keys is limited too.
async fn authorize(
    Extension(decision): Extension<Decision>,
    Extension(id): Extension<RequestId>,
    request: Request,
    next: Next,
) -> Response {
    if decision.outcomes().all(|outcome| outcome.key_kind() == API_KEY) {
        return next.run(request).await;
    }
    let message = "Send `Authorization: Bearer pk_live_…`.";
    error(&id, StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message)
}

/// `req_<ULID>`.
#[derive(Clone)]
struct ReqUlid;

impl MakeRequestId for ReqUlid {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        HeaderValue::try_from(format!("req_{}", Ulid::generate())).ok().map(RequestId::new)
    }
}

/// Removes the id that a caller sent: each id belongs to one request, and the logs contain no text
/// from callers.
fn without_request_id(mut request: Request) -> Request {
    request.headers_mut().remove("x-request-id");
    request
}

/// Adds the request's id to its line in the log.
fn request_span(request: &Request) -> Span {
    info_span!("request", id = request.extensions().get().map(id_of))
}

// --- Responses -------------------------------------------------------------------------------

#[derive(Serialize)]
pub struct Envelope {
    data: Option<Value>,
    meta: Meta,
    error: Option<Complaint>,
}

#[derive(Serialize)]
struct Meta {
    request_id: String,
}

#[derive(Serialize)]
struct Complaint {
    code: &'static str,
    message: &'static str,
}

impl Envelope {
    fn data(id: &RequestId, data: Value) -> Json<Self> {
        Json(Self { data: Some(data), meta: Meta { request_id: id_of(id).into() }, error: None })
    }

    fn error(request_id: &str, code: &'static str, message: &'static str) -> Self {
        let meta = Meta { request_id: request_id.into() };
        Self { data: None, meta, error: Some(Complaint { code, message }) }
    }
}

fn id_of(id: &RequestId) -> &str {
    id.header_value().to_str().unwrap_or_default()
}

fn error(
    id: &RequestId,
    status: StatusCode,
    code: &'static str,
    message: &'static str,
) -> Response {
    (status, Json(Envelope::error(id_of(id), code, message))).into_response()
}

/// The page's 429.
pub fn refusal(rejection: &Rejection) -> Envelope {
    let (code, message) = match rejection.reason() {
        Reason::MissingKey => ("BAD_REQUEST", "The caller has neither key nor address."),
        _ => (
            "RATE_LIMITED",
            "Rate limit exceeded. Limit: 1000 requests per hour. Resets on the hour.",
        ),
    };
    Envelope::error(rejection.request_id().unwrap_or_default(), code, message)
}

// --- The API ---------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Page {
    limit: Option<usize>,
}

async fn patients(
    Extension(id): Extension<RequestId>,
    page: Result<Query<Page>, QueryRejection>,
) -> Response {
    let Ok(Query(Page { limit })) = page else {
        return error(&id, StatusCode::BAD_REQUEST, "BAD_REQUEST", "`limit` is a number.");
    };
    let patients = ["pat_1", "pat_2", "pat_3"].into_iter().take(limit.unwrap_or(100));
    Envelope::data(&id, patients.map(a_patient).collect()).into_response()
}

async fn patient(
    Extension(id): Extension<RequestId>,
    patient: Result<Path<String>, PathRejection>,
) -> Response {
    match patient {
        Ok(Path(patient)) => Envelope::data(&id, a_patient(&patient)).into_response(),
        Err(_) => not_found(Extension(id)).await,
    }
}

fn a_patient(id: &str) -> Value {
    json!({ "id": id, "name": "A Patient" })
}

async fn not_found(Extension(id): Extension<RequestId>) -> Response {
    error(&id, StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing here.")
}

async fn method_not_allowed(Extension(id): Extension<RequestId>) -> Response {
    error(&id, StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "Not with this method.")
}
