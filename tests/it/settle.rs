//! Costs that are corrected after the response, jobs that reserve and give back, and dry runs.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio::time::{advance, sleep};
use tower::{Service, ServiceExt, service_fn};
use tower_quota::{
    Algorithm, CheckError, Clock, HeaderStyle, Limiter, LimiterBuilder, Policy, Quota,
    RateLimitLayer, ResetFormat, ResponseBody, key::header,
};

use crate::by_key::policy;

type Body = Full<Bytes>;

const MIDNIGHT: u64 = 86_400;
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

/// The cost that the handler reports.
#[derive(Clone)]
struct Rows(u64);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(MIDNIGHT);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// A policy that costs nothing but what fails.
fn failures(algorithm: Algorithm, quota: Quota) -> Policy {
    policy("p", algorithm, quota).settle(|response| Some(u64::from(response.status == 401)))
}

/// Charged by what the request says, and corrected by what the handler says.
fn rows(algorithm: Algorithm, quota: Quota) -> Policy {
    policy("p", algorithm, quota)
        .cost(|request| {
            request.headers.get("x-rows").map_or(1, |rows| rows.to_str().unwrap().parse().unwrap())
        })
        .settle(|response| response.extensions.get().map(|rows: &Rows| rows.0))
}

/// What the handler does.
#[derive(Clone, Copy, Default)]
struct Does {
    fails: bool,
    breaks: bool,
    rows: Option<u64>,
    takes: Duration,
}

fn request(key: &str, does: Does) -> Request<Body> {
    Request::get("/").header("x-key", key).extension(does).body(Body::default()).unwrap()
}

/// The handler behind the limiter.
fn limited(
    limiter: &Limiter,
) -> impl Service<
    Request<Body>,
    Response = Response<ResponseBody<Body>>,
    Error = &'static str,
    Future: Send,
> + Clone
+ Send
+ 'static {
    let handler = service_fn(|request: Request<Body>| async move {
        let does: Does = *request.extensions().get().unwrap();
        sleep(does.takes).await;
        if does.breaks {
            return Err("broken");
        }
        let mut response = Response::new(Body::default());
        if does.fails {
            *response.status_mut() = StatusCode::UNAUTHORIZED;
        }
        if let Some(rows) = does.rows {
            response.extensions_mut().insert(Rows(rows));
        }
        Ok(response)
    });
    tower::Layer::layer(&RateLimitLayer::new(limiter.clone()), handler)
}

async fn send(limiter: &Limiter, request: Request<Body>) -> Response<ResponseBody<Body>> {
    limited(limiter).oneshot(request).await.unwrap()
}

/// Limit, remaining and reset of the response's headers; `None` without such headers.
fn told<B>(response: &Response<B>) -> Option<[u64; 3]> {
    let number = |name| Some(response.headers().get(name)?.to_str().unwrap().parse().unwrap());
    Some([
        number("x-ratelimit-limit")?,
        number("x-ratelimit-remaining")?,
        number("x-ratelimit-reset")?,
    ])
}

/// What is left to a key.
async fn left(limiter: &Limiter, name: &str, key: &str) -> u64 {
    let decision = limiter.peek(name, key).await.unwrap();
    decision.outcomes().chain(decision.dry_runs()).next().unwrap().remaining()
}

