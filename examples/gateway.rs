//! The gateway API, as its rate-limit page describes it.
//!
//! `cargo run --release --example gateway`, then for example
//! `curl -i -H 'Authorization: Bearer gw_mytenant_nightly' http://127.0.0.1:3000/v1/sites`.

mod common;

use std::{
    collections::VecDeque,
    error::Error,
    sync::{Arc, Mutex},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Extension, Json, Router,
    body::to_bytes,
    extract::{FromRequestParts, Query, Request, State},
    http::{HeaderMap, StatusCode, header, request::Parts},
    middleware::{Next, from_fn, map_request},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower_http::request_id::{MakeRequestId, RequestId, SetRequestIdLayer};
use tower_quota::{
    BuildError, Category, Clock, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{self, ClientIp, KeyExtractor},
    response::Problem,
};
use ulid::Ulid;

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = Clock::system();
    common::serve(app(rate_limit(clock.clone())?, clock)).await
}

// --- The limits ------------------------------------------------------------------------------

/// The page's budget: each request to `/v1/*` uses two buckets. Without a credential, both count by
/// the caller's address.
pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
    let tenant = Policy::token_bucket("tenant", Quota::per_minute(60).burst(60)).key(tenant());
    let credential =
        Policy::token_bucket("credential", Quota::per_minute(40).burst(60)).key(credential());
    let budget = Category::new("budget")
        .on(Matcher::path("/v1/{*rest}"))
        .policy(tenant.or_key(ClientIp::new()).or_refuse())
        .policy(credential.or_key(ClientIp::new()).or_refuse())
        .hold(Duration::from_secs(2));
    let exhausted = Problem::new("https://gateway/errors/rate-limited")
        .title(|rejection| {
            format!("Rate-limit budget for purpose '{}' exhausted", rejection.policy())
        })
        .instance();
    RateLimitLayer::builder(Limiter::builder().clock(clock).category(budget).build()?)
        .headers([])
        .retry_after(false)
        .on_rejection(exhausted.renderer())
        .build()
}

pub fn tenant() -> impl KeyExtractor {
    key::from_fn("tenant", |request| Some(caller(&request.headers)?.0.into()))
}

pub fn credential() -> impl KeyExtractor {
    key::from_fn("credential", |request| Some(caller(&request.headers)?.into()))
}

/// Tenant and credential of `Authorization: Bearer gw_<tenant>_<credential>`.
fn caller(headers: &HeaderMap) -> Option<(&str, &str)> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (scheme, token) = values.next()?.to_str().ok()?.split_once(' ')?;
    let (tenant, credential) = token.trim().strip_prefix("gw_")?.split_once('_')?;
    let valid = scheme.eq_ignore_ascii_case("bearer") && !tenant.is_empty();
    (valid && !credential.is_empty() && values.next().is_none()).then_some((tenant, credential))
}

/// The tenant that calls, for handlers. It is read inside of the limiter, so that guessing
/// credentials is limited too.
struct Tenant(String);

