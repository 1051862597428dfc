//! An explanation gives no warning, and is none of the first requests.

use std::time::Duration;

use http::{Request, request::Parts};
use tower_quota::{
    Limiter, Policy, Quota,
    key::{self, ClientIp, PeerAddr},
    warning::{Code, warnings},
};

fn given() -> Vec<(Code, String)> {
    let all = warnings();
    all.iter().map(|given| (given.code(), given.culprit().to_owned())).collect()
}

/// A request that shows each mistake that the limiter has.
fn request() -> Parts {
    let request = Request::post("/v1")
        .header("x-plan", "none of the table")
        .header("content-type", "application/json")
        .header("x-explained-ip", "unknown")
        .extension(PeerAddr(([10, 0, 0, 1], 80).into()));
    request.body(()).unwrap().into_parts().0
}

fn limiter() -> Limiter {
    let client_ip = ClientIp::new().trust_hops(1).header("x-explained-ip");
    let policy = |name, quota| Policy::fixed_window(name, quota);
    let minute = Quota::per_minute(1_000_000);
    Limiter::builder()
        .policy(policy("explained key", minute).key(key::header("x-absent")).or_skip())
        .policy(
            policy("explained body", minute)
                .key(key::body_field("explained"))
                .or_skip()
                .unreadable_as_missing(),
        )
        .policy(policy("explained ip", minute).key(client_ip).or_skip())
        .policy(
            policy("explained plan", minute)
                .global()
                .plans([("pro", minute)], |request| request.headers.get("x-plan")?.to_str().ok()),
        )
        .policy(
            policy("explained quota", minute)
                .global()
                .dry_run()
                .quota_by(|_| Some(Quota::per_window(1, Duration::ZERO))),
        )
        .build()
        .unwrap()
}

#[tokio::test]
async fn only_requests_show_mistakes() {
    let (limiter, request) = (limiter(), request());
    for _ in 0..2_000 {
        let _ = limiter.explain(&request).await;
    }
    let ours = |(_, culprit): &(Code, String)| culprit.contains("explained");
    assert_eq!(given().into_iter().filter(ours).count(), 0);
    // Each of these is reported by the first request, as the explanations have counted for nothing.
    let _ = limiter.decide(&request).await;
    let mut first: Vec<_> = given().into_iter().filter(ours).collect();
    first.sort_by_key(|(code, _)| code.as_str());
    let expected = [
        (Code::BodyFieldNotRead, "explained"),
        (Code::HiddenClient, "x-explained-ip"),
        (Code::InvalidPlan, "explained quota"),
        (Code::UnknownPlan, "explained plan"),
    ];
    assert_eq!(first, expected.map(|(code, culprit)| (code, culprit.to_owned())));
    // This needs all of the first requests.
    let never_found = || given().contains(&(Code::KeyNeverFound, "explained key".to_owned()));
    for _ in 0..998 {
        let _ = limiter.decide(&request).await;
    }
    assert!(!never_found());
    let _ = limiter.decide(&request).await;
    assert!(never_found());
}
