//! The HelloJohn API, as its rate-limit page describes it.
//!
//! `cargo run --release --example hellojohn`, then for example
//! `curl -i -H 'Authorization: Bearer sk_live_free_mytenant' http://127.0.0.1:3000/v1/users`.

pub mod common;

use std::{
    collections::{HashMap, VecDeque},
    error::Error,
    sync::{Arc, RwLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    Form, Json, Router,
    body::Bytes,
    extract::{FromRequest, Path, Request, State, rejection::FormRejection},
    http::{
        HeaderValue, Method, StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Map, Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tower_quota::{
    BodyFieldLayer, BuildError, Category, Clock, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    Rejection,
    key::{ClientIp, Key, body_field, extension},
    response,
};

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let contracts = Contracts::default();
    contracts.set("example", Contract { read: 5_000, write: 2_500, auth: 100 });
    let limiter = limiter(contracts, Clock::system())?;
    common::serve(app(limiter.clone(), rate_limit(limiter)?)).await
}

// --- Callers ---------------------------------------------------------------------------------

/// `sk_live_<plan>_<tenant>`: any key of this shape is valid.
#[derive(Clone)]
pub struct ApiKey {
    token: String,
    plan: &'static Plan,
}

struct Plan {
    name: &'static str,
    standard: Contract,
}

static PLANS: [Plan; 4] = [
    Plan { name: "free", standard: Contract { read: 100, write: 30, auth: 5 } },
    Plan { name: "starter", standard: Contract { read: 500, write: 150, auth: 10 } },
    Plan { name: "pro", standard: Contract { read: 1_000, write: 500, auth: 20 } },
    // For tenants without a contract of their own.
    Plan { name: ENTERPRISE, standard: Contract { read: 1_000, write: 500, auth: 20 } },
];
const ENTERPRISE: &str = "enterprise";

impl ApiKey {
    pub fn parse(token: &str) -> Option<Self> {
        let (plan, tenant) = token.strip_prefix("sk_live_")?.split_once('_')?;
        let plan = PLANS.iter().find(|known| known.name == plan)?;
        (!tenant.is_empty()).then(|| Self { token: token.to_owned(), plan })
    }

    fn tenant(&self) -> &str {
        self.token.splitn(4, '_').last().unwrap_or_default()
    }

    pub fn plan(&self) -> &'static str {
        self.plan.name
    }

    /// The page counts by API key and tenant.
    pub fn key(&self) -> Key<'_> {
        (&*self.token, self.tenant()).into()
    }
}

/// A credential that is no API key.
#[derive(Clone)]
pub struct Guess;

/// Leaves the caller's API key, or `Guess`, in the request's extensions.
pub async fn identify(mut request: Request, next: Next) -> Response {
    if let Some(credential) = request.headers().get(AUTHORIZATION) {
        match bearer(credential).and_then(ApiKey::parse) {
            Some(key) => drop(request.extensions_mut().insert(key)),
            None => drop(request.extensions_mut().insert(Guess)),
        }
    }
    next.run(request).await
}

/// Refuses requests without an API key. It runs inside of the limiter, so that guessing keys is
/// limited too.
async fn authorize(request: Request, next: Next) -> Response {
    let recognised = request.extensions().get::<ApiKey>().is_some();
    let guessed = request.extensions().get::<Guess>().is_some();
    if recognised || (auth_endpoint(request.uri().path()) && !guessed) {
        return next.run(request).await;
    }
    error(StatusCode::UNAUTHORIZED, "unauthorized", "Send `Authorization: Bearer sk_live_…`.")
}

