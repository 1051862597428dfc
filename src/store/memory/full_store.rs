//! Tests: a key that loses its room in a full store, or has none, is admitted no more than its quota, as if the
//! store kept each use for ever.

use std::time::Duration;

use proptest::prelude::*;

use super::{
    tests::{admits, at, charge, key, usages},
    *,
};
use crate::{
    algorithm::Algorithm,
    quota::Quota,
    store::{Change, Mode, resets_so_far},
};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
const MINUTE: u64 = 60;

fn used(number: u64, algorithm: Algorithm, quota: Quota, cost: u64) -> Charge {
    Charge { cost, ..charge(key(number), algorithm, quota) }
}

fn left(store: &MemoryStore, charge: Charge, now: Now) -> u64 {
    usages(store.charge(&[Charge { mode: Mode::Peek, ..charge }], now))[0].remaining()
}

fn correct(store: &MemoryStore, charge: Charge, charged_at: Now, change: Change, now: Now) {
    let correction = Correction { charged_at: Some(charged_at), ..Correction::new(charge, change) };
    let _ = usages(store.correct(&[correction], now));
}

/// Charges many keys of another policy, which take the room of other keys.
fn flood_of_others(store: &MemoryStore, now: Now) {
    for number in 0..100 {
        let other = used(10_000 + number, Algorithm::FixedWindow, Quota::per_minute(1), 1);
        admits(store, Charge { policy: 2 << 40, ..other }, now);
    }
}

#[test]
fn a_request_takes_the_room_of_none_of_its_own_keys() {
    let bucket = |number| used(number, Algorithm::TokenBucket, Quota::per_hour(1), 1);
    for first in [
        used(0, Algorithm::TokenBucket, Quota::per_hour(100), 1),
        used(0, Algorithm::InFlight, Quota::in_flight(3), 1),
    ] {
        for max in [2, 6, 20, 100] {
            let store = MemoryStore::with_max_keys(max as usize);
            // It has its whole quota again, and all others are spent.
            let first = Charge { policy: 2 << 40, ..first };
            assert!(admits(&store, first, at(1)));
            correct(&store, first, at(1), Change::GiveBack(1), at(1));
            (1..max).for_each(|number| assert!(admits(&store, bucket(number), at(1))));
            assert_eq!(store.len() as u64, max);
            for number in [0, max] {
                let _ = usages(store.charge(&[first, bucket(number)], at(2)));
                assert_eq!(store.len() as u64, max, "{:?}", first.algorithm);
            }
        }
    }
}

#[test]
fn an_evicted_key_has_at_no_time_more_than_if_it_had_stayed() {
    for (algorithm, late) in
        ALGORITHMS.into_iter().flat_map(|algorithm| [(algorithm, 0), (algorithm, 1)])
    {
        // One shard; and one that has room for all.
        let (store, ample) = (MemoryStore::with_max_keys(100), MemoryStore::with_max_keys(1_000));
        let (quota, all) = match algorithm {
            Algorithm::TokenBucket => (Quota::per_hour(2), 2),
            _ => (Quota::per_hour(100), 100),
        };
        let of = |number| used(number, algorithm, quota, all);
        let spend = |number, minute| {
            assert!(admits(&store, of(number), at(minute * MINUTE)));
            assert!(admits(&ample, of(number), at(minute * MINUTE)));
        };
        // Half of the keys are spent early, and the others late. Some of both go.
        let is_late = |number: &u64| number % 2 == late;
        (0..100).filter(|number| !is_late(number)).for_each(|number| spend(number, 0));
        (0..100).filter(is_late).for_each(|number| spend(number, 50));
        flood_of_others(&store, at(50 * MINUTE + 1));
        for later in (50 * MINUTE + 1..150 * MINUTE).step_by(59) {
            for number in (0..100).filter(is_late) {
                let [left, most] = [&store, &ample].map(|store| left(store, of(number), at(later)));
                assert!(left <= most, "{algorithm:?}: {left} of {most} after {later} s");
            }
        }
        assert!((0..100).all(|number| left(&store, of(number), at(150 * MINUTE)) == all));
    }
}

