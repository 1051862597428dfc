//! The module `testing`, by which users test their limits: its clock, its client, its recorder and its store.
#![cfg(feature = "testing")]

use std::{
    convert::Infallible,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{ServiceBuilder, service_fn};
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, OnStoreFailure, Policy, Quota,
    RateLimitLayer, Reason,
    key::{ClientIp, bearer, header},
    store::MemoryStore,
    testing::{DecisionRecorder, FaultyStore, TestClient},
};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn per_ip(quota: Quota) -> Policy {
    Policy::sliding_window("per ip", quota).key(ClientIp::new()).or_refuse()
}

fn client_of(builder: LimiterBuilder) -> TestClient {
    TestClient::new(RateLimitLayer::new(builder.build().unwrap()))
}

fn client(policy: Policy) -> TestClient {
    client_of(Limiter::builder().clock(Clock::manual()).policy(policy))
}

/// The text of a failed assertion.
fn failure(assertion: impl FnOnce()) -> String {
    let panic = catch_unwind(AssertUnwindSafe(assertion)).expect_err("the assertion holds");
    match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => (*panic.downcast_ref::<&str>().expect("it has a text")).to_owned(),
    }
}

#[test]
fn requests_are_counted_and_the_time_stands_still_until_it_is_moved() {
    let mut client = client(per_ip(Quota::per_minute(60)));
    client.send(100, "/").expect_admitted(60).expect_refused(40).expect_status(429);
    client.expect_retry_after(MINUTE).advance(MINUTE - SECOND).send(1, "/").expect_refused(1);
    client.expect_retry_after(SECOND).advance(SECOND).send(61, "/").expect_admitted(60);
    assert_eq!(client.responses().filter(|response| response.status() == 200).count(), 60);
    client.from_ip([192, 0, 2, 2]).send(1, "/").expect_header("x-ratelimit-remaining", "59");
    client.without_peer().send(1, "/").expect_status(400).expect_refused(1);
}

#[test]
fn held_requests_pass_in_order_when_the_clock_is_moved() {
    let quota = Quota::per_second(1);
    let smooth =
        Policy::token_bucket("smooth", quota).key(header("x-key")).or_refuse().hold(2 * SECOND);
    let mut client = client(smooth);
    let request = || Request::get("/").header("x-key", "k");
    client.send(5, request()).expect_admitted(1).expect_held(2).expect_refused(2);
    client.advance(SECOND - Duration::from_nanos(1)).expect_held(2);
    client.advance(Duration::from_nanos(1)).expect_held(1).expect_admitted(2);
    let decisions = client.decisions();
    let held: Vec<_> = decisions.iter().map(|one| one.decision().map(|one| one.held())).collect();
    assert_eq!(held[..3], [Some(Duration::ZERO), Some(SECOND), None], "the first passes first");
    assert_eq!(decisions[2].to_string(), "GET /: no decision");
    // The others stay held, and each passes when it is due, also if the time leaps over that.
    client.send(1, request()).expect_held(1).advance(60 * SECOND).expect_admitted(1);
    let decisions = client.decisions();
    assert_eq!(decisions[0].decision().unwrap().held(), 2 * SECOND);
}

#[test]
fn a_held_request_needs_no_runtime() {
    let clock = Clock::manual();
    let bucket = Policy::token_bucket("p", Quota::per_second(1)).global().hold(SECOND);
    let limiter = Limiter::builder().clock(clock.clone()).policy(bucket).build().unwrap();
    let head = Request::new(()).into_parts().0;
    let mut context = Context::from_waker(Waker::noop());
    let mut poll =
        |decision: &mut Pin<Box<dyn Future<Output = _>>>| decision.as_mut().poll(&mut context);
    let decide = || -> Pin<Box<dyn Future<Output = _>>> { Box::pin(limiter.decide(&head)) };
    let (mut first, mut second) = (decide(), decide());
    assert!(poll(&mut first).is_ready());
    assert!(poll(&mut second).is_pending());
    clock.advance(SECOND);
    let Poll::Ready(decision) = poll(&mut second) else { panic!("it is still held") };
    assert!(decision.is_allowed());
    assert_eq!(decision.held(), SECOND);
}

