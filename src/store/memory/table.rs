use std::sync::OnceLock;

use prefetch_index::prefetch_index;

use super::{
    atomic::{AtomicU32, Ordering::Relaxed},
    quotas::Quotas,
    slot::{Address, Slot},
    sync::{self, Moving, Seen, Taken, Version, Words},
};
use crate::clock::Now;

/// How many slots a table begins with.
const FIRST_SLOTS: usize = 8;
/// At most four fifths of the slots are taken, so that a key is found near its home.
const SLOTS_PER_FOUR_KEYS: usize = 5;

/// The slots of several tables are one piece of memory, of so many bytes at most unless one table
/// needs more. It is large enough for allocators that use huge pages.
const BLOCK_BYTES: usize = 16 << 20;

/// The tables of all segments, of slots of `N` words.
pub(super) struct Tables<const N: usize> {
    /// Slots that each has in use, empty or not.
    capacities: Box<[AtomicU32]>,
    /// All slots that each may come to use.
    blocks: Box<[OnceLock<Box<[Words<N>]>>]>,
    /// How many tables a block is for: two to the power of this.
    block_shift: u32,
    /// How many slots a table has at most.
    max_slots: usize,
}

/// A hash table with linear probing, that grows by a quarter at a time within memory that is asked
/// for once and that the operating system hands out page by page.
///
/// A slot's state may be changed by whoever takes that slot; slots come, go and move only by whom
/// has the right to move those of the segment.
#[derive(Clone, Copy)]
pub(super) struct Table<'a, const N: usize> {
    all: &'a Tables<N>,
    number: usize,
}

/// A slot as it was found without the lock.
#[derive(Clone, Copy)]
pub(super) struct Glance<'a, const N: usize> {
    version: &'a Version,
    words: &'a Words<N>,
    seen: Seen,
    pub(super) place: usize,
    pub(super) slot: Slot<N>,
}

impl<'a, const N: usize> Glance<'a, N> {
    /// Whether it is still so.
    #[inline]
    pub(super) fn still(&self) -> bool {
        self.version.still(self.seen, self.words, self.slot.0)
    }

    /// Writes when the state may be forgotten, of a slot whose state is kept aside: only who has the
    /// ledger changes these.
    pub(super) fn forget_aside_at(&self, time: u64) {
        self.words[1].store(time, Relaxed);
    }

    /// Takes the slot, if it is still so.
    #[inline]
    pub(super) fn take(&self) -> Option<Taken<'a, N>> {
        self.version.take(self.seen, self.words, self.slot.0)
    }
}

impl<const N: usize> Tables<N> {
    /// So many, a power of two, each for up to `max_keys`.
    pub(super) fn new(tables: usize, max_keys: usize) -> Self {
        let max_slots = (max_keys * SLOTS_PER_FOUR_KEYS).div_ceil(4) + 1;
        let in_block = BLOCK_BYTES / size_of::<Words<N>>() / max_slots;
        let block_shift = in_block.clamp(1, tables).ilog2();
        Self {
            capacities: (0..tables).map(|_| AtomicU32::new(0)).collect(),
            blocks: (0..tables >> block_shift).map(|_| OnceLock::new()).collect(),
            block_shift,
            max_slots,
        }
    }

    #[inline]
    pub(super) fn get(&self, number: usize) -> Table<'_, N> {
        Table { all: self, number }
    }
}

impl<'a, const N: usize> Table<'a, N> {
    /// Slots that are in use, empty or not.
    pub(super) fn capacity(self) -> usize {
        self.in_use().len()
    }

