//! After a release, limiters that are built differently share the counts of one store.

use std::sync::Arc;

use http::{Request, request::Parts};
use tower_quota::{
    Limiter, Now, Policy, Quota, key,
    store::{Charge, Correction, MemoryStore, Store, StoreFuture},
};

/// Counts that processes of two releases share, as they do on Redis.
#[derive(Clone, Default)]
struct Shared(Arc<MemoryStore>);

impl Store for Shared {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.0.charge(charges, now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.0.correct(corrections, now)
    }

    fn secret(&self) -> Option<u128> {
        Some(7)
    }
}

fn release(store: &Shared, policy: Policy) -> Limiter {
    Limiter::builder().policy(policy).store(store.clone()).build().unwrap()
}

fn from(header: &str, value: &str) -> Parts {
    Request::get("/").header(header, value).body(()).unwrap().into_parts().0
}

async fn left(limiter: &Limiter, request: &Parts) -> u64 {
    limiter.decide(request).await.outcomes().next().unwrap().remaining()
}

#[tokio::test]
async fn kinds_of_key_in_another_order_are_the_same_kinds() {
    let store = Shared::default();
    let policy = || Policy::sliding_window("read", Quota::per_hour(10));
    let before = policy().key(key::header("x-user")).or_key(key::header("x-tenant")).or_skip();
    let after = policy().key(key::header("x-tenant")).or_key(key::header("x-user")).or_skip();
    let [before, after] = [before, after].map(|policy| release(&store, policy));
    assert_eq!(left(&before, &from("x-user", "7")).await, 9);
    assert_eq!(left(&before, &from("x-user", "7")).await, 8);
    assert_eq!(left(&after, &from("x-tenant", "7")).await, 9, "another caller");
    assert_eq!(left(&after, &from("x-user", "7")).await, 7, "the same");
    let alone = release(&store, policy().key(key::header("x-user")).or_skip());
    assert_eq!(left(&alone, &from("x-user", "7")).await, 6);
}

#[tokio::test]
async fn a_changed_quota_counts_what_was_used_under_the_one_before() {
    type Make = fn(&'static str, Quota) -> Policy;
    let makes: [Make; 3] = [Policy::token_bucket, Policy::fixed_window, Policy::sliding_window];
    for make in makes {
        let store = Shared::default();
        let of = |units| release(&store, make("read", Quota::per_day(units)).global());
        let (before, after) = (of(100), of(200));
        let mut admitted = 0;
        // A rolling release: replicas of both serve.
        for limiter in [&before, &after].into_iter().cycle().take(1_000) {
            admitted += u64::from(limiter.decide(&from("x", "y")).await.is_allowed());
        }
        assert_eq!(admitted, 200, "{:?}", make("read", Quota::per_day(1)));
    }
}
