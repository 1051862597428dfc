//! What a segment knows beside its slots: the room for its keys, and what is kept elsewhere.

use std::collections::{HashMap, hash_map::Entry};

use slab::Slab;

use super::{
    quotas::Quotas,
    shares::Shares,
    slot::{Slot, WIDE},
};
use crate::{
    algorithm::{QuotaState, StatesByQuota},
    clock::Now,
    quota::Quota,
    store::Usage,
};

/// What a segment knows beside its slots.
pub(super) struct Ledger {
    pub(super) room: Room,
    pub(super) shares: Shares,
    narrow_keys: usize,
    wide_keys: usize,
    /// The slot that is swept next; those of the wide table follow those of the narrow one.
    pub(super) cursor: usize,
    /// Counts that do not fit into a slot: large states, and those of several quotas.
    pub(super) aside: Slab<StatesByQuota>,
    /// The counts that keys without room share, by policy.
    pub(super) shared: HashMap<u64, StatesByQuota>,
    /// By policy, the most that a key had used that was dropped to make room for another policy's.
    /// New keys of the policy begin with it, so that a dropped key that comes back gains nothing.
    pub(super) dropped: HashMap<u64, StatesByQuota>,
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
    /// What a key takes beside its slot if its state is kept aside: a log, or a few other states.
    pub(super) aside: isize,
}

impl Needs {
    const fn slot<const N: usize>(&self) -> isize {
        if N == WIDE { self.wide } else { self.narrow }
    }

    fn of<const N: usize>(&self, slot: &Slot<N>, counts: Option<&StatesByQuota>) -> isize {
        let logs = if N == WIDE { counts.map_or(1, StatesByQuota::len) as isize } else { 1 };
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
            shares: Shares::new(room.left),
            narrow_keys: 0,
            wide_keys: 0,
            cursor: 0,
            aside: Slab::new(),
            shared: HashMap::new(),
            dropped: HashMap::new(),
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
    pub(super) fn add<const N: usize>(&mut self, slot: &Slot<N>, quotas: &Quotas) {
        self.take(quotas.policy(slot.quota_number()), self.needs(slot));
        *self.keys_in::<N>() += 1;
    }

    /// A key's slot is given up.
    pub(super) fn forget<const N: usize>(&mut self, slot: &Slot<N>, quotas: &Quotas) {
        self.take(quotas.policy(slot.quota_number()), -self.needs(slot));
        *self.keys_in::<N>() -= 1;
        if let Some(index) = slot.index_aside() {
            self.aside.try_remove(index);
        }
    }

    /// The keys of a policy take so much more of the room, or less.
    pub(super) fn take(&mut self, policy: u64, more: isize) {
        self.room.left -= more;
        self.shares.take(policy, more);
    }

    /// What is counted in a slot.
    pub(super) fn counts_of<const N: usize>(
        &self,
        slot: &Slot<N>,
        quotas: &Quotas,
    ) -> Option<StatesByQuota> {
        match slot.unpack(quotas) {
            Some((state, quota)) => Some(StatesByQuota::new(*quota, state)),
            None => self.aside_of(slot).cloned(),
        }
    }

    /// Keeps in mind what a key had used that is about to be dropped.
    pub(super) fn remember(&mut self, policy: u64, counts: StatesByQuota, now: Now) {
        if let Some(shared) = self.shared.get_mut(&policy) {
            raise(shared, &counts, now);
        }
        match self.dropped.entry(policy) {
            Entry::Occupied(dropped) => raise(dropped.into_mut(), &counts, now),
            Entry::Vacant(dropped) => {
                dropped.insert(counts);
            }
        }
    }

    /// With what a new key of a policy begins, where that is not a whole quota.
    pub(super) fn beginning(&self, policy: u64) -> Option<&StatesByQuota> {
        self.dropped.get(&policy)
    }

    /// What is kept aside of a slot; `None` where it holds its state itself.
    #[expect(clippy::expect_used, reason = "a key whose counts are lost has its whole quota again")]
    pub(super) fn aside_of<const N: usize>(&self, slot: &Slot<N>) -> Option<&StatesByQuota> {
        let index = slot.index_aside()?;
        Some(self.aside.get(index).expect("counts are kept aside as long as their slot"))
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
        let is_over = |counts: &StatesByQuota| counts.is_expired(now);
        slot.is_expired(quotas, now) && self.aside_of(slot).is_none_or(is_over)
    }
}

/// Leaves no more than another has, under each quota of that.
fn raise(counts: &mut StatesByQuota, other: &StatesByQuota, now: Now) {
    for (quota, state) in other.iter() {
        let left = |counts: &StatesByQuota| counts.under(quota, now).remaining(quota, now);
        let too_much = left(counts).saturating_sub(state.remaining(quota, now));
        if too_much > 0 {
            counts.consume(quota, now, too_much);
        }
        // A bucket may have used a part of a unit more.
        if counts.under(quota, now).wait(quota, now, 1) < state.wait(quota, now, 1) {
            counts.consume(quota, now, 1);
        }
    }
}

/// When this may be forgotten.
pub(super) fn forgotten_at(counts: &StatesByQuota, now: Now) -> u64 {
    now.monotonic_nanos().saturating_add(counts.expires_in(now))
}

/// What is left, for a charge that fits after `wait`.
pub(super) fn usage(state: &impl QuotaState, quota: &Quota, wait: u64, now: Now) -> Usage {
    Usage::from_nanos(wait, state.remaining(quota, now), state.reset(quota, now))
}
