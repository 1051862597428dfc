//! A shard under its lock, in which entries come, go and move: [`LockedShard`].

use std::{borrow::Cow, sync::MutexGuard};

use super::{
    address::Address,
    entry::{Entry, uses_log},
    eviction::expired_by,
    quota_table::{NO_NUMBER, QuotaTable},
    seqlock::ShardWriter,
    shard::{Shard, with_table},
    shard_meta::{KeyState, ShardMeta},
    table::{Table, spin_until_some},
};
use crate::{
    algorithm::StatesByQuota,
    clock::Now,
    store::{Charge, Correction},
};

/// A shard under its lock.
///
/// The slots of both its tables are numbered one after the other, for those that sweep them: first
/// those of counters, then those of logs.
pub(super) struct LockedShard<'a> {
    pub(super) shard: Shard<'a>,
    pub(super) meta: MutexGuard<'a, ShardMeta>,
    pub(super) writer: ShardWriter<'a>,
    pub(super) now: Now,
    /// The part of the budget that is reserved for new keys of this request.
    pub(super) reserved: isize,
}

impl<'a> LockedShard<'a> {
    pub(super) fn new(shard: Shard<'a>, now: Now) -> Self {
        // Threads that wait for the mutex sleep. The one that has it is the shard's only writer,
        // and waits only for threads that are writing a few words.
        let meta = shard.meta();
        let writer = spin_until_some(|| shard.version().try_write());
        Self { shard, meta, writer, now, reserved: 0 }
    }

