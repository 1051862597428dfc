//! Holding without a timer: a refusal at once, and nothing is left in the queue. In a process of its
//! own, because it reads all warnings of the process.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, request::Parts};
use tower_quota::{
    Limiter, Policy, Quota, Reason,
    key::header,
    warning::{Code, warnings},
};

fn request() -> Parts {
    Request::get("/").header("x-key", "a").body(()).unwrap().into_parts().0
}

/// One an hour, for which the next waits.
fn limiter() -> Limiter {
    let policy = Policy::token_bucket("p", Quota::per_hour(1)).key(header("x-key")).or_refuse();
    let policy = policy.hold(Duration::from_secs(3 * 3_600));
    Limiter::builder().policy(policy).max_held_per_key(1).build().unwrap()
}

fn poll<T>(future: impl Future<Output = T>) -> Poll<T> {
    pin!(future).poll(&mut Context::from_waker(Waker::noop()))
}

/// Asks more often than the line has room.
fn is_refused_at_once(limiter: &Limiter) {
    for _ in 0..3 {
        let Poll::Ready(decision) = poll(limiter.decide(&request())) else {
            panic!("it waits");
        };
        assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
        assert!(
            decision.outcomes().next().unwrap().retry_after() > Some(Duration::from_secs(3_500))
        );
    }
}

/// There is room for one in the line, and it is free.
fn has_room(limiter: &Limiter) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _inside = runtime.enter();
    assert!(poll(limiter.decide(&request())).is_pending());
}

#[test]
fn without_a_timer_a_request_is_refused_and_its_place_is_free() {
    let limiter = limiter();
    assert!(poll(limiter.decide(&request())).is_ready(), "the first needs no holding");
    is_refused_at_once(&limiter);
    has_room(&limiter);

    let without_time = tokio::runtime::Builder::new_current_thread().build().unwrap();
    {
        let _inside = without_time.enter();
        is_refused_at_once(&limiter);
    }
    has_room(&limiter);

    let told: Vec<_> = warnings().into_iter().map(|warning| warning.code()).collect();
    assert_eq!(told, [Code::NoTimer]);
}
