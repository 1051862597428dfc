//! The `tracing` events of a limiter.
#![cfg(feature = "tracing")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use http::{Request, request::Parts};
use tower_quota::{
    Category, Clock, Limiter, Matcher, Policy, Quota,
    key::{Key, header},
    overrides::{CachedSource, SourceOverrides},
};

use crate::log;

const SECRET: &str = "sk_live_secret";

/// The events of `story`, on a paused clock.
fn events(story: impl AsyncFnOnce()) -> Vec<String> {
    log::keep();
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().start_paused(true).build().unwrap();
    log::take();
    runtime.block_on(story());
    let without_time = |line: String| line.split_once(' ').unwrap().1.trim().to_owned();
    log::take().into_iter().map(without_time).collect()
}

fn from(key: &str) -> Parts {
    Request::get("/jobs/7").header("x-key", key).body(()).unwrap().into_parts().0
}

#[test]
fn refused_and_held_requests_and_dry_runs_are_logged_without_their_keys() {
    let told = events(async || {
        let slow = Policy::token_bucket("slow", Quota::per_second(1)).key(header("x-key"));
        let tried = Policy::fixed_window("tried", Quota::per_minute(1)).global().dry_run();
        let jobs = Category::new("jobs")
            .on(Matcher::path("/jobs/{id}"))
            .policy(slow.or_refuse().hold(Duration::from_secs(1)))
            .policy(tried);
        let delivery = Policy::sliding_window("delivery", Quota::per_hour(1));
        let limiter = Limiter::builder()
            .clock(Clock::tokio(UNIX_EPOCH))
            .category(jobs)
            .check_only(delivery)
            .build()
            .unwrap();
        assert!(limiter.decide(&from(SECRET)).await.is_allowed());
        assert!(limiter.decide(&from(SECRET)).await.is_allowed(), "after a second");
        assert!(!limiter.decide(&from("")).await.is_allowed());
        for _ in 0..2 {
            let _ = limiter.check("delivery", SECRET).await.unwrap();
        }
        let _ = limiter.peek("delivery", SECRET).await.unwrap();
    });
    let expected = [
        r#"INFO a dry run would have refused this request policy="tried" category="jobs""#,
        r#"DEBUG a request was held category="jobs" held=1s"#,
        r#"DEBUG a request was refused policy="slow" category="jobs" reason=MissingKey key_kind="x-key" limit=1"#,
        r#"DEBUG a request was refused policy="delivery" reason=QuotaExceeded key_kind="all" limit=1 retry_after=3600s"#,
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_decision_at_once_is_logged_like_an_awaited_one() {
    let told = events(async || {
        let policy = |name| Policy::sliding_window(name, Quota::per_hour(1));
        let limiter = Limiter::builder()
            .clock(Clock::tokio(UNIX_EPOCH))
            .check_only(policy("delivery"))
            .check_only(policy("tried").dry_run())
            .build()
            .unwrap();
        for name in ["delivery", "tried", "delivery", "tried"] {
            let _ = limiter.check(name, SECRET).at_once().unwrap();
        }
        let _ = limiter.peek("delivery", SECRET).at_once().unwrap();
    });
    let expected = [
        r#"DEBUG a request was refused policy="delivery" reason=QuotaExceeded key_kind="all" limit=1 retry_after=3600s"#,
        r#"INFO a dry run would have refused this request policy="tried""#,
    ];
    assert_eq!(told, expected);
}

#[test]
fn each_apply_is_one_event_that_says_what_has_changed_or_all_that_is_wrong() {
    let told = events(async || {
        let of = |read, write| {
            let policy = |name, units| Policy::fixed_window(name, Quota::per_hour(units)).global();
            Limiter::builder().policy(policy("read", read)).policy(policy("write", write))
        };
        let limiter = of(5, 5).build().unwrap();
        limiter.apply(of(5, 5)).unwrap();
        limiter.apply(of(6, 7)).unwrap();
        limiter.apply(of(0, 0)).unwrap_err();
    });
    let wrong = |policy: &str| {
        format!("policy `{policy}`: a quota of 0 units refuses every request; write at least 1")
    };
    let expected = [
        "INFO the limits were applied: no changes".to_owned(),
        "INFO the limits were applied changes=policy `read`: quota 5 per hour → 6 per hour; policy `write`: quota 5 per hour → 7 per hour".to_owned(),
        format!(
            "ERROR the limits were not applied, and nothing has changed problems={}; {}",
            wrong("read"),
            wrong("write")
        ),
    ];
    assert_eq!(told, expected);
}

/// Each look-up fails, and one event tells of the outage.
#[test]
fn an_outage_of_the_override_source_is_one_event_without_the_callers_key() {
    let told = events(async || {
        let is_down = Arc::new(AtomicBool::new(false));
        let down = Arc::clone(&is_down);
        let source = CachedSource::new(move |key: Key<'_>| {
            let error = format!(
                "connection lost while {} was read",
                String::from_utf8_lossy(key.as_bytes())
            );
            let is_down = down.load(SeqCst);
            async move { if is_down { Err(error.into()) } else { Ok(SourceOverrides::new()) } }
        });
        let limiter = Limiter::builder()
            .clock(Clock::tokio(UNIX_EPOCH))
            .caller(header("x-key"))
            .override_source(source)
            .build()
            .unwrap();
        let mut callers = 0;
        let mut ask = async || {
            callers += 1;
            assert!(limiter.decide(&from(&format!("{SECRET}{callers}"))).await.is_allowed());
        };
        ask().await;
        is_down.store(true, SeqCst);
        for _ in 0..3 {
            ask().await;
        }
        is_down.store(false, SeqCst);
        ask().await;
        // Another one within a minute is logged if it lasts until then.
        is_down.store(true, SeqCst);
        ask().await;
        tokio::time::advance(Duration::from_secs(60)).await;
        ask().await;
        is_down.store(false, SeqCst);
        ask().await;
        ask().await;
    });
    let down =
        r#"WARN the override source does not answer error="connection lost while … was read""#;
    let again = "INFO the override source answers again";
    let (warnings, outages): (Vec<_>, Vec<_>) =
        told.iter().partition(|event| event.contains("code="));
    assert_eq!(outages, [down, again, down, again]);
    assert_eq!(warnings.len(), 1, "{told:?}");
    assert!(warnings[0].contains(r#"code="source_unavailable""#), "{told:?}");
}

#[cfg(feature = "config")]
#[test]
fn overrides_of_a_file_that_cannot_be_set_yet_are_logged_once_and_then_set() {
    use std::{fs, time::SystemTime};

    use tokio::time::sleep;
    use tower_quota::config::{Limits, Override, Registry, Watch};

    let told = events(async || {
        let registry = Registry::new();
        let text = "check_only = [\"jobs\"]\n[policies.jobs]\nalgorithm = \"token_bucket\"\n\
                    quota = \"5 per hour\"\n";
        let mut limits = Limits::from_toml(text, &registry).unwrap();
        // For ten seconds, the end is too far ahead by the limiter's clock.
        let end = SystemTime::now();
        let start = end - Duration::from_secs(366 * 86_400 + 10);
        let builder = limits.builder(&registry).unwrap().clock(Clock::tokio(start));
        let limiter = builder.build().unwrap();
        limits.overrides = vec![Override::block([SECRET], end.duration_since(UNIX_EPOCH).unwrap())];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("limits.toml");
        fs::write(&path, limits.to_toml()).unwrap();
        let _watch = Watch::new(&limiter, &path, registry);
        sleep(Duration::from_secs(5)).await;
        assert!(limiter.overrides().list().is_empty());
        sleep(Duration::from_secs(10)).await;
        assert_eq!(limiter.overrides().list().len(), 1);
    });
    // The limits are applied by a thread of their own, whose events are not kept here.
    let expected = [
        "ERROR the overrides of the limits could not be set, and are sent again every second error=an override lasts from 1 microsecond to 366 days",
        "INFO the overrides of the limits were applied set=1 ended=0 of_operators=0",
        "INFO the overrides of the limits are set now",
    ];
    assert_eq!(told, expected);
}
