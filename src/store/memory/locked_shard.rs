//! A shard under its lock, in which entries come, go and move: [`LockedShard`].

use std::sync::MutexGuard;

use super::{
    address::Address,
    entry::Entry,
    quota_table::{NO_NUMBER, QuotaTable},
    seqlock::ShardWriter,
    shard::{Shard, with_table},
    shard_meta::{Budget, ShardMeta, expires_at},
    table::Table,
};
use crate::{algorithm::StatesByQuota, clock::Now};

/// A shard under its lock.
///
/// The slots of both its tables are numbered one after the other, for those that sweep them: first
/// those of counters, then those of logs.
pub(super) struct LockedShard<'a> {
    pub(super) shard: Shard<'a>,
    pub(super) meta: MutexGuard<'a, ShardMeta>,
    writer: ShardWriter<'a>,
    pub(super) now: Now,
    /// The part of the budget that new keys of this request were promised.
    pub(super) reserved: isize,
}

impl<'a> LockedShard<'a> {
    pub(super) fn new(shard: Shard<'a>, now: Now) -> Self {
        let (meta, writer) = shard.lock();
        Self { shard, meta, writer, now, reserved: 0 }
    }

    pub(super) fn quotas(&self) -> &'a QuotaTable {
        &self.shard.all.quotas
    }

    /// Whether a new key has no room.
    pub(super) fn is_full_for<const N: usize>(&self) -> bool {
        let Budget { left, cost } = self.meta.budget;
        left - self.reserved < cost.max::<N>()
    }

    /// The index of a key's slot in its table, and the entry.
    pub(super) fn find<const N: usize>(
        &self,
        table: Table<'_, N>,
        address: &Address,
    ) -> Option<(usize, Entry<N>)> {
        table.find(&self.writer, address)
    }

    /// Replaces a key's entry, which has used so much of the budget.
    pub(super) fn replace<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        index: usize,
        (before, cost_before): (&Entry<N>, isize),
        after: Entry<N>,
    ) {
        let quotas = self.quotas();
        let policy = |entry: &Entry<N>| quotas.policy(entry.quota_number());
        let cost = self.meta.cost(&after);
        self.meta.spend(policy(before), -cost_before);
        self.meta.spend(policy(&after), cost);
        table.set(&self.writer, index, after);
    }

    /// Adds a key's entry. If the table has to grow, it drops expired keys first.
    pub(super) fn insert<const N: usize>(&mut self, table: Table<'_, N>, entry: Entry<N>) {
        let (meta, quotas, now) = (&mut *self.meta, &self.shard.all.quotas, self.now);
        let keys = *meta.keys_in::<N>();
        if table.must_grow(keys) {
            table.grow(&self.writer, |entry| {
                let is_expired = meta.is_expired(entry, quotas, now);
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

    /// Removes a key's entry.
    pub(super) fn remove<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        index: usize,
        entry: &Entry<N>,
    ) {
        let quotas = self.quotas();
        self.meta.remove(entry, quotas);
        table.remove(&self.writer, index);
    }

    /// The entry of these states, which are spilled if they have no room in it.
    pub(super) fn pack<const N: usize>(
        &mut self,
        address: &Address,
        policy: u64,
        states: StatesByQuota,
    ) -> Entry<N> {
        let quotas = self.quotas();
        let packed = states
            .single()
            .and_then(|(quota, state)| Entry::pack(address, policy, state, quota, quotas));
        packed.unwrap_or_else(|| {
            let expires_at = expires_at(&states, self.now);
            let number = states.iter().find_map(|(quota, _)| quotas.intern(policy, quota));
            let index = self.meta.spilled.insert(states);
            Entry::spilled(address, number.unwrap_or(NO_NUMBER), expires_at, index)
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

    pub(super) fn is_expired_at(&self, index: usize) -> bool {
        let Self { shard, writer, now, meta, .. } = self;
        with_table!(at index, shard, (table, index) => {
            // Most have not expired: then there is no need to wait for threads that charge them.
            table.peek(index).is_expired(self.quotas(), *now)
                && meta.is_expired(&table.get(writer, index), self.quotas(), *now)
        })
    }

    /// The states of the key in a slot, and its policy; `None` if the slot is empty.
    pub(super) fn states_at(&self, index: usize) -> Option<(u64, StatesByQuota)> {
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.get(&self.writer, index);
            let policy = self.quotas().policy(entry.quota_number());
            (!entry.is_empty()).then(|| (policy, self.meta.states(&entry, self.quotas())))
        })
    }

    /// Removes the key in a slot, which has one. The slot is swept next again, as another key may
    /// have moved there.
    pub(super) fn remove_at(&mut self, index: usize) {
        self.meta.cursor = index;
        with_table!(at index, self.shard, (table, index) => {
            let entry = table.get(&self.writer, index);
            self.remove(table, index, &entry);
        });
    }
}
