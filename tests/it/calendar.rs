//! Quotas by the calendar, and schedules, from the settings to the headers.
#![cfg(feature = "calendar")]

use std::{
    convert::Infallible,
    time::{Duration, SystemTime},
};

use http::{Request, Response, request::Parts};
use jiff::Timestamp;
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt};
use tower_quota::{
    CheckError, Clock, HeaderStyle, Limiter, LimiterBuilder, Policy, Quota, RateLimitLayer, Reason,
    calendar::{Anchor, Weekday, hours},
    key,
};

fn at(time: &str) -> SystemTime {
    time.parse::<Timestamp>().unwrap().into()
}

fn builder(time: &str) -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(at(time)))
}

fn request(plan: Option<&str>) -> Parts {
    let mut request = Request::get("/").header("x-tenant", "t");
    if let Some(plan) = plan {
        request = request.header("x-plan", plan);
    }
    request.body(()).unwrap().into_parts().0
}

fn by_tenant(policy: Policy) -> Policy {
    policy.key(key::header("x-tenant")).or_refuse()
}

const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test(start_paused = true)]
async fn a_billing_month_ends_at_midnight_of_its_zone() {
    let billed = Quota::per_calendar_month(3).anchor(15).in_zone("Asia/Shanghai");
    let policy = by_tenant(Policy::fixed_window("billed", billed));
    // Two seconds before February 15th in Shanghai.
    let limiter = builder("2024-02-14T15:59:58Z").policy(policy).build().unwrap();
    let decide = async || {
        let decision = limiter.decide(&request(None)).await;
        let outcome = decision.outcome("billed").unwrap();
        (outcome.retry_after(), outcome.remaining(), outcome.reset())
    };
    for left in [2, 1, 0] {
        assert_eq!(decide().await, (None, left, Duration::from_secs(2)));
    }
    let wait = Duration::from_secs(2);
    assert_eq!(decide().await, (Some(wait), 0, wait));
    advance(wait - Duration::from_nanos(1)).await;
    assert_eq!(decide().await.0, Some(Duration::from_nanos(1)));
    advance(Duration::from_nanos(1)).await;
    // 29 days: February has 29.
    assert_eq!(decide().await, (None, 2, 29 * DAY));
}

#[tokio::test(start_paused = true)]
async fn a_day_has_as_many_hours_as_its_clocks_show() {
    let daily = Quota::per_calendar_day(1).in_zone("Europe/Berlin");
    for (midnight, hours) in
        [("2024-03-30T23:00:00Z", 23), ("2024-10-26T22:00:00Z", 25), ("2024-06-01T22:00:00Z", 24)]
    {
        let policy = by_tenant(Policy::fixed_window("daily", daily));
        let limiter = builder(midnight).policy(policy).build().unwrap();
        let decision = limiter.decide(&request(None)).await;
        assert_eq!(decision.outcome("daily").unwrap().reset(), hours * HOUR);
        advance(hours * HOUR - Duration::from_nanos(1)).await;
        assert!(!limiter.decide(&request(None)).await.is_allowed());
        advance(Duration::from_nanos(1)).await;
        assert!(limiter.decide(&request(None)).await.is_allowed());
    }
}

/// A request costs nothing by its response, which comes when its day is over.
#[tokio::test(start_paused = true)]
async fn a_late_correction_changes_nothing_of_the_next_day() {
    let daily = Quota::per_calendar_day(5).in_zone("Asia/Shanghai");
    let policy = by_tenant(Policy::fixed_window("daily", daily)).settle(|_| Some(0));
    let limiter = builder("2024-05-20T15:59:59Z").policy(policy).build().unwrap();
    let handler = tower::service_fn(async |request: Request<()>| {
        sleep(if request.uri() == "/slow" { Duration::from_secs(1) } else { Duration::ZERO }).await;
        Ok::<_, Infallible>(Response::new(String::new()))
    });
    let app = RateLimitLayer::new(limiter.clone()).layer(handler);
    let send = async |path: &str| {
        let request = Request::get(path).header("x-tenant", "t").body(()).unwrap();
        app.clone().oneshot(request).await.unwrap();
    };
    let left = async || limiter.peek("daily", "t").await.unwrap().remaining();
    send("/").await;
    assert_eq!(left().await, 5, "it cost nothing");
    let slow = async {
        send("/slow").await;
        left().await
    };
    let next_day = async {
        assert_eq!(left().await, 4);
        sleep(Duration::from_millis(999)).await;
        advance(Duration::from_nanos(999_999)).await;
        assert_eq!(left().await, 4);
        advance(Duration::from_nanos(1)).await;
        for _ in 0..3 {
            assert!(limiter.check("daily", "t").await.unwrap().is_allowed());
        }
        assert_eq!(left().await, 2);
    };
    let (after, ()) = tokio::join!(slow, next_day);
    assert_eq!(after, 2, "it was of yesterday");
}