pub fn bearer(credential: &HeaderValue) -> Option<&str> {
    let (scheme, token) = credential.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn auth_endpoint(path: &str) -> bool {
    path.starts_with("/v1/auth/") || path == "/v1/mfa/verify"
}

// --- The limits ------------------------------------------------------------------------------

/// A plan's numbers per minute.
#[derive(Clone, Copy)]
pub struct Contract {
    pub read: u64,
    pub write: u64,
    pub auth: u64,
}

/// The custom numbers of enterprise tenants. A change holds from the next request on.
#[derive(Clone, Default)]
pub struct Contracts(Arc<RwLock<HashMap<String, Contract>>>);

impl Contracts {
    pub fn set(&self, tenant: &str, contract: Contract) {
        self.0.write().unwrap().insert(tenant.to_owned(), contract);
    }

    pub fn of(&self, key: &ApiKey) -> Option<Contract> {
        let contracts = self.0.read().unwrap();
        contracts.get(key.tenant()).filter(|_| key.plan.name == ENTERPRISE).copied()
    }
}

/// The page's table, line by line.
pub fn limiter(contracts: Contracts, clock: Clock) -> Result<Limiter, BuildError> {
    let ten_minutes = Duration::from_secs(600);
    let api_key = || extension("api key", ApiKey::key);
    let policy = Policy::sliding_window;
    let per_ip = |name, quota| policy(name, quota).key(ClientIp::new()).or_refuse();
    let per_field = |name, field, quota| {
        policy(name, quota).key(body_field(field)).or_key(ClientIp::new()).or_refuse()
    };
    let per_key =
        |name, quota| policy(name, quota).key(api_key()).or_key(ClientIp::new()).or_refuse();
    let per_plan = |policy: Policy, number: fn(Contract) -> u64| {
        let contracts = contracts.clone();
        let quota = move |contract| Quota::per_minute(number(contract));
        let plans = PLANS.each_ref().map(|plan| (plan.name, quota(plan.standard)));
        policy
            .plans(plans, |request| Some(request.extensions.get::<ApiKey>()?.plan()))
            .quota_by(move |request| contracts.of(request.extensions.get()?).map(quota))
    };

    // One budget for all auth endpoints, for each API key from each address. Guessed keys share one
    // for each address: the endpoint's own limit may count by a field that the caller invents.
    let guess = extension("unknown key", |_: &Guess| "any".into());
    let auth_budget = policy("auth", Quota::per_minute(5))
        .key((api_key(), ClientIp::new()))
        .or_key((guess, ClientIp::new()))
        .or_skip();
    let auth_budget = per_plan(auth_budget, |contract| contract.auth);
    let auth = |path, limit: Policy| {
        let category = Category::new(limit.name()).on(Matcher::post(path));
        category.policy(limit).policy(auth_budget.clone())
    };
    let email_test = Matcher::post("/v1/email/config/test");
    let preview = Matcher::get("/v1/email/templates/{template}/preview");
    let write = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE];

    Limiter::builder()
        .clock(clock)
        .exempt(Matcher::path("/health"))
        .exempt(Matcher::path("/.well-known/jwks.json"))
        .exempt(Matcher::post("/v1/webhooks/callback"))
        .category(auth("/v1/auth/sign-in", per_ip("sign-in", Quota::per_minute(10))))
        .category(auth("/v1/auth/sign-up", per_ip("sign-up", Quota::per_minute(5))))
        .category(auth(
            "/v1/auth/magic-link",
            per_ip("magic-link", Quota::per_window(5, ten_minutes)),
        ))
        .category(auth(
            "/v1/auth/password/forgot",
            per_field("password-forgot", "email", Quota::per_window(5, ten_minutes)),
        ))
        .category(auth(
            "/v1/mfa/verify",
            per_field("mfa-verify", "user_id", Quota::per_window(5, ten_minutes)),
        ))
        .category(auth("/v1/auth/token/refresh", per_key("token-refresh", Quota::per_minute(60))))
        .category(
            Category::new("webhook test")
                .on(Matcher::post("/v1/webhooks/{webhook}/test"))
                .policy(per_key("webhook-test", Quota::per_minute(10))),
        )
        .category(
            Category::new("email test")
                .on(email_test)
                .policy(per_key("email-test", Quota::per_hour(5))),
        )
        .category(
            Category::new("preview").on(preview).policy(per_key("preview", Quota::per_minute(30))),
        )
        .category(
            Category::new("bulk")
                .on(Matcher::post("/v1/admin/users/search"))
                .on(Matcher::post("/v1/{resource}/bulk"))
                .policy(per_key("bulk", Quota::per_minute(50))),
        )
        .category(
            Category::new("read")
                .on(Matcher::get("/v1/{*rest}"))
                .policy(per_plan(per_key("read", Quota::per_minute(100)), |contract| {
                    contract.read
                })),
        )
        .category(
            Category::new("write")
                .on(Matcher::methods(write, "/v1/{*rest}"))
                .policy(per_plan(per_key("write", Quota::per_minute(30)), |contract| {
                    contract.write
                })),
        )
        // For the delivery worker only, not for requests.
        .check_only(policy("delivery", Quota::per_hour(100)))
        .build()
}

