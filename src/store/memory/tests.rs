//! The memory store beside a naive one, in few and in many threads, and at its bounds.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    algorithm::Algorithm,
    penalty::Penalty,
    quota::Quota,
    store::{
        Change, Mode, Usages,
        conformance::{self, NaiveStore},
    },
};

pub(super) fn at(seconds: u64) -> Now {
    Now::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
}

/// A key as a hash would spread it.
pub(super) fn key(number: u64) -> u128 {
    let mixed = u128::from(number + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    mixed ^ mixed >> 64
}

pub(super) fn charge(key: u128, algorithm: Algorithm, quota: Quota) -> Charge {
    Charge::new(1 << 40, key, algorithm, quota)
}

pub(super) fn usages(answer: StoreFuture) -> Usages {
    match std::pin::pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(answer)) => answer.usages,
        _ => unreachable!("memory answers at once"),
    }
}

pub(super) fn admits(store: &MemoryStore, charge: Charge, now: Now) -> bool {
    usages(store.charge(&[charge], now))[0].fits()
}

/// One unit of a minute's quota of one.
fn one(number: u64) -> Charge {
    charge(key(number), Algorithm::FixedWindow, Quota::per_minute(1))
}

#[derive(Clone, Debug)]
enum Step {
    Charge(Vec<Charge>),
    /// Corrects a charge of so many milliseconds ago.
    Correct(Charge, u64, Change),
    /// Charges many keys, so that the shard grows and its entries move.
    Many(u64),
    /// Lets milliseconds pass.
    Later(u64),
    /// Sets the wall clock back or forward by so many milliseconds.
    Set(i64),
}

const MINUTE: u64 = 60_000;

static PENALTY: LazyLock<Penalty> = LazyLock::new(|| {
    let minutes = |minutes| Duration::from_millis(minutes * MINUTE);
    let penalty = Penalty::after(2).refusals_within(minutes(5)).forget_after(minutes(4));
    penalty.block(minutes(1)).then(minutes(3))
});

