//! Each policy's choice while the store does not answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body_util::{BodyExt, Full};
use tokio::time::advance;
use tower::{ServiceBuilder, ServiceExt, service_fn};
use tower_quota::{
    Clock, Decision, HeaderStyle, Limiter, LimiterBuilder, Now, OnStoreFailure, Policy, Quota,
    RateLimitLayer, Reason,
    key::header,
    store::{Charge, Correction, MemoryStore, Store, StoreError, StoreFuture},
};

/// A store that answers, or does not.
#[derive(Clone, Default)]
struct Unreliable {
    store: Arc<MemoryStore>,
    fails: Arc<AtomicBool>,
}

impl Unreliable {
    fn fails(&self, fails: bool) {
        self.fails.store(fails, SeqCst);
    }

    fn answer(&self, answer: impl FnOnce(&MemoryStore) -> StoreFuture) -> StoreFuture {
        match self.fails.load(SeqCst) {
            true => StoreFuture::later(async { Err(StoreError::new("it is down")) }),
            false => answer(&self.store),
        }
    }
}

impl Store for Unreliable {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.answer(|store| store.charge(charges, now))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.answer(|store| store.correct(corrections, now))
    }
}

fn limiter(policies: impl IntoIterator<Item = Policy>) -> (Limiter, Unreliable) {
    let store = Unreliable::default();
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(86_400));
    let builder = Limiter::builder().clock(clock).store(store.clone());
    let builder = policies.into_iter().fold(builder, LimiterBuilder::policy);
    (builder.build().unwrap(), store)
}

fn policy(name: &str, quota: Quota) -> Policy {
    Policy::sliding_window(name, quota).key(header("x-key")).or_refuse()
}

fn request() -> Parts {
    Request::get("/").header("x-key", "k").body(()).unwrap().into_parts().0
}

async fn decide(limiter: &Limiter) -> Decision {
    limiter.decide(&request()).await
}

/// How many requests pass before one is refused.
async fn admitted(limiter: &Limiter) -> u64 {
    let mut admitted = 0;
    while decide(limiter).await.is_allowed() {
        admitted += 1;
        assert!(admitted < 1_000, "nothing is counted");
    }
    admitted
}

#[tokio::test(start_paused = true)]
async fn by_default_each_replica_counts_against_the_whole_quota() {
    let (limiter, store) = limiter([policy("p", Quota::per_minute(10))]);
    assert!(decide(&limiter).await.is_allowed());
    store.fails(true);
    assert_eq!(admitted(&limiter).await, 10, "what the store has counted is not known");
    store.fails(false);
    assert_eq!(admitted(&limiter).await, 9, "the store did not hear of these");
}

#[tokio::test(start_paused = true)]
async fn a_replica_counts_against_its_share() {
    let share = OnStoreFailure::CountLocally { replicas: 4 };
    let (limiter, store) = limiter([policy("p", Quota::per_minute(10)).on_store_failure(share)]);
    store.fails(true);
    let first = decide(&limiter).await;
    let outcome = &first.outcomes().next().unwrap();
    assert_eq!((outcome.limit(), outcome.remaining()), (2, 1), "of one quota");
    assert_eq!(outcome.quota(), Quota::per_minute(2));
    assert_eq!(admitted(&limiter).await, 1);
    let refused = decide(&limiter).await;
    let wait = refused.outcomes().next().unwrap().retry_after().unwrap();
    advance(wait - Duration::from_nanos(1)).await;
    assert!(!decide(&limiter).await.is_allowed());
    advance(Duration::from_nanos(1)).await;
    assert!(decide(&limiter).await.is_allowed());
}

#[tokio::test(start_paused = true)]
async fn a_share_has_at_least_one_unit() {
    let share = OnStoreFailure::CountLocally { replicas: 100 };
    let quota = Quota::per_minute(10).burst(5);
    let bucket = Policy::token_bucket("p", quota).key(header("x-key")).or_refuse();
    let (limiter, store) = limiter([bucket.on_store_failure(share)]);
    store.fails(true);
    assert_eq!(admitted(&limiter).await, 1);
}

