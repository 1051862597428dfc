//! Counts in this process's memory.

mod aside;
mod ledger;
mod quotas;
mod segment;
mod slot;
mod sync;
#[cfg(test)]
mod tests;
mod unlocked;

use std::{
    fmt, slice,
    sync::atomic::{self, AtomicU64, Ordering::Relaxed},
};

use smallvec::{SmallVec, smallvec};

use self::{
    ledger::{Found, Ledger, Locked, Room},
    quotas::Quotas,
    segment::Segment,
    slot::Address,
};
use super::{Answer, Charge, Correction, Mode, Store, StoreFuture, Usage};
use crate::{algorithm::Algorithm, clock::Now};

const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// So few that a segment grows within microseconds.
const KEYS_PER_SEGMENT: usize = 4_096;
const MAX_SEGMENTS: usize = 1 << 16;
/// A trillion keys in all: more than memory can hold, and no number overflows.
const MAX_KEYS_PER_SEGMENT: isize = 1 << 24;
/// What a key takes at most, its share of free slots counted.
const BYTES_PER_KEY: isize = 40;
/// What it takes more with a full log of a sliding window.
const BYTES_ASIDE: isize = 1_400;

/// Counts in this process's memory, up to a number of keys.
///
/// A key takes about 35 bytes for each token bucket or fixed window that it is counted under, as
/// long as there are no more than some 900 different quotas, and 150 beyond; so does a sliding
/// window of which all was used within one of its 60 steps, and others take from 150 bytes to
/// 1.4 KB, by how evenly they are used. Keys that have their whole quota again are dropped little by
/// little while others are charged: there is no thread or timer, and no pause.
///
/// When the store is full, keys that have their whole quota again make room, and then those that
/// have seven eighths of it. If there is none of these at hand, new keys share one quota per policy
/// in each part of the store (of about 4,000 keys), so that a flood of new keys neither passes
/// freely nor gives a spent key its quota back. The first time is logged, and
/// [`overflowed`](Self::overflowed) counts.
///
/// ```
/// use tower_quota::{Limiter, store::MemoryStore};
///
/// let limiter = Limiter::builder().store(MemoryStore::with_max_keys(100_000)).build()?;
/// # let _ = limiter;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub struct MemoryStore {
    /// A power of two.
    segments: Box<[Segment]>,
    quotas: Quotas,
    overflowed: AtomicU64,
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
        Self::with_room(max_keys, 1, 0)
    }

    /// A store that takes up to about `max_bytes` of memory, beside a fixed 100 KB or less than a
    /// hundredth.
    ///
    /// A key under a sliding window is expected to need all it may: 1.4 KB.
    #[must_use]
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        Self::with_room(max_bytes, BYTES_PER_KEY, BYTES_ASIDE)
    }

    /// With room for `all`, of which a key takes `slot`, and `aside` more if its state is large.
    fn with_room(all: usize, slot: isize, aside: isize) -> Self {
        let segments = all / slot.unsigned_abs() / KEYS_PER_SEGMENT;
        let segments = segments.clamp(1, MAX_SEGMENTS).next_power_of_two();
        let most = MAX_KEYS_PER_SEGMENT * slot;
        let left = isize::try_from(all / segments).map_or(most, |left| left.min(most));
        let segment = |_| {
            let ledger = Ledger::new(Room { left, slot, aside });
            Segment::new((left / slot).unsigned_abs(), ledger)
        };
        Self {
            segments: (0..segments).map(segment).collect(),
            quotas: Quotas::new(),
            overflowed: AtomicU64::new(0),
        }
    }

    /// How many keys are counted now, each once per policy.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.iter().map(|segment| segment.ledger().len()).sum()
    }

    /// Whether no key is counted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many charges were counted in a quota that new keys share, because the store was full.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflowed.load(Relaxed)
    }

    #[inline]
    fn segment(&self, address: &Address) -> &Segment {
        &self.segments[address.segment(self.segments.len())]
    }

    /// Makes a request's only charge where that takes a lock.
    #[inline(never)]
    fn charge_one_locked(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        if charge.algorithm == Algorithm::SlidingWindow
            && let Some(made) = self.charge_one_aside(charge, now)
        {
            *usage = made;
        } else {
            self.charge_locked(slice::from_ref(charge), slice::from_mut(usage), now);
        }
    }

    /// Makes the charges under the locks of their segments. It has a large frame, that the others
    /// shall not have.
    #[inline(never)]
    fn charge_locked(&self, charges: &[Charge], usages: &mut [Usage], now: Now) {
        let home = |charge| Address::of(charge).segment(self.segments.len());
        let homes: SmallVec<[usize; 4]> = charges.iter().map(home).collect();
        // In order, so that no two requests wait for each other.
        let mut order = homes.clone();
        order.sort_unstable();
        order.dedup();
        let lock = |&home: &usize| Locked::new(&self.segments[home], &self.quotas, now);
        let mut locked: SmallVec<[Locked<'_>; 4]> = order.iter().map(lock).collect();
        let place = |home: &usize| order.binary_search(home).unwrap_or_default();

        let found: SmallVec<[Found; 4]> = charges
            .iter()
            .zip(&homes)
            .map(|(charge, home)| locked[place(home)].find(charge))
            .collect();
        let fits =
            |(charge, found): (&Charge, &Found)| charge.mode != Mode::Enforced || found.wait == 0;
        let passes = charges.iter().zip(&found).all(fits);
        for (((charge, home), found), usage) in charges.iter().zip(&homes).zip(found).zip(usages) {
            let segment = &mut locked[place(home)];
            if passes && found.wait == 0 && charge.uses_units() {
                segment.take(charge, found);
                if found.shares {
                    self.overflowed.fetch_add(1, Relaxed);
                    log_full();
                }
            }
            *usage = segment.usage(charge, found);
        }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        match (charges, usages) {
            ([charge], [usage]) => self.charge_one(charge, usage, now),
            (charges, usages) if charges.len() != usages.len() => return false,
            (charges, usages) => self.charge_all(charges, usages, now),
        }
        true
    }

    fn prefetch(&self, key: u128) {
        let address = Address::new(key);
        self.segment(&address).prefetch(&address);
    }

    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let mut usages = smallvec![Usage::default(); charges.len()];
        self.charge_at_once(charges, &mut usages, now);
        StoreFuture::ready(Ok(Answer { usages, at: now }))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let correct = |correction: &Correction| {
            let charge = &correction.charge;
            let segment = self.segment(&Address::of(charge));
            Locked::new(segment, &self.quotas, now).correct(correction)
        };
        let usages = corrections.iter().map(correct).collect();
        StoreFuture::ready(Ok(Answer { usages, at: now }))
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
