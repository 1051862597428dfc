//! Observers of a layer: each sees each request, and its end once.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use http_body_util::Empty;
use tower::{Layer, Service, service_fn};
use tower_quota::{
    Ended, Limiter, PendingResponse, Policy, Quota, RateLimitLayer, ResponseObserver, key,
};

/// Notes what it sees, under its name.
#[derive(Clone)]
struct Notes(&'static str, Arc<Mutex<Vec<String>>>);

impl Notes {
    fn note(&self, what: &str) {
        self.1.lock().unwrap().push(format!("{} {what}", self.0));
    }
}

impl ResponseObserver for Notes {
    fn start(&self, _: &Limiter, request: &Parts) -> Box<dyn PendingResponse> {
        self.note(request.uri.path());
        Box::new(self.clone())
    }
}

impl PendingResponse for Notes {
    fn finish(self: Box<Self>, ended: Ended<'_>) {
        let decided = ended.decision.map(|decision| decision.is_allowed());
        self.note(&format!("{decided:?} {:?}", ended.status.map(|status| status.as_u16())));
    }
}

#[tokio::test(start_paused = true)]
async fn each_of_several_observers_sees_each_request_and_its_end() {
    let policy = Policy::fixed_window("p", Quota::per_hour(1))
        .key(key::header("x-key"))
        .or_refuse()
        .hold(Duration::from_secs(7_200));
    let limiter = Limiter::builder().policy(policy).max_held_per_key(1).build().unwrap();
    let notes = Arc::default();
    let layer = RateLimitLayer::builder(limiter)
        .observe(Notes("first", Arc::clone(&notes)))
        .observe(Notes("second", Arc::clone(&notes)))
        .observe(Notes("third", Arc::clone(&notes)))
        .build()
        .unwrap();
    let respond = service_fn(|_: Request<()>| async {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut service = layer.layer(respond);
    let request = |path: &str| Request::get(path).header("x-key", "k").body(()).unwrap();
    let seen = |path: &str, end: &str| {
        let expected: Vec<_> = ["first", "second", "third"]
            .map(|name| format!("{name} {path}"))
            .into_iter()
            .chain(["first", "second", "third"].map(|name| format!("{name} {end}")))
            .collect();
        assert_eq!(notes.lock().unwrap().drain(..).collect::<Vec<_>>(), expected, "{path}");
    };

    let _ = service.call(request("/admitted")).await;
    seen("/admitted", "Some(true) Some(200)");
    let _ = service.call(Request::get("/refused").body(()).unwrap()).await;
    seen("/refused", "Some(false) Some(400)");
    let held = tokio::time::timeout(Duration::from_secs(1), service.call(request("/left")));
    assert!(held.await.is_err(), "the client leaves while its request is held");
    seen("/left", "None None");
}