fn any_charge() -> impl Strategy<Value = Charge> {
    let quotas = prop_oneof![
        6 => Just(Quota::per_minute(5)),
        2 => Just(Quota::per_minute(7)),
        // Enough for more steps than an entry has room for.
        2 => Just(Quota::per_minute(40)),
        1 => Just(Quota::per_second(3).burst(9)),
        // Too large for an entry.
        1 => Just(Quota::per_minute(500_000_000_000_000)),
    ];
    let modes =
        prop_oneof![6 => Just(Mode::Enforced), 1 => Just(Mode::DryRun), 1 => Just(Mode::Peek)];
    let costs = prop_oneof![6 => 0..3_u64, 1 => Just(499_999_999_999_990)];
    let penalty = prop::bool::weighted(0.8);
    (0..3_u64, 0..40_u64, quotas, modes, costs, 0..2_u64, penalty).prop_map(
        |(policy, number, quota, mode, cost, ahead, has_penalty)| {
            let algorithm =
                [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
            let charge = charge(key(number), algorithm[policy as usize], quota);
            Charge { policy: (policy + 1) << 40, mode, cost, ahead, has_penalty, ..charge }
        },
    )
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let charges = prop::collection::vec(any_charge(), 1..4).prop_map(|mut charges| {
        // A request charges each policy once.
        charges.sort_by_key(|charge| charge.policy);
        charges.dedup_by_key(|charge| charge.policy);
        Step::Charge(charges)
    });
    let change = prop_oneof![
        (0..9_u64).prop_map(Change::GiveBack),
        (1..9_u64).prop_map(Change::Take),
        Just(Change::Reset),
        Just(Change::Penalize(&PENALTY)),
        Just(Change::Penalize(&PENALTY)),
        Just(Change::Pardon),
    ];
    let step = prop_oneof![
        12 => charges,
        3 => (any_charge(), prop_oneof![Just(0), 0..MINUTE], change)
            .prop_map(|(charge, ago, change)| Step::Correct(charge, ago, change)),
        1 => (1..200_u64).prop_map(Step::Many),
        3 => prop_oneof![0..2_000_u64, Just(MINUTE), 0..3 * MINUTE].prop_map(Step::Later),
        1 => prop_oneof![-5_000..5_000_i64, -9_000_000..9_000_000_i64].prop_map(Step::Set),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Charges, corrections, growth and sweeps: each answer is that of the naive store.
    #[test]
    fn each_answer_is_that_of_a_naive_store(steps in steps()) {
        let (store, naive) = (MemoryStore::with_max_keys(4_000), NaiveStore::default());
        let (mut now, mut wall, mut fresh) = (1_000_000, 1_000_000_000_u64, 1_000);
        for step in steps {
            let at = Now::new(Duration::from_millis(now), Duration::from_millis(wall));
            match step {
                Step::Charge(charges) => {
                    let expected = usages(naive.charge(&charges, at));
                    let foreseen = usages(store.preview(&charges, at));
                    assert_eq!(usages(store.charge(&charges, at)), expected, "{charges:?}");
                    assert_eq!(foreseen, expected, "{charges:?}");
                }
                Step::Correct(charge, ago, change) => {
                    let [monotonic, unix] = [now - ago, wall - ago].map(Duration::from_millis);
                    let charged_at = Some(Now::new(monotonic, unix));
                    let correction =
                        Correction { charged_at, ..Correction::new(charge, change) };
                    let expected = usages(naive.correct(&[correction], at));
                    assert_eq!(usages(store.correct(&[correction], at)), expected);
                }
                Step::Many(keys) => {
                    for number in fresh..fresh + keys {
                        let charge = one(number);
                        let expected = usages(naive.charge(&[charge], at));
                        assert_eq!(usages(store.charge(&[charge], at)), expected);
                    }
                    fresh += keys;
                }
                Step::Later(millis) => (now, wall) = (now + millis, wall + millis),
                Step::Set(millis) => {
                    // A store may or may not have dropped a window that is over. So that nothing
                    // depends on it, both stores drop all of these.
                    let window = |number| Charge {
                        policy: 2 << 40,
                        ..charge(key(number), Algorithm::FixedWindow, Quota::per_minute(5))
                    };
                    let over = (0..40).map(window).filter(|window| naive.has_expired(window, at));
                    let over = over.map(|window| Correction::new(window, Change::Reset));
                    let over: Vec<_> = over.collect();
                    let _ = (usages(naive.correct(&over, at)), usages(store.correct(&over, at)));
                    wall = wall.saturating_add_signed(millis);
                }
            }
        }
    }
}

#[test]
fn a_flood_of_new_keys_stays_bounded_and_frees_no_spent_key() {
    let store = MemoryStore::with_max_keys(100);
    assert!(admits(&store, one(0), at(0)));
    let flood = (1..100_000).filter(|&number| admits(&store, one(number), at(1))).count();
    assert_eq!(flood, 99 + 1, "those with room, and one for all the others");
    assert_eq!(store.len(), 100);
    assert_eq!(store.overflowed(), 1, "what was counted in the shared quota");
    assert!(!admits(&store, one(0), at(2)), "the spent key is still spent");
    assert!(admits(&store, one(0), at(60)));
}

#[test]
fn keys_with_nearly_all_of_their_quota_make_room_for_new_ones() {
    let store = MemoryStore::with_max_keys(100);
    let quota = Quota::per_hour(10);
    let spent = Charge { cost: 10, ..charge(key(0), Algorithm::TokenBucket, quota) };
    assert!(admits(&store, spent, at(0)));
    // One unit each, of ten: seven eighths are left and more.
    for number in 1..10_000 {
        assert!(admits(&store, charge(key(number), Algorithm::TokenBucket, quota), at(1)));
    }
    assert_eq!((store.len(), store.overflowed()), (100, 0));
    assert!(!admits(&store, Charge { cost: 1, ..spent }, at(2)), "the spent key is still spent");
}

#[test]
fn expired_keys_make_room_little_by_little() {
    let store = MemoryStore::with_max_keys(1_000);
    for number in 0..1_000 {
        assert!(admits(&store, one(number), at(0)));
    }
    // The minute is over: a new key finds room at once.
    assert!(admits(&store, one(1_000), at(60)));
    // Some time later, each new key sweeps away a few more.
    for number in 1_001..1_600 {
        assert!(admits(&store, one(number), at(61)));
    }
    assert!(store.len() < 700, "{} left", store.len());
}

#[test]
fn an_expired_key_keeps_its_entry_for_half_a_second() {
    let store = MemoryStore::new();
    let millis = |time| Now::new(Duration::from_millis(time), Duration::from_millis(time));
    let quick = |number| charge(key(number), Algorithm::TokenBucket, Quota::per_second(1_000));
    (0..1_000).for_each(|number| assert!(admits(&store, quick(number), millis(0))));
    // The quota of each key is whole again a millisecond later, and each fresh key sweeps.
    (1_000..2_000).for_each(|number| assert!(admits(&store, quick(number), millis(450))));
    assert_eq!(store.len(), 2_000, "those that come again find their entries");
    (2_000..4_000).for_each(|number| assert!(admits(&store, quick(number), millis(1_000))));
    assert!(store.len() < 2_500, "{} left", store.len());
}

#[test]
fn a_key_keeps_its_entry_for_half_a_second_after_its_last_unit_in_flight() {
    let store = MemoryStore::new();
    let millis = |time| Now::new(Duration::from_millis(time), Duration::from_millis(time));
    let begin_and_end = |number, time| {
        let stream = charge(key(number), Algorithm::InFlight, Quota::in_flight(3));
        assert!(admits(&store, stream, millis(time)));
        let end = Correction::new(stream, Change::GiveBack(1));
        assert_eq!(usages(store.correct(&[end], millis(time)))[0].remaining(), 3);
    };
    (0..1_000).for_each(|number| begin_and_end(number, 1_000));
    assert_eq!(store.live_keys(millis(1_000)), Some(0));
    (1_000..2_000).for_each(|number| begin_and_end(number, 1_450));
    assert_eq!(store.len(), 2_000);
    (2_000..4_000).for_each(|number| begin_and_end(number, 2_000));
    assert!(store.len() < 2_500, "{} left", store.len());
}

#[test]
fn keys_that_have_expired_when_a_table_grows_use_no_room() {
    let store = MemoryStore::with_max_keys(4_000);
    for number in 0..3_000 {
        let hour = charge(key(number), Algorithm::FixedWindow, Quota::per_hour(1));
        let charge = if number % 10 == 0 { one(number) } else { hour };
        assert!(admits(&store, charge, at(number / 20)));
    }
    let shard = store.shards.get(0);
    assert_eq!(store.len(), shard.counters().count(|_| true));
}

#[test]
fn a_request_that_costs_nothing_leaves_no_trace() {
    let store = MemoryStore::new();
    assert!(admits(&store, Charge { cost: 0, ..one(1) }, at(0)));
    assert!(store.is_empty());
}

#[test]
fn a_request_with_two_new_keys_does_not_count_on_the_same_room_twice() {
    let store = MemoryStore::with_max_keys(2);
    assert!((0..3).all(|number| admits(&store, one(number), at(0))), "the third is in the shared");
    assert!(!admits(&store, one(3), at(0)), "which is spent");
    let correction = Correction::new(one(0), Change::GiveBack(1));
    let _ = usages(store.correct(&[correction], at(0)));
    // There is room for one: the other finds the shared quota spent, and the first is not charged.
    let other = Charge { policy: 2 << 40, ..one(4) };
    let refused = usages(store.charge(&[other, one(4)], at(0)));
    assert!(!refused.iter().all(Usage::fits));
    assert!(admits(&store, one(5), at(0)), "the room is still there");
}

#[test]
fn without_room_for_each_answer_nothing_is_charged() {
    let store = MemoryStore::new();
    assert!(admits(&store, one(2), at(0)));
    for charges in [&[one(1), one(3)][..], &[one(2), one(2)]] {
        assert!(!store.charge_at_once(charges, &mut [Usage::default()], at(0)));
        assert!(!store.charge_at_once(charges, &mut [], at(0)));
    }
    assert!(admits(&store, one(1), at(0)) && admits(&store, one(3), at(0)));
}

#[test]
fn a_peek_at_a_new_key_drops_no_other() {
    let store = MemoryStore::with_max_keys(10);
    let quota = Quota::per_hour(10);
    let bucket = |number| charge(key(number), Algorithm::TokenBucket, quota);
    (0..10).for_each(|number| assert!(admits(&store, bucket(number), at(0))));
    for number in 10..1_000 {
        assert!(admits(&store, Charge { mode: Mode::Peek, ..bucket(number) }, at(1)));
        assert!(admits(&store, Charge { cost: 0, ..bucket(number) }, at(1)));
    }
    for number in 0..10 {
        let left = usages(store.charge(&[Charge { cost: 0, ..bucket(number) }], at(1)));
        assert_eq!(left[0].remaining(), 9, "its use is not forgotten");
    }
}

#[test]
fn a_bound_in_bytes_counts_what_keys_take() {
    let store = MemoryStore::with_max_bytes(1_000_000);
    (0..50_000).for_each(|number| assert!(admits(&store, one(number), at(0)) || number > 9_000));
    assert!((24_000..=25_000).contains(&store.len()), "{} of 40 bytes", store.len());

    let store = MemoryStore::with_max_bytes(1_000_000);
    let sliding = |number| charge(key(number), Algorithm::SlidingWindow, Quota::per_minute(2));
    // In the seventh step their logs outgrow their entries.
    for seconds in 0..8 {
        (0..5_000).for_each(|number| {
            admits(&store, sliding(number), at(seconds));
        });
        assert!((600..=664).contains(&store.len()), "{} of 1,505 bytes", store.len());
    }
    // Their room is used again.
    assert!(admits(&store, one(7), at(68)));
}

#[test]
fn a_bound_in_bytes_counts_each_quota_of_a_key() {
    let store = MemoryStore::with_max_bytes(1_000_000);
    for number in 0..3_000 {
        for units in [2, 3, 4] {
            let quota = Quota::per_minute(units);
            admits(&store, charge(key(number), Algorithm::SlidingWindow, quota), at(0));
        }
    }
    assert!((224..=240).contains(&store.len()), "{} of 4,305 bytes", store.len());
}

#[test]
fn stores_for_no_key_and_for_more_than_there_can_be() {
    let none = MemoryStore::with_max_keys(0);
    assert!(admits(&none, one(1), at(0)));
    assert!(!admits(&none, one(2), at(0)), "all share one quota");
    let vast = MemoryStore::with_max_keys(usize::MAX);
    assert!(admits(&vast, one(1), at(0)));
    assert!(!admits(&vast, one(1), at(0)));
}

#[test]
fn each_shard_has_slots_of_its_own() {
    // 64 shards, nearly full.
    const KEYS: u64 = 240_000;
    let store = MemoryStore::with_max_keys(262_144);
    let log = |number| Charge { algorithm: Algorithm::SlidingWindow, ..one(number) };
    assert!((0..KEYS).all(|number| admits(&store, log(number), at(0))));
    assert_eq!((store.len() as u64, store.overflowed()), (KEYS, 0));
    assert!((0..KEYS).all(|number| !admits(&store, log(number), at(1))), "each is still there");
}

#[test]
fn keys_that_come_from_many_threads_are_admitted_their_quota_each() {
    const KEYS: u64 = 3_000;
    let store = MemoryStore::with_max_keys(12_000);
    let admitted: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, admitted) = (&store, &admitted);
            scope.spawn(move || {
                for round in 0..4 * KEYS {
                    // Each thread in an order of its own, so that they insert among each other.
                    let number = (round * (2 * thread + 7) + thread) % KEYS;
                    let quota = Quota::per_hour(3);
                    let bucket = charge(key(number), Algorithm::TokenBucket, quota);
                    let window = charge(key(number), Algorithm::FixedWindow, quota);
                    let log = charge(key(number), Algorithm::SlidingWindow, quota);
                    let window = Charge { policy: 2 << 40, ..window };
                    let log = Charge { policy: 3 << 40, ..log };
                    // Each round is in a later step of the log.
                    let now = at(1 + 60 * (round / KEYS));
                    let passed = usages(store.charge(&[bucket, window, log], now));
                    let passed = passed.iter().all(Usage::fits);
                    admitted[number as usize].fetch_add(u64::from(passed), SeqCst);
                }
            });
        }
    });
    assert!(admitted.iter().all(|admitted| admitted.load(SeqCst) == 3));
    assert_eq!(store.len() as u64, 3 * KEYS);
}

