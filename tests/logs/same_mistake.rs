//! A subscriber whose own use of a limiter shows the mistake that it logs.

use std::{
    pin::pin,
    sync::mpsc,
    task::{Context, Poll, Waker},
    thread,
    time::Duration,
};

use http::{Request, request::Parts};
use tower_quota::{Limiter, Policy, Quota, Reason, key::ClientIp};
use tracing_subscriber::layer::{self, Layer, SubscriberExt};

struct Decides(Limiter);

impl<S: tracing::Subscriber> Layer<S> for Decides {
    fn on_event(&self, _: &tracing::Event<'_>, _: layer::Context<'_, S>) {
        decide(&self.0);
    }
}

/// Without a plan of the table, an address, or a valid quota.
fn request() -> Parts {
    Request::new(()).into_parts().0
}

/// Without a runtime: a subscriber may be called in one.
fn decide(limiter: &Limiter) -> Option<Reason> {
    let mut deciding = pin!(limiter.decide(&request()));
    match deciding.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(decision) => decision.reason(),
        Poll::Pending => panic!("the store in memory answers at once"),
    }
}

#[test]
fn a_subscriber_may_cause_the_mistake_that_it_logs() {
    let policy = |name: &str| Policy::token_bucket(name, Quota::per_minute(1_000));
    for policy in [
        policy("unknown plan").global().plans([("pro", Quota::per_minute(9))], |_| Some("por")),
        policy("invalid plan").global().quota_by(|_| Some(Quota::per_window(1, Duration::ZERO))),
        policy("no peer").key(ClientIp::new()).or_skip(),
    ] {
        let name = policy.name().to_owned();
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        let (done, is_done) = mpsc::channel();
        thread::spawn(move || {
            let subscriber = tracing_subscriber::registry().with(Decides(limiter.clone()));
            tracing::subscriber::with_default(subscriber, || decide(&limiter));
            done.send(()).unwrap();
        });
        let ended = is_done.recv_timeout(Duration::from_secs(20));
        assert!(ended.is_ok(), "{name}: no thread waits for itself");
    }
}
