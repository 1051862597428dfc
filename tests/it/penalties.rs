//! Penalties: who keeps on being refused, or failing, is blocked for longer and longer.

use std::{
    convert::Infallible,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use tokio::time::{advance, sleep};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Algorithm, CheckError, Clock, Decision, Limiter, LimiterBuilder, Now, Penalty, Policy, Quota,
    RateLimitLayer, Reason,
    key::{ClientIp, header},
    response::Problem,
    store::{Charge, Correction, MemoryStore, Store, StoreFuture},
};

use crate::by_key::policy;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const START: u64 = 1_705_402_800;

fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(START)))
}

/// Five refusals within 10 seconds block for 5 seconds, then 20, then 60; forgotten after 10 minutes.
fn penalty() -> Penalty {
    Penalty::after(5)
        .refusals_within(10 * SECOND)
        .block(5 * SECOND)
        .then(20 * SECOND)
        .then(60 * SECOND)
        .forget_after(10 * MINUTE)
}

/// Two a second, so that a quota never refuses for longer than a block.
fn reads() -> Policy {
    policy("read", Algorithm::SlidingWindow, Quota::per_second(2)).penalty(penalty())
}

fn limiter(policy: Policy) -> Limiter {
    builder().policy(policy).caller(header("x-key")).build().unwrap()
}

fn request(key: &str) -> Parts {
    Request::get("/").header("x-key", key).body(()).unwrap().into_parts().0
}

async fn decide(limiter: &Limiter) -> Decision {
    limiter.decide(&request("a")).await
}

/// Sends requests until a block begins, and returns its length and how many were refused before.
async fn provoke(limiter: &Limiter) -> (Duration, u32) {
    for refused in 0_u32.. {
        let mut decision = decide(limiter).await;
        while decision.is_allowed() {
            decision = decide(limiter).await;
        }
        if let Some(block) = decision.outcome("read").unwrap().blocked_for() {
            assert_eq!(decision.reason(), Some(Reason::Penalty));
            return (block, refused);
        }
        assert_eq!(decision.reason(), Some(Reason::QuotaExceeded));
    }
    unreachable!("a block begins")
}

async fn is_blocked(limiter: &Limiter) -> bool {
    decide(limiter).await.reason() == Some(Reason::Penalty)
}

#[tokio::test(start_paused = true)]
async fn who_keeps_on_is_blocked_for_longer_and_longer_until_it_is_forgotten() {
    let limiter = limiter(reads());
    for block in [5, 20, 60, 60] {
        let block = block * SECOND;
        assert_eq!(provoke(&limiter).await, (block, 4), "the fifth refusal tells the block");
        advance(block - Duration::from_nanos(1)).await;
        assert!(is_blocked(&limiter).await, "a retry just before the end is refused");
        advance(Duration::from_nanos(1)).await;
        assert!(decide(&limiter).await.is_allowed(), "a retry at the end passes");
        advance(SECOND).await;
    }
    advance(10 * MINUTE).await;
    assert_eq!(provoke(&limiter).await, (5 * SECOND, 4));
    assert!(limiter.decide(&request("b")).await.is_allowed(), "another key is not blocked");
}

#[tokio::test(start_paused = true)]
async fn refusals_during_a_block_make_it_no_longer_and_do_not_count() {
    let limiter = limiter(reads());
    provoke(&limiter).await;
    for second in 0..5_u32 {
        for _ in 0..50 {
            let decision = decide(&limiter).await;
            assert_eq!(decision.retry_after(), Some((5 - second) * SECOND));
            assert_eq!(decision.outcome("read").unwrap().remaining(), 0);
        }
        advance(SECOND).await;
    }
    assert_eq!(provoke(&limiter).await, (20 * SECOND, 4));
}