pub fn rate_limit(limiter: Limiter) -> Result<RateLimitLayer, BuildError> {
    RateLimitLayer::builder(limiter).on_rejection(response::json(rate_limited)).build()
}

/// The page's 429.
pub fn rate_limited(rejection: &Rejection) -> Value {
    match rejection.retry_after_seconds() {
        Some(seconds) => json!({
            "error": "rate_limit_exceeded",
            "message": format!("Rate limit exceeded. Retry after {seconds} seconds."),
            "retry_after": seconds,
        }),
        None => json!({ "error": kind_of(rejection.status()), "message": rejection.to_string() }),
    }
}

// --- The API ---------------------------------------------------------------------------------

/// The API, held to the limits of `rate_limit`; deliveries are held to those of `limiter`.
pub fn app(limiter: Limiter, rate_limit: RateLimitLayer) -> Router {
    let deliveries = Deliveries::start(limiter);
    let rate_limits =
        rate_limit.limits_route(|limits| limits.title("Rate limits of the HelloJohn API"));
    let ok = async |_: Sent| Json(json!({ "ok": true }));
    let bulk = async |_: Sent| Json(json!({ "results": [] }));
    let protected = Router::new()
        .route("/v1/auth/sign-in", post(ok))
        .route("/v1/auth/sign-up", post(ok))
        .route("/v1/auth/magic-link", post(ok))
        .route("/v1/auth/password/forgot", post(ok))
        .route("/v1/auth/token/refresh", post(ok))
        .route("/v1/mfa/verify", post(ok))
        .route("/v1/users", get(users).post(create_user))
        .route("/v1/users/{id}", get(user).patch(change_user).delete(delete_user))
        .route("/v1/users/bulk", post(bulk))
        .route("/v1/{resource}/bulk", post(bulk))
        .route("/v1/admin/users/search", post(search_users))
        .route("/v1/webhooks/{webhook}/test", post(test_webhook))
        .route("/v1/webhooks/{webhook}/deliveries", get(webhook_deliveries))
        .route("/v1/email/config/test", post(ok))
        .route("/v1/email/templates/{template}/preview", get(preview))
        .layer(middleware::from_fn(authorize))
        .with_state(deliveries);
    protected
        .route("/health", get(|| async { Json(json!({ "status": "ok" })) }))
        .route("/.well-known/jwks.json", get(|| async { Json(json!({ "keys": [] })) }))
        .route("/v1/webhooks/callback", post(ok))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "There is nothing here.") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Not with this method.")
        })
        .layer(rate_limit)
        .layer(body_fields())
        .layer(middleware::from_fn(identify))
        .route("/rate-limits", rate_limits)
}

/// Reads the fields of bodies by which two policies count.
pub fn body_fields() -> BodyFieldLayer {
    BodyFieldLayer::new(["email", "user_id"])
        .only(Matcher::post("/v1/auth/password/forgot"))
        .only(Matcher::post("/v1/mfa/verify"))
}

pub fn error(status: StatusCode, code: &str, message: &str) -> Response {
    (status, Json(json!({ "error": code, "message": message }))).into_response()
}

/// The body: a form, or a JSON object of any content type, as browsers send `text/plain`. An empty
/// body is an empty object.
struct Sent(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Sent {
    type Rejection = Response;

    async fn from_request(request: Request, state: &S) -> Result<Self, Response> {
        let content_type = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if content_type.is_some_and(|sent| sent.starts_with(b"application/x-www-form-urlencoded")) {
            let form: Result<Form<Map<String, Value>>, FormRejection> =
                Form::from_request(request, state).await;
            let Form(fields) = form.map_err(|why| refused(why.status(), &why.body_text()))?;
            return Ok(Self(fields));
        }
        let document = Bytes::from_request(request, state).await;
        let document = document.map_err(|why| refused(why.status(), &why.body_text()))?;
        if document.is_empty() {
            return Ok(Self(Map::new()));
        }
        let fields = serde_json::from_slice(&document);
        fields.map(Self).map_err(|why| {
            refused(StatusCode::BAD_REQUEST, &format!("The body is not a JSON object: {why}"))
        })
    }
}

fn refused(status: StatusCode, message: &str) -> Response {
    error(status, kind_of(status), message)
}

fn kind_of(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_TIMEOUT => "request_timeout",
        StatusCode::PAYLOAD_TOO_LARGE => "payload_too_large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
        _ => "bad_request",
    }
}