#[test]
fn a_failed_assertion_says_what_each_policy_has_decided_and_no_secret() {
    let per_key =
        Policy::fixed_window("per key", Quota::per_minute(3)).key(header("x-api-key")).or_refuse();
    let limiter = Limiter::builder()
        .clock(Clock::manual())
        .policy(per_ip(Quota::per_hour(9)))
        .category(Category::new("reads").on(Matcher::get("/v1/{*rest}")).policy(per_key))
        .policy(Policy::sliding_window("trial", Quota::per_day(1)).global().dry_run());
    let mut client = client_of(limiter);
    let secret = || Request::get("/v1/things?token=secret-query").header("x-api-key", "secret-key");
    client.send(5, secret());

    let expected = [
        "expected 4 of 5 requests to be admitted; of them, 3 were admitted, 2 were refused",
        "the first that is not as expected is request 4:",
        "  GET /v1/things: refused, status 429 Too Many Requests",
        "    GET /v1/things: refused by `per key`",
        "      category `reads`",
        "      policy `per ip`, by `ip`: passes; 6 of 9 left, the request costs 1; more in 1 hour",
        "      policy `per key`, by `x-api-key`: refuses, as too few units are left; 0 of 3 left, the \
         request costs 1; more in 1 minute; it passes in 1 minute",
        "      policy `trial`, a dry run, by `all`: refuses, as too few units are left; 0 of 1 left, the \
         request costs 1; more in 1 day; it passes in 1 day",
    ];
    let too_few = failure(|| _ = client.expect_admitted(4));
    assert_eq!(too_few.lines().collect::<Vec<_>>(), expected);

    let too_many = failure(|| _ = client.expect_admitted(2));
    assert!(too_many.contains("request 3:\n  GET /v1/things: admitted, status 200"), "{too_many}");
    let header = failure(|| _ = client.expect_header("x-ratelimit-remaining", "7"));
    assert!(
        header.starts_with("expected the header `x-ratelimit-remaining: 7` of the last response:"),
        "{header}"
    );
    assert!(header.contains("\n    x-ratelimit-remaining: 0\n"), "{header}");
    let status = failure(|| _ = client.expect_status(200));
    assert!(status.contains("status 429"), "{status}");
    for text in [too_few, too_many, header, status] {
        assert!(!text.contains("secret"), "{text}");
    }
}

#[test]
fn an_assertion_shows_a_request_that_a_policy_does_not_count() {
    let by_key = Policy::token_bucket("by key", Quota::per_minute(1)).key(bearer());
    let on_trial = Policy::token_bucket("on trial", Quota::per_minute(1)).global().dry_run();
    let builder =
        || Limiter::builder().policy(per_ip(Quota::per_minute(1))).policy(on_trial.clone());
    let mut client = client_of(builder().policy(by_key.clone().or_refuse()));
    client.send(2, "/").expect_refused(2).expect_counted_by("by key");
    let mut client = client_of(builder().policy(by_key.or_skip()));
    client.send(2, "/").expect_counted_by("per ip").expect_counted_by("on trial");
    for policy in ["by key", "misspelt"] {
        let message = failure(|| {
            client.expect_counted_by(policy);
        });
        let expected = format!(
            "expected policy `{policy}` to count each request; the first that it has not counted is request 1:\n"
        );
        assert!(message.starts_with(&expected) && message.contains("per ip"), "{message}");
    }
    let none = failure(|| {
        client.send(0, "/").expect_counted_by("per ip");
    });
    assert_eq!(none, "expected requests, but none was sent");
}

#[test]
fn the_panic_is_where_the_test_asserts() {
    let mut client = client(per_ip(Quota::per_minute(1)));
    let found = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let (write, before) = (found.clone(), std::panic::take_hook());
    let this = std::thread::current().id();
    std::panic::set_hook(Box::new(move |panic| match std::thread::current().id() == this {
        true => *write.lock().unwrap() = panic.location().unwrap().file().to_owned(),
        false => before(panic),
    }));
    failure(|| _ = client.send(1, "/").expect_refused(1));
    assert!(found.lock().unwrap().ends_with("test_kit.rs"), "{found:?}");
}

