//! Reservations in a store that has no room for their key.
#![cfg(feature = "testing")]

use tower_quota::{Clock, Limiter, Policy, Quota, key::header, store::MemoryStore};

#[tokio::test]
async fn a_reservation_without_room_gives_its_units_back_once() {
    let policy = Policy::fixed_window("p", Quota::per_hour(5)).key(header("x-key")).or_refuse();
    let store = MemoryStore::with_max_keys(1);
    let limiter =
        Limiter::builder().clock(Clock::manual()).store(store).policy(policy).build().unwrap();
    let admitted = |key: &str| {
        let check = || limiter.check("p", key).at_once().unwrap().is_allowed();
        (0..20).filter(|_| check()).count()
    };
    let room = limiter.reserve(["p"], "a").cost("p", 5).await.unwrap();
    let reserved = limiter.reserve(["p"], "b").cost("p", 3).await.unwrap();
    assert_eq!(limiter.policy("p").unwrap().overflowed(), Some(1));
    drop(room);
    assert_eq!(admitted("b"), 2, "it has room, and goes on with what it has used");
    drop(reserved);
    assert_eq!(admitted("b"), 3);
}
