//! The inner service is called only after the verdict, only when it was polled ready, and keeps
//! nothing while a verdict is awaited.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::sync::Notify;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Now, Policy, Quota, RateLimitLayer,
    store::{Charge, Correction, MemoryStore, Store, StoreFuture},
};

type Body = Full<Bytes>;

/// Panics when it is called without having been polled ready, as some services do.
#[derive(Default)]
struct Touchy {
    ready: bool,
    calls: Arc<AtomicUsize>,
}

impl Clone for Touchy {
    fn clone(&self) -> Self {
        Self { ready: false, calls: Arc::clone(&self.calls) }
    }
}

impl Service<Request<Body>> for Touchy {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without having been polled ready");
        self.calls.fetch_add(1, SeqCst);
        std::future::ready(Ok(Response::default()))
    }
}

/// A store that answers when the test lets it.
#[derive(Clone, Default)]
struct SlowStore {
    memory: Arc<MemoryStore>,
    go: Arc<Notify>,
}

impl Store for SlowStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let usages = self.memory.charge(charges, now);
        let go = Arc::clone(&self.go);
        StoreFuture::later(async move {
            go.notified().await;
            usages.await
        })
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.memory.correct(corrections, now)
    }
}

fn two_a_minute() -> Policy {
    Policy::fixed_window("two a minute", Quota::per_minute(2)).global()
}

fn layer(store: impl Store) -> RateLimitLayer {
    RateLimitLayer::new(Limiter::builder().policy(two_a_minute()).store(store).build().unwrap())
}

fn request() -> Request<Body> {
    Request::default()
}

#[tokio::test]
async fn the_instance_that_was_polled_ready_is_the_one_that_is_called() {
    let inner = Touchy::default();
    let calls = Arc::clone(&inner.calls);
    let mut service = layer(MemoryStore::new()).layer(inner);
    for _ in 0..5 {
        service.ready().await.unwrap().call(request()).await.unwrap();
    }
    assert_eq!(calls.load(SeqCst), 2, "refused requests never reach the inner service");
}

#[tokio::test]
async fn after_a_late_verdict_the_instance_is_polled_ready_again() {
    let inner = Touchy::default();
    let calls = Arc::clone(&inner.calls);
    let store = SlowStore::default();
    let go = Arc::clone(&store.go);
    let mut service = layer(store).layer(inner);
    for status in [200, 200, 429] {
        let mut response = stepped(service.ready().await.unwrap().call(request()));
        assert!(response.poll_once().await.is_none(), "there is no verdict yet");
        let calls_before = calls.load(SeqCst);
        go.notify_one();
        assert_eq!(response.finish().await.status(), status);
        assert_eq!(calls.load(SeqCst) - calls_before, usize::from(status == 200));
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_concurrency_limit_of_one_nothing_deadlocks() {
    let store = SlowStore::default();
    let go = Arc::clone(&store.go);
    let service =
        ServiceBuilder::new().layer(layer(store)).concurrency_limit(1).service(Touchy::default());

    // Two requests wait for their verdicts; the one permit is free all the while.
    let mut first = stepped(service.clone().oneshot(request()));
    let mut second = stepped(service.clone().oneshot(request()));
    assert!(first.poll_once().await.is_none());
    assert!(second.poll_once().await.is_none());

    // The verdict of the second comes first.
    go.notify_one();
    go.notify_one();
    let both = async { (second.finish().await.status(), first.finish().await.status()) };
    let both = tokio::time::timeout(Duration::from_secs(5), both).await;
    assert_eq!(both.unwrap(), (StatusCode::OK, StatusCode::OK));
}

#[tokio::test(start_paused = true)]
async fn under_a_buffer_the_permit_of_a_waiting_request_is_free() {
    let store = SlowStore::default();
    let go = Arc::clone(&store.go);
    let inner = ServiceBuilder::new().concurrency_limit(1).service(Touchy::default());
    // The buffer keeps one instance for ever: a permit left in it would never come back.
    let service = ServiceBuilder::new().buffer(8).layer(layer(store)).service(inner.clone());
    let waiting = tokio::spawn(service.clone().oneshot(request()));
    tokio::task::yield_now().await;

    let elsewhere = tokio::time::timeout(Duration::from_secs(5), inner.oneshot(request())).await;
    assert_eq!(elsewhere.expect("the permit is free").unwrap().status(), 200);
    go.notify_one();
    assert_eq!(waiting.await.unwrap().unwrap().status(), 200);
}

#[tokio::test]
async fn an_inner_error_stays_what_it_is() {
    let failing = service_fn(|_: Request<Body>| async { Err::<Response<Body>, _>("broken") });
    let mut service = layer(MemoryStore::new()).layer(failing);
    assert_eq!(service.ready().await.unwrap().call(request()).await.unwrap_err(), "broken");
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_verdict_calls_nothing() {
    let inner = Touchy::default();
    let calls = Arc::clone(&inner.calls);
    let store = SlowStore::default();
    let go = Arc::clone(&store.go);
    let mut response = stepped(layer(store).layer(inner).oneshot(request()));
    assert!(response.poll_once().await.is_none());
    drop(response);
    go.notify_one();
    tokio::task::yield_now().await;
    assert_eq!(calls.load(SeqCst), 0);
}

/// A future that is polled step by step.
struct Stepped<F>(std::pin::Pin<Box<F>>);

fn stepped<F: Future>(future: F) -> Stepped<F> {
    Stepped(Box::pin(future))
}

impl<F: Future<Output = Result<R, E>>, R, E: std::fmt::Debug> Stepped<F> {
    async fn poll_once(&mut self) -> Option<R> {
        let polled = std::future::poll_fn(|context| Poll::Ready(self.0.as_mut().poll(context)));
        match polled.await {
            Poll::Ready(done) => Some(done.unwrap()),
            Poll::Pending => None,
        }
    }

    async fn finish(self) -> R {
        self.0.await.unwrap()
    }
}
