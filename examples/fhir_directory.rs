//! The FHIR Directory API, as its rate-limit page describes it, with a search page of its own.
//!
//! `cargo run --release --example fhir_directory`, then open <http://127.0.0.1:3000/>, or
//! `curl -i 'http://127.0.0.1:3000/api/v1/endpoints?query=hospital'`.

mod common;

use std::{error::Error, ops::RangeInclusive, str::FromStr};

use axum::{
    Json, Router,
    extract::{Query, Request, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header::AUTHORIZATION,
        request::Parts,
    },
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tower_http::cors::{Any, CorsLayer};
use tower_quota::{
    BuildError, Clock, HeaderStyle, Limiter, Matcher, Policy, Quota, RateLimitLayer, Rejection,
    ResetFormat,
    key::{self, ClientIp, KeyExtractor},
    response,
};

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    common::serve(app(rate_limit(Clock::system())?)).await
}

// --- Callers ---------------------------------------------------------------------------------

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: &str = "api key";

enum Caller<'a> {
    Anonymous,
    Keyed(ApiKey<'a>),
    /// With a credential that is no API key.
    Guessing,
}

/// `fd_<plan>_<anything>`: any key of this shape is valid.
struct ApiKey<'a> {
    token: &'a str,
    plan: &'a str,
}

/// The quota of each plan.
const PLANS: [(&str, Quota); 2] =
    [("free", Quota::per_minute(120)), ("pro", Quota::per_minute(1_200))];

impl<'a> Caller<'a> {
    /// Reads `X-Api-Key`, or else `Authorization: Bearer`.
    fn of(headers: &'a HeaderMap) -> Self {
        let token = match (headers.get(X_API_KEY), headers.get(AUTHORIZATION)) {
            (None, None) => return Self::Anonymous,
            (Some(key), _) => key.to_str().ok(),
            (None, Some(credential)) => bearer(credential),
        };
        token.and_then(ApiKey::parse).map_or(Self::Guessing, Self::Keyed)
    }

    fn key(self) -> Option<ApiKey<'a>> {
        match self {
            Self::Keyed(key) => Some(key),
            Self::Anonymous | Self::Guessing => None,
        }
    }
}

impl<'a> ApiKey<'a> {
    fn parse(token: &'a str) -> Option<Self> {
        let (plan, rest) = token.strip_prefix("fd_")?.split_once('_')?;
        let known = PLANS.iter().any(|(name, _)| *name == plan);
        (known && !rest.is_empty()).then_some(Self { token, plan })
    }
}

fn bearer(credential: &HeaderValue) -> Option<&str> {
    let (scheme, token) = credential.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Refuses credentials that are no keys. It runs inside of the limiter, so that guessing keys is
/// limited too.
async fn authorize(request: Request, next: Next) -> Response {
    match Caller::of(request.headers()) {
        Caller::Guessing => {
            let message = "Send an API key, `fd_<plan>_…`, in `X-Api-Key` or as a bearer token.";
            error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message).into_response()
        }
        Caller::Anonymous | Caller::Keyed(_) => next.run(request).await,
    }
}

// --- The limits ------------------------------------------------------------------------------

/// Fixed windows of a minute: by key with the quota of its plan, or by address without a key.
pub fn rate_limit(clock: Clock) -> Result<RateLimitLayer, BuildError> {
    let per_caller = Policy::fixed_window("per caller", Quota::per_minute(60))
        .key(api_key())
        .or_key(ClientIp::new())
        .or_refuse()
        .plans(PLANS, plan);
    // The search page is not counted, but its searches are.
    let limiter = Limiter::builder().clock(clock).exempt(Matcher::get("/")).policy(per_caller);
    RateLimitLayer::builder(limiter.build()?)
        .headers([HeaderStyle::ratelimit().reset(ResetFormat::UnixSeconds)])
        .on_rejection(response::json(rate_limited))
        .build()
}

pub fn api_key() -> impl KeyExtractor {
    key::from_fn(API_KEY, |request| Caller::of(&request.headers).key().map(|key| key.token.into()))
}

pub fn plan(request: &Parts) -> Option<&str> {
    Some(Caller::of(&request.headers).key()?.plan)
}