    #[inline]
    fn in_use(self) -> &'a [Words<N>] {
        let Tables { capacities, blocks, block_shift, max_slots } = self.all;
        let block = self.number >> block_shift;
        let Some(slots) = blocks[block].get() else { return &[] };
        let first = (self.number - (block << block_shift)) * max_slots;
        let capacity = capacities[self.number].load(Relaxed) as usize;
        slots.get(first..first + capacity).unwrap_or_default()
    }

    /// The key's slot, unless slots move, or it has none. It is looked for from its home on, or
    /// first where it is `expected`.
    #[inline(always)]
    pub(super) fn glance(
        self,
        version: &'a Version,
        address: &Address,
        expected: Option<usize>,
    ) -> Option<Glance<'a, N>> {
        let seen = version.see()?;
        let slots = self.in_use();
        let expected = expected.and_then(|place| Some((place, sync::ends(slots.get(place)?))));
        let (place, ends) = match expected {
            Some((place, ends)) if Slot(ends).is_of(address) => (place, ends),
            _ => find(address, slots)?,
        };
        let words = &slots[place];
        Some(Glance { version, words, seen, place, slot: Slot(sync::read_between(ends, words)) })
    }

    /// Has the processor fetch into its cache what a [`glance`](Self::glance) will read: what a key
    /// has is mostly in the first slot, or in one of a few behind it.
    #[inline]
    pub(super) fn prefetch(self, address: &Address, further: &[usize]) {
        let slots = self.in_use();
        if !slots.is_empty() {
            let home = address.home(slots.len());
            further.iter().for_each(|further| prefetch_index(slots, home + further));
        }
    }

    /// Whether another key, beside so many, would fill the slots too much.
    pub(super) fn is_tight(self, keys: usize) -> bool {
        (keys + 1) * SLOTS_PER_FOUR_KEYS > self.capacity() * 4
    }

    pub(super) fn find(self, moving: &Moving<'_>, address: &Address) -> Option<(usize, Slot<N>)> {
        let (place, _) = find(address, self.in_use())?;
        Some((place, self.get(moving, place)))
    }

    /// What is in a slot, and stays there.
    pub(super) fn get(self, moving: &Moving<'_>, place: usize) -> Slot<N> {
        let Some(words) = self.in_use().get(place) else { return Slot::EMPTY };
        Slot(until_some(|| moving.settle(words)))
    }

    /// Whose slot it is; its state may be changing.
    pub(super) fn peek(self, place: usize) -> Slot<N> {
        self.in_use().get(place).map_or(Slot::EMPTY, |words| Slot(sync::read(words)))
    }

    /// Writes a slot that was [got](Self::get).
    pub(super) fn set(self, moving: &Moving<'_>, place: usize, slot: Slot<N>) {
        if let Some(words) = self.in_use().get(place) {
            until_some(|| moving.write(words, slot.0));
        }
    }

    /// Puts a key into the first free slot, of which there is one.
    pub(super) fn insert(self, moving: &Moving<'_>, slot: Slot<N>) {
        let capacity = self.capacity();
        let home = slot.home(capacity);
        let free = (home..capacity).chain(0..home).find(|&place| self.peek(place).is_empty());
        if let Some(place) = free {
            self.fill(moving, place, slot);
        }
    }

    /// Empties a slot, and moves those behind it nearer to their homes.
    pub(super) fn remove(self, moving: &Moving<'_>, mut hole: usize) {
        let capacity = self.capacity();
        self.empty(moving, hole);
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
                let slot = self.empty(moving, place);
                self.fill(moving, hole, slot);
                hole = place;
            }
        }
    }

    /// Takes more slots into use, and drops what has expired: hands each of these out.
    pub(super) fn grow(
        self,
        moving: &Moving<'_>,
        quotas: &Quotas,
        now: Now,
        mut dropped: impl FnMut(Slot<N>),
    ) {
        let Tables { capacities, blocks, block_shift, max_slots } = self.all;
        blocks[self.number >> block_shift].get_or_init(|| allocate(max_slots << block_shift));
        let before = self.capacity();
        let mut kept = Vec::with_capacity(before);
        for place in 0..before {
            if self.peek(place).is_empty() {
                continue;
            }
            let slot = self.empty(moving, place);
            if slot.is_expired(quotas, now) {
                dropped(slot);
            } else {
                kept.push(slot);
            }
        }
        let mostly_full = kept.len() * 2 >= before;
        let grown = if mostly_full { (before + before / 4).max(FIRST_SLOTS) } else { before };
        capacities[self.number].store(grown.min(*max_slots) as u32, Relaxed);
        for slot in kept {
            self.insert(moving, slot);
        }
    }

    /// Takes out what is in a slot that has a key.
    fn empty(self, moving: &Moving<'_>, place: usize) -> Slot<N> {
        let Some(words) = self.in_use().get(place) else { return Slot::EMPTY };
        Slot(until_some(|| moving.empty(words)))
    }

    /// Writes an empty slot.
    fn fill(self, moving: &Moving<'_>, place: usize, slot: Slot<N>) {
        if let Some(words) = self.in_use().get(place) {
            moving.fill(words, slot.0);
        }
    }
}

/// Where the key's slot is, from its home on, and the words that tell it.
#[inline]
fn find<const N: usize>(address: &Address, slots: &[Words<N>]) -> Option<(usize, [u64; 2])> {
    let mut place = address.home(slots.len());
    // Around once at most, also while slots move under an onlooker's eyes.
    for _ in 0..slots.len() {
        // As a slot that has no others.
        let ends = sync::ends(&slots[place]);
        if Slot(ends).is_of(address) {
            return Some((place, ends));
        }
        if Slot(ends).is_empty() {
            return None;
        }
        place = if place + 1 == slots.len() { 0 } else { place + 1 };
    }
    None
}

/// Tries until others have written the few words that are in the way.
pub(super) fn until_some<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
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
fn allocate<const N: usize>(slots: usize) -> Box<[Words<N>]> {
    bytemuck::zeroed_slice_box(slots)
}
