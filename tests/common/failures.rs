//! Requests whose failure is known only at their end: [`count_once_at_the_end`].

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Limiter, LimiterBuilder, Meter, Penalty, Policy, Quota, RateLimitLayer, Reason, key::header,
};

use crate::until;

const HOUR: Duration = Duration::from_secs(3_600);

/// How a request ends, and what it costs.
#[derive(Clone, Copy, Debug)]
struct Sent {
    /// The cost that the head of the response settles; `None` if it settles none.
    head: Option<u64>,
    /// The units that are added to the meter before the end.
    added: Option<u64>,
    /// The units that are added after the end.
    late: u64,
    /// Whether the caller leaves before the response.
    leaves: bool,
    is_failure: bool,
}

const PASSES: Sent = Sent { head: None, added: Some(0), late: 0, leaves: false, is_failure: false };
const FAILS: Sent = Sent { is_failure: true, ..PASSES };

const ALL: [Sent; 12] = [
    PASSES,
    Sent { added: Some(1), ..FAILS },
    Sent { added: Some(40), ..FAILS },
    // What was reserved is the cost.
    Sent { added: None, ..FAILS },
    Sent { head: Some(0), added: None, ..PASSES },
    Sent { head: Some(0), ..PASSES },
    Sent { head: Some(0), added: Some(2), ..FAILS },
    // The head of the response shows it already.
    Sent { head: Some(3), added: None, ..FAILS },
    Sent { head: Some(3), added: Some(5), ..FAILS },
    Sent { added: Some(0), late: 2, ..FAILS },
    // Without a response, only what was added is a failure.
    Sent { added: None, leaves: true, ..PASSES },
    Sent { added: Some(1), leaves: true, ..FAILS },
];

fn sign_ins(unlimited: bool, settles_head: bool) -> Policy {
    let quota = if unlimited { Quota::unlimited() } else { Quota::per_day(1_000_000) };
    let policy = Policy::sliding_window("sign in", quota)
        .key(header("x-key"))
        .or_refuse()
        .cost(|_| 2)
        .settle_at_end()
        .penalty(Penalty::after(2).failures_within(HOUR).block(HOUR));
    match settles_head {
        true => policy.settle(|response| response.extensions.get::<u64>().copied()),
        false => policy,
    }
}

async fn send(limiter: &Limiter, key: &str, what: Sent) -> Option<u16> {
    let handler = service_fn(move |request: Request<Full<Bytes>>| async move {
        let meter = Meter::from_extensions(request.extensions());
        what.added.into_iter().for_each(|units| meter.add(units));
        if what.leaves {
            std::future::pending::<()>().await;
        }
        let mut response = Response::new(Full::new(Bytes::from("body")));
        what.head.map(|cost| response.extensions_mut().insert(cost));
        // A clone adds the units that come late.
        response.extensions_mut().insert(meter);
        Ok::<_, Infallible>(response)
    });
    let request = Request::get("/").header("x-key", key).body(Full::default());
    let service = RateLimitLayer::new(limiter.clone()).layer(handler);
    let mut answered = Box::pin(service.oneshot(request.expect("it has one header")));
    if what.leaves {
        // Long enough to reach the handler.
        let reached = tokio::time::timeout(Duration::from_millis(300), &mut answered).await;
        assert!(reached.is_err(), "it never answers");
        return None;
    }
    let mut response = answered.await.expect("it is infallible");
    let (status, meter) = (response.status().as_u16(), response.extensions_mut().remove::<Meter>());
    response.into_body().collect().await.expect("it is whole");
    if let Some(meter) = meter.filter(|_| what.late > 0) {
        meter.add(what.late);
    }
    Some(status)
}

async fn is_blocked(limiter: &Limiter, key: &str) -> bool {
    let peeked = limiter.peek("sign in", key).await.expect("the policy is there");
    peeked.reason() == Some(Reason::Penalty)
}

/// A request counts as a failure once, by what it has cost at its end, also under an unlimited quota. Two
/// of them begin a block. `builder` has the store.
///
/// # Panics
/// If a failure does not count, or counts twice, or if a success counts.
pub async fn count_once_at_the_end(builder: impl Fn() -> LimiterBuilder) {
    for (unlimited, settles_head) in [(false, true), (false, false), (true, true), (true, false)] {
        let policy = sign_ins(unlimited, settles_head);
        let limiter = builder().policy(policy).build().expect("the policy is in order");
        let all = ALL.iter().filter(|what| settles_head || what.head.is_none());
        for (number, what) in all.enumerate() {
            let key = &*format!("{number}, {unlimited}, {settles_head}");
            send(&limiter, key, *what).await;
            // Whatever it was, it was no more than one failure.
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert!(!is_blocked(&limiter, key).await, "{what:?}, {key}");
            // With one that is, it makes two, or one.
            let failure = Sent { added: Some(1), ..FAILS };
            assert_eq!(send(&limiter, key, failure).await, Some(200), "{what:?}, {key}");
            if what.is_failure {
                let blocks = async || Ok(is_blocked(&limiter, key).await.then_some(()));
                assert!(until(blocks).await.is_ok(), "{what:?}, {key}: no block");
                assert_eq!(send(&limiter, key, PASSES).await, Some(429), "{what:?}, {key}");
            } else {
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(!is_blocked(&limiter, key).await, "{what:?}, {key}: a success counted");
            }
        }
    }
}
