//! Tests: sliding windows with uses in so many steps that they have no room in an entry.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use proptest::prelude::*;

use super::{
    address::Address,
    tests::{at, charge, key, usages},
    *,
};
use crate::{
    algorithm::Algorithm,
    quota::Quota,
    store::{Change, Mode, conformance::NaiveStore},
};

fn at_millis(millis: u64) -> Now {
    Now::new(Duration::from_millis(millis), Duration::from_millis(millis))
}

fn log(quota: Quota) -> Charge {
    charge(key(1), Algorithm::SlidingWindow, quota)
}

/// Whether the key of these logs has a sum in its entry.
fn is_summed_up(store: &MemoryStore, charge: &Charge) -> bool {
    let shard = store.shards.shard(&Address::of(charge));
    shard.logs().count(|entry| entry.is_at(&Address::of(charge)) && entry.older_steps().is_some())
        == 1
}

/// A store with one long log, and a naive one, which has used the same.
fn begun(quota: Quota) -> (MemoryStore, NaiveStore) {
    let (store, naive) = (MemoryStore::with_max_keys(100), NaiveStore::default());
    for second in 0..10 {
        let expected = usages(naive.charge(&[log(quota)], at(1_000 + second)));
        assert_eq!(usages(store.charge(&[log(quota)], at(1_000 + second))), expected);
    }
    assert!(is_summed_up(&store, &log(quota)));
    (store, naive)
}

#[derive(Clone, Debug)]
enum Step {
    Charge(Charge),
    /// With a second policy, which may refuse.
    Both(Charge, Charge),
    Correct(Charge, u64, Change),
    Later(u64),
}

fn any_log() -> impl Strategy<Value = Charge> {
    let quotas = prop_oneof![
        12 => Just(Quota::per_minute(40)),
        1 => Just(Quota::per_minute(25)),
        // Less than is used, mostly.
        1 => Just(Quota::per_minute(9)),
        1 => Just(Quota::per_minute(500_000_000_000_000)),
    ];
    let modes =
        prop_oneof![8 => Just(Mode::Enforced), 1 => Just(Mode::DryRun), 1 => Just(Mode::Peek)];
    let costs = prop_oneof![20 => 0..4_u64, 2 => 4..50_u64, 1 => Just(499_999_999_999_990)];
    (quotas, modes, costs, prop_oneof![8 => Just(0), 1 => 0..9_u64])
        .prop_map(|(quota, mode, cost, ahead)| Charge { mode, cost, ahead, ..log(quota) })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let other = || charge(key(2), Algorithm::FixedWindow, Quota::per_minute(3));
    let change = prop_oneof![
        (0..9_u64).prop_map(Change::GiveBack),
        (1..9_u64).prop_map(Change::Take),
        Just(Change::Reset),
    ];
    let step = prop_oneof![
        20 => any_log().prop_map(Step::Charge),
        4 => any_log().prop_map(move |log| Step::Both(log, Charge { policy: 2 << 40, ..other() })),
        1 => (any_log(), prop_oneof![Just(0), 0..60_000_u64], change)
            .prop_map(|(charge, ago, change)| Step::Correct(charge, ago, change)),
        10 => prop_oneof![20 => 0..1_500_u64, 1 => 0..90_000_u64].prop_map(Step::Later),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn each_answer_is_that_of_a_naive_store(steps in steps()) {
        let (store, naive) = begun(Quota::per_minute(40));
        let mut now = 1_010_000;
        let charge = |charges: &[Charge], now: u64| {
            let expected = usages(naive.charge(charges, at_millis(now)));
            let foreseen = usages(store.preview(charges, at_millis(now)));
            assert_eq!(usages(store.charge(charges, at_millis(now))), expected, "{charges:?}");
            assert_eq!(foreseen, expected, "{charges:?}");
        };
        for step in steps {
            match step {
                Step::Charge(log) => charge(&[log], now),
                Step::Both(log, other) => charge(&[log, other], now),
                Step::Later(millis) => now += millis,
                Step::Correct(charge, ago, change) => {
                    let charged_at = Some(at_millis(now - ago));
                    let correction = Correction { charged_at, ..Correction::new(charge, change) };
                    let expected = usages(naive.correct(&[correction], at_millis(now)));
                    assert_eq!(usages(store.correct(&[correction], at_millis(now))), expected);
                }
            }
        }
    }
}

#[test]
fn a_charge_within_a_step_takes_no_mutex() {
    let (store, _) = begun(Quota::per_minute(40));
    let charge = log(Quota::per_minute(40));
    let answer = |charge, now| {
        let mut usage = [Usage::unknown()];
        assert!(store.charge_at_once(&[charge], &mut usage, at(now)));
        (usage[0].wait().as_secs(), usage[0].remaining(), usage[0].reset().as_secs())
    };
    let rest = Charge { cost: 29, ..charge };
    // Of ten uses, the first leaves a minute after it was made. A refusal needs no use in its step.
    let asked = [(charge, 1_009), (rest, 1_009), (charge, 1_009), (charge, 1_050)];
    let expected = [(0, 29, 51), (0, 0, 51), (51, 0, 51), (10, 0, 10)];
    let locked = store.shards.shard(&Address::of(&charge)).meta();
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| done.send(asked.map(|(charge, now)| answer(charge, now))).unwrap());
        let answers = is_done.recv_timeout(Duration::from_secs(30));
        // Otherwise the thread would wait for ever.
        drop(locked);
        assert_eq!(answers, Ok(expected));
    });
    assert_eq!(answer(charge, 1_060), (0, 0, 1), "the first use has left");
    assert_eq!(store.len(), 1);
}

#[test]
fn a_long_log_of_many_threads_admits_its_quota_in_each_window() {
    const QUOTA: usize = 900;
    const THREADS: u64 = 4;
    const CHARGES: u64 = 6_000;
    /// So many milliseconds pass with each charge: 20 charges in each step, of which 15 fit.
    const TICK: u64 = 50;
    let store = MemoryStore::with_max_keys(100);
    let (clock, admitted) = (AtomicU64::new(1_000_000), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for number in 0..CHARGES {
                    // Another key comes now and then, so that slots move.
                    let now = clock.fetch_add(TICK, SeqCst);
                    if number % 64 == 0 {
                        let other = Charge { key: key(now), ..log(Quota::per_second(1)) };
                        let _ = usages(store.charge(&[other], at_millis(now)));
                    }
                    let charge = log(Quota::per_minute(QUOTA as u64));
                    let fits = usages(store.charge(&[charge], at_millis(now)))[0].fits();
                    if fits {
                        admitted.lock().unwrap().push((now, clock.load(SeqCst)));
                    }
                }
            });
        }
    });
    assert!(is_summed_up(&store, &log(Quota::per_minute(QUOTA as u64))));
    // Each was counted between when its thread read the clock and now. So in order of time, no more
    // than the quota is within a window.
    let (mut from, mut to): (Vec<u64>, Vec<u64>) =
        admitted.into_inner().unwrap().into_iter().unzip();
    from.sort_unstable();
    to.sort_unstable();
    assert!(from.iter().zip(&to[QUOTA..]).all(|(first, last)| last - first >= 60_000));
    let minutes = THREADS * CHARGES * TICK / 60_000;
    assert!(from.len() >= minutes as usize * QUOTA * 9 / 10, "{} in {minutes} minutes", from.len());
}
