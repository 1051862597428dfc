use std::sync::OnceLock;

use prefetch_index::prefetch_index;

use super::{
    atomic::{AtomicU32, Ordering::Relaxed},
    slot::{Address, Slot},
    sync::{self, Moving, Seen, Taken, Version, Words},
};

/// How many slots a table begins with.
const FIRST_SLOTS: usize = 8;
/// At most four fifths of the slots are taken, so that a key is found near its home.
const SLOTS_PER_FOUR_KEYS: usize = 5;

/// So many slots of a table lie in a row, and beside them as many of other tables.
const RUN: usize = 64;
/// A row is allocated as one piece, when the first of its tables needs it. It is small, as some
/// allocators have to fill it with zeros while a key waits.
const ROW_BYTES: usize = 64 << 10;

/// The tables of all segments, of slots of `N` words.
pub(super) struct Tables<const N: usize> {
    /// Slots that each has in use, empty or not.
    capacities: Box<[AtomicU32]>,
    /// The rows of each block of tables, as many as they may come to use. All tables grow alike: a
    /// row that one of them needs is soon needed by the others.
    rows: Box<[Row<N>]>,
    rows_per_block: usize,
    /// A block is of so many tables: two to the power of this.
    block_shift: u32,
}

type Row<const N: usize> = OnceLock<Box<[Words<N>]>>;

/// A hash table with linear probing, that grows by a quarter at a time.
///
/// A slot's state may be changed by whoever takes that slot; slots come, go and move only by whom
/// has the right to move those of the segment.
#[derive(Clone, Copy)]
pub(super) struct Table<'a, const N: usize> {
    all: &'a Tables<N>,
    number: usize,
}

/// The slots of a table that are in use, empty or not.
#[derive(Clone, Copy)]
struct Slots<'a, const N: usize> {
    rows: &'a [Row<N>],
    first_row: usize,
    /// Where in each row the table's run begins.
    run: usize,
    capacity: usize,
}

impl<'a, const N: usize> Slots<'a, N> {
    /// A row, and where in it a slot is.
    #[inline]
    fn locate(self, place: usize) -> Option<(&'a [Words<N>], usize)> {
        let row = self.rows.get(self.first_row + place / RUN)?.get()?;
        (place < self.capacity).then_some((row, self.run + place % RUN))
    }

