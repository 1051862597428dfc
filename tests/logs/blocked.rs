//! A blocked key as its caller, metrics and events show it.
#![cfg(all(feature = "axum", feature = "usage", feature = "metrics", feature = "tracing"))]

use std::time::{Duration, UNIX_EPOCH};

use axum::{Router, body::Body, http::Request, routing::get};
use metrics_util::debugging::{DebugValue, DebuggingRecorder};
use serde_json::json;
use tower::ServiceExt;
use tower_quota::{
    Category, Clock, HeaderStyle, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{Caller, bearer},
    response::Problem,
    usage::{MemoryLog, OperatorPage, RequestLog},
};

use common::Answer;

use crate::log;

const KEY: &str = "sk_live_000000000000000000001111";

fn app() -> Router {
    let reads = Policy::sliding_window("read", Quota::per_hour(4)).key(bearer()).or_refuse();
    let caller = Caller::new(bearer());
    let limiter = Limiter::builder()
        .caller(caller.clone())
        .clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_413_600)))
        .category(Category::new("reads").on(Matcher::get("/read")).policy(reads))
        .build()
        .unwrap();
    let log = RequestLog::builder(caller).sink(MemoryLog::new()).remember_keys(2).build().unwrap();
    let operator = OperatorPage::builder(limiter.clone(), log.clone())
        .guard(|_| Some("nora".to_owned()))
        .build()
        .unwrap();
    let layer = RateLimitLayer::builder(limiter)
        .observe(log)
        .headers([HeaderStyle::ratelimit_lists(), HeaderStyle::x_ratelimit()])
        .on_rejection(Problem::quota_exceeded().renderer());
    Router::new()
        .route("/read", get(|| async {}))
        .layer(layer.build().unwrap())
        .nest("/operator", operator.router())
}

async fn send(app: &Router, request: Request<Body>) -> Answer {
    Answer::of(app.clone().oneshot(request).await.unwrap()).await
}

async fn read(app: &Router, path: &str) -> Answer {
    let request = Request::get(path).header("authorization", format!("Bearer {KEY}"));
    send(app, request.body(Body::empty()).unwrap()).await
}

/// Blocks the only key for ten minutes.
async fn block(app: &Router) {
    let overview = Request::get("/operator").body(Body::empty()).unwrap();
    let overview = send(app, overview).await.body;
    let fingerprint = overview["busiest"][0]["fingerprint"].as_str().unwrap().to_owned();
    let change = Request::post(format!("/operator/keys/{fingerprint}"))
        .header("content-type", "application/json")
        .body(Body::from(json!({ "action": "block", "seconds": 600 }).to_string()));
    assert_eq!(send(app, change.unwrap()).await.status, 200);
}

/// What is logged during `story`, on a paused clock.
fn events(story: impl AsyncFnOnce()) -> String {
    log::keep();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    log::take();
    runtime.block_on(story());
    log::take().concat()
}

/// In the drafts' words (draft-ietf-httpapi-ratelimit-headers-11, section 5.3).
#[test]
fn its_caller_gets_a_429_that_says_what_it_is_and_how_long_it_lasts() {
    events(async || {
        let app = app();
        assert_eq!(read(&app, "/read").await.status, 200);
        block(&app).await;
        let refused = read(&app, "/read").await;
        assert_eq!(refused.status, 429);
        let header = |name: &str| refused.headers[name].as_str();
        assert_eq!(header("retry-after"), "600");
        // No policy decides, so there are no numbers of one.
        let names: Vec<_> = refused.headers.keys().filter(|name| name.contains("limit")).collect();
        assert!(names.is_empty(), "{names:?}");
        let expected = json!({
            "type": "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            "title": "Abnormal usage detected",
            "status": 429,
            "detail": "The key is blocked. Retry after 600 seconds.",
        });
        assert_eq!(refused.body, expected);
    });
}

#[test]
fn it_is_counted_by_category_and_logged_as_refused() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let text = metrics::with_local_recorder(&recorder, || {
        events(async || {
            let app = app();
            read(&app, "/read").await;
            block(&app).await;
            for path in ["/read", "/read", "/elsewhere"] {
                assert_eq!(read(&app, path).await.status, 429);
            }
            // What may be that key cannot be read.
            let twice = Request::get("/read").header("authorization", "Bearer a");
            let twice = twice.header("authorization", "Bearer b").body(Body::empty());
            assert_eq!(send(&app, twice.unwrap()).await.status, 400);
        })
    });
    let mut counted = Vec::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let labels: Vec<_> = key.key().labels().map(metrics::Label::value).collect();
        if let (DebugValue::Counter(count @ 1..), Some(&"")) = (value, labels.first()) {
            counted.push((labels.join(" "), count));
        }
    }
    counted.sort();
    let expected = [
        ("  blocked".to_owned(), 1),
        (" reads blocked".to_owned(), 2),
        (" reads unreadable_key".to_owned(), 1),
    ];
    assert_eq!(counted, expected);
    let refused: Vec<_> = text.lines().filter(|line| line.contains("was refused")).collect();
    assert_eq!(refused.len(), 4, "{text}");
    assert!(refused[0].contains(r#"category="reads" reason=Blocked retry_after=600s"#), "{text}");
    assert!(!text.contains(KEY));
}
