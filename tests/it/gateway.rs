//! The gateway example, line by line of its rate-limit page.
//!
//! These tests run the example's own router on a clock that they move.
#![cfg(all(feature = "axum", feature = "describe", feature = "testing"))]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, UNIX_EPOCH},
};

use axum::{Router, http::Request};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, advance, sleep},
};
use tower::{ServiceBuilder, ServiceExt};
use tower_quota::{
    Clock,
    key::PeerAddr,
    testing::{TestClient, TestRequest},
};

use super::examples::gateway;

const SECOND: Duration = Duration::from_secs(1);
const NIGHTLY: &str = "Bearer gw_acme_nightly";
const DESK: &str = "Bearer gw_acme_desk";
const OTHER: &str = "Bearer gw_globex_nightly";

/// 2024-01-16T10:00:00Z.
fn api() -> Router {
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
    gateway::app(gateway::rate_limit(clock.clone()).unwrap(), clock)
}

#[derive(Clone, Debug)]
struct Call {
    method: &'static str,
    path: String,
    credential: Option<&'static str>,
    address: [u8; 4],
    request_id: Option<&'static str>,
    body: String,
}

fn call(method: &'static str, path: impl Into<String>) -> Call {
    let (path, address) = (path.into(), [192, 0, 2, 1]);
    let (credential, request_id) = (Some(NIGHTLY), None);
    Call { method, path, credential, address, request_id, body: String::new() }
}

fn get(path: impl Into<String>) -> Call {
    call("GET", path)
}

fn sites() -> Call {
    get("/v1/sites")
}

fn create_job() -> Call {
    Call { body: json!({ "title": "Fix the boiler" }).to_string(), ..call("POST", "/v1/jobs") }
}

impl Call {
    fn with(self, credential: impl Into<Option<&'static str>>) -> Self {
        Self { credential: credential.into(), ..self }
    }

    fn request(self) -> Request<String> {
        let request = Request::builder().method(self.method).uri(self.path);
        let mut request = request.extension(PeerAddr(SocketAddr::from((self.address, 50_000))));
        for (name, value) in [("authorization", self.credential), ("x-request-id", self.request_id)]
        {
            request = value.into_iter().fold(request, |request, value| request.header(name, value));
        }
        request.header("content-type", "application/json").body(self.body).unwrap()
    }
}

impl From<Call> for TestRequest {
    fn from(call: Call) -> Self {
        call.request().into()
    }
}

/// Sends to the example's API, for the tests that only count.
fn client() -> TestClient {
    let clock = Clock::manual();
    TestClient::of(gateway::app(gateway::rate_limit(clock.clone()).unwrap(), clock))
}

/// A whole response without the length of its body. The id of a problem's instance is a field of its
/// own.
#[derive(Clone, Debug, PartialEq)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Value,
}

fn answer(status: u16, headers: &[(&str, &str)], body: Value) -> Answer {
    let headers = headers.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Answer { status, headers, body }
}

fn ok(body: Value) -> Answer {
    answer(200, &[("content-type", "application/json")], body)
}

fn problem(status: u16, title: &str, detail: impl Into<Option<&'static str>>) -> Answer {
    let mut body = json!({
        "type": "about:blank",
        "title": title,
        "status": status,
        "instance": "req_<ULID>",
    });
    if let Some(detail) = detail.into() {
        body["detail"] = detail.into();
    }
    answer(status, &[("content-type", "application/problem+json")], body)
}

/// The page's 429.
fn exhausted(purpose: &str) -> Answer {
    let headers = [("content-type", "application/problem+json"), ("cache-control", "no-store")];
    let body = json!({
        "type": "https://gateway/errors/rate-limited",
        "title": format!("Rate-limit budget for purpose '{purpose}' exhausted"),
        "status": 429,
        "instance": "req_<ULID>",
    });
    answer(429, &headers, body)
}

async fn send(api: &Router, call: Call) -> Answer {
    let response = api.clone().oneshot(call.request()).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let mut headers: BTreeMap<_, _> = (head.headers.iter())
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    assert_eq!(headers.len(), head.headers.len(), "no header is sent twice");
    if let Some(length) = headers.remove("content-length") {
        assert_eq!(length, body.len().to_string());
    }
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    if let Some(instance) = body.get_mut("instance") {
        let id = instance.as_str().unwrap().strip_prefix("req_").unwrap();
        assert!(id.len() == 26 && ulid::Ulid::from_string(id).is_ok(), "{id}");
        *instance = "req_<ULID>".into();
    }
    Answer { status: head.status.as_u16(), headers, body }
}

/// The answer, and how long it took.
type Sent = JoinHandle<(Answer, Duration)>;

