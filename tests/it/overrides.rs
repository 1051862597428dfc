//! Overrides of one caller hold for requests, checks and decisions alike.

use std::time::{Duration, UNIX_EPOCH};

use http::Request;
use tokio::time::advance;
use tower_quota::{
    Clock, Limiter, LimiterBuilder, Matcher, Policy, Quota, Reason, Rejection, Verdict,
    key::{self, Caller, ClientIp, header},
    overrides::{OverrideError, OverrideKind, SavedOverrides},
};

use crate::by_key::request;

const HOUR: Duration = Duration::from_secs(3_600);

fn builder() -> LimiterBuilder {
    let reads = Policy::fixed_window("read", Quota::per_day(9)).key(header("x-key")).or_skip();
    Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH))
        .exempt(Matcher::get("/health"))
        .policy(reads)
        .check_only(Policy::token_bucket("jobs", Quota::per_day(9)))
}

#[tokio::test(start_paused = true)]
async fn a_blocked_caller_is_refused_in_each_way_of_asking_and_uses_nothing() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    let caller = limiter.overrides().caller("a").unwrap();
    caller.block(HOUR).at_once().unwrap();
    for decision in [
        limiter.decide(&request("/", "a")).await,
        limiter.decide(&request("/health", "a")).await,
        limiter.check("read", "a").await.unwrap(),
        limiter.check("jobs", "a").at_once().unwrap(),
        limiter.peek("jobs", "a").await.unwrap(),
        limiter.policy("jobs").unwrap().check("a").at_once().unwrap(),
    ] {
        assert!(matches!(decision.verdict(), Verdict::Blocked { wait } if wait == HOUR));
        assert_eq!(decision.reason(), Some(Reason::Blocked));
        assert_eq!((decision.remaining(), decision.outcomes().len()), (0, 0));
        let rejection = Rejection::of(&decision).unwrap();
        assert_eq!(rejection.retry_after(), Some(HOUR));
        let end = (decision.decided_at() + HOUR).as_secs();
        assert_eq!((rejection.policy(), rejection.resets_at_seconds()), ("", end));
    }
    assert!(limiter.decide(&request("/", "b")).await.is_allowed());
    assert!(limiter.check("jobs", "b").await.unwrap().is_allowed());

    advance(HOUR - Duration::from_millis(1)).await;
    assert!(!limiter.decide(&request("/", "a")).await.is_allowed());
    advance(Duration::from_millis(1)).await;
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 8, "nothing was used");
    assert_eq!(limiter.check("jobs", "a").at_once().unwrap().remaining(), 8);
    assert!(limiter.overrides().list().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_own_quota_holds_in_each_way_of_asking_and_for_its_policy_only() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    let caller = limiter.overrides().caller("a").unwrap();
    caller.set_quota("read", Quota::per_day(100), HOUR).at_once().unwrap();
    caller.set_quota("jobs", Quota::per_day(0), HOUR).at_once().unwrap();
    assert_eq!(limiter.decide(&request("/", "a")).await.remaining(), 99);
    assert_eq!(limiter.check("read", "a").await.unwrap().remaining(), 98);
    assert_eq!(limiter.peek_request(&request("/", "a")).await.remaining(), 98);
    let refused = limiter.check("jobs", "a").at_once().unwrap();
    assert_eq!(refused.reason(), Some(Reason::NoQuota));
    assert_eq!(limiter.decide(&request("/", "b")).await.remaining(), 8);

    let own = caller.list();
    assert_eq!(
        own.iter().map(|own| own.policy()).collect::<Vec<_>>(),
        [Some("read"), Some("jobs")]
    );
    assert!(own.iter().all(|own| (own.since, own.until) == (Duration::ZERO, HOUR)));
    assert_eq!(limiter.overrides().list().len(), 2);
    assert_eq!(caller.restore_quota("jobs").await.unwrap(), own[1..]);
    assert_eq!(caller.restore_quota("jobs").await.unwrap(), []);
    assert!(limiter.check("jobs", "a").at_once().unwrap().is_allowed());
    assert_eq!(limiter.give_back("read", "a", 1).at_once().unwrap().remaining(), 99);
}

