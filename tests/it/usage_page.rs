//! The usage page: who may see it, what it shows, and what it costs.
#![cfg(all(feature = "axum", feature = "usage"))]

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderName, Request, header::AUTHORIZATION},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::time::{advance, sleep};
use tower::ServiceExt;
use tower_quota::{
    Category, Clock, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{Caller, Fingerprint, bearer, header, path_param},
    usage::{
        Entry, KeySum, MemoryLog, OperatorPage, Page, ReadError, Reader, RequestLog, Sink, Sum,
        UsagePage,
    },
};

use common::Answer;

/// 2024-01-16 13:00 UTC.
const START: u64 = 1_705_410_000;
const MINE: &str = "sk_live_0000000000000000mine1111";
const OTHER: &str = "sk_live_0000000000000000othe2222";

fn log() -> RequestLog {
    RequestLog::builder(bearer()).sink(MemoryLog::new()).build().unwrap()
}

fn limiter() -> Limiter {
    let reads = Policy::token_bucket("read", Quota::per_minute(60).burst(10));
    let reads = reads.key(bearer()).or_refuse();
    let writes = Policy::sliding_window("write", Quota::per_hour(100)).cost(|_| 30);
    let all = Policy::fixed_window("all", Quota::per_day(1_000)).key(bearer()).or_refuse();
    let tried = Policy::fixed_window("tried", Quota::per_day(1)).key(bearer()).or_skip();
    let tenant = Policy::fixed_window("tenant", Quota::per_day(1_000));
    Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(START)))
        .policy(all.clone())
        .policy(tried.dry_run())
        .policy(Policy::fixed_window("everybody", Quota::per_day(1_000)).global())
        .category(
            Category::new("reads")
                .on(Matcher::get("/things/{*rest}"))
                .policy(reads.clone())
                .policy(tenant.key(path_param("/things/{tenant}", "tenant")).or_skip()),
        )
        .category(Category::new("more reads").on(Matcher::get("/others")).policy(reads))
        .category(
            Category::new("writes")
                .on(Matcher::post("/things"))
                .policy(writes.key(bearer()).or_refuse()),
        )
        .category(
            Category::new("unlimited")
                .on(Matcher::get("/free"))
                .policy(Policy::fixed_window("free", Quota::unlimited()).key(bearer()).or_refuse()),
        )
        .build()
        .unwrap()
}

/// An API with a usage page.
fn app() -> Router {
    let (limiter, log) = (limiter(), log());
    let usage = UsagePage::builder(limiter.clone(), log.clone());
    let slow = get(async || sleep(Duration::from_millis(40)).await);
    Router::new()
        .route("/things/{id}", slow)
        .route("/things", post(async || sleep(Duration::from_millis(100)).await))
        .layer(RateLimitLayer::builder(limiter).observe(log).build().unwrap())
        .nest("/usage", usage.ask_for_key(AUTHORIZATION, "Bearer ").build().unwrap().router())
}

async fn send(app: &Router, method: &str, uri: &str, key: Option<&str>) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    Answer::of(app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()).await
}

async fn usage(app: &Router, path: &str) -> Value {
    let answer = send(app, "GET", &format!("/usage{path}"), Some(MINE)).await;
    assert_eq!(answer.status, 200);
    answer.body
}

#[tokio::test(start_paused = true)]
async fn the_page_shows_what_is_left_of_each_quota_and_charges_nothing() {
    let app = app();
    for _ in 0..3 {
        send(&app, "GET", "/things/7", Some(MINE)).await;
    }
    send(&app, "POST", "/things", Some(MINE)).await;
    send(&app, "POST", "/things", Some(OTHER)).await;
    let mut shown = Vec::new();
    for _ in 0..5 {
        shown.push(usage(&app, "").await["quotas"].take());
    }
    let quota = |policy, algorithm, limit, remaining, reset: f64, units, window: f64| {
        json!({
            "policy": policy, "counted_by": "bearer token", "algorithm": algorithm,
            "limit": limit, "used": limit - remaining, "remaining": remaining,
            "reset_seconds": reset, "units": units, "window_seconds": window,
        })
    };
    let expected = json!([
        // 0.32 s after the start.
        quota("all", "fixed_window", 1_000, 996, 86_400.0 - 46_800.0 - 0.32, 1_000, 86_400.0),
        quota("read", "token_bucket", 10, 7, 0.68, 60, 60.0),
        quota("write", "sliding_window", 100, 70, 3_599.8, 100, 3_600.0),
    ]);
    assert_eq!(shown[0], expected);
    assert!(shown.iter().all(|again| *again == expected), "looking costs nothing");
}

