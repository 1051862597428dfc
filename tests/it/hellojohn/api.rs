//! Calls of the API, and its answers.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::{Body, Bytes},
    http::{HeaderValue, Method, Request},
};
use http_body::Frame;
use serde_json::{Value, json};
use tokio::time::{Instant, advance};
use tower::ServiceExt;
use tower_quota::{Clock, Limiter, key::PeerAddr};

use super::super::examples::hellojohn::{Contract, Contracts, app, limiter, rate_limit};
pub use common::{Answer, answer};

/// Unix time when each test begins, on a full minute.
pub const START: u64 = 1_705_399_200;

pub const MINUTE: u64 = 60;
pub const TEN_MINUTES: u64 = 600;
pub const HOUR: u64 = 3_600;

/// Two addresses.
pub const HOME: &str = "192.0.2.1";
pub const OFFICE: &str = "198.51.100.7";

pub const FREE: &str = "Bearer sk_live_free_acme";
pub const STARTER: &str = "Bearer sk_live_starter_acme";
pub const PRO: &str = "Bearer sk_live_pro_acme";
/// Their contracts are so large that only the limits of endpoints are felt.
pub const ROOMY: &str = "Bearer sk_live_enterprise_roomy";
pub const OTHER_ROOMY: &str = "Bearer sk_live_enterprise_roomy2";

/// The example's API on a clock of its own.
pub struct Api {
    app: Router,
    pub limiter: Limiter,
    pub contracts: Contracts,
    began: Instant,
}

impl Api {
    pub fn new() -> Self {
        let contracts = Contracts::default();
        for tenant in ["roomy", "roomy2"] {
            contracts.set(tenant, Contract { read: 10_000, write: 10_000, auth: 10_000 });
        }
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(START));
        let limiter = limiter(contracts.clone(), clock).unwrap();
        Self {
            app: app(limiter.clone(), rate_limit(limiter.clone()).unwrap()),
            limiter,
            contracts,
            began: Instant::now(),
        }
    }

    pub async fn send(&self, call: &Call) -> Answer {
        let response = self.app.clone().oneshot(call.request()).await.unwrap();
        Answer::of(response).await
    }

    /// Sends `times` calls, all of which pass.
    pub async fn spend(&self, call: &Call, times: u64) {
        for nth in 1..=times {
            let answer = self.send(call).await;
            assert_ne!(answer.status, 429, "call {nth} of {times}: {call:?}");
        }
    }

    /// Unix time on the test's clock.
    pub fn now(&self) -> Duration {
        Duration::from_secs(START) + self.began.elapsed()
    }

    /// Unix time of the window's end, for what is sent now.
    pub fn after(&self, window: u64) -> u64 {
        assert_eq!(self.now().subsec_nanos(), 0, "tests count in whole seconds");
        self.now().as_secs() + window
    }

    /// Asserts that `limit` calls and not one more pass in `window`: `served` is what they get,
    /// to which the headers are added here. The key has used nothing yet.
    pub async fn assert_limit(&self, call: &Call, served: &Answer, limit: u64, window: u64) {
        let reset = self.after(window);
        for used in 1..=limit {
            let passed = served.clone().quota(limit, limit - used, reset);
            assert_eq!(self.send(call).await, passed, "call {used} of {limit}: {call:?}");
        }
        assert_eq!(self.send(call).await, refused(limit, reset, window), "{call:?}");
        advance(Duration::from_secs(window) - Duration::from_nanos(1)).await;
        assert_eq!(self.send(call).await, refused(limit, reset, 1), "too early: {call:?}");
        advance(Duration::from_nanos(1)).await;
        let passed = served.clone().quota(limit, limit - 1, reset + window);
        assert_eq!(self.send(call).await, passed, "exactly at Retry-After: {call:?}");
    }
}

#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    path: String,
    from: Option<IpAddr>,
    credential: Option<HeaderValue>,
    content_type: Option<&'static str>,
    payload: Payload,
}

#[derive(Clone, Debug)]
enum Payload {
    Whole(Bytes),
    /// Without a `content-length`; `None` is where the connection breaks.
    Chunks(VecDeque<Option<Bytes>>),
}

