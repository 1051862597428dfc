//! The entry of the request log for each request, however the request ends.
#![cfg(feature = "usage")]

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use tokio::time::{advance, sleep};
use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    Category, Clock, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer, Reason,
    key::{Caller, header},
    usage::{Entry, LoggedKey, LoggedVerdict, RequestLog, Sink},
};

const KEY: &str = "pk_live_4f9a1c77b2e05d3388aa9f2c";
const LABEL: &str = "pk_live_…9f2c";
const START: Duration = Duration::from_secs(1_705_410_000);

type Body = Empty<Bytes>;

/// Keeps all entries.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Entry>>>);

impl Sink for Told {
    fn record(&self, entry: &Entry) {
        self.0.lock().unwrap().push(entry.clone());
    }
}

impl Told {
    fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    fn one(&self) -> Entry {
        let logged = self.take();
        assert_eq!(logged.len(), 1, "{logged:?}");
        logged.into_iter().next().unwrap()
    }

    fn layer(&self, limiter: LimiterBuilder) -> RateLimitLayer {
        let log = RequestLog::builder(header("x-key")).sink(self.clone()).build().unwrap();
        let clock = Clock::tokio(std::time::UNIX_EPOCH + START);
        RateLimitLayer::builder(limiter.clock(clock).build().unwrap()).observe(log).build().unwrap()
    }
}

fn policy(units: u64) -> Policy {
    Policy::fixed_window("read", Quota::per_hour(units)).key(header("x-key")).or_refuse()
}

/// Things are under `/things/{id}`.
fn things(policy: Policy) -> LimiterBuilder {
    let things = Category::new("things").on(Matcher::path("/things/{id}")).policy(policy);
    Limiter::builder().category(things)
}

fn request(uri: &str) -> Request<Body> {
    Request::get(uri).header("x-key", KEY).body(Body::new()).unwrap()
}

/// Answers after 30 ms, with the status that the path ends with.
async fn answer(request: Request<Body>) -> Result<Response<Body>, Infallible> {
    sleep(Duration::from_millis(30)).await;
    let mut response = Response::new(Body::new());
    if let Some((_, status)) = request.uri().path().rsplit_once("/things/") {
        *response.status_mut() = status.parse().unwrap_or(StatusCode::OK);
    }
    Ok(response)
}

