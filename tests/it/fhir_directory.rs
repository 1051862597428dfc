//! The FHIR Directory example, line by line of its rate-limit page.
//!
//! These tests run the example's own router on a paused clock.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing"))]

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, UNIX_EPOCH},
};

use axum::{
    Router,
    body::Body,
    http::{HeaderValue, Method, Request},
};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};
use tower::ServiceExt;
use tower_quota::{Clock, key::PeerAddr};

use common::Answer;

use super::examples::fhir_directory;

/// Unix time when each test begins, on a full minute.
const START: u64 = 1_705_399_200;
/// The end of the window in which each test begins.
const RESET: u64 = START + 60;

/// Two addresses.
const HOME: &str = "192.0.2.1";
const OFFICE: &str = "198.51.100.7";

const FREE: &str = "fd_free_acme";
const PRO: &str = "fd_pro_acme";

const SEARCH: &str = "/api/v1/endpoints?query=lakeside+clinic";

const FOR_ANONYMOUS: &str = "Rate limit exceeded. Authenticate with an API key for higher limits.";
const FOR_KEYED: &str = "Rate limit exceeded. Contact us for higher limits.";

// --- Calls -----------------------------------------------------------------------------------

/// The example's API on a clock of its own.
struct Api {
    app: Router,
    began: Instant,
}

impl Api {
    fn new() -> Self {
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(START));
        let rate_limit = fhir_directory::rate_limit(clock).unwrap();
        Self { app: fhir_directory::app(rate_limit), began: Instant::now() }
    }

    async fn send(&self, call: &Call) -> Answer {
        let response = self.app.clone().oneshot(call.request()).await.unwrap();
        Answer::of(response).await
    }

    /// Sends `times` calls, all of which pass.
    async fn spend(&self, call: &Call, times: u64) {
        for nth in 1..=times {
            let answer = self.send(call).await;
            assert_ne!(answer.status, 429, "call {nth} of {times}: {call:?}");
        }
    }

    /// Asserts that `limit` calls and not one more pass in this window and in the next.
    async fn assert_limit(&self, call: &Call, served: &Answer, limit: u64, message: &str) {
        for window in 0..2 {
            let reset = RESET + window * 60;
            for used in 1..=limit {
                let expected = served.clone().ratelimit(limit, limit - used, reset);
                assert_eq!(self.send(call).await, expected, "call {used} of {limit}: {call:?}");
            }
            assert_eq!(self.send(call).await, refused(message, limit, reset, 60), "{call:?}");
            advance(Duration::from_secs(60) - Duration::from_nanos(1)).await;
            assert_eq!(self.send(call).await, refused(message, limit, reset, 1), "too early");
            advance(Duration::from_nanos(1)).await;
        }
    }
}

#[derive(Clone, Debug)]
struct Call {
    method: Method,
    path: String,
    from: Option<IpAddr>,
    headers: Vec<(&'static str, HeaderValue)>,
}

fn call(method: Method, path: &str) -> Call {
    Call { method, path: path.to_owned(), from: HOME.parse().ok(), headers: Vec::new() }
}

fn get(path: &str) -> Call {
    call(Method::GET, path)
}

/// What a browser asks before a script on another origin may send these headers.
fn preflight(headers: &str) -> Call {
    call(Method::OPTIONS, SEARCH)
        .with("origin", "https://app.example")
        .with("access-control-request-method", "GET")
        .with("access-control-request-headers", headers)
}

impl Call {
    fn from(mut self, address: &str) -> Self {
        self.from = Some(address.parse().unwrap());
        self
    }

    fn without_address(mut self) -> Self {
        self.from = None;
        self
    }

    fn with(mut self, header: &'static str, value: impl AsRef<[u8]>) -> Self {
        self.headers.push((header, HeaderValue::from_bytes(value.as_ref()).unwrap()));
        self
    }

    fn key(self, key: impl AsRef<[u8]>) -> Self {
        self.with("x-api-key", key)
    }