    #[inline]
    fn get(self, place: usize) -> Option<&'a Words<N>> {
        let (row, index) = self.locate(place)?;
        row.get(index)
    }

    /// Where the key's slot is, from its home on, and the words that tell it.
    #[inline]
    fn find(self, address: &Address) -> Option<(usize, &'a Words<N>, [u64; 2])> {
        let mut place = address.home(self.capacity);
        let mut left = self.capacity;
        // Around once at most, also while slots move under an onlooker's eyes.
        while left > 0 {
            let (row, index) = self.locate(place)?;
            let run = (RUN - place % RUN).min(self.capacity - place).min(left);
            for words in row.get(index..index + run)? {
                // As a slot that has no others.
                let ends = sync::ends(words);
                if Slot(ends).is_of(address) {
                    return Some((place, words, ends));
                }
                if Slot(ends).is_empty() {
                    return None;
                }
                place += 1;
            }
            left -= run;
            place = if place == self.capacity { 0 } else { place };
        }
        None
    }
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
        let max_slots = max_keys * SLOTS_PER_FOUR_KEYS / 4 + 1;
        let rows_per_block = max_slots.div_ceil(RUN);
        let in_block = ROW_BYTES / size_of::<[Words<N>; RUN]>();
        let block_shift = in_block.min(tables).ilog2();
        let rows = (tables >> block_shift) * rows_per_block;
        Self {
            capacities: (0..tables).map(|_| AtomicU32::new(0)).collect(),
            rows: (0..rows).map(|_| Row::new()).collect(),
            rows_per_block,
            block_shift,
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
        self.in_use().capacity
    }

    #[inline]
    fn in_use(self) -> Slots<'a, N> {
        let Tables { capacities, rows, rows_per_block, block_shift } = self.all;
        let block = self.number >> block_shift;
        Slots {
            rows,
            first_row: block * rows_per_block,
            run: (self.number - (block << block_shift)) * RUN,
            capacity: capacities[self.number].load(Relaxed) as usize,
        }
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
        let expected = expected.and_then(|place| {
            let words = slots.get(place)?;
            Some((place, words, sync::ends(words)))
        });
        let (place, words, ends) = match expected {
            Some((place, words, ends)) if Slot(ends).is_of(address) => (place, words, ends),
            _ => slots.find(address)?,
        };
        Some(Glance { version, words, seen, place, slot: Slot(sync::read_between(ends, words)) })
    }

    /// Has the processor fetch into its cache what a [`glance`](Self::glance) will read: what a key
    /// has is mostly in the first slot, or in one of a few behind it.
    #[inline]
    pub(super) fn prefetch(self, address: &Address, further: &[usize]) {
        let slots = self.in_use();
        if let Some((row, index)) = slots.locate(address.home(slots.capacity)) {
            further.iter().for_each(|further| prefetch_index(row, index + further));
        }
    }

    /// Whether another key, beside so many, would fill the slots too much.
    pub(super) fn is_tight(self, keys: usize) -> bool {
        (keys + 1) * SLOTS_PER_FOUR_KEYS > self.capacity() * 4
    }

    pub(super) fn find(self, moving: &Moving<'_>, address: &Address) -> Option<(usize, Slot<N>)> {
        let (place, ..) = self.in_use().find(address)?;
        Some((place, self.get(moving, place)))
    }

    /// What is in a slot, and stays there.
    pub(super) fn get(self, moving: &Moving<'_>, place: usize) -> Slot<N> {
        let words = self.words(place);
        Slot(until_some(|| moving.settle(words)))
    }

    /// Whose slot it is; its state may be changing.
    pub(super) fn peek(self, place: usize) -> Slot<N> {
        Slot(sync::read(self.words(place)))
    }

    /// Of a slot that is in use; who has the segment's ledger knows which are.
    #[expect(clippy::expect_used, reason = "a slot that is taken for empty gives a quota back")]
    fn words(self, place: usize) -> &'a Words<N> {
        self.in_use().get(place).expect("the rows of the slots in use are allocated")
    }

    /// How many slots that have keys are meant; their states may be changing.
    pub(super) fn count(self, meant: impl Fn(&Slot<N>) -> bool) -> usize {
        let is_meant = |place: &usize| {
            let slot = self.peek(*place);
            !slot.is_empty() && meant(&slot)
        };
        (0..self.capacity()).filter(is_meant).count()
    }

    /// Writes a slot that was [got](Self::get).
    pub(super) fn set(self, moving: &Moving<'_>, place: usize, slot: Slot<N>) {
        let words = self.words(place);
        until_some(|| moving.write(words, slot.0));
    }

    /// Puts a key into the first free slot, of which there is one.
    #[expect(clippy::expect_used, reason = "a key that is not kept has its whole quota again")]
    pub(super) fn insert(self, moving: &Moving<'_>, slot: Slot<N>) {
        let capacity = self.capacity();
        let home = slot.home(capacity);
        let free = (home..capacity).chain(0..home).find(|&place| self.peek(place).is_empty());
        self.fill(moving, free.expect("a table grows before it is full"), slot);
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

    /// Takes more slots into use, and drops those that `forgets` says have expired.
    pub(super) fn grow(self, moving: &Moving<'_>, mut forgets: impl FnMut(&Slot<N>) -> bool) {
        let before = self.capacity();
        let mut kept = Vec::with_capacity(before);
        for place in 0..before {
            if self.peek(place).is_empty() {
                continue;
            }
            let slot = self.empty(moving, place);
            if !forgets(&slot) {
                kept.push(slot);
            }
        }
        let mostly_full = kept.len() * 2 >= before;
        self.use_slots(if mostly_full { self.grown() } else { before });
        for slot in kept {
            self.insert(moving, slot);
        }
    }

    /// Shortly before it grows, allocates one of the rows that it will need: all at once would take
    /// as long as thousands of decisions. Another key, beside so many, has come.
    pub(super) fn prepare(self, keys: usize) {
        let capacity = self.capacity();
        let keys_until_tight = (capacity * 4 / SLOTS_PER_FOUR_KEYS).saturating_sub(keys);
        let row = capacity.div_ceil(RUN) + keys_until_tight;
        if row < self.grown().div_ceil(RUN) {
            self.allocate(row);
        }
    }

    /// How many slots it will use when it grows.
    fn grown(self) -> usize {
        let capacity = self.capacity();
        (capacity + capacity / 4).max(FIRST_SLOTS).min(self.all.rows_per_block * RUN)
    }

    fn use_slots(self, capacity: usize) {
        (0..capacity.div_ceil(RUN)).for_each(|row| self.allocate(row));
        self.all.capacities[self.number].store(capacity as u32, Relaxed);
    }

    fn allocate(self, row: usize) {
        let row = &self.all.rows[self.in_use().first_row + row];
        row.get_or_init(|| bytemuck::zeroed_slice_box(RUN << self.all.block_shift));
    }

    /// Takes out what is in a slot that has a key.
    fn empty(self, moving: &Moving<'_>, place: usize) -> Slot<N> {
        let words = self.words(place);
        Slot(until_some(|| moving.empty(words)))
    }

    /// Writes an empty slot.
    fn fill(self, moving: &Moving<'_>, place: usize, slot: Slot<N>) {
        moving.fill(self.words(place), slot.0);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_waits_for_more_than_one_row() {
        let tables = Tables::<3>::new(1, 20_000);
        let table = tables.get(0);
        let allocated = || tables.rows.iter().filter(|row| row.get().is_some()).count();
        for keys in 0..20_000 {
            let before = allocated();
            if table.is_tight(keys) {
                table.use_slots(table.grown());
            } else {
                table.prepare(keys);
            }
            assert!(allocated() <= before + 1, "{} rows for key {keys}", allocated() - before);
        }
        assert!(allocated() * RUN <= 20_000 * 5 / 4 * 5 / 4, "{} rows", allocated());
    }
}
