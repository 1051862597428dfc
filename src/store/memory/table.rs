//! The hash tables of entries: [`Tables`], one [`Table`] for each shard.

use std::sync::OnceLock;

use prefetch_index::prefetch_index;

use super::{
    address::Address,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    entry::Entry,
    seqlock::{self, AtomicSlot, ShardWriter, SlotGuard, Stamp, Version},
};

/// How many slots a table begins with.
const FIRST_SLOTS: usize = 8;
/// At most four fifths of the slots have keys, so that a key is found near its home.
const SLOTS_PER_FOUR_KEYS: usize = 5;

/// How often a thread checks whether another one has unlocked a slot, which takes some microseconds.
const LOCK_TRIES: u32 = 256;

/// Tables of fewer bytes in all stay in a processor's own cache.
const PREFETCHED_BYTES: usize = 512 << 10;

/// So many slots of a table lie in a row, beside as many slots of other tables.
const RUN: usize = 64;
/// A row is allocated as one piece when the first of its tables needs it. It is small, as some
/// allocators have to fill it with zeros while a key waits.
const ROW_BYTES: usize = 64 << 10;

/// The tables of all shards, with slots of `N` words.
pub(super) struct Tables<const N: usize> {
    /// The slots that each table has in use, empty or not.
    capacities: Box<[AtomicU32]>,
    /// The rows of each block of tables, as many as they may come to use. All tables grow alike: a
    /// row that one of them needs is soon needed by the others.
    rows: Box<[Row]>,
    rows_per_block: usize,
    /// A block has two to the power of this many tables.
    block_shift: u32,
}

type Row = OnceLock<Words>;

/// The slots of a row. They begin with a line of the processor's cache, so that a log's entry fills one
/// line: then two threads that charge one key share one line, and not two.
struct Words {
    words: Box<[AtomicU64]>,
    /// The word at which the first slot begins.
    first: usize,
}

const CACHE_LINE: usize = 64;

impl Words {
    /// `count` words, all zero.
    fn new(count: usize) -> Self {
        // The allocator may align them less, so there is room to begin up to a line later.
        let words: Box<[AtomicU64]> =
            bytemuck::zeroed_slice_box(count + CACHE_LINE / size_of::<AtomicU64>());
        let first = words.as_ptr().align_offset(CACHE_LINE);
        Self { words, first }
    }

    #[inline]
    fn slot<const N: usize>(&self, index: usize) -> Option<&AtomicSlot<N>> {
        self.words.get(self.first + index * N..)?.first_chunk()
    }

    #[inline]
    fn prefetch<const N: usize>(&self, index: usize) {
        prefetch_index(&self.words, self.first + index * N);
    }
}

/// A hash table with linear probing that grows by a quarter at a time.
///
/// Any thread may change the state in a slot that it has locked. Entries come, go and move only
/// with the shard's [`ShardWriter`].
#[derive(Clone, Copy)]
pub(super) struct Table<'a, const N: usize> {
    all: &'a Tables<N>,
    shard: usize,
}

/// The slots of a table that are in use, empty or not.
#[derive(Clone, Copy)]
struct Slots<'a, const N: usize> {
    rows: &'a [Row],
    first_row: usize,
    /// Where the table's run begins in each row.
    run: usize,
    capacity: usize,
}

impl<'a, const N: usize> Slots<'a, N> {
    /// The row of a slot, and the slot's index in it.
    #[inline]
    fn locate(self, index: usize) -> Option<(&'a Words, usize)> {
        let row = self.rows.get(self.first_row + index / RUN)?.get()?;
        (index < self.capacity).then_some((row, self.run + index % RUN))
    }

    #[inline]
    fn get(self, index: usize) -> Option<&'a AtomicSlot<N>> {
        let (row, index_in_row) = self.locate(index)?;
        row.slot(index_in_row)
    }

    /// The index of the key's slot, the slot, and its end words.
    #[inline]
    fn find(self, address: &Address) -> Option<(usize, &'a AtomicSlot<N>, [u64; 2])> {
        let mut index = address.home(self.capacity);
        let mut left = self.capacity;
        // Once around at most, also while another thread moves slots.
        while left > 0 {
            let (row, index_in_row) = self.locate(index)?;
            let run = (RUN - index % RUN).min(self.capacity - index).min(left);
            for index_in_row in index_in_row..index_in_row + run {
                let slot = row.slot(index_in_row)?;
                // The end words are read as an entry that has no others.
                let ends = seqlock::read_ends(slot);
                if Entry(ends).is_at(address) {
                    return Some((index, slot, ends));
                }
                if Entry(ends).is_empty() {
                    return None;
                }
                index += 1;
            }
            left -= run;
            index = if index == self.capacity { 0 } else { index };
        }
        None
    }
}