#[tokio::test(start_paused = true)]
async fn a_blocked_caller_gets_units_back_under_its_own_quota() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    let caller = limiter.overrides().caller("a").unwrap();
    caller.set_quota("read", Quota::per_day(100), HOUR).at_once().unwrap();
    limiter.check("read", "a").cost(3).await.map(drop).unwrap();
    caller.block(HOUR).at_once().unwrap();
    assert_eq!(limiter.give_back("read", "a", 1).await.unwrap().remaining(), 98);
}

#[tokio::test(start_paused = true)]
async fn a_caller_is_counted_as_its_extractor_counts_it() {
    let limiter = builder().caller(ClientIp::new()).build().unwrap();
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    limiter.overrides().caller(address("2001:db8::1")).unwrap().block(HOUR).at_once().unwrap();
    let neighbour = limiter.check("jobs", address("2001:db8::2")).at_once().unwrap();
    assert!(!neighbour.is_allowed(), "it has the same /64");
    assert!(limiter.check("jobs", address("2001:db8:1::1")).at_once().unwrap().is_allowed());
    assert!(limiter.check("jobs", "job 7").at_once().unwrap().is_allowed());
    let unfit = limiter.overrides().caller("no address").unwrap_err();
    assert_eq!(unfit, OverrideError::UnfitKey);
}