/// The page's 429.
pub fn rate_limited(rejection: &Rejection) -> Value {
    let key_kind = rejection.outcome().map_or("", |outcome| outcome.key_kind());
    let (code, message) = match (rejection.status(), key_kind) {
        (StatusCode::TOO_MANY_REQUESTS, API_KEY) => {
            ("TOO_MANY_REQUESTS", "Rate limit exceeded. Contact us for higher limits.")
        }
        (StatusCode::TOO_MANY_REQUESTS, _) => (
            "TOO_MANY_REQUESTS",
            "Rate limit exceeded. Authenticate with an API key for higher limits.",
        ),
        _ => ("BAD_REQUEST", "The caller's address is unknown."),
    };
    failure(code, message)
}

// --- The API ---------------------------------------------------------------------------------

/// The API and its search page, held to the limits of `rate_limit`.
pub fn app(rate_limit: RateLimitLayer) -> Router {
    let rate_limits =
        rate_limit.limits_route(|limits| limits.title("Rate limits of the FHIR Directory"));
    // Outside of the limiter: so scripts can read a 429, and preflight requests are not counted.
    let cors = CorsLayer::new()
        .allow_origin(Any)
        .allow_methods([Method::GET, Method::HEAD])
        .allow_headers([X_API_KEY, AUTHORIZATION])
        .expose_headers(rate_limit.exposed_headers());
    Router::new()
        .route("/", get(|| async { Html(include_str!("fhir_directory/index.html")) }))
        .route("/api/v1/endpoints", get(endpoints).layer(middleware::from_fn(authorize)))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "NOT_FOUND", "There is nothing here.") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "Not with this method.")
        })
        .layer(rate_limit)
        .route("/rate-limits", rate_limits)
        .layer(cors)
}

fn error(status: StatusCode, code: &str, message: &str) -> (StatusCode, Json<Value>) {
    (status, Json(failure(code, message)))
}

fn failure(code: &str, message: &str) -> Value {
    json!({ "success": false, "error": { "code": code, "message": message } })
}

/// An empty parameter counts as missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Search {
    query: String,
    vendor: String,
    limit: String,
    page: String,
}

async fn endpoints(
    search: Result<Query<Search>, QueryRejection>,
) -> Result<Json<Value>, (StatusCode, Json<Value>)> {
    let bad_request = |message: &str| error(StatusCode::BAD_REQUEST, "BAD_REQUEST", message);
    let Query(search) = search.map_err(|rejection| bad_request(&rejection.body_text()))?;
    let limit = number(&search.limit, 25, 1..=100)
        .ok_or_else(|| bad_request("`limit` is a whole number from 1 to 100."))?;
    let page = number(&search.page, 1, 1..=usize::MAX)
        .ok_or_else(|| bad_request("`page` is a whole number from 1."))?;
    let found = directory().filter(|endpoint| {
        contains(&endpoint.organization_name, &search.query)
            && contains(endpoint.vendor_name, &search.vendor)
    });
    let data: Vec<_> = found.skip((page - 1).saturating_mul(limit)).take(limit).collect();
    Ok(Json(json!({ "success": true, "data": data })))
}

fn number(text: &str, otherwise: usize, range: RangeInclusive<usize>) -> Option<usize> {
    match text {
        "" => Some(otherwise),
        text => usize::from_str(text).ok().filter(|number| range.contains(number)),
    }
}

/// Ignores letter case.
fn contains(name: &str, searched: &str) -> bool {
    name.to_lowercase().contains(&searched.trim().to_lowercase())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    id: String,
    organization_name: String,
    vendor_name: &'static str,
}

/// 120 endpoints of invented organisations.
fn directory() -> impl Iterator<Item = Endpoint> {
    let places = "North, East, South, West, Central, Lakeside, Riverside, Hillside, Seaside, \
                  Valley, Meadow, Forest";
    let kinds = "Hospital, Children's Hospital, Clinic, Family Practice, Medical Center, \
                 Health Network, Heart Institute, Eye Clinic, Laboratory, Urgent Care";
    let vendors = ["Epic", "Demo Charts", "Placeholder EHR"];
    let names = places
        .split(", ")
        .flat_map(move |place| kinds.split(", ").map(move |kind| format!("{place} {kind}")));
    (1..).zip(names).zip(vendors.into_iter().cycle()).map(
        |((nth, organization_name), vendor_name)| Endpoint {
            id: format!("ep_{nth:03}"),
            organization_name,
            vendor_name,
        },
    )
}