/// A table that is read without the shard's lock. What is read counts only if the version still has the stamp.
#[derive(Clone, Copy)]
pub(super) struct TableRead<'a, const N: usize> {
    version: &'a Version,
    stamp: Stamp,
    slots: Slots<'a, N>,
}

impl<'a, const N: usize> TableRead<'a, N> {
    /// The key's entry; `None` if the key has none. The search begins at the slot `expected`, or else at
    /// the key's home. Behind the last slot is the first.
    #[inline(always)]
    pub(super) fn read(
        self,
        address: &Address,
        expected: Option<usize>,
    ) -> Option<SlotRead<'a, N>> {
        let Self { version, stamp, slots } = self;
        let expected = expected.and_then(|index| {
            let index = if index == slots.capacity { 0 } else { index };
            let slot = slots.get(index)?;
            Some((index, slot, seqlock::read_ends(slot)))
        });
        let (index, slot, ends) = match expected {
            Some((index, slot, ends)) if Entry(ends).is_at(address) => (index, slot, ends),
            _ => slots.find(address)?,
        };
        let entry = Entry(seqlock::read_between(ends, slot));
        Some(SlotRead { version, slot, stamp, index, entry })
    }
}

/// An entry that was read without the shard's lock.
#[derive(Clone, Copy)]
pub(super) struct SlotRead<'a, const N: usize> {
    version: &'a Version,
    slot: &'a AtomicSlot<N>,
    stamp: Stamp,
    pub(super) index: usize,
    pub(super) entry: Entry<N>,
}

/// Where a slot was read, and when: enough to read it again.
pub(super) type Place<'a, const N: usize> = (&'a Version, Stamp, &'a AtomicSlot<N>);

impl<'a, const N: usize> SlotRead<'a, N> {
    #[inline]
    pub(super) fn place(&self) -> Place<'a, N> {
        (self.version, self.stamp, self.slot)
    }

    /// Reads the slot again. If slots have moved meanwhile, the entry may be another, and is not
    /// [valid](Self::is_valid).
    #[inline]
    pub(super) fn again((version, stamp, slot): Place<'a, N>) -> Self {
        Self { version, slot, stamp, index: 0, entry: Entry(seqlock::read(slot)) }
    }

    /// Whether the slot still has this entry.
    #[inline]
    pub(super) fn is_valid(&self) -> bool {
        self.version.validate(self.stamp, self.slot, self.entry.0)
    }

    /// Locks the slot if it still has this entry.
    #[inline]
    pub(super) fn try_lock(&self) -> Option<SlotGuard<'a, N>> {
        self.version.try_lock(self.stamp, self.slot, self.entry.0)
    }

    /// Locks the slot, and returns the key's entry as it is now. `None` if slots have moved, or if another
    /// thread holds the lock for too long.
    #[inline]
    pub(super) fn lock(&self) -> Option<(SlotGuard<'a, N>, Entry<N>)> {
        let Self { version, slot, stamp, entry, .. } = self;
        let (guard, words) = version.lock(*stamp, slot, entry.0, LOCK_TRIES)?;
        Some((guard, Entry(words)))
    }

    /// Writes when the state of a spilled entry expires. Only a thread that has the lock of the
    /// shard's [`ShardMeta`](super::shard_meta::ShardMeta) changes these entries.
    pub(super) fn set_spilled_expiry(&self, time: u64) {
        self.slot[1].store(time, Relaxed);
    }
}

impl<const N: usize> Tables<N> {
    /// So many tables, a power of two, each for up to `max_keys`.
    pub(super) fn new(tables: usize, max_keys: usize) -> Self {
        let max_slots = max_keys * SLOTS_PER_FOUR_KEYS / 4 + 1;
        let rows_per_block = max_slots.div_ceil(RUN);
        let in_block = ROW_BYTES / size_of::<[AtomicSlot<N>; RUN]>();
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
    pub(super) fn get(&self, shard: usize) -> Table<'_, N> {
        Table { all: self, shard }
    }
}

impl<'a, const N: usize> Table<'a, N> {
    /// The number of slots in use, empty or not.
    pub(super) fn capacity(self) -> usize {
        self.slots().capacity
    }

