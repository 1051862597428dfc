//! What the request log adds to a request, and how long a page of a large log takes.
//!
//! `cargo bench -p tower-quota-benches --features usage-sqlite --bench usage`
//! prints the tables. Rounds alternate, so that noise hits all alike. A figure is the median over
//! rounds, with the quartiles beside it; on a busy machine, the fastest rounds say more. A thread of
//! the log writes the file meanwhile. Between rounds it may catch up, so that each entry is written.

use std::{
    convert::Infallible,
    pin::pin,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_quota::{
    Category, Limiter, Matcher, Policy, Quota, RateLimitLayer,
    key::{Caller, Fingerprint, header},
    usage::{Entry, MemoryLog, Reader, RequestLog, Sink, SqliteLog, TracingLog},
};
use tracing_subscriber::layer::SubscriberExt;

type Body = Empty<Bytes>;

const ROUNDS: usize = 41;
const REQUESTS: usize = 5_000;
const KEYS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = SqliteLog::builder(folder.path().join("log")).build().expect("a file");
    let memory = MemoryLog::new();
    let log = || RequestLog::builder(Caller::new(header("x-api-key")).secret(7));
    let all = log().sink(memory.clone()).sink(file.clone()).sink(TracingLog::new());
    let all = all.remember_keys(10_000);
    let layers = [
        ("off", None),
        ("memory", Some(log().sink(memory))),
        ("file", Some(log().sink(file.clone()))),
        ("events, to a subscriber that keeps none", Some(log().sink(TracingLog::new()))),
        ("everything", Some(all)),
    ];
    let layers =
        layers.map(|(name, log)| (name, layer(log.map(|log| log.build().expect("a log")))));
    // What a subscriber makes of an event is its own.
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(Discard));

    let requests: Vec<_> = (0..KEYS).map(|key| format!("sk_live_{key:032x}")).collect();
    let mut times = layers.each_ref().map(|_| Vec::new());
    for round in 0..ROUNDS + 3 {
        for ((_, layer), times) in layers.iter().zip(&mut times) {
            let time = time(layer, &requests);
            assert!(file.flush(PATIENCE));
            // The first rounds fill what is filled once.
            if round >= 3 {
                times.push(time.as_secs_f64() * 1e9 / REQUESTS as f64);
            }
        }
    }
    assert_eq!(file.stats().lost, 0);
    println!("| log | ns a request | added | added to the fastest round |\n|---|---|---|---|");
    let off = times[0].clone();
    let fastest = |times: &[f64]| times.iter().copied().fold(f64::MAX, f64::min);
    for ((name, _), times) in layers.iter().zip(times) {
        let added = times.iter().zip(&off).map(|(with, without)| with - without).collect();
        let at_best = fastest(&times) - fastest(&off);
        println!("| {name} | {} | {} | {at_best:.0} |", spread(times), spread(added));
    }
    drop(file);
    page(&folder.path().join("large"));
}

fn layer(log: Option<RequestLog>) -> RateLimitLayer {
    let policy = Policy::token_bucket("read", Quota::per_second(1_000_000_000));
    let reads = Category::new("read").on(Matcher::get("/things/{id}"));
    let reads = reads.policy(policy.key(header("x-api-key")).or_refuse());
    let limiter = Limiter::builder().category(reads).build().expect("settings that work");
    let layer = RateLimitLayer::builder(limiter);
    match log {
        Some(log) => layer.observe(log),
        None => layer,
    }
    .build()
    .expect("settings that work")
}

/// How long it takes from `call` to the response, for all requests together.
fn time(layer: &RateLimitLayer, keys: &[String]) -> Duration {
    let handler =
        service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::new())) });
    let mut service = layer.layer(handler);
    let mut context = Context::from_waker(Waker::noop());
    let requests: Vec<_> = (0..REQUESTS)
        .map(|n| Request::get("/things/7").header("x-api-key", &keys[n * 7_919 % KEYS]))
        .map(|request| request.body(Body::new()).expect("a request"))
        .collect();
    let start = Instant::now();
    for request in requests {
        assert!(service.poll_ready(&mut context).is_ready());
        let mut response = pin!(service.call(request));
        let Poll::Ready(Ok(response)) = response.as_mut().poll(&mut context) else {
            unreachable!("the memory store answers at once")
        };
        assert_eq!(response.status(), 200);
    }
    start.elapsed()
}

/// Median and quartiles.
fn spread(mut times: Vec<f64>) -> String {
    times.sort_by(f64::total_cmp);
    let at = |part: usize| times[times.len() * part / 4];
    format!("{:.0} ({:.0} to {:.0})", at(2), at(1), at(3))
}

/// A page of 100 among 1,000,000 entries, of a key that has a tenth of them.
fn page(path: &std::path::Path) {
    let file = SqliteLog::builder(path).max_waiting(2_000_000).build().expect("a file");
    let seen = KeyOf::default();
    let log = RequestLog::builder(Caller::new(header("x-api-key")).secret(7));
    let layer = layer(Some(log.sink(file.clone()).sink(seen.clone()).build().expect("a log")));
    let keys: Vec<_> = (0..KEYS).map(|key| format!("sk_live_{:032x}", key % 10)).collect();
    for _ in 0..1_000_000 / REQUESTS {
        time(&layer, &keys);
    }
    assert!(file.flush(PATIENCE) && file.stats().written == 1_000_000);
    let key = seen.0.lock().expect("no panic").expect("a request was made");
    let mut times = Vec::new();
    let mut before = None;
    for _ in 0..900 {
        let start = Instant::now();
        let page = file.entries(key, before, 100).expect("it can be read");
        times.push(start.elapsed().as_secs_f64() * 1e6);
        assert_eq!(page.entries.len(), 100);
        before = page.next;
    }
    let longest = times.iter().copied().fold(0.0, f64::max);
    println!(
        "\na page of 100 among 1,000,000 entries: {} µs, at most {longest:.0} µs",
        spread(times)
    );
}

/// The key of the last request.
#[derive(Clone, Default)]
struct KeyOf(std::sync::Arc<std::sync::Mutex<Option<Fingerprint>>>);

impl Sink for KeyOf {
    fn record(&self, entry: &Entry) {
        *self.0.lock().expect("no panic") = entry.key.as_ref().map(|key| key.fingerprint);
    }
}

/// Visits the fields of events, and keeps none.
struct Discard;

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Discard {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Visit;
        impl tracing::field::Visit for Visit {
            fn record_debug(&mut self, _: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                std::hint::black_box(value);
            }
        }
        event.record(&mut Visit);
    }
}
