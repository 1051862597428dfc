use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use prefetch_index::prefetch_index;

use super::{
    atomic::{AtomicUsize, Ordering::Relaxed},
    ledger::Ledger,
    quotas::Quotas,
    slot::{Address, Slot},
    sync::{self, Seen, Taken, Version, Words},
};
use crate::clock::Now;

/// How many slots a segment begins with.
const FIRST_SLOTS: usize = 8;
/// At most four fifths of the slots are taken, so that a key is found near its home.
const SLOTS_PER_FOUR_KEYS: usize = 5;

/// A part of the store: a hash table with linear probing, that grows by a quarter at a time within
/// memory that it asks for once and that the operating system hands out page by page.
///
/// A slot's state may be changed by whoever takes that slot; slots move, come and go only under the
/// lock of the [`Ledger`]. What a charge needs to know of it fits into one line of the processor's
/// cache, which nobody writes as long as keys neither come nor go.
#[repr(align(64))]
pub(super) struct Segment {
    version: Version,
    /// Slots that are in use, empty or not.
    capacity: AtomicUsize,
    slots: OnceLock<Box<[Words]>>,
    max_slots: usize,
    ledger: Box<Mutex<Ledger>>,
}

/// A slot as it was found without the lock.
#[derive(Clone, Copy)]
pub(super) struct Glance<'a> {
    segment: &'a Segment,
    words: &'a Words,
    seen: Seen,
    pub(super) place: usize,
    pub(super) slot: Slot,
}

/// The right to move the slots of a segment.
pub(super) struct Moving<'a> {
    segment: &'a Segment,
    moving: sync::Moving<'a>,
}

impl<'a> Glance<'a> {
    /// Whether it is still so.
    #[inline]
    pub(super) fn still(&self) -> bool {
        self.segment.version.still(self.seen, self.words, self.slot.0)
    }

    /// Writes when the state may be forgotten, of a slot whose state is kept aside: only who has the
    /// ledger changes these.
    pub(super) fn forget_aside_at(&self, time: u64) {
        self.words[1].store(time, Relaxed);
    }

    /// Takes the slot, if it is still so.
    #[inline]
    pub(super) fn take(&self) -> Option<Taken<'a>> {
        self.segment.version.take(self.seen, self.words, self.slot.0)
    }
}

impl Segment {
    /// For up to `max_keys`.
    pub(super) fn new(max_keys: usize, ledger: Ledger) -> Self {
        Self {
            version: Version::default(),
            capacity: AtomicUsize::new(0),
            slots: OnceLock::new(),
            max_slots: (max_keys * SLOTS_PER_FOUR_KEYS).div_ceil(4) + 1,
            ledger: Box::new(Mutex::new(ledger)),
        }
    }

    /// The key's slot, unless slots move, or it has none. It is looked for from its home on, or
    /// first where it is `expected`.
    #[inline]
    pub(super) fn glance(&self, address: &Address, expected: Option<usize>) -> Option<Glance<'_>> {
        let seen = self.version.see()?;
        let slots = self.in_use();
        let expected =
            expected.and_then(|place| Some((place, Slot(sync::read(slots.get(place)?)))));
        let (place, slot) = match expected {
            Some((place, slot)) if slot.is_of(address) => (place, slot),
            _ => find(address, slots.len(), |place| Slot(sync::read(&slots[place])))?,
        };
        Some(Glance { segment: self, words: &slots[place], seen, place, slot })
    }

    /// Has the processor fetch into its cache what a [`glance`](Self::glance) will read.
    #[inline]
    pub(super) fn prefetch(&self, address: &Address) {
        let slots = self.in_use();
        let home = address.home(slots.len());
        // Most of what a key has is in one of the first slots, or behind it under other policies:
        // two lines of the cache, or three.
        [0, 2, 5].into_iter().for_each(|further| prefetch_index(slots, home + further));
    }

    /// What the segment knows beside its slots, and the right to move these.
    pub(super) fn lock(&self) -> (MutexGuard<'_, Ledger>, Moving<'_>) {
        // Who waits for the ledger sleeps. Whoever has it moves slots alone, and waits only for
        // those who are writing a few words.
        let ledger = self.ledger();
        let moving = until_some(|| self.version.try_move());
        (ledger, Moving { segment: self, moving })
    }

    /// A thread that panicked under the lock left a ledger that is whole.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    fn in_use(&self) -> &[Words] {
        let slots = self.slots.get().map_or(&[][..], |slots| slots);
        &slots[..self.capacity.load(Relaxed).min(slots.len())]
    }
}

