//! What the layer tells of units in flight, and how they go with other policies.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use proptest::{collection::vec, prelude::*};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Clock, HeaderStyle, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer, ResponseBody,
    key::header, warning,
};

type Answer = Response<ResponseBody<Full<Bytes>>>;

fn streams() -> Policy {
    Policy::in_flight("streams", 2).key(header("x-key")).or_refuse()
}

fn requests(units: u64) -> Policy {
    Policy::token_bucket("requests", Quota::per_hour(units)).key(header("x-key")).or_refuse()
}

fn layer(limiter: &Limiter) -> RateLimitLayer {
    RateLimitLayer::builder(limiter.clone())
        .headers([HeaderStyle::ratelimit_lists()])
        .build()
        .unwrap()
}

async fn send_to(limiter: &Limiter, key: &str, status: StatusCode) -> Answer {
    let handler = service_fn(move |_: Request<()>| async move {
        let mut response = Response::new(Full::from("done"));
        *response.status_mut() = status;
        Ok::<_, std::convert::Infallible>(response)
    });
    let request = Request::get("/").header("x-key", key).body(()).unwrap();
    layer(limiter).layer(handler).oneshot(request).await.unwrap()
}

async fn send(limiter: &Limiter) -> Answer {
    send_to(limiter, "a", StatusCode::OK).await
}

fn left(limiter: &Limiter, policy: &str) -> u64 {
    limiter.peek(policy, "a").at_once().unwrap().outcome(policy).unwrap().remaining()
}

