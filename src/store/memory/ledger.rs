use std::collections::HashMap;

use slab::Slab;

use super::{
    quotas::Quotas,
    slot::{Slot, WIDE},
};
use crate::{
    algorithm::{Count, Counts},
    clock::Now,
    quota::Quota,
    store::Usage,
};

/// What a segment knows beside its slots.
pub(super) struct Ledger {
    pub(super) room: Room,
    narrow_keys: usize,
    wide_keys: usize,
    /// The slot that is swept next; those of the wide table follow those of the narrow one.
    pub(super) cursor: usize,
    /// What does not fit into a slot: large states, and those of several quotas.
    pub(super) aside: Slab<Counts>,
    /// What keys without room share, by policy.
    pub(super) shared: HashMap<u64, Counts>,
}

/// How much the keys of a segment may take.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Below 0 where keys needed more after they had come.
    pub(super) left: isize,
    /// What a key takes of this.
    pub(super) key: Needs,
}

/// What a key takes.
#[derive(Clone, Copy)]
pub(super) struct Needs {
    pub(super) narrow: isize,
    pub(super) wide: isize,
    /// More, if its state is kept aside: a log, or a few of the others.
    pub(super) aside: isize,
}

impl Needs {
    const fn slot<const N: usize>(&self) -> isize {
        if N == WIDE { self.wide } else { self.narrow }
    }

    fn of<const N: usize>(&self, slot: &Slot<N>, counts: Option<&Counts>) -> isize {
        let logs = if N == WIDE { counts.map_or(1, Counts::len) as isize } else { 1 };
        self.slot::<N>() + if slot.may_be_aside() { logs * self.aside } else { 0 }
    }

    /// All that a new key may take.
    pub(super) const fn most<const N: usize>(&self) -> isize {
        self.slot::<N>() + self.aside
    }
}

impl Ledger {
    pub(super) fn new(room: Room) -> Self {
        Self {
            room,
            narrow_keys: 0,
            wide_keys: 0,
            cursor: 0,
            aside: Slab::new(),
            shared: HashMap::new(),
        }
    }

    /// How many keys have slots.
    pub(super) fn keys(&self) -> usize {
        self.narrow_keys + self.wide_keys
    }

    /// How many have slots of `N` words.
    pub(super) fn keys_in<const N: usize>(&mut self) -> &mut usize {
        if N == WIDE { &mut self.wide_keys } else { &mut self.narrow_keys }
    }

    /// A key gets a slot.
    pub(super) fn add<const N: usize>(&mut self, slot: &Slot<N>) {
        self.room.left -= self.needs(slot);
        *self.keys_in::<N>() += 1;
    }

    /// A key's slot is given up.
    pub(super) fn forget<const N: usize>(&mut self, slot: &Slot<N>) {
        self.room.left += self.needs(slot);
        *self.keys_in::<N>() -= 1;
        if let Some(index) = slot.index_aside() {
            self.aside.try_remove(index);
        }
    }

    /// What is kept aside of a slot.
    pub(super) fn aside_of<const N: usize>(&self, slot: &Slot<N>) -> Option<&Counts> {
        self.aside.get(slot.index_aside()?)
    }

    /// What a slot takes of the room.
    pub(super) fn needs<const N: usize>(&self, slot: &Slot<N>) -> isize {
        self.room.key.of(slot, self.aside_of(slot))
    }

    /// Whether a slot says no more than none would. What it says itself of what is kept aside is
    /// only so as long as no clock steps.
    pub(super) fn is_over<const N: usize>(
        &self,
        slot: &Slot<N>,
        quotas: &Quotas,
        now: Now,
    ) -> bool {
        let is_over = |counts: &Counts| counts.is_over(now);
        slot.is_expired(quotas, now) && self.aside_of(slot).is_none_or(is_over)
    }
}

/// When this may be forgotten.
pub(super) fn forgotten_at(counts: &Counts, now: Now) -> u64 {
    now.monotonic_nanos().saturating_add(counts.forgotten_in(now))
}

/// What is left, for a charge that fits after `wait`.
pub(super) fn usage(state: &impl Count, quota: &Quota, wait: u64, now: Now) -> Usage {
    Usage::of_nanos(wait, state.remaining(quota, now), state.reset(quota, now))
}
