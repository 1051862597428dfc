//! A caller who floods the queue of held requests leaves room for other callers.

use std::{future::poll_fn, pin::Pin, task::Poll, time::Duration};

use http::Request;
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, advance},
};
use tower_quota::{Clock, Decision, Limiter, LimiterBuilder, Policy, Quota, key::header};

use crate::by_key;

type Deciding = Pin<Box<dyn Future<Output = Decision> + Send>>;

const SECOND: Duration = Duration::from_secs(1);
/// How long those behind wait for a request that is not polled.
const LATE: Duration = Duration::from_millis(100);

fn builder() -> LimiterBuilder {
    let midnight = std::time::UNIX_EPOCH + Duration::from_secs(86_400);
    Limiter::builder().clock(Clock::tokio(midnight))
}

/// One a second, none in advance.
fn one_a_second(name: &str) -> Policy {
    Policy::token_bucket(name, Quota::per_second(1).burst(1))
}

/// By the caller, who has an ample quota, and by a key that it makes up.
fn decide(limiter: &Limiter, caller: &str, key: &str) -> Deciding {
    let request = Request::get("/").header("x-caller", caller).header("x-key", key);
    Box::pin(by_key::decide(limiter, request.body(()).unwrap().into_parts().0))
}

/// Decides in a task of its own, and returns the decision and how long it took.
fn ask(limiter: &Limiter, caller: &str, key: &str) -> JoinHandle<(Decision, Duration)> {
    let (deciding, asked) = (decide(limiter, caller, key), Instant::now());
    tokio::spawn(async move { (deciding.await, asked.elapsed()) })
}

async fn took(asked: JoinHandle<(Decision, Duration)>) -> Option<Duration> {
    let (decision, took) = asked.await.unwrap();
    decision.is_allowed().then_some(took)
}