#[test]
fn evicted_keys_of_many_quotas_have_no_more_than_if_they_had_stayed() {
    let (store, ample) = (MemoryStore::with_max_keys(100), MemoryStore::with_max_keys(1_000));
    // As many quotas as keys, of which the first have the fewest units: more than are remembered.
    let of = |number| {
        let units = 10 + number;
        used(number, Algorithm::TokenBucket, Quota::per_hour(units), units)
    };
    for number in 0..100 {
        assert!(admits(&store, of(number), at(0)) && admits(&ample, of(number), at(0)));
    }
    flood_of_others(&store, at(1));
    let gone = |number: &u64| {
        let shard = store.shards.get(0);
        let address = Address::of(&of(*number));
        shard.counters().count(|entry| entry.is_at(&address)) == 0
    };
    let gone = (0..100).filter(gone).count();
    assert!((1..=16).contains(&gone), "{gone} are gone");
    for later in (1..70 * MINUTE).step_by(61) {
        for number in 0..100 {
            let [left, most] = [&store, &ample].map(|store| left(store, of(number), at(later)));
            assert!(left <= most, "{left} of {most} after {later} s");
        }
    }
}

/// The first of two algorithms has used less than half, so that its keys go first.
#[test]
fn evicted_keys_of_two_algorithms_have_no_more_than_if_they_had_stayed() {
    for (first, second) in [(0, 1), (1, 2), (2, 0)].map(|(a, b)| (ALGORITHMS[a], ALGORITHMS[b])) {
        let (store, ample) = (MemoryStore::with_max_keys(100), MemoryStore::with_max_keys(1_000));
        let of = |number| {
            let (algorithm, cost) = if number < 10 { (first, 2) } else { (second, 5) };
            used(number, algorithm, Quota::per_hour(5), cost)
        };
        for number in 0..100 {
            assert!(admits(&store, of(number), at(0)) && admits(&ample, of(number), at(0)));
        }
        flood_of_others(&store, at(1));
        for later in (1..70 * MINUTE).step_by(61) {
            for number in 0..100 {
                let [left, most] = [&store, &ample].map(|store| left(store, of(number), at(later)));
                assert!(left <= most, "{first:?}, {second:?}: {left} of {most} after {later} s");
            }
        }
    }
}

/// One key uses up the count that keys without room share, under a plan whose units come back first. The others
/// fill that count with as many quotas as it keeps.
#[test]
fn an_evicted_key_takes_no_quota_from_those_that_are_shared() {
    let store = MemoryStore::with_max_keys(100);
    let of = |number, quota, cost| used(number, Algorithm::TokenBucket, quota, cost);
    let evicted = Quota::per_hour(20);
    assert!((0..100).all(|number| admits(&store, of(number, evicted, 20), at(0))));
    let spent = of(200, Quota::per_minute(100), 100);
    assert!(admits(&store, spent, at(0)));
    for units in 1..=15 {
        assert!(!admits(&store, of(200 + units, Quota::per_hour(units), 1), at(0)));
    }
    assert_eq!(left(&store, spent, at(0)), 0);
    flood_of_others(&store, at(0));
    assert_eq!(left(&store, spent, at(0)), 0, "it gains nothing by what others need");
}

