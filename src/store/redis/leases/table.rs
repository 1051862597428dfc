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
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ahash::AHasher;
use smallvec::SmallVec;
use tokio::task::AbortHandle;

use super::{
    lease::{Lease, give_back, is_leased, units_taken},
    pool::{Pool, ReservedCharge},
    queue::{Baton, Deliveries, Grant, Waiting},
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
    /// How many batons have begun.
    batons: AtomicU64,
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
            batons: AtomicU64::new(0),
        }
    }

    /// The units for a charge that are here and may be spent.
    pub(crate) fn held(&self, charge: &Charge, now: u64) -> u64 {
        if !is_leased(charge) {
            return 0;
        }
        let segment = self.segment(charge.id());
        let fits = |pool: &&Pool| {
            pool.charge.quota == charge.quota && !pool.units.lease().has_expired(now)
        };
        segment.get(&charge.id()).filter(fits).map_or(0, |pool| pool.units.available())
    }

    /// Whether a charge can be spent here and now.
    pub(crate) fn covers(&self, charge: &Charge, now: u64) -> bool {
        let covers = |pool: &Pool| pool.covers(charge, now);
        is_leased(charge) && self.segment(charge.id()).get(&charge.id()).is_some_and(covers)
    }

    /// Spends what a charge costs, if the pool covers it. With it comes the baton to ask for the next batch,
    /// if it is time for that.
    pub(crate) fn spend(
        self: &Arc<Self>,
        charge: &Charge,
        now: u64,
    ) -> Option<(Answer, Option<Baton>)> {
        if !is_leased(charge) {
            return None;
        }
        let mut segment = self.segment(charge.id());
        let pool = segment.get_mut(&charge.id()).filter(|pool| pool.covers(charge, now))?;
        let at = pool.units.lease().server_time(now);
        pool.take(charge.cost);
        let usages = [pool.usage(now)].into_iter().collect();
        let baton = pool.needs_batch().then(|| pool.new_baton(self, charge));
        Some((Answer { usages, at }, baton))
    }

    /// Has a request wait where another one has the baton, if this one needs units and may wait.
    pub(crate) fn join_queue(&self, charge: &Charge, now: u64) -> Option<Waiting> {
        if !is_leased(charge) || is_large(charge) {
            return None;
        }
        let mut segment = self.segment(charge.id());
        let pool = segment.get_mut(&charge.id())?;
        let waits =
            pool.baton.is_some() && pool.charge.quota == charge.quota && !pool.covers(charge, now);
        waits.then(|| pool.wait(charge))
    }

    /// The baton to ask for the next batch, if it is time for that.
    pub(crate) fn baton_if_low(self: &Arc<Self>, charge: &Charge) -> Option<Baton> {
        let mut segment = self.segment(charge.id());
        let fits = |pool: &&mut Pool| pool.charge.quota == charge.quota && pool.needs_batch();
        let pool = segment.get_mut(&charge.id()).filter(fits)?;
        Some(pool.new_baton(self, charge))
    }

    /// Reserves units for a charge. Units that cannot be spent any more are added to `expired`. Where
    /// another request has the baton and this one may wait, nothing is reserved.
    pub(super) fn reserve(
        self: &Arc<Self>,
        charge: &Charge,
        now: u64,
        may_wait: bool,
        baton: Option<u64>,
        expired: &mut SmallVec<[Correction; 2]>,
    ) -> Result<ReservedCharge, Waiting> {
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
        let mut baton = baton.filter(|_| pool.baton == baton);
        let has_other_quota = pool.charge.quota != charge.quota;
        let is_large = is_large(charge);
        if pool.baton.is_some() && baton.is_none() && !pool.covers(charge, now) {
            if has_other_quota {
                return Ok(ReservedCharge::unpooled(charge));
            }
            if may_wait && !is_large {
                return Err(pool.wait(charge));
            }
        }
        expired.extend(if has_other_quota { pool.drain() } else { pool.drain_expired(now) });
        pool.charge = *charge;
        if pool.baton.is_none() && !is_large && !pool.covers(charge, now) {
            baton = pool.new_baton(self, charge).take();
        }
        Ok(pool.reserve(charge, now, baton))
    }

    /// Reserves nothing, for a command that asks for a batch ahead of its use.
    pub(super) fn reserve_ahead(&self, baton: Baton, now: u64) -> Option<ReservedCharge> {
        let charge = Charge { cost: 0, ahead: 0, ..baton.charge };
        let mut segment = self.segment(charge.id());
        let pool = segment.get_mut(&charge.id()).filter(|pool| pool.baton == baton.number)?;
        let number = baton.number;
        let reserved = pool.reserve(&charge, now, number);
        let asks = reserved.to_server.is_some_and(|charge| charge.lease > 0);
        drop(segment);
        asks.then(|| {
            baton.take();
            reserved
        })
    }

    /// The answer to a charge that was handed its units.
    pub(super) fn usage(&self, charge: &Charge, now: u64) -> Usage {
        let segment = self.segment(charge.id());
        // Of a key that was reset since, nothing is known.
        segment.get(&charge.id()).map_or_else(Usage::unknown, |pool| pool.usage(now))
    }

    /// Reserves the units of a grant.
    pub(super) fn hold(&self, grant: &Grant) {
        if let Some(pool) = self.segment(grant.charge.id()).get_mut(&grant.charge.id()) {
            pool.reserved = pool.reserved.saturating_add(grant.charge.cost);
        }
    }

    /// Puts what the server has taken for a charge into its pool, but for the cost, which stays
    /// reserved. Returns the request's usage.
    pub(super) fn apply_batch(
        self: &Arc<Self>,
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
        pool.reserved = pool.reserved.saturating_sub(had).saturating_add(cost);
        pool.demand.return_units(had);
        pool.demand.use_units(cost);
        pool.record_reply(remaining, usage, times);
        let (baton, is_full) = (reserved.baton.take(), taken >= asked.lease.into());
        let mut deliveries = Deliveries::default();
        let unwanted = pool.receive(self, (rest, rest_lease), baton, is_full, &mut deliveries);
        let available = pool.units.available();
        drop(segment);
        self.return_later(unwanted);
        deliveries.send();
        with_remaining(usage, remaining.saturating_add(available))
    }

    /// Ends a reservation: its units are spent, or go back to their pool.
    pub(super) fn release(self: &Arc<Self>, reserved: ReservedCharge, is_spent: bool) {
        let ReservedCharge { charge, units, lease, baton, .. } = reserved;
        if let Some(pool) = self.segment(charge.id()).get_mut(&charge.id()) {
            pool.reserved = pool.reserved.saturating_sub(units);
        }
        self.put_back(&charge, if is_spent { 0 } else { units }, lease);
        if let Some(number) = baton {
            self.pass_on(&charge, number);
        }
    }

    /// Puts units back that a request has not spent.
    pub(super) fn put_back(self: &Arc<Self>, charge: &Charge, units: u64, lease: Lease) {
        let slot = charge.id();
        let mut segment = self.segment(slot);
        let Entry::Occupied(mut known) = segment.entry(slot) else {
            return self.return_later(give_back(charge, units, lease.taken_at));
        };
        let pool = known.get_mut();
        let mut deliveries = Deliveries::default();
        if units > 0 && pool.charge.quota == charge.quota {
            self.return_later(pool.put_back(self, units, lease, &mut deliveries));
        } else {
            self.return_later(give_back(charge, units, lease.taken_at));
        }
        self.schedule_or_remove(slot, known);
        drop(segment);
        deliveries.send();
    }

    /// Gives a baton that was not used to the next in the queue.
    pub(super) fn pass_on(self: &Arc<Self>, charge: &Charge, number: u64) {
        self.end_baton(charge, number, |pool, deliveries| pool.pass_on(self, deliveries));
    }

    /// Ends a baton that has brought nothing: all that wait decide anew.
    pub(super) fn close(&self, charge: &Charge, number: u64) {
        self.end_baton(charge, number, Pool::close);
    }

    fn end_baton(
        &self,
        charge: &Charge,
        number: u64,
        end: impl FnOnce(&mut Pool, &mut Deliveries),
    ) {
        let slot = charge.id();
        let mut segment = self.segment(slot);
        let Entry::Occupied(mut known) = segment.entry(slot) else { return };
        let mut deliveries = Deliveries::default();
        if known.get().baton == Some(number) {
            end(known.get_mut(), &mut deliveries);
            self.schedule_or_remove(slot, known);
        }
        drop(segment);
        deliveries.send();
    }

    pub(super) fn baton_number(&self) -> u64 {
        self.batons.fetch_add(1, Relaxed)
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
            back.extend(pool.drain_expired(now));
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
            back.extend(segment.values_mut().flat_map(Pool::drain));
            segment.retain(|_, pool| pool.is_needed());
        }
        back
    }

    /// Drops the pool of a key that is reset. Its units count no more, so none go back.
    pub(crate) fn forget(&self, charge: &Charge) {
        let forgotten = self.segment(charge.id()).remove(&charge.id());
        // Those who wait decide anew, once the lock is free.
        drop(forgotten);
    }

    /// Schedules a check of a pool for when its lease expires, or removes a pool that is no longer needed. Until
    /// then, a pool without units keeps how fast they were used.
    fn schedule_or_remove(&self, slot: u128, mut known: OccupiedEntry<'_, u128, Pool>) {
        let pool = known.get_mut();
        let expires_at = pool.units.lease().expires_at;
        if expires_at > 0 && !pool.is_scheduled {
            pool.is_scheduled = true;
            self.returns.lock().schedule.push(Reverse((expires_at, slot)));
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

/// Whether a charge uses up a batch alone. Its request does not wait for others.
fn is_large(charge: &Charge) -> bool {
    charge.cost >= charge.lease.into()
}

/// The same usage with other units left, if it is known.
pub(super) fn with_remaining(usage: &Usage, remaining: u64) -> Usage {
    if !usage.is_known() {
        return *usage;
    }
    Usage::new(usage.wait(), remaining, usage.reset())
}