    fn request(&self) -> Request<Body> {
        let mut request = Request::builder().method(&self.method).uri(&self.path);
        if let Some(address) = self.from {
            request = request.extension(PeerAddr(SocketAddr::new(address, 50_000)));
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Body::empty()).unwrap()
    }
}

// --- Answers ---------------------------------------------------------------------------------

/// With the headers by which scripts on any origin may read it.
fn bare(status: u16) -> Answer {
    Answer { status, headers: BTreeMap::new(), body: Value::Null }
        .header("access-control-allow-origin", "*")
}

fn response(status: u16) -> Answer {
    bare(status).header(
        "access-control-expose-headers",
        "ratelimit-limit,ratelimit-remaining,ratelimit-reset,retry-after",
    )
}

fn json_response(status: u16, body: Value) -> Answer {
    let response = response(status).header("content-type", "application/json");
    Answer { body, ..response }
}

fn endpoints(data: Value) -> Answer {
    json_response(200, json!({ "success": true, "data": data }))
}

/// What `SEARCH` finds.
fn found() -> Answer {
    endpoints(json!([
        { "id": "ep_053", "organizationName": "Lakeside Clinic", "vendorName": "Demo Charts" },
    ]))
}

fn error(status: u16, code: &str, message: &str) -> Answer {
    json_response(
        status,
        json!({ "success": false, "error": { "code": code, "message": message } }),
    )
}

fn unauthorized() -> Answer {
    let message = "Send an API key, `fd_<plan>_…`, in `X-Api-Key` or as a bearer token.";
    error(401, "UNAUTHORIZED", message)
}

fn not_found() -> Answer {
    error(404, "NOT_FOUND", "There is nothing here.")
}

/// The page's 429.
fn refused(message: &str, limit: u64, reset: u64, retry_after: u64) -> Answer {
    error(429, "TOO_MANY_REQUESTS", message)
        .ratelimit(limit, 0, reset)
        .header("retry-after", &retry_after.to_string())
        .header("cache-control", "no-store")
}

/// The ids of the endpoints that an answer lists.
fn ids_in(answer: &Answer) -> Vec<String> {
    let id = |endpoint: &Value| endpoint["id"].as_str().unwrap().to_owned();
    answer.body["data"].as_array().unwrap().iter().map(id).collect()
}

/// The ids of the directory's endpoints from the `first` to the `last`.
fn ids(first: usize, last: usize) -> Vec<String> {
    (first..=last).map(|nth| format!("ep_{nth:03}")).collect()
}

// --- Quotas ----------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_caller_without_a_key_has_sixty_calls_a_minute() {
    Api::new().assert_limit(&get(SEARCH), &found(), 60, FOR_ANONYMOUS).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_has_the_quota_of_its_plan() {
    for (key, limit) in [(FREE, 120), (PRO, 1_200)] {
        Api::new().assert_limit(&get(SEARCH).key(key), &found(), limit, FOR_KEYED).await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_address_and_each_key_has_a_quota_of_its_own() {
    let api = Api::new();
    api.spend(&get(SEARCH), 60).await;
    api.spend(&get(SEARCH).key(FREE), 120).await;
    for (call, limit) in [
        (get(SEARCH).from(OFFICE), 60),
        (get(SEARCH).key("fd_free_other"), 120),
        (get(SEARCH).key(PRO), 1_200),
    ] {
        assert_eq!(api.send(&call).await, found().ratelimit(limit, limit - 1, RESET), "{call:?}");
    }
    let elsewhere = get(SEARCH).key(FREE).from(OFFICE);
    assert_eq!(api.send(&elsewhere).await, refused(FOR_KEYED, 120, RESET, 60), "the same key");
}

#[tokio::test(start_paused = true)]
async fn a_key_is_the_same_in_either_header() {
    let api = Api::new();
    let spellings = [
        get(SEARCH).key(FREE),
        get(SEARCH).with("authorization", format!("Bearer {FREE}")),
        get(SEARCH).with("authorization", format!("bearer {FREE}")),
        get(SEARCH).key(FREE).with("authorization", "Basic YTpi"),
        get(SEARCH).key(FREE).without_address(),
    ];
    for (used, call) in (1..).zip(&spellings) {
        assert_eq!(api.send(call).await, found().ratelimit(120, 120 - used, RESET), "{call:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_malformed_credential_is_a_401_and_counts_by_address() {
    let api = Api::new();
    let keys: [&[u8]; 9] = [
        b"",
        b"fd_",
        b"fd_free",
        b"fd_free_",
        b"fd_gold_acme",
        b"fd_FREE_acme",
        b"xfd_free_acme",
        b"free_acme",
        b"fd_free_\xff",
    ];
    let keyed = keys.map(|key| get(SEARCH).key(key));
    let bearers = ["", "Bearer", "Bearer ", "Bearer fd_gold_acme", "Basic YTpi", FREE];
    let bearers = bearers.map(|credential| get(SEARCH).with("authorization", credential));
    for (used, call) in (1..).zip(keyed.iter().chain(&bearers)) {
        let expected = unauthorized().ratelimit(60, 60 - used, RESET);
        assert_eq!(api.send(call).await, expected, "{call:?}");
    }
    // The honest calls of that address are on the same count.
    assert_eq!(api.send(&get(SEARCH)).await, found().ratelimit(60, 44, RESET));
}

#[tokio::test(start_paused = true)]
async fn guessing_keys_is_limited_whatever_is_guessed() {
    let api = Api::new();
    let guess = |nth| get(SEARCH).key(format!("fd_guess_{nth}"));
    for nth in 0..60 {
        assert_eq!(api.send(&guess(nth)).await, unauthorized().ratelimit(60, 59 - nth, RESET));
    }
    assert_eq!(api.send(&guess(60)).await, refused(FOR_ANONYMOUS, 60, RESET, 60));
    let elsewhere = guess(61).from(OFFICE);
    assert_eq!(api.send(&elsewhere).await, unauthorized().ratelimit(60, 59, RESET));
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_key_and_address_is_told_so() {
    let expected = error(400, "BAD_REQUEST", "The caller's address is unknown.");
    let answer = Api::new().send(&get(SEARCH).without_address()).await;
    assert_eq!(answer, expected.header("cache-control", "no-store"));
}

#[tokio::test(start_paused = true)]
async fn windows_are_those_of_the_clock_whenever_the_first_call_comes() {
    let api = Api::new();
    advance(Duration::from_secs(15)).await;
    api.spend(&get(SEARCH), 60).await;
    // The page's own numbers.
    let expected = refused(FOR_ANONYMOUS, 60, RESET, 45);
    assert_eq!(api.send(&get(SEARCH)).await, expected);
    assert_eq!(expected.headers["retry-after"], "45");
    advance(Duration::from_millis(44_001)).await;
    assert_eq!(api.send(&get(SEARCH)).await, refused(FOR_ANONYMOUS, 60, RESET, 1), "rounded up");
    advance(Duration::from_millis(999)).await;
    assert_eq!(api.send(&get(SEARCH)).await, found().ratelimit(60, 59, RESET + 60));
}

// --- Browsers --------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_preflight_lets_scripts_send_a_key_and_costs_nothing() {
    let api = Api::new();
    let allowed = bare(200)
        .header("access-control-allow-methods", "GET,HEAD")
        .header("access-control-allow-headers", "x-api-key,authorization")
        .header("allow", "GET,HEAD");
    for asked in ["x-api-key", "authorization"].repeat(100) {
        assert_eq!(api.send(&preflight(asked)).await, allowed);
    }
    assert_eq!(api.send(&get(SEARCH)).await, found().ratelimit(60, 59, RESET));
    // Nor is it refused when nothing is left.
    api.spend(&get(SEARCH), 59).await;
    assert_eq!(api.send(&preflight("x-api-key")).await, allowed);
}

#[tokio::test(start_paused = true)]
async fn the_search_page_costs_nothing() {
    let api = Api::new();
    let html = response(200).header("content-type", "text/html; charset=utf-8");
    let page =
        Answer { body: include_str!("../../examples/fhir_directory/index.html").into(), ..html };
    for _ in 0..100 {
        assert_eq!(api.send(&get("/")).await, page);
        let head = api.send(&call(Method::HEAD, "/")).await;
        assert_eq!(head, page.clone().without_body());
    }
    assert_eq!(api.send(&get(SEARCH)).await, found().ratelimit(60, 59, RESET));
}

// --- Answers of the API ----------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn endpoints_are_found_by_name_and_vendor() {
    let api = Api::new();
    let endpoint =
        |id, name, vendor| json!({ "id": id, "organizationName": name, "vendorName": vendor });
    let forest_clinic = endpoint("ep_113", "Forest Clinic", "Demo Charts");
    let forest_eye_clinic = endpoint("ep_118", "Forest Eye Clinic", "Epic");
    let both = json!([forest_clinic, forest_eye_clinic]);
    for (used, (query, data)) in (1..).zip([
        ("query=forest&limit=2&page=9", json!([])),
        ("query=FOREST+clinic", json!([forest_clinic])),
        ("query=%20forest%20eye%20", json!([forest_eye_clinic])),
        ("query=clinic&vendor=&limit=100&page=1&other=x", json!(null)),
        ("query=forest&vendor=EPIC&limit=1&page=3", json!([forest_eye_clinic])),
        ("query=clinic&limit=2&page=12", both),
        ("query=nowhere", json!([])),
        ("query=forest&vendor=nobody", json!([])),
    ]) {
        let answer = api.send(&get(&format!("/api/v1/endpoints?{query}"))).await;
        if data.is_null() {
            assert_eq!(ids_in(&answer).len(), 24, "two in each of twelve places");
            continue;
        }
        assert_eq!(answer, endpoints(data).ratelimit(60, 60 - used, RESET), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn pages_hold_twenty_five_or_what_is_asked_for_up_to_a_hundred() {
    let api = Api::new();
    for (query, expected) in [
        ("", ids(1, 25)),
        ("?query=&vendor=&limit=&page=", ids(1, 25)),
        ("?page=2", ids(26, 50)),
        ("?page=5", ids(101, 120)),
        ("?page=6", vec![]),
        ("?limit=1&page=120", ids(120, 120)),
        ("?limit=100", ids(1, 100)),
        ("?limit=100&page=2", ids(101, 120)),
        ("?limit=100&page=18446744073709551615", vec![]),
    ] {
        let answer = api.send(&get(&format!("/api/v1/endpoints{query}"))).await;
        assert_eq!((answer.status, ids_in(&answer)), (200, expected), "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn bad_numbers_are_a_400_in_the_envelope() {
    let api = Api::new();
    let limit = "`limit` is a whole number from 1 to 100.";
    let page = "`page` is a whole number from 1.";
    let twice = "Failed to deserialize query string: duplicate field `page`";
    for (used, (query, message)) in (1..).zip([
        ("limit=0", limit),
        ("limit=101", limit),
        ("limit=-1", limit),
        ("limit=ten", limit),
        ("limit=2.5", limit),
        ("page=0", page),
        ("page=-1", page),
        ("page=first", page),
        ("page=18446744073709551616", page),
        ("page=1&page=2", twice),
    ]) {
        let answer = api.send(&get(&format!("/api/v1/endpoints?{query}"))).await;
        let expected = error(400, "BAD_REQUEST", message).ratelimit(60, 60 - used, RESET);
        assert_eq!(answer, expected, "{query}");
    }
}

#[tokio::test(start_paused = true)]
async fn head_gets_the_same_headers_and_counts() {
    let api = Api::new();
    let head = call(Method::HEAD, SEARCH);
    assert_eq!(api.send(&head).await, found().ratelimit(60, 59, RESET).without_body());
    api.spend(&head, 59).await;
    let refused = refused(FOR_ANONYMOUS, 60, RESET, 60);
    assert_eq!(api.send(&head).await.without_body(), refused.without_body());
}

#[tokio::test(start_paused = true)]
async fn unknown_paths_and_wrong_methods_are_told_in_the_envelope_and_count() {
    let api = Api::new();
    let wrong = error(405, "METHOD_NOT_ALLOWED", "Not with this method.");
    let wrong = wrong.header("allow", "GET,HEAD");
    for (used, (call, expected)) in (1..).zip([
        (get("/api/v1/unknown"), not_found()),
        (get("/api/v1/endpoints/"), not_found()),
        (get("/favicon.ico"), not_found()),
        (call(Method::POST, "/unknown"), not_found()),
        (call(Method::POST, SEARCH), wrong.clone()),
        (call(Method::POST, "/"), wrong),
    ]) {
        assert_eq!(api.send(&call).await, expected.ratelimit(60, 60 - used, RESET), "{call:?}");
    }
}

// --- The page's own clients ------------------------------------------------------------------

/// The page's `get_with_retry`; also how often it tried. While it waits, others at its address
/// make as many calls as `others`.
async fn get_with_retry(
    api: &Api,
    call: &Call,
    max_retries: u32,
    others: u64,
) -> Result<(Answer, u32), &'static str> {
    for attempt in 1..=max_retries {
        let response = api.send(call).await;
        if response.status == 429 {
            let retry_after = response.headers.get("retry-after");
            let retry_after = retry_after.map_or(60, |seconds| seconds.parse().unwrap());
            advance(Duration::from_secs(retry_after)).await;
            api.spend(call, others).await;
            continue;
        }
        return Ok((response, attempt));
    }
    Err("Max retries exceeded")
}

#[tokio::test(start_paused = true)]
async fn get_with_retry_passes_on_its_next_try() {
    let url = "/api/v1/endpoints?vendor=epic&limit=100";
    for (call, limit) in [(get(url), 60), (get(url).key(FREE), 120), (get(url).key(PRO), 1_200)] {
        for late in [0, 1, 700, 15_000, 59_001, 59_999].map(Duration::from_millis) {
            let api = Api::new();
            advance(late).await;
            api.spend(&call, limit).await;
            let (passed, tries) = get_with_retry(&api, &call, 3, 0).await.unwrap();
            assert_eq!((passed.status, tries), (200, 2), "{call:?}");
            assert_eq!(passed.headers["ratelimit-remaining"], (limit - 1).to_string());
            let found = passed.body["data"].as_array().unwrap();
            assert_eq!(found.len(), 40, "the page asks for all endpoints of a vendor");
            assert!(found.iter().all(|endpoint| endpoint["vendorName"] == "Epic"));
            // Not longer than to the window's end, in whole seconds.
            assert_eq!((api.began.elapsed() - Duration::from_secs(60)).as_secs(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn get_with_retry_gives_up_when_others_use_each_window() {
    let api = Api::new();
    api.spend(&get(SEARCH), 60).await;
    let given_up = get_with_retry(&api, &get(SEARCH), 3, 60).await;
    assert_eq!(given_up, Err("Max retries exceeded"));
    assert_eq!(api.began.elapsed(), Duration::from_secs(3 * 60));
    // One left by the others is enough.
    let passed = found().ratelimit(60, 0, START + 5 * 60);
    assert_eq!(get_with_retry(&api, &get(SEARCH), 3, 59).await, Ok((passed, 2)));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_pages_by_a_hundred_stores_the_directory_in_two_calls() {
    let api = Api::new();
    let mut stored = Vec::new();
    for page in 1.. {
        let answer = api.send(&get(&format!("/api/v1/endpoints?limit=100&page={page}"))).await;
        let ids = ids_in(&answer);
        stored.extend(ids.iter().cloned());
        if ids.len() < 100 {
            assert_eq!(answer.headers["ratelimit-remaining"], "58");
            break;
        }
    }
    assert_eq!(stored, ids(1, 120));
}
