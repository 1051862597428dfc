use std::{
    hash::{BuildHasherDefault, Hasher},
    time::Duration,
};

use indexmap::IndexMap;

use crate::{
    algorithm::State,
    clock::Now,
    store::{Change, Charge, Correction, Mode, Usage},
};

/// How many counts are looked at for each that is added: more than one, so that the expired ones
/// go faster than new ones come.
const SWEEP_PER_KEY: usize = 4;
/// How many counts are looked at when there is no room.
const SWEEP_WHEN_FULL: usize = 32;

/// A part of the store, behind one lock.
pub(super) struct Shard {
    /// Dense, so that a cursor can walk it little by little.
    counts: IndexMap<u128, Count, BuildHasherDefault<FingerprintHasher>>,
    cursor: usize,
    max_keys: usize,
    /// The count that keys without room share, for each policy.
    shared: IndexMap<u128, State, BuildHasherDefault<FingerprintHasher>>,
}

struct Count {
    state: State,
    /// The monotonic time from which it says no more than a new one.
    forgotten_at: u64,
}

impl Count {
    /// Until when it is kept, after a change.
    fn keep(&mut self, charge: &Charge, now: Now) {
        let forgotten_in = self.state.forgotten_in(&charge.quota, now);
        self.forgotten_at = now.monotonic_nanos().saturating_add(forgotten_in);
    }
}

impl Shard {
    pub(super) fn new(max_keys: usize) -> Self {
        Self { counts: IndexMap::default(), cursor: 0, max_keys, shared: IndexMap::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    /// How long until `charge` fits. Makes room for its key if it can, so that
    /// [`take`](Self::take) finds what was looked at here.
    pub(super) fn wait(&mut self, charge: &Charge, now: Now) -> u64 {
        if !self.counts.contains_key(&charge.slot()) && self.is_full() {
            self.sweep(SWEEP_WHEN_FULL, now);
        }
        self.look(charge, |state| {
            state.wait(&charge.quota, now, charge.ahead.saturating_add(charge.cost))
        })
    }

    /// What is left, for a charge that fits after `wait`.
    pub(super) fn usage(&self, charge: &Charge, wait: u64, now: Now) -> Usage {
        let quota = &charge.quota;
        let left = |state: &State| (state.remaining(quota, now), state.reset(quota, now));
        let (remaining, reset) = self.look(charge, left);
        Usage { wait: Duration::from_nanos(wait), remaining, reset: Duration::from_nanos(reset) }
    }

    /// Makes a charge that fits after `wait`, if it does now and its request passes.
    pub(super) fn charge(&mut self, charge: &Charge, wait: u64, passes: bool, now: Now) -> Usage {
        if passes && wait == 0 && charge.mode != Mode::Peek {
            self.take(charge, charge.cost, now);
        }
        self.usage(charge, wait, now)
    }

    pub(super) fn take(&mut self, charge: &Charge, units: u64, now: Now) {
        if units == 0 {
            return;
        }
        if !self.counts.contains_key(&charge.slot()) {
            if self.is_full() {
                log_full();
                let fresh = || State::new(charge.algorithm);
                let shared = self.shared.entry(charge.policy).or_insert_with(fresh);
                return shared.take(&charge.quota, now, units);
            }
            self.sweep(SWEEP_PER_KEY, now);
        }
        let fresh = || Count { state: State::new(charge.algorithm), forgotten_at: 0 };
        let count = self.counts.entry(charge.slot()).or_insert_with(fresh);
        count.state.take(&charge.quota, now, units);
        count.keep(charge, now);
    }

    pub(super) fn correct(&mut self, correction: &Correction, now: Now) {
        let Correction { charge, charged_at, change } = correction;
        match *change {
            Change::Take(units) => self.take(charge, units, now),
            Change::Reset => {
                self.counts.swap_remove(&charge.slot());
            }
            Change::GiveBack(units) => {
                if let Some(count) = self.counts.get_mut(&charge.slot()) {
                    count.state.give_back(&charge.quota, now, *charged_at, units);
                    count.keep(charge, now);
                }
            }
        }
    }

    /// Reads the state that `charge` would be counted in.
    fn look<T>(&self, charge: &Charge, read: impl Fn(&State) -> T) -> T {
        let own = self.counts.get(&charge.slot()).map(|count| &count.state);
        let shared = || self.shared.get(&charge.policy).filter(|_| self.is_full());
        match own.or_else(shared) {
            Some(state) => read(state),
            None => read(&State::new(charge.algorithm)),
        }
    }

    fn is_full(&self) -> bool {
        self.counts.len() >= self.max_keys
    }

    /// Looks at the next `steps` counts and drops those that say nothing any more.
    fn sweep(&mut self, steps: usize, now: Now) {
        for _ in 0..steps.min(self.counts.len()) {
            self.cursor = if self.cursor >= self.counts.len() { 0 } else { self.cursor };
            let expired = self
                .counts
                .get_index(self.cursor)
                .is_some_and(|(_, count)| count.forgotten_at <= now.monotonic_nanos());
            if expired {
                // The last count moves here, and is looked at next.
                self.counts.swap_remove_index(self.cursor);
            } else {
                self.cursor += 1;
            }
        }
    }
}

fn log_full() {
    #[cfg(feature = "tracing")]
    {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| {
            tracing::warn!(
                "the memory store is full: new keys share a quota until others expire. If these \
                 are honest callers, raise `MemoryStore::with_max_keys`"
            );
        });
    }
}

/// Fingerprints are hashes already.
#[derive(Default)]
struct FingerprintHasher(u64);

impl Hasher for FingerprintHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 ^= u64::from_ne_bytes(word);
        }
    }

    fn write_u128(&mut self, fingerprint: u128) {
        // The high half: the low one chose the shard.
        self.0 = (fingerprint >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{algorithm::Algorithm, quota::Quota};

    fn charge(key: u128) -> Charge {
        let (algorithm, quota) = (Algorithm::FixedWindow, Quota::per_minute(1));
        Charge { policy: 0, key, algorithm, quota, cost: 1, ahead: 0, mode: Mode::Enforced }
    }

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    /// Whether the key was admitted.
    fn admit(shard: &mut Shard, key: u128, now: Now) -> bool {
        let fits = shard.wait(&charge(key), now) == 0;
        if fits {
            shard.take(&charge(key), 1, now);
        }
        fits
    }

    #[test]
    fn a_flood_of_new_keys_stays_bounded_and_frees_no_spent_key() {
        let mut shard = Shard::new(100);
        assert!(admit(&mut shard, u128::MAX, at(0)));
        let flood = (0..100_000).filter(|&key| admit(&mut shard, key, at(1))).count();
        assert_eq!(flood, 99 + 1, "those with room, and one for all the others");
        assert_eq!(shard.len(), 100);
        assert!(!admit(&mut shard, u128::MAX, at(2)), "the spent key is still spent");
        assert!(admit(&mut shard, u128::MAX, at(60)));
    }

    #[test]
    fn expired_keys_make_room_little_by_little() {
        let mut shard = Shard::new(1_000);
        for key in 0..1_000 {
            assert!(admit(&mut shard, key, at(0)));
        }
        // The minute is over: a new key finds room at once, and each one sweeps away a few more.
        for key in 1_000..1_300 {
            assert!(admit(&mut shard, key, at(60)));
        }
        assert!(shard.len() < 500, "{} left", shard.len());
    }

    #[test]
    fn a_request_that_costs_nothing_leaves_no_trace() {
        let mut shard = Shard::new(10);
        shard.take(&charge(1), 0, at(0));
        assert_eq!(shard.len(), 0);
    }
}