/// Runs on a paused clock, which stands still unless the test moves it.
fn paused<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn only_failures_or_only_successes_are_charged(
        algorithm in select(&ALGORITHMS),
        counts_failures: bool,
        fails in vec(any::<bool>(), 0..30),
    ) {
        paused(async {
            let counted = move |fails: bool| u64::from(fails == counts_failures);
            let policy = policy("p", algorithm, Quota::per_hour(5))
                .settle(move |response| Some(counted(response.status == 401)));
            let limiter = builder().policy(policy).build().unwrap();
            let mut used = 0;
            for fails in fails {
                let passes = used < 5;
                let response = send(&limiter, request("a", Does { fails, ..Does::default() })).await;
                assert_eq!(response.status() != 429, passes);
                used += if passes { counted(fails) } else { 0 };
                assert_eq!(told(&response).unwrap()[..2], [5, 5 - used]);
            }
            assert_eq!(left(&limiter, "p", "a").await, 5 - used);
            assert_eq!(left(&limiter, "p", "b").await, 5, "other keys feel nothing of it");
        });
    }

    #[test]
    fn a_handler_corrects_the_cost_up_and_down_and_the_same_response_tells_what_is_left(
        algorithm in select(&ALGORITHMS),
        requests in vec((1_u64..=8, option::of(0_u64..=12)), 1..20),
    ) {
        paused(async {
            let limiter = builder().policy(rows(algorithm, Quota::per_hour(20))).build().unwrap();
            let mut used = 0;
            for (charged, rows) in requests {
                let mut request = request("a", Does { rows, ..Does::default() });
                request.headers_mut().insert("x-rows", charged.into());
                let passes = used + charged <= 20;
                let response = send(&limiter, request).await;
                assert_eq!(response.status() == 200, passes);
                used += if passes { rows.unwrap_or(charged) } else { 0 };

                let peeked = limiter.peek("p", "a").await.unwrap();
                let outcome = &peeked.outcomes().next().unwrap();
                assert_eq!(outcome.remaining(), 20_u64.saturating_sub(used));
                let resets_at = (peeked.decided_at() + outcome.reset()).as_nanos();
                let resets_at = resets_at.div_ceil(1_000_000_000) as u64;
                assert_eq!(told(&response), Some([20, outcome.remaining(), resets_at]));
            }
        });
    }

    #[test]
    fn checks_peeks_and_what_is_given_back_add_up(
        algorithm in select(&ALGORITHMS),
        steps in vec((0_u8..4, select(&["a", "b"]), 1_u64..5), 1..60),
    ) {
        paused(async {
            let policy = policy("p", algorithm, Quota::per_day(10));
            let limiter = builder().check_only(policy).build().unwrap();
            let mut used = std::collections::HashMap::from([("a", 0_u64), ("b", 0)]);
            for (action, key, units) in steps {
                // Long enough to be other moments, too short for a unit to come back.
                advance(Duration::from_secs(3)).await;
                let used = used.get_mut(key).unwrap();
                let fits = *used + units <= 10;
                let is_unused = *used == 0;
                let (answer, allowed) = match action {
                    0 => {
                        *used += if fits { units } else { 0 };
                        (limiter.check("p", key).cost(units).await, fits)
                    }
                    1 => (limiter.peek("p", key).cost(units).await, fits),
                    2 => {
                        *used = used.saturating_sub(units);
                        (limiter.give_back("p", key, units).await, true)
                    }
                    _ => {
                        *used = 0;
                        (limiter.reset("p", key).await, true)
                    }
                };
                if is_unused && action >= 2 {
                    assert_eq!(answer.unwrap_err(), CheckError::NothingUsed("p".to_owned()));
                    continue;
                }
                let decision = answer.unwrap();
                let remaining = decision.outcomes().next().unwrap().remaining();
                assert_eq!((decision.is_allowed(), remaining), (allowed, 10 - *used));
            }
        });
    }

    #[test]
    fn a_dry_run_counts_and_reports_and_is_not_felt(
        algorithm in select(&ALGORITHMS),
        costs in vec((1_u64..4, 0_u64..8), 1..20),
    ) {
        paused(async {
            let cost = |name: &'static str| move |request: &http::request::Parts| {
                request.headers[name].to_str().unwrap().parse().unwrap()
            };
            let limiter = builder()
                .policy(policy("felt", algorithm, Quota::per_hour(12)).cost(cost("x-felt")))
                .policy(policy("dry", algorithm, Quota::per_hour(9)).cost(cost("x-dry")).dry_run())
                .build()
                .unwrap();
            let (mut felt, mut dry) = (0, 0);
            for (felt_cost, dry_cost) in costs {
                let mut request = request("a", Does::default());
                request.headers_mut().insert("x-felt", felt_cost.into());
                request.headers_mut().insert("x-dry", dry_cost.into());
                let passes = felt + felt_cost <= 12;
                let would_pass = dry + dry_cost <= 9;
                felt += if passes { felt_cost } else { 0 };
                dry += if passes && would_pass { dry_cost } else { 0 };

                let decision = limiter.decide(&request.into_parts().0).await;
                assert_eq!(decision.is_allowed(), passes);
                let [outcome] = decision.outcomes().collect::<Vec<_>>()[..] else { panic!("{decision:?}") };
                assert_eq!((outcome.policy(), outcome.remaining()), ("felt", 12 - felt));
                let [outcome] = decision.dry_runs().collect::<Vec<_>>()[..] else { panic!("{decision:?}") };
                assert_eq!(outcome.policy(), "dry");
                assert_eq!((outcome.is_allowed(), outcome.remaining()), (would_pass, 9 - dry));
            }
        });
    }
}

