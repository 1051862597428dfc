//! Waiting for quota instead of being refused.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, advance, sleep, timeout},
};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, service_fn, util::BoxCloneService,
};
use tower_quota::{
    Category, Clock, Decision, Limiter, LimiterBuilder, Matcher, Policy, Quota, RateLimitLayer,
    Reason, ResponseBody, key::header,
};

use crate::by_key::decide;

const SECOND: Duration = Duration::from_secs(1);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// One a second, none in advance.
fn one_a_second(name: &str) -> Policy {
    Policy::token_bucket(name, Quota::per_second(1).burst(1)).key(header("x-key")).or_refuse()
}

fn request(key: &str) -> Request<Full<Bytes>> {
    Request::get("/").header("x-key", key).body(Full::default()).unwrap()
}

type Answer = Response<ResponseBody<Full<Bytes>>>;

/// A service behind the limiter that serves one request at a time, for a minute.
fn with_one_permit(limiter: &Limiter) -> BoxCloneService<Request<Full<Bytes>>, Answer, BoxError> {
    let serve = service_fn(async |_| {
        sleep(60 * SECOND).await;
        Ok::<_, BoxError>(Response::<Full<Bytes>>::default())
    });
    let inner = ServiceBuilder::new().concurrency_limit(1).service(serve);
    RateLimitLayer::new(limiter.clone()).layer(inner).boxed_clone()
}

/// Decides in a task of its own, and returns the decision and its time.
fn ask(limiter: &Limiter, key: &str) -> JoinHandle<(Decision, Duration)> {
    let (deciding, asked) = (decide(limiter, request(key).into_parts().0), Instant::now());
    tokio::spawn(async move { (deciding.await, asked.elapsed()) })
}

