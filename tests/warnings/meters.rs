//! A meter of a policy that does not settle at the end.

use http::Request;
use tower_quota::{
    Limiter, Policy, Quota,
    warning::{Code, warnings},
};

#[tokio::test]
async fn a_meter_of_a_policy_that_does_not_settle_is_told_once() {
    let policy = |name| Policy::fixed_window(name, Quota::per_day(100)).global();
    let limiter = Limiter::builder()
        .policy(policy("tokens").settle_at_end())
        .policy(policy("requests"))
        .check_only(Policy::fixed_window("elsewhere", Quota::per_day(1)).settle_at_end())
        .build()
        .unwrap();
    let request = Request::get("/").body(()).unwrap().into_parts().0;
    let decision = limiter.decide(&request).await;
    for name in ["tokens", "toekns", "requests", "elsewhere", "toekns"] {
        decision.meter().of(name).add(40);
    }
    drop(decision);
    assert_eq!(limiter.peek("tokens", "").await.unwrap().remaining(), 60);
    assert_eq!(limiter.peek("requests", "").await.unwrap().remaining(), 99);
    let all = warnings();
    let told = all.iter().filter(|warning| warning.code() == Code::UnknownMeter);
    let sentence = |name| {
        format!(
            "a handler meters a policy `{name}`, and no policy of this name settles at the end, so that \
             nothing is counted; write the name of one that does, or add `.settle_at_end()` to it"
        )
    };
    let told: Vec<_> = told.map(|warning| warning.to_string()).collect();
    assert_eq!(told.len(), 2);
    for name in ["toekns", "requests"] {
        assert!(told.iter().any(|told| told.contains(&sentence(name))), "{told:?}");
    }
}