#[tokio::test(start_paused = true)]
async fn what_allows_is_not_told_of() {
    let uncounted = policy("uncounted", Quota::per_minute(1));
    let uncounted = uncounted.on_store_failure(OnStoreFailure::Allow);
    let (limiter, store) = limiter([uncounted, policy("counted", Quota::per_minute(3))]);
    store.fails(true);
    let decision = decide(&limiter).await;
    let told: Vec<_> = decision.outcomes().map(|outcome| outcome.policy()).collect();
    assert_eq!(told, ["counted"]);
    assert_eq!(admitted(&limiter).await, 2);
    store.fails(false);
    assert_eq!(decide(&limiter).await.outcomes().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_refuses_costs_nothing_elsewhere() {
    let strict = policy("strict", Quota::per_minute(9)).on_store_failure(OnStoreFailure::Refuse);
    let dry_run = policy("dry run", Quota::per_minute(1)).dry_run();
    let dry_run = dry_run.on_store_failure(OnStoreFailure::Refuse);
    let counted = policy("counted", Quota::per_minute(2));
    let (limiter, store) = limiter([counted.clone(), strict, dry_run.clone()]);
    store.fails(true);
    for _ in 0..3 {
        let decision = decide(&limiter).await;
        assert_eq!(decision.reason(), Some(Reason::StoreUnavailable));
        assert_eq!(decision.outcomes().len(), 1, "nothing is known of the other");
        assert_eq!(decision.tightest().unwrap().policy(), "strict");
        assert_eq!(decision.tightest().unwrap().retry_after(), Some(Duration::from_secs(1)));
        assert_eq!(decision.dry_runs().len(), 0);
    }

    let (limiter, store) = self::limiter([counted, dry_run]);
    store.fails(true);
    assert_eq!(admitted(&limiter).await, 2, "a dry run refuses nothing");
}

#[tokio::test(start_paused = true)]
async fn what_is_counted_here_is_corrected_here() {
    let failures = policy("failures", Quota::per_minute(2))
        .settle(|response| Some(u64::from(response.status == StatusCode::UNAUTHORIZED)));
    let (limiter, store) = limiter([failures]);
    store.fails(true);
    let layer = RateLimitLayer::builder(limiter.clone()).headers([HeaderStyle::x_ratelimit()]);
    let service = ServiceBuilder::new().layer(layer.build().unwrap());
    let service = service.service(service_fn(async |_: Request<()>| {
        Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    for _ in 0..5 {
        let request = Request::from_parts(request(), ());
        let response = service.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-ratelimit-remaining"], "2");
    }
    store.fails(false);
    assert_eq!(admitted(&limiter).await, 2, "nothing was given to the store");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_given_back_is_said() {
    let direct = Policy::token_bucket("p", Quota::per_minute(2));
    let store = Unreliable::default();
    let limiter = Limiter::builder().check_only(direct).store(store.clone()).build().unwrap();
    assert!(limiter.check("p", "k").await.unwrap().is_allowed());
    store.fails(true);
    for unchanged in [limiter.reset("p", "k").await, limiter.give_back("p", "k", 1).await] {
        assert_eq!(unchanged.unwrap().reason(), Some(Reason::StoreUnavailable));
    }
    store.fails(false);
    assert_eq!(limiter.peek("p", "k").await.unwrap().outcomes().next().unwrap().remaining(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_request_is_held_by_what_is_counted_here() {
    let hold = Duration::from_secs(2);
    let bucket = Policy::token_bucket("p", Quota::per_second(1)).key(header("x-key")).or_refuse();
    let (limiter, store) = limiter([bucket.hold(hold)]);
    store.fails(true);
    assert!(decide(&limiter).await.is_allowed());
    let held = decide(&limiter).await;
    assert!(held.is_allowed());
    assert_eq!(held.held(), Duration::from_secs(1));
    // While it is held the store recovers, and charges it.
    let (later, _) = tokio::join!(decide(&limiter), async { store.fails(false) });
    assert!(later.is_allowed());
    assert_eq!(later.outcomes().next().unwrap().limit(), 1);
    let peeked = limiter.peek("p", "k").await.unwrap();
    assert_eq!(
        peeked.outcomes().next().unwrap().remaining(),
        0,
        "the store has counted the last one"
    );
}

#[tokio::test(start_paused = true)]
async fn callers_get_a_typed_503() {
    let strict = policy("strict", Quota::per_minute(9)).on_store_failure(OnStoreFailure::Refuse);
    let (limiter, store) = limiter([strict]);
    store.fails(true);
    let layer =
        RateLimitLayer::builder(limiter).headers([HeaderStyle::x_ratelimit()]).build().unwrap();
    let service = ServiceBuilder::new().layer(layer);
    let service = service.service(service_fn(async |_: Request<()>| -> Result<_, ()> {
        Ok(Response::new(Full::<Bytes>::default()))
    }));
    let response = service.oneshot(Request::from_parts(request(), ())).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!response.headers().contains_key("x-ratelimit-limit"), "nobody knows");
    assert_eq!(response.headers()["cache-control"], "no-store");
    assert_eq!(response.headers()["retry-after"], "1");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let expected = serde_json::json!({
        "error": "rate_limit_unavailable",
        "message": "Quota of policy `strict` cannot be told at the moment. Retry after 1 second.",
        "policy": "strict",
        "retry_after": 1,
    });
    assert_eq!(body, expected);
}

/// In the drafts' words (draft-ietf-httpapi-ratelimit-headers-11, section 5.2).
#[tokio::test(start_paused = true)]
async fn a_problem_of_the_drafts_says_that_the_capacity_is_reduced() {
    let strict = policy("strict", Quota::per_minute(9)).on_store_failure(OnStoreFailure::Refuse);
    let (limiter, store) = limiter([strict]);
    store.fails(true);
    let decision = decide(&limiter).await;
    let rejection = tower_quota::Rejection::of(&decision).unwrap();
    let response = tower_quota::response::Problem::quota_exceeded().respond(&rejection);
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
    let expected = serde_json::json!({
        "type": "https://iana.org/assignments/http-problem-types#temporary-reduced-capacity",
        "title": "Temporarily reduced capacity",
        "status": 503,
        "detail": "Quota of policy `strict` cannot be told at the moment. Retry after 1 second.",
        "violated-policies": ["strict"],
    });
    assert_eq!(body, expected);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_without_its_key_counts_nobody() {
    let dry_run = Policy::sliding_window("dry run", Quota::per_minute(9));
    let dry_run = dry_run.key(header("x-other")).or_refuse().dry_run();
    let (limiter, store) = limiter([policy("p", Quota::per_minute(2)), dry_run]);
    for fails in [false, true] {
        store.fails(fails);
        let decision = decide(&limiter).await;
        assert!(decision.is_allowed());
        assert_eq!(decision.outcomes().len(), 1);
        let verdicts: Vec<_> = decision.dry_runs().map(|one| one.is_allowed()).collect();
        assert_eq!(verdicts, [false], "it lacks its key, with the store or without");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_held_until_the_store_recovers_is_told_the_whole_quota() {
    let share = OnStoreFailure::CountLocally { replicas: 2 };
    let quota = Quota::per_second(4).burst(2);
    let bucket = Policy::token_bucket("p", quota).key(header("x-key")).or_refuse();
    let bucket = bucket.hold(Duration::from_secs(2)).on_store_failure(share);
    let (limiter, store) = limiter([bucket]);
    store.fails(true);
    assert_eq!(decide(&limiter).await.outcomes().next().unwrap().limit(), 1);
    let (held, ()) = tokio::join!(decide(&limiter), async { store.fails(false) });
    assert!(held.is_allowed() && !held.held().is_zero());
    let outcome = &held.outcomes().next().unwrap();
    assert_eq!((outcome.limit(), outcome.remaining()), (2, 1));
}
