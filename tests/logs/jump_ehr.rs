//! The Jump EHR example, line by line of its rate-limit page.
//!
//! These tests run the example's own router on a paused clock.
#![cfg(all(feature = "axum", feature = "describe", feature = "tracing", feature = "usage"))]

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, body::Body, http::Request};
use serde_json::{Value, json};
use tokio::time::{Instant, advance};
use tower::ServiceExt;
use tower_quota::{Clock, key::PeerAddr};

use common::{Answer, answer};

use super::example;
use crate::log;

/// 2024-01-16 13:00 UTC.
const ONE_O_CLOCK: u64 = 1_705_410_000;
const MINUTE: Duration = Duration::from_secs(60);
const MINE: &str = "Bearer pk_live_mine";
/// Long enough to be known by its end.
const LOGGED: &str = "Bearer pk_live_4f9a1c77b2e05d3388aa9f2c";
const PATIENTS: &str = "/functions/v1/api-v1/patients";
/// Stands in responses for the id that is new in each.
const ID: &str = "req_abc123";

/// The example's API on a clock of its own, which begins `past` one o'clock.
struct Api {
    app: Router,
    seen: Mutex<BTreeSet<String>>,
}

impl Api {
    fn new(past: Duration) -> Self {
        log::keep();
        let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(ONE_O_CLOCK) + past);
        let limiter = example::limiter(clock).unwrap();
        let app = example::app(limiter.clone(), example::responses(limiter)).unwrap();
        Self { app, seen: Mutex::default() }
    }

    async fn get(&self, path: &str, credential: &str) -> Answer {
        self.send(Request::get(path).header("authorization", credential)).await
    }

    async fn send(&self, request: axum::http::request::Builder) -> Answer {
        self.send_from("192.0.2.1", request).await
    }

    async fn send_from(&self, ip: &str, request: axum::http::request::Builder) -> Answer {
        let peer = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), 50_000);
        let request = request.extension(PeerAddr(peer)).body(Body::empty()).unwrap();
        self.identified(self.app.clone().oneshot(request).await.unwrap()).await
    }

    /// Asserts that the response has an id of its own, the same in header and body, and puts `ID`
    /// in its place.
    async fn identified(&self, response: axum::response::Response) -> Answer {
        let mut answer = Answer::of(response).await;
        let id = answer.headers.insert("x-request-id".into(), ID.into()).expect("an id");
        let ulid = id.strip_prefix("req_").expect("`req_`");
        assert!(ulid::Ulid::from_string(ulid).is_ok(), "{id}");
        if answer.body != Value::Null {
            assert_eq!(answer.body["meta"]["request_id"].take(), json!(id));
            answer.body["meta"]["request_id"] = json!(ID);
        }
        assert!(self.seen.lock().unwrap().insert(id), "used twice");
        answer
    }

    /// Makes `times` calls with `MINE`, all of which pass.
    async fn spend(&self, times: u64) {
        for nth in 1..=times {
            assert_eq!(self.get(PATIENTS, MINE).await.status, 200, "call {nth} of {times}");
        }
    }
}

fn told(status: u16, remaining: u64, data: Value, error: Value) -> Answer {
    answer(status, json!({ "data": data, "meta": { "request_id": ID }, "error": error }))
        .header("x-ratelimit-limit", "1000")
        .header("x-ratelimit-remaining", &remaining.to_string())
        .header("x-request-id", ID)
}

fn error(status: u16, remaining: u64, code: &str, message: &str) -> Answer {
    told(status, remaining, Value::Null, json!({ "code": code, "message": message }))
}

fn a_patient(id: &str) -> Value {
    json!({ "id": id, "name": "A Patient" })
}

fn patients(remaining: u64) -> Answer {
    told(200, remaining, ["pat_1", "pat_2", "pat_3"].map(a_patient).into(), Value::Null)
}

fn unauthorized(remaining: u64) -> Answer {
    error(401, remaining, "UNAUTHORIZED", "Send `Authorization: Bearer pk_live_…`.")
}

fn not_found(remaining: u64) -> Answer {
    error(404, remaining, "NOT_FOUND", "There is nothing here.")
}

fn rate_limited() -> Answer {
    let message = "Rate limit exceeded. Limit: 1000 requests per hour. Resets on the hour.";
    error(429, 0, "RATE_LIMITED", message).header("cache-control", "no-store")
}