/// Each key gives a unit back while a later use of it counts, and some of them go after that.
#[test]
fn a_key_that_goes_takes_nothing_that_others_may_be_given_back() {
    let store = MemoryStore::with_max_keys(100);
    let of = |number, cost| used(number, Algorithm::TokenBucket, Quota::per_hour(5), cost);
    for number in 0..100 {
        assert!(admits(&store, of(number, 2), at(0)) && admits(&store, of(number, 3), at(1)));
        correct(&store, of(number, 2), at(0), Change::GiveBack(1), at(2));
        assert_eq!(left(&store, of(number, 1), at(2)), 1);
    }
    flood_of_others(&store, at(3));
    let is_gone = |number: &u64| {
        let address = Address::of(&of(*number, 1));
        store.shards.get(0).counters().count(|entry| entry.is_at(&address)) == 0
    };
    let (gone, stayed): (Vec<u64>, Vec<u64>) = (0..100).partition(is_gone);
    assert!(gone.len() >= 40 && stayed.len() >= 40, "{} are gone", gone.len());
    // Those that are gone come back, and have what they had at most.
    let give_back = |number| correct(&store, of(number, 3), at(1), Change::GiveBack(3), at(4));
    let has_four = |number: &&u64| {
        give_back(**number);
        left(&store, of(**number, 1), at(4)) == 4
    };
    let given = stayed.iter().filter(has_four).count();
    assert!(given + 4 >= stayed.len(), "{given} of {}", stayed.len());
    for number in gone {
        let before = left(&store, of(number, 1), at(4));
        give_back(number);
        assert_eq!((before, left(&store, of(number, 1), at(4))), (1, 1), "{number}");
    }
}

/// Gives back all that most of the first 100 keys have used, so that they go when others come.
fn make_room(store: &MemoryStore, of: impl Fn(u64) -> Charge) {
    for number in 0..90 {
        correct(store, of(number), at(0), Change::GiveBack(5), at(0));
    }
}

/// A store whose keys are all spent; and a key that has used `cost` units of the quota that keys without
/// room share. Then the others go.
fn shared(algorithm: Algorithm, cost: u64) -> (MemoryStore, impl Fn(u64, u64) -> Charge) {
    let store = MemoryStore::with_max_keys(100);
    let of = move |number, cost| used(number, algorithm, Quota::per_hour(5), cost);
    assert!((0..100).all(|number| admits(&store, of(number, 5), at(0))));
    assert!(admits(&store, of(100, cost), at(0)));
    assert_eq!(store.overflowed(), 1);
    make_room(&store, |number| of(number, 5));
    (store, of)
}

#[test]
fn a_key_that_was_counted_with_others_gets_no_second_quota() {
    for algorithm in ALGORITHMS {
        let (store, of) = shared(algorithm, 3);
        assert_eq!(left(&store, of(100, 1), at(1)), 2, "{algorithm:?}");
        assert_eq!(store.preview_at_once(&[of(100, 1)], at(1))[0].remaining(), 1);
        assert_eq!((0..9).filter(|_| admits(&store, of(100, 1), at(1))).count(), 2);
        // And another key gets a whole one.
        assert!(admits(&store, of(101, 5), at(1)), "{algorithm:?}");
    }
}

#[test]
fn units_that_were_shared_come_back_once() {
    for algorithm in ALGORITHMS {
        let (store, of) = shared(algorithm, 3);
        assert_eq!((0..9).filter(|_| admits(&store, of(100, 1), at(0))).count(), 2);
        correct(&store, of(100, 3), at(0), Change::GiveBack(3), at(0));
        assert_eq!((0..9).filter(|_| admits(&store, of(100, 1), at(0))).count(), 3);
    }
}

#[test]
fn units_that_a_shared_charge_takes_late_are_the_keys_own() {
    for algorithm in ALGORITHMS {
        let (store, of) = shared(algorithm, 1);
        assert!(admits(&store, of(100, 1), at(0)));
        correct(&store, of(100, 1), at(0), Change::Take(3), at(0));
        assert_eq!(left(&store, of(100, 1), at(0)), 0, "{algorithm:?}");
    }
}