/// Sends all at this moment, in this order.
async fn send_all(api: &Router, calls: impl IntoIterator<Item = Call>) -> Vec<Sent> {
    let mut sent = Vec::new();
    for call in calls {
        let (api, now) = (api.clone(), Instant::now());
        sent.push(tokio::spawn(async move { (send(&api, call).await, now.elapsed()) }));
        yield_now().await;
    }
    sent
}

/// What became of each in turn: its status, and after how many milliseconds.
async fn outcomes(sent: Vec<Sent>) -> Vec<(u16, u128)> {
    let mut outcomes = Vec::new();
    for sent in sent {
        let (answer, took) = sent.await.unwrap();
        outcomes.push((answer.status, took.as_millis()));
    }
    outcomes
}

/// Uses up the tenant's sixty at this moment, half by each credential.
async fn drain_tenant(api: &Router) {
    for credential in [NIGHTLY, DESK] {
        let sent = send_all(api, vec![sites().with(credential); 30]).await;
        assert_eq!(outcomes(sent).await, [(200, 0); 30]);
    }
}

/// Sends one, which must pass at the moment it is sent.
async fn pass_at_once(api: &Router, call: Call) -> Answer {
    let (answer, now) = (send(api, call.clone()), Instant::now());
    let answer = answer.await;
    assert!(answer.status < 300, "{call:?}: {answer:?}");
    assert_eq!(now.elapsed(), Duration::ZERO, "{call:?} was held");
    answer
}