async fn poll_once(deciding: &mut (impl Future<Output = Decision> + Unpin)) -> Option<Decision> {
    poll_fn(|context| match Pin::new(&mut *deciding).poll(context) {
        Poll::Ready(decision) => Poll::Ready(Some(decision)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// How many of so many requests are held. They wait on.
async fn held(limiter: &Limiter, requests: impl IntoIterator<Item = (String, String)>) -> usize {
    let mut held = 0;
    for (caller, key) in requests {
        let asked = ask(limiter, &caller, &key);
        yield_now().await;
        held += usize::from(!asked.is_finished());
    }
    held
}

fn caller(name: &str, requests: usize) -> impl Iterator<Item = (String, String)> {
    let request = move |number| (name.to_owned(), format!("{name}, made up {number}"));
    (0..requests).map(request)
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_not_polled_delays_those_behind_for_a_moment_only() {
    let policy = one_a_second("p").key(header("x-key")).or_refuse().hold(9 * SECOND);
    let limiter = builder().policy(policy).build().unwrap();
    assert_eq!(took(ask(&limiter, "a", "k")).await, Some(Duration::ZERO));
    let mut stuck = decide(&limiter, "a", "k");
    assert!(poll_once(&mut stuck).await.is_none());
    let behind: Vec<_> = (0..3).map(|_| ask(&limiter, "a", "k")).collect();
    let mut passed = Vec::new();
    for asked in behind {
        passed.push(took(asked).await);
    }
    // It was due after a second; each of them is one unit earlier than it was to be.
    assert_eq!(passed, [1, 2, 3].map(|seconds| Some(seconds * SECOND + LATE)));

    // It keeps its right: the next unit is its own, and a later request waits for it.
    assert!(poll_once(&mut stuck).await.is_none());
    let later = ask(&limiter, "a", "k");
    assert!(stuck.await.is_allowed());
    assert_eq!(took(later).await, Some(2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn two_requests_in_a_row_are_not_polled_and_others_are_not_held() {
    let policy = one_a_second("p").key(header("x-key")).or_refuse();
    let hasty = policy.clone();
    let of = |name: &str, policy: Policy| {
        tower_quota::Category::new(name)
            .on(tower_quota::Matcher::get(&format!("/{name}")))
            .policy(policy)
    };
    let limiter = builder()
        .category(of("patient", policy).hold(9 * SECOND))
        .category(of("hasty", hasty))
        .build()
        .unwrap();
    let decide = |path: &str| {
        let request = Request::get(path).header("x-key", "k").body(()).unwrap();
        limiter.decide(&request.into_parts().0)
    };
    assert!(decide("/patient").await.is_allowed());
    let mut stuck = [decide("/patient"), decide("/patient")];
    for stuck in &mut stuck {
        assert!(poll_once(stuck).await.is_none());
    }
    let third = decide("/patient").await;
    assert_eq!((third.is_allowed(), third.held()), (true, 2 * SECOND + LATE));
    advance(SECOND).await;
    assert!(
        decide("/hasty").await.is_allowed(),
        "the unit is there, and a late request does not count"
    );
}

#[tokio::test(start_paused = true)]
async fn requests_that_are_due_together_keep_their_order_without_one_that_is_not_polled() {
    let policy = Policy::fixed_window("p", Quota::per_second(50)).key(header("x-key")).or_refuse();
    let limiter = builder().policy(policy.hold(3 * SECOND)).build().unwrap();
    for _ in 0..50 {
        assert!(decide(&limiter, "a", "k").await.is_allowed());
    }
    let mut stuck = decide(&limiter, "a", "k");
    assert!(poll_once(&mut stuck).await.is_none());
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut tasks = Vec::new();
    for number in 0..40 {
        let (deciding, order) = (decide(&limiter, "a", "k"), order.clone());
        tasks.push(tokio::spawn(async move {
            let decision = deciding.await;
            assert!(decision.is_allowed());
            order.lock().unwrap().push(number);
            decision.held()
        }));
        yield_now().await;
    }
    for task in tasks {
        assert_eq!(task.await.unwrap(), SECOND + LATE);
    }
    assert_eq!(*order.lock().unwrap(), (0..40).collect::<Vec<_>>());
    assert!(stuck.await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn units_that_come_back_go_to_the_next_where_the_first_does_not_come() {
    let policy = Policy::fixed_window("p", Quota::per_minute(1));
    let limiter = builder()
        .policy(policy.key(header("x-key")).or_refuse().hold(300 * SECOND))
        .build()
        .unwrap();
    assert!(decide(&limiter, "a", "k").await.is_allowed());
    let mut stuck = decide(&limiter, "a", "k");
    assert!(poll_once(&mut stuck).await.is_none());
    let behind = ask(&limiter, "a", "k");
    yield_now().await;
    advance(SECOND).await;
    let _ = limiter.give_back("p", "k", 1).await.unwrap();
    assert_eq!(took(behind).await, Some(SECOND + LATE));
}

#[tokio::test(start_paused = true)]
async fn one_caller_leaves_room_for_others_whatever_keys_it_makes_up() {
    let limiter = |builder: LimiterBuilder| {
        builder
            .policy(
                Policy::fixed_window("caller", Quota::per_hour(1_000_000))
                    .key(header("x-caller"))
                    .or_refuse()
                    .dry_run(),
            )
            .policy(one_a_second("p").key(header("x-key")).or_refuse().hold(9 * SECOND))
            .max_held(90)
            .build()
            .unwrap()
    };
    // The first request of each key passes, so each sends two.
    let twice =
        |name: &'static str, keys| caller(name, keys).flat_map(|asked| [asked.clone(), asked]);
    let shared = limiter(builder());
    assert_eq!(held(&shared, twice("flood", 200)).await, 45);
    assert_eq!(held(&shared, twice("second", 200)).await, 23);
    assert_eq!(held(&shared, twice("honest", 1)).await, 1);
    let fewer = limiter(builder().max_held_per_caller(10));
    assert_eq!(held(&fewer, twice("flood", 200)).await, 10);
    assert_eq!(held(&fewer, twice("honest", 5)).await, 5);
}

#[tokio::test(start_paused = true)]
async fn what_a_caller_was_held_with_comes_free_again() {
    let policy = one_a_second("p").key(header("x-caller")).or_refuse().hold(9 * SECOND);
    let limiter = builder().policy(policy).max_held_per_caller(2).build().unwrap();
    for _ in 0..5 {
        let asked: Vec<_> = (0..4).map(|_| ask(&limiter, "a", "")).collect();
        let mut passed = 0;
        for asked in asked {
            passed += usize::from(took(asked).await.is_some());
        }
        assert_eq!(passed, 3, "one at once, and two after a wait");
        advance(SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn no_caller_fills_a_queue_that_all_share() {
    let own =
        Policy::fixed_window("own", Quota::per_hour(1_000)).key(header("x-caller")).or_refuse();
    let shared = one_a_second("shared").global().hold(1_000 * SECOND);
    let limiter = builder().policy(own).policy(shared).build().unwrap();
    assert_eq!(took(ask(&limiter, "first", "")).await, Some(Duration::ZERO));
    assert_eq!(held(&limiter, caller("flood", 200)).await, 50, "half of a queue of 100");
    assert_eq!(held(&limiter, caller("second", 200)).await, 25);
    for honest in ["a", "b", "c"] {
        assert_eq!(held(&limiter, caller(honest, 2)).await, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn where_all_policies_are_global_callers_are_not_bounded() {
    let limiter =
        builder().policy(one_a_second("shared").global().hold(1_000 * SECOND)).build().unwrap();
    assert!(decide(&limiter, "a", "").await.is_allowed());
    assert_eq!(held(&limiter, caller("a", 200)).await, 100);
}