fn told<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn headers_tell_what_is_left_and_no_moment_that_nobody_knows() {
    let limiter = Limiter::builder().policy(streams()).build().unwrap();
    let first = send(&limiter).await;
    assert_eq!(
        told(first.headers(), "ratelimit-policy"),
        r#""streams";q=2;qu="concurrent-requests""#
    );
    assert_eq!(told(first.headers(), "ratelimit"), r#""streams";r=1"#);
    let second = send(&limiter).await;
    let refused = send(&limiter).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(told(refused.headers(), "ratelimit"), r#""streams";r=0"#);
    assert!(!refused.headers().contains_key("retry-after"));
    let body = refused.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["message"], "Quota of policy `streams` is used up (2 in flight).");
    assert!(body.get("retry_after").is_none());

    drop(first);
    assert_eq!(send(&limiter).await.status(), StatusCode::OK);
    drop(second);
}

#[tokio::test]
async fn every_style_leaves_the_reset_out() {
    for (style, names) in [
        (HeaderStyle::x_ratelimit(), ["x-ratelimit-remaining", "x-ratelimit-reset"]),
        (HeaderStyle::ratelimit(), ["ratelimit-remaining", "ratelimit-reset"]),
    ] {
        let limiter = Limiter::builder().policy(streams()).build().unwrap();
        let layer = RateLimitLayer::builder(limiter).headers([style]).build().unwrap();
        let handler = service_fn(|_: Request<()>| async {
            // An inner layer has told one.
            let inner = Response::builder().header("ratelimit-reset", "7");
            let inner = inner.header("x-ratelimit-reset", "7").body(Full::<Bytes>::default());
            Ok::<_, std::convert::Infallible>(inner.unwrap())
        });
        let request = Request::get("/").header("x-key", "a").body(()).unwrap();
        let response = layer.layer(handler).oneshot(request).await.unwrap();
        assert_eq!(names.map(|name| told(response.headers(), name)), ["1", ""]);
    }
}

#[tokio::test]
async fn a_refusal_tells_the_wait_that_the_policy_says() {
    let wait = Duration::from_secs(5);
    let limiter = Limiter::builder().policy(streams().retry_after(wait)).build().unwrap();
    let held = [send(&limiter).await, send(&limiter).await];
    let refused = send(&limiter).await;
    assert_eq!(told(refused.headers(), "retry-after"), "5");
    drop(held);
}

#[tokio::test]
async fn a_refused_request_holds_nothing_and_costs_nothing() {
    let limiter = Limiter::builder().policy(streams()).policy(requests(3)).build().unwrap();
    let held = [send(&limiter).await, send(&limiter).await];
    assert_eq!(send(&limiter).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((left(&limiter, "streams"), left(&limiter, "requests")), (0, 1));
    drop(held);
    drop(send(&limiter).await);
    assert_eq!(send(&limiter).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!((left(&limiter, "streams"), left(&limiter, "requests")), (2, 0));
}

#[tokio::test]
async fn a_smaller_quota_takes_no_unit_back_and_gives_no_other_one() {
    let limits = |units| {
        let policy = Policy::in_flight("streams", units).key(header("x-key")).or_refuse();
        Limiter::builder().policy(policy)
    };
    let limiter = limits(3).build().unwrap();
    let mut held = vec![send(&limiter).await, send(&limiter).await, send(&limiter).await];
    limiter.apply(limits(1)).unwrap();
    for left_to_end in (0..3).rev() {
        assert_eq!(send(&limiter).await.status(), StatusCode::TOO_MANY_REQUESTS);
        held.truncate(left_to_end);
    }
    assert_eq!(left(&limiter, "streams"), 1);
    // A policy that is gone, and comes back, still knows what is held.
    let held = send(&limiter).await;
    limiter.apply(Limiter::builder()).unwrap();
    limiter.apply(limits(1)).unwrap();
    assert_eq!(send(&limiter).await.status(), StatusCode::TOO_MANY_REQUESTS);
    limiter.apply(Limiter::builder()).unwrap();
    drop(held);
    limiter.apply(limits(1)).unwrap();
    assert_eq!(left(&limiter, "streams"), 1);
}

#[tokio::test]
async fn an_upgrade_whose_permit_nobody_keeps_is_reported() {
    let policy = Policy::in_flight("forgotten sockets", 2).key(header("x-key")).or_refuse();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    drop(send_to(&limiter, "a", StatusCode::OK).await);
    let given = || {
        let all = warning::warnings().into_iter();
        all.filter(|warning| warning.culprit() == "forgotten sockets").count()
    };
    assert_eq!(given(), 0);
    drop(send_to(&limiter, "a", StatusCode::SWITCHING_PROTOCOLS).await);
    assert_eq!(given(), 1);
    assert_eq!(left(&limiter, "forgotten sockets"), 2);
}

/// A request under several plans, which begins or ends.
#[derive(Clone, Debug)]
enum Step {
    Begins { key: u8, plan: u64 },
    Ends(usize),
    Applies(u64),
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Beside a naive model: a number for each key.
    #[test]
    fn no_key_ever_holds_more_than_its_quota_and_all_comes_back(
        steps in vec(prop_oneof![
            4 => (0..3_u8, 0..6_u64).prop_map(|(key, plan)| Step::Begins { key, plan }),
            3 => (0..9_usize).prop_map(Step::Ends),
            1 => (1..6_u64).prop_map(Step::Applies),
        ], 1..80),
    ) {
        let limits = |units: u64| -> LimiterBuilder {
            Limiter::builder().check_only(Policy::in_flight("p", units))
        };
        let limiter = limits(3).clock(Clock::system()).build().unwrap();
        let (mut own, mut held) = (3, Vec::new());
        for step in steps {
            match step {
                Step::Begins { key, plan } => {
                    let exports = limiter.policy("p").unwrap();
                    let name = key.to_string();
                    let (units, enter) = match plan {
                        0 => (own, exports.enter(&*name)),
                        plan => (plan, exports.enter(&*name).quota(Quota::in_flight(plan))),
                    };
                    let before = held.iter().filter(|(other, _)| *other == key).count() as u64;
                    let entered = enter.at_once();
                    prop_assert_eq!(entered.is_ok(), before < units, "{} of {}", before, units);
                    held.extend(entered.ok().map(|permit| (key, permit)));
                }
                Step::Ends(index) if index < held.len() => drop(held.swap_remove(index)),
                Step::Ends(_) => {}
                Step::Applies(units) => {
                    limiter.apply(limits(units)).unwrap();
                    own = units;
                }
            }
        }
        drop(held);
        for key in ["0", "1", "2"] {
            let peeked = limiter.peek("p", key).at_once().unwrap();
            prop_assert_eq!(peeked.outcome("p").unwrap().remaining(), own);
        }
    }
}
