//! WebSockets: how many each user has open, and how many messages a user sends over all of them.
//!
//! `cargo run --release --example socket`, then open http://127.0.0.1:3000 in a browser. A user may have
//! two sockets open, and send ten messages a second, twenty at once.

mod common;

use std::{error::Error, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{
        Query, State,
        ws::{Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{StatusCode, request::Parts},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use tower_quota::{
    BuildError, Category, Clock, Limiter, Matcher, Permit, Policy, PolicyHandle, Quota,
    RateLimitLayer, Rejection,
    key::{self, ClientIp, KeyExtractor},
    response,
};

/// A message may be this long, in bytes.
const MAX_MESSAGE: usize = 64 * 1_024;

/// A socket on which nothing came for so long is asked for a sign of life. After two such times it is
/// closed: a client that has lost its network says no goodbye, and would keep a place for ever.
const SILENCE: Duration = Duration::from_secs(30);

#[tokio::main]
#[allow(dead_code, reason = "the tests call the router")]
async fn main() -> Result<(), Box<dyn Error>> {
    common::serve(app(limiter(Clock::system())?)?).await
}

/// The limits, by `clock`.
pub fn limiter(clock: Clock) -> Result<Limiter, BuildError> {
    // A place is taken when the socket opens, and is free again when it has closed.
    let sockets = Policy::in_flight("sockets", 2).key(key::query("user")).or_skip();
    // Who sends no name is refused by the handler, and counted by the address.
    let user = key::query("user");
    let nameless = key::from_fn("nameless", move |request: &Parts| {
        user.extract(request).found().is_none().then(|| "any".into())
    });
    let nameless = Policy::sliding_window("nameless", Quota::per_minute(60))
        .key((nameless, ClientIp::new()))
        .or_skip();
    Limiter::builder()
        .clock(clock)
        .category(Category::new("sockets").on(Matcher::get("/ws")).policy(sockets).policy(nameless))
        // Messages are no HTTP requests: the socket's task asks.
        .check_only(Policy::token_bucket("messages", Quota::per_second(10).burst(20)))
        .build()
}

/// The server, held to the limits of `limiter`.
pub fn app(limiter: Limiter) -> Result<Router, Box<dyn Error>> {
    let messages = limiter.policy("messages")?;
    let rate_limit =
        RateLimitLayer::builder(limiter).on_rejection(response::json(refusal)).build()?;
    Ok(Router::new()
        .route("/ws", get(open))
        .with_state(messages)
        .route("/", get(|| async { Html(include_str!("socket/index.html")) }))
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found") })
        .method_not_allowed_fallback(|| async {
            error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed")
        })
        .layer(rate_limit))
}

fn error(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({ "error": error }))).into_response()
}

/// The body of a request that is refused.
fn refusal(rejection: &Rejection) -> Value {
    let error = match rejection.outcome().map(|outcome| outcome.policy()) {
        Some("sockets") if rejection.status() == StatusCode::TOO_MANY_REQUESTS => {
            "too_many_sockets"
        }
        _ if rejection.status() == StatusCode::TOO_MANY_REQUESTS => "rate_limited",
        _ => "bad_request",
    };
    json!({ "error": error })
}

// --- Sockets ---------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Caller {
    user: Option<String>,
}

/// Opens a socket. The permit is its place; it goes with the socket's task.
async fn open(
    State(messages): State<PolicyHandle>,
    Query(Caller { user }): Query<Caller>,
    permit: Option<Extension<Permit>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let Some(user) = user.filter(|user| !user.is_empty()) else {
        return error(StatusCode::UNAUTHORIZED, "missing_user");
    };
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(why) => return error(why.status(), "not_a_websocket"),
    };
    upgrade.max_message_size(MAX_MESSAGE).on_upgrade(|mut socket| async move {
        // A socket that fails has closed as well.
        let _ = echo(&mut socket, &messages, &user).await;
        drop(permit);
    })
}

/// Answers each message, until the socket has closed.
async fn echo(
    socket: &mut WebSocket,
    messages: &PolicyHandle,
    user: &str,
) -> Result<(), axum::Error> {
    let mut is_silent = false;
    loop {
        let message = match timeout(SILENCE, socket.recv()).await {
            Ok(Some(message)) => message?,
            Ok(None) => return Ok(()),
            Err(_) if is_silent => return Ok(()),
            Err(_) => {
                is_silent = true;
                socket.send(Message::Ping(Default::default())).await?;
                continue;
            }
        };
        is_silent = false;
        let answer = match message {
            Message::Text(text) => answer(messages, user, Some(text.as_str())),
            Message::Binary(_) => answer(messages, user, None),
            Message::Ping(_) | Message::Pong(_) => continue,
            Message::Close(_) => return Ok(()),
        };
        socket.send(Message::text(answer.to_string())).await?;
    }
}

/// The answer to a message, which is `None` if it is not a text.
pub fn answer(messages: &PolicyHandle, user: &str, text: Option<&str>) -> Value {
    match (messages.check(user).at_once(), text) {
        (Ok(decision), Some(text)) if decision.is_allowed() => {
            json!({ "echo": text, "remaining": decision.remaining() })
        }
        (Ok(decision), None) if decision.is_allowed() => json!({ "error": "not_a_text" }),
        (Ok(decision), _) => {
            let wait = decision.retry_after().unwrap_or_default();
            // Rounded up, so that a message then is not refused again.
            let wait = wait.as_nanos().div_ceil(1_000_000);
            json!({ "error": "rate_limited", "retry_after_ms": wait })
        }
        (Err(error), _) => {
            eprintln!("a message was not checked: {error}");
            json!({ "error": "unavailable" })
        }
    }
}
