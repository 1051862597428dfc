//! How threads share slots: whoever charges a key takes its slot alone, for a few instructions, and
//! waits for nobody; whoever moves slots takes all of a segment.
//!
//! A slot is three words, in atomics, of which the last has a bit that says that it is taken. What
//! is read without taking it holds if nothing has changed until afterwards, as with a sequence lock
//! (Boehm, "Can seqlocks get along with programming language memory models?", 2012). And it is
//! taken on condition that it is still what was read: then what was worked out still holds.

use super::atomic::{
    AtomicU64,
    Ordering::{AcqRel, Acquire, Relaxed, Release},
    fence,
};

/// A slot's words as threads share them.
pub(crate) type Words = [AtomicU64; 3];

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
pub(crate) struct Taken<'a> {
    words: &'a Words,
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
    pub(crate) fn still(&self, seen: Seen, words: &Words, read: [u64; 3]) -> bool {
        fence(Acquire);
        let same = |at: usize| words[at].load(Relaxed) == read[at];
        self.0.load(Relaxed) == seen.0 && same(1) && same(2)
    }

    /// Takes the slot, if it is still what was read. `read` was not taken.
    #[inline]
    pub(crate) fn take<'a>(
        &self,
        seen: Seen,
        words: &'a Words,
        read: [u64; 3],
    ) -> Option<Taken<'a>> {
        let [_, time, last] = read;
        words[2].compare_exchange(last, last | TAKEN, Acquire, Relaxed).ok()?;
        let taken = Taken { words, last };
        // The last word may be the same again though the others are not. Whoever moves slots and
        // has settled this one before it was taken is seen here; one who comes after waits for it.
        let same = words[1].load(Relaxed) == time && self.0.load(Relaxed) == seen.0;
        same.then_some(taken)
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
pub(crate) fn read(words: &Words) -> [u64; 3] {
    words.each_ref().map(|word| word.load(Relaxed))
}

impl Moving<'_> {
    /// What is in a slot and stays there: who takes it from now on finds that slots move. `None`
    /// while it is taken.
    pub(crate) fn settle(&self, words: &Words) -> Option<[u64; 3]> {
        let last = untaken(words)?;
        // Nothing changes, but who takes the slot afterwards acquires what is released here.
        words[2].compare_exchange(last, last, AcqRel, Relaxed).ok()?;
        Some([words[0].load(Relaxed), words[1].load(Relaxed), last])
    }

    /// Writes a slot that is settled. `None` while it is taken, by one who is about to find that
    /// slots move and will give it back: that must not be overwritten.
    pub(crate) fn write(&self, words: &Words, values: [u64; 3]) -> Option<()> {
        self.empty(words)?;
        self.fill(words, values);
        Some(())
    }

    /// Takes out what is in a slot, which is empty then. `None` while it is taken.
    pub(crate) fn empty(&self, words: &Words) -> Option<[u64; 3]> {
        let last = untaken(words)?;
        words[2].compare_exchange(last, 0, AcqRel, Relaxed).ok()?;
        Some([words[0].load(Relaxed), words[1].load(Relaxed), last])
    }

    /// Writes an empty slot, which nobody takes who charges.
    pub(crate) fn fill(&self, words: &Words, values: [u64; 3]) {
        words.iter().zip(values).for_each(|(word, value)| word.store(value, Relaxed));
    }
}

fn untaken(words: &Words) -> Option<u64> {
    Some(words[2].load(Relaxed)).filter(|last| last & TAKEN == 0)
}

impl Drop for Moving<'_> {
    fn drop(&mut self) {
        self.version.store(self.after, Release);
    }
}

impl Taken<'_> {
    /// Writes the two words that change.
    #[inline]
    pub(crate) fn write(self, (time, last): (u64, u64)) {
        // Nobody sees the one without the other, or before that the slot is taken.
        fence(Release);
        self.words[1].store(time, Relaxed);
        self.words[2].store(last, Release);
        std::mem::forget(self);
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.words[2].store(self.last, Release);
    }
}
