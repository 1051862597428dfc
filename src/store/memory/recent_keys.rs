//! A set of keys that forgets: [`RecentKeys`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::mem;

use crate::clock::Now;

/// 512 bytes. If a set has 500 keys, an eighth of all other keys look as if they were among these.
const WORDS: usize = 64;

/// A set of keys, each kept until a time. It never lacks a key, and may have some more. There are two sets, the
/// newer first; the older one goes when it is over for all of its keys.
pub(super) struct RecentKeys([KeySet; 2]);

/// A Bloom filter with one hash.
struct KeySet {
    bits: Box<[u64; WORDS]>,
    /// When the set is over, in monotonic nanoseconds.
    until: u64,
}

impl RecentKeys {
    pub(super) fn new() -> Self {
        Self([KeySet::new(), KeySet::new()])
    }

    /// Adds the key with this tag until a time in monotonic nanoseconds. Only the lowest 12 bits count: they are of
    /// the key alone.
    pub(super) fn add(&mut self, tag: u64, until: u64, now: Now) {
        let [new, old] = &mut self.0;
        if !old.is_current(now) {
            mem::swap(new, old);
            *new = KeySet::new();
        }
        new.add(tag, until);
    }

    /// Keeps all keys until a later time.
    pub(super) fn extend(&mut self, until: u64, now: Now) {
        for keys in self.0.iter_mut().filter(|keys| keys.is_current(now)) {
            keys.until = keys.until.max(until);
        }
    }

    /// Whether the set may still have the key with this tag.
    pub(super) fn may_have(&self, tag: u64, now: Now) -> bool {
        self.0.iter().any(|keys| keys.is_current(now) && keys.may_have(tag))
    }
}

impl KeySet {
    fn new() -> Self {
        Self { bits: Box::new([0; WORDS]), until: 0 }
    }

    fn is_current(&self, now: Now) -> bool {
        now.monotonic_nanos() < self.until
    }

    fn add(&mut self, tag: u64, until: u64) {
        let (word, bit) = position(tag);
        if let Some(word) = self.bits.get_mut(word) {
            *word |= bit;
        }
        self.until = self.until.max(until);
    }

    fn may_have(&self, tag: u64) -> bool {
        let (word, bit) = position(tag);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// The word of a key's bit, and the bit. A tag is a hash already.
#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
fn position(tag: u64) -> (usize, u64) {
    ((tag as usize >> 6) % WORDS, 1 << (tag as u32 % 64))
}
