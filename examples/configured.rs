//! The HelloJohn API with its limits from a file, which may change while it runs, and with routes for
//! operators.
//!
//! `cargo run --release --features config,redis --example configured`, then for example
//! `curl -i -H 'Authorization: Bearer sk_live_free_mytenant' http://127.0.0.1:3000/v1/users`.
//!
//! The file is `LIMITS`, by default `examples/configured/limits.toml`. A change of it is applied within
//! two seconds, and at once on `SIGHUP`. With `REDIS_URL` (and `QUOTA_SECRET`, the output of
//! `openssl rand -hex 16`), counts and overrides are those of all such servers.
//!
//! An operator is `Authorization: Bearer op_<name>`:
//! `curl -H 'Authorization: Bearer op_nora'
//! 'http://127.0.0.1:3000/admin/explain?method=GET&path=/v1/users&key=sk_live_free_mytenant'`.

#[path = "hellojohn.rs"]
pub mod hellojohn;

use std::{env, error::Error, net::IpAddr, path::PathBuf, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Query, Request, State},
    http::{StatusCode, header::AUTHORIZATION, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hellojohn::{ApiKey, Contract, Contracts, Guess, common};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_quota::{
    Limiter, OverrideError, Quota, RateLimitLayer,
    config::{Limits, Registry, Watch},
    key::{PeerAddr, extension},
    response,
    store::RedisStore,
};

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let contracts = Contracts::default();
    contracts.set("example", Contract { read: 5_000, write: 2_500, auth: 100 });
    let registry = registry(contracts);
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/configured/limits.toml");
    let file = env::var_os("LIMITS").map_or_else(|| default.into(), PathBuf::from);

    let limits = Limits::read(&file, &registry)?;
    let mut builder = limits.builder(&registry)?;
    if let Ok(url) = env::var("REDIS_URL") {
        builder = builder.store(RedisStore::builder(&url).secret(secret()?).build()?);
    }
    let limiter = builder.build()?;
    let rate_limit = limits.layer(limiter.clone(), &registry)?.build()?;
    let _watch = Watch::new(&limiter, file, move |text| {
        Limits::from_toml(text, &registry)?.builder(&registry)
    });
    common::serve(app(limiter, rate_limit)).await
}

/// What all servers make fingerprints of keys with.
fn secret() -> Result<u128, &'static str> {
    match env::var("QUOTA_SECRET") {
        Ok(hex) => u128::from_str_radix(&hex, 16)
            .map_err(|_| "QUOTA_SECRET is no number; write what `openssl rand -hex 16` prints"),
        Err(_) => Ok(0x6a09_e667_f3bc_c908_b2fb_1366_ea95_7d3e), // for trying it out only
    }
}

/// What the file names.
pub fn registry(contracts: Contracts) -> Registry {
    let by_contract = |number: fn(Contract) -> u64| {
        let contracts = contracts.clone();
        move |request: &Parts| {
            let contract = contracts.of(request.extensions.get()?)?;
            Some(Quota::per_minute(number(contract)))
        }
    };
    Registry::new()
        .key("api key", extension("api key", ApiKey::key))
        .key("unknown key", extension("unknown key", |_: &Guess| "any".into()))
        .plan("plan of the key", |request| Some(request.extensions.get::<ApiKey>()?.plan()))
        .quota_by("auth by contract", by_contract(|contract| contract.auth))
        .quota_by("read by contract", by_contract(|contract| contract.read))
        .quota_by("write by contract", by_contract(|contract| contract.write))
        .on_rejection("the page's 429", response::json(hellojohn::rate_limited))
}

/// The API, and the routes of operators.
pub fn app(limiter: Limiter, rate_limit: RateLimitLayer) -> Router {
    // Outside of the limiter: operators are not counted.
    let admin = Router::new()
        .route("/admin/explain", get(explain))
        .route("/admin/overrides", get(overrides).post(set_override).delete(end_overrides))
        .with_state(rate_limit.clone())
        .layer(middleware::from_fn(operators_only));
    hellojohn::app(limiter, rate_limit).merge(admin)
}

// --- Operators -------------------------------------------------------------------------------

#[derive(Clone)]
struct Operator(String);