// --- What there is ---------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn lookups_answer_with_documents_and_no_quota_headers() {
    let api = api();
    for (path, id, name) in [
        ("/v1/sites", "site_1", "Head Office"),
        ("/v1/job-types", "type_1", "Repair"),
        ("/v1/custom-fields", "field_1", "Gate code"),
    ] {
        let expected = ok(json!({ "data": [{ "id": id, "name": name }] }));
        assert_eq!(send(&api, get(path)).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn polling_with_updated_at_from_returns_only_what_is_new_to_this_tenant() {
    let api = api();
    let first = pass_at_once(&api, create_job()).await.body;
    advance(60 * SECOND).await;
    let created = pass_at_once(&api, create_job()).await;
    assert_eq!(
        (created.status, &created.body["updated_at"]),
        (201, &json!("2024-01-16T10:01:00Z"))
    );
    let second = created.body;
    let all = ok(json!({ "data": [first, second] }));
    assert_eq!(send(&api, get("/v1/jobs")).await, all);
    for (from, expected) in [
        ("2024-01-16T10:00:00Z", all),
        ("2024-01-16T10:00:01Z", ok(json!({ "data": [second] }))),
        ("2024-01-16T10:01:00Z", ok(json!({ "data": [second] }))),
        ("2024-01-16T10:01:01Z", ok(json!({ "data": [] }))),
    ] {
        let jobs = get(format!("/v1/jobs?updated_at_from={from}"));
        assert_eq!(send(&api, jobs).await, expected, "{from}");
    }
    assert_eq!(send(&api, get("/v1/jobs").with(OTHER)).await, ok(json!({ "data": [] })));
}

#[tokio::test(start_paused = true)]
async fn a_page_has_25_jobs_unless_told_otherwise_and_100_at_most() {
    let api = api();
    for _ in 0..120 {
        pass_at_once(&api, create_job()).await;
        sleep(2 * SECOND).await;
    }
    for (query, jobs) in [("", 25), ("?page_size=1", 1), ("?page_size=100", 100)] {
        let page = pass_at_once(&api, get(format!("/v1/jobs{query}"))).await;
        assert_eq!(page.body["data"].as_array().unwrap().len(), jobs, "{query}");
    }
    for size in ["0", "101"] {
        let page = get(format!("/v1/jobs?page_size={size}"));
        let expected = problem(400, "Bad Request", "`page_size` is 1 to 100.");
        assert_eq!(send(&api, page).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn the_latest_ten_thousand_jobs_are_kept() {
    let api = api();
    let oldest = async || {
        let page = pass_at_once(&api, get("/v1/jobs?page_size=1")).await;
        page.body["data"][0].clone()
    };
    let mut created = Vec::new();
    for _ in 0..10_000 {
        created.push(pass_at_once(&api, create_job()).await.body);
        sleep(2 * SECOND).await;
    }
    assert_eq!(oldest().await, created[0]);
    pass_at_once(&api, create_job()).await;
    assert_eq!(oldest().await, created[1]);
}

#[tokio::test(start_paused = true)]
async fn errors_are_problems_with_an_instance_of_the_gateways_own() {
    let api = api();
    let not_found = problem(404, "Not Found", None);
    for path in ["/", "/v1", "/v1/", "/v1/nothing", "/v2/sites"] {
        let call = Call { request_id: Some("mine"), ..get(path) };
        assert_eq!(send(&api, call).await, not_found, "{path}");
    }
    let refused = send(&api, call("DELETE", "/v1/jobs")).await;
    let mut not_allowed = problem(405, "Method Not Allowed", None);
    not_allowed.headers.insert("allow".into(), "GET,HEAD,POST".into());
    assert_eq!(refused, not_allowed);
    for (bad, what) in [
        (get("/v1/jobs?page_size=many"), "page_size"),
        (get("/v1/jobs?updated_at_from=yesterday"), "updated_at_from"),
        (Call { body: "{".into(), ..create_job() }, "JSON"),
    ] {
        let mut refused = send(&api, bad).await;
        // The words are axum's.
        let detail = refused.body.as_object_mut().unwrap().remove("detail").unwrap();
        assert!(detail.as_str().unwrap().contains(what), "{detail}");
        assert_eq!(refused, problem(400, "Bad Request", None), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn guesses_are_refused_and_share_the_budget_of_their_address() {
    let api = api();
    let guesses =
        [None, Some("gw_acme_nightly"), Some("Basic gw_a_b"), Some("Bearer sk_a_b")].into_iter();
    let guesses = guesses.chain(["Bearer gw_acme", "Bearer gw__b", "Bearer gw_acme_"].map(Some));
    let unauthorized = problem(401, "Unauthorized", "Send `Authorization: Bearer gw_…`.");
    for guess in guesses.clone().cycle().take(60) {
        assert_eq!(send(&api, sites().with(guess)).await, unauthorized, "{guess:?}");
    }
    let sent = send_all(&api, guesses.map(|guess| sites().with(guess))).await;
    let mut expected = [(429, 0); 7];
    expected[0] = (401, 1_500);
    assert_eq!(outcomes(sent).await, expected);
    let elsewhere = Call { address: [198, 51, 100, 7], ..sites().with(None) };
    assert_eq!(send(&api, elsewhere).await, unauthorized);
    pass_at_once(&api, sites()).await;
}

// --- The budget ------------------------------------------------------------------------------

#[test]
fn of_200_jobs_at_once_60_pass_one_is_held_and_the_rest_are_refused_at_once() {
    // The credential has a token each 1.5 s: the 62nd would wait 3 s.
    client()
        .send(200, create_job())
        .expect_admitted(60)
        .expect_held(1)
        .expect_refused(139)
        .advance(SECOND * 3 / 2 - Duration::from_nanos(1))
        .expect_held(1)
        .advance(Duration::from_nanos(1))
        .expect_admitted(61);
}

#[tokio::test(start_paused = true)]
async fn two_credentials_share_their_tenants_sixty_and_are_held_in_arrival_order() {
    let api = api();
    drain_tenant(&api).await;
    let sent = send_all(&api, [NIGHTLY, DESK, NIGHTLY, DESK].map(|who| sites().with(who))).await;
    // The tenant has a token each second.
    assert_eq!(outcomes(sent).await, [(200, 1_000), (200, 2_000), (429, 0), (429, 0)]);
    pass_at_once(&api, sites().with(OTHER)).await;
}

#[test]
fn credentials_of_the_same_name_are_not_shared_between_tenants() {
    let mut client = client();
    client.send(200, sites()).expect_admitted(60);
    client.send(60, sites().with(OTHER)).expect_admitted(60);
}

#[test]
fn what_the_credential_refuses_costs_the_tenant_nothing() {
    let mut client = client();
    client.send(60, sites()).expect_admitted(60).advance(30 * SECOND);
    // 30 have come back to the tenant, and 20 to this credential.
    client.send(100, sites()).expect_admitted(20).expect_held(1).expect_refused(79);
    // Ten are left to the tenant, one of which the held request has reserved.
    client.send(20, sites().with(DESK)).expect_admitted(9).expect_held(2).expect_refused(9);
    client.advance(SECOND).expect_admitted(10).advance(SECOND).expect_admitted(11);
}

#[tokio::test(start_paused = true)]
async fn the_title_names_the_purpose_that_ran_out_and_nothing_tells_when_to_retry() {
    let api = api();
    drain_tenant(&api).await;
    let _held = send_all(&api, [sites(), sites()]).await;
    assert_eq!(send(&api, sites()).await, exhausted("tenant"));

    let _held = send_all(&api, vec![sites().with(OTHER); 61]).await;
    assert_eq!(send(&api, sites().with(OTHER)).await, exhausted("credential"));
}

#[tokio::test(start_paused = true)]
async fn who_hangs_up_while_held_gives_the_token_back_and_those_behind_move_up() {
    let api = api();
    drain_tenant(&api).await;
    let mut sent = send_all(&api, [sites(), sites().with(DESK)]).await;
    assert_eq!(send(&api, sites()).await, exhausted("tenant"), "the line is full");
    advance(SECOND / 2).await;
    sent.remove(0).abort();
    yield_now().await;
    sent.extend(send_all(&api, [sites()]).await);
    assert_eq!(outcomes(sent).await, [(200, 1_000), (200, 1_500)]);
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_gives_the_token_back() {
    let api = api();
    drain_tenant(&api).await;
    let impatient =
        ServiceBuilder::new().timeout(SECOND / 2).service(api.clone()).oneshot(sites().request());
    assert!(impatient.await.is_err());
    let sent = send_all(&api, [sites(), sites().with(DESK)]).await;
    assert_eq!(outcomes(sent).await, [(200, 500), (200, 1_500)]);
}

// --- Its callers -----------------------------------------------------------------------------

#[tokio::test(start_paused = true)]
async fn the_worked_example_is_never_refused_or_held() {
    let (api, began) = (api(), Instant::now());
    for path in ["/v1/sites", "/v1/job-types", "/v1/custom-fields"] {
        pass_at_once(&api, get(path)).await;
    }
    for _ in 0..500 {
        pass_at_once(&api, create_job()).await;
        sleep(2 * SECOND).await;
    }
    assert!(began.elapsed() < 20 * 60 * SECOND, "the page: in under 20 minutes");
}

#[tokio::test(start_paused = true)]
async fn bulk_writes_paced_to_the_refill_all_pass_at_once() {
    let api = api();
    // Also from a bucket that is empty.
    outcomes(send_all(&api, vec![create_job(); 60]).await).await;
    for _ in 0..200 {
        sleep(SECOND * 3 / 2).await;
        pass_at_once(&api, create_job()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn fetching_the_sites_before_every_job_blows_the_budget_within_seconds() {
    let api = api();
    let ten_jobs = || (0..10).flat_map(|_| [sites(), create_job()]);
    for second in 0..3 {
        let sent = outcomes(send_all(&api, ten_jobs()).await).await;
        assert_eq!(sent, [(200, 0), (201, 0)].repeat(10), "in second {second}");
        sleep(SECOND).await;
    }
    let mut expected = [(429, 0); 20];
    // What came back in three seconds, and the next to come.
    expected[..3].copy_from_slice(&[(200, 0), (201, 0), (200, 1_500)]);
    assert_eq!(outcomes(send_all(&api, ten_jobs()).await).await, expected);
}

#[tokio::test(start_paused = true)]
async fn who_asks_one_at_a_time_is_slowed_to_the_refill_and_never_refused() {
    let api = api();
    outcomes(send_all(&api, vec![sites(); 60]).await).await;
    let began = Instant::now();
    for _ in 0..100 {
        assert_eq!(send(&api, create_job()).await.status, 201);
    }
    assert_eq!(began.elapsed(), 150 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn polling_at_1_hz_is_the_tenants_entire_budget() {
    let api = api();
    drain_tenant(&api).await;
    // Taking turns, as a credential alone has 40 a minute.
    for who in [NIGHTLY, DESK].into_iter().cycle().take(60) {
        sleep(SECOND).await;
        pass_at_once(&api, get("/v1/jobs").with(who)).await;
    }
    let sent = send_all(&api, [sites(), sites(), sites()]).await;
    assert_eq!(outcomes(sent).await, [(200, 1_000), (200, 2_000), (429, 0)]);
}

/// Drains the tenant and fills its line, so that the next call is refused.
async fn congest(api: &Router) {
    drain_tenant(api).await;
    let _held = send_all(api, [sites(), sites().with(DESK)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_single_retry_after_one_to_two_seconds_succeeds() {
    for jitter in [0, 1, 250, 500, 999, 1_000] {
        let api = api();
        congest(&api).await;
        assert_eq!(send(&api, sites()).await, exhausted("tenant"));
        sleep(SECOND + Duration::from_millis(jitter)).await;
        assert_eq!(send(&api, sites()).await.status, 200, "after 1 s and {jitter} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn backing_off_exponentially_from_one_second_succeeds_on_the_next_try() {
    let api = api();
    congest(&api).await;
    let mut statuses = Vec::new();
    for attempt in 0..5 {
        statuses.push(send(&api, sites()).await.status);
        if statuses.last() == Some(&200) {
            break;
        }
        sleep(SECOND * 2_u32.pow(attempt)).await;
    }
    assert_eq!(statuses, [429, 200]);
}