#[tokio::test(start_paused = true)]
async fn a_check_a_handle_and_at_once_count_and_meet_the_block() {
    let limiter = limiter(reads());
    for _ in 0..2 {
        assert!(limiter.check("read", "a").await.unwrap().is_allowed());
    }
    let handle = limiter.policy("read").unwrap();
    for number in 1..=5 {
        let refused = match number % 3 {
            0 => limiter.check("read", "a").await.unwrap(),
            1 => limiter.check("read", "a").at_once().unwrap(),
            _ => handle.check("a").await.unwrap(),
        };
        let reason = if number < 5 { Reason::QuotaExceeded } else { Reason::Penalty };
        assert_eq!(refused.reason(), Some(reason));
    }
    assert_eq!(handle.check("a").at_once().unwrap().retry_after(), Some(5 * SECOND));
    assert!(is_blocked(&limiter).await, "a request meets the block of checks");
}

#[tokio::test(start_paused = true)]
async fn peeks_and_explanations_never_count_and_tell_the_block() {
    let limiter = limiter(reads());
    let cost = 2;
    assert!(limiter.check("read", "a").cost(cost).await.unwrap().is_allowed());
    for _ in 0..20 {
        let peeked = limiter.peek("read", "a").await.unwrap();
        assert_eq!(peeked.reason(), Some(Reason::QuotaExceeded));
        #[cfg(feature = "describe")]
        limiter.explain(&request("a")).await;
    }
    assert_eq!(provoke(&limiter).await, (5 * SECOND, 4));
    let peeked = limiter.peek("read", "a").await.unwrap();
    let outcome = peeked.outcome("read").unwrap();
    assert_eq!(outcome.reason(), Some(Reason::Penalty));
    assert_eq!(outcome.blocked_for(), Some(5 * SECOND));
    assert_eq!(limiter.peek_request(&request("a")).await.reason(), Some(Reason::Penalty));
    #[cfg(feature = "describe")]
    {
        let explanation = limiter.explain(&request("a")).await;
        let text = explanation.to_string();
        for line in [
            "refuses for 5 seconds: the key is blocked by the penalty",
            "penalty: 5 refusals within 10 seconds block for 5 seconds, then 20 seconds, then 1 minute; forgotten after 10 minutes",
            "blocked: for 5 seconds more",
        ] {
            assert!(text.contains(line), "{text}");
        }
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["policies"][0]["reason"], "penalty");
        assert_eq!(json["policies"][0]["blocked_seconds"], 5);
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_policy_refuses_does_not_count_here() {
    let other = policy("other", Algorithm::FixedWindow, Quota::per_hour(1));
    let reads = policy("read", Algorithm::SlidingWindow, Quota::per_hour(5)).penalty(penalty());
    let limiter = builder().policy(reads).policy(other).build().unwrap();
    for _ in 0..20 {
        let decision = decide(&limiter).await;
        assert!(decision.is_allowed() || decision.tightest().unwrap().policy() == "other");
    }
    for left in (0..4).rev() {
        assert_eq!(limiter.check("read", "a").await.unwrap().remaining(), left);
    }
    // Where both refuse, it counts for the one that has a penalty.
    for _ in 0..4 {
        assert_eq!(decide(&limiter).await.reason(), Some(Reason::QuotaExceeded));
    }
    assert_eq!(limiter.peek("read", "a").await.unwrap().reason(), Some(Reason::QuotaExceeded));
    let refused = decide(&limiter).await;
    assert_eq!(refused.outcome("read").unwrap().reason(), Some(Reason::Penalty));
    assert_eq!(refused.outcome("other").unwrap().reason(), Some(Reason::QuotaExceeded));
}

#[tokio::test(start_paused = true)]
async fn a_held_request_counts_only_if_it_is_refused_in_the_end() {
    let reads = policy("read", Algorithm::TokenBucket, Quota::per_second(1)).hold(3 * SECOND);
    let limiter = limiter(reads.penalty(penalty()));
    let held: Vec<_> = (0..4)
        .map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { decide(&limiter).await })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    // The line is full: these would wait for longer than 3 seconds.
    for number in 1..=5 {
        let refused = decide(&limiter).await;
        assert!(refused.held().is_zero());
        assert_eq!(refused.reason() == Some(Reason::Penalty), number == 5, "{number}");
    }
    let mut passed = 0;
    for held in held {
        let decision = held.await.unwrap();
        // One has passed at once. The others are refused when their turn comes, as the key is blocked.
        passed += u32::from(decision.is_allowed());
        assert!(decision.is_allowed() || decision.reason() == Some(Reason::Penalty));
    }
    assert_eq!(passed, 1);
    sleep(5 * SECOND).await;
    assert!(decide(&limiter).await.is_allowed(), "refusals of held requests made no longer block");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_blocked_is_not_held() {
    let reads = reads().hold(MINUTE);
    let limiter = limiter(reads);
    let store_wait = limiter.check("read", "a").cost(2).await.unwrap();
    assert!(store_wait.is_allowed());
    for _ in 0..5 {
        // A check at once is never held.
        let _ = limiter.check("read", "a").at_once().unwrap();
    }
    let blocked = decide(&limiter).await;
    assert_eq!((blocked.reason(), blocked.held()), (Some(Reason::Penalty), Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_counts_and_reports_and_refuses_nobody() {
    let limiter = limiter(reads().dry_run());
    for number in 1..=20 {
        let decision = decide(&limiter).await;
        assert!(decision.is_allowed());
        let reason = decision.dry_runs().next().unwrap().reason();
        let expected = match number {
            1..=2 => None,
            3..=6 => Some(Reason::QuotaExceeded),
            _ => Some(Reason::Penalty),
        };
        assert_eq!(reason, expected, "{number}");
    }
    let decision = decide(&limiter).await;
    assert_eq!(decision.dry_runs().next().unwrap().blocked_for(), Some(5 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn neither_a_plan_nor_an_override_lifts_a_block() {
    let reads = reads().plans([("pro", Quota::per_second(1_000))], |request| {
        request.headers.get("x-plan")?.to_str().ok()
    });
    let limiter = limiter(reads);
    provoke(&limiter).await;
    let pro = Request::get("/").header("x-key", "a").header("x-plan", "pro");
    let pro = pro.body(()).unwrap().into_parts().0;
    assert_eq!(limiter.decide(&pro).await.reason(), Some(Reason::Penalty));
    let caller = limiter.overrides().caller("a").unwrap();
    caller.set_quota("read", Quota::per_second(5_000), MINUTE).await.unwrap();
    assert!(is_blocked(&limiter).await);
    advance(5 * SECOND).await;
    assert_eq!(decide(&limiter).await.remaining(), 4_999);
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_quota_lifts_no_block_in_any_way_of_asking() {
    common::unlimited::stay_blocked_whatever_the_quota(builder).await;
}

#[tokio::test(start_paused = true)]
async fn unblock_and_reset_lift_a_block() {
    let by_key = reads();
    let by_ip = Policy::sliding_window("by ip", Quota::per_second(2))
        .key(ClientIp::new())
        .or_skip()
        .penalty(penalty());
    let jobs = Policy::sliding_window("jobs", Quota::per_second(2)).penalty(penalty());
    let limiter = builder()
        .policy(by_key)
        .policy(by_ip)
        .check_only(jobs)
        .caller(header("x-key"))
        .build()
        .unwrap();
    provoke(&limiter).await;
    for _ in 0..7 {
        let _ = limiter.check("jobs", "a").await.unwrap();
        let _ = limiter.check("jobs", "b").await.unwrap();
    }
    assert_eq!(limiter.check("jobs", "a").await.unwrap().reason(), Some(Reason::Penalty));
    let caller = limiter.overrides().caller("a").unwrap();
    assert!(caller.unblock().await.unwrap().is_empty(), "no operator had blocked it");
    assert_eq!(limiter.peek("read", "a").await.unwrap().remaining(), 0, "what was used stays used");
    assert_eq!(decide(&limiter).await.reason(), Some(Reason::QuotaExceeded));
    let blocked =
        async |key| limiter.peek("jobs", key).await.unwrap().reason() == Some(Reason::Penalty);
    assert!(!blocked("a").await && blocked("b").await);

    // The block that was lifted is forgotten: the next one is the first again.
    advance(10 * SECOND).await;
    assert_eq!(provoke(&limiter).await.0, 5 * SECOND);
    caller.block(MINUTE).await.unwrap();
    assert_eq!(caller.unblock().at_once().unwrap().len(), 1);
    advance(SECOND).await;
    assert!(decide(&limiter).await.is_allowed());

    advance(10 * SECOND).await;
    assert_eq!(provoke(&limiter).await.0, 5 * SECOND);
    assert_eq!(limiter.reset("read", "a").await.unwrap().remaining(), 2);
    assert_eq!(decide(&limiter).await.remaining(), 1);
    // Of a key whose quota is whole, too: it was refused for its cost.
    for _ in 0..5 {
        let _ = limiter.check("read", "c").cost(9).await.unwrap();
    }
    assert_eq!(limiter.peek("read", "c").await.unwrap().reason(), Some(Reason::Penalty));
    assert!(limiter.reset("read", "c").await.unwrap().is_allowed());
    assert!(limiter.check("read", "c").await.unwrap().is_allowed());
}

#[tokio::test(start_paused = true)]
async fn an_apply_without_the_penalty_ends_blocks_and_one_with_another_lets_them_end() {
    let limiter = limiter(reads());
    provoke(&limiter).await;
    let plain = || policy("read", Algorithm::SlidingWindow, Quota::per_second(2));
    let longer = Penalty::after(1).refusals_within(MINUTE).block(MINUTE);
    let changes = limiter.apply(Limiter::builder().policy(plain().penalty(longer))).unwrap();
    let change = changes.all().iter().find(|change| change.setting() == Some("penalty")).unwrap();
    assert!(change.before().unwrap().starts_with("5 refusals within 10 seconds block for 5"));
    assert!(change.after().unwrap().starts_with("1 refusal within 1 minute blocks for 1 minute"));
    assert_eq!(decide(&limiter).await.retry_after(), Some(5 * SECOND));
    advance(5 * SECOND).await;
    assert_eq!(provoke(&limiter).await, (MINUTE, 0));
    let changes = limiter.apply(Limiter::builder().policy(plain())).unwrap();
    let change = changes.all().iter().find(|change| change.setting() == Some("penalty")).unwrap();
    assert_eq!(change.after(), None);
    assert_eq!(decide(&limiter).await.reason(), Some(Reason::QuotaExceeded));
    advance(SECOND).await;
    assert!(decide(&limiter).await.is_allowed());
}

type Body = Full<Bytes>;

async fn send(layer: &RateLimitLayer, key: &str, status: u16) -> Response<Bytes> {
    let inner = service_fn(move |_: Request<Body>| async move {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        Ok::<_, Infallible>(response)
    });
    let request = Request::get("/").header("x-key", key).body(Body::default()).unwrap();
    let (head, body) = layer.layer(inner).oneshot(request).await.unwrap().into_parts();
    Response::from_parts(head, body.collect().await.unwrap().to_bytes())
}

fn body(response: &Response<Bytes>) -> Value {
    serde_json::from_slice(response.body()).unwrap()
}

fn header_of<'r>(response: &'r Response<Bytes>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_response_tells_the_penalty_and_until_when() {
    let layer = |problem: Option<Problem>| {
        let layer = RateLimitLayer::builder(limiter(reads()));
        match problem {
            Some(problem) => layer.on_rejection(problem.renderer()).build().unwrap(),
            None => layer.build().unwrap(),
        }
    };
    let until = START + 5;
    let of = async |layer: &RateLimitLayer| {
        for _ in 0..6 {
            send(layer, "a", 200).await;
        }
        send(layer, "a", 200).await
    };
    let json = of(&layer(None)).await;
    assert_eq!(json.status(), 429);
    assert_eq!(header_of(&json, "retry-after"), Some("5"));
    assert_eq!(
        body(&json),
        json!({
            "error": "penalty",
            "message": "Policy `read` blocks the key for a time, as it was refused too often. Retry after 5 seconds.",
            "policy": "read", "limit": 2, "remaining": 0, "until": until, "retry_after": 5,
        })
    );
    let problem = of(&layer(Some(Problem::quota_exceeded()))).await;
    assert_eq!(
        body(&problem),
        json!({
            "type": "https://iana.org/assignments/http-problem-types#abnormal-usage-detected",
            "title": "Abnormal usage detected", "status": 429,
            "detail": "Policy `read` blocks the key for a time, as it was refused too often. Retry after 5 seconds.",
            "violated-policies": ["read"], "reason": "penalty", "until": until,
        })
    );
    let own = Problem::new("https://gateway/errors/rate-limited").title(|_| "Too fast");
    let problem = body(&of(&layer(Some(own))).await);
    assert_eq!(
        (&problem["type"], &problem["title"]),
        (&json!("https://gateway/errors/rate-limited"), &json!("Too fast"))
    );
    assert_eq!((&problem["reason"], &problem["until"]), (&json!("penalty"), &json!(until)));
}

#[tokio::test(start_paused = true)]
async fn retry_after_waits_for_the_quota_too_and_until_tells_the_block_alone() {
    let reads = policy("read", Algorithm::SlidingWindow, Quota::per_minute(60)).penalty(penalty());
    let layer = RateLimitLayer::new(limiter(reads));
    for _ in 0..64 {
        send(&layer, "a", 200).await;
    }
    let refused = send(&layer, "a", 200).await;
    let (until, retry_after) =
        (body(&refused)["until"].clone(), header_of(&refused, "retry-after"));
    assert_eq!((until, retry_after), (json!(START + 5), Some("60")));
    advance(MINUTE).await;
    assert_eq!(send(&layer, "a", 200).await.status(), 200);
}

#[tokio::test(start_paused = true)]
async fn failures_are_counted_where_a_penalty_says_so() {
    let failures = Penalty::after(3).failures_within(10 * MINUTE).block(MINUTE).then(10 * MINUTE);
    let sign_ins = policy("sign in", Algorithm::SlidingWindow, Quota::per_hour(100))
        .settle(|response| Some(u64::from(response.status == 401)))
        .penalty(failures);
    let limiter = limiter(sign_ins);
    let layer = RateLimitLayer::new(limiter.clone());
    for block in [60, 600] {
        for _ in 0..2 {
            assert_eq!(send(&layer, "a", 401).await.status(), 401);
            assert_eq!(send(&layer, "a", 200).await.status(), 200, "a success does not count");
        }
        let third = send(&layer, "a", 401).await;
        assert_eq!(third.status(), 401, "the failure itself is answered by the handler");
        assert_eq!(header_of(&third, "x-ratelimit-remaining"), Some("0"), "but nothing is left");
        let blocked = send(&layer, "a", 200).await;
        assert_eq!(blocked.status(), 429);
        assert_eq!(header_of(&blocked, "retry-after"), Some(&*block.to_string()));
        assert!(body(&blocked)["message"].as_str().unwrap().contains("as it failed too often"));
        assert_eq!(send(&layer, "b", 401).await.status(), 401);
        advance(block * SECOND).await;
    }
    // Refusals are no failures.
    let strict = policy("sign in", Algorithm::SlidingWindow, Quota::per_hour(1))
        .settle(|_| None)
        .penalty(Penalty::after(2).failures_within(MINUTE).block(MINUTE));
    let limiter = self::limiter(strict);
    for _ in 0..9 {
        let decision = decide(&limiter).await;
        assert_ne!(decision.reason(), Some(Reason::Penalty));
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_is_known_at_the_end_counts_once() {
    common::failures::count_once_at_the_end(builder).await;
}

#[tokio::test(start_paused = true)]
async fn failures_count_under_an_unlimited_quota_and_are_not_shown() {
    for dry_run in [false, true] {
        let failures = Penalty::after(2).failures_within(10 * MINUTE).block(MINUTE);
        let sign_ins = policy("sign in", Algorithm::SlidingWindow, Quota::unlimited())
            .settle(|response| (response.status == 200).then_some(0))
            .penalty(failures);
        let sign_ins = if dry_run { sign_ins.dry_run() } else { sign_ins };
        let limiter = limiter(sign_ins);
        let layer = RateLimitLayer::new(limiter.clone());
        for status in [401, 200, 200, 401] {
            assert!(!limiter.peek("sign in", "a").await.unwrap().outcomes().any(|_| true));
            let response = send(&layer, "a", status).await;
            assert_eq!(response.status(), status);
            assert_eq!(header_of(&response, "x-ratelimit-remaining"), None);
        }
        let next = send(&layer, "a", 200).await;
        assert_eq!(next.status(), if dry_run { 200 } else { 429 });
        if !dry_run {
            // As large as a header can say.
            assert_eq!(header_of(&next, "x-ratelimit-limit"), Some("999999999999999"));
            assert_eq!(body(&next)["limit"], 999_999_999_999_999_u64);
        }
        assert_eq!(send(&layer, "b", 200).await.status(), 200);
        advance(MINUTE).await;
        assert_eq!(send(&layer, "a", 200).await.status(), 200);
    }
}

#[tokio::test(start_paused = true)]
async fn a_success_is_no_failure_if_the_policy_is_gone_meanwhile() {
    let sign_ins = || {
        policy("sign in", Algorithm::SlidingWindow, Quota::per_hour(100))
            .settle(|response| Some(u64::from(response.status == 401)))
            .penalty(Penalty::after(1).failures_within(MINUTE).block(MINUTE))
    };
    let limiter = limiter(sign_ins());
    let applied = limiter.clone();
    let handler = service_fn(move |_: Request<Body>| {
        applied.apply(Limiter::builder().caller(header("x-key"))).unwrap();
        async { Ok::<_, Infallible>(Response::new(Body::default())) }
    });
    let layer = RateLimitLayer::new(limiter.clone());
    let request = Request::get("/").header("x-key", "a").body(Body::default()).unwrap();
    assert_eq!(layer.layer(handler).oneshot(request).await.unwrap().status(), 200);
    limiter.apply(Limiter::builder().policy(sign_ins()).caller(header("x-key"))).unwrap();
    assert_eq!(decide(&limiter).await.reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_reset_lifts_a_block_of_what_is_in_flight_and_leaves_what_is_held() {
    let penalty = Penalty::after(1).refusals_within(MINUTE).block(MINUTE);
    let limiter = builder()
        .check_only(Policy::in_flight("jobs", 2).penalty(penalty))
        .check_only(Policy::in_flight("plain", 2))
        .build()
        .unwrap();
    let jobs = limiter.policy("jobs").unwrap();
    let held = jobs.enter("a").await.unwrap();
    for at_once in [true, false] {
        let blocked = limiter.check("jobs", "a").cost(3).await.unwrap();
        assert_eq!(blocked.reason(), Some(Reason::Penalty));
        let reset = limiter.reset("jobs", "a");
        let reset = if at_once { reset.at_once() } else { reset.await }.unwrap();
        assert_eq!((reset.reason(), reset.remaining()), (None, 1));
    }
    let second = jobs.enter("a").await.unwrap();
    drop((held, second));
    assert_eq!(limiter.peek("jobs", "a").await.unwrap().remaining(), 2);
    for refund in [limiter.give_back("jobs", "a", 1), limiter.reset("plain", "a")] {
        assert!(matches!(refund.await, Err(CheckError::InFlight(_))));
    }
}

/// Keeps no penalties.
struct Plain(MemoryStore);

impl Store for Plain {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.0.charge(charges, now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.0.correct(corrections, now)
    }
}

#[test]
fn what_cannot_work_with_a_penalty_is_an_error_of_build() {
    let bucket = || Policy::token_bucket("p", Quota::per_minute(60));
    let keyed = || bucket().key(header("x-key")).or_skip();
    let error = |policy: Policy| Limiter::builder().policy(policy).build().unwrap_err().to_string();
    for (policy, problem) in [
        (
            bucket().global().penalty(penalty()),
            "policy `p`: it is global and has a penalty, which would block all callers; leave `.penalty(…)` out, or count by a key",
        ),
        (
            keyed().lease(5).penalty(penalty()),
            "policy `p`: it has a lease and a penalty: replicas spend leased units without asking whether their key is blocked; leave one out",
        ),
        (
            keyed().penalty(Penalty::after(5).failures_within(MINUTE).block(MINUTE)),
            "policy `p`: its penalty counts failures, and no response is one; add `.settle(…)`, which says what a response costs: 0 if it has not failed; or `.settle_at_end()`, if that is known when the response has ended",
        ),
        (
            keyed().penalty(Penalty::after(5).block(MINUTE)),
            "policy `p`: the penalty does not say what it counts; add `.refusals_within(…)` or `.failures_within(…)`",
        ),
        (
            keyed().penalty(penalty()).penalty(penalty()),
            "policy `p`: it says `.penalty(…)` twice, and the first would be lost; write it once",
        ),
    ] {
        assert_eq!(error(policy), problem);
    }
    let failures = Penalty::after(5).failures_within(MINUTE).block(MINUTE);
    let error = |policy| Limiter::builder().check_only(policy).build().unwrap_err().to_string();
    assert_eq!(
        error(bucket().penalty(failures)),
        "policy `p`: its penalty counts failures, which are responses, and only checks use it; write `.refusals_within(…)`, or apply the policy to requests"
    );
    assert_eq!(
        error(Policy::fixed_window("p", Quota::unlimited()).penalty(penalty())),
        "policy `p`: its quota is unlimited, so that its penalty counts no refusal; leave `.penalty(…)` out, or write a quota"
    );
    let plain = Limiter::builder().store(Plain(MemoryStore::new()));
    let error = plain.policy(keyed().penalty(penalty())).build().unwrap_err().to_string();
    assert_eq!(
        error,
        "policy `p`: it has a penalty, and the store keeps none; leave `.penalty(…)` out, or use a store that keeps penalties, such as `MemoryStore`"
    );
    let plain = Limiter::builder().store(Plain(MemoryStore::new())).policy(keyed());
    let limiter = plain.build().unwrap();
    let applied = limiter.apply(Limiter::builder().policy(keyed().penalty(penalty())));
    assert!(applied.unwrap_err().to_string().contains("the store keeps none"));
}

#[cfg(feature = "describe")]
#[test]
fn a_description_has_the_penalty_as_data_and_in_words() {
    let described = limiter(reads()).describe();
    let json = serde_json::to_value(&described).unwrap();
    assert_eq!(
        json["every_request"][0]["penalty"],
        json!({
            "after": 5, "of_failures": false, "within_seconds": 10, "block_seconds": [5, 20, 60],
            "forget_after_seconds": 600,
        })
    );
    let words = "5 refusals within 10 seconds block for 5 seconds, then 20 seconds, then 1 minute";
    assert!(described.to_markdown().contains(words), "{}", described.to_markdown());
}
