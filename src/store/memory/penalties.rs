//! Keys with a penalty at the bounds of the store.

use std::{sync::LazyLock, time::Duration};

use super::{
    tests::{at, charge, key, usages},
    *,
};
use crate::{algorithm::Algorithm, penalty::Penalty, quota::Quota, store::Change};

static PENALTY: LazyLock<Penalty> = LazyLock::new(|| {
    let hours = |hours: u64| Duration::from_secs(hours * 3_600);
    Penalty::after(1).refusals_within(hours(1)).block(hours(2)).forget_after(hours(24))
});

/// A penalty whose first refusals are counted, and begin no block.
static COUNTED: LazyLock<Penalty> = LazyLock::new(|| {
    let hour = Duration::from_secs(3_600);
    Penalty::after(100).refusals_within(hour).block(hour).forget_after(24 * hour)
});

/// One unit of an hour's quota of eight.
fn penalized(policy: u64, number: u64) -> Charge {
    let charge = charge(key(number), Algorithm::TokenBucket, Quota::per_hour(8));
    Charge { policy: policy << 40, has_penalty: true, ..charge }
}

/// Counts a refusal. Whether a block runs.
fn block(store: &MemoryStore, charge: Charge, seconds: u64) -> bool {
    let refusal = Correction::new(charge, Change::Penalize(&PENALTY));
    usages(store.correct(&[refusal], at(seconds)))[0].is_blocked()
}

fn is_blocked(store: &MemoryStore, charge: Charge, seconds: u64) -> bool {
    usages(store.charge(&[charge], at(seconds)))[0].is_blocked()
}

#[test]
fn no_flood_of_new_keys_frees_a_blocked_key() {
    let store = MemoryStore::with_max_keys(4_000);
    let blocked: Vec<_> = (0..400).map(|number| penalized(1, number)).collect();
    assert!(blocked.iter().all(|charge| block(&store, *charge, 0)));
    // Their quotas are whole, so that nothing else keeps them. Others have used one eighth.
    for number in 1_000..40_000 {
        store.charge_at_once(&[penalized(1, number)], &mut [Usage::unknown()], at(1));
    }
    assert!((3_900..=4_096).contains(&store.len()), "the store is full");
    assert!(blocked.iter().all(|charge| is_blocked(&store, *charge, 2)));
    // A block that is over, and remembered, stays as well.
    for number in 40_000..80_000 {
        store.charge_at_once(&[penalized(1, number)], &mut [Usage::unknown()], at(7_201));
    }
    assert!(blocked.iter().all(|charge| !is_blocked(&store, *charge, 7_202)));
    // Forgotten ones go.
    let day = 86_400 + 7_201;
    for number in 80_000..120_000 {
        store.charge_at_once(&[penalized(1, number)], &mut [Usage::unknown()], at(day + 3_600));
    }
    assert_eq!(store.shards.spilled(), 0);
}

#[test]
fn no_step_of_the_wall_clock_changes_a_block() {
    let store = MemoryStore::with_max_keys(10);
    let charge = Charge { algorithm: Algorithm::FixedWindow, ..penalized(1, 1) };
    assert!(block(&store, charge, 1_000_000));
    for wall in [1_000_000, 1_000_001 - 86_400, 1_000_001 + 7_200, 1] {
        let [now, wall] = [1_000_001, wall].map(Duration::from_secs);
        let usage = usages(store.charge(&[charge], Now::new(now, wall)))[0];
        assert_eq!(usage.blocked_for(), Some(Duration::from_secs(7_199)));
    }
}

/// One unit of eight in flight.
fn in_flight(charge: Charge) -> Charge {
    Charge { algorithm: Algorithm::InFlight, quota: Quota::in_flight(8), ..charge }
}

#[test]
fn penalized_keys_of_one_policy_leave_others_their_share() {
    let floods: [fn(Charge) -> Charge; 2] = [|charge| charge, in_flight];
    let all = floods.iter().flat_map(|flood| [(flood, &*PENALTY), (flood, &*COUNTED)]);
    for (flood, penalty) in all {
        for others in floods {
            let store = MemoryStore::with_max_keys(4_000);
            for number in 0..10_000 {
                let refusal = Change::Penalize(penalty);
                usages(
                    store.correct(&[Correction::new(flood(penalized(1, number)), refusal)], at(0)),
                );
            }
            assert!((3_900..=4_096).contains(&store.len()), "the store is full");
            // New keys of another policy have a count of their own, each.
            let overflowed = store.overflowed();
            for number in 0..1_000 {
                let charge = others(penalized(2, number));
                for left in (0..8).rev() {
                    let usage = usages(store.charge(&[charge], at(1)))[0];
                    assert!(usage.fits(), "{:?}, {number}: {left}", charge.algorithm);
                    assert_eq!(usage.remaining(), left);
                }
            }
            assert_eq!(store.overflowed(), overflowed);
        }
    }
}

