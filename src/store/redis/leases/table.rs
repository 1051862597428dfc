//! The pools of all keys, and the units that are to go back to the server: [`LeaseTable`].

use std::{
    cmp::Reverse,
    collections::{
        BinaryHeap, HashMap,
        binary_heap::PeekMut,
        hash_map::{Entry, OccupiedEntry},
    },
    hash::BuildHasherDefault,
    mem,
    sync::MutexGuard,
};

use ahash::AHasher;
use smallvec::SmallVec;
use tokio::task::AbortHandle;

use super::{
    lease::{Lease, give_back, is_leased, units_taken},
    pool::{BatchInFlight, Pool, ReservedCharge},
};
use crate::{
    clock::Now,
    lock::Mutex,
    store::{Answer, Charge, Correction, Usage, redis::clock::RoundTrip},
};

pub(super) const SEGMENTS: usize = 64;
/// The most pools that one sweep looks at.
const MAX_SWEPT: usize = 1_024;

/// Locks are taken in this order: a segment, then the return queue. Both are held briefly, and never
/// while a server is asked.
pub(crate) struct LeaseTable {
    pub(super) segments: Box<[Mutex<Segment>]>,
    max_pools_per_segment: usize,
    returns: Mutex<ReturnQueue>,
}

/// Its keys are fingerprints, which no caller chooses.
pub(super) type Segment = HashMap<u128, Pool, BuildHasherDefault<AHasher>>;

/// What is to go back to the server in the background.
#[derive(Default)]
struct ReturnQueue {
    /// When to look at which pool.
    schedule: BinaryHeap<Reverse<(u64, u128)>>,
    /// Units that belong to no pool any more.
    unpooled: Vec<Correction>,
    /// The task that sweeps, perhaps of a runtime that has ended.
    sweeper: Option<AbortHandle>,
}

