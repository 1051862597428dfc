//! What the new keys of a policy share while they have no room: [`SharedCount`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::mem;

use crate::{algorithm::StatesByQuota, clock::Now, quota::Quota, store::Charge};

/// 512 bytes. If 500 keys share a count, an eighth of all other keys look as if they were among these.
const WORDS: usize = 64;

/// One count for all keys of a policy that have no room in a shard, and which keys these were. When such a
/// key gets room while its units still count, it begins with this count: otherwise it would have a second
/// quota, and later corrections would give it more units back than it has used.
pub(super) struct SharedCount {
    pub(super) states: StatesByQuota,
    /// The keys that were counted here lately, and those that were counted earlier. The earlier ones are
    /// forgotten when the units of all of them have come back.
    keys: [KeySet; 2],
}

/// A Bloom filter with one hash: it never lacks a key, and may have some more.
struct KeySet {
    bits: Box<[u64; WORDS]>,
    /// The monotonic nanoseconds at which no use of these keys counts any more.
    until: u64,
}

impl SharedCount {
    pub(super) fn new(states: StatesByQuota) -> Self {
        Self { states, keys: [KeySet::new(), KeySet::new()] }
    }

    /// Changes the states by a charge, and remembers its key until all units have come back.
    pub(super) fn change(
        &mut self,
        charge: &Charge,
        now: Now,
        change: impl FnOnce(&mut StatesByQuota),
    ) {
        self.track(&charge.quota, now);
        change(&mut self.states);
        let [new, old] = &mut self.keys;
        if !old.still_counts(now) {
            mem::swap(new, old);
            *new = KeySet::new();
        }
        new.add(charge.key, now.monotonic_nanos().saturating_add(self.states.expires_in(now)));
    }

    /// Counts under another quota as well from now on. Its units may come back later than the others.
    pub(super) fn track(&mut self, quota: &Quota, now: Now) {
        let before = self.states.expires_in(now);
        self.states.track_for_several(quota, now);
        let after = self.states.expires_in(now);
        let until = now.monotonic_nanos().saturating_add(after);
        for keys in self.keys.iter_mut().filter(|keys| after > before && keys.still_counts(now)) {
            keys.until = keys.until.max(until);
        }
    }

    /// Whether units that the key of a charge has used here may still count.
    pub(super) fn may_count(&self, charge: &Charge, now: Now) -> bool {
        self.keys.iter().any(|keys| keys.still_counts(now) && keys.may_have(charge.key))
    }
}

impl KeySet {
    fn new() -> Self {
        Self { bits: Box::new([0; WORDS]), until: 0 }
    }

    fn still_counts(&self, now: Now) -> bool {
        now.monotonic_nanos() < self.until
    }

    fn add(&mut self, key: u128, until: u64) {
        let (word, bit) = position(key);
        if let Some(word) = self.bits.get_mut(word) {
            *word |= bit;
        }
        self.until = self.until.max(until);
    }

    fn may_have(&self, key: u128) -> bool {
        let (word, bit) = position(key);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// The word of a key's bit, and the bit. Keys are hashes already.
#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
fn position(key: u128) -> (usize, u64) {
    ((key as usize >> 6) % WORDS, 1 << (key as u32 % 64))
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{at, charge, key},
        *,
    };
    use crate::algorithm::{Algorithm, State};

    #[test]
    fn a_key_is_known_until_its_units_have_come_back() {
        let quota = Quota::per_minute(1_000_000);
        let of = |number| charge(key(number), Algorithm::SlidingWindow, quota);
        let new = || StatesByQuota::new(quota, State::new(Algorithm::SlidingWindow));
        let mut shared = SharedCount::new(new());
        // Two keys in each second, for ten windows.
        for second in 0..600 {
            for number in [2 * second, 2 * second + 1] {
                shared.change(&of(number), at(second), |states| {
                    states.consume(&quota, at(second), 1)
                });
            }
            let lately = (2 * second).saturating_sub(118)..2 * second + 2;
            assert!(lately.clone().all(|number| shared.may_count(&of(number), at(second))));
            let others =
                (5_000..6_000).filter(|number| shared.may_count(&of(*number), at(second))).count();
            assert!(others < 100, "{others} others in second {second}");
        }
        assert!((0..1_200).all(|number| !shared.may_count(&of(number), at(660))));
    }
}
