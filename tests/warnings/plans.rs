//! Plans in a table: a limiter enforces what it describes.

use std::time::Duration;

use http::{Request, request::Parts};
use tower_quota::{
    Decision, Limiter, Policy, Quota, Reason, Rejection, key,
    response::Problem,
    warning::{Code, Warning, warnings},
};

const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

fn with_plans(plans: &[(&str, Quota)]) -> Policy {
    Policy::token_bucket("read", Quota::per_minute(10))
        .global()
        .plans(plans.iter().copied(), |request| request.headers.get("x-plan")?.to_str().ok())
}

fn on_plan(plan: &str) -> Parts {
    Request::get("/").header("x-plan", plan).body(()).unwrap().into_parts().0
}

async fn limit(limiter: &Limiter, plan: &str) -> u64 {
    limiter.decide(&on_plan(plan)).await.outcomes().next().unwrap().limit()
}

#[tokio::test]
async fn a_request_has_the_quota_of_the_plan_that_it_names() {
    let plans = [("free", Quota::per_minute(100)), ("pro", Quota::per_minute(1_000).burst(50))];
    let limiter = Limiter::builder().policy(with_plans(&plans)).build().unwrap();
    assert_eq!(limit(&limiter, "free").await, 100);
    assert_eq!(limit(&limiter, "pro").await, 50);
    assert_eq!(limit(&limiter, "Pro").await, 10, "of no plan that there is");
    let no_plan = Request::get("/").body(()).unwrap().into_parts().0;
    assert_eq!(limiter.decide(&no_plan).await.outcomes().next().unwrap().limit(), 10);
}

#[tokio::test]
async fn a_quota_of_the_requests_own_goes_before_that_of_its_plan() {
    let policy = with_plans(&[("pro", Quota::per_minute(1_000))]).quota_by(|request| {
        request.headers.contains_key("x-vip").then(|| Quota::per_minute(5_000))
    });
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    assert_eq!(limit(&limiter, "pro").await, 1_000);
    let mut vip = on_plan("pro");
    vip.headers.insert("x-vip", "1".parse().unwrap());
    assert_eq!(limiter.decide(&vip).await.outcomes().next().unwrap().limit(), 5_000);
}

#[tokio::test]
async fn an_unlimited_plan_is_not_counted() {
    let policy = with_plans(&[("partner", Quota::unlimited())]);
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    assert!(limiter.decide(&on_plan("partner")).await.outcomes().len() == 0);
}

/// Asserts that a request is refused because it has no quota, and has no time to retry.
fn assert_has_no_quota(decision: &Decision) {
    assert_eq!(decision.reason(), Some(Reason::NoQuota));
    let rejection = Rejection::of(decision).unwrap();
    assert_eq!((rejection.status().as_u16(), rejection.retry_after()), (429, None));
    assert_eq!(rejection.to_string(), "Policy `read` gives the plan of this request no units.");
    for (problem, kind) in [
        (Problem::new("https://errors.test/limited"), "https://errors.test/limited"),
        (Problem::quota_exceeded(), QUOTA_EXCEEDED),
    ] {
        let body = problem.respond(&rejection).into_body();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["type"], kind);
    }
}

#[tokio::test]
async fn a_plan_of_no_units_refuses_and_leaves_what_was_used() {
    let other = Policy::token_bucket("other", Quota::per_minute(5)).global();
    for algorithm in [Policy::token_bucket, Policy::fixed_window, Policy::sliding_window] {
        let policy = algorithm("read".to_owned(), Quota::per_minute(10)).global();
        let policy = policy.quota_by(|request| {
            request.headers.contains_key("x-banned").then(|| Quota::per_day(0))
        });
        let limiter = Limiter::builder().policy(policy).policy(other.clone()).build().unwrap();
        let mut banned = on_plan("");
        let free = banned.clone();
        banned.headers.insert("x-banned", "1".parse().unwrap());
        let left = async |request: &Parts| {
            let decision = limiter.decide(request).await;
            decision.outcomes().map(|outcome| outcome.remaining()).collect::<Vec<_>>()
        };
        assert_eq!(left(&free).await, [9, 4]);
        for _ in 0..20 {
            assert_has_no_quota(&limiter.decide(&banned).await);
        }
        assert_eq!(left(&free).await, [8, 3], "a refusal costs nothing anywhere");
        let check = || limiter.check("read", "").quota(Quota::per_hour(0));
        assert_has_no_quota(&check().await.unwrap());
        let outcome = check().at_once().unwrap();
        assert!(!outcome.is_allowed() && outcome.retry_after().is_none());
        let peek = limiter.peek("read", "").quota(Quota::per_hour(0)).await.unwrap();
        assert_has_no_quota(&peek);
    }
}

