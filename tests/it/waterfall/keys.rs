//! Each policy of a waterfall keeps its own key, plans, cost and overrides.

use std::time::Duration;

use http::{HeaderMap, Request, request::Parts};
use tower_quota::{
    AcquireError,
    Algorithm::{self, FixedWindow},
    CheckError, Limiter, Policy, Quota, Reason, Verdict,
    key::{Key, header},
    overrides::{CachedSource, OverrideSource, SourceFuture, SourceOverrides},
};

use super::{builder, drawn_on, left, policy, request};

const HOUR: Duration = Duration::from_secs(3_600);

fn by(name: &str, key: &'static str, units: u64) -> Policy {
    Policy::fixed_window(name, Quota::per_day(units)).key(header(key))
}

fn with(headers: &[(&'static str, &str)]) -> Parts {
    let mut request = Request::new(()).into_parts().0;
    request.headers = headers
        .iter()
        .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
        .collect::<HeaderMap>();
    request
}

#[tokio::test(start_paused = true)]
async fn callers_with_quotas_of_their_own_may_share_the_next() {
    let team = by("team", "x-team", 2).or_refuse();
    let limiter =
        builder().policy(by("user", "x-user", 1).or_refuse().or_else(team)).build().unwrap();
    let ask = async |user| limiter.decide(&with(&[("x-user", user), ("x-team", "t")])).await;
    for (user, drawn) in [("a", "user"), ("b", "user"), ("a", "team"), ("c", "user"), ("b", "team")]
    {
        assert_eq!(drawn_on(&ask(user).await), [drawn]);
    }
    assert!(!ask("a").await.is_allowed());
    assert!(ask("d").await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_skips_a_request_without_its_key_is_left_out() {
    let team = by("team", "x-team", 2).or_skip();
    let limiter =
        builder().policy(by("user", "x-user", 1).or_skip().or_else(team)).build().unwrap();
    let ask = async |headers: &[(&'static str, &str)]| limiter.decide(&with(headers)).await;
    let (user, team) = (("x-user", "a"), ("x-team", "t"));
    assert_eq!(drawn_on(&ask(&[user]).await), ["user"]);
    assert!(!ask(&[user]).await.is_allowed(), "without a team there is nothing else");
    assert_eq!(drawn_on(&ask(&[team]).await), ["team"]);
    assert_eq!(drawn_on(&ask(&[user, team]).await), ["team"]);
    let refused = ask(&[team]).await;
    assert_eq!((refused.is_allowed(), refused.outcomes().len()), (false, 1));
    let none = ask(&[]).await;
    assert_eq!((none.is_allowed(), none.outcomes().len()), (true, 0));
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_refuses_a_request_without_its_key_refuses_it_whatever_is_left() {
    let team = by("team", "x-team", 2).or_refuse();
    let limiter =
        builder().policy(by("user", "x-user", 1).or_refuse().or_else(team)).build().unwrap();
    let ask = async |headers: &[(&'static str, &str)]| limiter.decide(&with(headers)).await;
    let refused = ask(&[("x-user", "a")]).await;
    assert_eq!(refused.reason(), Some(Reason::MissingKey));
    assert_eq!(refused.tightest().unwrap().policy(), "team");
    let twice = ask(&[("x-user", "a"), ("x-team", "t"), ("x-team", "u")]).await;
    let Verdict::Refused(by) = twice.verdict() else { panic!("{twice:?}") };
    assert_eq!((by.policy(), by.reason()), ("team", Some(Reason::UnreadableKey)));
    let ok = ask(&[("x-user", "a"), ("x-team", "t")]).await;
    assert_eq!((drawn_on(&ok), left(&ok, "user")), (vec!["user"], 0), "nothing was charged before");
}

#[tokio::test(start_paused = true)]
async fn each_policy_has_its_own_plans_and_cost() {
    let credits = policy("credits", FixedWindow, Quota::per_day(100)).cost(|_| 30);
    let plan = |request: &Parts| request.headers.get("x-plan")?.to_str().ok().map(str::to_owned);
    let plans = [("pro", Quota::per_day(2)), ("staff", Quota::unlimited())];
    let tokens = policy("tokens", FixedWindow, Quota::per_day(1))
        .plans(plans, |request| request.headers.get("x-plan")?.to_str().ok())
        .quota_by(move |request| (plan(request)? == "free").then(|| Quota::per_day(0)))
        .or_else(credits);
    let limiter = builder().policy(tokens).build().unwrap();
    let ask = async |plan: &'static str| {
        limiter.decide(&with(&[("x-key", plan), ("x-plan", plan)])).await
    };
    // A plan without tokens begins with credits.
    for (plan, expected) in [
        (
            "free",
            vec![(vec!["credits"], 70), (vec!["credits"], 40), (vec!["credits"], 10), (vec![], 10)],
        ),
        ("pro", vec![(vec!["tokens"], 1), (vec!["tokens"], 0), (vec!["credits"], 70)]),
        // Nothing is counted.
        ("staff", vec![(vec![], u64::MAX), (vec![], u64::MAX)]),
        ("none", vec![(vec!["tokens"], 0), (vec!["credits"], 70)]),
    ] {
        for (drawn, remaining) in expected {
            let decision = ask(plan).await;
            assert_eq!((drawn_on(&decision), decision.remaining()), (drawn, remaining), "{plan}");
        }
    }
    let by_check = limiter.check("tokens", "pro").plan("pro").await.unwrap();
    assert_eq!((drawn_on(&by_check), left(&by_check, "credits")), (vec!["credits"], 69));
    assert!(limiter.check("tokens", "pro").await.is_err(), "a check has to say the plan");
}

#[tokio::test(start_paused = true)]
async fn no_units_in_any_of_the_quotas_refuses_all() {
    let none = |name: &str| {
        policy(name, FixedWindow, Quota::per_day(1)).quota_by(|_| Some(Quota::per_day(0)))
    };
    let limiter = builder().policy(none("tokens").or_else(none("credits"))).build().unwrap();
    let refused = limiter.decide(&request("a", 1)).await;
    assert_eq!(refused.reason(), Some(Reason::NoQuota));
}

fn overridden(algorithm: Algorithm) -> Limiter {
    let credits = policy("credits", algorithm, Quota::per_day(2));
    let tokens = policy("tokens", algorithm, Quota::per_day(1)).or_else(credits);
    builder().caller(header("x-key")).policy(tokens).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn overrides_hold_for_each_quota_and_a_blocked_caller_is_blocked() {
    for algorithm in super::ALGORITHMS {
        let limiter = overridden(algorithm);
        let caller = limiter.overrides().caller("a").unwrap();
        let ask = async || limiter.decide(&request("a", 1)).await;
        for drawn in ["tokens", "credits", "credits"] {
            assert_eq!(drawn_on(&ask().await), [drawn]);
        }
        assert!(!ask().await.is_allowed());
        caller.set_quota("credits", Quota::per_day(3), HOUR).at_once().unwrap();
        assert_eq!(drawn_on(&ask().await), ["credits"], "what was used counts");
        assert!(!ask().await.is_allowed());
        caller.set_quota("tokens", Quota::per_day(2), HOUR).at_once().unwrap();
        assert_eq!(drawn_on(&limiter.check("tokens", "a").await.unwrap()), ["tokens"]);
        assert!(!ask().await.is_allowed());
        caller.set_quota("credits", Quota::unlimited(), HOUR).at_once().unwrap();
        assert!(ask().await.is_allowed() && ask().await.outcomes().len() == 0);
        caller.block(HOUR).at_once().unwrap();
        assert_eq!(ask().await.reason(), Some(Reason::Blocked));
        assert_eq!(limiter.check("tokens", "a").await.unwrap().reason(), Some(Reason::Blocked));
        caller.end_all().at_once().unwrap();
        assert!(!ask().await.is_allowed(), "{algorithm:?}: nothing was freed");
    }
}

/// A source that answers after a millisecond.
struct Slow;

impl OverrideSource for Slow {
    fn find(&self, caller: Key<'_>) -> SourceFuture {
        let own = match caller.as_bytes() {
            b"more" => SourceOverrides::new().quota("credits", Quota::per_day(3)),
            b"none" => SourceOverrides::new().quota("tokens", Quota::per_day(0)),
            b"free" => SourceOverrides::new().quota("credits", Quota::unlimited()),
            _ => SourceOverrides::new(),
        };
        Box::pin(async move {
            tokio::time::sleep(Duration::from_millis(1)).await;
            Ok(own)
        })
    }
}

#[tokio::test(start_paused = true)]
async fn overrides_that_are_looked_up_first_hold_for_each_quota() {
    let credits = policy("credits", FixedWindow, Quota::per_day(2));
    let tokens = policy("tokens", FixedWindow, Quota::per_day(1)).or_else(credits);
    let limiter = builder()
        .caller(header("x-key"))
        .override_source(CachedSource::new(Slow))
        .policy(tokens)
        .build()
        .unwrap();
    for (key, expected) in [
        ("plain", [Some("tokens"), Some("credits"), Some("credits"), None, None]),
        ("more", [Some("tokens"), Some("credits"), Some("credits"), Some("credits"), None]),
        ("none", [Some("credits"), Some("credits"), None, None, None]),
    ] {
        for drawn in expected {
            let decision = limiter.decide(&request(key, 1)).await;
            assert_eq!(drawn_on(&decision).first().copied(), drawn, "{key}");
            assert_eq!(decision.is_allowed(), drawn.is_some(), "{key}");
        }
    }
    for _ in 0..5 {
        let decision = limiter.decide(&request("free", 1)).await;
        assert!(decision.is_allowed() && decision.outcomes().len() == 0);
    }
}

/// As in a check of that policy alone: the limiter cannot know the plan of a key.
#[tokio::test]
async fn a_check_has_no_quota_where_a_fallback_has_plans_that_nothing_names() {
    let bought = |request: &Parts| Some(Quota::per_day(request.headers.len() as u64));
    let credits = by("credits", "x-org", 500).quota_by(bought);
    let tokens = by("tokens", "x-org", 10).or_else(credits);
    let limiter = Limiter::builder().check_only(tokens).build().unwrap();
    let missing = |error: &CheckError| matches!(error, CheckError::MissingPlan { policy, .. } if policy == "credits");
    let error = limiter.check("tokens", "acme").cost(20).await.unwrap_err();
    assert!(missing(&error), "{error}");
    let error = limiter.reserve(["tokens"], "acme").cost("tokens", 20).await.unwrap_err();
    assert!(matches!(&error, AcquireError::Check(error) if missing(error)), "{error}");
}
