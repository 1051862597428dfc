//! The HelloJohn API with its limits in a file, which operators change while it runs.
//!
//! `cargo run --release --features config,redis --example configured` reads
//! `examples/configured/limits.toml`, or the file that `LIMITS` names. It applies the file again within
//! two seconds after a change, and at once on SIGHUP. An operator, whose key is `op_` and a name, blocks
//! a caller, raises its quota, or asks why a request is refused:
//!
//! ```sh
//! curl -H 'Authorization: Bearer op_ana' http://127.0.0.1:3000/admin/overrides \
//!     --json '{"key":"sk_live_free_mytenant","block":true,"seconds":60,"reason":"scraping"}'
//! curl -H 'Authorization: Bearer op_ana' \
//!     'http://127.0.0.1:3000/admin/explain?path=/v1/users&key=sk_live_free_mytenant'
//! ```
//!
//! With `REDIS_URL`, servers share their counts and overrides; `QUOTA_SECRET` is then as for `replicas`.

#[allow(dead_code, reason = "its limits in code, and its `main`, are not used")]
#[path = "hellojohn.rs"]
pub mod hellojohn;

use std::{
    convert::Infallible,
    env,
    error::Error,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{
        ConnectInfo, Query, Request, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{HeaderValue, StatusCode, header::AUTHORIZATION, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower::{ServiceBuilder, ServiceExt, util::BoxCloneSyncService};
use tower_quota::{
    Limiter, LimiterBuilder, PeekedBody, Quota, RateLimitLayer,
    config::{Limits, Registry, Watch},
    key::{self, PeerAddr},
    overrides::{CallerOverrides, Override, OverrideError, OverrideKind},
    response,
    store::RedisStore,
};

use self::hellojohn::{ApiKey, Contract, Contracts, Guess, bearer, common, error};

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let file = env::var("LIMITS").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/examples/configured/limits.toml").to_owned()
    });
    let contracts = Contracts::default();
    contracts.set("example", Contract { read: 5_000, write: 2_500, auth: 100 });
    let registry = registry(contracts);
    let limits = Limits::read(&file, &registry)?;
    let limiter = with_store(limits.builder(&registry)?)?.build()?;
    let rate_limit = limits.layer(limiter.clone(), &registry)?.build()?;
    if let Err(error) = limits.apply_overrides(&limiter).await {
        tracing::error!(%error, "the overrides of the limits are not set yet"); // `Watch` tries again
    }
    let _watch = Watch::new(&limiter, &file, registry);
    common::serve(app(limiter, rate_limit)).await
}

/// The functions that the file names.
pub fn registry(contracts: Contracts) -> Registry {
    let by_contract = |number: fn(Contract) -> u64| {
        let contracts = contracts.clone();
        move |request: &Parts| {
            let contract = contracts.of(request.extensions.get()?)?;
            Some(Quota::per_minute(number(contract)))
        }
    };
    Registry::new()
        .key("api key", key::extension("api key", ApiKey::key))
        .key("unknown key", key::extension("unknown key", |_: &Guess| "any".into()))
        .plan("plan of the key", |request| Some(request.extensions.get::<ApiKey>()?.plan()))
        .quota_by("auth by contract", by_contract(|contract| contract.auth))
        .quota_by("read by contract", by_contract(|contract| contract.read))
        .quota_by("write by contract", by_contract(|contract| contract.write))
        .on_rejection("the page's 429", response::json(hellojohn::rate_limited))
}

fn with_store(limits: LimiterBuilder) -> Result<LimiterBuilder, Box<dyn Error>> {
    let Ok(redis) = env::var("REDIS_URL") else { return Ok(limits) };
    let store = RedisStore::builder(redis).secret(common::shared_secret()?);
    Ok(limits.store(store.build()?))
}

/// The API, and what operators may do under `/admin`.
pub fn app(limiter: Limiter, rate_limit: RateLimitLayer) -> Router {
    // A request that is explained runs through the same middleware as a real one.
    let layer = rate_limit.clone();
    let explained = ServiceBuilder::new()
        .layer(middleware::from_fn(hellojohn::identify))
        .layer(hellojohn::body_fields())
        .service_fn(move |request: axum::http::Request<PeekedBody<Body>>| {
            let layer = layer.clone();
            async move { Ok(Json(layer.explain(&request.into_parts().0).await).into_response()) }
        });
    let explained = BoxCloneSyncService::new(explained);
    let admin = Router::new()
        .route("/explain", get(explain).with_state(explained))
        .route("/overrides", get(overrides).post(set_override).delete(end_overrides))
        .with_state(limiter.clone())
        .layer(middleware::from_fn(only_operators));
    hellojohn::app(limiter, rate_limit).nest("/admin", admin)
}

// --- Operators -------------------------------------------------------------------------------

/// An operator, by the name in its key.
#[derive(Clone)]
struct Operator(String);