#[test]
fn an_override_that_would_not_hold_is_an_error() {
    let unknown = builder().build().unwrap();
    let error = unknown.overrides().caller("a").unwrap_err();
    assert_eq!(error, OverrideError::NoCaller);
    assert_eq!(
        error.to_string(),
        "the limiter does not know who a request comes from; add `.caller(…)` to its builder"
    );
    let checks_only = Limiter::builder().check_only(Policy::token_bucket("p", Quota::per_day(1)));
    let checks_only = checks_only.build().unwrap();
    let longest = 366 * 24 * HOUR;
    checks_only.overrides().caller("a").unwrap().block(longest).at_once().unwrap();
    assert!(!checks_only.check("p", "a").at_once().unwrap().is_allowed());

    let limiter = builder().caller(key::bearer()).build().unwrap();
    let caller = limiter.overrides().caller("a").unwrap();
    for (result, error) in [
        (caller.block(Duration::ZERO), OverrideError::InvalidTime),
        (caller.block(367 * 24 * HOUR), OverrideError::InvalidTime),
        (
            caller.set_quota("raed", Quota::per_day(1), HOUR),
            OverrideError::UnknownPolicy("raed".to_owned()),
        ),
        (
            caller.block(HOUR).reason("x".repeat(201)),
            OverrideError::InvalidText("the reason has more than 200 characters".to_owned()),
        ),
        (
            caller.block(HOUR).author("a\u{1b}[2J"),
            OverrideError::InvalidText("the author has a control character".to_owned()),
        ),
    ] {
        assert_eq!(result.at_once(), Err(error));
    }
    // What no policy can have is refused with no units, too: it could not be read again after it was
    // saved.
    for quota in [
        Quota::per_window(1, Duration::ZERO),
        Quota::per_day(0).burst(2),
        #[cfg(feature = "calendar")]
        Quota::per_calendar_day(0).in_zone("Mars"),
        #[cfg(feature = "calendar")]
        Quota::per_calendar_day(0).burst(2),
    ] {
        let cannot_be = caller.set_quota("read", quota, HOUR).at_once();
        assert!(matches!(cannot_be, Err(OverrideError::InvalidQuota { .. })), "{cannot_be:?}");
    }
    for nothing in [caller.unblock(), caller.restore_quota("read"), caller.restore_quota("raed")] {
        assert_eq!(nothing.at_once().unwrap(), []);
    }
    assert!(limiter.overrides().list().is_empty());
    assert_eq!(
        builder().caller(header("x key")).build().unwrap_err().to_string(),
        "caller: `x key` is no header name; write one like `x-api-key`"
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_cannot_be_read_is_refused_only_while_overrides_apply() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    let twice = Request::get("/health").header("x-key", "a").header("x-key", "b");
    let twice = twice.body(()).unwrap().into_parts().0;
    assert!(limiter.decide(&twice).await.is_allowed());
    limiter.overrides().caller("a").unwrap().block(HOUR).at_once().unwrap();
    limiter.overrides().caller("b").unwrap().block(2 * HOUR).at_once().unwrap();
    advance(2 * HOUR - Duration::from_millis(1)).await;
    assert_eq!(limiter.decide(&twice).await.reason(), Some(Reason::UnreadableKey));
    advance(Duration::from_millis(1)).await;
    assert!(limiter.decide(&twice).await.is_allowed(), "the last override has ended");
    limiter.overrides().caller("a").unwrap().block(HOUR).at_once().unwrap();
    assert!(!limiter.decide(&twice).await.is_allowed(), "and there is another");
}

#[test]
fn a_wrong_check_fails_whatever_the_overrides_of_its_caller_are() {
    let plans = [("pro", Quota::per_day(90))];
    let policy = Policy::fixed_window("planned", Quota::per_day(9)).global().plans(plans, |_| None);
    let limiter = Limiter::builder().policy(policy).caller(header("x-key")).build().unwrap();
    let caller = limiter.overrides().caller("a").unwrap();
    let wrong = || {
        limiter.check("planned", "a").plan("por").at_once().is_err()
            && limiter.check("planned", "a").at_once().is_err()
            && limiter.check("planned", "a").plan("pro").kind("ip").at_once().is_err()
    };
    assert!(wrong());
    caller.set_quota("planned", Quota::per_day(5), HOUR).at_once().unwrap();
    assert!(wrong());
    assert_eq!(limiter.check("planned", "a").plan("pro").at_once().unwrap().remaining(), 4);
    caller.block(HOUR).at_once().unwrap();
    assert!(wrong());
    let decision = limiter.check("planned", "a").plan("pro").at_once().unwrap();
    assert_eq!(decision.reason(), Some(Reason::Blocked));
}

#[test]
fn units_are_given_back_also_under_an_unlimited_override() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    assert!(limiter.check("read", "a").cost(9).at_once().unwrap().is_allowed());
    let caller = limiter.overrides().caller("a").unwrap();
    caller.set_quota("read", Quota::unlimited(), HOUR).at_once().unwrap();
    assert_eq!(limiter.reset("read", "a").at_once().unwrap().remaining(), 9);
    caller.restore_quota("read").at_once().unwrap();
    assert_eq!(limiter.check("read", "a").at_once().unwrap().remaining(), 8);
}