async fn users() -> Json<Value> {
    Json(json!({ "users": [{ "id": "usr_1", "name": "First User" }], "next": null }))
}

/// The users with the ids in `{"filters":{"ids":[…]}}`, or all without this filter.
async fn search_users(Sent(search): Sent) -> Response {
    let ids = search.get("filters").and_then(|filters| filters.get("ids"));
    let Some(ids) = ids else { return users().await.into_response() };
    match serde_json::from_value::<Vec<String>>(ids.clone()) {
        Ok(ids) => {
            let found: Vec<_> = ids.iter().map(|id| a_user(id)).collect();
            Json(json!({ "users": found, "next": null })).into_response()
        }
        Err(_) => refused(StatusCode::BAD_REQUEST, "`filters.ids` is a list of ids."),
    }
}

async fn create_user(_: Sent) -> (StatusCode, Json<Value>) {
    (StatusCode::CREATED, Json(json!({ "id": "usr_2" })))
}

async fn user(Path(id): Path<String>) -> Json<Value> {
    Json(a_user(&id))
}

async fn change_user(Path(id): Path<String>, _: Sent) -> Json<Value> {
    Json(a_user(&id))
}

fn a_user(id: &str) -> Value {
    json!({ "id": id, "name": "A User" })
}

async fn delete_user(Path(id): Path<String>) -> Json<Value> {
    Json(json!({ "id": id, "deleted": true }))
}

async fn preview(Path(template): Path<String>) -> Json<Value> {
    Json(json!({ "template": template, "html": "<p>Hello</p>" }))
}

// --- Deliveries: the same limiter without HTTP -----------------------------------------------

/// Webhook deliveries. A background worker makes them, within the limit of each API key.
#[derive(Clone)]
struct Deliveries {
    queue: mpsc::UnboundedSender<Delivery>,
    room: Arc<Semaphore>,
    latest: Arc<RwLock<VecDeque<Value>>>,
}

struct Delivery {
    api_key: ApiKey,
    webhook: String,
    /// Bounds the number of deliveries that wait.
    _place: OwnedSemaphorePermit,
}

impl Deliveries {
    fn start(limiter: Limiter) -> Self {
        let (queue, mut waiting) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(1_024));
        let deliveries = Self { queue, room, latest: Arc::default() };
        let worker = deliveries.clone();
        tokio::spawn(async move {
            while let Some(delivery) = waiting.recv().await {
                worker.attempt(&limiter, delivery).await;
            }
        });
        deliveries
    }

    async fn attempt(&self, limiter: &Limiter, delivery: Delivery) {
        let decision = limiter.check("delivery", delivery.api_key.key()).await;
        let decision = decision.expect("the limiter has this policy");
        if decision.is_allowed() {
            let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let tenant = delivery.api_key.tenant();
            let done = json!({ "webhook": delivery.webhook, "tenant": tenant, "delivered_at": at });
            let mut latest = self.latest.write().unwrap();
            latest.push_front(done);
            return latest.truncate(1_024);
        }
        // A delivery that no wait helps is dropped: its key is blocked, or has no units.
        let Some(wait) = decision.retry_after() else { return };
        // It goes back into the queue after the wait, so that other keys do not wait behind it.
        let queue = self.queue.clone();
        tokio::spawn(async move {
            tokio::time::sleep(wait).await;
            queue.send(delivery)
        });
    }
}

async fn test_webhook(
    State(deliveries): State<Deliveries>,
    Path(webhook): Path<String>,
    axum::Extension(api_key): axum::Extension<ApiKey>,
    _: Sent,
) -> Response {
    let Ok(place) = deliveries.room.try_acquire_owned() else {
        return error(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too many deliveries wait.");
    };
    let queued = deliveries.queue.send(Delivery { api_key, webhook, _place: place }).is_ok();
    (StatusCode::ACCEPTED, Json(json!({ "queued": queued }))).into_response()
}

async fn webhook_deliveries(
    State(deliveries): State<Deliveries>,
    Path(webhook): Path<String>,
    axum::Extension(api_key): axum::Extension<ApiKey>,
) -> Json<Value> {
    let latest = deliveries.latest.read().unwrap();
    let own = |entry: &&Value| entry["webhook"] == webhook && entry["tenant"] == api_key.tenant();
    Json(json!({ "deliveries": latest.iter().filter(own).collect::<Vec<_>>() }))
}