async fn only_operators(mut request: Request, next: Next) -> Response {
    let credential = request.headers().get(AUTHORIZATION).and_then(bearer);
    match credential.and_then(|token| token.strip_prefix("op_")).filter(|name| !name.is_empty()) {
        Some(name) => {
            let operator = Operator(name.to_owned());
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        None => error(StatusCode::FORBIDDEN, "forbidden", "Only operators may do this."),
    }
}

/// A request to be explained: without a key if there is none, from this address or the operator's.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Explained {
    #[serde(default)]
    method: String,
    path: String,
    key: Option<String>,
    ip: Option<IpAddr>,
}

async fn explain(
    State(explained): State<BoxCloneSyncService<Request, Response, Infallible>>,
    ConnectInfo(operator): ConnectInfo<SocketAddr>,
    asked: Result<Query<Explained>, QueryRejection>,
) -> Response {
    let asked = match asked {
        Ok(Query(asked)) => asked,
        Err(why) => return bad_request(&why.body_text()),
    };
    let method = if asked.method.is_empty() { "GET" } else { &*asked.method };
    let peer = asked.ip.map_or(operator, |ip| (ip, 0).into());
    let mut request = Request::builder().method(method).uri(&asked.path).extension(PeerAddr(peer));
    if let Some(key) = asked.key {
        request = request.header(AUTHORIZATION, format!("Bearer {key}"));
    }
    match request.body(Body::empty()) {
        Ok(request) => explained.oneshot(request).await.into_response(),
        Err(why) => bad_request(&format!("There is no such request: {why}.")),
    }
}

/// `{"key":"sk_live_…","block":true,"seconds":60}`, or `{"key":…,"policy":"read","units":500,…}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewOverride {
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
    State(limiter): State<Limiter>,
    Extension(Operator(operator)): Extension<Operator>,
    new: Result<Json<NewOverride>, JsonRejection>,
) -> Response {
    let new = match new {
        Ok(Json(new)) => new,
        Err(why) => return error(why.status(), "bad_request", &why.body_text()),
    };
    let time = Duration::from_secs(new.seconds);
    let caller = match caller(&limiter, &new.key) {
        Ok(caller) => caller,
        Err(why) => return bad_request(&why),
    };
    let change = match (new.block, new.policy, new.units) {
        (true, None, None) => caller.block(time),
        (false, Some(policy), Some(units)) => {
            // The caller gets another number of units in the policy's window.
            let quota = limiter.policy(&policy).ok().and_then(|policy| policy.quota());
            let quota = quota.unwrap_or(Quota::unlimited()).with_units(units);
            caller.set_quota(&policy, quota, time)
        }
        _ => return bad_request("Send `block`: true, or a `policy` and its `units`."),
    };
    match change.reason(new.reason).author(operator).await {
        Ok(_) => Json(list(caller.list())).into_response(),
        Err(why) => refused(&why),
    }
}

async fn overrides(State(limiter): State<Limiter>) -> Json<Value> {
    Json(list(limiter.overrides().list()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfCaller {
    key: String,
}

async fn end_overrides(
    State(limiter): State<Limiter>,
    of: Result<Query<OfCaller>, QueryRejection>,
) -> Response {
    let caller = of.map_err(|why| why.body_text()).and_then(|Query(of)| caller(&limiter, &of.key));
    let caller = match caller {
        Ok(caller) => caller,
        Err(why) => return bad_request(&why),
    };
    match caller.end_all().await {
        Ok(ended) => Json(json!({ "ended": ended.len() })).into_response(),
        Err(why) => refused(&why),
    }
}

fn caller(limiter: &Limiter, key: &str) -> Result<CallerOverrides, String> {
    // As a request sends it: no other key is one.
    let sent = HeaderValue::try_from(format!("Bearer {key}")).ok();
    let key = sent.as_ref().and_then(bearer).and_then(ApiKey::parse);
    let key = key.ok_or("The `key` is no API key.")?;
    limiter.overrides().caller(key.key()).map_err(|why| format!("The `key` cannot be: {why}."))
}

/// What operators see: the caller is a fingerprint, as no key is kept.
fn list(all: Vec<Override>) -> Value {
    let one = |own: &Override| {
        let units = match &own.kind {
            OverrideKind::Quota { quota, .. } => Some(quota.units()),
            _ => None,
        };
        json!({
            "caller": own.caller.to_string(),
            "block": own.kind == OverrideKind::Block,
            "policy": own.policy(),
            "units": units,
            "reason": own.reason,
            "author": own.author,
            "since": own.since.as_secs(),
            "until": own.until.as_secs(),
        })
    };
    json!({ "overrides": all.iter().map(one).collect::<Vec<_>>() })
}

fn bad_request(message: &str) -> Response {
    error(StatusCode::BAD_REQUEST, "bad_request", message)
}

fn refused(why: &OverrideError) -> Response {
    let (status, code) = match why {
        OverrideError::Store(_) => (StatusCode::SERVICE_UNAVAILABLE, "store_unavailable"),
        OverrideError::Full => (StatusCode::CONFLICT, "full"),
        _ => (StatusCode::BAD_REQUEST, "bad_request"),
    };
    error(status, code, &format!("No override was set: {why}."))
}