impl Moving<'_> {
    pub(super) fn find(&self, address: &Address) -> Option<(usize, Slot)> {
        let (place, _) = find(address, self.capacity(), |place| self.peek(place))?;
        Some((place, self.get(place)))
    }

    /// Writes a slot that was [got](Self::get).
    pub(super) fn set(&mut self, place: usize, slot: Slot) {
        if let Some(words) = self.segment.in_use().get(place) {
            until_some(|| self.moving.write(words, slot.0));
        }
    }

    /// Slots that are in use, empty or not.
    pub(super) fn capacity(&self) -> usize {
        self.segment.in_use().len()
    }

    /// Whether another key would fill the slots too much.
    pub(super) fn is_tight(&self, len: usize) -> bool {
        (len + 1) * SLOTS_PER_FOUR_KEYS > self.capacity() * 4
    }

    /// What is in a slot, and stays there.
    pub(super) fn get(&self, place: usize) -> Slot {
        let Some(words) = self.segment.in_use().get(place) else { return Slot::default() };
        Slot(until_some(|| self.moving.settle(words)))
    }

    /// Whose slot it is; its state may be changing.
    pub(super) fn peek(&self, place: usize) -> Slot {
        let words = self.segment.in_use().get(place);
        words.map_or(Slot::default(), |words| Slot(sync::read(words)))
    }

    /// Puts a key into the first free slot, of which there is one.
    pub(super) fn insert(&mut self, slot: Slot) {
        let capacity = self.capacity();
        let home = slot.home(capacity);
        let free = (home..capacity).chain(0..home).find(|&place| self.peek(place).is_empty());
        if let Some(place) = free {
            self.fill(place, slot);
        }
    }

    /// Takes out what is in a slot.
    fn empty(&mut self, place: usize) -> Slot {
        let Some(words) = self.segment.in_use().get(place) else { return Slot::default() };
        Slot(until_some(|| self.moving.empty(words)))
    }

    /// Writes an empty slot.
    fn fill(&mut self, place: usize, slot: Slot) {
        if let Some(words) = self.segment.in_use().get(place) {
            self.moving.fill(words, slot.0);
        }
    }

    /// Empties a slot, and moves those behind it nearer to their homes.
    pub(super) fn remove(&mut self, mut hole: usize) {
        let capacity = self.capacity();
        self.empty(hole);
        let mut place = hole;
        for _ in 0..capacity {
            place = if place + 1 == capacity { 0 } else { place + 1 };
            let slot = self.peek(place);
            if slot.is_empty() {
                break;
            }
            // How far each is from the slot's home: it may move no further back than that.
            let home = slot.home(capacity);
            let from_home = |place: usize| (place + capacity - home) % capacity;
            if from_home(hole) < from_home(place) {
                let slot = self.empty(place);
                self.fill(hole, slot);
                hole = place;
            }
        }
    }

    /// Takes more slots into use, and drops what has expired: hands each of these out.
    pub(super) fn grow(&mut self, quotas: &Quotas, now: Now, mut dropped: impl FnMut(Slot)) {
        let slots = self.segment.slots.get_or_init(|| allocate(self.segment.max_slots));
        let before = self.capacity();
        let mut kept = Vec::with_capacity(before);
        for place in 0..before {
            if self.peek(place).is_empty() {
                continue;
            }
            let slot = self.empty(place);
            if slot.is_expired(quotas, now) {
                dropped(slot);
            } else {
                kept.push(slot);
            }
        }
        let mostly_full = kept.len() * 2 >= before;
        let grown = if mostly_full { (before + before / 4).max(FIRST_SLOTS) } else { before };
        self.segment.capacity.store(grown.min(slots.len()), Relaxed);
        for slot in kept {
            self.insert(slot);
        }
    }
}

/// Where the key's slot is, from its home on, and what is in it.
#[inline]
fn find(address: &Address, slots: usize, slot_at: impl Fn(usize) -> Slot) -> Option<(usize, Slot)> {
    let mut place = address.home(slots);
    // Around once at most, also while slots move under an onlooker's eyes.
    for _ in 0..slots {
        let slot = slot_at(place);
        if slot.is_of(address) {
            return Some((place, slot));
        }
        if slot.is_empty() {
            return None;
        }
        place = if place + 1 == slots { 0 } else { place + 1 };
    }
    None
}

/// Tries until others have written the few words that are in the way.
fn until_some<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let mut tries = 0_u32;
    loop {
        if let Some(done) = attempt() {
            return done;
        }
        tries += 1;
        if tries.is_multiple_of(64) { std::thread::yield_now() } else { std::hint::spin_loop() }
    }
}

/// Zeros that the operating system hands out when they are first written.
fn allocate(slots: usize) -> Box<[Words]> {
    bytemuck::zeroed_slice_box(slots)
}
