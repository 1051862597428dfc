//! Plans in a table: what a limiter tells of them is what it holds requests to.

use http::{Request, request::Parts};
use tower_quota::{Limiter, Policy, Quota};

fn with_plans(plans: &[(&str, Quota)]) -> Policy {
    Policy::token_bucket("read", Quota::per_minute(10))
        .global()
        .plans(plans.iter().copied(), |request| request.headers.get("x-plan")?.to_str().ok())
}

fn on_plan(plan: &str) -> Parts {
    Request::get("/").header("x-plan", plan).body(()).unwrap().into_parts().0
}

async fn limit(limiter: &Limiter, plan: &str) -> u64 {
    limiter.decide(&on_plan(plan)).await.outcomes()[0].limit()
}

#[tokio::test]
async fn a_request_has_the_quota_of_the_plan_that_it_names() {
    let plans = [("free", Quota::per_minute(100)), ("pro", Quota::per_minute(1_000).burst(50))];
    let limiter = Limiter::builder().policy(with_plans(&plans)).build().unwrap();
    assert_eq!(limit(&limiter, "free").await, 100);
    assert_eq!(limit(&limiter, "pro").await, 50);
    assert_eq!(limit(&limiter, "Pro").await, 10, "of no plan that there is");
    let no_plan = Request::get("/").body(()).unwrap().into_parts().0;
    assert_eq!(limiter.decide(&no_plan).await.outcomes()[0].limit(), 10);
}

#[tokio::test]
async fn a_quota_of_the_requests_own_goes_before_that_of_its_plan() {
    let policy = with_plans(&[("pro", Quota::per_minute(1_000))])
        .plan(|request| request.headers.contains_key("x-vip").then(|| Quota::per_minute(5_000)));
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    assert_eq!(limit(&limiter, "pro").await, 1_000);
    let mut vip = on_plan("pro");
    vip.headers.insert("x-vip", "1".parse().unwrap());
    assert_eq!(limiter.decide(&vip).await.outcomes()[0].limit(), 5_000);
}

#[tokio::test]
async fn an_unlimited_plan_is_not_counted() {
    let policy = with_plans(&[("partner", Quota::unlimited())]);
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    assert!(limiter.decide(&on_plan("partner")).await.outcomes().is_empty());
}

#[test]
fn a_plan_that_cannot_be_fails_when_the_limiter_is_built() {
    let table = |plans: &[(&str, Quota)]| with_plans(plans);
    let window = Policy::fixed_window("read", Quota::per_minute(10)).global();
    for (policy, message) in [
        (
            table(&[("free", Quota::per_minute(1)), ("pro", Quota::per_minute(0))]),
            "policy `read`: plan `pro`: a quota of 0 units refuses every request; write at least 1",
        ),
        (
            window.plans([("pro", Quota::per_minute(2).burst(3))], |_| None),
            "policy `read`: plan `pro`: only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out",
        ),
        (
            table(&[("pro", Quota::per_minute(1)), ("pro", Quota::per_minute(2))]),
            "policy `read`: two plans are named `pro`; give each its own name",
        ),
    ] {
        let error = Limiter::builder().policy(policy).build().unwrap_err();
        assert_eq!(error.to_string(), message);
    }
}
