//! Tests: a state that is merged from those of two keys counts, at any later time, the larger of their counts.

use std::{iter, time::Duration};

use proptest::prelude::*;

use super::{Algorithm, State, StatesByQuota, oracle::at};
use crate::quota::Quota;

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];
const WINDOW: u64 = 6_000;

/// The nanoseconds since the last step, whether the first key or the second one is charged, and the units.
type Step = (u64, bool, u64);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let later = prop_oneof![2 => Just(0), 6 => 0..WINDOW / 10, 1 => 0..2 * WINDOW];
    prop::collection::vec((later, any::<bool>(), 1..9_u64), 0..60)
}

fn quota() -> impl Strategy<Value = Quota> {
    // The first is one unit in each nanosecond, and the others have parts of one.
    let units = prop_oneof![Just(WINDOW), 1..20_u64, 1..100_u64];
    units.prop_map(|units| {
        Quota::per_window(units, Duration::from_nanos(WINDOW)).burst(units.min(50))
    })
}

/// The units that a naive key has used within the last `span` nanoseconds.
fn used_within(uses: &[(u64, u64)], now: u64, span: u64) -> u64 {
    uses.iter().filter(|(at, _)| at + span > now).map(|(_, units)| units).sum()
}

fn compare(algorithm: Algorithm, quota: Quota, before: &[Step], after: &[Step]) {
    let mut keys = [State::new(algorithm), State::new(algorithm)];
    let mut uses: [Vec<(u64, u64)>; 2] = Default::default();
    let mut now = 3 * WINDOW;
    for &(later, is_first, cost) in before {
        now += later;
        let index = usize::from(!is_first);
        if keys[index].charge(&quota, at(now), 0, cost).wait == 0 {
            uses[index].push((now, cost));
        }
    }
    let [mut merged, other] = keys.clone();
    merged.merge(&other, &quota, at(now));
    for &(later, is_charged, cost) in after {
        now += later;
        let remaining = |state: &State| state.remaining(&quota, at(now));
        let [first, second] = keys.each_ref().map(remaining);
        let left = remaining(&merged);
        assert!(
            left <= first.min(second),
            "{algorithm:?}: {left} of {first} and {second} at {now}"
        );
        if algorithm == Algorithm::SlidingWindow {
            // A use leaves up to a step late.
            let used = |uses: &Vec<_>| used_within(uses, now, WINDOW + WINDOW / 60);
            let used = uses.each_ref().map(used).into_iter().max().unwrap();
            assert!(
                left >= quota.units().saturating_sub(used),
                "{left} left, {used} used at {now}"
            );
        } else {
            assert_eq!(left, first.min(second), "{algorithm:?} at {now}");
            let [first, second] = keys.each_ref().map(|key| key.wait(&quota, at(now), cost));
            assert_eq!(merged.wait(&quota, at(now), cost), first.max(second), "{algorithm:?}");
        }
        // Both keys admit what the merged state admits.
        if is_charged && merged.charge(&quota, at(now), 0, cost).wait == 0 {
            for (key, uses) in keys.iter_mut().zip(&mut uses) {
                assert_eq!(key.charge(&quota, at(now), 0, cost).wait, 0, "{algorithm:?} at {now}");
                uses.push((now, cost));
            }
        }
    }
}

/// Quotas of which a key has four at most.
fn plans() -> [Quota; 6] {
    let plan = |units| Quota::per_window(units, Duration::from_nanos(WINDOW));
    let short = Quota::per_window(4, Duration::from_nanos(WINDOW / 7));
    [plan(5), plan(9), plan(40), plan(60), short, short.burst(9)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn two_states_together_count_what_the_larger_counts(
        quota in quota(), before in steps(), after in steps(),
    ) {
        for algorithm in ALGORITHMS {
            compare(algorithm, quota, &before, &after);
        }
    }

    #[test]
    fn two_keys_of_several_quotas_have_together_no_more_than_each(
        before in prop::collection::vec((steps(), 0..6_usize), 0..12),
        later in prop::collection::vec(0..WINDOW / 3, 1..9),
    ) {
        for algorithm in ALGORITHMS {
            let begin = || StatesByQuota::new(plans()[0], State::new(algorithm));
            let mut keys = [begin(), begin()];
            let mut now = 3 * WINDOW;
            for (steps, plan) in &before {
                for &(later, is_first, cost) in steps.iter().take(5) {
                    now += later;
                    // Each key has four quotas.
                    let plan = plans()[if is_first { plan % 4 } else { plan % 4 + 2 }];
                    keys[usize::from(!is_first)].charge(&plan, at(now), 0, cost);
                }
            }
            let [mut merged, other] = keys.clone();
            prop_assert!(merged.can_merge(&other, at(now)));
            merged.merge(&other, at(now));
            for later in &later {
                now += later;
                for key in &keys {
                    for (quota, state) in key.iter().filter(|(quota, state)| state.expires_in(quota, at(now)) > 0) {
                        let new = merged.for_new_key(quota, at(now));
                        prop_assert!(new.len() <= 4);
                        let left = new.under(quota, at(now)).remaining(quota, at(now));
                        let of_key = state.remaining(quota, at(now));
                        prop_assert!(left <= of_key, "{:?}: {} of {}", algorithm, left, of_key);
                    }
                }
            }
        }
    }

    #[test]
    fn merging_many_keys_loses_no_used_quota(
        keys in prop::collection::vec(
            (0..WINDOW / 6, prop::collection::vec((0..24_usize, 1..9_u64), 1..6)), 1..40,
        ),
        later in prop::collection::vec(0..WINDOW / 6, 1..9),
    ) {
        for algorithm in ALGORITHMS {
            let begin = || StatesByQuota::new(plans()[0], State::new(algorithm));
            let (mut merged, mut counted, mut now) = (begin(), Vec::new(), 3 * WINDOW);
            for (later, charges) in &keys {
                now += later;
                let mut key = begin();
                for &(plan, cost) in charges {
                    key.charge(&one_of_many_plans(plan as u64), at(now), 0, cost);
                }
                if merged.can_merge(&key, at(now)) {
                    merged.merge(&key, at(now));
                    counted.push(key);
                }
            }
            for later in iter::once(&0).chain(&later) {
                now += later;
                for key in &counted {
                    for (quota, state) in key.iter() {
                        let left = merged.under(quota, at(now)).remaining(quota, at(now));
                        let of_key = state.remaining(quota, at(now));
                        // A quota of which nothing is used any more may be forgotten.
                        let is_used = state.expires_in(quota, at(now)) > 0;
                        prop_assert!(!is_used || left <= of_key, "{:?}: {} of {}", algorithm, left, of_key);
                    }
                }
            }
        }
    }
}

/// Plans of many lengths.
fn one_of_many_plans(number: u64) -> Quota {
    Quota::per_window(3 + number, Duration::from_nanos(WINDOW / (1 + 2 * (number % 4))))
}

/// There is no state that counts the larger of both.
#[test]
fn states_of_two_algorithms_cannot_be_merged() {
    let quota = plans()[0];
    for (algorithm, other) in [(0, 1), (1, 2), (2, 0)] {
        let [this, other] = [algorithm, other].map(|index: usize| {
            let mut states = StatesByQuota::new(quota, State::new(ALGORITHMS[index]));
            states.consume(&quota, at(WINDOW), 1);
            states
        });
        assert!(this.can_merge(&this, at(WINDOW)) && !this.can_merge(&other, at(WINDOW)));
    }
}
