//! Counts in this process's memory.

mod ledger;
mod quotas;
mod segment;
mod slot;
#[cfg(test)]
mod tests;
mod version;

use std::{
    fmt,
    sync::atomic::{self, AtomicU64, Ordering::Relaxed},
};

use smallvec::SmallVec;

use self::{
    ledger::{Ledger, Locked, Room, usage},
    quotas::Quotas,
    segment::{Glance, Segment},
    slot::{Address, Slot},
};
use super::{Charge, Correction, Mode, Store, StoreFuture, Usage, Usages};
use crate::clock::Now;

const DEFAULT_MAX_KEYS: usize = 1_000_000;
/// So few that a segment grows within microseconds.
const KEYS_PER_SEGMENT: usize = 4_096;
const MAX_SEGMENTS: usize = 1 << 16;
/// A trillion keys in all: more than memory can hold, and no number overflows.
const MAX_KEYS_PER_SEGMENT: usize = 1 << 24;
/// What a key takes at most, its share of free slots counted.
const BYTES_PER_KEY: usize = 40;
/// What it takes more with a full log of a sliding window.
const BYTES_ASIDE: usize = 1_400;

/// Counts in this process's memory, up to a number of keys.
///
/// A key takes about 35 bytes for each token bucket or fixed window that it is counted under, and
/// for a sliding window from 150 bytes to 1.4 KB, by how evenly it is used. Keys that have their
/// whole quota again are dropped little by little while others are charged: there is no thread or
/// timer, and no pause.
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
        Self::with_room(Room { left: max_keys, slot: 1, aside: 0 })
    }

    /// A store that takes up to about `max_bytes` of memory, beside a fixed 100 KB or less than a
    /// hundredth.
    ///
    /// A key under a sliding window is expected to need all it may: 1.4 KB.
    #[must_use]
    pub fn with_max_bytes(max_bytes: usize) -> Self {
        Self::with_room(Room { left: max_bytes, slot: BYTES_PER_KEY, aside: BYTES_ASIDE })
    }

    fn with_room(room: Room) -> Self {
        let segments = (room.left / room.slot / KEYS_PER_SEGMENT).clamp(1, MAX_SEGMENTS);
        let segments = segments.next_power_of_two();
        let left = (room.left / segments).min(MAX_KEYS_PER_SEGMENT * room.slot);
        let each = Room { left, ..room };
        let segment = |_| Segment::new(each.left / each.slot, Ledger::new(each));
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

    fn home(&self, charge: &Charge) -> usize {
        Address::of(charge).segment(self.segments.len())
    }

    /// Makes the charges without waiting for a lock. `None` where someone else writes to the same
    /// segment meanwhile, or a key is new, or its state is kept aside.
    fn charge_at_once(&self, charges: &[Charge], now: Now) -> Option<Usages> {
        let mut seen: SmallVec<[Counted<'_>; 4]> = SmallVec::new();
        for charge in charges {
            seen.push(self.count(charge, now)?);
        }
        let fits = |(charge, counted): (&Charge, &Counted<'_>)| {
            charge.mode != Mode::Enforced || counted.usage.fits()
        };
        if !charges.iter().zip(&seen).all(fits) {
            return self.refuse(charges, &seen, now);
        }
        // Each segment once, on condition that nothing has changed since it was looked at. Nobody
        // waits here, so the order is of no consequence.
        let mut writing: SmallVec<[_; 4]> = SmallVec::new();
        for (index, counted) in seen.iter().enumerate() {
            let same = |other: &&Counted<'_>| std::ptr::eq(other.segment, counted.segment);
            match seen[..index].iter().find(same) {
                Some(other) if other.glance.seen != counted.glance.seen => return None,
                Some(_) => {}
                None => writing.push(counted.segment.write_if_still(counted.glance.seen)?),
            }
        }
        seen.iter().for_each(|counted| counted.segment.set(counted.glance.place, counted.after));
        Some(seen.iter().map(|counted| counted.usage).collect())
    }

    /// What a charge makes of its key's state, if its request passes.
    fn count(&self, charge: &Charge, now: Now) -> Option<Counted<'_>> {
        let address = Address::of(charge);
        let segment = &self.segments[address.segment(self.segments.len())];
        let glance = segment.glance(&address)?;
        let (mut state, quota) = glance.slot.unpack(&self.quotas)?;
        state.under(quota, &charge.quota, now);
        let wait = state.wait(&charge.quota, now, charge.ahead.saturating_add(charge.cost));
        let mut after = glance.slot;
        if wait == 0 && charge.cost > 0 && charge.mode != Mode::Peek {
            state.take(&charge.quota, now, charge.cost);
            after = Slot::pack(&address, &state, &charge.quota, &self.quotas)?;
        }
        let usage = usage(&state, &charge.quota, wait, now);
        Some(Counted { segment, glance, after, usage })
    }

    /// What is left where a request does not pass.
    fn refuse(&self, charges: &[Charge], seen: &[Counted<'_>], now: Now) -> Option<Usages> {
        let left = |(charge, counted): (&Charge, &Counted<'_>)| {
            let (mut state, quota) = counted.glance.slot.unpack(&self.quotas)?;
            state.under(quota, &charge.quota, now);
            let wait = counted.usage.wait_nanos();
            counted
                .segment
                .still(counted.glance.seen)
                .then(|| usage(&state, &charge.quota, wait, now))
        };
        charges.iter().zip(seen).map(left).collect()
    }

    /// Makes the charges under the locks of their segments.
    fn charge_in_turn(&self, charges: &[Charge], now: Now) -> Usages {
        let homes: SmallVec<[usize; 4]> = charges.iter().map(|charge| self.home(charge)).collect();
        // In order, so that no two requests wait for each other.
        let mut order = homes.clone();
        order.sort_unstable();
        order.dedup();
        let lock = |&home: &usize| Locked::new(&self.segments[home], &self.quotas, now);
        let mut locked: SmallVec<[Locked<'_>; 4]> = order.iter().map(lock).collect();
        let place = |home: &usize| order.binary_search(home).unwrap_or_default();

        let waits: SmallVec<[u64; 4]> = charges
            .iter()
            .zip(&homes)
            .map(|(charge, home)| locked[place(home)].wait(charge))
            .collect();
        let fits = |(charge, wait): (&Charge, &u64)| charge.mode != Mode::Enforced || *wait == 0;
        let passes = charges.iter().zip(&waits).all(fits);
        let usages = charges.iter().zip(&homes).zip(waits).map(|((charge, home), wait)| {
            let (usage, shared) = locked[place(home)].charge(charge, wait, passes);
            if shared {
                self.overflowed.fetch_add(1, Relaxed);
                log_full();
            }
            usage
        });
        usages.collect()
    }
}

/// A charge as it would be made without a lock.
struct Counted<'a> {
    segment: &'a Segment,
    glance: Glance,
    after: Slot,
    usage: Usage,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl Store for MemoryStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let usages = self.charge_at_once(charges, now);
        StoreFuture::ready(usages.unwrap_or_else(|| self.charge_in_turn(charges, now)))
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let correct = |correction: &Correction| {
            let charge = &correction.charge;
            let mut segment = Locked::new(&self.segments[self.home(charge)], &self.quotas, now);
            segment.correct(correction);
            segment.usage(charge, 0)
        };
        StoreFuture::ready(corrections.iter().map(correct).collect())
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
