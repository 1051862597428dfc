//! Counts in this process's memory.

mod aside;
#[cfg(test)]
mod floods;
mod ledger;
mod locked;
mod overflow;
mod quotas;
mod segment;
mod shares;
mod slot;
mod sync;
mod table;
#[cfg(test)]
mod tests;
mod unlocked;

use std::{
    fmt,
    sync::{Arc, atomic},
};

use self::{
    ledger::{Needs, Room},
    locked::Locked,
    overflow::Overflow,
    quotas::Quotas,
    segment::{Segment, Segments},
    slot::Address,
};
use super::{Announcement, Answer, Charge, Correction, Store, StoreFuture, Usage, Usages};
use crate::clock::Now;

const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// So few that a segment grows within microseconds.
const KEYS_PER_SEGMENT: usize = 4_096;
const MAX_SEGMENTS: usize = 1 << 16;
/// Four billion keys in all, which take 150 GB.
const MAX_KEYS_PER_SEGMENT: isize = 1 << 16;
/// What a key takes at most, its share of free slots counted, and more with a full log of a sliding
/// window.
const BYTES: Needs = Needs { narrow: 40, wide: 105, aside: 1_400 };

/// Counts in this process's memory, up to a number of keys.
///
/// A key takes about 35 bytes for each token bucket or fixed window that it is counted under, and 90
/// for each sliding window, which has room for the uses in six of its 60 steps. A key with uses in
/// more steps takes from 370 bytes to 1.25 KB. Beyond some 900 different quotas, those of each policy
/// counted on their own, a state takes 150 bytes more. Keys that have their whole quota again are
/// dropped little by little while others are charged: there is no thread or timer, and no pause.
/// Memory is taken as keys come, however many there is room for.
///
/// When the store is full, keys that have their whole quota again make room, and then those that
/// have seven eighths of it. If neither is at hand, a new key may take the room of another policy's:
/// each policy that has keys has an equal share of the room, and one that has less than its share
/// takes room from one that has more. Otherwise new keys share one quota per policy in each part of
/// the store (of about 4,000 keys). So a flood of new keys under one policy neither passes freely nor
/// takes the room that another needs. Nor does it give a spent key its quota back: where a key was
/// dropped to make room, new keys of its policy begin with what it had used, until that has come
/// back. The first shared charge of each policy is reported
/// ([`store_full`](crate::warning#store_full)), and [`Limiter::overflowed`](crate::Limiter::overflowed)
/// counts them.
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
    segments: Segments,
    quotas: Quotas,
    overflow: Overflow,
}

impl MemoryStore {
    /// A store for up to 1,000,000 keys, each counted once per policy.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max_keys(DEFAULT_MAX_KEYS)
    }

    /// A store for up to `max_keys` keys, each counted once per policy; for four billion at most.
    #[must_use]
    pub fn with_max_keys(max_keys: usize) -> Self {
        Self::with_room(max_keys, Needs { narrow: 1, wide: 1, aside: 0 })
    }

    /// A store that takes up to about `max_bytes` of memory, beside a fixed 100 KB or less than a
    /// hundredth.
    ///
    /// A key under a sliding window is expected to need all it may: 1.5 KB.
    #[must_use]
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        Self::with_room(max_bytes, BYTES)
    }

    /// With room for `all`, of which a `key` takes so much.
    fn with_room(all: usize, key: Needs) -> Self {
        let segments = all / key.narrow.unsigned_abs() / KEYS_PER_SEGMENT;
        let segments = segments.clamp(1, MAX_SEGMENTS).next_power_of_two();
        let most = MAX_KEYS_PER_SEGMENT * key.narrow;
        let left = isize::try_from(all / segments).map_or(most, |left| left.min(most));
        let max_keys = |key: isize| (left / key).unsigned_abs();
        let (max_narrow, max_wide) = (max_keys(key.narrow), max_keys(key.wide));
        Self {
            segments: Segments::new(segments, Room { left, key }, max_narrow, max_wide),
            quotas: Quotas::new(),
            overflow: Overflow::default(),
        }
    }

    /// How many keys take room, each once per policy. Keys that have their whole quota again count
    /// until they are dropped; [`Store::live_keys`] leaves them out.
    #[must_use]
    pub fn len(&self) -> usize {
        self.segments.keys()
    }

    /// Whether no key takes room.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many charges were counted in a quota that new keys share, because the store was full; the
    /// sum over all policies. [`Limiter::overflowed`](crate::Limiter::overflowed) says each policy's.
    #[must_use]
    pub fn overflowed(&self) -> u64 {
        self.overflow.all()
    }

    #[inline]
    fn segment(&self, address: &Address) -> Segment<'_> {
        self.segments.get(address.segment(self.segments.count()))
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
        let mut usages = Usages::unknown(charges.len());
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

    fn live_keys(&self, now: Now) -> Option<usize> {
        Some(self.segments.live_keys(&self.quotas, now))
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        policies.iter().for_each(|announced| self.overflow.name(announced.policy, &announced.name));
    }

    fn overflowed(&self, policy: u64) -> Option<u64> {
        Some(self.overflow.of(policy))
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("len", &self.len()).finish_non_exhaustive()
    }
}
