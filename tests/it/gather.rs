//! The Gather example, line by line of its rate-limit page.
//!
//! These tests run the example's own router on a clock that they move.
#![cfg(all(feature = "axum", feature = "describe", feature = "testing", feature = "tracing"))]

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{Request, request},
};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};
use tower::ServiceExt;
use tower_quota::{Clock, key::PeerAddr, testing::TestClient};
use uuid::Uuid;

use common::{Answer, answer};

use super::examples::gather;

/// 2024-01-01 00:00 UTC, as on the page.
const START: u64 = 1_704_067_200;
const MINUTE: u64 = 60;
const HOUR: u64 = 3_600;
const QUESTIONS: &str = "/qsi/gather/questions";

/// The example's API on a clock of its own.
struct Api {
    app: Router,
    began: Instant,
}

impl Api {
    fn new() -> Self {
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(START));
        Self { app: gather::app(gather::rate_limit(clock).unwrap()), began: Instant::now() }
    }

    /// Asks for the questions, with the key `mine`.
    async fn ask(&self) -> Answer {
        self.send(ask()).await
    }

    async fn send(&self, request: request::Builder) -> Answer {
        self.send_from("192.0.2.1", request).await
    }

    async fn send_from(&self, ip: &str, request: request::Builder) -> Answer {
        let peer = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 50_000);
        self.send_as_it_is(request.extension(PeerAddr(peer))).await
    }

    /// Replaces the response's UUID by the page's, and asserts that the response has the time.
    async fn send_as_it_is(&self, request: request::Builder) -> Answer {
        self.send_with(request, Body::empty()).await
    }

    async fn send_with(&self, request: request::Builder, body: Body) -> Answer {
        let request = request.body(body).unwrap();
        let mut answer = Answer::of(self.app.clone().oneshot(request).await.unwrap()).await;
        if answer.body != Value::Null {
            let meta = answer.body["meta"].take();
            let id: Uuid = meta["requestId"].as_str().unwrap().parse().unwrap();
            assert_eq!(id.get_version_num(), 4);
            let timestamp = moment(self.now().as_secs());
            assert_eq!(meta, json!({ "requestId": id.to_string(), "timestamp": timestamp }));
            answer.body["meta"] = json!("as it should be");
        }
        answer
    }

    /// Spends `times` requests, all of which pass.
    async fn spend(&self, times: u64) {
        for nth in 1..=times {
            assert_eq!(self.ask().await.status, 200, "request {nth} of {times}");
        }
    }

    /// Spends the hour's quota, a hundred a minute; ends as the last minute does.
    async fn spend_the_hour(&self) {
        for _ in 0..10 {
            self.spend(100).await;
            pass(MINUTE).await;
        }
    }

    fn now(&self) -> Duration {
        Duration::from_secs(START) + self.began.elapsed()
    }
}

/// Sends to the example's API on this clock, for the tests that only count.
fn client(clock: &Clock) -> TestClient {
    TestClient::of(gather::app(gather::rate_limit(clock.clone()).unwrap()))
}

/// Asks for the questions, with the key `mine`.
fn ask() -> request::Builder {
    Request::get(QUESTIONS).header("x-api-key", "mine")
}

async fn pass(seconds: u64) {
    advance(Duration::from_secs(seconds)).await;
}

fn moment(unix_seconds: u64) -> String {
    jiff::Timestamp::from_second(unix_seconds as i64).unwrap().to_string()
}

fn told(status: u16, content: &str, value: Value) -> Answer {
    answer(status, json!({ content: value, "meta": "as it should be" }))
}

fn questions() -> Answer {
    told(200, "data", json!([{ "id": "que_1", "text": "Why this role?" }]))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    told(status, "error", json!({ "code": code, "message": message }))
}

fn unauthorized() -> Answer {
    error(401, "UNAUTHORIZED", "Send `x-api-key`.")
}

