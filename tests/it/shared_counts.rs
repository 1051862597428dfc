//! Limiters that share a store, and limiters that count on where another one is.

use std::{
    sync::{Arc, LazyLock},
    time::{Duration, UNIX_EPOCH},
};

use http::{Request, request::Parts};
use tower_quota::{
    Clock, Limiter, LimiterBuilder, Penalty, Policy, Quota, Reason, key,
    store::{MemoryStore, Store},
};

fn request() -> Parts {
    Request::get("/").header("x-key", "k").body(()).unwrap().into_parts().0
}

fn per_key(name: &str, quota: Quota) -> Policy {
    Policy::fixed_window(name, quota).key(key::header("x-key")).or_refuse()
}

fn daily(units: u64) -> LimiterBuilder {
    Limiter::builder().policy(per_key("daily", Quota::per_day(units)))
}

async fn admitted(limiter: &Limiter, requests: usize) -> usize {
    let mut admitted = 0;
    for _ in 0..requests {
        admitted += usize::from(limiter.decide(&request()).await.is_allowed());
    }
    admitted
}

#[tokio::test(start_paused = true)]
async fn another_limiter_counts_on() {
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
    let first = daily(5).clock(clock).build().unwrap();
    assert_eq!(admitted(&first, 3).await, 3);

    let second = daily(10).counts_of(&first).build().unwrap();
    assert_eq!(admitted(&second, 20).await, 7);
    assert_eq!(
        admitted(&first, 5).await,
        0,
        "the first one counts what the second one has charged"
    );

    // Which limiter the counts come from does not matter, nor whether it is still there.
    let third = daily(12).counts_of(&second).build().unwrap();
    drop((first, second));
    assert_eq!(admitted(&third, 20).await, 2);
    tokio::time::advance(Duration::from_secs(86_400)).await;
    assert_eq!(admitted(&third, 20).await, 12);

    let fresh = daily(5).build().unwrap();
    assert_eq!(admitted(&fresh, 20).await, 5);
}

#[tokio::test(start_paused = true)]
async fn a_policy_of_another_name_begins_with_nothing_used() {
    let first = daily(5).build().unwrap();
    assert_eq!(admitted(&first, 9).await, 5);
    let renamed = Limiter::builder().policy(per_key("renamed", Quota::per_day(5)));
    let renamed = renamed.counts_of(&first).build().unwrap();
    assert_eq!(admitted(&renamed, 9).await, 5);
}

#[tokio::test(start_paused = true)]
async fn units_in_flight_and_penalties_are_carried_over() {
    let open = |units| {
        let open = Policy::in_flight("open", units).key(key::header("x-key")).or_refuse();
        Limiter::builder().policy(open)
    };
    let first = open(2).build().unwrap();
    let held = first.decide(&request()).await;
    let second = open(2).counts_of(&first).build().unwrap();
    let other = second.decide(&request()).await;
    assert!(other.is_allowed());
    assert!(!second.decide(&request()).await.is_allowed());
    drop(held);
    assert!(second.decide(&request()).await.is_allowed(), "it came back to the same store");

    let strict = || {
        let penalty = Penalty::after(1)
            .refusals_within(Duration::from_secs(60))
            .block(Duration::from_secs(600));
        let policy = per_key("strict", Quota::per_window(1, Duration::from_secs(1)));
        Limiter::builder().policy(policy.penalty(penalty))
    };
    let first = strict().build().unwrap();
    assert_eq!(admitted(&first, 3).await, 1);
    let second = strict().counts_of(&first).build().unwrap();
    assert_eq!(second.decide(&request()).await.reason(), Some(Reason::Penalty));
}

#[test]
fn a_store_or_a_clock_of_its_own_contradicts_the_counts_of_another() {
    let first = daily(5).build().unwrap();
    let error = daily(5)
        .counts_of(&first)
        .store(MemoryStore::new())
        .clock(Clock::system())
        .build()
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "store: it is that of the limiter whose counts are carried over; leave `.store(…)` or \
         `.counts_of(…)` out\nclock: it is that of the limiter whose counts are carried over; leave \
         `.clock(…)` or `.counts_of(…)` out",
    );
    let error = first.apply(daily(7).counts_of(&first)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "counts of: it cannot change while the limiter runs; leave `.counts_of(…)` out, or build \
         another limiter",
    );
    // What its store cannot do is an error for the new limiter too.
    struct Shares;
    impl Store for Shares {
        fn charge(
            &self,
            _: &[tower_quota::store::Charge],
            _: tower_quota::Now,
        ) -> tower_quota::store::StoreFuture {
            unreachable!("nothing is decided")
        }

        fn correct(
            &self,
            _: &[tower_quota::store::Correction],
            _: tower_quota::Now,
        ) -> tower_quota::store::StoreFuture {
            unreachable!("nothing is decided")
        }
    }
    let first = daily(5).store(Shares).build().unwrap();
    let open = Policy::in_flight("open", 2).global();
    let error = Limiter::builder().policy(open).counts_of(&first).build().unwrap_err();
    assert!(
        error.to_string().contains("the limiter's store does not count by `in_flight`"),
        "{error}"
    );
}

#[tokio::test]
async fn pointers_to_a_store_are_stores() {
    static STORE: LazyLock<MemoryStore> = LazyLock::new(|| MemoryStore::with_max_keys(1_024));
    let shared = Arc::new(MemoryStore::with_max_keys(1_024));
    let any: Arc<dyn Store> = shared.clone();
    for limiter in
        [daily(2).store(Arc::clone(&shared)), daily(2).store(any), daily(2).store(&*STORE)]
    {
        let limiter = limiter.build().unwrap();
        assert_eq!(admitted(&limiter, 5).await, 2);
    }
    let now = Clock::system().now();
    let live = |store: &MemoryStore| Store::live_keys(store, now);
    // Each limiter makes fingerprints of its own, so they share the room and no counts.
    assert_eq!((live(&shared), live(&STORE)), (Some(2), Some(1)));
}