async fn operators_only(mut request: Request, next: Next) -> Response {
    let sent = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let token = sent.and_then(|sent| sent.strip_prefix("Bearer "));
    match token.and_then(|token| token.strip_prefix("op_")).filter(|name| !name.is_empty()) {
        Some(name) => {
            let operator = Operator(name.to_owned());
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        None => failure(StatusCode::FORBIDDEN, "forbidden", "Only operators may do this."),
    }
}

#[derive(Deserialize)]
struct Explained {
    method: String,
    path: String,
    key: Option<String>,
    ip: Option<IpAddr>,
}

/// What a request would be answered. It costs nothing.
async fn explain(
    State(rate_limit): State<RateLimitLayer>,
    Query(Explained { method, path, key, ip }): Query<Explained>,
) -> Response {
    let head = axum::http::Request::builder().method(&*method).uri(path).body(());
    let Ok(request) = head else { return bad_request("`method` or `path` is none.") };
    let mut head = request.into_parts().0;
    let ip = ip.unwrap_or_else(|| [127, 0, 0, 1].into());
    head.extensions.insert(PeerAddr((ip, 0).into()));
    match key.as_deref().map(ApiKey::parse) {
        Some(Some(key)) => drop(head.extensions.insert(key)),
        Some(None) => drop(head.extensions.insert(Guess)),
        None => {}
    }
    let explanation = rate_limit.explain(&head).await;
    let mut answer = json!(explanation.request);
    answer["response"] = json!(explanation.response);
    Json(answer).into_response()
}

#[derive(Deserialize)]
struct SetOverride {
    key: String,
    #[serde(default)]
    block: bool,
    policy: Option<String>,
    units: Option<u64>,
    seconds: u64,
    #[serde(default)]
    reason: String,
}

async fn set_override(
    State(rate_limit): State<RateLimitLayer>,
    Extension(Operator(author)): Extension<Operator>,
    Json(sent): Json<SetOverride>,
) -> Response {
    let limiter = rate_limit.limiter();
    let Some(key) = ApiKey::parse(&sent.key) else { return bad_request("`key` is no API key.") };
    let caller = match limiter.overrides().caller(key.key()) {
        Ok(caller) => caller,
        Err(error) => return of_override(&error),
    };
    let time = Duration::from_secs(sent.seconds);
    let change = match (sent.block, sent.policy, sent.units) {
        (true, None, None) => caller.block(time),
        (false, Some(policy), Some(units)) => {
            let window = window_of(limiter, &policy).unwrap_or(Duration::from_secs(60));
            caller.set_quota(&policy, Quota::per_window(units, window), time)
        }
        _ => return bad_request("Send `\"block\": true`, or `policy` and `units`."),
    };
    match change.reason(sent.reason).author(author).await {
        Ok(_) => Json(json!({ "overrides": caller.list() })).into_response(),
        Err(error) => of_override(&error),
    }
}

/// An override has as many units in each window of the policy.
fn window_of(limiter: &Limiter, policy: &str) -> Option<Duration> {
    let description = limiter.describe();
    let of_categories = description.categories.iter().flat_map(|category| &category.policies);
    let all = description.every_request.iter().chain(of_categories).chain(&description.check_only);
    let mut named = all.filter(|described| described.name == policy);
    named.next().map(|described| described.quota.window())
}

#[derive(Deserialize)]
struct OfKey {
    key: String,
}

async fn end_overrides(
    State(rate_limit): State<RateLimitLayer>,
    Query(OfKey { key }): Query<OfKey>,
) -> Response {
    let Some(key) = ApiKey::parse(&key) else { return bad_request("`key` is no API key.") };
    let caller = rate_limit.limiter().overrides().caller(key.key());
    let ended = match caller {
        Ok(caller) => caller.end_all().await,
        Err(error) => Err(error),
    };
    match ended {
        Ok(ended) => Json(json!({ "ended": ended })).into_response(),
        Err(error) => of_override(&error),
    }
}

async fn overrides(State(rate_limit): State<RateLimitLayer>) -> Json<Value> {
    Json(json!({ "overrides": rate_limit.limiter().overrides().list() }))
}

fn of_override(error: &OverrideError) -> Response {
    let message = error.to_string();
    match error {
        OverrideError::Store(_) => {
            failure(StatusCode::SERVICE_UNAVAILABLE, "unavailable", &message)
        }
        _ => bad_request(&message),
    }
}

fn bad_request(message: &str) -> Response {
    failure(StatusCode::BAD_REQUEST, "bad_request", message)
}

fn failure(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": code, "message": message }))).into_response()
}