#[tokio::test(start_paused = true)]
async fn the_policy_that_the_correction_makes_the_tightest_speaks_for_itself() {
    let limiter = builder()
        .policy(policy("calls", Algorithm::FixedWindow, Quota::per_minute(10)))
        .policy(rows(Algorithm::FixedWindow, Quota::per_hour(12)))
        .build()
        .unwrap();
    let response = send(&limiter, request("a", Does { rows: Some(1), ..Does::default() })).await;
    assert_eq!(told(&response), Some([10, 9, MIDNIGHT + 60]));
    let response = send(&limiter, request("a", Does { rows: Some(9), ..Does::default() })).await;
    assert_eq!(told(&response), Some([12, 2, MIDNIGHT + 3_600]));
}

#[tokio::test(start_paused = true)]
async fn requests_at_once_never_pass_on_the_same_unit() {
    for algorithm in ALGORITHMS {
        let limiter = builder().policy(failures(algorithm, Quota::per_hour(5))).build().unwrap();
        let does = Does { takes: Duration::from_secs(1), ..Does::default() };
        let sent = (0..50).map(|_| tokio::spawn(limited(&limiter).oneshot(request("a", does))));
        let mut passed = 0;
        for response in sent.collect::<Vec<_>>() {
            passed += usize::from(response.await.unwrap().unwrap().status() == 200);
        }
        assert_eq!(passed, 5, "{algorithm:?}");
        if algorithm == Algorithm::TokenBucket {
            // Of requests that overlap, a bucket gives back too little by what it has refilled meanwhile.
            assert_eq!(left(&limiter, "p", "a").await, 4);
            advance(Duration::from_secs(5)).await;
        }
        assert_eq!(left(&limiter, "p", "a").await, 5, "{algorithm:?}: none of them has failed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_error_of_the_inner_service_leaves_the_charge() {
    for algorithm in ALGORITHMS {
        let limiter = builder().policy(failures(algorithm, Quota::per_hour(5))).build().unwrap();
        let does = Does { breaks: true, ..Does::default() };
        let error = limited(&limiter).oneshot(request("a", does)).await.unwrap_err();
        assert_eq!((error, left(&limiter, "p", "a").await), ("broken", 4), "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_before_the_response_leaves_the_charge() {
    let limiter =
        builder().policy(failures(Algorithm::SlidingWindow, Quota::per_hour(5))).build().unwrap();
    let does = Does { takes: Duration::from_secs(9), ..Does::default() };
    let response = limited(&limiter).oneshot(request("a", does));
    tokio::time::timeout(Duration::from_secs(1), response).await.unwrap_err();
    advance(Duration::from_secs(60)).await;
    assert_eq!(left(&limiter, "p", "a").await, 4);
}

#[tokio::test(start_paused = true)]
async fn a_response_after_the_windows_end_gives_the_next_window_nothing() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        // Both limiters begin a window when they are built.
        let late = async |takes, units_left| {
            let limiter =
                builder().policy(failures(algorithm, Quota::per_minute(3))).build().unwrap();
            let does = Does { takes: Duration::from_secs(takes), ..Does::default() };
            let response = tokio::spawn(limited(&limiter).oneshot(request("a", does)));
            tokio::task::yield_now().await;
            advance(Duration::from_secs(takes - 1)).await;
            assert!(limiter.check("p", "a").cost(2).await.unwrap().is_allowed());
            let response = response.await.unwrap().unwrap();
            assert_eq!(told(&response).unwrap()[..2], [3, units_left], "{algorithm:?}");
            assert_eq!(left(&limiter, "p", "a").await, units_left, "{algorithm:?}");
        };
        // Its unit came back by itself a second ago; the two used since then stay used.
        late(61, 1).await;
        // Within its window, it is given back.
        late(59, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_peeked_given_back_or_reset_is_of_one_policy_and_key() {
    let limiter = builder()
        .policy(policy("hour", Algorithm::FixedWindow, Quota::per_hour(5)))
        .policy(policy("day", Algorithm::SlidingWindow, Quota::per_day(9)))
        .build()
        .unwrap();
    for key in ["a", "a", "b"] {
        send(&limiter, request(key, Does::default())).await;
    }
    let _ = limiter.give_back("hour", "a", 1).await.unwrap();
    let _ = limiter.reset("day", "a").await.unwrap();
    for (name, key, units) in [("hour", "a", 4), ("hour", "b", 4), ("day", "a", 9), ("day", "b", 8)]
    {
        assert_eq!(left(&limiter, name, key).await, units, "{name} {key}");
    }
    limiter.peek("week", "a").await.unwrap_err();
    limiter.give_back("week", "a", 1).await.unwrap_err();
    limiter.reset("week", "a").await.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_neither_in_the_headers_nor_refuses() {
    let dry = || policy("dry", Algorithm::SlidingWindow, Quota::per_hour(1)).dry_run();
    let alone = builder().policy(dry()).build().unwrap();
    let beside = policy("felt", Algorithm::FixedWindow, Quota::per_hour(3));
    let beside = builder().policy(dry()).policy(beside).build().unwrap();
    for remaining in (0..3).rev() {
        let response = send(&alone, request("a", Does::default())).await;
        assert_eq!((response.status(), told(&response)), (StatusCode::OK, None));
        let response = send(&beside, request("a", Does::default())).await;
        assert_eq!(told(&response), Some([3, remaining, MIDNIGHT + 3_600]));
    }
    let refused = send(&beside, request("a", Does::default())).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_that_finds_no_key_keeps_no_other_policy_from_counting() {
    let dry = Policy::sliding_window("dry", Quota::per_hour(9)).key(header("x-user")).or_refuse();
    let limiter = builder()
        .policy(dry.dry_run())
        .policy(policy("felt", Algorithm::FixedWindow, Quota::per_hour(2)))
        .build()
        .unwrap();
    for passes in [true, true, false] {
        let decision = limiter.decide(&request("a", Does::default()).into_parts().0).await;
        assert_eq!(decision.is_allowed(), passes);
        assert_eq!((decision.outcomes().len(), decision.dry_runs().len()), (1, 1));
        assert!(!decision.dry_runs().next().unwrap().is_allowed(), "it would be a refusal");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_settled_as_well() {
    let limiter = builder()
        .policy(failures(Algorithm::SlidingWindow, Quota::per_hour(5)).dry_run())
        .build()
        .unwrap();
    for (fails, units_left) in [(false, 5), (true, 4), (false, 4)] {
        send(&limiter, request("a", Does { fails, ..Does::default() })).await;
        assert_eq!(left(&limiter, "p", "a").await, units_left);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_pass_the_burst_and_no_more_however_slow_successes_are() {
    for algorithm in ALGORITHMS {
        let limiter = builder().policy(failures(algorithm, Quota::per_minute(10))).build().unwrap();
        let slow = Does { takes: Duration::from_secs(70), ..Does::default() };
        let successes: Vec<_> =
            (0..10).map(|_| tokio::spawn(limited(&limiter).oneshot(request("a", slow)))).collect();
        tokio::task::yield_now().await;
        // All that they were charged has come back by itself.
        advance(Duration::from_secs(60)).await;
        let fail = async || {
            let does = Does { fails: true, ..Does::default() };
            u64::from(send(&limiter, request("a", does)).await.status() == StatusCode::UNAUTHORIZED)
        };
        let mut failed = 0;
        for _ in 0..20 {
            failed += fail().await;
        }
        assert_eq!(failed, 10, "{algorithm:?}");
        for success in successes {
            assert_eq!(success.await.unwrap().unwrap().status(), StatusCode::OK);
        }
        // Ten seconds later, one more has come back to a bucket.
        let refilled = if algorithm == Algorithm::TokenBucket { 1 } else { 0 };
        let mut passed = 0;
        for _ in 0..20 {
            passed += fail().await;
        }
        assert_eq!(passed, refilled, "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_before_the_handler_is_ready_gets_back_what_has_not_come_back_by_itself() {
    for algorithm in ALGORITHMS {
        let minute = Duration::from_secs(60);
        let policy = policy("p", algorithm, Quota::per_minute(10)).hold(minute);
        let limiter = builder().policy(policy).build().unwrap();
        let handler = service_fn(|_: Request<Body>| async {
            Err::<Response<Body>, _>("this one is never ready again")
        });
        let mut handler = tower::limit::ConcurrencyLimit::new(handler, 1);
        let mut service =
            tower::Layer::layer(&RateLimitLayer::new(limiter.clone()), handler.clone());
        assert!(limiter.check("p", "a").cost(10).await.unwrap().is_allowed());
        // It is held, and meanwhile others take the only permit.
        let held = service.ready().await.unwrap().call(request("a", Does::default()));
        drop(service);
        handler.ready().await.unwrap();
        let mut held = tokio::spawn(held);
        tokio::time::timeout(minute, &mut held).await.unwrap_err();
        assert!(left(&limiter, "p", "a").await >= 9, "{algorithm:?}: it was charged one unit");
        advance(minute).await;
        assert!(limiter.check("p", "a").cost(10).await.unwrap().is_allowed(), "{algorithm:?}");
        held.abort();
        assert!(held.await.unwrap_err().is_cancelled());
        assert_eq!(left(&limiter, "p", "a").await, 0, "{algorithm:?}: ten are used");
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_used_nothing_is_waited_for() {
    for (algorithm, reset) in
        [(Algorithm::TokenBucket, 0), (Algorithm::SlidingWindow, 0), (Algorithm::FixedWindow, 60)]
    {
        for (format, since) in [(ResetFormat::Seconds, 0), (ResetFormat::UnixSeconds, MIDNIGHT)] {
            let limiter =
                builder().policy(failures(algorithm, Quota::per_minute(5))).build().unwrap();
            let style = HeaderStyle::x_ratelimit().reset(format);
            let layer = RateLimitLayer::builder(limiter).headers([style]).build().unwrap();
            let handler = service_fn(|_: Request<Body>| async {
                sleep(Duration::from_millis(300)).await;
                Ok::<_, &str>(Response::new(Body::default()))
            });
            // Not at the beginning of a second.
            advance(Duration::from_millis(300)).await;
            let handler = tower::Layer::layer(&layer, handler);
            let response = handler.oneshot(request("a", Does::default())).await.unwrap();
            assert_eq!(told(&response), Some([5, 5, since + reset]), "{algorithm:?} {format:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_that_does_not_fit_has_charged_nothing_that_could_be_settled() {
    for algorithm in ALGORITHMS {
        let tried = policy("tried", algorithm, Quota::per_hour(2))
            .cost(|request| request.headers["x-cost"].to_str().unwrap().parse().unwrap());
        let tried = tried.settle(|_| Some(0)).dry_run();
        let limiter = builder().policy(tried.clone()).build().unwrap();
        let used = limiter.check("tried", "a").cost(2).await.unwrap();
        assert_eq!(used.dry_runs().next().unwrap().remaining(), 0);
        let mut request = request("a", Does::default());
        request.headers_mut().insert("x-cost", 2.into());
        send(&limiter, request).await;
        let left = limiter.peek("tried", "a").await.unwrap();
        let left = left.dry_runs().next().unwrap().remaining();
        assert_eq!(left, 0, "{algorithm:?}: nothing came back");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reset_that_is_corrected_counts_from_the_decision() {
    let policy = failures(Algorithm::FixedWindow, Quota::per_minute(3));
    let limiter = builder().policy(policy).build().unwrap();
    let takes = Duration::from_secs(10);
    let response = send(&limiter, request("a", Does { takes, ..Does::default() })).await;
    // The window began at midnight, and the header is a Unix time.
    assert_eq!(told(&response), Some([3, 3, 86_460]));
}

#[tokio::test(start_paused = true)]
async fn units_that_a_response_gives_back_let_a_waiting_request_pass() {
    let policy = failures(Algorithm::FixedWindow, Quota::per_minute(1));
    let limiter = builder().policy(policy.hold(Duration::from_secs(60))).build().unwrap();
    let takes = Duration::from_secs(5);
    let slow = request("a", Does { takes, ..Does::default() });
    let slow = tokio::spawn(limited(&limiter).oneshot(slow));
    tokio::task::yield_now().await;
    let start = tokio::time::Instant::now();
    let waiting = request("a", Does::default()).into_parts().0;
    assert!(limiter.decide(&waiting).await.is_allowed());
    assert_eq!(start.elapsed(), takes);
    assert!(slow.await.unwrap().is_ok());
}