#[tokio::test]
async fn a_plan_that_cannot_be_refuses_and_is_reported_once() {
    for quota in [
        Quota::per_window(5, Duration::ZERO),
        Quota::per_window(5, Duration::MAX),
        Quota::per_minute(u64::MAX),
        Quota::per_minute(5).burst(0),
        Quota::per_minute(5).burst(u64::MAX),
        Quota::per_day(5).burst(999_999_999_999_999),
    ] {
        let policy = Policy::token_bucket("read", Quota::per_minute(10)).global();
        let policy = policy.quota_by(move |_| Some(quota));
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        for _ in 0..3 {
            assert_has_no_quota(&limiter.decide(&on_plan("")).await);
        }
        assert!(!limiter.check("read", "").quota(quota).at_once().unwrap().is_allowed());
    }
    let window = Policy::sliding_window("window", Quota::per_minute(10)).global();
    let window = window.quota_by(|_| Some(Quota::per_minute(100).burst(5)));
    let limiter = Limiter::builder().policy(window).build().unwrap();
    assert_eq!(limiter.decide(&on_plan("")).await.reason(), Some(Reason::NoQuota));

    let told = |policy: &str| {
        let all = warnings()
            .into_iter()
            .filter(|warning| warning.code() == Code::InvalidPlan && warning.culprit() == policy);
        all.map(|warning| warning.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(
        told("read"),
        [
            "policy `read`: a quota from a function or a source cannot be (a window of 0 has no end; write its length, as in `Quota::per_window(5, Duration::from_secs(600))`); its requests are refused"
        ]
    );
    assert_eq!(
        told("window"),
        [
            "policy `window`: a quota from a function or a source cannot be (only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out); its requests are refused"
        ]
    );
}

#[tokio::test]
async fn a_plan_that_is_not_in_the_table_is_reported_once_for_each_apply() {
    let limits = |plans: [&'static str; 2]| {
        let plans = plans.map(|plan| (plan, Quota::per_minute(100)));
        let policy = Policy::token_bucket("typed", Quota::per_minute(10)).global();
        let policy = policy.plans(plans, |request| request.headers.get("x-plan")?.to_str().ok());
        Limiter::builder().policy(policy)
    };
    let limiter = limits(["free", "pro"]).build().unwrap();
    let told = || {
        let all = warnings().into_iter().filter(|warning| warning.culprit() == "typed");
        all.map(|warning| (warning.code(), warning.to_string())).collect::<Vec<_>>()
    };
    let _ = limiter.decide(&on_plan("pro")).await;
    let _ = limiter.decide(&Request::new(()).into_parts().0).await;
    assert_eq!(told(), []);
    for _ in 0..3 {
        assert_eq!(limit(&limiter, "a secret").await, 10);
    }
    let sentence = "policy `typed`: a request's plan is none of its `free`, `pro`, and the policy's own quota holds; add the plan to `.plans(…)`, or return `None` for a request without one";
    assert_eq!(told(), [(Code::UnknownPlan, sentence.to_owned())]);
    // Other limits have another mistake of the same kind.
    limiter.apply(limits(["free", "team"])).unwrap();
    assert_eq!(told().len(), 1, "what was reported stays in the list");
    for _ in 0..3 {
        assert_eq!(limit(&limiter, "pro").await, 10);
    }
    let sentence = sentence.replace("`pro`", "`team`");
    assert_eq!(told(), [(Code::UnknownPlan, sentence)]);
}

/// What a middleware leaves in the extensions.
#[derive(Clone)]
struct User {
    plan: &'static str,
}

#[tokio::test]
async fn plans_that_no_request_has_are_reported() {
    fn plan_of(request: &Parts) -> Option<&str> {
        Some(request.extensions.get::<User>()?.plan)
    }
    let policy = |name: &str| Policy::token_bucket(name, Quota::per_minute(600)).global();
    let by_table = |name| policy(name).plans([("free", Quota::per_minute(60))], plan_of);
    // A caller without the first key has no plan, and one whose key is skipped is not counted.
    let anonymous = |name: &str| {
        let policy = Policy::token_bucket(name, Quota::per_minute(600)).key(key::bearer());
        policy.plans([("free", Quota::per_minute(60))], plan_of)
    };
    let by_function =
        policy("by function").quota_by(|request| plan_of(request).map(|_| Quota::per_hour(9)));
    let both = by_table("both").quota_by(|_| None);
    let limiter = Limiter::builder()
        .policy(by_table("by table"))
        .policy(by_function)
        .policy(both)
        .policy(policy("no plans"))
        .policy(anonymous("other key").or_key(key::header("x-other")).or_refuse())
        .policy(anonymous("skipped").or_skip())
        .build()
        .unwrap();
    let told = || {
        let all = warnings().into_iter();
        let all = all.filter(|warning| warning.code() == Code::PlanNeverFound);
        all.map(|warning| (warning.culprit().to_owned(), warning.to_string())).collect::<Vec<_>>()
    };
    let mut request = Request::get("/").header("x-other", "a").body(()).unwrap().into_parts().0;
    request.extensions.insert("free"); // another type than the functions read
    for _ in 0..999 {
        let _ = limiter.decide(&request).await;
    }
    assert_eq!(told(), []);
    let _ = limiter.decide(&request).await;
    let sentence = |policy: &str, function: &str| {
        let sentence = format!(
            "policy `{policy}`: none of its first 1000 requests had a plan: `.{function}(…)` returned `None`, and the policy's own quota was used. Check the type of the extension that it reads. If another middleware sets it, add its layer after the limiter's, so that it runs first. If these callers have no plan, put one for them into `.plans(…)`, and return its name"
        );
        (policy.to_owned(), sentence)
    };
    assert_eq!(
        told(),
        [("by table", "plans"), ("by function", "quota_by"), ("both", "plans")]
            .map(|(policy, function)| sentence(policy, function))
    );
}

#[tokio::test]
async fn one_request_with_a_plan_is_enough() {
    for plan in ["free", "of no table"] {
        let policy = Policy::token_bucket("found once", Quota::per_minute(60))
            .global()
            .plans([("free", Quota::per_minute(60))], |request| {
                Some(request.extensions.get::<User>()?.plan)
            });
        let limiter = Limiter::builder().policy(policy).build().unwrap();
        let none = Request::new(()).into_parts().0;
        let mut with_plan = none.clone();
        with_plan.extensions.insert(User { plan });
        let _ = limiter.decide(&with_plan).await;
        for _ in 0..2_000 {
            let _ = limiter.decide(&none).await;
        }
    }
    let is_told = |warning: &Warning| {
        warning.code() == Code::PlanNeverFound && warning.culprit() == "found once"
    };
    assert!(!warnings().iter().any(is_told));
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
