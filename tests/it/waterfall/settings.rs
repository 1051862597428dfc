//! What `build()` refuses of a waterfall, and where its settings are told.

use std::time::Duration;

use tower_quota::{
    Algorithm::FixedWindow,
    Category, Limiter, LimiterBuilder, LintKind, Matcher, Penalty, Policy, Quota,
    config::{Limits, Registry},
    explain::PolicyVerdict,
    key::header,
};

use super::{builder, drawn_on, policy, request};

fn day(name: &str, units: u64) -> Policy {
    policy(name, FixedWindow, Quota::per_day(units))
}

fn with(policy: Policy) -> LimiterBuilder {
    builder().policy(policy)
}

#[test]
fn what_cannot_work_in_a_waterfall_is_an_error() {
    let (a, b) = (|| day("a", 1), || day("b", 1));
    let get = |policies: [Policy; 2]| {
        let category = Category::new("get").on(Matcher::get("/"));
        builder().category(policies.into_iter().fold(category, Category::policy))
    };
    let shared = b();
    for (builder, message) in [
        (
            with(a().or_else(a())),
            "policy `a`: it falls back on policy `a` twice, or on itself; leave one out",
        ),
        (
            with(a().or_else(b().or_else(a()))),
            "policy `a`: it falls back on policy `a` twice, or on itself; leave one out",
        ),
        (
            with(a().or_else(shared.clone()).or_else(shared.clone())),
            "policy `a`: it falls back on policy `b` twice, or on itself; leave one out",
        ),
        (
            with(a().or_else(b().hold(Duration::from_secs(1)))),
            "policy `a`: it falls back on policy `b`, which says how long it holds a request: the first \
             policy's hold holds for all; leave `.hold(…)` of policy `b` out",
        ),
        (
            with(a().dry_run().or_else(b())),
            "policy `a`: it falls back on policy `b`, and one of them is a dry run; write `.dry_run()` \
             for both, or for neither",
        ),
        (
            with(a().or_else(b().lease(5))),
            "policy `a`: policy `b` has a lease, and only the store knows which quota has room; leave \
             `.lease(…)` out",
        ),
        (
            with(a().lease(5).or_else(b())),
            "policy `a`: policy `a` has a lease, and only the store knows which quota has room; leave \
             `.lease(…)` out",
        ),
        (
            with(
                a().or_else(
                    b().penalty(
                        Penalty::after(5)
                            .refusals_within(Duration::from_secs(60))
                            .block(Duration::from_secs(60)),
                    ),
                ),
            ),
            "policy `a`: policy `b` has a penalty, and who is blocked must not draw on another quota; \
             leave `.penalty(…)` out",
        ),
        (
            with(a().or_else(Policy::in_flight("b", 3).key(header("x-key")).or_refuse())),
            "policy `a`: policy `b` is of units in flight, which are held and not used up; leave it out \
             of `.or_else(…)`",
        ),
        (
            with(a().or_else(Policy::fixed_window("b", Quota::per_day(0)))),
            "policy `b`: a quota of 0 units refuses every request; write at least 1",
        ),
        (
            with(a().or_else(b())).policy(b()),
            "policy `b`: two policies have this name; give each its own, or clone the one",
        ),
        (
            with(a().or_else(shared.clone())).policy(shared.clone()),
            "every request: policy `b` holds for it twice; leave one out",
        ),
        (
            get([a().or_else(shared.clone()), day("c", 1).or_else(shared.clone())]),
            "category `get`: policy `b` holds for it twice; leave one out",
        ),
    ] {
        let error = builder.build().unwrap_err().to_string();
        assert!(error.lines().any(|line| line == message), "{error}\n  instead of\n{message}");
    }
    // A clone may be used elsewhere as well.
    let both = with(a().or_else(shared.clone())).check_only(shared);
    assert!(both.build().is_ok());
}

#[tokio::test(start_paused = true)]
async fn an_explanation_says_which_quota_is_drawn_on() {
    let limiter = with(day("tokens", 1).or_else(day("credits", 2))).build().unwrap();
    let explain = async || limiter.explain(&request("a", 1)).await;
    let verdicts = |explained: &tower_quota::explain::Explanation| {
        explained.policies.iter().map(|policy| policy.verdict).collect::<Vec<_>>()
    };
    assert_eq!(verdicts(&explain().await), [PolicyVerdict::Admitted, PolicyVerdict::PassedOver]);
    drop(limiter.decide(&request("a", 1)).await);
    let explained = explain().await;
    assert_eq!(verdicts(&explained), [PolicyVerdict::PassedOver, PolicyVerdict::Admitted]);
    assert_eq!(explained.policies[0].or_else, ["credits"]);
    let text = explained.to_string();
    for line in [
        "Policy `tokens`: passed over, another policy of its waterfall decides",
        "  or else: `credits`",
        "Policy `credits`: passes",
        "  left: 1 of 2 after the request, more in 1 day",
    ] {
        assert!(text.lines().any(|known| known == line), "{line}\n{text}");
    }
    assert_eq!(drawn_on(&limiter.decide(&request("a", 1)).await), ["credits"], "as explained");
    drop(limiter.decide(&request("a", 1)).await);
    let refused = explain().await;
    let refuses = |verdict: &PolicyVerdict| matches!(verdict, PolicyVerdict::Refused { .. });
    assert_eq!(verdicts(&refused).iter().filter(|verdict| refuses(verdict)).count(), 1);
}