/// Asks one after the other at the same moment, so that the order of arrival is known.
async fn ask_all(
    limiter: &Limiter,
    key: &str,
    requests: usize,
) -> Vec<JoinHandle<(Decision, Duration)>> {
    let mut asked = Vec::new();
    for _ in 0..requests {
        asked.push(ask(limiter, key));
        yield_now().await;
    }
    asked
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_its_units_and_one_that_would_wait_too_long_is_refused_at_once() {
    let limiter = builder().policy(one_a_second("p").hold(2 * SECOND)).build().unwrap();
    let mut seen = Vec::new();
    for asked in ask_all(&limiter, "a", 5).await {
        let (decision, took) = asked.await.unwrap();
        assert_eq!(decision.held(), took);
        seen.push((decision.is_allowed(), took.as_secs()));
    }
    assert_eq!(seen, [(true, 0), (true, 1), (true, 2), (false, 0), (false, 0)]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_held_leaves_room_for_those_that_wait() {
    let cost = |request: &http::request::Parts| if request.uri.path() == "/held" { 2 } else { 1 };
    let policy = Policy::token_bucket("p", Quota::per_second(1).burst(2));
    let policy = policy.key(header("x-key")).or_refuse().cost(cost);
    let held = Category::new("held").on(Matcher::get("/held")).policy(policy.clone());
    let now = Category::new("now").on(Matcher::get("/now")).policy(policy);
    let limiter = builder().category(now).category(held.hold(9 * SECOND)).build().unwrap();
    let decide = |path: &str| {
        let request = Request::get(path).header("x-key", "a").body(()).unwrap();
        tokio::spawn(crate::by_key::decide(&limiter, request.into_parts().0))
    };
    assert!(decide("/now").await.unwrap().is_allowed());
    let held = decide("/held");
    yield_now().await;
    let refused = decide("/now").await.unwrap();
    assert_eq!(refused.reason(), Some(Reason::QuotaExceeded), "the unit that is left is reserved");
    let checked = limiter.check("p", "a").await.unwrap();
    assert_eq!(checked.reason(), Some(Reason::QuotaExceeded), "for a check, too");
    let held = held.await.unwrap();
    assert_eq!((held.is_allowed(), held.held()), (true, SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_request_that_costs_nothing_passes_those_that_wait() {
    let cost = |request: &http::request::Parts| u64::from(!request.headers.contains_key("x-free"));
    let limiter = builder().policy(one_a_second("p").cost(cost).hold(9 * SECOND)).build().unwrap();
    let _held = ask_all(&limiter, "a", 4).await;
    let mut free = request("a").into_parts().0;
    free.headers.insert("x-free", "1".parse().unwrap());
    let decision = limiter.decide(&free).await;
    assert_eq!((decision.is_allowed(), decision.held()), (true, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn other_keys_do_not_wait() {
    let limiter = builder().policy(one_a_second("p").hold(2 * SECOND)).build().unwrap();
    let _held = ask_all(&limiter, "a", 3).await;
    let (decision, took) = ask(&limiter, "b").await.unwrap();
    assert_eq!((decision.is_allowed(), took), (true, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_later_request_does_not_overtake() {
    let limiter = builder().policy(one_a_second("p").hold(9 * SECOND)).build().unwrap();
    let mut held = ask_all(&limiter, "a", 3).await;
    // A token is there in the very moment in which someone new comes.
    advance(SECOND).await;
    held.push(ask(&limiter, "a"));
    let mut passed = Vec::new();
    for asked in held {
        passed.push(asked.await.unwrap().1.as_secs());
    }
    assert_eq!(passed, [0, 1, 2, 2], "the last came at 1 and passed at 3");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_held_does_not_overtake_either() {
    let policy = Policy::token_bucket("p", Quota::per_second(1).burst(2))
        .key(header("x-key"))
        .or_refuse()
        .cost(|request| if request.uri.path() == "/patient" { 2 } else { 1 });
    let category = |name: &str| {
        let path = format!("/{name}");
        Category::new(name).on(Matcher::get(&path)).policy(policy.clone())
    };
    let patient = category("patient").hold(9 * SECOND);
    let limiter = builder().category(patient).category(category("hasty")).build().unwrap();
    let ask = |path: &str| {
        let request = Request::get(path).header("x-key", "a").body(()).unwrap();
        decide(&limiter, request.into_parts().0)
    };
    assert!(ask("/patient").await.is_allowed());
    let waiting = tokio::spawn(ask("/patient"));
    yield_now().await;
    advance(SECOND).await;
    assert!(!ask("/hasty").await.is_allowed(), "the unit that is there is waited for");
    assert_eq!(waiting.await.unwrap().held(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn when_a_caller_leaves_the_requests_behind_move_up_and_no_unit_is_lost() {
    let limiter = builder().policy(one_a_second("p").hold(9 * SECOND)).build().unwrap();
    let mut asked = ask_all(&limiter, "a", 5).await;
    advance(SECOND / 2).await;
    asked.remove(2).abort();
    asked.remove(1).abort();
    let mut passed = Vec::new();
    for asked in asked {
        let (decision, took) = asked.await.unwrap();
        assert!(decision.is_allowed());
        passed.push(took.as_secs());
    }
    assert_eq!(passed, [0, 1, 2], "as if they had never come");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_the_latest_of_its_policies_and_is_charged_once() {
    let limiter = builder()
        .policy(one_a_second("narrow").hold(9 * SECOND))
        .policy(
            Policy::token_bucket("slow", Quota::per_window(1, 3 * SECOND))
                .global()
                .hold(9 * SECOND),
        )
        .policy(Policy::fixed_window("wide", Quota::per_hour(100)).global())
        .build()
        .unwrap();
    let mut passed = Vec::new();
    for asked in ask_all(&limiter, "a", 3).await {
        passed.push(asked.await.unwrap().1.as_secs());
    }
    assert_eq!(passed, [0, 3, 6]);
    let wide = limiter.peek("wide", "").await.unwrap();
    assert_eq!(wide.outcomes().next().unwrap().remaining(), 97);
}

#[tokio::test(start_paused = true)]
async fn what_is_waited_for_is_reserved_in_the_other_policies() {
    // Two share a quota of which one unit is left: the first waits for its own quota and has that
    // unit; the second may not take it away meanwhile.
    let shared = Policy::fixed_window("shared", Quota::per_hour(2)).global();
    let limiter =
        builder().policy(one_a_second("own").hold(9 * SECOND)).policy(shared).build().unwrap();
    let held = ask_all(&limiter, "a", 2).await;
    let (other, took) = ask(&limiter, "b").await.unwrap();
    assert_eq!((other.reason(), took), (Some(Reason::QuotaExceeded), Duration::ZERO));
    for asked in held {
        assert!(asked.await.unwrap().0.is_allowed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_waits_for_another_quota_delays_no_other() {
    let shared = Policy::fixed_window("shared", Quota::per_hour(10)).global().hold(9 * SECOND);
    let limiter =
        builder().policy(one_a_second("own").hold(9 * SECOND)).policy(shared).build().unwrap();
    let _held = ask_all(&limiter, "a", 4).await;
    let (other, took) = ask(&limiter, "b").await.unwrap();
    assert_eq!((other.is_allowed(), took), (true, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_due_together_pass_in_order_of_arrival() {
    let policy = Policy::fixed_window("p", Quota::per_second(50)).key(header("x-key")).or_refuse();
    let limiter = builder().policy(policy.hold(SECOND)).build().unwrap();
    ask_all(&limiter, "a", 50).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..50 {
        let deciding = decide(&limiter, request("a").into_parts().0);
        let order = Arc::clone(&order);
        tasks.push(tokio::spawn(async move {
            assert!(deciding.await.is_allowed());
            order.lock().unwrap().push(number);
        }));
        yield_now().await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_request_that_yields_goes_on_though_one_between_waits_longer() {
    // All share one quota. Of those with the key `a`, the first hangs up, so that the next two are
    // due after one second and two. The one with the key `b` is due after one second as well: it
    // gives way to the one, and must not wait for the other.
    let limiter = builder()
        .policy(one_a_second("own").hold(9 * SECOND))
        .policy(Policy::token_bucket("shared", Quota::per_second(100)).global().hold(9 * SECOND))
        .build()
        .unwrap();
    ask_all(&limiter, "b", 1).await;
    let mut asked = ask_all(&limiter, "a", 4).await;
    asked.extend(ask_all(&limiter, "b", 1).await);
    asked.remove(1).abort();
    let mut passed = Vec::new();
    for asked in asked {
        passed.push(asked.await.unwrap().1.as_secs());
    }
    assert_eq!(passed, [0, 1, 2, 1]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_per_key_and_in_all() {
    let limiter = builder()
        .policy(one_a_second("p").hold(100 * SECOND))
        .max_held_per_key(2)
        .max_held(3)
        .build()
        .unwrap();
    let refused_at_once = async |key| {
        let asked = ask(&limiter, key);
        let (decision, took) = timeout(SECOND / 2, asked).await.expect("at once").unwrap();
        !decision.is_allowed() && took.is_zero()
    };
    let _a = ask_all(&limiter, "a", 3).await;
    assert!(refused_at_once("a").await, "two are held for this key");
    let b = ask_all(&limiter, "b", 2).await;
    assert!(refused_at_once("b").await, "three are held in all");
    b.iter().for_each(JoinHandle::abort);
    yield_now().await;
    let _c = ask_all(&limiter, "c", 2).await;
    assert!(refused_at_once("c").await, "the position that came free is used again");
}

#[tokio::test(start_paused = true)]
async fn a_category_holds_for_its_policies() {
    let category = Category::new("all").on(Matcher::path("/")).hold(SECOND);
    let limiter = builder()
        .category(category.policy(one_a_second("p")).policy(one_a_second("q").hold(3 * SECOND)))
        .build()
        .unwrap();
    let mut passed = Vec::new();
    for asked in ask_all(&limiter, "a", 3).await {
        passed.push(asked.await.unwrap().0.is_allowed());
    }
    assert_eq!(passed, [true, true, false], "the policy that says nothing holds for a second");
}

#[tokio::test(start_paused = true)]
async fn a_hold_of_zero_refuses_at_once() {
    let category = Category::new("all").on(Matcher::path("/")).hold(SECOND);
    let limiter = builder()
        .category(category.policy(one_a_second("p").hold(Duration::ZERO)))
        .check_only(one_a_second("q").hold(Duration::ZERO))
        .build()
        .unwrap();
    let mut passed = Vec::new();
    for asked in ask_all(&limiter, "a", 2).await {
        passed.push(asked.await.unwrap().0.is_allowed());
    }
    assert_eq!(passed, [true, false], "the policy does not hold, though its category does");
    assert!(limiter.check("q", "a").await.unwrap().is_allowed());
    let refused = limiter.check("q", "a").await.unwrap();
    assert_eq!((refused.is_allowed(), refused.held()), (false, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_job_may_wait_too() {
    let policy = Policy::token_bucket("p", Quota::per_second(1).burst(1)).hold(5 * SECOND);
    let limiter = builder().check_only(policy).build().unwrap();
    for seconds in 0..3 {
        let decision = limiter.check("p", "tenant").await.unwrap();
        assert_eq!((decision.is_allowed(), decision.held().as_secs()), (true, seconds.min(1)));
    }
    assert!(!limiter.peek("p", "tenant").await.unwrap().is_allowed(), "a look does not wait");
}

/// An inner service that records its calls, and is slow.
fn slow(
    calls: Arc<Mutex<Vec<u64>>>,
) -> impl Service<
    Request<Full<Bytes>>,
    Response = Response<Full<Bytes>>,
    Error = tower::BoxError,
    Future: Send,
> + Clone
+ Send {
    let start = Instant::now();
    service_fn(move |_| {
        calls.lock().unwrap().push(start.elapsed().as_millis() as u64);
        async {
            sleep(SECOND / 10).await;
            Ok(Response::default())
        }
    })
}

#[tokio::test(start_paused = true)]
async fn while_held_none_of_the_inner_services_permits_is_kept() {
    let limiter = builder().policy(one_a_second("p").hold(5 * SECOND)).build().unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .layer(RateLimitLayer::new(limiter))
        .concurrency_limit(1)
        .service(slow(Arc::clone(&calls)));
    let mut tasks = Vec::new();
    for key in ["a", "a", "a", "b"] {
        tasks.push(tokio::spawn(service.clone().oneshot(request(key))));
        yield_now().await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap().unwrap().status(), StatusCode::OK);
    }
    // The second key runs as soon as the first request is done, not after those that are held.
    assert_eq!(*calls.lock().unwrap(), [0, 100, 1_000, 2_000]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_times_out_leaves_the_queue() {
    let limiter = builder().policy(one_a_second("p").hold(5 * SECOND)).build().unwrap();
    let calls = Arc::default();
    let service = ServiceBuilder::new()
        .timeout(SECOND * 3 / 2)
        .layer(RateLimitLayer::new(limiter.clone()))
        .service(slow(Arc::clone(&calls)));
    let send = || tokio::spawn(service.clone().oneshot(request("a")));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        tasks.push(send());
        yield_now().await;
    }
    advance(SECOND).await;
    tasks.push(send());
    let mut statuses = Vec::new();
    for task in tasks {
        statuses.push(task.await.unwrap().map(|response| response.status()).is_ok());
    }
    // The third and the fourth would have been called at 2 and 3: at 1.5 they were gone, and the
    // last, which came at 1, was called at 2 instead of them.
    assert_eq!(statuses, [true, true, false, false, true]);
    assert_eq!(*calls.lock().unwrap(), [0, 1_000, 2_000]);
    advance(SECOND).await;
    assert!(limiter.decide(&request("a").into_parts().0).await.is_allowed(), "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn a_request_dropped_before_the_inner_service_is_ready_gives_its_units_back() {
    let policy = Policy::fixed_window("p", Quota::per_hour(3)).key(header("x-key")).or_refuse();
    let slow_start = one_a_second("slow start").hold(9 * SECOND);
    let limiter = builder().policy(policy).policy(slow_start).build().unwrap();
    let service = with_one_permit(&limiter);
    let first = tokio::spawn(service.clone().oneshot(request("a")));
    yield_now().await;
    // It is held for a second, then passes, and waits for the permit until its caller leaves. It is
    // called without having been polled ready: else it would wait for the permit before.
    let mut busy = service.clone();
    assert!(timeout(5 * SECOND, busy.call(request("a"))).await.is_err());
    let remaining = limiter.peek("p", "a").await.unwrap().outcomes().next().unwrap().remaining();
    assert_eq!(remaining, 2, "only the first was served");
    assert!(first.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn units_of_a_request_that_was_never_served_let_the_next_one_pass() {
    let policy = Policy::fixed_window("p", Quota::per_minute(2)).key(header("x-key")).or_refuse();
    let slow_start = one_a_second("slow start").hold(60 * SECOND);
    let limiter = builder().policy(policy.hold(60 * SECOND)).policy(slow_start).build().unwrap();
    let service = with_one_permit(&limiter);
    let first = tokio::spawn(service.clone().oneshot(request("a")));
    yield_now().await;
    // It is held for a second, then passes, and waits for the only permit until its caller leaves.
    let mut busy = service.clone();
    let leaves = tokio::spawn(timeout(5 * SECOND, busy.call(request("a"))));
    yield_now().await;
    let (decision, waited) = ask(&limiter, "a").await.unwrap();
    assert_eq!((decision.is_allowed(), waited), (true, 5 * SECOND));
    assert!(leaves.await.unwrap().is_err() && first.await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn units_given_back_early_let_waiting_requests_pass() {
    let policy = Policy::fixed_window("p", Quota::per_minute(2)).key(header("x-key")).or_refuse();
    let limiter = builder().policy(policy.hold(60 * SECOND)).build().unwrap();
    let held = ask_all(&limiter, "a", 4).await;
    advance(SECOND).await;
    let _ = limiter.give_back("p", "a", 1).await.unwrap();
    yield_now().await;
    advance(SECOND).await;
    let _ = limiter.reset("p", "a").await.unwrap();
    let mut passed = Vec::new();
    for asked in held {
        passed.push(asked.await.unwrap().1.as_secs());
    }
    assert_eq!(passed, [0, 0, 1, 2]);
}
