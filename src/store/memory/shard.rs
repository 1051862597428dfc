//! The parts of the store, each with a lock of its own: [`Shards`], and one [`Shard`].

use std::sync::MutexGuard;

use super::{
    address::Address,
    entry::{COUNTER, LOG},
    overflow_counts::OverflowCounts,
    quota_table::QuotaTable,
    seqlock::Version,
    shard_meta::{Budget, ShardMeta},
    table::{Table, Tables},
};
use crate::{algorithm::Algorithm, clock::Now, lock::Mutex, store::Charge};

/// The parts of the store, and what they share.
///
/// The few bytes that a charge needs of a shard lie beside those of the others. So they stay in the
/// processor's cache, however many keys there are: no thread writes them as long as keys neither
/// come nor go.
pub(super) struct Shards {
    versions: Box<[Version]>,
    /// The entries of token buckets and fixed windows.
    pub(super) counters: Tables<COUNTER>,
    /// The entries of sliding windows, which are larger.
    pub(super) logs: Tables<LOG>,
    metas: Box<[Mutex<ShardMeta>]>,
    pub(super) quotas: QuotaTable,
    pub(super) overflow: OverflowCounts,
}

/// A part of the store.
#[derive(Clone, Copy)]
pub(super) struct Shard<'a> {
    pub(super) all: &'a Shards,
    pub(super) number: usize,
}

impl Shards {
    /// So many shards, a power of two, each with this budget.
    pub(super) fn new(count: usize, budget: Budget) -> Self {
        let max_keys = |cost: isize| (budget.left / cost).unsigned_abs();
        Self {
            versions: (0..count).map(|_| Version::default()).collect(),
            counters: Tables::new(count, max_keys(budget.cost.counter)),
            logs: Tables::new(count, max_keys(budget.cost.log)),
            metas: (0..count).map(|_| Mutex::new(ShardMeta::new(budget))).collect(),
            quotas: QuotaTable::new(),
            overflow: OverflowCounts::default(),
        }
    }

    #[inline]
    pub(super) fn count(&self) -> usize {
        self.versions.len()
    }

    #[inline]
    pub(super) fn get(&self, number: usize) -> Shard<'_> {
        Shard { all: self, number }
    }

    /// The shard that a key belongs to.
    #[inline]
    pub(super) fn shard(&self, address: &Address) -> Shard<'_> {
        self.get(address.shard(self.count()))
    }

    /// The number of the shard in which a charge is counted.
    pub(super) fn number(&self, charge: &Charge) -> usize {
        Address::of(charge).shard(self.count())
    }

    /// How many keys have entries, each once per policy.
    pub(super) fn keys(&self) -> usize {
        (0..self.count()).map(|number| self.get(number).meta().keys()).sum()
    }

    /// How many of these have a state outside of their entry.
    #[cfg(test)]
    pub(super) fn spilled(&self) -> usize {
        (0..self.count()).map(|number| self.get(number).meta().spilled.len()).sum()
    }

    /// How many of these have used units that have not come back. One shard is locked at a time,
    /// and charges of known keys do not wait for it.
    pub(super) fn live_keys(&self, now: Now) -> usize {
        let live = |number| {
            let shard = self.get(number);
            let meta = shard.meta();
            shard.counters().count(|entry| !meta.is_expired(entry, &self.quotas, now))
                + shard.logs().count(|entry| !meta.is_expired(entry, &self.quotas, now))
        };
        (0..self.count()).map(live).sum()
    }
}

impl<'a> Shard<'a> {
    #[inline]
    pub(super) fn version(self) -> &'a Version {
        &self.all.versions[self.number]
    }

    #[inline]
    pub(super) fn counters(self) -> Table<'a, COUNTER> {
        self.all.counters.get(self.number)
    }

    #[inline]
    pub(super) fn logs(self) -> Table<'a, LOG> {
        self.all.logs.get(self.number)
    }

    /// Makes the processor fetch the entries that the key may have here.
    #[inline]
    pub(super) fn prefetch(self, address: &Address, algorithm: Algorithm) {
        match algorithm {
            // A log's entry reaches from one line of the cache into the next.
            Algorithm::SlidingWindow => self.logs().prefetch(address, &[0, 1]),
            // The entries of a few policies lie in two or three lines.
            _ => self.counters().prefetch(address, &[0, 2, 5]),
        }
    }

    /// If a thread has panicked under the mutex, the data is whole all the same.
    pub(super) fn meta(self) -> MutexGuard<'a, ShardMeta> {
        self.all.metas[self.number].lock()
    }
}

/// Runs something with one of a shard's two tables, which are of different types: that of logs or
/// of counters, or that of a slot's index, as [`LockedShard`](super::locked_shard::LockedShard)
/// numbers the slots of both.
macro_rules! with_table {
    (if $uses_log:expr, $shard:expr, $table:ident => $run:expr) => {
        if $uses_log {
            let $table = $shard.logs();
            $run
        } else {
            let $table = $shard.counters();
            $run
        }
    };
    (at $index:expr, $shard:expr, ($table:ident, $at:ident) => $run:expr) => {
        match $index.checked_sub($shard.counters().capacity()) {
            None => {
                let ($table, $at) = ($shard.counters(), $index);
                $run
            }
            Some($at) => {
                let $table = $shard.logs();
                $run
            }
        }
    };
}
pub(super) use with_table;
