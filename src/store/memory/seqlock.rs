//! How threads share slots: a sequence lock for each shard, with a lock bit in each slot.
//!
//! A slot is a few atomic words. A thread that charges a key locks that key's slot alone, for a few
//! instructions: no thread that has a slot's lock waits for anything. A thread that moves slots locks the
//! whole shard.
//!
//! The last word of a slot has the lock bit. The first word changes only as slots move. What a
//! thread reads without a lock holds if nothing has changed until it [validates](Version::validate)
//! the read, as with a sequence lock (Boehm, "Can seqlocks get along with programming language
//! memory models?", 2012). A slot is [locked](Version::try_lock) on condition that it is still as
//! it was read: then what was worked out from it still holds. If it has changed, the thread [locks it as
//! it is](Version::lock), and works the charge out again under the lock. So no thread loses again and again
//! to others that charge the same key.
//!
//! The [overview](super) says why each memory ordering is enough. `loom.rs` of the tests includes
//! this file and checks it under every interleaving.

use std::{array, hint::spin_loop};

use super::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// The words of a slot as threads share them.
pub(crate) type AtomicSlot<const N: usize> = [AtomicU64; N];

/// In the last word: locked by a thread that charges.
pub(crate) const LOCKED: u64 = 1 << 38;

/// The version of a shard; odd while its slots move.
#[derive(Debug, Default)]
pub(crate) struct Version(AtomicU64);

/// The version at which reading began. What was read holds if the version is still this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp(u64);

/// The right to move all slots of a shard. Dropping it makes what was written visible.
#[derive(Debug)]
#[must_use]
pub(crate) struct ShardWriter<'a> {
    version: &'a AtomicU64,
    after: u64,
}

/// A slot locked by a thread that charges. Dropped unwritten, the slot is as it was before.
#[derive(Debug)]
#[must_use]
pub(crate) struct SlotGuard<'a, const N: usize> {
    slot: &'a AtomicSlot<N>,
    last: u64,
}

impl Version {
    /// Begins to read; `None` while slots move.
    #[inline]
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let version = self.0.load(Acquire);
        version.is_multiple_of(2).then_some(Stamp(version))
    }

    /// Whether what was read is still there.
    #[inline]
    pub(crate) fn validate<const N: usize>(
        &self,
        stamp: Stamp,
        slot: &AtomicSlot<N>,
        read: [u64; N],
    ) -> bool {
        fence(Acquire);
        let is_same = |at: usize| slot[at].load(Relaxed) == read[at];
        self.0.load(Relaxed) == stamp.0 && (1..N).all(is_same)
    }

    /// Locks the slot if it is still what was read. `read` was not locked.
    #[inline]
    pub(crate) fn try_lock<'a, const N: usize>(
        &self,
        stamp: Stamp,
        slot: &'a AtomicSlot<N>,
        read: [u64; N],
    ) -> Option<SlotGuard<'a, N>> {
        let last = read[N - 1];
        slot[N - 1].compare_exchange(last, last | LOCKED, Acquire, Relaxed).ok()?;
        let guard = SlotGuard { slot, last };
        // The last word may be the same again though the others are not. A shard's writer that has
        // read or cleared this slot before it was locked is seen here. One that comes later waits
        // for the lock.
        let is_same = (1..N - 1).all(|at| slot[at].load(Relaxed) == read[at]);
        (is_same && self.0.load(Relaxed) == stamp.0).then_some(guard)
    }

    /// Locks the slot with what is in it now, and returns its words, unlocked. `read` is what was read
    /// at this stamp; the slot may be locked or changed since. Looks up to `tries` times until another
    /// thread has unlocked it. `None` if slots have moved, or if the slot stays locked.
    #[inline]
    pub(crate) fn lock<'a, const N: usize>(
        &self,
        stamp: Stamp,
        slot: &'a AtomicSlot<N>,
        read: [u64; N],
        tries: u32,
    ) -> Option<(SlotGuard<'a, N>, [u64; N])> {
        let mut last = read[N - 1];
        for tried in 0..tries {
            // The slot was emptied. An empty slot must not be locked: it may be filled at any moment.
            if last == 0 {
                return None;
            }
            if last & LOCKED == 0 {
                match slot[N - 1].compare_exchange(last, last | LOCKED, Acquire, Relaxed) {
                    Ok(_) => {
                        let guard = SlotGuard { slot, last };
                        // As in `try_lock`: a writer that came before is seen here.
                        let is_same = self.0.load(Relaxed) == stamp.0;
                        return is_same.then(|| (guard, read_between([read[0], last], slot)));
                    }
                    Err(found) => last = found,
                }
            } else {
                // The other thread needs a few nanoseconds. The processor's pause takes more.
                if tried.is_multiple_of(8) && tried > 0 {
                    spin_loop();
                }
                last = slot[N - 1].load(Relaxed);
            }
        }
        None
    }

    /// The right to move slots; `None` if another thread has it.
    pub(crate) fn try_write(&self) -> Option<ShardWriter<'_>> {
        let Stamp(before) = self.stamp()?;
        self.0.compare_exchange(before, before + 1, Relaxed, Relaxed).ok()?;
        // No write is seen before the version is odd.
        fence(Release);
        Some(ShardWriter { version: &self.0, after: before + 2 })
    }
}