#[test]
fn requests_that_no_layer_has_seen_are_not_admitted() {
    let mut client = TestClient::of(service_fn(async |_: Request<String>| {
        Ok::<_, Infallible>(Response::new(String::new()))
    }));
    client.send(1, "/").expect_status(200).expect_admitted(0);
    let text = failure(|| _ = client.expect_admitted(1));
    assert!(text.contains("1 were answered without a decision of tower-quota"), "{text}");
    let text = failure(|| _ = client.expect_refused(0));
    assert!(text.contains("no layer has decided about\n  GET /: answered"), "{text}");
    assert!(failure(|| _ = client.advance(SECOND)).contains("no clock to move"));
}

#[test]
fn a_retry_after_is_compared_in_whole_seconds_only() {
    let mut client = client(per_ip(Quota::per_minute(1)));
    client.send(2, "/").expect_refused(1).expect_retry_after(MINUTE);
    let text = failure(|| _ = client.expect_retry_after(MINUTE + SECOND / 2));
    assert!(text.contains("no response has one of 60.5s"), "{text}");
}

#[test]
fn only_a_manual_clock_is_moved() {
    let mut client = client_of(Limiter::builder().policy(per_ip(Quota::per_hour(1))));
    client.send(2, "/").expect_admitted(1);
    assert!(failure(|| _ = client.advance(SECOND)).contains("`.clock(Clock::manual())`"));
}

#[test]
fn a_service_that_fails_is_no_refusal() {
    let layer =
        RateLimitLayer::new(Limiter::builder().policy(per_ip(Quota::per_hour(2))).build().unwrap());
    let service =
        ServiceBuilder::new().layer(layer).service(service_fn(async |_: Request<String>| {
            Err::<Response<String>, _>(std::io::Error::other("the cable is out"))
        }));
    let mut client = TestClient::of(service);
    client.send(3, "/").expect_failed(2).expect_refused(1);
    let text = failure(|| _ = client.expect_admitted(1));
    assert!(text.contains("GET /: failed, as the cable is out"), "{text}");
}

/// A router whose handler uses the runtime: it sleeps in real time, and spawns.
fn sleepy(
    clock: Clock,
) -> impl tower::Service<
    Request<String>,
    Response = Response<tower_quota::ResponseBody<Full<Bytes>>>,
    Error = Infallible,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let bucket = Policy::token_bucket("p", Quota::per_second(2)).global().hold(SECOND);
    let limiter = Limiter::builder().clock(clock).policy(bucket).build().unwrap();
    ServiceBuilder::new().layer(RateLimitLayer::new(limiter)).service(service_fn(
        async |request: Request<String>| {
            let slept = tokio::spawn(tokio::time::sleep(Duration::from_millis(5)));
            slept.await.unwrap();
            Ok(Response::new(Full::from(request.into_body())))
        },
    ))
}

#[test]
fn a_request_of_another_client_that_is_held_is_not_taken_for_one_of_this_client() {
    let clock = Clock::manual();
    let mut held = client_of(
        Limiter::builder().clock(clock.clone()).policy(per_ip(Quota::per_minute(1)).hold(MINUTE)),
    );
    held.send(2, "/").expect_held(1);
    let mut client = TestClient::of(sleepy(clock));
    client.send(1, Request::post("/").body("echo").unwrap()).expect_admitted(1);
}

fn handlers_may_sleep_and_spawn() {
    let request = || Request::post("/").body("echo").unwrap();
    let mut client = TestClient::of(sleepy(Clock::manual()));
    client.send(5, request()).expect_admitted(2).expect_held(2).expect_refused(1);
    client.advance(SECOND).expect_admitted(4).expect_held(0);
    assert_eq!(client.responses().next().unwrap().body(), "echo");
}

#[test]
fn in_a_plain_test_handlers_may_sleep_and_spawn() {
    handlers_may_sleep_and_spawn();
}

