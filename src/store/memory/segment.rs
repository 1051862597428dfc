use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use super::{
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    ledger::Ledger,
    quotas::Quotas,
    slot::{Address, Slot},
    version::{Seen, Version, Writing},
};
use crate::clock::Now;

/// How many slots a segment begins with.
const FIRST_SLOTS: usize = 8;
/// At most four fifths of the slots are taken, so that a key is found near its home.
const SLOTS_PER_FOUR_KEYS: usize = 5;

/// A part of the store: a hash table with linear probing, that grows by a quarter at a time within
/// memory that it asks for once and that the operating system hands out page by page.
///
/// What is in a slot is read without a lock and changed under one; slots move, come and go only
/// under that of the [`Ledger`] as well.
pub(super) struct Segment {
    version: Version,
    /// Slots that are in use, taken or not.
    capacity: AtomicUsize,
    slots: OnceLock<Box<[[AtomicU64; 3]]>>,
    max_slots: usize,
    ledger: Mutex<Ledger>,
}

/// A slot as it was found without the lock.
#[derive(Clone, Copy)]
pub(super) struct Glance {
    pub(super) place: usize,
    pub(super) slot: Slot,
    pub(super) seen: Seen,
}

/// The right to move the slots of a segment.
pub(super) struct Moving<'a> {
    segment: &'a Segment,
    _writing: Writing<'a>,
}

impl Segment {
    /// For up to `max_keys`.
    pub(super) fn new(max_keys: usize, ledger: Ledger) -> Self {
        Self {
            version: Version::default(),
            capacity: AtomicUsize::new(0),
            slots: OnceLock::new(),
            max_slots: (max_keys * SLOTS_PER_FOUR_KEYS).div_ceil(4) + 1,
            ledger: Mutex::new(ledger),
        }
    }

    /// The key's slot, unless someone is writing, or it has none. What is seen holds if
    /// [`still`](Self::still) says so afterwards.
    #[inline]
    pub(super) fn glance(&self, address: &Address) -> Option<Glance> {
        let seen = self.version.see()?;
        let (place, slot) = self.find(address)?;
        Some(Glance { place, slot, seen })
    }

    /// Whether nothing was written since.
    #[inline]
    pub(super) fn still(&self, seen: Seen) -> bool {
        self.version.still(seen)
    }

    /// The right to write, if nothing was written since.
    #[inline]
    pub(super) fn write_if_still(&self, seen: Seen) -> Option<Writing<'_>> {
        self.version.write_if_still(seen)
    }

    /// Writes a slot; only under one of the locks.
    #[inline]
    pub(super) fn set(&self, place: usize, slot: Slot) {
        if let Some(words) = self.slots().get(place) {
            words.iter().zip(slot.0).for_each(|(word, value)| word.store(value, Relaxed));
        }
    }

    /// What the segment knows beside its slots, and the right to move these.
    pub(super) fn lock(&self) -> (MutexGuard<'_, Ledger>, Moving<'_>) {
        // The ledger first: who waits for it sleeps, and no more than one waits for the other lock,
        // which is never kept longer than it takes to write a few words.
        let ledger = self.ledger();
        let mut tries = 0_u32;
        let writing = loop {
            if let Some(writing) = self.version.see().and_then(|seen| self.write_if_still(seen)) {
                break writing;
            }
            tries += 1;
            if tries.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
        };
        (ledger, Moving { segment: self, _writing: writing })
    }

    /// A thread that panicked under the lock left a ledger that is whole.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn slots(&self) -> &[[AtomicU64; 3]] {
        self.slots.get().map_or(&[], |slots| slots)
    }

    #[inline]
    fn find(&self, address: &Address) -> Option<(usize, Slot)> {
        let slots = self.in_use();
        let home = address.home(slots.len());
        // Around the end once at most, also while slots move under an onlooker's eyes.
        for place in (home..slots.len()).chain(0..home) {
            let slot = read(&slots[place]);
            if slot.is_of(address) {
                return Some((place, slot));
            }
            if slot.is_empty() {
                return None;
            }
        }
        None
    }

    #[inline]
    fn in_use(&self) -> &[[AtomicU64; 3]] {
        let slots = self.slots();
        &slots[..self.capacity.load(Relaxed).min(slots.len())]
    }
}

impl Moving<'_> {
    pub(super) fn find(&self, address: &Address) -> Option<(usize, Slot)> {
        self.segment.find(address)
    }

    pub(super) fn set(&mut self, place: usize, slot: Slot) {
        self.segment.set(place, slot);
    }

    /// Slots that are in use, taken or not.
    pub(super) fn capacity(&self) -> usize {
        self.segment.in_use().len()
    }

    /// Whether another key would fill the slots too much.
    pub(super) fn is_tight(&self, len: usize) -> bool {
        (len + 1) * SLOTS_PER_FOUR_KEYS > self.capacity() * 4
    }

    pub(super) fn get(&self, place: usize) -> Slot {
        self.segment.in_use().get(place).map_or(Slot::default(), read)
    }

    /// Puts a key into the first free slot, of which there is one.
    pub(super) fn insert(&mut self, slot: Slot) {
        let capacity = self.capacity();
        let home = slot.home(capacity);
        let free = (home..capacity).chain(0..home).find(|&place| self.get(place).is_empty());
        if let Some(place) = free {
            self.set(place, slot);
        }
    }

    /// Empties a slot, and moves those behind it nearer to their homes.
    pub(super) fn remove(&mut self, mut hole: usize) {
        let capacity = self.capacity();
        let mut place = hole;
        for _ in 0..capacity {
            place = if place + 1 == capacity { 0 } else { place + 1 };
            let slot = self.get(place);
            if slot.is_empty() {
                break;
            }
            // How far each is from the slot's home: it may move no further back than that.
            let home = slot.home(capacity);
            let from_home = |place: usize| (place + capacity - home) % capacity;
            if from_home(hole) < from_home(place) {
                self.set(hole, slot);
                hole = place;
            }
        }
        self.set(hole, Slot::default());
    }

    /// Takes more slots into use, and drops what has expired: hands each of these out.
    pub(super) fn grow(&mut self, quotas: &Quotas, now: Now, mut dropped: impl FnMut(Slot)) {
        let slots = self.segment.slots.get_or_init(|| allocate(self.segment.max_slots));
        let before = self.capacity();
        let mut kept = Vec::with_capacity(before);
        for place in 0..before {
            let slot = self.get(place);
            if slot.is_expired(quotas, now) {
                dropped(slot);
            } else if !slot.is_empty() {
                kept.push(slot);
            }
            self.set(place, Slot::default());
        }
        let mostly_full = kept.len() * 2 >= before;
        let grown = if mostly_full { (before + before / 4).max(FIRST_SLOTS) } else { before };
        self.segment.capacity.store(grown.min(slots.len()), Relaxed);
        for slot in kept {
            self.insert(slot);
        }
    }
}

#[inline]
fn read(words: &[AtomicU64; 3]) -> Slot {
    Slot(words.each_ref().map(|word| word.load(Relaxed)))
}

/// Zeros that the operating system hands out when they are first written.
fn allocate(slots: usize) -> Box<[[AtomicU64; 3]]> {
    bytemuck::zeroed_slice_box(slots)
}