impl<S: Sync> FromRequestParts<S> for Tenant {
    type Rejection = (StatusCode, &'static str);

    async fn from_request_parts(request: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        let refusal = (StatusCode::UNAUTHORIZED, "Send `Authorization: Bearer gw_…`.");
        caller(&request.headers).map(|(tenant, _)| Self(tenant.to_owned())).ok_or(refusal)
    }
}

// --- The API ---------------------------------------------------------------------------------

/// The API, held to the limits of `rate_limit`, on the same clock.
pub fn app(rate_limit: RateLimitLayer, clock: Clock) -> Router {
    let rate_limits = rate_limit.limits_route(|limits| limits.title("Rate limits of the gateway"));
    let lookup = |entry: Value| get(async move |_: Tenant| Json(json!({ "data": [entry] })));
    Router::new()
        .route("/v1/sites", lookup(json!({ "id": "site_1", "name": "Head Office" })))
        .route("/v1/job-types", lookup(json!({ "id": "type_1", "name": "Repair" })))
        .route("/v1/custom-fields", lookup(json!({ "id": "field_1", "name": "Gate code" })))
        .route("/v1/jobs", get(jobs).post(create_job))
        .with_state(Jobs { clock, latest: Arc::default() })
        .layer(from_fn(as_problem))
        .layer(rate_limit)
        .layer(SetRequestIdLayer::x_request_id(NewRequestId))
        .layer(map_request(without_request_id))
        .route("/rate-limits", rate_limits)
}

#[derive(Clone)]
struct Jobs {
    clock: Clock,
    /// The jobs of all tenants, the latest last.
    latest: Arc<Mutex<VecDeque<Job>>>,
}

#[derive(Clone, Serialize)]
struct Job {
    #[serde(skip)]
    tenant: String,
    id: String,
    title: String,
    updated_at: Timestamp,
}

#[derive(Deserialize)]
struct NewJob {
    title: String,
}

async fn create_job(
    State(jobs): State<Jobs>,
    Tenant(tenant): Tenant,
    Json(NewJob { title }): Json<NewJob>,
) -> Result<impl IntoResponse, StatusCode> {
    let mut latest = jobs.latest.lock().unwrap();
    let updated_at = Timestamp::try_from(UNIX_EPOCH + jobs.clock.now().unix())
        .map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let job = Job { tenant, id: format!("job_{}", Ulid::generate()), title, updated_at };
    if latest.len() == 10_000 {
        latest.pop_front();
    }
    latest.push_back(job.clone());
    Ok((StatusCode::CREATED, Json(job)))
}

#[derive(Deserialize)]
struct Page {
    updated_at_from: Option<Timestamp>,
    page_size: Option<usize>,
}

/// The jobs, the oldest change first. The next page begins at the `updated_at` of the last one.
async fn jobs(
    State(jobs): State<Jobs>,
    Tenant(tenant): Tenant,
    Query(Page { updated_at_from, page_size }): Query<Page>,
) -> Result<Json<Value>, (StatusCode, &'static str)> {
    let page_size = page_size.unwrap_or(25);
    if !(1..=100).contains(&page_size) {
        return Err((StatusCode::BAD_REQUEST, "`page_size` is 1 to 100."));
    }
    let latest = jobs.latest.lock().unwrap();
    let wanted = |job: &&Job| job.tenant == tenant && Some(job.updated_at) >= updated_at_from;
    let page: Vec<_> = latest.iter().filter(wanted).take(page_size).collect();
    Ok(Json(json!({ "data": page })))
}

// --- Request ids and errors ------------------------------------------------------------------

#[derive(Clone)]
struct NewRequestId;

impl MakeRequestId for NewRequestId {
    fn make_request_id<B>(&mut self, _: &axum::http::Request<B>) -> Option<RequestId> {
        format!("req_{}", Ulid::generate()).parse().ok().map(RequestId::new)
    }
}

/// Removes the id that a caller sent: `SetRequestIdLayer` would keep it.
async fn without_request_id(mut request: Request) -> Request {
    request.headers_mut().remove("x-request-id");
    request
}

/// Writes every error as problem details, as the 429 is. The handler's text becomes its `detail`.
async fn as_problem(Extension(id): Extension<RequestId>, request: Request, next: Next) -> Response {
    let (mut head, body) = next.run(request).await.into_parts();
    if head.status.is_success() {
        return Response::from_parts(head, body);
    }
    let words = to_bytes(body, 1_024).await.unwrap_or_default();
    let mut problem = json!({
        "type": "about:blank",
        "title": head.status.canonical_reason(),
        "status": head.status.as_u16(),
        "instance": id.header_value().to_str().ok(),
    });
    if !words.is_empty() {
        problem["detail"] = String::from_utf8_lossy(&words).into();
    }
    let json = header::HeaderValue::from_static("application/problem+json");
    head.headers.insert(header::CONTENT_TYPE, json);
    head.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(head, problem.to_string().into())
}