    #[inline]
    fn slots(self) -> Slots<'a, N> {
        let Tables { capacities, rows, rows_per_block, block_shift } = self.all;
        let block = self.shard >> block_shift;
        Slots {
            rows,
            first_row: block * rows_per_block,
            run: (self.shard - (block << block_shift)) * RUN,
            capacity: capacities[self.shard].load(Relaxed) as usize,
        }
    }

    /// Begins to read without a lock; `None` while entries move.
    #[inline(always)]
    pub(super) fn begin(self, version: &'a Version) -> Option<TableRead<'a, N>> {
        let stamp = version.stamp()?;
        Some(TableRead { version, stamp, slots: self.slots() })
    }

    /// Makes the processor fetch what a [`read`](TableRead::read) will need: a key's entry is mostly in
    /// its home slot, or in one of a few `further` slots. Small tables are in its cache anyway.
    #[inline]
    pub(super) fn prefetch(self, address: &Address, further: &[usize]) {
        let Tables { capacities, .. } = self.all;
        let capacity = capacities[self.shard].load(Relaxed) as usize;
        if capacity * capacities.len() * size_of::<AtomicSlot<N>>() < PREFETCHED_BYTES {
            return;
        }
        let slots = self.slots();
        if let Some((row, index)) = slots.locate(address.home(slots.capacity)) {
            further.iter().for_each(|further| row.prefetch::<N>(index + further));
        }
    }

    /// Whether the table must grow before it has one key more than `keys`.
    pub(super) fn must_grow(self, keys: usize) -> bool {
        (keys + 1) * SLOTS_PER_FOUR_KEYS > self.capacity() * 4
    }

    /// The key's slot and its entry.
    pub(super) fn find(
        self,
        writer: &ShardWriter<'_>,
        address: &Address,
    ) -> Option<(usize, Entry<N>)> {
        let (index, ..) = self.slots().find(address)?;
        Some((index, self.get(writer, index)))
    }

    /// The entry in a slot, which stays as it is.
    pub(super) fn get(self, writer: &ShardWriter<'_>, index: usize) -> Entry<N> {
        let slot = self.slot(index);
        Entry(spin_until_some(|| writer.read(slot)))
    }

    /// The entry in a slot. Its key stays, but its state may be changing.
    #[inline]
    pub(super) fn peek(self, index: usize) -> Entry<N> {
        Entry(seqlock::read(self.slot(index)))
    }

    /// A slot in use; a thread that has the lock of the shard knows which are.
    #[expect(clippy::expect_used, reason = "a key that is taken for a new one has its quota again")]
    fn slot(self, index: usize) -> &'a AtomicSlot<N> {
        self.slots().get(index).expect("the rows of the slots in use are allocated")
    }

    /// How many keys' entries match. Their states may be changing.
    pub(super) fn count(self, matches: impl Fn(&Entry<N>) -> bool) -> usize {
        let entries = (0..self.capacity()).map(|index| self.peek(index));
        entries.filter(|entry| !entry.is_empty() && matches(entry)).count()
    }

    /// Replaces an entry that the writer [got](Self::get).
    pub(super) fn set(self, writer: &ShardWriter<'_>, index: usize, entry: Entry<N>) {
        let slot = self.slot(index);
        spin_until_some(|| writer.write(slot, entry.0));
    }

    /// Puts an entry into the first free slot. There is one, as the table has grown.
    #[expect(clippy::expect_used, reason = "a key that is not kept has its whole quota again")]
    pub(super) fn insert(self, writer: &ShardWriter<'_>, entry: Entry<N>) {
        let capacity = self.capacity();
        let home = entry.home(capacity);
        let free = (home..capacity).chain(0..home).find(|&index| self.peek(index).is_empty());
        let free = free.expect("a table grows before it is full");
        writer.fill(self.slot(free), entry.0);
    }

    /// Empties a slot, and moves the entries behind it nearer to their homes.
    pub(super) fn remove(self, writer: &ShardWriter<'_>, mut hole: usize) {
        let capacity = self.capacity();
        self.clear(writer, hole);
        let mut index = hole;
        for _ in 0..capacity {
            index = if index + 1 == capacity { 0 } else { index + 1 };
            let entry = self.peek(index);
            if entry.is_empty() {
                break;
            }
            // An entry may not move in front of its home.
            let home = entry.home(capacity);
            let from_home = |index: usize| (index + capacity - home) % capacity;
            if from_home(hole) < from_home(index) {
                let entry = self.clear(writer, index);
                writer.fill(self.slot(hole), entry.0);
                hole = index;
            }
        }
    }

    /// Drops the entries that `is_dropped` chooses. Then takes more slots into use, if most still
    /// have keys.
    pub(super) fn grow(
        self,
        writer: &ShardWriter<'_>,
        mut is_dropped: impl FnMut(&Entry<N>) -> bool,
    ) {
        let before = self.capacity();
        let mut kept = Vec::with_capacity(before);
        // From a free slot on, so that the entries of a key stay in their order.
        let free = (0..before).find(|&index| self.peek(index).is_empty()).unwrap_or(0);
        let in_order = (free..before).chain(0..free);
        let with_keys = in_order.filter(|&index| !self.peek(index).is_empty());
        let entries = with_keys.map(|index| self.clear(writer, index));
        kept.extend(entries.filter(|entry| !is_dropped(entry)));
        let mostly_full = kept.len() * 2 >= before;
        self.set_capacity(if mostly_full { self.next_capacity() } else { before });
        for entry in kept {
            self.insert(writer, entry);
        }
    }

    /// Shortly before the table grows, allocates one of the rows that it will need: to allocate all
    /// at once would take as long as thousands of decisions. The table has so many `keys`, one of
    /// them new.
    pub(super) fn allocate_ahead(self, keys: usize) {
        let capacity = self.capacity();
        let keys_until_growth = (capacity * 4 / SLOTS_PER_FOUR_KEYS).saturating_sub(keys);
        let row = capacity.div_ceil(RUN) + keys_until_growth;
        if row < self.next_capacity().div_ceil(RUN) {
            self.allocate(row);
        }
    }

    /// How many slots it will have in use when it has grown.
    fn next_capacity(self) -> usize {
        let capacity = self.capacity();
        (capacity + capacity / 4).max(FIRST_SLOTS).min(self.all.rows_per_block * RUN)
    }

    #[expect(clippy::cast_possible_truncation, reason = "a table has fewer than 2^17 slots")]
    fn set_capacity(self, capacity: usize) {
        (0..capacity.div_ceil(RUN)).for_each(|row| self.allocate(row));
        self.all.capacities[self.shard].store(capacity as u32, Relaxed);
    }

    fn allocate(self, row: usize) {
        let row = &self.all.rows[self.slots().first_row + row];
        row.get_or_init(|| Words::new((RUN * N) << self.all.block_shift));
    }

    /// Makes a slot that has a key empty, and returns its entry.
    fn clear(self, writer: &ShardWriter<'_>, index: usize) -> Entry<N> {
        let slot = self.slot(index);
        Entry(spin_until_some(|| writer.clear(slot)))
    }
}