#[tokio::test(start_paused = true)]
async fn an_entry_describes_the_request_and_the_decision() {
    let logged = Told::default();
    let mut service =
        ServiceBuilder::new().layer(logged.layer(things(policy(1)))).service_fn(answer);
    advance(Duration::from_millis(1_500)).await;
    service.call(request("/things/404")).await.unwrap();
    let entry = logged.one();
    assert_eq!(entry.at, START + Duration::from_millis(1_500));
    assert_eq!(&*entry.endpoint, "/things/{id}");
    assert_eq!((entry.method, entry.status), ("GET", Some(404)));
    assert_eq!(entry.response_time, Duration::from_millis(30));
    assert_eq!((entry.policy.as_deref(), entry.verdict), (Some("read"), LoggedVerdict::Allowed));
    assert_eq!((entry.units, entry.held), (1, Duration::ZERO));
    assert_eq!(&*entry.key.as_ref().unwrap().label, LABEL);

    service.call(request("/things/404")).await.unwrap();
    let refused = logged.one();
    assert_eq!(refused.status, Some(429));
    assert_eq!(refused.verdict, LoggedVerdict::Refused(Reason::QuotaExceeded));
    assert_eq!((refused.policy.as_deref(), refused.units), (Some("read"), 0));
    assert_eq!(refused.response_time, Duration::ZERO);
    assert_eq!(refused.key, entry.key, "the same key has the same fingerprint");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_counted_is_logged_as_well() {
    let logged = Told::default();
    let limiter = things(policy(1)).exempt(Matcher::path("/health"));
    let mut service = ServiceBuilder::new().layer(logged.layer(limiter)).service_fn(answer);
    service.call(request("/health")).await.unwrap();
    let exempt = logged.one();
    assert_eq!((&*exempt.endpoint, exempt.policy), ("unmatched", None));
    assert_eq!((exempt.verdict, exempt.units), (LoggedVerdict::Allowed, 0));

    service.call(Request::get("/things/1").body(Body::new()).unwrap()).await.unwrap();
    let keyless = logged.one();
    assert_eq!((keyless.status, keyless.key), (Some(400), None));
    assert_eq!(keyless.verdict, LoggedVerdict::Refused(Reason::MissingKey));
}

#[tokio::test(start_paused = true)]
async fn nothing_that_a_caller_writes_is_logged() {
    let logged = Told::default();
    let mut service =
        ServiceBuilder::new().layer(logged.layer(things(policy(100)))).service_fn(answer);
    let hostile = Request::builder()
        .method("SECRET")
        .uri("/things/SECRET?q=SECRET")
        .header("user-agent", "SECRET")
        .header("x-key", "SECRET");
    service.call(hostile.body(Body::new()).unwrap()).await.unwrap();
    service.call(request("/SECRET")).await.unwrap();
    let entries = logged.take();
    assert_eq!(entries[0].method, "_OTHER");
    let printed = format!("{entries:?}");
    assert!(!printed.contains("SECRET") && !printed.contains(KEY), "{printed}");
    assert!(printed.contains("x-key"), "what is no API key is logged by its kind");
}

#[tokio::test(start_paused = true)]
async fn the_entry_of_a_held_request_has_the_time_held() {
    let logged = Told::default();
    let bucket = Policy::token_bucket("smooth", Quota::per_second(10).burst(1));
    let bucket = bucket.key(header("x-key")).or_refuse().hold(Duration::from_secs(1));
    let mut service = ServiceBuilder::new().layer(logged.layer(things(bucket))).service_fn(answer);
    let (first, second) = (service.call(request("/things/1")), service.call(request("/things/1")));
    let (first, second) = tokio::join!(first, second);
    assert!(first.is_ok() && second.is_ok());
    let held: Vec<_> =
        logged.take().iter().map(|entry| (entry.held, entry.response_time)).collect();
    let (ms, zero) = (Duration::from_millis, Duration::ZERO);
    assert_eq!(held, [(zero, ms(30)), (ms(100), ms(130))]);

    drop(service.call(request("/things/1")));
    let left = logged.one();
    assert_eq!((left.verdict, left.status, left.units), (LoggedVerdict::Undecided, None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_response_is_logged_once() {
    let logged = Told::default();
    let layer = logged.layer(things(policy(100)));
    let mut service = ServiceBuilder::new().layer(layer.clone()).service_fn(answer);
    let mut left = Box::pin(service.call(request("/things/1")));
    tokio::select! {
        biased;
        _ = &mut left => panic!("it takes 30 ms"),
        () = sleep(Duration::from_millis(10)) => drop(left),
    }
    let entry = logged.one();
    assert_eq!((entry.verdict, entry.status), (LoggedVerdict::Allowed, None));
    assert_eq!((entry.units, entry.response_time), (1, Duration::from_millis(10)));

    let failing = service_fn(|_| async { Err::<Response<Body>, _>("broken") });
    let failed = ServiceBuilder::new().layer(layer).service(failing).oneshot(request("/things/1"));
    assert_eq!(failed.await.err(), Some("broken"));
    assert_eq!(logged.one().status, None);
}

#[tokio::test(start_paused = true)]
async fn units_are_what_the_response_has_settled() {
    let logged = Told::default();
    let settled = policy(100).settle(|response| Some(u64::from(response.status.as_u16()) - 190));
    let mut service = ServiceBuilder::new().layer(logged.layer(things(settled))).service_fn(answer);
    for (status, units) in [(200, 10), (191, 1), (190, 0)] {
        service.call(request(&format!("/things/{status}"))).await.unwrap();
        assert_eq!(logged.one().units, units);
    }
}

#[tokio::test]
async fn fingerprints_last_as_long_as_the_secret() {
    async fn key(secret: Option<u128>) -> LoggedKey {
        let logged = Told::default();
        let caller = Caller::new(header("x-key"));
        let caller = secret.into_iter().fold(caller, Caller::secret);
        let log = RequestLog::builder(caller)
            .sink(logged.clone())
            .label(|key| format!("{} bytes", key.as_bytes().len()));
        let limiter = Limiter::builder().build().unwrap();
        let layer = RateLimitLayer::builder(limiter).observe(log.build().unwrap()).build().unwrap();
        let mut service = ServiceBuilder::new().layer(layer).service_fn(answer);
        service.call(request("/")).await.unwrap();
        logged.one().key.unwrap()
    }
    assert_eq!(key(Some(1)).await, key(Some(1)).await);
    assert_ne!(key(Some(1)).await, key(Some(2)).await);
    assert_ne!(key(None).await, key(None).await);
    assert_eq!(&*key(None).await.label, "32 bytes");
}

#[test]
fn settings_that_cannot_work_fail() {
    struct File;
    impl Sink for File {
        fn record(&self, _: &Entry) {}

        fn is_persistent(&self) -> bool {
            true
        }
    }
    let problem = |log: tower_quota::usage::RequestLogBuilder| log.build().unwrap_err().to_string();
    let log = || RequestLog::builder(header("x-key"));
    assert_eq!(
        problem(log()),
        "request log: it has nowhere to write to; add `.sink(MemoryLog::new())` or another"
    );
    assert_eq!(
        problem(log().sink(File)),
        "request log: a sink outlives the process, and its fingerprints would not; give the log a `Caller` with a `.secret(…)`"
    );
    let caller = Caller::new(header("x-key")).secret(7);
    assert!(RequestLog::builder(caller).sink(Arc::new(File)).build().is_ok());
    assert_eq!(
        problem(RequestLog::builder(header("x key")).sink(Told::default())),
        "request log: `x key` is no header name; write one like `x-api-key`"
    );
}
