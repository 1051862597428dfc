//! An API that makes tokens, in the way of language models: what a request costs is known when its
//! response has ended.
//!
//! `cargo run --release --example completions`, then for example:
//!
//! ```sh
//! curl -iN -H 'Authorization: Bearer sk_acme_ana' http://127.0.0.1:3000/v1/completions \
//!     --json '{"max_tokens":200,"tokens":120,"stream":true,"pace_ms":20}'
//! curl -H 'Authorization: Bearer sk_acme_ana' http://127.0.0.1:3000/v1/usage
//! ```
//!
//! The key is `sk_`, an organization, `_` and a user. A user has 60 requests a minute, and four under way
//! at once. An organization has 10,000 tokens a day, and then 2,000 credits that do not come back.
//!
//! With the feature `redis` and `REDIS_URL`, servers share all of it; `QUOTA_SECRET` is then as for
//! `replicas`.

mod common;

use std::{convert::Infallible, error::Error, str, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{Request, State, rejection::JsonRejection},
    http::{
        StatusCode,
        header::{AUTHORIZATION, CONTENT_TYPE},
        request::Parts,
    },
    middleware::{self, Next},
    response::{
        IntoResponse, Response,
        sse::{Event, Sse},
    },
    routing::{get, post},
};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;
use tower_quota::{
    BodyFieldLayer, BuildError, Category, CheckError, Clock, HeaderStyle, Limiter, LimiterBuilder,
    Matcher, Meter, Penalty, Policy, Quota, RateLimitLayer,
    key::{self, ClientIp, KeyExtractor},
    response::Problem,
};

const COMPLETIONS: &str = "/v1/completions";
/// The longest window there is, a hundred years: what is used of it does not come back.
const FOR_GOOD: Duration = Duration::from_secs(100 * 365 * 86_400);
/// A response takes no longer than this, so that the server can stop.
const LONGEST: Duration = Duration::from_secs(600);

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let limiter = with_store(limits(Clock::system()))?.build()?;
    common::serve(app(limiter)?).await
}

/// The counts are in Redis, if there is one.
#[allow(dead_code, reason = "the tests call the router")]
fn with_store(limits: LimiterBuilder) -> Result<LimiterBuilder, Box<dyn Error>> {
    #[cfg(feature = "redis")]
    if let Ok(url) = std::env::var("REDIS_URL") {
        let store = tower_quota::store::RedisStore::builder(url);
        return Ok(limits.store(store.secret(common::shared_secret()?).build()?));
    }
    Ok(limits)
}

/// The limits, by `clock`.
pub fn limits(clock: Clock) -> LimiterBuilder {
    let seconds = Duration::from_secs;
    let penalty = Penalty::after(5)
        .refusals_within(seconds(10))
        .block(seconds(5))
        .then(seconds(20))
        .then(seconds(60))
        .forget_after(seconds(600));
    let user = || key::extension("user", |caller: &Caller| caller.user.as_str().into());
    let org = || key::extension("org", |caller: &Caller| caller.org.as_str().into());

    let requests = Policy::sliding_window("requests", Quota::per_minute(60))
        .key(user())
        .or_skip()
        .penalty(penalty.clone());
    let streams = Policy::in_flight("streams", 4).key(user()).or_skip().penalty(penalty);
    // `max_tokens` are reserved. What was not made comes back when the response ends.
    let metered = |policy: Policy| {
        policy
            .key(org())
            .or_skip()
            .unit("tokens")
            .cost(max_tokens())
            .settle_at_end()
            // Who made a mistake has made no tokens.
            .settle(|response| response.status.is_client_error().then_some(0))
    };
    let credits = metered(Policy::fixed_window("credits", Quota::per_window(2_000, FOR_GOOD)));
    // A day of UTC.
    let tokens = metered(Policy::fixed_window("tokens", Quota::per_day(10_000))).or_else(credits);

    // Guessed keys count by the address.
    let guess = key::extension("guess", |_: &Guess| "any".into());
    let guesses = Policy::sliding_window("guesses", Quota::per_minute(60))
        .key((guess, ClientIp::new()))
        .or_skip();

    let completions = Category::new("completions").on(Matcher::post(COMPLETIONS));
    Limiter::builder()
        .clock(clock)
        .policy(guesses)
        .category(completions.policy(requests).policy(streams).policy(tokens))
}

/// The field `max_tokens` of the body. A request without it is refused by the handler.
fn max_tokens() -> impl Fn(&Parts) -> u64 + Send + Sync + 'static {
    let field = key::body_field("max_tokens");
    move |request| {
        let text = field.extract(request).found();
        let number = text.and_then(|text| str::from_utf8(text.as_bytes()).ok()?.parse().ok());
        number.unwrap_or(1).max(1)
    }
}

/// The API, held to the limits of `limiter`.
pub fn app(limiter: Limiter) -> Result<Router, BuildError> {
    let problem_of = Problem::quota_exceeded();
    let rate_limit = RateLimitLayer::builder(limiter.clone())
        .headers([HeaderStyle::ratelimit_lists()])
        .on_rejection(move |rejection| problem_of.respond(rejection))
        .build()?;
    Ok(Router::new()
        .route(COMPLETIONS, post(complete))
        .route("/v1/usage", get(usage))
        .with_state(limiter)
        .layer(middleware::from_fn(authorize))
        .fallback(|| async { problem(StatusCode::NOT_FOUND, "There is nothing here.") })
        .method_not_allowed_fallback(|| async {
            problem(StatusCode::METHOD_NOT_ALLOWED, "Not with this method.")
        })
        .layer(rate_limit)
        .layer(BodyFieldLayer::new(["max_tokens"]).only(Matcher::post(COMPLETIONS)))
        .layer(middleware::from_fn(identify)))
}

fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason();
    let body = json!({ "title": title, "status": status.as_u16(), "detail": detail });
    (status, [(CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

// --- Callers ---------------------------------------------------------------------------------

/// Who calls.
#[derive(Clone)]
struct Caller {
    org: String,
    /// The organization is in it: two users of the same name are two users.
    user: String,
}

/// A request without a key that could be one.
#[derive(Clone)]
struct Guess;

impl Caller {
    /// `Bearer sk_<org>_<user>`.
    fn parse(request: &Request) -> Option<Self> {
        let mut lines = request.headers().get_all(AUTHORIZATION).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        let (scheme, key) = line.to_str().ok()?.split_once(' ')?;
        let caller = key.trim().strip_prefix("sk_")?;
        let (org, user) = caller.split_once('_')?;
        let is_valid = scheme.eq_ignore_ascii_case("bearer") && !org.is_empty() && !user.is_empty();
        is_valid.then(|| Self { org: org.to_owned(), user: caller.to_owned() })
    }
}

async fn identify(mut request: Request, next: Next) -> Response {
    match Caller::parse(&request) {
        Some(caller) => drop(request.extensions_mut().insert(caller)),
        None => drop(request.extensions_mut().insert(Guess)),
    }
    next.run(request).await
}

/// Refuses requests without a key. It runs inside of the limiter, so that guessing keys is limited too.
async fn authorize(request: Request, next: Next) -> Response {
    match request.extensions().get::<Caller>() {
        Some(_) => next.run(request).await,
        None => problem(StatusCode::UNAUTHORIZED, "Send `Authorization: Bearer sk_<org>_<user>`."),
    }
}

// --- The API ---------------------------------------------------------------------------------

/// What a caller asks for: this server makes `tokens` tokens, one in each `pace_ms` milliseconds.
#[derive(Deserialize)]
struct Ask {
    max_tokens: u64,
    tokens: u64,
    #[serde(default)]
    stream: bool,
    #[serde(default)]
    pace_ms: u64,
}

impl Ask {
    /// How many tokens are made: no more than were reserved.
    fn makes(&self) -> u64 {
        self.tokens.min(self.max_tokens)
    }

    fn mistake(&self) -> Option<&'static str> {
        let lasts = Duration::from_millis(self.pace_ms.saturating_mul(self.makes()));
        if self.max_tokens == 0 {
            Some("`max_tokens` is at least 1.")
        } else if lasts > LONGEST {
            Some("A response takes ten minutes at most.")
        } else {
            None
        }
    }
}

async fn complete(meter: Meter, ask: Result<Json<Ask>, JsonRejection>) -> Response {
    let ask = match ask {
        Ok(Json(ask)) => ask,
        Err(why) => return problem(why.status(), &why.body_text()),
    };
    if let Some(mistake) = ask.mistake() {
        return problem(StatusCode::BAD_REQUEST, mistake);
    }
    let tokens = make(&ask, meter);
    if !ask.stream {
        let total = tokens.count().await;
        return Json(json!({ "usage": { "total_tokens": total } })).into_response();
    }
    let events = tokens.map(|index| Event::default().data(json!({ "index": index }).to_string()));
    let done = stream::once(async { Event::default().data("[DONE]") });
    Sse::new(events.chain(done).map(Ok::<_, Infallible>)).into_response()
}

/// Makes tokens and meters each. A caller who hangs up pays for those that were made by then.
fn make(ask: &Ask, meter: Meter) -> impl Stream<Item = u64> + Send + 'static {
    let pace = Duration::from_millis(ask.pace_ms);
    // A response without a token costs nothing. This is right because each token is metered when it is made:
    // if only the last token brought the number, a caller who hangs up before it would pay nothing.
    meter.add(0);
    stream::iter(0..ask.makes()).then(move |index| {
        let meter = meter.clone();
        async move {
            if !pace.is_zero() {
                sleep(pace).await;
            }
            meter.add(1);
            index
        }
    })
}

/// What the caller has left. It costs nothing.
async fn usage(State(limiter): State<Limiter>, Extension(caller): Extension<Caller>) -> Response {
    match usage_of(&limiter, &caller).await {
        Ok(usage) => Json(usage).into_response(),
        Err(error) => {
            tracing::error!(%error, "the usage of a caller could not be read");
            problem(StatusCode::SERVICE_UNAVAILABLE, "Try again later.")
        }
    }
}

async fn usage_of(limiter: &Limiter, Caller { org, user }: &Caller) -> Result<Value, CheckError> {
    let peek = async |policy: &'static str, key: &str| {
        let decision = limiter.peek(policy, key).await?;
        let limit = decision.outcome(policy).map_or(0, |outcome| outcome.limit());
        let remaining = decision.outcome(policy).map_or(0, |outcome| outcome.remaining());
        Ok::<_, CheckError>((limit, remaining))
    };
    let (requests, streams) = (peek("requests", user).await?, peek("streams", user).await?);
    let (tokens, credits) = (peek("tokens", org).await?, peek("credits", org).await?);
    Ok(json!({
        "requests": { "limit": requests.0, "remaining": requests.1 },
        "streams": { "limit": streams.0, "in_flight": streams.0 - streams.1 },
        "tokens": { "limit": tokens.0, "remaining": tokens.1 },
        "credits": { "remaining": credits.1 },
    }))
}