/// The words of a slot. They may be half of a write. But the key of a slot changes only as slots
/// move.
#[inline]
pub(crate) fn read<const N: usize>(slot: &AtomicSlot<N>) -> [u64; N] {
    read_between(read_ends(slot), slot)
}

/// The first and the last word of a slot, which identify its key.
#[inline]
pub(crate) fn read_ends<const N: usize>(slot: &AtomicSlot<N>) -> [u64; 2] {
    [0, N - 1].map(|at| slot[at].load(Relaxed))
}

/// All words of a slot whose ends were read before.
#[inline]
pub(crate) fn read_between<const N: usize>(ends: [u64; 2], slot: &AtomicSlot<N>) -> [u64; N] {
    array::from_fn(|at| match at {
        0 => ends[0],
        _ if at == N - 1 => ends[1],
        _ => slot[at].load(Relaxed),
    })
}

impl ShardWriter<'_> {
    /// The words of a slot, which stay as they are: a thread that locks the slot from now on finds
    /// that slots move. `None` while it is locked.
    pub(crate) fn read<const N: usize>(&self, slot: &AtomicSlot<N>) -> Option<[u64; N]> {
        let last = unlocked(slot)?;
        // Nothing changes, but a thread that locks the slot later acquires what is released here.
        exchange(slot, last, last)
    }

    /// Writes a slot that was [read](Self::read). `None` while it is locked: that thread is about
    /// to find that slots move, and will restore the last word. This must not be overwritten.
    pub(crate) fn write<const N: usize>(
        &self,
        slot: &AtomicSlot<N>,
        words: [u64; N],
    ) -> Option<()> {
        self.clear(slot)?;
        self.fill(slot, words);
        Some(())
    }

    /// Makes a slot empty, and returns what was in it. `None` while it is locked.
    pub(crate) fn clear<const N: usize>(&self, slot: &AtomicSlot<N>) -> Option<[u64; N]> {
        let last = unlocked(slot)?;
        exchange(slot, last, 0)
    }

    /// Writes an empty slot, which no thread that charges locks.
    pub(crate) fn fill<const N: usize>(&self, slot: &AtomicSlot<N>, words: [u64; N]) {
        slot.iter().zip(words).for_each(|(word, value)| word.store(value, Relaxed));
    }
}

/// The last word, if the slot is not locked.
fn unlocked<const N: usize>(slot: &AtomicSlot<N>) -> Option<u64> {
    Some(slot[N - 1].load(Relaxed)).filter(|last| last & LOCKED == 0)
}

/// Writes the last word if it is still `last`, and returns what was in the slot.
fn exchange<const N: usize>(slot: &AtomicSlot<N>, last: u64, new: u64) -> Option<[u64; N]> {
    slot[N - 1].compare_exchange(last, new, AcqRel, Relaxed).ok()?;
    Some(read_between([slot[0].load(Relaxed), last], slot))
}

impl Drop for ShardWriter<'_> {
    fn drop(&mut self) {
        self.version.store(self.after, Release);
    }
}

impl<const N: usize> SlotGuard<'_, N> {
    /// Writes all words but the first, and unlocks the slot.
    #[inline]
    pub(crate) fn write(self, words: [u64; N]) {
        // No thread sees one word without the others, or before it sees the lock bit.
        fence(Release);
        (1..N - 1).for_each(|at| self.slot[at].store(words[at], Relaxed));
        self.slot[N - 1].store(words[N - 1], Release);
        std::mem::forget(self);
    }
}

impl<const N: usize> Drop for SlotGuard<'_, N> {
    fn drop(&mut self) {
        self.slot[N - 1].store(self.last, Release);
    }
}
