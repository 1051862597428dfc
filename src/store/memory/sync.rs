//! How threads share slots: whoever charges a key takes its slot alone, for a few instructions, and
//! waits for nobody; whoever moves slots takes all of a segment.
//!
//! A slot is some words, in atomics, of which the last has a bit that says that it is taken, and the
//! first changes only as slots move. What is read without taking it holds if nothing has changed until afterwards, as with a sequence lock
//! (Boehm, "Can seqlocks get along with programming language memory models?", 2012). And it is
//! taken on condition that it is still what was read: then what was worked out still holds.

use std::array;

use super::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// A slot's words as threads share them.
pub(crate) type Words<const N: usize> = [AtomicU64; N];

/// In the last word: taken by someone who charges.
pub(crate) const TAKEN: u64 = 1 << 38;

/// Of a segment; odd while its slots move.
#[derive(Debug, Default)]
pub(crate) struct Version(AtomicU64);

/// What was found holds if the version is still this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

/// The right to move all slots of a segment; dropping it makes what was written visible.
#[derive(Debug)]
#[must_use]
pub(crate) struct Moving<'a> {
    version: &'a AtomicU64,
    after: u64,
}

/// A slot taken by one who charges; dropped unwritten, it is as it was before.
#[derive(Debug)]
#[must_use]
pub(crate) struct Taken<'a, const N: usize> {
    words: &'a Words<N>,
    last: u64,
}

impl Version {
    /// Where reading begins; `None` while slots move.
    #[inline]
    pub(crate) fn see(&self) -> Option<Seen> {
        let version = self.0.load(Acquire);
        version.is_multiple_of(2).then_some(Seen(version))
    }

    /// Whether what was read is still there.
    #[inline]
    pub(crate) fn still<const N: usize>(
        &self,
        seen: Seen,
        words: &Words<N>,
        read: [u64; N],
    ) -> bool {
        fence(Acquire);
        let same = |at: usize| words[at].load(Relaxed) == read[at];
        self.0.load(Relaxed) == seen.0 && (1..N).all(same)
    }

    /// Takes the slot, if it is still what was read. `read` was not taken.
    #[inline]
    pub(crate) fn take<'a, const N: usize>(
        &self,
        seen: Seen,
        words: &'a Words<N>,
        read: [u64; N],
    ) -> Option<Taken<'a, N>> {
        let last = read[N - 1];
        words[N - 1].compare_exchange(last, last | TAKEN, Acquire, Relaxed).ok()?;
        let taken = Taken { words, last };
        // The last word may be the same again though the others are not. Whoever moves slots and
        // has settled this one before it was taken is seen here; one who comes after waits for it.
        let same = (1..N - 1).all(|at| words[at].load(Relaxed) == read[at]);
        (same && self.0.load(Relaxed) == seen.0).then_some(taken)
    }

    /// The right to move slots; `None` where someone else has it.
    pub(crate) fn try_move(&self) -> Option<Moving<'_>> {
        let Seen(seen) = self.see()?;
        self.0.compare_exchange(seen, seen + 1, Relaxed, Relaxed).ok()?;
        // No write is seen before the version is odd.
        fence(Release);
        Some(Moving { version: &self.0, after: seen + 2 })
    }
}

/// What is in a slot. It may be half of a write; but whose slot it is changes only as slots move.
#[inline]
pub(crate) fn read<const N: usize>(words: &Words<N>) -> [u64; N] {
    read_between(ends(words), words)
}

/// Its first and last word, which tell whose it is.
#[inline]
pub(crate) fn ends<const N: usize>(words: &Words<N>) -> [u64; 2] {
    [0, N - 1].map(|at| words[at].load(Relaxed))
}

/// All of it, of which the ends were read before.
#[inline]
pub(crate) fn read_between<const N: usize>(ends: [u64; 2], words: &Words<N>) -> [u64; N] {
    array::from_fn(|at| match at {
        0 => ends[0],
        _ if at == N - 1 => ends[1],
        _ => words[at].load(Relaxed),
    })
}

impl Moving<'_> {
    /// What is in a slot and stays there: who takes it from now on finds that slots move. `None`
    /// while it is taken.
    pub(crate) fn settle<const N: usize>(&self, words: &Words<N>) -> Option<[u64; N]> {
        let last = untaken(words)?;
        // Nothing changes, but who takes the slot afterwards acquires what is released here.
        exchange(words, last, last)
    }

    /// Writes a slot that is settled. `None` while it is taken, by one who is about to find that
    /// slots move and will give it back: that must not be overwritten.
    pub(crate) fn write<const N: usize>(&self, words: &Words<N>, values: [u64; N]) -> Option<()> {
        self.empty(words)?;
        self.fill(words, values);
        Some(())
    }

    /// Takes out what is in a slot, which is empty then. `None` while it is taken.
    pub(crate) fn empty<const N: usize>(&self, words: &Words<N>) -> Option<[u64; N]> {
        let last = untaken(words)?;
        exchange(words, last, 0)
    }

    /// Writes an empty slot, which nobody takes who charges.
    pub(crate) fn fill<const N: usize>(&self, words: &Words<N>, values: [u64; N]) {
        words.iter().zip(values).for_each(|(word, value)| word.store(value, Relaxed));
    }
}

fn untaken<const N: usize>(words: &Words<N>) -> Option<u64> {
    Some(words[N - 1].load(Relaxed)).filter(|last| last & TAKEN == 0)
}

/// Writes the last word if it is still `last`; what was in the slot.
fn exchange<const N: usize>(words: &Words<N>, last: u64, new: u64) -> Option<[u64; N]> {
    words[N - 1].compare_exchange(last, new, AcqRel, Relaxed).ok()?;
    Some(read_between([words[0].load(Relaxed), last], words))
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.version.store(self.after, Release);
    }
}

impl<const N: usize> Taken<'_, N> {
    /// Writes all words but the first.
    #[inline]
    pub(crate) fn write(self, values: [u64; N]) {
        // Nobody sees one without the others, or before that the slot is taken.
        fence(Release);
        (1..N - 1).for_each(|at| self.words[at].store(values[at], Relaxed));
        self.words[N - 1].store(values[N - 1], Release);
        std::mem::forget(self);
    }
}

impl<const N: usize> Drop for Taken<'_, N> {
    fn drop(&mut self) {
        self.words[N - 1].store(self.last, Release);
    }
}