fn refused(limit: u64, reset: u64) -> Answer {
    let error = json!({
        "code": "RATE_LIMIT_EXCEEDED",
        "message": "Rate limit exceeded. Please try again later.",
        "details": { "limit": limit, "remaining": 0, "resetAt": moment(reset) },
    });
    told(429, "error", error).quota(limit, 0, reset).header("cache-control", "no-store")
}

// --- Both windows ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_key_has_a_hundred_requests_in_a_minute_and_not_one_more() {
    let api = Api::new();
    for remaining in (900..1_000).rev() {
        assert_eq!(api.ask().await, questions().quota(1_000, remaining, START + HOUR));
    }
    assert_eq!(api.ask().await, refused(100, START + MINUTE));
    advance(Duration::from_secs(MINUTE) - Duration::from_nanos(1)).await;
    assert_eq!(api.ask().await, refused(100, START + MINUTE));
    advance(Duration::from_nanos(1)).await;
    assert_eq!(api.ask().await, questions().quota(1_000, 899, START + HOUR));
}

#[tokio::test(start_paused = true)]
async fn a_key_has_a_thousand_requests_in_an_hour_and_not_one_more() {
    let api = Api::new();
    api.spend_the_hour().await;
    assert_eq!(api.ask().await, refused(1_000, START + HOUR));
    advance(Duration::from_secs(50 * MINUTE) - Duration::from_nanos(1)).await;
    assert_eq!(api.ask().await, refused(1_000, START + HOUR));
    advance(Duration::from_nanos(1)).await;
    // The first hundred are back; the next are, a minute later.
    for remaining in (0..100).rev() {
        assert_eq!(api.ask().await, questions().quota(1_000, remaining, START + HOUR + MINUTE));
    }
    let both = api.ask().await;
    assert_eq!(both, refused(100, START + HOUR + MINUTE), "the minute ends at the same time");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reads_as_on_the_page() {
    let api = Api::new();
    api.spend_the_hour().await;
    let request = Request::get(QUESTIONS).header("x-api-key", "mine").body(Body::empty());
    let response = api.app.clone().oneshot(request.unwrap()).await.unwrap();
    let mut body = Answer::of(response).await.body;
    body["meta"]["requestId"] = json!("uuid");
    let expected = json!({
        "error": {
            "code": "RATE_LIMIT_EXCEEDED",
            "message": "Rate limit exceeded. Please try again later.",
            "details": { "limit": 1000, "remaining": 0, "resetAt": "2024-01-01T01:00:00Z" },
        },
        "meta": { "requestId": "uuid", "timestamp": "2024-01-01T00:10:00Z" },
    });
    assert_eq!(body, expected);
}

#[tokio::test(start_paused = true)]
async fn of_two_windows_that_refuse_the_one_with_the_longer_wait_speaks() {
    let api = Api::new();
    for _ in 0..9 {
        api.spend(100).await;
        pass(MINUTE).await;
    }
    api.spend(100).await;
    assert_eq!(api.ask().await, refused(1_000, START + HOUR));
}

#[test]
fn what_the_minute_refuses_costs_the_hour_nothing() {
    client(&Clock::manual())
        .send(500, ask())
        .expect_admitted(100)
        .advance(Duration::from_secs(MINUTE))
        .send(1, ask())
        .expect_header("x-ratelimit-remaining", "899");
}

#[test]
fn what_the_hour_refuses_costs_the_minute_nothing() {
    let mut client = client(&Clock::manual());
    for _ in 0..10 {
        client.send(100, ask()).expect_admitted(100).advance(Duration::from_secs(MINUTE));
    }
    client.advance(Duration::from_secs(50 * MINUTE - 1));
    client.send(400, ask()).expect_refused(400).expect_header("x-ratelimit-limit", "1000");
    client.advance(Duration::from_secs(1)).send(101, ask()).expect_admitted(100);
}

#[tokio::test(start_paused = true)]
async fn no_minute_and_no_hour_holds_more_than_its_quota_however_greedy_the_caller() {
    let api = Api::new();
    let mut passed = Vec::new();
    let step = Duration::from_millis(370);
    while api.began.elapsed() < Duration::from_secs(70 * MINUTE) {
        if api.ask().await.status == 200 {
            passed.push(api.began.elapsed());
        }
        advance(step).await;
    }
    for (quota, window) in [(100, MINUTE), (1_000, HOUR)] {
        for (first, one_too_many) in passed.iter().zip(&passed[quota..]) {
            let between = *one_too_many - *first;
            assert!(between >= Duration::from_secs(window), "{} within {between:?}", quota + 1);
        }
    }
    let first_hour = passed.iter().filter(|at| at.as_secs() < HOUR).count();
    assert_eq!(first_hour, 1_000, "and the quota can be used");
    assert!(passed.len() > 1_500, "again and again: {}", passed.len());
}

#[test]
fn the_edge_of_a_clocks_minute_is_none_of_the_window() {
    let clock = Clock::manual();
    clock.advance(Duration::from_secs(59));
    client(&clock)
        .send(100, ask())
        .expect_admitted(100)
        .advance(Duration::from_secs(1))
        .send(1, ask())
        .expect_refused(1)
        .expect_header("x-ratelimit-reset", &(START + 59 + MINUTE).to_string());
}

// --- Who and what ----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_quota_wherever_it_is_used() {
    let api = Api::new();
    api.spend(100).await;
    let other = Request::get(QUESTIONS).header("x-api-key", "other");
    assert_eq!(api.send(other).await, questions().quota(1_000, 999, START + HOUR));
    let mine = Request::get(QUESTIONS).header("x-api-key", "mine");
    assert_eq!(api.send_from("198.51.100.7", mine).await, refused(100, START + MINUTE));
    let none = Request::get(QUESTIONS);
    assert_eq!(api.send(none).await, unauthorized().quota(1_000, 999, START + HOUR));
}

