use std::collections::HashMap;

use slab::Slab;

use super::slot::{Slot, WIDE};
use crate::{
    algorithm::{Count, State},
    clock::Now,
    quota::Quota,
    store::{Charge, Usage},
};

/// What a segment knows beside its slots.
pub(super) struct Ledger {
    pub(super) room: Room,
    narrow_keys: usize,
    wide_keys: usize,
    /// The slot that is swept next; those of the wide table follow those of the narrow one.
    pub(super) cursor: usize,
    /// States that do not fit into a slot.
    pub(super) aside: Slab<Counted>,
    /// The states that keys without room share, by policy.
    pub(super) shared: HashMap<u64, Counted>,
}

/// A state, and the quota it was counted under.
pub(super) struct Counted {
    pub(super) state: State,
    pub(super) quota: Quota,
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
    /// More, if its state is kept aside.
    pub(super) aside: isize,
}

impl Needs {
    const fn slot<const N: usize>(&self) -> isize {
        if N == WIDE { self.wide } else { self.narrow }
    }

    pub(super) fn of<const N: usize>(&self, slot: &Slot<N>) -> isize {
        self.slot::<N>() + if slot.may_be_aside() { self.aside } else { 0 }
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
        self.room.left -= self.room.key.of(slot);
        *self.keys_in::<N>() += 1;
    }

    /// A key's slot is given up.
    pub(super) fn forget<const N: usize>(&mut self, slot: Slot<N>) {
        self.room.left += self.room.key.of(&slot);
        *self.keys_in::<N>() -= 1;
        if let Some(index) = slot.index_aside() {
            self.aside.try_remove(index);
        }
    }
}

impl Counted {
    /// Changes the state as `charge` is counted; when it may be forgotten.
    pub(super) fn change(
        &mut self,
        charge: &Charge,
        now: Now,
        change: impl FnOnce(&mut State),
    ) -> u64 {
        self.state.under(&self.quota, &charge.quota, now);
        self.quota = charge.quota;
        change(&mut self.state);
        self.forgotten_at(now)
    }

    pub(super) fn forgotten_at(&self, now: Now) -> u64 {
        now.monotonic_nanos().saturating_add(self.state.forgotten_in(&self.quota, now))
    }
}

/// What is left, for a charge that fits after `wait`.
pub(super) fn usage(state: &impl Count, quota: &Quota, wait: u64, now: Now) -> Usage {
    Usage::of_nanos(wait, state.remaining(quota, now), state.reset(quota, now))
}