#[test]
fn a_description_has_the_policies_that_others_fall_back_on() {
    let limiter = with(day("tokens", 1).or_else(day("credits", 2))).build().unwrap();
    let description = limiter.describe();
    let names = description.every_request.iter().map(|policy| &*policy.name);
    assert_eq!(names.collect::<Vec<_>>(), ["tokens", "credits"]);
    assert_eq!(description.every_request[0].or_else, ["credits"]);
    assert!(description.check_only.is_empty());
    assert!(description.to_markdown().contains("when it is used up: credits"));
    let json: serde_json::Value = serde_json::from_str(&description.to_json()).unwrap();
    assert_eq!(json["every_request"][0]["or_else"], serde_json::json!(["credits"]));
    assert!(json["every_request"][1].get("or_else").is_none());
}

#[tokio::test(start_paused = true)]
async fn an_apply_tells_that_a_policy_falls_back_on_another_now() {
    let limiter = with(day("tokens", 1)).build().unwrap();
    assert!(limiter.decide(&request("a", 1)).await.is_allowed());
    assert!(!limiter.decide(&request("a", 1)).await.is_allowed());
    let changes = limiter
        .apply(Limiter::builder().policy(day("tokens", 1).or_else(day("credits", 1))))
        .unwrap();
    let told = changes.to_string();
    assert!(told.contains("policy `tokens`: or_else none → `credits`"), "{told}");
    assert!(told.contains("policy `credits`: added"), "{told}");
    assert_eq!(drawn_on(&limiter.decide(&request("a", 1)).await), ["credits"]);
    let changes = limiter.apply(Limiter::builder().policy(day("tokens", 1))).unwrap();
    assert!(changes.to_string().contains("policy `tokens`: or_else `credits` → none"));
    assert!(!limiter.decide(&request("a", 1)).await.is_allowed());
}

#[test]
fn a_lint_finds_a_quota_that_is_never_drawn_on() {
    let unlimited = |name: &str| policy(name, FixedWindow, Quota::unlimited());
    for (policy, problem) in [
        (
            unlimited("tokens").or_else(day("credits", 1)),
            "policy `tokens`: the quota of policy `tokens` is unlimited, so that its requests pass \
             uncounted and never draw on `credits`; give it a quota, or leave `.or_else(…)` out",
        ),
        (
            day("tokens", 1).or_else(unlimited("credits")),
            "policy `tokens`: the quota of policy `credits` is unlimited, so that its requests pass \
             uncounted and never draw on `tokens`; give it a quota, or leave `.or_else(…)` out",
        ),
    ] {
        let lints = with(policy).build().unwrap().lint();
        let told: Vec<_> = lints.iter().map(|lint| (lint.kind(), lint.to_string())).collect();
        assert_eq!(told, [(LintKind::NeverDrawnOn, problem.to_owned())]);
    }
    assert!(with(day("tokens", 1).or_else(day("credits", 1))).build().unwrap().lint().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_file_says_which_policies_others_fall_back_on() {
    let text = r#"
        every_request = ["tokens"]

        [policies.tokens]
        algorithm = "fixed_window"
        quota = "1 per day"
        keys = [{ header = "x-key" }]
        without_key = "refuse"
        or_else = ["credits", "overdraft"]

        [policies.overdraft]
        algorithm = "fixed_window"
        quota = "1 per day"
        keys = [{ header = "x-key" }]
        without_key = "refuse"

        [policies.credits]
        algorithm = "token_bucket"
        quota = "1 per day"
        keys = [{ header = "x-key" }]
        without_key = "refuse"
    "#;
    let registry = Registry::new();
    let limits = Limits::from_toml(text, &registry).unwrap();
    let again = Limits::from_toml(&limits.to_toml(), &registry).unwrap();
    assert_eq!(again, limits, "it is written as it was read");
    let limiter: Limiter = limits.builder(&registry).unwrap().build().unwrap();
    for drawn in ["tokens", "credits", "overdraft"] {
        assert_eq!(drawn_on(&limiter.decide(&request("a", 1)).await), [drawn]);
    }
    assert!(!limiter.decide(&request("a", 1)).await.is_allowed());
}
