//! Which keys something happened to lately: [`RecentKeys`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::mem;

use crate::clock::Now;

/// 512 bytes. If a set has 500 keys, an eighth of all other keys look as if they were among these.
const WORDS: usize = 64;

/// The keys that something happened to lately, and those that it happened to earlier. It never lacks a key, and
/// may have some more. The earlier ones are forgotten when it matters for none of them any more.
pub(super) struct RecentKeys([KeySet; 2]);

/// A Bloom filter with one hash.
struct KeySet {
    bits: Box<[u64; WORDS]>,
    /// The monotonic nanoseconds at which it matters for no key any more.
    until: u64,
}

impl RecentKeys {
    pub(super) fn new() -> Self {
        Self([KeySet::new(), KeySet::new()])
    }

    /// Adds a key, for which it matters until a time in monotonic nanoseconds. Only the lower half of its
    /// fingerprint counts, of which entries have the last 32 bits.
    pub(super) fn add(&mut self, key: u64, until: u64, now: Now) {
        let [new, old] = &mut self.0;
        if !old.matters(now) {
            mem::swap(new, old);
            *new = KeySet::new();
        }
        new.add(key, until);
    }

    /// Lets it matter for all keys until a later time.
    pub(super) fn extend(&mut self, until: u64, now: Now) {
        for keys in self.0.iter_mut().filter(|keys| keys.matters(now)) {
            keys.until = keys.until.max(until);
        }
    }

    /// Whether this key may be one for which it still matters.
    pub(super) fn may_have(&self, key: u64, now: Now) -> bool {
        self.0.iter().any(|keys| keys.matters(now) && keys.may_have(key))
    }
}

impl KeySet {
    fn new() -> Self {
        Self { bits: Box::new([0; WORDS]), until: 0 }
    }

    fn matters(&self, now: Now) -> bool {
        now.monotonic_nanos() < self.until
    }

    fn add(&mut self, key: u64, until: u64) {
        let (word, bit) = position(key);
        if let Some(word) = self.bits.get_mut(word) {
            *word |= bit;
        }
        self.until = self.until.max(until);
    }

    fn may_have(&self, key: u64) -> bool {
        let (word, bit) = position(key);
        self.bits.get(word).is_some_and(|word| word & bit != 0)
    }
}

/// The word of a key's bit, and the bit. Keys are hashes already.
#[expect(clippy::cast_possible_truncation, reason = "the lowest bits are meant")]
fn position(key: u64) -> (usize, u64) {
    ((key as usize >> 6) % WORDS, 1 << (key as u32 % 64))
}