#[test]
fn mistakes_fail_at_build() {
    let error =
        |policy: Policy| builder("2024-02-14T00:00:00Z").policy(policy).build().unwrap_err();
    let month = Quota::per_calendar_month(5);
    let fixed = |quota| by_tenant(Policy::fixed_window("p", quota));
    let only_fixed = "policy `p`: only a fixed window counts by the calendar; write `Policy::fixed_window`, or a quota such as `Quota::per_day(…)`";
    for (policy, text) in [
        (by_tenant(Policy::token_bucket("p", month)), only_fixed),
        (by_tenant(Policy::sliding_window("p", month)), only_fixed),
        (
            fixed(month.in_zone("Europe/Berln")),
            "policy `p`: the time zone `Europe/Berln` is not known; write a name of the IANA database, such as `Europe/Berlin`",
        ),
        (
            fixed(month.burst(3)),
            "policy `p`: only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out",
        ),
        (
            fixed(month).plans([("pro", month.anchor(Weekday::Sunday))], |_| None),
            "policy `p`: plan `pro`: its anchor is `Sunday`, but a calendar month begins on a day from 1 to 31; write it as in `.anchor(15)`",
        ),
        (
            fixed(month).schedule(hours("Mo-Fr 8:00-18:00", "UTC"), month),
            "policy `p`: the schedule `Mo-Fr 8:00-18:00`: `8:00` is no time from 00:00 to 24:00; write it as in `08:00`",
        ),
        (
            fixed(month).schedule(hours("Mo-Fr 08:00-18:00", "Mars"), month),
            "policy `p`: the schedule `Mo-Fr 08:00-18:00`: the time zone `Mars` is not known; write a name of the IANA database, such as `Europe/Berlin`",
        ),
        (
            fixed(month).schedule(hours("Mo-Fr 08:00-18:00", "UTC"), Quota::per_hour(0)),
            "policy `p`: the schedule `Mo-Fr 08:00-18:00`: a quota of 0 units refuses every request; write at least 1",
        ),
    ] {
        assert_eq!(error(policy).to_string(), text);
    }
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_is_not_known_at_run_time_is_a_refusal() {
    let month = Quota::per_calendar_month(5);
    let policy = by_tenant(Policy::fixed_window("p", month));
    let policy = policy.quota_by(move |request| {
        let zone = request.headers.get("x-plan")?.to_str().ok()?;
        Some(month.in_zone(zone))
    });
    let limiter = builder("2024-02-14T00:00:00Z")
        .policy(policy)
        .caller(key::header("x-tenant"))
        .build()
        .unwrap();
    let reason = async |zone| {
        let decision = limiter.decide(&request(Some(zone))).await;
        decision.outcome("p").unwrap().reason()
    };
    assert_eq!(reason("Asia/Tokyo").await, None);
    assert_eq!(reason("Asia/Tokio").await, Some(Reason::NoQuota));
    let overrides = limiter.overrides().caller("t").unwrap();
    let problem = overrides.set_quota("p", month.in_zone("Asia/Tokio"), DAY).at_once().unwrap_err();
    assert!(problem.to_string().contains("the time zone `Asia/Tokio` is not known"), "{problem}");
}

/// What is used at one hour is used at the next.
#[tokio::test(start_paused = true)]
async fn a_schedule_chooses_the_quota_by_the_time() {
    let policy = by_tenant(Policy::fixed_window("p", Quota::per_day(10)));
    let policy = policy
        .schedule(hours("Mo-Fr 08:00-18:00", "Europe/Berlin"), Quota::per_day(4))
        .schedule(hours("12:00-24:00", "Europe/Berlin"), Quota::per_day(7));
    // A Thursday, 07:59:59 in Berlin. Clocks are set forward on Sunday.
    let limiter = builder("2024-03-28T06:59:59Z").policy(policy).build().unwrap();
    let decide = async || {
        let decision = limiter.decide(&request(None)).await;
        let outcome = decision.outcome("p").unwrap();
        (outcome.limit(), outcome.remaining(), outcome.is_allowed())
    };
    let check = async || {
        let decision = limiter.peek("p", "other").await.unwrap();
        decision.outcome("p").unwrap().limit()
    };
    assert_eq!(decide().await, (10, 9, true));
    assert_eq!(decide().await, (10, 8, true));
    assert_eq!(check().await, 10);
    advance(Duration::from_secs(1)).await;
    assert_eq!(decide().await, (4, 1, true));
    assert_eq!(check().await, 4);
    assert_eq!(decide().await, (4, 0, true));
    assert_eq!(decide().await, (4, 0, false));
    advance(10 * HOUR - Duration::from_nanos(1)).await;
    assert_eq!(decide().await, (4, 0, false));
    advance(Duration::from_nanos(1)).await;
    assert_eq!(decide().await, (7, 2, true), "the second schedule");
    assert_eq!(check().await, 7);
    // Monday, 07:00 in Berlin, and an hour later: now by summer time.
    advance(3 * DAY + 12 * HOUR).await;
    assert_eq!(check().await, 10);
    advance(HOUR).await;
    assert_eq!(check().await, 4);
}

#[tokio::test(start_paused = true)]
async fn the_quota_of_a_plan_holds_at_all_hours() {
    let plans = [("pro", Quota::per_day(100))];
    let policy = by_tenant(Policy::fixed_window("p", Quota::per_day(10)))
        .plans(plans, |request| request.headers.get("x-plan")?.to_str().ok())
        .schedule(hours("00:00-24:00", "UTC"), Quota::per_day(4));
    let limiter = builder("2024-03-28T07:00:00Z")
        .policy(policy)
        .caller(key::header("x-tenant"))
        .build()
        .unwrap();
    let limit = async |plan| {
        let decision = limiter.decide(&request(plan)).await;
        decision.outcome("p").unwrap().limit()
    };
    assert_eq!(limit(Some("pro")).await, 100);
    assert_eq!(limit(None).await, 4);
    assert_eq!(limit(Some("unknown")).await, 4);
    let checked = limiter.check("p", "t").plan("pro").await.unwrap();
    assert_eq!(checked.outcome("p").unwrap().limit(), 100);
    let error = limiter.check("p", "t").await.unwrap_err();
    assert!(matches!(error, CheckError::MissingPlan { .. }));
    // An operator's quota holds as well.
    let overrides = limiter.overrides().caller("t").unwrap();
    overrides.set_quota("p", Quota::per_day(50), DAY).at_once().unwrap();
    assert_eq!(limit(None).await, 50);
}

#[tokio::test(start_paused = true)]
async fn an_explanation_names_the_schedule() {
    let policy = by_tenant(Policy::fixed_window("p", Quota::per_day(10)))
        .schedule(hours("Th 00:00-24:00", "UTC"), Quota::per_day(4));
    let limiter = builder("2024-03-28T07:00:00Z").policy(policy).build().unwrap();
    let explained = limiter.explain(&request(None)).await.to_string();
    assert!(explained.contains("(at the hours Th 00:00-24:00 in UTC)"), "{explained}");
    advance(DAY).await;
    let explained = limiter.explain(&request(None)).await.to_string();
    assert!(!explained.contains("at the hours"), "{explained}");
}

#[cfg(feature = "describe")]
#[test]
fn limits_by_the_calendar_are_described() {
    let month = Quota::per_calendar_month(1_000).anchor(15).in_zone("Asia/Shanghai");
    let day = Quota::per_calendar_day(50).anchor(Anchor::Time { hour: 6, minute: 0 });
    let year = Quota::per_calendar_year(9).anchor(Anchor::YearDay { month: 4, day: 1 });
    let policy = by_tenant(Policy::fixed_window("p", month))
        .plans([("free", day), ("once", year)], |_| None)
        .schedule(hours("Sa-Su 00:00-24:00", "Asia/Shanghai"), Quota::per_calendar_week(7));
    let described = builder("2024-02-14T00:00:00Z").policy(policy).build().unwrap().describe();
    let json: serde_json::Value = serde_json::from_str(&described.to_json()).unwrap();
    let policy = &json["every_request"][0];
    assert_eq!(
        policy["quota"],
        serde_json::json!({
            "units": 1_000, "window_seconds": 2_678_400,
            "calendar": { "period": "month", "anchor": "15", "zone": "Asia/Shanghai" },
        })
    );
    assert_eq!(policy["plans"][0]["quota"]["calendar"]["anchor"], "06:00");
    assert_eq!(
        policy["schedules"],
        serde_json::json!([{
            "hours": "Sa-Su 00:00-24:00", "zone": "Asia/Shanghai",
            "quota": {
                "units": 7, "window_seconds": 604_800,
                "calendar": { "period": "week", "anchor": "Monday", "zone": "UTC" },
            },
        }])
    );
    for page in [described.to_markdown(), described.to_html()] {
        for words in [
            "1,000 per calendar month from day 15 in Asia/Shanghai",
            "Sa-Su 00:00-24:00 in Asia/Shanghai: 7 per calendar week in UTC",
            "50 per calendar day from 06:00 in UTC",
            "9 per calendar year from April 1 in UTC",
            "A window of the calendar begins at midnight in its time zone",
        ] {
            assert!(page.contains(words), "{words}: {page}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn headers_have_the_seconds_of_the_window_of_now() {
    let month = Quota::per_calendar_month(1_000).in_zone("Europe/Berlin");
    for (time, seconds) in [
        // February, and March with an hour less.
        ("2024-02-29T22:59:59Z", 29 * 86_400),
        ("2024-02-29T23:00:00Z", 31 * 86_400 - 3_600),
        ("2024-10-01T00:00:00Z", 31 * 86_400 + 3_600),
    ] {
        let policy = by_tenant(Policy::fixed_window("p", month));
        let limiter = builder(time).policy(policy).build().unwrap();
        let layer = RateLimitLayer::builder(limiter).headers([HeaderStyle::ratelimit_lists()]);
        let layer = layer.build().unwrap();
        let explained = layer.explain(&request(None)).await;
        let response = format!("{explained:?}");
        assert!(response.contains(&format!(";q=1000;w={seconds}")), "{time}: {response}");
    }
}
