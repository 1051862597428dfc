//! Counts of the heaviest keys, in bounded memory: [`Tally`].
//!
//! The sums of a minute are bounded. Made-up keys could fill them and hide the busiest key. So the
//! heaviest keys of each minute have counts of their own, by the algorithm of Misra and Gries
//! ("Finding repeated elements", 1982): with [`MAX_KEYS`] counters, it never loses a key that makes
//! more than one of `MAX_KEYS + 1` requests.

use std::collections::{HashMap, VecDeque};

use super::{Entry, Fingerprint, KeySum, LoggedKey};

/// The most keys that a minute has counters for.
const MAX_KEYS: usize = 128;
/// The number of minutes kept.
const MAX_MINUTES: usize = 60;

/// The heaviest keys of the last hour's minutes.
#[derive(Default)]
pub(super) struct Tally(VecDeque<Minute>);

#[derive(Default)]
struct Minute {
    minute: u64,
    by_requests: Heaviest,
    by_refusals: Heaviest,
}

/// The heaviest keys. A key weighs what counts for its rank: its requests, or its refused ones.
#[derive(Default)]
struct Heaviest(HashMap<Fingerprint, Counter>);

struct Counter {
    /// The key's weight, less the number of times that all weights were lowered.
    weight: u64,
    /// The requests of the key since it got its counter: never more than the key has sent.
    sum: KeySum,
}

impl Tally {
    /// Counts a request. Its minute is the newest, or begins.
    pub(super) fn add(&mut self, minute: u64, entry: &Entry) {
        let Some(key) = &entry.key else { return };
        if self.0.back().is_none_or(|newest| newest.minute != minute) {
            if self.0.len() == MAX_MINUTES {
                self.0.pop_front();
            }
            self.0.push_back(Minute { minute, ..Minute::default() });
        }
        if let Some(newest) = self.0.back_mut() {
            let refused = entry.verdict.is_refused();
            newest.by_requests.add(key, refused, true);
            newest.by_refusals.add(key, refused, refused);
        }
    }

    /// The counts of the heaviest keys, of the minutes from `since` on.
    pub(super) fn keys(&self, since: u64) -> HashMap<Fingerprint, KeySum> {
        let mut keys = HashMap::new();
        for minute in self.0.iter().filter(|minute| minute.minute >= since) {
            let mut of_minute = HashMap::new();
            let Minute { by_requests, by_refusals, .. } = minute;
            for counter in by_requests.0.values().chain(by_refusals.0.values()) {
                join(&mut of_minute, counter.sum.clone(), u64::max);
            }
            for sum in of_minute.into_values() {
                join(&mut keys, sum, u64::saturating_add);
            }
        }
        keys
    }
}

/// Joins the numbers of one more sum with those that a key has already.
pub(super) fn join(
    keys: &mut HashMap<Fingerprint, KeySum>,
    sum: KeySum,
    join: fn(u64, u64) -> u64,
) {
    let none = || KeySum::new(sum.key.clone(), 0, 0);
    let known = keys.entry(sum.key.fingerprint).or_insert_with(none);
    known.requests = join(known.requests, sum.requests);
    known.refused = join(known.refused, sum.refused);
    known.key = sum.key;
}

impl Heaviest {
    fn add(&mut self, key: &LoggedKey, refused: bool, weighs: bool) {
        if !self.0.contains_key(&key.fingerprint) {
            if !weighs {
                return;
            }
            if self.0.len() == MAX_KEYS {
                // The new key and one weight of each other key cancel out. Each lowering was paid
                // by an earlier raise, so the cost for each request is constant on average.
                self.0.retain(|_, counter| {
                    counter.weight -= 1;
                    counter.weight > 0
                });
                return;
            }
            let sum = KeySum::new(key.clone(), 0, 0);
            self.0.insert(key.fingerprint, Counter { weight: 0, sum });
        }
        if let Some(Counter { weight, sum }) = self.0.get_mut(&key.fingerprint) {
            *weight += u64::from(weighs);
            sum.requests += 1;
            sum.refused += u64::from(refused);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        limiter::Reason,
        usage::log::{LoggedVerdict, tests::entry},
    };

    const ABUSER: u128 = 7;

    fn add(tally: &mut Tally, minute: u64, key: u128, refused: bool) {
        let verdict = if refused {
            LoggedVerdict::Refused(Reason::QuotaExceeded)
        } else {
            LoggedVerdict::Allowed
        };
        tally.add(minute, &Entry { verdict, ..entry(key) });
    }

    #[test]
    fn counts_are_exact_where_there_is_room_and_minutes_go_after_an_hour() {
        let mut tally = Tally::default();
        for minute in 0..70 {
            add(&mut tally, minute, ABUSER, minute % 2 == 0);
            add(&mut tally, minute, ABUSER + 1, false);
        }
        let counted = |since| {
            let keys = tally.keys(since);
            [ABUSER, ABUSER + 1].map(|key| {
                let sum = &keys[&Fingerprint(key)];
                (sum.requests, sum.refused)
            })
        };
        assert_eq!(counted(0), [(60, 30), (60, 0)]);
        assert_eq!(counted(60), [(10, 5), (10, 0)]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever decoys there are, in whatever order: a key with more than one of 129 requests,
        /// or of 129 refusals, is known, and with all but so many.
        #[test]
        fn a_heavy_key_is_never_hidden(
            requests in prop::collection::vec((0..3_u64, 0..400_u128, any::<bool>()), 1..3_000),
            every in 1..129_usize,
            rotation in any::<prop::sample::Index>(),
        ) {
            let mut all: Vec<(u64, u128, bool)> = Vec::new();
            for (index, (minute, key, refused)) in requests.into_iter().enumerate() {
                all.push((minute, 1_000 + key, refused));
                if index % every == 0 {
                    all.push((minute, ABUSER, refused));
                }
            }
            let first = rotation.index(all.len());
            all.rotate_left(first);
            all.sort_by_key(|(minute, ..)| *minute);
            let mut tally = Tally::default();
            for (minute, key, refused) in &all {
                add(&mut tally, *minute, *key, *refused);
            }
            let known = tally.keys(0);
            for refusals in [false, true] {
                let counted = all.iter().filter(|(.., refused)| *refused || !refusals);
                let mut by_key: HashMap<u128, u64> = HashMap::new();
                counted.for_each(|(_, key, _)| *by_key.entry(*key).or_default() += 1);
                let lost = by_key.values().sum::<u64>() / (MAX_KEYS as u64 + 1);
                for (key, count) in by_key {
                    let sum = known.get(&Fingerprint(key));
                    let counted =
                        sum.map_or(0, |sum| if refusals { sum.refused } else { sum.requests });
                    prop_assert!(counted <= count && counted + lost >= count, "{counted} of {count}");
                }
            }
            for minute in &tally.0 {
                prop_assert!(minute.by_requests.0.len() <= MAX_KEYS);
                prop_assert!(minute.by_refusals.0.len() <= MAX_KEYS);
            }
        }
    }
}
