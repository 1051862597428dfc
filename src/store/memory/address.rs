//! Where a key's entry is looked for, and by which bits it is recognised: [`Address`].

use crate::store::Charge;

/// How many bits of the tag have room in an entry's last word.
pub(super) const TAG_REST_BITS: u32 = 12;

/// A key of a policy, as 128 bits of which the lower half depends on the key alone.
///
/// The lower half chooses the shard and the home slot in it, so that the entries of one key under
/// several policies lie side by side. The tag, 76 bits, is compared: two keys of a shard of 4,096
/// share an entry once in 2^64 insertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    shard: u32,
    /// Its lower half is the home.
    pub(super) tag: u64,
    pub(super) tag_rest: u64,
}

impl Address {
    pub(super) const fn of(charge: &Charge) -> Self {
        Self::new(charge.id())
    }

    /// The key alone, without a policy, has the same shard and home.
    #[expect(clippy::cast_possible_truncation, reason = "each half is meant")]
    pub(super) const fn new(id: u128) -> Self {
        let (key, both) = (id as u64, (id >> 64) as u64);
        Self {
            shard: (key >> 32) as u32,
            tag: (both & !0xFFFF_FFFF) | (key & 0xFFFF_FFFF),
            tag_rest: both & ((1 << TAG_REST_BITS) - 1),
        }
    }

    /// Which of `shards`, a power of two.
    pub(super) const fn shard(&self, shards: usize) -> usize {
        self.shard as usize & (shards - 1)
    }

    /// The slot in which the search for it begins.
    pub(super) const fn home(&self, capacity: usize) -> usize {
        home(self.tag, capacity)
    }
}

/// The home of a key with this tag, among so many slots.
pub(super) const fn home(tag: u64, capacity: usize) -> usize {
    (((tag & 0xFFFF_FFFF) * capacity as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bit_of_the_tag_distinguishes_keys() {
        let tag = |id: u128| (Address::new(id).tag, Address::new(id).tag_rest);
        let id = 0x0123_4567_89AB_CDEF_0123_4567_89AB_CDEF;
        for bit in (0..32).chain(64..64 + TAG_REST_BITS).chain(96..128) {
            assert_ne!(tag(id), tag(id ^ 1 << bit), "bit {bit}");
        }
    }
}
