//! A request that finds too little of one quota draws on the next: `Policy::or_else`.

mod categories;
mod corrections;
mod keys;
#[cfg(all(feature = "config", feature = "describe"))]
mod settings;
mod together;
mod without_store;

use std::time::{Duration, UNIX_EPOCH};

use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::Empty;
use tokio::time::{Instant, advance};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_quota::{
    Algorithm, Clock, Decision, HeaderStyle, Limiter, LimiterBuilder, Policy, Quota,
    RateLimitLayer, Reason, ResetFormat, Verdict,
};

use crate::by_key::{decide, policy};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
const SECOND: Duration = Duration::from_secs(1);

fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400)))
}

/// What a request costs, by its header.
fn cost(request: &Parts) -> u64 {
    request.headers.get("x-cost").map_or(1, |cost| cost.to_str().unwrap().parse().unwrap())
}

fn request(key: &str, cost: u64) -> Parts {
    let request = Request::get("/").header("x-key", key).header("x-cost", cost);
    request.body(()).unwrap().into_parts().0
}

/// The names of the policies that the request draws on.
fn drawn_on(decision: &Decision) -> Vec<&str> {
    let drawn = decision.outcomes().filter(|outcome| outcome.is_drawn_on());
    drawn.map(|outcome| outcome.policy()).collect()
}

/// What the policy has left.
fn left(decision: &Decision, policy: &str) -> u64 {
    decision.outcome(policy).unwrap().remaining()
}

/// Tokens of a minute, and then credits of an hour.
fn tokens_or_credits(algorithm: Algorithm, tokens: u64, credits: u64) -> Policy {
    let credits = policy("credits", algorithm, Quota::per_hour(credits)).cost(cost);
    policy("tokens", algorithm, Quota::per_minute(tokens)).cost(cost).or_else(credits)
}