#[tokio::test(start_paused = true)]
async fn every_response_tells_the_quota_which_all_requests_of_a_key_share() {
    let api = Api::new();
    let with_key = |request: request::Builder| request.header("x-api-key", "mine");
    let answered = told(201, "data", json!({ "id": "ans_1" }));
    let not_found = error(404, "NOT_FOUND", "There is nothing here.");
    let not_so = error(405, "METHOD_NOT_ALLOWED", "Not with this method.");
    for (remaining, request, expected) in [
        (999, Request::get(QUESTIONS), questions()),
        (998, Request::post("/qsi/gather/answers"), answered),
        (997, Request::get("/qsi/gather/nothing"), not_found.clone()),
        (996, Request::delete(QUESTIONS), not_so.clone().header("allow", "GET,HEAD")),
        (995, Request::get("/qsi/gather/answers"), not_so.header("allow", "POST")),
        (994, Request::head(QUESTIONS), Answer { body: Value::Null, ..questions() }),
    ] {
        let answer = api.send(with_key(request)).await;
        assert_eq!(answer, expected.quota(1_000, remaining, START + HOUR));
    }
    let without_key = api.send(Request::get("/nothing")).await;
    assert_eq!(without_key, not_found.quota(1_000, 999, START + HOUR));
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_read_and_a_broken_one_is_a_400() {
    let api = Api::new();
    let created = told(201, "data", json!({ "id": "ans_1" }));
    let broken = error(400, "BAD_REQUEST", "The body is not a JSON object.");
    for (remaining, sent, expected) in [
        (999, r#"{"questionId":"que_1","text":"To learn."}"#, created),
        (998, r#"{"questionId":"que_1","#, broken.clone()),
        (997, "[]", broken.clone()),
        (996, "questionId=que_1", broken),
    ] {
        let request = Request::post("/qsi/gather/answers").header("x-api-key", "mine");
        let answer = api.send_with(request, sent.into()).await;
        assert_eq!(answer, expected.quota(1_000, remaining, START + HOUR), "{sent}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_is_a_401_and_limited_per_address() {
    let api = Api::new();
    for remaining in (901..1_000).rev() {
        let expected = unauthorized().quota(1_000, remaining, START + HOUR);
        assert_eq!(api.send(Request::get(QUESTIONS)).await, expected);
    }
    let empty = Request::get(QUESTIONS).header("x-api-key", " ");
    assert_eq!(api.send(empty).await, unauthorized().quota(1_000, 900, START + HOUR));
    assert_eq!(api.send(Request::get(QUESTIONS)).await, refused(100, START + MINUTE));
    let elsewhere = api.send_from("198.51.100.7", Request::get(QUESTIONS)).await;
    assert_eq!(elsewhere, unauthorized().quota(1_000, 999, START + HOUR));
    assert_eq!(api.ask().await, questions().quota(1_000, 999, START + HOUR), "a key passes");
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_key_and_address_is_told_so() {
    let expected = error(400, "BAD_REQUEST", "The caller has neither key nor address.");
    let told = Api::new().send_as_it_is(Request::get(QUESTIONS)).await;
    assert_eq!(told, expected.header("cache-control", "no-store"));
}

#[tokio::test(start_paused = true)]
async fn each_response_has_an_id_of_its_own_whatever_the_caller_sends() {
    let api = Api::new();
    let mut ids = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let request =
            Request::get(QUESTIONS).header("x-api-key", "mine").header("x-request-id", "a");
        let response = api.app.clone().oneshot(request.body(Body::empty()).unwrap()).await.unwrap();
        ids.insert(Answer::of(response).await.body["meta"]["requestId"].to_string());
    }
    assert_eq!(ids.len(), 200);
}

// --- The page's callers ----------------------------------------------------------------------

/// The page's `makeRequestWithRetry`; also how often it tried.
async fn make_request_with_retry(api: &Api, max_retries: u32) -> (Answer, u32) {
    let mut tries = 1;
    loop {
        let response = api.ask().await;
        if response.status != 429 || tries == max_retries {
            return (response, tries);
        }
        let reset = Duration::from_secs(response.number("x-ratelimit-reset", 0));
        let date_now = Duration::from_millis(api.now().as_millis() as u64);
        advance(reset.saturating_sub(date_now)).await;
        tries += 1;
    }
}

#[tokio::test(start_paused = true)]
async fn make_request_with_retry_waits_until_the_reset_and_passes_at_once() {
    // Also when a part of a second or of a millisecond is left of the wait.
    for early in [0, 1, 400_000, 999_999, 1_000_000, 700_000_000, 999_999_999] {
        for (limit, left) in [(100, 899), (1_000, 99)] {
            let api = Api::new();
            advance(Duration::from_nanos(early)).await;
            match limit {
                100 => api.spend(100).await,
                _ => api.spend_the_hour().await,
            }
            let (refusal, _) = make_request_with_retry(&api, 1).await;
            let reset = refusal.number("x-ratelimit-reset", 0);
            assert_eq!(refusal, refused(limit, reset), "header and body tell the same moment");
            let (served, tries) = make_request_with_retry(&api, 3).await;
            let left_now = served.number("x-ratelimit-remaining", 0);
            assert_eq!((served.status, tries, left_now), (200, 2, left), "{early} ns");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_usage_monitor_reads_what_is_used_of_the_hour() {
    let api = Api::new();
    api.spend(4).await;
    let response = api.ask().await;
    assert_eq!(response, questions().quota(1_000, 995, START + HOUR), "as on the page");
    let (limit, remaining) =
        (response.number("x-ratelimit-limit", 0), response.number("x-ratelimit-remaining", 0));
    assert_eq!(
        format!("Used {} of {limit} requests", limit - remaining),
        "Used 5 of 1000 requests"
    );
}
