//! Counts in this process's memory.

mod shard;

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use smallvec::{SmallVec, smallvec};

use self::shard::Shard;
use super::{Charge, Correction, Mode, Store, StoreFuture};
use crate::clock::Now;

const DEFAULT_MAX_KEYS: usize = 1_000_000;
const MAX_SHARDS: usize = 64;
/// Fewer would make the bound of each shard felt before that of the store.
const KEYS_PER_SHARD: usize = 1_024;

/// Counts in this process's memory, up to a number of keys.
///
/// Keys that have their whole quota again are dropped little by little while others are charged:
/// there is no thread or timer. When the store is full of keys that do not, new keys share one
/// quota per policy in each of at most 64 parts of the store, so that a flood of new keys neither
/// passes freely nor gives a spent key its quota back. The first time is logged.
///
/// ```
/// use tower_quota::{Limiter, store::MemoryStore};
///
/// let limiter = Limiter::builder().store(MemoryStore::with_max_keys(100_000)).build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub struct MemoryStore {
    shards: Box<[Mutex<Shard>]>,
}

impl MemoryStore {
    /// A store for up to 1,000,000 keys, each counted once per policy.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_keys(DEFAULT_MAX_KEYS)
    }

    /// A store for up to `max_keys` keys, each counted once per policy.
    #[must_use]
    pub fn with_max_keys(max_keys: usize) -> Self {
        let shards = (max_keys / KEYS_PER_SHARD).clamp(1, MAX_SHARDS).next_power_of_two();
        let each = max_keys / shards;
        Self { shards: (0..shards).map(|_| Mutex::new(Shard::new(each))).collect() }
    }

    /// How many keys are counted now, each once per policy.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Whether no key is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn shard_of(&self, charge: &Charge) -> usize {
        // The low bits of a fingerprint are as good as any; the number of shards is a power of two.
        charge.slot() as usize & (self.shards.len() - 1)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        // One alone takes one lock, and need not look before the others.
        if let [charge] = charges {
            let mut shard = lock(&self.shards[self.shard_of(charge)]);
            let wait = shard.wait(charge, now);
            let usage = shard.charge(charge, wait, wait == 0, now);
            return StoreFuture::ready(smallvec![usage]);
        }
        let homes: SmallVec<[usize; 4]> =
            charges.iter().map(|charge| self.shard_of(charge)).collect();
        // In order, so that no two requests wait for each other.
        let mut order = homes.clone();
        order.sort_unstable();
        order.dedup();
        let mut shards: SmallVec<[MutexGuard<'_, Shard>; 4]> =
            order.iter().map(|&shard| lock(&self.shards[shard])).collect();
        let place = |home: &usize| order.binary_search(home).unwrap_or_default();

        let waits: SmallVec<[u64; 4]> = charges
            .iter()
            .zip(&homes)
            .map(|(charge, home)| shards[place(home)].wait(charge, now))
            .collect();
        let fits = |(charge, wait): (&Charge, &u64)| charge.mode != Mode::Enforced || *wait == 0;
        let passes = charges.iter().zip(&waits).all(fits);
        let usages =
            charges.iter().zip(&homes).zip(waits).map(|((charge, home), wait)| {
                shards[place(home)].charge(charge, wait, passes, now)
            });
        StoreFuture::ready(usages.collect())
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let correct = |correction: &Correction| {
            let charge = &correction.charge;
            let mut shard = lock(&self.shards[self.shard_of(charge)]);
            shard.correct(correction, now);
            shard.usage(charge, 0, now)
        };
        StoreFuture::ready(corrections.iter().map(correct).collect())
    }

    fn live_keys(&self) -> Option<usize> {
        Some(self.len())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish_non_exhaustive()
    }
}

/// A thread that panicked under the lock left counts that are whole: each is one assignment.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}