#[tokio::test(start_paused = true)]
async fn a_request_draws_on_the_first_quota_that_has_room_for_all_of_it() {
    for algorithm in ALGORITHMS {
        let last = policy("overdraft", algorithm, Quota::per_hour(5)).cost(cost);
        let tokens = tokens_or_credits(algorithm, 10, 20).or_else(last);
        let limiter = builder().policy(tokens).build().unwrap();
        for (cost, drawn, expected) in [
            (6, "tokens", [4, 20, 5]),
            // Four tokens are left, and the request is not split.
            (5, "credits", [4, 15, 5]),
            (3, "tokens", [1, 15, 5]),
            // More than there can ever be of tokens.
            (12, "credits", [1, 3, 5]),
            (1, "tokens", [0, 3, 5]),
            (4, "overdraft", [0, 3, 1]),
            (3, "credits", [0, 0, 1]),
            (0, "tokens", [0, 0, 1]),
            (1, "overdraft", [0, 0, 0]),
        ] {
            let decision = limiter.decide(&request("a", cost)).await;
            assert!(decision.is_allowed(), "{algorithm:?}: {cost}");
            let all = ["tokens", "credits", "overdraft"].map(|name| left(&decision, name));
            assert_eq!((drawn_on(&decision), all), (vec![drawn], expected), "{algorithm:?}");
            // The numbers of a response are those of the quota that is drawn on.
            assert_eq!(decision.tightest().unwrap().policy(), drawn, "{algorithm:?}");
            assert_eq!(decision.remaining(), left(&decision, drawn));
            assert!(decision.outcomes().all(|outcome| outcome.reason().is_none()));
        }
        assert!(!limiter.decide(&request("a", 1)).await.is_allowed(), "{algorithm:?}");
        assert!(limiter.decide(&request("b", 10)).await.is_allowed(), "another caller's are whole");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_lasts_until_any_of_the_quotas_has_room() {
    for (tokens, credits) in
        [(Quota::per_minute(2), Quota::per_hour(4)), (Quota::per_hour(2), Quota::per_minute(4))]
    {
        for algorithm in ALGORITHMS {
            let credits = policy("credits", algorithm, credits);
            let tokens = policy("tokens", algorithm, tokens).or_else(credits);
            let limiter = builder().policy(tokens).build().unwrap();
            let ask = async || limiter.decide(&request("a", 1)).await;
            for _ in 0..6 {
                assert!(ask().await.is_allowed());
            }
            let refused = ask().await;
            assert!(drawn_on(&refused).is_empty());
            let Verdict::Refused(by) = refused.verdict() else { panic!("{refused:?}") };
            let is_first = tokens_are_first(&limiter);
            assert_eq!(by.policy(), if is_first { "tokens" } else { "credits" });
            let others = refused.outcomes().filter(|outcome| outcome.policy() != by.policy());
            let says: Vec<_> = others.map(|other| (other.reason(), other.remaining())).collect();
            assert_eq!(says, [(None, 0)], "one speaks for all");
            let wait = refused.retry_after().unwrap();
            assert!(wait <= 60 * SECOND, "{wait:?}");
            advance(wait - Duration::from_nanos(1)).await;
            assert!(!ask().await.is_allowed(), "{algorithm:?}: not before");
            advance(Duration::from_nanos(1)).await;
            let passes = ask().await;
            assert_eq!(drawn_on(&passes), [if is_first { "tokens" } else { "credits" }]);
        }
    }
}

fn tokens_are_first(limiter: &Limiter) -> bool {
    limiter.policy("tokens").unwrap().quota() == Some(Quota::per_minute(2))
}

#[tokio::test(start_paused = true)]
async fn a_request_for_more_than_any_quota_could_ever_have_is_refused_as_such() {
    for algorithm in ALGORITHMS {
        let tokens = tokens_or_credits(algorithm, 10, 20);
        let limiter = builder().policy(tokens).build().unwrap();
        let refused = limiter.decide(&request("a", 21)).await;
        assert_eq!(refused.reason(), Some(Reason::CostExceedsQuota), "{algorithm:?}");
        assert_eq!(refused.retry_after(), None);
        assert!(limiter.decide(&request("a", 20)).await.is_allowed());
        // Only credits could ever have 15, so this is not for ever, and credits say how long.
        let refused = limiter.decide(&request("a", 15)).await;
        let Verdict::Refused(by) = refused.verdict() else { panic!("{refused:?}") };
        assert_eq!((by.policy(), by.reason()), ("credits", Some(Reason::QuotaExceeded)));
        advance(refused.retry_after().unwrap()).await;
        assert!(limiter.decide(&request("a", 15)).await.is_allowed(), "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_policy_refuses_draws_on_none() {
    let all = policy("all", Algorithm::FixedWindow, Quota::per_hour(3));
    let tokens = tokens_or_credits(Algorithm::FixedWindow, 1, 5);
    for all_is_first in [true, false] {
        let policies = if all_is_first { [&all, &tokens] } else { [&tokens, &all] };
        let limiter =
            policies.into_iter().cloned().fold(builder(), LimiterBuilder::policy).build().unwrap();
        let ask = async || limiter.decide(&request("a", 1)).await;
        let mut drawn = [ask().await, ask().await, ask().await].map(|decision| {
            assert!(decision.is_allowed());
            decision.outcomes().filter(|outcome| outcome.is_drawn_on()).count()
        });
        drawn.sort_unstable();
        assert_eq!(drawn, [2, 2, 2]);
        let refused = ask().await;
        assert_eq!(refused.tightest().unwrap().policy(), "all");
        assert_eq!((left(&refused, "tokens"), left(&refused, "credits")), (0, 3));
        assert_eq!(left(&ask().await, "credits"), 3, "nothing was charged");
    }
}

/// The numbers in a response's headers.
async fn headers(limiter: &Limiter, cost: u64) -> (StatusCode, http::HeaderMap) {
    let inner = service_fn(async |_| {
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<bytes::Bytes>::new()))
    });
    let mut service = RateLimitLayer::builder(limiter.clone())
        .headers([
            HeaderStyle::x_ratelimit().reset(ResetFormat::Seconds),
            HeaderStyle::ratelimit_lists(),
        ])
        .build()
        .unwrap()
        .layer(inner);
    let request = Request::from_parts(request("a", cost), Empty::<bytes::Bytes>::new());
    let response = service.ready().await.unwrap().call(request).await.unwrap();
    (response.status(), response.headers().clone())
}

#[tokio::test(start_paused = true)]
async fn headers_for_one_policy_show_the_quota_that_is_drawn_on_and_lists_have_all() {
    let limiter =
        builder().policy(tokens_or_credits(Algorithm::FixedWindow, 10, 20)).build().unwrap();
    for (cost, status, numbers, limits) in [
        (4, 200, ["10", "6", "60"], r#""tokens";r=6;t=60, "credits";r=20;t=3600"#),
        (7, 200, ["20", "13", "3600"], r#""tokens";r=6;t=60, "credits";r=13;t=3600"#),
        (14, 429, ["20", "13", "3600"], r#""tokens";r=6;t=60, "credits";r=13;t=3600"#),
        (6, 200, ["10", "0", "60"], r#""tokens";r=0;t=60, "credits";r=13;t=3600"#),
    ] {
        let (answered, headers) = headers(&limiter, cost).await;
        assert_eq!(answered, status);
        let names = ["x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"];
        assert_eq!(names.map(|name| &headers[name]), numbers, "{cost}");
        assert_eq!(headers["ratelimit"], limits, "{cost}");
        let retry_after = headers.get("retry-after").map(|wait| wait.to_str().unwrap());
        assert_eq!(retry_after, (status == 429).then_some("3600"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_until_the_first_quota_has_room() {
    let bucket = |name: &str, seconds| {
        let quota = Quota::per_window(1, seconds * SECOND);
        policy(name, Algorithm::TokenBucket, quota)
    };
    for (tokens, credits, drawn) in [(30, 2, "credits"), (2, 30, "tokens")] {
        let tokens = bucket("tokens", tokens).or_else(bucket("credits", credits));
        let limiter = builder().policy(tokens.hold(9 * SECOND)).build().unwrap();
        let start = Instant::now();
        let ask = || {
            let deciding = decide(&limiter, request("a", 1));
            tokio::spawn(async move {
                let decision = deciding.await;
                (decision, start.elapsed().as_secs())
            })
        };
        let mut all = Vec::new();
        for _ in 0..8 {
            all.push(ask());
            tokio::task::yield_now().await;
        }
        let mut told = Vec::new();
        for one in all {
            let (decision, seconds) = one.await.unwrap();
            told.push((drawn_on(&decision).concat(), seconds));
        }
        let expected = [
            ("tokens", 0),
            ("credits", 0),
            (drawn, 2),
            (drawn, 4),
            (drawn, 6),
            (drawn, 8),
            // They would wait for longer than they may, and are refused at once.
            ("", 0),
            ("", 0),
        ];
        assert_eq!(told, expected.map(|(policy, seconds)| (policy.to_owned(), seconds)));
    }
}

#[tokio::test(start_paused = true)]
async fn checks_draw_on_the_others_as_well() {
    let policy = |name, quota| policy(name, Algorithm::SlidingWindow, quota);
    let tokens = policy("tokens", Quota::per_minute(3));
    let tokens = tokens.or_else(policy("credits", Quota::per_hour(4)));
    let limiter = builder().check_only(tokens).build().unwrap();
    let handle = limiter.policy("tokens").unwrap();
    for (cost, drawn) in [(2, "tokens"), (2, "credits"), (1, "tokens"), (1, "credits")] {
        let peeked = limiter.peek("tokens", "a").cost(cost).await.unwrap();
        assert!(peeked.is_allowed(), "{cost}: {peeked:?}");
        assert_eq!(drawn_on(&peeked), [drawn]);
        let decision = match drawn {
            "tokens" => limiter.check("tokens", "a").cost(cost).await.unwrap(),
            _ => handle.check("a").cost(cost).at_once().unwrap(),
        };
        assert_eq!(drawn_on(&decision), [drawn]);
    }
    assert!(limiter.peek("tokens", "a").await.unwrap().is_allowed());
    assert!(!limiter.peek("tokens", "a").cost(2).await.unwrap().is_allowed());
    // A check of the other draws on that alone.
    let credits = limiter.check("credits", "a").await.unwrap();
    assert_eq!((credits.outcomes().len(), credits.remaining()), (1, 0));
    assert!(!limiter.check("tokens", "a").await.unwrap().is_allowed());
    assert!(!limiter.check("credits", "a").await.unwrap().is_allowed());
}
