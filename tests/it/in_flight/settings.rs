//! Settings of units in flight: what cannot work fails, and what can is told.

use std::time::Duration;

use tower_quota::{
    Limiter, LimiterBuilder, Now, Policy, Quota,
    store::{Answer, Charge, Correction, Store, StoreFuture, Usage},
};

fn with(policy: Policy) -> LimiterBuilder {
    Limiter::builder().check_only(policy)
}

fn streams() -> Policy {
    Policy::in_flight("streams", 4)
}

/// A store of somebody who does not know that units can be in flight.
struct Windows;

impl Store for Windows {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let usages = charges.iter().map(|_| Usage::unknown()).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let usages = corrections.iter().map(|_| Usage::unknown()).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }
}

#[test]
fn what_cannot_work_fails_and_the_error_says_what_to_write() {
    let second = Duration::from_secs(1);
    for (limits, problem) in [
        (
            with(streams().lease(2)),
            "a replica cannot lease units in flight, as they come back one by one; leave `.lease(…)` out",
        ),
        (
            with(streams().settle(|_| None)),
            "its units come back when the request ends, whatever it has cost; leave `.settle(…)` out",
        ),
        (
            with(streams().retry_after(Duration::ZERO)),
            "a wait of zero is none; write how long, such as 5 seconds, or leave it out",
        ),
        (
            with(Policy::token_bucket("streams", Quota::per_minute(4)).retry_after(second)),
            "only units in flight come back at an unknown time; leave `.retry_after(…)` out",
        ),
        (
            with(Policy::sliding_window("streams", Quota::in_flight(4))),
            "only units in flight have no window; write `Policy::in_flight`, or a quota such as `Quota::per_minute(…)`",
        ),
        (
            with(streams().plans([("pro", Quota::per_minute(9))], |_| None)),
            "plan `pro`: units in flight have no window, as they come back when their requests end; write `Quota::in_flight(…)`",
        ),
        (
            with(Policy::in_flight("streams", 0)),
            "a quota of 0 units refuses every request; write at least 1",
        ),
        (
            with(streams()).store(Windows),
            "the limiter's store does not count by `in_flight`; write another algorithm, or leave `.store(…)` out",
        ),
    ] {
        assert_eq!(limits.build().unwrap_err().to_string(), format!("policy `streams`: {problem}"));
    }
    let limiter = Limiter::builder().store(Windows).build().unwrap();
    assert!(limiter.apply(with(streams())).is_err(), "an apply asks the store too");
    let all =
        streams().plans([("pro", Quota::in_flight(9)), ("all", Quota::unlimited())], |_| None);
    with(all.hold(second).retry_after(second).dry_run()).build().unwrap();
}

#[test]
fn changes_tell_it() {
    let limiter = with(streams()).build().unwrap();
    let changes = limiter
        .apply(with(Policy::in_flight("streams", 9).retry_after(Duration::from_secs(5))))
        .unwrap();
    assert_eq!(
        changes.to_string(),
        "policy `streams`: quota 4 in flight → 9 in flight\n\
         policy `streams`: retry_after none → 5 seconds"
    );
}

#[cfg(feature = "config")]
#[tokio::test]
async fn a_file_can_say_it() {
    use tower_quota::config::{Limits, Registry};

    let text = r#"
check_only = ["streams"]

[policies.streams]
algorithm = "in_flight"
quota = "2 in flight"
retry_after = "5 seconds"
"#;
    let limits = Limits::from_toml(text, &Registry::new()).unwrap();
    let written = limits.to_toml();
    assert_eq!(Limits::from_toml(&written, &Registry::new()).unwrap(), limits, "{written}");
    let limiter = limits.builder(&Registry::new()).unwrap().build().unwrap();
    let streams = limiter.policy("streams").unwrap();
    let held = streams.enter("a").cost(2).await.unwrap();
    let refused = limiter.check("streams", "a").await.unwrap();
    assert_eq!(refused.retry_after(), Some(Duration::from_secs(5)));
    drop(held);
}

#[cfg(feature = "describe")]
#[tokio::test]
async fn descriptions_and_explanations_tell_it() {
    use tower_quota::key::header;

    let policy = streams().key(header("x-key")).or_refuse();
    let limiter = Limiter::builder().policy(policy).build().unwrap();
    let described = serde_json::to_value(limiter.describe()).unwrap().to_string();
    assert!(described.contains(r#""quota":{"units":4}"#), "{described}");
    assert!(described.contains(r#""unit":"concurrent-requests""#), "{described}");
    let markdown = limiter.describe().to_markdown();
    assert!(
        markdown.contains("4 in flight") && markdown.contains("when the response"),
        "{markdown}"
    );

    let request = http::Request::get("/").header("x-key", "a").body(()).unwrap().into_parts().0;
    let held = limiter.decide(&request).await;
    let explained = limiter.explain(&request).await.to_string();
    assert!(
        explained.contains("left: 2 of 4 after the request, more when one ends"),
        "{explained}"
    );
    drop(held);
}