#[test]
fn units_that_an_evicted_key_takes_late_are_not_forgotten() {
    let store = MemoryStore::with_max_keys(100);
    let of = |number, cost| used(number, Algorithm::FixedWindow, Quota::per_hour(5), cost);
    assert!((0..100).all(|number| admits(&store, of(number, 3), at(0))));
    // There is no room, and the units are counted with those of others.
    correct(&store, of(100, 1), at(0), Change::Take(4), at(0));
    make_room(&store, |number| of(number, 3));
    assert_eq!((0..9).filter(|_| admits(&store, of(100, 1), at(0))).count(), 1);
}

const WINDOW: u64 = 60_000;

#[derive(Clone, Debug)]
enum Step {
    /// The key, and a charge for each policy: the policy, the plan and the cost.
    Charge(u64, Vec<(usize, usize, u64)>),
    /// Corrects the charge at an index from the end.
    GiveBack(usize, u64),
    Take(usize, u64),
    Reset(u64, usize),
    Later(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = || prop_oneof![3 => 0..5_u64, 2 => 0..25_u64];
    let charge = (0..4_usize, 0..3_usize, prop_oneof![3 => 1..3_u64, 1 => 3..8_u64]);
    let charges = prop::collection::vec(charge, 1..3).prop_map(|mut charges| {
        charges.sort_unstable();
        charges.dedup_by_key(|charge| charge.0);
        charges
    });
    let later = prop_oneof![8 => 0..9_000_u64, 1 => 0..2 * WINDOW];
    let step = prop_oneof![
        12 => (key(), charges).prop_map(|(key, charges)| Step::Charge(key, charges)),
        3 => (0..30_usize, 1..8_u64).prop_map(|(index, units)| Step::GiveBack(index, units)),
        1 => (0..30_usize, 1..4_u64).prop_map(|(index, units)| Step::Take(index, units)),
        1 => (key(), 0..4_usize).prop_map(|(key, policy)| Step::Reset(key, policy)),
        4 => later.prop_map(Step::Later),
    ];
    prop::collection::vec(step, 1..250)
}

/// A charge under a quota of few units: a key with a use has less than seven eighths of it left. A key that has
/// more left may be dropped with what it has used. Under windows, a key may change its plan at any time; under
/// a bucket, each key has one plan.
fn charge_of(policy: usize, number: u64, plan: usize, cost: u64) -> Charge {
    let algorithm = [ALGORITHMS[2], ALGORITHMS[1], ALGORITHMS[0], ALGORITHMS[2]][policy];
    let plan = if algorithm == Algorithm::TokenBucket { number as usize % 3 } else { plan };
    let quota = Quota::per_window([3, 5, 7][plan], Duration::from_millis(WINDOW));
    Charge { policy: (policy as u64 + 1) << 40, ..used(number, algorithm, quota, cost) }
}

/// Units that a charge has used, after all corrections. The model keeps each use for ever.
struct Use {
    charge: Charge,
    usage: Usage,
    at: u64,
    units: u64,
    resets: u64,
    was_reset: bool,
}

fn at_millis(millis: u64) -> Now {
    Now::new(Duration::from_millis(millis), Duration::from_millis(millis))
}

/// What a key has used of its quota.
fn used_of(uses: &[Use], charge: &Charge, now: u64) -> u64 {
    let is_same = |used: &&Use| used.charge.id() == charge.id() && !used.was_reset;
    let uses = uses.iter().filter(is_same);
    let since =
        |begin: u64| uses.clone().filter(move |used| used.at >= begin).map(|used| used.units).sum();
    match charge.algorithm {
        Algorithm::FixedWindow => since(now / WINDOW * WINDOW),
        Algorithm::SlidingWindow => since(now - WINDOW + 1),
        _ => {
            let rate = charge.quota.units();
            let (mut missing, mut before) = (0, 0);
            for used in uses {
                missing = u64::saturating_sub(missing, (used.at - before) * rate);
                missing += used.units * WINDOW;
                before = used.at;
            }
            u64::saturating_sub(missing, (now - before) * rate).div_ceil(WINDOW)
        }
    }
}

fn run(max_keys: usize, steps: &[Step]) {
    let store = MemoryStore::with_max_keys(max_keys);
    let mut uses: Vec<Use> = Vec::new();
    let mut now = 10 * WINDOW;
    for step in steps {
        match *step {
            Step::Later(millis) => now += millis,
            Step::Charge(number, ref charges) => {
                let of = |&(policy, plan, cost)| charge_of(policy, number, plan, cost);
                let charges: Vec<Charge> = charges.iter().map(of).collect();
                let answers = usages(store.charge(&charges, at_millis(now)));
                if !answers.iter().all(Usage::fits) {
                    continue;
                }
                for (charge, usage) in charges.into_iter().zip(answers.iter().copied()) {
                    let used = used_of(&uses, &charge, now);
                    assert!(used + charge.cost <= charge.quota.units(), "{used} and {charge:?}");
                    let (units, resets) = (charge.cost, resets_so_far());
                    uses.push(Use { charge, usage, at: now, units, resets, was_reset: false });
                }
            }
            Step::GiveBack(index, units) | Step::Take(index, units) => {
                let Some(index) = uses.len().checked_sub(index + 1) else { continue };
                let used = &mut uses[index];
                // A use that has given units back, or was taken late, costs what is left of it.
                let charge = Charge { cost: used.units, ..used.charge };
                let is_bucket = charge.algorithm == Algorithm::TokenBucket;
                let (at, change) = match step {
                    Step::Take(..) => {
                        let at = if is_bucket { now } else { used.at };
                        (at, Change::Take(units))
                    }
                    _ => {
                        let units = units.min(used.units);
                        used.units -= if used.was_reset { 0 } else { units };
                        (used.at, Change::GiveBack(units))
                    }
                };
                let correction = Correction {
                    charged_at: Some(at_millis(used.at)),
                    usage: used.usage,
                    resets: Some(used.resets),
                    ..Correction::new(charge, change)
                };
                let (usage, resets) = (Usage::unknown(), resets_so_far());
                let _ = usages(store.correct(&[correction], at_millis(now)));
                // A bucket owes no more than a capacity, so the model takes only what is within it.
                let room = charge.quota.units().saturating_sub(used_of(&uses, &charge, now));
                let units = if is_bucket { units.min(room) } else { units };
                if matches!(change, Change::Take(_)) {
                    uses.push(Use { charge, usage, at, units, resets, was_reset: false });
                }
            }
            Step::Reset(number, policy) => {
                let charge = charge_of(policy, number, 0, 1);
                let correction = Correction::new(charge, Change::Reset);
                let _ = usages(store.correct(&[correction], at_millis(now)));
                let is_same = |used: &&mut Use| used.charge.id() == charge.id();
                uses.iter_mut().filter(is_same).for_each(|used| used.was_reset = true);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn no_key_passes_more_than_its_quota_however_full_the_store_is(
        max_keys in 1..20_usize, steps in steps(),
    ) {
        run(max_keys, &steps);
    }
}

/// A refusal under another plan is remembered for as long as it said, also without room.
#[test]
fn a_key_without_room_is_not_washed_clean_by_a_change_of_plan() {
    for max_keys in [10, 1] {
        let store = MemoryStore::with_max_keys(max_keys);
        let under = |number, quota| used(number, Algorithm::TokenBucket, quota, 5);
        let (minute, day) = (Quota::per_minute(5), Quota::per_day(5));
        let ask = |charge, millis| usages(store.charge(&[charge], at_millis(millis)))[0];
        assert!(ask(under(1, day), 0).fits());
        assert!(ask(under(2, minute), 0).fits());
        assert_eq!(ask(under(2, day), 0).wait(), Duration::from_secs(86_400));
        let reset = Correction::new(under(1, day), Change::Reset);
        let _ = usages(store.correct(&[reset], at_millis(61_000)));
        assert!(!ask(under(2, day), 61_000).fits(), "with room for {max_keys} keys");
    }
}