/// Tries until other threads have written the few words that are in the way.
pub(super) fn spin_until_some<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
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
    fn a_row_begins_with_a_line_and_has_all_its_slots() {
        for count in [1, 8, 64, 8 * RUN] {
            let row = Words::new(count * 8);
            let first = row.slot::<8>(0).unwrap();
            assert_eq!(first.as_ptr().addr() % CACHE_LINE, 0);
            assert!(row.slot::<8>(count - 1).is_some());
            assert!(row.slot::<3>(count * 8 / 3 - 1).is_some());
        }
    }

    #[test]
    fn no_key_waits_for_more_than_one_row() {
        let tables = Tables::<3>::new(1, 20_000);
        let table = tables.get(0);
        let allocated = || tables.rows.iter().filter(|row| row.get().is_some()).count();
        for keys in 0..20_000 {
            let before = allocated();
            if table.must_grow(keys) {
                table.set_capacity(table.next_capacity());
            } else {
                table.allocate_ahead(keys);
            }
            assert!(allocated() <= before + 1, "{} rows for key {keys}", allocated() - before);
        }
        assert!(allocated() * RUN <= 20_000 * 5 / 4 * 5 / 4, "{} rows", allocated());
    }

    #[test]
    fn the_entries_of_a_key_stay_in_their_order_as_the_table_grows() {
        // From homes all over the table, so that some go on behind its end.
        for home in (0..64).map(|key| key << 26) {
            let (tables, version) = (Tables::<3>::new(1, 1_000), Version::default());
            let table = tables.get(0);
            let address = |policy: usize| Address::new((policy as u128) << 96 | home);
            for policy in 0..100 {
                let writer = version.try_write().unwrap();
                if table.must_grow(policy) {
                    table.grow(&writer, |_| false);
                }
                table.insert(&writer, Entry::spilled(&address(policy), 0, 1, 0));
            }
            let read = table.begin(&version).unwrap();
            let index = |policy| read.read(&address(policy), None).unwrap().index;
            for policy in 1..100 {
                assert_eq!(index(policy), (index(policy - 1) + 1) % table.capacity());
            }
        }
    }
}