// --- The quota -------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn a_key_has_a_thousand_requests_an_hour_and_not_one_more() {
    let api = Api::new(Duration::ZERO);
    for remaining in (0..1_000).rev() {
        assert_eq!(api.get(PATIENTS, MINE).await, patients(remaining));
    }
    for _ in 0..10 {
        assert_eq!(api.get(PATIENTS, MINE).await, rate_limited());
    }
    advance(60 * MINUTE - Duration::from_nanos(1)).await;
    assert_eq!(api.get(PATIENTS, MINE).await, rate_limited());
    advance(Duration::from_nanos(1)).await;
    assert_eq!(api.get(PATIENTS, MINE).await, patients(999), "at 14:00:00");
}

#[tokio::test(start_paused = true)]
async fn the_hour_is_the_clocks_and_not_the_callers() {
    let api = Api::new(59 * MINUTE);
    api.spend(999).await;
    advance(MINUTE).await;
    for remaining in (0..1_000).rev() {
        assert_eq!(api.get(PATIENTS, MINE).await, patients(remaining));
    }
    assert_eq!(api.get(PATIENTS, MINE).await, rate_limited());
    advance(60 * MINUTE).await;
    assert_eq!(api.get(PATIENTS, MINE).await, patients(999), "at 15:00:00");
}

#[tokio::test(start_paused = true)]
async fn each_key_has_its_own_quota_wherever_it_is_used() {
    let api = Api::new(Duration::ZERO);
    api.spend(1_000).await;
    assert_eq!(api.get(PATIENTS, "Bearer pk_live_other").await, patients(999));
    let mine = Request::get(PATIENTS).header("authorization", MINE);
    assert_eq!(api.send_from("198.51.100.7", mine).await, rate_limited());
    assert_eq!(api.send(Request::get(PATIENTS)).await, unauthorized(999));
}

// --- What is answered ------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn every_response_is_in_the_envelope_with_quota_and_id() {
    let api = Api::new(Duration::ZERO);
    let two = json!([a_patient("pat_1"), a_patient("pat_2")]);
    for (remaining, path, expected) in [
        (999, "", patients(999)),
        (998, "?limit=100", patients(998)),
        (997, "?limit=2", told(200, 997, two, Value::Null)),
        (996, "/id1", told(200, 996, a_patient("id1"), Value::Null)),
        (995, "?limit=all", error(400, 995, "BAD_REQUEST", "`limit` is a number.")),
        (994, "/%ff", not_found(994)),
        (993, "/id1/notes", not_found(993)),
    ] {
        let answer = api.get(&format!("{PATIENTS}{path}"), MINE).await;
        assert_eq!(answer, expected, "{path}, {remaining} left");
    }
    let post = api.send(Request::post(PATIENTS).header("authorization", MINE)).await;
    let not_so = error(405, 992, "METHOD_NOT_ALLOWED", "Not with this method.");
    assert_eq!(post, not_so.header("allow", "GET,HEAD"));
    let head = api.send(Request::head(PATIENTS).header("authorization", MINE)).await;
    assert_eq!(head, Answer { body: Value::Null, ..patients(991) });
}

#[tokio::test(start_paused = true)]
async fn a_refusal_reads_as_on_the_page_to_the_letter() {
    let api = Api::new(Duration::ZERO);
    api.spend(1_000).await;
    let request = Request::get(PATIENTS).header("authorization", MINE).body(Body::empty());
    let response = api.app.clone().oneshot(request.unwrap()).await.unwrap();
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(response.into_body(), 1_000).await.unwrap();
    let expected = format!(
        r#"{{"data":null,"meta":{{"request_id":"{id}"}},"error":{{"code":"RATE_LIMITED","message":"Rate limit exceeded. Limit: 1000 requests per hour. Resets on the hour."}}}}"#
    );
    assert_eq!(body, expected);
}

#[tokio::test(start_paused = true)]
async fn a_missing_or_malformed_key_is_a_401_and_limited_per_address() {
    let api = Api::new(Duration::ZERO);
    let malformed = ["Bearer pk_live_", "Bearer pk_test_a", "Basic pk_live_a", "pk_live_a", ""];
    assert_eq!(api.send(Request::get(PATIENTS)).await, unauthorized(999));
    for (credential, remaining) in malformed.into_iter().zip((0..999).rev()) {
        assert_eq!(api.get(PATIENTS, credential).await, unauthorized(remaining), "{credential}");
    }
    for remaining in (0..994).rev() {
        assert_eq!(api.get(PATIENTS, "Bearer guess").await, unauthorized(remaining));
    }
    assert_eq!(api.get(PATIENTS, "Bearer guess").await, rate_limited());
    let elsewhere = api.send_from("198.51.100.7", Request::get(PATIENTS)).await;
    assert_eq!(elsewhere, unauthorized(999));
    assert_eq!(api.get(PATIENTS, "bearer pk_live_mine").await, patients(999), "a key passes");
}

