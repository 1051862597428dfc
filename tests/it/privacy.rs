//! No key is in plain form in a store, a log, a metric or a header.

use std::sync::{Arc, Mutex};

use http::Request;
use tower_quota::{
    Algorithm, Limiter, Matcher, Now, Policy, Quota, Rejection,
    key::{Key, header},
    store::{Charge, Correction, MemoryStore, Store, StoreFuture},
};

const SECRET: &str = "sk_live_secret";

/// A store that records its calls.
#[derive(Clone, Default)]
struct Spy {
    memory: Arc<MemoryStore>,
    told: Arc<Mutex<Vec<Charge>>>,
    /// Which key was announced, and after how many charges.
    announced: Arc<Mutex<Vec<(usize, u128)>>>,
}

impl Store for Spy {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.told.lock().unwrap().extend_from_slice(charges);
        self.memory.charge(charges, now)
    }

    fn prefetch(&self, key: u128, _: Algorithm) {
        let charges = self.told.lock().unwrap().len();
        self.announced.lock().unwrap().push((charges, key));
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.memory.correct(corrections, now)
    }
}

fn limiter(spy: &Spy) -> Limiter {
    let policy = Policy::fixed_window("p", Quota::per_hour(1)).key(header("x-key")).or_refuse();
    let partner = Matcher::key(header("x-partner"), [SECRET]);
    Limiter::builder().policy(policy).exempt(partner).store(spy.clone()).build().unwrap()
}

#[tokio::test]
async fn stores_are_told_fingerprints_that_differ_from_limiter_to_limiter() {
    let request = Request::get("/").header("x-key", SECRET).body(()).unwrap().into_parts().0;
    let mut fingerprints = Vec::new();
    for _ in 0..2 {
        let spy = Spy::default();
        let _ = limiter(&spy).decide(&request).await;
        let told = spy.told.lock().unwrap().clone();
        assert!(!format!("{told:?}").contains(SECRET));
        let announced = spy.announced.lock().unwrap().clone();
        assert_eq!(announced, [(0, told[0].key)], "heard of before it is charged");
        fingerprints.push(told[0].key);
    }
    assert_ne!(fingerprints[0], fingerprints[1], "each has a secret of its own");
}

#[tokio::test]
async fn nothing_that_can_be_printed_discloses_a_key() {
    let spy = Spy::default();
    let limiter = limiter(&spy);
    let request = Request::get("/").header("x-key", SECRET).body(()).unwrap().into_parts().0;
    let _ = limiter.decide(&request).await;
    let refused = limiter.decide(&request).await;
    let rejection = Rejection::of(&refused).unwrap();
    let response = rejection.to_response();
    let check = limiter.check("p", SECRET);
    for printed in [
        format!("{limiter:?}"),
        format!("{refused:?}"),
        format!("{rejection:?} {rejection}"),
        format!("{response:?}"),
        format!("{check:?} {:?}", Key::from(SECRET)),
        format!("{:?}", spy.memory),
        format!("{:?}", Matcher::key(header("x-partner"), [SECRET])),
    ] {
        assert!(!printed.contains(SECRET), "{printed}");
    }
    assert!(!check.await.unwrap().is_allowed(), "the same key as the request's");
}