#[tokio::test(start_paused = true)]
async fn the_page_sums_up_minutes_and_endpoints() {
    let app = app();
    for _ in 0..12 {
        send(&app, "GET", "/things/7", Some(MINE)).await;
    }
    advance(Duration::from_secs(120)).await;
    for _ in 0..5 {
        send(&app, "POST", "/things", Some(MINE)).await;
    }
    send(&app, "GET", "/nothing", Some(MINE)).await;
    send(&app, "GET", "/things/7", Some(OTHER)).await;
    let page = usage(&app, "").await;
    assert_eq!(page["key"], "sk_live_…1111");
    let minute = |minute: u64| START * 1_000 + minute * 60_000;
    let expected = json!([
        { "at": minute(0), "2xx": 10, "refused": 2 },
        { "at": minute(2), "2xx": 3, "4xx": 1, "refused": 2 },
    ]);
    assert_eq!(page["minutes"], expected);
    let reads = json!({
        "method": "GET", "endpoint": "/things/{id}", "requests": 12, "refused": 2,
        "mean_ms": 40.0, "longest_ms": 40.0,
    });
    let writes = json!({
        "method": "POST", "endpoint": "/things", "requests": 5, "refused": 2,
        "mean_ms": 100.0, "longest_ms": 100.0,
    });
    assert_eq!(page["slowest"], json!([writes, reads]));
    assert_eq!(page["most_refused"].as_array().unwrap().len(), 2);

    advance(Duration::from_secs(3_600)).await;
    assert_eq!(usage(&app, "").await["minutes"], json!([]));
    assert_eq!(usage(&app, "?span=day").await["minutes"], expected);
}