#[test]
fn units_in_flight_of_many_threads_are_never_more_than_there_are_and_all_come_back() {
    const KEYS: u64 = 5;
    let store = MemoryStore::with_max_keys(100);
    let stream = |number| charge(key(number), Algorithm::InFlight, Quota::in_flight(3));
    let held: Vec<AtomicU64> = (0..KEYS).map(|_| AtomicU64::new(0)).collect();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (store, held) = (&store, &held);
            scope.spawn(move || {
                // Each thread holds a unit of two keys at once, so that keys are full now and then.
                let mut last = None;
                for round in 0..5_000 {
                    let number = (round * (2 * thread + 3) + thread) % KEYS;
                    // Other keys come and go, so that slots move.
                    let other = stream(1_000 + round % 50);
                    let now = at(round);
                    let units = &held[number as usize];
                    let enters = admits(store, stream(number), now).then(|| {
                        assert!(units.fetch_add(1, SeqCst) < 3);
                        number
                    });
                    let passes = admits(store, other, now);
                    if passes {
                        let given = Correction::new(other, Change::GiveBack(1));
                        assert!(usages(store.correct(&[given], now))[0].remaining() >= 1);
                    }
                    if let Some(number) = std::mem::replace(&mut last, enters) {
                        held[number as usize].fetch_sub(1, SeqCst);
                        let given = Correction::new(stream(number), Change::GiveBack(1));
                        assert!(usages(store.correct(&[given], now))[0].remaining() >= 1);
                    }
                }
                if let Some(number) = last {
                    held[number as usize].fetch_sub(1, SeqCst);
                    let given = Correction::new(stream(number), Change::GiveBack(1));
                    let _ = usages(store.correct(&[given], at(5_000)));
                }
            });
        }
    });
    for number in (0..KEYS).chain(1_000..1_050) {
        let all = Charge { mode: Mode::Peek, ..stream(number) };
        assert_eq!(usages(store.charge(&[all], at(5_001)))[0].remaining(), 3);
    }
}

#[test]
fn it_conforms() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = std::sync::Arc::new(MemoryStore::new());
    runtime.block_on(conformance::keeps_every_promise(&*store));
    runtime.block_on(conformance::counts_each_request_once(&[store.clone(), store.clone()]));
    runtime
        .block_on(conformance::draws_on_one_quota_after_the_other(&[store.clone(), store.clone()]));
    conformance::says_what_another_says(&*store, NaiveStore::default, &runtime, 500);
    conformance::keeps_what_plans_promise(&*store, &runtime, 400);
    conformance::holds_what_has_not_ended(&*store, &runtime, 400);
}
