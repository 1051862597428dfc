//! What stays when limits are replaced: counts, overrides, handles, and references to quotas.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tokio::{sync::Notify, task::yield_now, time::advance};
use tower::{Layer, Service, service_fn};
use tower_quota::{
    Algorithm, Category, CheckError, Decision, Limiter, Matcher, Policy, Quota, QuotaRef,
    RateLimitLayer, Reason,
    key::{self, header},
};

use super::{ALGORITHMS, HOUR, clock, daily, limits};
use crate::by_key::{policy, request};

async fn decide(limiter: &Limiter, key: &str) -> Decision {
    limiter.decide(&request("/", key)).await
}

#[tokio::test(start_paused = true)]
async fn a_key_keeps_what_it_has_used_under_a_larger_and_a_smaller_quota() {
    for algorithm in ALGORITHMS {
        let of = |units| limits([policy("p", algorithm, Quota::per_day(units))]);
        let limiter = of(100).clock(clock()).build().unwrap();
        for _ in 0..60 {
            assert!(decide(&limiter, "a").await.is_allowed());
        }
        for (units, left) in [(200, 139), (100, 38), (50, 0), (100, 37)] {
            limiter.apply(of(units)).unwrap();
            let decision = decide(&limiter, "a").await;
            assert_eq!(decision.remaining(), left, "{algorithm:?} {units}");
            assert_eq!(decision.is_allowed(), units > 50, "{algorithm:?} {units}");
            assert_eq!(decision.outcome("p").unwrap().limit(), units);
        }
        assert_eq!(decide(&limiter, "b").await.remaining(), 99, "another key has used nothing");
    }
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_comes_back_still_counts_what_was_used_and_a_new_one_begins_empty() {
    let limiter = limits([daily("old", 10)]).clock(clock()).build().unwrap();
    for _ in 0..4 {
        assert!(decide(&limiter, "a").await.is_allowed());
    }
    limiter.apply(limits([daily("new", 10)])).unwrap();
    let decision = decide(&limiter, "a").await;
    assert_eq!((decision.remaining(), decision.outcomes().len()), (9, 1));
    assert_eq!(decision.outcomes().next().unwrap().policy(), "new");
    assert_eq!(
        limiter.check("old", "a").at_once().unwrap_err(),
        CheckError::UnknownPolicy("old".to_owned()),
    );
    limiter.apply(limits([])).unwrap();
    assert_eq!(decide(&limiter, "a").await.outcomes().len(), 0, "nothing is limited");

    limiter.apply(limits([daily("new", 10), daily("old", 10)])).unwrap();
    let decision = decide(&limiter, "a").await;
    let left = |name| decision.outcome(name).unwrap().remaining();
    assert_eq!((left("old"), left("new")), (5, 8));

    // The same name, and another algorithm: another policy, which begins empty.
    let bucket = policy("old", Algorithm::TokenBucket, Quota::per_day(10));
    limiter.apply(limits([bucket])).unwrap();
    assert_eq!(decide(&limiter, "a").await.remaining(), 9);
    advance(24 * HOUR).await;
    limiter.apply(limits([daily("old", 10)])).unwrap();
    assert_eq!(decide(&limiter, "a").await.remaining(), 9, "what was used is over");
}

#[tokio::test(start_paused = true)]
async fn all_clones_and_layers_decide_by_the_new_limits_in_their_order() {
    let category = |name: &str, path: &str, units| {
        Category::new(name).on(Matcher::path(path)).policy(daily(name, units))
    };
    let first = Limiter::builder()
        .category(category("read", "/v1/{*rest}", 10))
        .category(category("write", "/v2/{*rest}", 20));
    let limiter = first.clock(clock()).build().unwrap();
    let clone = limiter.clone();
    let served = service_fn(|_: Request<Full<Bytes>>| async {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    });
    let mut service = RateLimitLayer::new(limiter.clone()).layer(served);
    let mut left = async |path: &str| {
        let request = Request::from_parts(request(path, "a"), Full::default());
        let headers = service.call(request).await.unwrap().into_parts().0.headers;
        headers.get("x-ratelimit-remaining").map(|left| left.to_str().unwrap().to_owned())
    };
    assert_eq!(left("/v1/a").await.as_deref(), Some("9"));
    assert_eq!(left("/v2/a").await.as_deref(), Some("19"));

    // Other indices, another matcher, and an exemption.
    let next = Limiter::builder()
        .exempt(Matcher::path("/v1/free"))
        .category(category("bulk", "/v3/{*rest}", 5))
        .category(category("write", "/v2/{*rest}", 20))
        .category(category("read", "/v1/{*rest}", 10));
    limiter.apply(next).unwrap();
    assert_eq!(left("/v1/a").await.as_deref(), Some("8"));
    assert_eq!(left("/v1/free").await, None);
    assert_eq!(left("/v2/a").await.as_deref(), Some("18"));
    assert_eq!(left("/v3/a").await.as_deref(), Some("4"));
    assert_eq!(clone.matched_pattern(&request("/v3/a", "a")).as_deref(), Some("/v3/{*rest}"));
    assert_eq!(format!("{clone:?}"), format!("{limiter:?}"));
}

#[tokio::test(start_paused = true)]
async fn a_handle_finds_its_policy_again_or_says_that_it_is_gone() {
    let jobs = |name: &str, units| Policy::fixed_window(name, Quota::per_day(units));
    let of = |names: &[&str], units| {
        let all = names.iter().map(|name| jobs(name, units));
        all.fold(Limiter::builder(), |limits, policy| limits.check_only(policy))
    };
    let limiter = of(&["jobs", "mails"], 10).clock(clock()).build().unwrap();
    let mails = limiter.policy("mails").unwrap();
    let check = mails.check("a");
    assert_eq!(mails.check("a").at_once().unwrap().remaining(), 9);

    // Its index is another one now.
    limiter.apply(of(&["exports", "faxes", "mails"], 20)).unwrap();
    assert_eq!(check.await.unwrap().remaining(), 18, "it was made before, and runs now");
    assert_eq!(mails.check("a").at_once().unwrap().remaining(), 17);
    assert_eq!(mails.give_back("a", 2).await.unwrap().remaining(), 19);
    assert_eq!((mails.name(), mails.overflowed()), ("mails", Some(0)));

    limiter.apply(of(&["jobs"], 10)).unwrap();
    let gone = CheckError::UnknownPolicy("mails".to_owned());
    assert_eq!(mails.check("a").at_once().unwrap_err(), gone);
    assert_eq!(mails.peek("a").await.unwrap_err(), gone);
    assert_eq!(mails.reset("a").await.unwrap_err(), gone);
    assert_eq!((mails.name(), mails.overflowed()), ("mails", None));

    let bucket = Policy::token_bucket("mails", Quota::per_day(5));
    limiter.apply(Limiter::builder().check_only(bucket)).unwrap();
    assert_eq!(mails.check("a").at_once().unwrap().remaining(), 4, "found by its name");
}

#[tokio::test(start_paused = true)]
async fn a_reference_to_a_quota_finds_the_count_of_its_key_and_no_other() {
    let by = |kinds: &[&str]| {
        let keys = kinds.iter().enumerate();
        let policy = Policy::fixed_window("p", Quota::per_day(10));
        let policy = keys.fold(policy, |policy, (index, kind)| match index {
            0 => policy.key(header(kind)),
            _ => policy.or_key(header(kind)),
        });
        policy.or_refuse()
    };
    let limiter = limits([by(&["x-user", "x-key"]), daily("other", 7)]);
    let limiter = limiter.clock(clock()).build().unwrap();
    let decision = decide(&limiter, "a").await;
    let quotas: Vec<QuotaRef> =
        decision.outcomes().filter_map(|outcome| outcome.quota_ref()).collect();
    let peeked = async || {
        let peeked = limiter.peek_quotas(&quotas, None).await;
        let words = |outcome: tower_quota::Outcome<'_>| {
            format!("{} {} {}", outcome.policy(), outcome.key_kind(), outcome.remaining())
        };
        peeked.outcomes().map(words).collect::<Vec<_>>()
    };
    assert_eq!(peeked().await, ["p x-key 9", "other x-key 6"]);
    // Other indices of the policies and of the kinds.
    limiter.apply(limits([daily("new", 3), daily("other", 7), by(&["x-key", "x-user"])])).unwrap();
    assert_eq!(peeked().await, ["p x-key 9", "other x-key 6"]);
    // No request draws on either quota: one policy counts by other keys, and one is gone.
    limiter.apply(limits([daily("new", 3), by(&["x-user"])])).unwrap();
    assert_eq!(peeked().await, [""; 0]);
    assert!(limiter.reset_quotas(&quotas).await.is_allowed());
    limiter.apply(limits([daily("other", 7), by(&["x-key"])])).unwrap();
    assert_eq!(peeked().await, ["p x-key 9", "other x-key 6"], "nothing was reset");
}