#[tokio::test(start_paused = true)]
async fn the_list_says_who_did_what_and_why_and_until_when() {
    let limiter = builder().caller(header("x-key")).build().unwrap();
    advance(HOUR).await;
    let caller = limiter.overrides().caller("a").unwrap();
    assert_eq!(caller.block(2 * HOUR).reason("scraping").author("ana").await.unwrap(), []);
    let replaced = caller.block(3 * HOUR).reason("still scraping").await.unwrap();
    assert_eq!(replaced[0].author.as_deref(), Some("ana"));
    let list = limiter.overrides().list();
    let [block] = &list[..] else { panic!("{list:?}") };
    assert_eq!((block.caller, &block.kind), (caller.fingerprint(), &OverrideKind::Block));
    assert_eq!((block.reason.as_deref(), &block.author), (Some("still scraping"), &None));
    assert_eq!((block.since, block.until), (HOUR, 4 * HOUR));
    // By its fingerprint, as on the list.
    let same = limiter.overrides().by_fingerprint(block.caller).unwrap();
    let _ = same.set_quota("read", Quota::per_day(1), HOUR).await.unwrap();
    assert_eq!(same.end_all().await.unwrap().len(), 2);
    assert!(limiter.decide(&request("/", "a")).await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn saved_overrides_hold_in_the_next_process_until_their_ends() {
    // Each of them is a process of its own: it has fingerprints of its own, but for the secret.
    let process = |start, secret: u128| {
        let caller = Caller::new(header("x-key")).secret(secret);
        builder().clock(Clock::tokio(UNIX_EPOCH + start)).caller(caller).build().unwrap()
    };
    let before = process(100 * HOUR, 7);
    for (key, hours) in [("a", 1), ("b", 5)] {
        let caller = before.overrides().caller(key).unwrap();
        let _ = caller.block(hours * HOUR).reason("scraping").author("ana").await.unwrap();
    }
    let c = before.overrides().caller("c").unwrap();
    let _ = c.set_quota("read", Quota::per_day(2), 5 * HOUR).await.unwrap();
    let text = serde_json::to_string(&before.overrides().save().unwrap()).unwrap();
    let saved = || serde_json::from_str::<SavedOverrides>(&text).unwrap();

    let after = process(102 * HOUR, 7);
    after.overrides().load(saved()).unwrap();
    assert!(after.decide(&request("/", "a")).await.is_allowed(), "it ended meanwhile");
    let blocked = after.decide(&request("/", "b")).await;
    assert!(matches!(blocked.verdict(), Verdict::Blocked { wait } if wait == 3 * HOUR));
    assert_eq!(after.check("read", "c").await.unwrap().remaining(), 1);
    let all = before.overrides().list().into_iter();
    let not_ended: Vec<_> = all.filter(|saved| saved.until > 102 * HOUR).collect();
    assert_eq!((after.overrides().list(), not_ended.len()), (not_ended, 2));

    // A clock that was set back to a year before: as long as it was set for, and no longer.
    let set_back = process(HOUR, 7);
    set_back.overrides().load(saved()).unwrap();
    advance(5 * HOUR - Duration::from_millis(1)).await;
    assert!(!set_back.decide(&request("/", "b")).await.is_allowed());
    advance(Duration::from_millis(1)).await;
    assert!(set_back.decide(&request("/", "b")).await.is_allowed());

    let other = process(102 * HOUR, 8).overrides().load(saved());
    assert_eq!(other, Err(OverrideError::OtherSecret));
    let without = builder().caller(header("x-key")).build().unwrap();
    assert_eq!(without.overrides().save(), Err(OverrideError::NoSecret));
    assert_eq!(without.overrides().load(saved()), Err(OverrideError::NoSecret));
    let checks_only = Limiter::builder().build().unwrap();
    assert_eq!(checks_only.overrides().save(), Err(OverrideError::NoSecret));
}

#[test]
fn an_override_that_does_not_fit_its_policy_any_more_refuses() {
    let start = |policy: Policy| {
        let caller = Caller::new(header("x-key")).secret(7);
        Limiter::builder().check_only(policy).caller(caller).build().unwrap()
    };
    let before = start(Policy::token_bucket("jobs", Quota::per_day(9)));
    let a = before.overrides().caller("a").unwrap();
    let _ = a.set_quota("jobs", Quota::per_day(9).burst(2), HOUR).at_once().unwrap();
    let after = start(Policy::fixed_window("jobs", Quota::per_day(9)));
    after.overrides().load(before.overrides().save().unwrap()).unwrap();
    // Only a bucket has a burst.
    let refused = after.check("jobs", "a").at_once().unwrap();
    assert_eq!(refused.reason(), Some(Reason::NoQuota));
    let renamed = start(Policy::fixed_window("work", Quota::per_day(9)));
    renamed.overrides().load(before.overrides().save().unwrap()).unwrap();
    assert_eq!(renamed.overrides().list().len(), 1, "its policy may come back");
    assert!(renamed.check("work", "a").at_once().unwrap().is_allowed());
}