impl LeaseTable {
    /// For this many keys. Charges of other keys are made one by one at the server.
    pub(crate) fn new(max_keys: usize) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            max_pools_per_segment: max_keys.div_ceil(SEGMENTS),
            returns: Mutex::default(),
        }
    }

    /// The units for a charge that are here and may be spent.
    pub(crate) fn held(&self, charge: &Charge, now: u64) -> u64 {
        if !is_leased(charge) {
            return 0;
        }
        let segment = self.segment(charge.id());
        let fits = |pool: &&Pool| pool.charge.quota == charge.quota && !pool.lease.has_expired(now);
        segment.get(&charge.id()).filter(fits).map_or(0, |pool| pool.available)
    }

    /// Whether a charge can be spent here and now.
    pub(crate) fn covers(&self, charge: &Charge, now: u64) -> bool {
        let covers = |pool: &Pool| pool.covers(charge, now);
        is_leased(charge) && self.segment(charge.id()).get(&charge.id()).is_some_and(covers)
    }

    /// Spends what a charge costs, if the pool covers it.
    #[expect(clippy::arithmetic_side_effects, reason = "the pool covers the cost")]
    pub(crate) fn spend(&self, charge: &Charge, now: u64) -> Option<Answer> {
        if !is_leased(charge) {
            return None;
        }
        let mut segment = self.segment(charge.id());
        let pool = segment.get_mut(&charge.id()).filter(|pool| pool.covers(charge, now))?;
        pool.available -= charge.cost;
        Some(Answer {
            usages: [pool.usage(now)].into_iter().collect(),
            at: pool.lease.server_time(now),
        })
    }

    /// Reserves units for a charge. Units that cannot be spent any more are added to `expired`. Where
    /// a batch is on its way that the request needs and may wait for, nothing is reserved.
    pub(super) fn reserve(
        &self,
        charge: &Charge,
        now: u64,
        may_wait: bool,
        expired: &mut SmallVec<[Correction; 1]>,
    ) -> Result<ReservedCharge, BatchInFlight> {
        if !is_leased(charge) {
            return Ok(ReservedCharge::unpooled(charge));
        }
        let mut segment = self.segment(charge.id());
        let has_room = segment.len() < self.max_pools_per_segment;
        let pool = match segment.entry(charge.id()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if has_room => new.insert(Pool::new(charge)),
            Entry::Vacant(_) => return Ok(ReservedCharge::unpooled(charge)),
        };
        let has_other_quota = pool.charge.quota != charge.quota;
        match pool.batch.as_ref().filter(|_| !pool.covers(charge, now)) {
            Some(batch) if may_wait => return Err(batch.clone()),
            Some(_) if has_other_quota => return Ok(ReservedCharge::unpooled(charge)),
            _ => {}
        }
        if has_other_quota || pool.lease.has_expired(now) {
            expired.extend(pool.drain());
        }
        pool.charge = *charge;
        Ok(pool.reserve(charge, now))
    }

    /// Puts what the server has taken for a charge into its pool, but for the cost, which stays
    /// reserved. Returns the request's usage.
    pub(super) fn apply_batch(
        &self,
        reserved: &mut ReservedCharge,
        asked: &Charge,
        usage: &Usage,
        taken_at: Now,
        times: RoundTrip,
    ) -> Usage {
        let taken = units_taken(asked, usage);
        let remaining = match asked.lease {
            0 => usage.remaining(),
            _ => usage.remaining().saturating_sub(taken),
        };
        let lease = Lease::new(asked, usage, taken_at, times);
        let (cost, had) = (reserved.charge.cost, reserved.units);
        // The oldest units are spent first.
        let rest = had.saturating_add(taken).saturating_sub(cost);
        let rest_lease = if had > cost { reserved.lease.earlier(lease) } else { lease };
        reserved.lease = if had > 0 { reserved.lease.earlier(lease) } else { lease };
        reserved.units = cost;

        let slot = reserved.charge.id();
        let mut segment = self.segment(slot);
        let quota = reserved.charge.quota;
        let Some(pool) = segment.get_mut(&slot).filter(|pool| pool.charge.quota == quota) else {
            // The key was reset since, or has another quota.
            self.return_later(give_back(&reserved.charge, rest, taken_at));
            return with_remaining(usage, remaining);
        };
        if let Some(sender) = reserved.batch.take() {
            pool.end_batch(&sender);
            if taken == u64::from(asked.lease) {
                sender.send_replace(());
            }
        }
        pool.reserved = pool.reserved.saturating_sub(had).saturating_add(cost);
        let unwanted = pool.deposit(rest, rest_lease);
        pool.record_reply(remaining, usage, times.received);
        let available = pool.available;
        self.return_later(unwanted);
        with_remaining(usage, remaining.saturating_add(available))
    }

    /// Ends a reservation: its units are spent, or go back to their pool.
    pub(super) fn release(&self, reserved: ReservedCharge, is_spent: bool) {
        let ReservedCharge { charge, units, lease, batch, .. } = reserved;
        let unspent = if is_spent { 0 } else { units };
        let slot = charge.id();
        let mut segment = self.segment(slot);
        let Entry::Occupied(mut known) = segment.entry(slot) else {
            return self.return_later(give_back(&charge, unspent, lease.taken_at));
        };
        let pool = known.get_mut();
        pool.reserved = pool.reserved.saturating_sub(units);
        if let Some(sender) = batch {
            pool.end_batch(&sender);
        }
        let unwanted = if pool.charge.quota == charge.quota {
            pool.deposit(unspent, lease)
        } else {
            give_back(&charge, unspent, lease.taken_at)
        };
        self.schedule_or_remove(slot, known);
        self.return_later(unwanted);
    }

    /// Removes what is to go back to the server: units that belong to no pool, and those that have
    /// expired. `false`: nothing will be left to sweep, and the sweeper ends.
    pub(crate) fn sweep(&self, now: u64) -> (Vec<Correction>, bool) {
        let mut returns = self.returns.lock();
        let mut back = mem::take(&mut returns.unpooled);
        let mut due: SmallVec<[u128; 16]> = SmallVec::new();
        while due.len() < MAX_SWEPT
            && let Some(first) = returns.schedule.peek_mut()
            && first.0.0 <= now
        {
            due.push(PeekMut::pop(first).0.1);
        }
        drop(returns);
        for slot in due {
            let mut segment = self.segment(slot);
            let Entry::Occupied(mut known) = segment.entry(slot) else { continue };
            let pool = known.get_mut();
            pool.is_scheduled = false;
            if pool.lease.has_expired(now) {
                back.extend(pool.drain());
            }
            self.schedule_or_remove(slot, known);
        }
        let mut returns = self.returns.lock();
        let goes_on = !returns.is_empty();
        if !goes_on {
            returns.sweeper = None;
        }
        (back, goes_on)
    }

    /// Starts a task that [sweeps](Self::sweep), if there is something to sweep and no such task.
    pub(crate) fn start_sweeper(&self, start: impl FnOnce() -> AbortHandle) {
        let mut returns = self.returns.lock();
        if !returns.is_empty() && returns.sweeper.as_ref().is_none_or(AbortHandle::is_finished) {
            returns.sweeper = Some(start());
        }
    }

    /// Removes all units that are not reserved, to be given back.
    pub(crate) fn drain(&self) -> Vec<Correction> {
        let mut back = mem::take(&mut self.returns.lock().unpooled);
        for segment in &self.segments {
            let mut segment = segment.lock();
            back.extend(segment.values_mut().filter_map(Pool::drain));
            segment.retain(|_, pool| pool.is_needed());
        }
        back
    }

    /// Drops the pool of a key that is reset. Its units count no more, so none go back.
    pub(crate) fn forget(&self, charge: &Charge) {
        self.segment(charge.id()).remove(&charge.id());
    }

    /// Schedules a check of a pool for when its units expire, or removes a pool that is no longer needed.
    fn schedule_or_remove(&self, slot: u128, mut known: OccupiedEntry<'_, u128, Pool>) {
        let pool = known.get_mut();
        if pool.available > 0 && !pool.is_scheduled {
            pool.is_scheduled = true;
            self.returns.lock().schedule.push(Reverse((pool.lease.expires_at, slot)));
        } else if !pool.is_needed() {
            known.remove();
        }
    }

    pub(super) fn return_later(&self, corrections: impl IntoIterator<Item = Correction>) {
        let mut corrections = corrections.into_iter().peekable();
        if corrections.peek().is_some() {
            self.returns.lock().unpooled.extend(corrections);
        }
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of segments")]
    fn segment(&self, slot: u128) -> MutexGuard<'_, Segment> {
        let segment = &self.segments[slot as usize % SEGMENTS];
        segment.lock()
    }
}

impl ReturnQueue {
    fn is_empty(&self) -> bool {
        self.schedule.is_empty() && self.unpooled.is_empty()
    }
}

/// The same usage with other units left, if it is known.
pub(super) fn with_remaining(usage: &Usage, remaining: u64) -> Usage {
    if !usage.is_known() {
        return *usage;
    }
    Usage::new(usage.wait(), remaining, usage.reset())
}