#[test]
fn a_key_that_holds_units_stays_whatever_its_penalty_and_one_without_room_holds_none() {
    let store = MemoryStore::with_max_keys(100);
    let stream = |number| in_flight(penalized(1, number));
    for number in 0..100 {
        assert!(!is_blocked(&store, stream(number), 0));
        block(&store, stream(number), 0);
    }
    // Neither keys of another policy nor new ones of the same make room, or share any.
    for number in 100..400 {
        assert!(!usages(store.charge(&[stream(number)], at(1)))[0].fits());
        store.charge_at_once(&[penalized(2, number)], &mut [Usage::unknown()], at(1));
    }
    for number in 0..100 {
        assert!(is_blocked(&store, stream(number), 2), "{number}");
        let ended = Correction::new(stream(number), Change::GiveBack(1));
        assert_eq!(usages(store.correct(&[ended], at(3)))[0].remaining(), 8);
    }
    // They hold nothing now, and go where another policy has less than its share.
    for number in 400..440 {
        let usage = usages(store.charge(&[in_flight(penalized(3, number))], at(4)))[0];
        assert!(usage.fits(), "{number}");
    }
    // What went leaves nothing behind that keys without room could share.
    for number in 500..900 {
        let usage = usages(store.charge(&[stream(number)], at(5)))[0];
        assert!(!usage.fits() || usage.remaining() == 7, "{number}: {usage:?}");
    }
}

#[test]
fn a_key_without_room_of_its_own_gets_no_penalty() {
    let store = MemoryStore::with_max_keys(1);
    assert!(block(&store, penalized(1, 1), 0));
    let other = penalized(1, 2);
    assert!(!block(&store, other, 1), "it would be the block of all such keys");
    assert!(!is_blocked(&store, other, 1) && !is_blocked(&store, penalized(1, 3), 1));
    assert!(store.overflowed() > 0);
}

#[test]
fn a_bound_in_bytes_counts_penalties() {
    let store = MemoryStore::with_max_bytes(2_000_000);
    let keys = 20_000;
    for number in 0..keys {
        store.charge_at_once(&[penalized(1, number)], &mut [Usage::unknown()], at(0));
    }
    let blocked = (0..keys).filter(|number| block(&store, penalized(1, *number), 1)).count();
    assert!(blocked > 100 && blocked < 2_000, "{blocked}");
    let bytes = store.shards.spilled() * 400;
    assert!(bytes < 2_000_000, "{bytes}");
}

/// What the docs of `Penalty` say of its size. The store is full of penalties, and more come: none of those
/// within the bound is lost, and a key beyond the bound gets none.
#[test]
fn a_million_penalties_stay_within_the_bound_of_the_store() {
    const KEYS: u64 = 1_000_000;
    const CAME: u64 = KEYS + KEYS / 50;
    let store = MemoryStore::with_max_keys(KEYS as usize);
    // Two threads, as that takes half of the time.
    let half = &|from: u64| {
        let mut blocked = Vec::with_capacity(CAME as usize / 2);
        let taken = allocation_counter::measure(|| {
            let numbers = (from..CAME).step_by(2);
            blocked.extend(numbers.map(|number| block(&store, penalized(1, number), 0)));
        });
        (blocked, taken.bytes_current)
    };
    let [even, odd] = std::thread::scope(|scope| {
        let halves = [0, 1].map(|from| scope.spawn(move || half(from)));
        halves.map(|half| half.join().expect("no assertion fails"))
    });
    let (keys, taken) = (store.len(), even.1 + odd.1);
    assert!(keys > KEYS as usize * 97 / 100 && keys <= KEYS as usize, "{keys}");
    assert_eq!(store.shards.spilled(), keys);
    let blocked = even.0.iter().chain(&odd.0).filter(|is_blocked| **is_blocked).count();
    assert_eq!(blocked, keys, "each is blocked, or has no room");
    assert_eq!(store.overflowed(), CAME - keys as u64, "those without room are counted");
    let each = taken / keys as i64;
    assert!(each <= 320, "{each} bytes for each penalty");
    for number in (0..CAME).step_by(10) {
        let half = if number % 2 == 0 { &even } else { &odd };
        let was_blocked = half.0[number as usize / 2];
        assert_eq!(is_blocked(&store, penalized(1, number), 7_199), was_blocked, "{number}");
    }
    assert!(even.0[0] && !is_blocked(&store, penalized(1, 0), 7_200));
}