#[tokio::test(start_paused = true)]
async fn the_log_is_paged_and_is_the_callers_own() {
    let app = app();
    for _ in 0..8 {
        send(&app, "GET", "/things/7", Some(MINE)).await;
        send(&app, "GET", "/things/7", Some(OTHER)).await;
        send(&app, "GET", "/things/7", None).await;
    }
    send(&app, "POST", "/things", Some(MINE)).await;
    let latest = usage(&app, "").await["log"].take();
    assert_eq!(latest["entries"].as_array().unwrap().len(), 9);
    let newest = json!({
        "at": START * 1_000 + 640, "method": "POST", "endpoint": "/things", "status": 200,
        "response_ms": 100.0, "policy": "write", "verdict": "allowed", "refused": false,
        "units": 30, "held_ms": 0.0,
    });
    assert_eq!(latest["entries"][0], newest);

    let (mut path, mut paged) = ("/log?limit=4".to_owned(), Vec::new());
    for _ in 0..3 {
        let page = usage(&app, &path).await;
        paged.extend(page["entries"].as_array().unwrap().clone());
        path = format!("/log?limit=4&before={}", page["next"]);
    }
    assert!(path.ends_with("before=null"));
    assert_eq!(Value::from(paged), latest["entries"]);
    for path in ["/log?key=othe2222", "/log?before=3", "/log?before=99999&limit=100"] {
        for entry in usage(&app, path).await["entries"].as_array().unwrap() {
            assert!(latest["entries"].as_array().unwrap().contains(entry), "{path}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_answer_forbids_what_the_page_does_not_need() {
    let app = app();
    for (path, kind) in [
        ("/usage", "application/json"),
        ("/usage/log", "application/json"),
        ("/usage/log?limit=0", "application/problem+json"),
        ("/usage?style.css", "text/css; charset=utf-8"),
        ("/usage?script.js", "text/javascript; charset=utf-8"),
    ] {
        let answer = send(&app, "GET", path, Some(MINE)).await;
        assert_eq!(answer.headers["content-type"], kind, "{path}");
        let policy = &answer.headers["content-security-policy"];
        assert!(policy.contains("default-src 'none'; script-src 'self'; style-src 'self'"));
        assert!(!policy.contains("unsafe") && !policy.contains("http"));
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["vary"], "accept");
    }
    for (path, method) in [("/usage", "POST"), ("/usage/log", "DELETE")] {
        assert_eq!(send(&app, method, path, Some(MINE)).await.status, 405);
    }
}

#[tokio::test(start_paused = true)]
async fn nonsense_is_a_400_that_says_what_to_write() {
    let app = app();
    for path in [
        "?span=year",
        "?span=",
        "/log?limit=0",
        "/log?limit=101",
        "/log?limit=-1",
        "/log?limit=",
        "/log?before=x",
        "/log?before=99999999999999999999",
    ] {
        let answer = send(&app, "GET", &format!("/usage{path}"), Some(MINE)).await;
        assert_eq!(answer.status, 400, "{path}");
        assert!(answer.body["detail"].as_str().unwrap().contains('`'), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_key_there_is_nothing_to_see() {
    let app = app();
    for path in ["", "/log", "?span=day"] {
        let answer = send(&app, "GET", &format!("/usage{path}"), None).await;
        assert_eq!((answer.status, &*answer.headers["www-authenticate"]), (401, "Bearer"));
        let (header, prefix) = (&answer.body["header"], &answer.body["prefix"]);
        assert_eq!((header, prefix), (&json!("authorization"), &json!("Bearer ")));
    }
    let page = UsagePage::builder(limiter(), log());
    let api_key = || HeaderName::from_static("x-api-key");
    // Of these headers, only `Authorization` with a scheme has a challenge for a 401.
    for (page, header) in [
        (page.clone(), Value::Null),
        (page.clone().ask_for_key(api_key(), ""), json!("x-api-key")),
        (page.clone().ask_for_key(api_key(), "Key "), json!("x-api-key")),
        (page.ask_for_key(AUTHORIZATION, ""), json!("authorization")),
    ] {
        let answer = send(&page.build().unwrap().router(), "GET", "/", None).await;
        assert_eq!((answer.status, &answer.body["header"]), (403, &header));
        assert_eq!(answer.headers.get("www-authenticate"), None);
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_log_is_a_503_that_discloses_no_reason() {
    #[derive(Clone, Copy)]
    struct Broken;
    impl Sink for Broken {
        fn record(&self, _: &Entry) {}

        fn reader(&self) -> Option<Arc<dyn Reader>> {
            Some(Arc::new(*self))
        }
    }
    impl Reader for Broken {
        fn entries(&self, _: Fingerprint, _: Option<u64>, _: usize) -> Result<Page, ReadError> {
            Err(ReadError::new("disk 7 is gone"))
        }

        fn sums(&self, _: Fingerprint, _: Duration) -> Result<Vec<Sum>, ReadError> {
            panic!("disk 7 is gone")
        }

        fn keys(&self, _: Duration) -> Result<Vec<KeySum>, ReadError> {
            Err(ReadError::new("disk 7 is gone"))
        }
    }
    let caller = Caller::new(bearer());
    let log = RequestLog::builder(caller.clone()).sink(Broken).remember_keys(7).build().unwrap();
    let limited = Limiter::builder().caller(caller).build().unwrap();
    let operator = OperatorPage::builder(limited, log.clone()).guard(|_| Some("nora".into()));
    let app = UsagePage::builder(limiter(), log).build().unwrap().router();
    let app = app.nest("/operator", operator.build().unwrap().router());
    for path in ["/", "/log", "/operator"] {
        let answer = send(&app, "GET", path, Some(MINE)).await;
        assert_eq!((answer.status, &answer.body["status"]), (503, &json!(503)));
        assert!(!answer.body.to_string().contains("disk"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_by_a_key_that_the_request_lacks_is_left_out() {
    let policy =
        Policy::fixed_window("by header", Quota::per_day(5)).key(header("x-key")).or_skip();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let app = UsagePage::builder(limiter, log()).build().unwrap().router();
    let page = send(&app, "GET", "/", Some(MINE)).await.body;
    assert_eq!(page["quotas"], json!([]));
}

#[test]
fn settings_that_cannot_work_fail() {
    struct Unread;
    impl Sink for Unread {
        fn record(&self, _: &Entry) {}
    }
    let caller = Caller::new(bearer());
    let unread = RequestLog::builder(caller.clone()).sink(Unread).remember_keys(7).build().unwrap();
    let limited = Limiter::builder().caller(caller).build().unwrap();
    let usage = UsagePage::builder(limiter(), unread.clone()).build();
    let operator = OperatorPage::builder(limited, unread).guard(|_| None).build();
    let remedy =
        "its log has no sink that can be read; add `.sink(MemoryLog::new())` to the `RequestLog`";
    assert_eq!(usage.unwrap_err().to_string(), format!("usage page: {remedy}"));
    assert_eq!(operator.unwrap_err().to_string(), format!("operator page: {remedy}"));
    let both = RequestLog::builder(bearer()).sink(Unread).sink(MemoryLog::new()).build().unwrap();
    assert!(UsagePage::builder(limiter(), both.clone()).build().is_ok(), "one can be read");
    let prefix =
        UsagePage::builder(limiter(), both).ask_for_key(AUTHORIZATION, "Bearer\n ").build();
    assert_eq!(
        prefix.unwrap_err().to_string(),
        "usage page: no header can have its key's prefix; write one like `Bearer `"
    );
}