#[tokio::test(start_paused = true)]
async fn an_unknown_path_is_a_404_with_or_without_a_key() {
    let api = Api::new(Duration::ZERO);
    for path in ["/", "/functions/v1/api-v1", "/nothing?at=all"] {
        assert_eq!(api.get(path, "Bearer pk_live_a").await.body, not_found(0).body, "{path}");
    }
    assert_eq!(api.get("/nothing", "Bearer pk_live_b").await, not_found(999));
    assert_eq!(api.send(Request::get("/nothing")).await, not_found(999));
}

#[tokio::test(start_paused = true)]
async fn a_callers_own_request_id_is_not_taken_over() {
    let api = Api::new(Duration::ZERO);
    for id in ["req_abc123", "x\" status=200", "req_01M815NP55Y9QPWPSZYJK3V5D9"] {
        let request = Request::get(PATIENTS).header("authorization", MINE);
        // `identified` finds another one, which must be new.
        api.seen.lock().unwrap().insert(id.into());
        assert_eq!(api.send(request.header("x-request-id", id)).await.status, 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_without_key_and_address_is_told_so() {
    let api = Api::new(Duration::ZERO);
    let request = Request::get(PATIENTS).body(Body::empty()).unwrap();
    let response = api.app.clone().oneshot(request).await.unwrap();
    let mut expected = error(400, 0, "BAD_REQUEST", "The caller has neither key nor address.")
        .header("cache-control", "no-store");
    expected.headers.retain(|name, _| !name.starts_with("x-ratelimit"));
    assert_eq!(api.identified(response).await, expected);
}

// --- The page's callers ----------------------------------------------------------------------

/// The page's `fetchWithRetry`; also how often it tried.
async fn fetch_with_retry(api: &Api, max_retries: u32) -> Result<(Answer, u32), &'static str> {
    for i in 0..max_retries {
        let response = api.get(PATIENTS, MINE).await;
        if response.status == 429 {
            advance(Duration::from_secs(2_u64.pow(i))).await;
            continue;
        }
        return Ok((response, i + 1));
    }
    Err("Max retries exceeded")
}

#[tokio::test(start_paused = true)]
async fn fetch_with_retry_passes_once_the_hour_has_turned() {
    // The waits end 1, 3 and 7 seconds after the first try.
    for (before, tries) in [(500, 2), (1_000, 2), (1_001, 3), (3_000, 3)] {
        let api = Api::new(60 * MINUTE - Duration::from_millis(before));
        api.spend(1_000).await;
        assert_eq!(fetch_with_retry(&api, 3).await, Ok((patients(999), tries)), "{before} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn fetch_with_retry_gives_up_after_three_tries_within_the_hour() {
    let api = Api::new(30 * MINUTE);
    api.spend(1_000).await;
    let began = Instant::now();
    assert_eq!(fetch_with_retry(&api, 3).await, Err("Max retries exceeded"));
    assert_eq!(began.elapsed(), Duration::from_secs(1 + 2 + 4));
    advance(30 * MINUTE - Duration::from_secs(7)).await;
    assert_eq!(fetch_with_retry(&api, 3).await, Ok((patients(999), 1)), "tries cost nothing");
}

#[tokio::test(start_paused = true)]
async fn the_usage_monitor_reads_how_many_remain() {
    let api = Api::new(Duration::ZERO);
    api.spend(49).await;
    let remaining = api.get(PATIENTS, MINE).await.headers["x-ratelimit-remaining"].clone();
    assert_eq!(format!("{remaining} requests remaining"), "950 requests remaining");
}

/// The page's `getCachedPatient`.
#[derive(Default)]
struct Cache(HashMap<String, (Value, Instant)>);

impl Cache {
    async fn patient(&mut self, api: &Api, id: &str) -> Value {
        if let Some((data, at)) = self.0.get(id)
            && at.elapsed() < MINUTE
        {
            return data.clone();
        }
        let data = api.get(&format!("{PATIENTS}/{id}"), MINE).await.body["data"].take();
        self.0.insert(id.to_owned(), (data.clone(), Instant::now()));
        data
    }
}

#[tokio::test(start_paused = true)]
async fn a_cached_patient_costs_one_request_a_minute() {
    let api = Api::new(Duration::ZERO);
    let mut cache = Cache::default();
    for _ in 0..180 {
        assert_eq!(cache.patient(&api, "id1").await, a_patient("id1"));
        advance(Duration::from_secs(1)).await;
    }
    assert_eq!(api.get(PATIENTS, MINE).await, patients(996), "three, and this one");
}

// --- The log ---------------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn every_request_is_logged_with_endpoint_method_status_response_time_and_timestamp() {
    let api = Api::new(Duration::ZERO);
    api.spend(1_000).await;
    log::take();
    let one = format!("{PATIENTS}/id1");
    let all = format!("{PATIENTS}?limit=2");
    let pattern = format!("{PATIENTS}/{{id}}");
    let (key, mine) = (" key=\"pk_live_…9f2c\"", " key=\"api key\"");
    let mut expected = Vec::new();
    for (path, method, endpoint, credential, status, key) in [
        (&*all, "GET", PATIENTS, LOGGED, 200, key),
        (&*one, "GET", &*pattern, LOGGED, 200, key),
        (PATIENTS, "POST", PATIENTS, LOGGED, 405, key),
        (PATIENTS, "GET", PATIENTS, "Bearer guess", 401, ""),
        ("/a/strangers/text", "GET", "unmatched", LOGGED, 404, key),
        (PATIENTS, "GET", PATIENTS, MINE, 429, mine),
    ] {
        api.seen.lock().unwrap().clear();
        let request = Request::builder().method(method).uri(path);
        api.send(request.header("authorization", credential)).await;
        let id = api.seen.lock().unwrap().first().cloned().unwrap();
        let (verdict, units) = if status == 429 { ("quota_exceeded", 0) } else { ("allowed", 1) };
        expected.push(format!(
            "INFO request{{id=\"{id}\"}}: request method=\"{method}\" endpoint=\"{endpoint}\" \
             status={status} response_ms=0.0 policy=\"hourly\" verdict=\"{verdict}\" \
             units={units} held_ms=0.0{key}"
        ));
    }

    let mut logged = Vec::new();
    for line in log::take() {
        let (timestamp, rest) = line.trim_end().split_once(' ').unwrap();
        timestamp.parse::<jiff::Timestamp>().unwrap();
        let line = rest.trim_start();
        // Those of the limiter itself, which the example leaves out.
        if !line.starts_with("DEBUG") {
            logged.push(line.to_owned());
        }
    }
    assert_eq!(logged, expected);
}

// --- The usage page --------------------------------------------------------------------------

const USAGE: &str = "/settings/api-keys/usage";

impl Api {
    /// What the usage page answers, which is in no envelope.
    async fn usage(&self, path: &str, credential: Option<&str>, accept: &str) -> Answer {
        let mut request = Request::get(format!("{USAGE}{path}")).header("accept", accept);
        if let Some(credential) = credential {
            request = request.header("authorization", credential);
        }
        let request = request.body(Body::empty()).unwrap();
        Answer::of(self.app.clone().oneshot(request).await.unwrap()).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_keys_usage_is_under_settings_and_costs_nothing() {
    let api = Api::new(15 * MINUTE);
    api.spend(3).await;
    api.get(&format!("{PATIENTS}/id1"), LOGGED).await;
    for _ in 0..3 {
        let usage = api.usage("", Some(MINE), "application/json").await;
        assert_eq!(usage.status, 200);
        let hourly = json!([{
            "policy": "hourly", "counted_by": "api key", "algorithm": "fixed_window",
            "limit": 1_000, "used": 3, "remaining": 997, "reset_seconds": 2_700.0,
            "units": 1_000, "window_seconds": 3_600.0,
        }]);
        assert_eq!(usage.body["quotas"], hourly);
        assert_eq!(usage.body["minutes"], json!([{ "at": 1_705_410_900_000_u64, "2xx": 3 }]));
        assert_eq!(usage.body["log"]["entries"].as_array().unwrap().len(), 3);
    }
    assert_eq!(api.get(PATIENTS, MINE).await, patients(996));
}

#[tokio::test(start_paused = true)]
async fn the_usage_page_needs_a_key_and_the_page_itself_none() {
    let api = Api::new(Duration::ZERO);
    for credential in [None, Some("Bearer guess")] {
        let refused = api.usage("", credential, "application/json").await;
        assert_eq!((refused.status, &*refused.headers["www-authenticate"]), (401, "Bearer"));
        assert_eq!(api.usage("/log", credential, "*/*").await.status, 401);
    }
    let page = api.usage("", None, "text/html,*/*;q=0.8").await;
    assert_eq!((page.status, &*page.headers["content-type"]), (200, "text/html; charset=utf-8"));
}