#[tokio::test]
async fn in_a_test_of_tokio_handlers_may_sleep_and_spawn() {
    handlers_may_sleep_and_spawn();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn in_a_test_with_threads_handlers_may_sleep_and_spawn() {
    handlers_may_sleep_and_spawn();
}

#[test]
fn an_open_response_keeps_its_unit_in_flight() {
    let exports = Policy::in_flight("exports", 2).global().hold(MINUTE);
    let mut client = client(exports);
    client.open(3, "/").expect_admitted(2).expect_held(1);
    client.close().expect_admitted(3).close();
    client.send(9, "/").expect_admitted(9);
}

#[test]
fn nested_layers_are_all_recorded_and_any_refuses() {
    let clock = Clock::manual();
    let limiter =
        |quota| Limiter::builder().clock(clock.clone()).policy(per_ip(quota)).build().unwrap();
    let service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(limiter(Quota::per_minute(3))))
        .layer(RateLimitLayer::new(limiter(Quota::per_minute(2))))
        .service(service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
    let mut client = TestClient::of(service);
    client.send(4, "/").expect_admitted(2).expect_refused(2);
    assert_eq!(client.decisions().len(), 2 + 2 + 2 + 1, "the inner one does not see the fourth");
    client.advance(MINUTE).send(1, "/").expect_admitted(1);
}

#[tokio::test]
async fn a_recorder_observes_a_layer_and_is_emptied() {
    let recorder = DecisionRecorder::new();
    let limiter = Limiter::builder().policy(per_ip(Quota::per_hour(1))).build().unwrap();
    let layer = RateLimitLayer::builder(limiter).observe(recorder.clone()).build().unwrap();
    TestClient::new(layer).send(2, "/v1/things");
    let reasons: Vec<_> = recorder
        .decisions()
        .iter()
        .map(|one| (one.path().to_owned(), one.decision().unwrap().reason()))
        .collect();
    let path = || "/v1/things".to_owned();
    assert_eq!(reasons, [(path(), None), (path(), Some(Reason::QuotaExceeded))]);
    assert_eq!(recorder.take().len(), 2);
    assert!(recorder.take().is_empty());
}

/// Uses three units of five an hour, and then sends ten requests while the store has a fault.
fn with_a_fault(on_failure: OnStoreFailure, fault: impl Fn(&FaultyStore)) -> TestClient {
    let store = FaultyStore::new(MemoryStore::default());
    let policy = per_ip(Quota::per_hour(5)).on_store_failure(on_failure);
    let builder = Limiter::builder().clock(Clock::manual()).store(store.clone()).policy(policy);
    let mut client = client_of(builder);
    client.send(3, "/").expect_admitted(3);
    fault(&store);
    client.send(10, "/");
    store.recover();
    client
}

#[test]
fn a_failing_store_shows_what_each_setting_does() {
    let fail = FaultyStore::fail;
    with_a_fault(OnStoreFailure::Allow, fail).expect_admitted(10).send(9, "/").expect_admitted(2);
    with_a_fault(OnStoreFailure::Refuse, fail).expect_status(503).expect_refused(10);
    let share = OnStoreFailure::CountLocally { replicas: 2 };
    with_a_fault(share, fail).expect_admitted(2).send(9, "/").expect_admitted(2);
    let none = |_: &FaultyStore| {};
    with_a_fault(OnStoreFailure::Refuse, none).expect_admitted(2).expect_status(429);
    let text = failure(|| {
        with_a_fault(OnStoreFailure::Refuse, fail).expect_admitted(1);
    });
    assert!(
        text.contains("policy `per ip`, by `ip`: refuses, as the store does not answer"),
        "{text}"
    );
}

#[test]
fn a_store_that_times_out_answers_when_the_clock_is_moved() {
    let clock = Clock::manual();
    let store = FaultyStore::new(MemoryStore::default());
    let policy = per_ip(Quota::per_hour(5)).on_store_failure(OnStoreFailure::Refuse);
    let mut client =
        client_of(Limiter::builder().clock(clock.clone()).store(store.clone()).policy(policy));
    store.time_out(&clock, SECOND);
    client.send(2, "/").expect_held(2).advance(SECOND - Duration::from_nanos(1)).expect_held(2);
    clock.advance(Duration::from_nanos(1));
    client.expect_refused(2).expect_status(503);
    store.recover();
    client.send(6, "/").expect_admitted(5);
}

#[test]
fn what_is_no_request_fails_at_once() {
    let mut client = client(per_ip(Quota::per_hour(5)));
    assert!(failure(|| _ = client.send(1, "no path")).contains("this is no request"));
}