pub fn get(path: &str) -> Call {
    call(Method::GET, path)
}

pub fn post(path: &str) -> Call {
    call(Method::POST, path)
}

pub fn call(method: Method, path: &str) -> Call {
    Call {
        method,
        path: path.to_owned(),
        from: HOME.parse().ok(),
        credential: None,
        content_type: None,
        payload: Payload::Whole(Bytes::new()),
    }
}

impl Call {
    pub fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().unwrap());
        self
    }

    pub fn without_address(mut self) -> Self {
        self.from = None;
        self
    }

    /// With this in the header `Authorization`.
    pub fn with(self, credential: impl AsRef<[u8]>) -> Self {
        self.maybe_with(Some(credential))
    }

    pub fn maybe_with(mut self, credential: Option<impl AsRef<[u8]>>) -> Self {
        self.credential = credential.map(|bytes| HeaderValue::from_bytes(bytes.as_ref()).unwrap());
        self
    }

    pub fn json(self, document: &Value) -> Self {
        self.body("application/json", document.to_string())
    }

    pub fn form(self, document: &'static str) -> Self {
        self.body("application/x-www-form-urlencoded", document)
    }

    pub fn body(mut self, content_type: &'static str, document: impl Into<Bytes>) -> Self {
        self.content_type = Some(content_type);
        self.payload = Payload::Whole(document.into());
        self
    }

    /// A JSON body that comes in pieces.
    pub fn chunks(mut self, chunks: impl IntoIterator<Item = Option<Bytes>>) -> Self {
        self.content_type = Some("application/json");
        self.payload = Payload::Chunks(chunks.into_iter().collect());
        self
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        if let Some(address) = self.from {
            request = request.extension(PeerAddr(SocketAddr::new(address, 50_000)));
        }
        if let Some(credential) = &self.credential {
            request = request.header("authorization", credential);
        }
        if let Some(content_type) = self.content_type {
            request = request.header("content-type", content_type);
        }
        request.body(self.payload.clone().into()).unwrap()
    }
}

impl From<Payload> for Body {
    fn from(payload: Payload) -> Self {
        match payload {
            Payload::Whole(document) => document.into(),
            Payload::Chunks(chunks) => Body::new(Chunks(chunks)),
        }
    }
}

struct Chunks(VecDeque<Option<Bytes>>);

impl http_body::Body for Chunks {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let next = self.0.pop_front();
        Poll::Ready(next.map(|chunk| match chunk {
            Some(chunk) => Ok(Frame::data(chunk)),
            None => Err(io::ErrorKind::ConnectionReset.into()),
        }))
    }
}

pub fn ok() -> Answer {
    answer(200, json!({ "ok": true }))
}

pub fn users() -> Answer {
    answer(200, json!({ "users": [{ "id": "usr_1", "name": "First User" }], "next": null }))
}

pub fn created() -> Answer {
    answer(201, json!({ "id": "usr_2" }))
}

pub fn bulk_done() -> Answer {
    answer(200, json!({ "results": [] }))
}

pub fn queued() -> Answer {
    answer(202, json!({ "queued": true }))
}

pub fn preview(template: &str) -> Answer {
    answer(200, json!({ "template": template, "html": "<p>Hello</p>" }))
}

pub fn unauthorized() -> Answer {
    let message = "Send `Authorization: Bearer sk_live_…`.";
    answer(401, json!({ "error": "unauthorized", "message": message }))
}

pub fn not_found() -> Answer {
    answer(404, json!({ "error": "not_found", "message": "There is nothing here." }))
}

/// The page's 429, with the same number in header, message and field.
pub fn refused(limit: u64, reset: u64, retry_after: u64) -> Answer {
    let body = json!({
        "error": "rate_limit_exceeded",
        "message": format!("Rate limit exceeded. Retry after {retry_after} seconds."),
        "retry_after": retry_after,
    });
    answer(429, body)
        .quota(limit, 0, reset)
        .header("retry-after", &retry_after.to_string())
        .header("cache-control", "no-store")
}