#[tokio::test(start_paused = true)]
async fn overrides_stay_and_that_of_a_policy_that_is_gone_waits_for_it() {
    let of = |names: &[&str]| limits(names.iter().map(|name| daily(name, 10)));
    let limiter = of(&["read", "write"]).caller(header("x-key")).clock(clock()).build().unwrap();
    let own = limiter.overrides().caller("a").unwrap();
    own.set_quota("write", Quota::per_day(100), HOUR).at_once().unwrap();
    limiter.overrides().caller("b").unwrap().block(HOUR).at_once().unwrap();

    limiter.apply(of(&["new", "read"])).unwrap();
    assert_eq!(decide(&limiter, "b").await.reason(), Some(Reason::Blocked));
    assert_eq!(decide(&limiter, "a").await.remaining(), 9);
    assert_eq!(own.list()[0].policy(), Some("write"), "no policy has it, but it is kept");
    limiter.apply(of(&["write"])).unwrap();
    assert_eq!(decide(&limiter, "a").await.remaining(), 99);
    assert_eq!(own.list()[0].policy(), Some("write"));
    advance(HOUR).await;
    assert_eq!(decide(&limiter, "a").await.remaining(), 8);
    assert!(decide(&limiter, "b").await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_decision_that_was_not_polled_yet_charges_the_new_quota() {
    let limiter = limits([daily("p", 10), daily("gone", 10)]).clock(clock()).build().unwrap();
    let deciding = limiter.decide(&request("/", "a"));
    limiter.apply(limits([daily("p", 100)])).unwrap();
    let decision = deciding.await;
    let left = |name| decision.outcome(name).unwrap().remaining();
    assert_eq!((left("p"), left("gone")), (99, 9), "its policies are those that it began with");
    let unlimited = policy("p", Algorithm::FixedWindow, Quota::unlimited());
    let deciding = limiter.decide(&request("/", "a"));
    limiter.apply(limits([unlimited])).unwrap();
    assert_eq!(deciding.await.outcomes().len(), 0);
}

/// Settles by the number of rows that the handler reports.
#[tokio::test(start_paused = true)]
async fn a_response_settles_the_cost_by_the_policy_that_is_there_then() {
    #[derive(Clone)]
    struct Rows(u64);
    let rows = |name: &str, factor: u64| {
        daily(name, 100)
            .settle(move |response| response.extensions.get().map(|rows: &Rows| factor * rows.0))
    };
    let limiter = limits([rows("p", 1), rows("gone", 1)]).clock(clock()).build().unwrap();
    let answer = Arc::new(Notify::new());
    let answered = Arc::clone(&answer);
    let served = service_fn(move |_: Request<Full<Bytes>>| {
        let answered = Arc::clone(&answered);
        async move {
            answered.notified().await;
            let mut response = Response::new(Full::<Bytes>::default());
            response.extensions_mut().insert(Rows(10));
            Ok::<_, Infallible>(response)
        }
    });
    let mut service = RateLimitLayer::new(limiter.clone()).layer(served);
    let asked = service.call(Request::from_parts(request("/", "a"), Full::default()));
    let asked = tokio::spawn(asked);
    yield_now().await;
    limiter.apply(limits([daily("first", 1), rows("p", 2)])).unwrap();
    answer.notify_one();
    let response = asked.await.unwrap().unwrap();
    assert_eq!(response.headers()["x-ratelimit-remaining"], "80");
    assert_eq!(limiter.peek("p", "a").await.unwrap().remaining(), 80);
    limiter.apply(limits([rows("gone", 1)])).unwrap();
    assert_eq!(limiter.peek("gone", "a").await.unwrap().remaining(), 99, "the charge stays");
}

/// The rules that were applied and replaced do not stay in memory.
#[tokio::test(start_paused = true)]
async fn replaced_limits_are_dropped_when_the_last_request_under_them_ends() {
    struct Alive(Arc<AtomicU64>);
    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, SeqCst);
        }
    }
    let alive = Arc::new(AtomicU64::new(0));
    let limits_of = |hold| {
        alive.fetch_add(1, SeqCst);
        let kept = Alive(Arc::clone(&alive));
        let by = key::from_fn("host", move |_| {
            let _ = &kept;
            Some("a".into())
        });
        let slow = Policy::token_bucket("p", Quota::per_hour(1)).key(by).or_refuse().hold(hold);
        limits([slow])
    };
    let limiter = limits_of(HOUR).clock(clock()).build().unwrap();
    assert!(decide(&limiter, "a").await.is_allowed());
    for _ in 0..10 {
        limiter.apply(limits_of(HOUR)).unwrap();
    }
    assert_eq!(alive.load(SeqCst), 2, "the first and the last");
    let held = limiter.clone();
    let held = tokio::spawn(async move { decide(&held, "a").await });
    yield_now().await;
    for _ in 0..10 {
        limiter.apply(limits_of(HOUR)).unwrap();
    }
    assert_eq!(alive.load(SeqCst), 3, "and those of the request that is held");
    assert!(held.await.unwrap().is_allowed());
    assert_eq!(alive.load(SeqCst), 2);
    drop(limiter);
    assert_eq!(alive.load(SeqCst), 0);
}

/// Among many, requests find their category in an index.
#[tokio::test(start_paused = true)]
async fn requests_find_the_categories_that_were_applied_however_many_there_are() {
    let of = |names: std::ops::Range<usize>| {
        names.rev().fold(Limiter::builder(), |builder, n| {
            let matcher = Matcher::path(&format!("/v1/{n}/{{id}}"));
            let policy = daily(&format!("of {n}"), 9);
            builder.category(Category::new(format!("{n}")).on(matcher).policy(policy))
        })
    };
    let limiter = of(0..2).build().unwrap();
    for (names, missing) in [(0..2, 2), (1..300, 0), (300..303, 1), (7..60, 60)] {
        limiter.apply(of(names.clone())).unwrap();
        for n in names.clone() {
            let decision = limiter.decide(&request(&format!("/v1/{n}/7"), "a")).await;
            let policies: Vec<_> =
                decision.outcomes().map(|outcome| outcome.policy().to_owned()).collect();
            assert_eq!(policies, [format!("of {n}")], "{names:?}");
        }
        let decision = limiter.decide(&request(&format!("/v1/{missing}/7"), "a")).await;
        assert_eq!(decision.outcomes().count(), 0, "{names:?}");
    }
}