    fn quotas(&self) -> &'a QuotaTable {
        &self.shard.all.quotas
    }

    /// The part of the budget that the key of a charge may use, if it is new.
    pub(super) fn max_cost(&self, charge: &Charge) -> isize {
        self.meta.budget.cost.max(uses_log(charge))
    }

    /// Whether the key of a charge has no room, if it is new.
    pub(super) fn is_full_for(&self, charge: &Charge) -> bool {
        self.meta.budget.left - self.reserved < self.max_cost(charge)
    }

    /// The states of a charge's key; `None` if it is new.
    pub(super) fn states(&self, charge: &Charge) -> Option<Cow<'_, StatesByQuota>> {
        with_table!(if uses_log(charge), self.shard, table => {
            let (_, entry) = table.find(&self.writer, &Address::of(charge))?;
            Some(self.meta.states(&entry, self.quotas()))
        })
    }

    /// Whether the key of a charge has room for a penalty: room of its own if it is new, and otherwise
    /// room to spill its state.
    pub(super) fn has_room_for_penalty(&self, charge: &Charge) -> bool {
        let spills_already = with_table!(if uses_log(charge), self.shard, table => {
            let found = table.find(&self.writer, &Address::of(charge));
            found.map(|(_, entry)| entry.may_spill())
        });
        let needed = match spills_already {
            Some(true) => return true,
            Some(false) => self.meta.budget.cost.spilled,
            None => self.max_cost(charge),
        };
        needed == 0 || self.meta.budget.left - self.reserved >= needed
    }

    /// How much longer a charge's key is blocked; 0 if it is not.
    pub(super) fn blocked_for(&self, charge: &Charge) -> u64 {
        if !charge.has_penalty {
            return 0;
        }
        with_table!(if uses_log(charge), self.shard, table => {
            let found = table.find(&self.writer, &Address::of(charge));
            let spilled = found.and_then(|(_, entry)| self.meta.spilled_of(&entry));
            spilled.map_or(0, |spilled| spilled.blocked_for(charge, self.now))
        })
    }

    /// Whether the key of a correction was reset after its charge.
    pub(super) fn is_reset_since(&self, correction: &Correction) -> bool {
        let charge = &correction.charge;
        with_table!(if uses_log(charge), self.shard, table => {
            let found = table.find(&self.writer, &Address::of(charge));
            let reset = found.and_then(|(_, entry)| self.meta.spilled_of(&entry)?.reset.as_ref());
            reset.is_some_and(|reset| correction.is_before(&reset.0))
        }) || self.meta.is_evicted_reset_since(correction, self.now)
    }

    /// Changes the state of a charge's key, which has this entry.
    pub(super) fn change<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        (index, entry): (usize, Entry<N>),
        charge: &Charge,
        change: impl FnOnce(&mut KeyState),
    ) {
        let quotas = self.quotas();
        let mut state = self.meta.remove(&entry, quotas);
        change(&mut state);
        let entry = self.pack(charge, state, Some(entry.quota_number()));
        self.meta.add(&entry, quotas);
        table.set(&self.writer, index, entry);
    }

    /// Adds a charge's key. If the table has to grow, it first drops keys that expired some time ago.
    pub(super) fn insert<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        charge: &Charge,
        state: KeyState,
    ) {
        let entry = self.pack(charge, state, None);
        let (meta, quotas, by) = (&mut *self.meta, &self.shard.all.quotas, expired_by(self.now));
        let keys = *meta.keys_in::<N>();
        if table.must_grow(keys) {
            table.grow(&self.writer, |entry| {
                let is_expired = meta.is_expired(entry, quotas, by);
                if is_expired {
                    meta.remove(entry, quotas);
                }
                is_expired
            });
        } else {
            table.allocate_ahead(keys);
        }
        meta.add(&entry, quotas);
        table.insert(&self.writer, entry);
    }

    /// Resets a charge's key, which goes unless the reset has to be remembered.
    pub(super) fn reset(&mut self, charge: &Charge) {
        with_table!(if uses_log(charge), self.shard, table => {
            let Some((index, entry)) = table.find(&self.writer, &Address::of(charge)) else { return };
            let quotas = self.quotas();
            let mut state = self.meta.remove(&entry, quotas);
            state.reset(charge, self.now);
            if state.is_expired(self.now) {
                return table.remove(&self.writer, index);
            }
            let entry = self.pack(charge, state, Some(entry.quota_number()));
            self.meta.add(&entry, quotas);
            table.set(&self.writer, index, entry);
        });
    }

    /// The entry of this state, which is spilled if it has no room in it. Such an entry has the quota
    /// number of the one before it, so that its policy is known. A penalty that is forgotten goes, and so
    /// does a reset that matters no more.
    fn pack<const N: usize>(
        &mut self,
        charge: &Charge,
        mut state: KeyState,
        number: Option<u64>,
    ) -> Entry<N> {
        let (address, quotas, policy) = (Address::of(charge), self.quotas(), charge.policy);
        state.drop_expired_extras(self.now);
        let single = state.states.single().filter(|_| !state.has_extras());
        let packed =
            single.and_then(|(quota, state)| Entry::pack(&address, policy, state, quota, quotas));
        packed.unwrap_or_else(|| {
            let expires_at = state.expires_at(self.now);
            let intern = || state.states.iter().find_map(|(quota, _)| quotas.intern(policy, quota));
            let number = number.or_else(intern).unwrap_or(NO_NUMBER);
            let index = self.meta.spilled.insert(state);
            let log = self.meta.spilled.get(index).filter(|state| state.penalty.is_none());
            let log = log.and_then(|state| state.states.single_log());
            let long = log.and_then(|log| Entry::long_log(&address, policy, log, quotas, index));
            long.unwrap_or_else(|| Entry::spilled(&address, number, expires_at, index))
        })
    }

    /// How many slots both tables have.
    pub(super) fn capacity(&self) -> usize {
        self.shard.counters().capacity() + self.shard.logs().capacity()
    }

    /// The slot that is swept next.
    pub(super) fn next_index(&mut self) -> usize {
        let index = self.meta.cursor % self.capacity().max(1);
        self.meta.cursor = index + 1;
        index
    }

    /// Whether the key in a slot had expired by this time.
    pub(super) fn is_expired_at(&self, index: usize, by: Now) -> bool {
        let Self { shard, writer, meta, .. } = self;
        with_table!(at index, shard, (table, index) => {
            // Most have not expired: then there is no need to wait for threads that charge them.
            table.peek(index).is_expired(self.quotas(), by)
                && meta.is_expired(&table.get(writer, index), self.quotas(), by)
        })
    }

    /// Whether the slot has the key of one of these charges.
    pub(super) fn is_of(&self, index: usize, charges: &[Charge]) -> bool {
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.peek(index);
            charges.iter().any(|charge| entry.is_at(&Address::of(charge)))
        })
    }

    /// The states of the key in a slot, and its policy; `None` if the slot is empty.
    pub(super) fn states_at(&self, index: usize) -> Option<(u64, Cow<'_, StatesByQuota>)> {
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.get(&self.writer, index);
            let policy = self.quotas().policy(entry.quota_number());
            (!entry.is_empty()).then(|| (policy, self.meta.states(&entry, self.quotas())))
        })
    }

    /// Whether the key in a slot [goes last](KeyState::goes_last).
    pub(super) fn goes_last_at(&self, index: usize) -> bool {
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.get(&self.writer, index);
            self.meta.spilled_of(&entry).is_some_and(|spilled| spilled.goes_last(self.now))
        })
    }

    /// Removes the key in a slot, which has one. The slot is swept next again, as another key may
    /// have moved there.
    pub(super) fn remove_at(&mut self, index: usize) -> KeyState {
        self.meta.cursor = index;
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.get(&self.writer, index);
            table.remove(&self.writer, index);
            self.meta.remove(&entry, &self.shard.all.quotas)
        })
    }

    /// Evicts the key in a slot, which has one of this policy: removes it, and remembers what it has used.
    pub(super) fn evict_at(&mut self, index: usize, policy: u64) {
        let tag = with_table!(at index, self.shard, (table, index) => {
            table.get(&self.writer, index).tag()
        });
        let key = self.remove_at(index);
        self.meta.remember_evicted(policy, tag, key, self.now);
    }
}
