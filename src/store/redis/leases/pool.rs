//! The units of one key, and who waits for them: [`Pool`]; and what it reserves for a request:
//! [`ReservedCharge`].

use std::{collections::VecDeque, sync::Arc};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{
    demand::Demand,
    lease::{Lease, give_back, lifetime},
    queue::{Baton, Deliveries, Grant, Handed, Waiter, Waiting},
    table::LeaseTable,
    units::Units,
};
use crate::{
    clock::nanos,
    store::{Charge, Correction, Usage, redis::clock::RoundTrip},
};

pub(super) struct Pool {
    /// The latest charge of its key and policy, which has their current quota and lease.
    pub(super) charge: Charge,
    /// Units to spend.
    pub(super) units: Units,
    /// Units that requests hold while they ask a server, for more units or for other policies.
    pub(super) reserved: u64,
    pub(super) demand: Demand,
    /// How much remained at the server when it last answered, and when that grows.
    remaining: u64,
    resets_at: u64,
    /// The number of the [`Baton`] that asks the server.
    pub(super) baton: Option<u64>,
    /// In the order of their arrival. None wait while no baton asks.
    waiters: VecDeque<Waiter>,
    /// Whether the pool will be checked when its lease expires.
    pub(super) is_scheduled: bool,
}

/// One charge of a request: what is reserved for it, and what the server is asked for.
pub(super) struct ReservedCharge {
    /// With a lease of 0 if it has no pool.
    pub(super) charge: Charge,
    /// The units that are reserved, and their lease.
    pub(super) units: u64,
    pub(super) lease: Lease,
    /// What the server is to charge, if the reserved units are too few. Its lease is how many units it
    /// may take in all.
    pub(super) to_server: Option<Charge>,
    /// The number of its baton, if it asks for others too.
    pub(super) baton: Option<u64>,
    /// The answer if the server need not be asked.
    pub(super) usage: Usage,
}

impl Pool {
    pub(super) fn new(charge: &Charge) -> Self {
        Self {
            charge: *charge,
            units: Units::NONE,
            reserved: 0,
            demand: Demand::new(),
            remaining: 0,
            resets_at: 0,
            baton: None,
            waiters: VecDeque::new(),
            is_scheduled: false,
        }
    }

    /// Whether there are enough units for a charge and for the requests ahead of it.
    #[inline]
    pub(super) fn covers(&self, charge: &Charge, now: u64) -> bool {
        self.units.available() >= charge.units_required()
            && !self.units.lease().has_expired(now)
            && self.charge.quota == charge.quota
    }

    /// The answer to a charge that was covered.
    #[inline]
    pub(super) fn usage(&self, now: u64) -> Usage {
        let remaining = self.remaining.saturating_add(self.units.available());
        // Once more units are back at the server, the next batch shows it.
        let grows_at =
            if self.resets_at > now { self.resets_at } else { self.units.lease().expires_at };
        Usage::from_nanos(0, remaining, grows_at.saturating_sub(now))
    }

    /// Takes units which are there.
    #[inline]
    pub(super) fn take(&mut self, units: u64) {
        self.units.take(units);
        self.demand.use_units(units);
    }

    /// Whether the next batch is to be asked for now.
    #[inline]
    pub(super) fn needs_batch(&self) -> bool {
        self.demand.is_low(self.units.available()) && self.baton.is_none()
    }

    /// Reserves what a charge costs, or all that there is. In the second case the charge is to ask the
    /// server for the rest. With a baton, it also asks for a batch, and for all that wait.
    pub(super) fn reserve(
        &mut self,
        charge: &Charge,
        now: u64,
        baton: Option<u64>,
    ) -> ReservedCharge {
        let is_covered = self.covers(charge, now) && charge.cost > 0;
        let wanted = charge.units_required();
        let units = if is_covered { charge.cost } else { self.units.available().min(wanted) };
        let pooled = ReservedCharge::pooled(charge, units, self.units.lease());
        let mut reserved = ReservedCharge { baton, ..pooled };
        self.take(units);
        if is_covered {
            self.reserved = self.reserved.saturating_add(units);
            reserved.usage = self.usage(now);
            return reserved;
        }
        let cost = charge.cost.saturating_sub(units);
        let ahead = wanted.saturating_sub(units).saturating_sub(cost);
        let lease = if baton.is_some() { self.batch(cost, units, charge, now) } else { 0 };
        self.reserved = self.reserved.saturating_add(units);
        reserved.to_server = Some(Charge { cost, ahead, lease, ..*charge });
        reserved
    }

    /// How many units to ask for, a cost that the server is to charge included; 0 if that is all.
    fn batch(&mut self, cost: u64, units: u64, charge: &Charge, now: u64) -> u32 {
        let size = self.demand.next_batch(now, lifetime(&charge.quota), charge.lease.into());
        let held = self.units.available().saturating_add(self.reserved).saturating_add(units);
        self.waiters.retain(|waiter| !waiter.to.is_closed());
        let join = |sum: u64, waiter: &mut Waiter| {
            waiter.is_joined = true;
            sum.saturating_add(waiter.charge.cost)
        };
        let joined = self.waiters.iter_mut().fold(0, join);
        let batch = size.saturating_sub(held).max(cost).saturating_add(joined);
        if batch > cost { u32::try_from(batch).unwrap_or(u32::MAX) } else { 0 }
    }

    /// Has a request wait for the baton that asks the server now.
    pub(super) fn wait(&mut self, charge: &Charge) -> Waiting {
        let (to, waiting) = oneshot::channel();
        self.waiters.push_back(Waiter { charge: *charge, is_joined: false, to });
        waiting
    }

    /// Adds the units of a reply, serves those who wait, and ends the baton that has asked.
    pub(super) fn receive(
        &mut self,
        leases: &Arc<LeaseTable>,
        (units, lease): (u64, Lease),
        baton: Option<u64>,
        is_full: bool,
        deliveries: &mut Deliveries,
    ) -> SmallVec<[Correction; 2]> {
        self.units.put(units, lease);
        // Units beyond the lease are for those that the server was asked for.
        self.serve(leases, deliveries, |waiter| waiter.is_joined);
        let unwanted = self.trim();
        self.serve(leases, deliveries, |_| true);
        match baton.filter(|_| self.baton == baton) {
            Some(_) if is_full => self.pass_on(leases, deliveries),
            Some(_) => self.close(deliveries),
            None => {}
        }
        unwanted
    }

    /// Adds units that were taken before, and gives back those that the lease has no room for.
    pub(super) fn put_back(
        &mut self,
        leases: &Arc<LeaseTable>,
        units: u64,
        lease: Lease,
        deliveries: &mut Deliveries,
    ) -> SmallVec<[Correction; 2]> {
        self.demand.return_units(units);
        self.units.put(units, lease);
        let unwanted = self.trim();
        self.serve(leases, deliveries, |_| true);
        unwanted
    }

    /// Hands units to those who wait, in the order of their arrival, as long as there are enough.
    fn serve(
        &mut self,
        leases: &Arc<LeaseTable>,
        deliveries: &mut Deliveries,
        is_served: impl Fn(&Waiter) -> bool,
    ) {
        while let Some(first) = self.waiters.front().filter(|first| is_served(first)) {
            let is_closed = first.to.is_closed();
            if !is_closed && self.units.available() < first.charge.units_required() {
                return;
            }
            let Some(Waiter { charge, to, .. }) = self.waiters.pop_front() else { return };
            if is_closed {
                continue;
            }
            let lease = self.units.lease();
            self.take(charge.cost);
            let grant = Grant { leases: Arc::clone(leases), charge, lease, is_taken: false };
            deliveries.handed.push((to, Handed::Units(grant)));
        }
    }

    /// Gives back the units that the lease has no room for.
    fn trim(&mut self) -> SmallVec<[Correction; 2]> {
        let room = u64::from(self.charge.lease).saturating_sub(self.reserved);
        let beyond = self.units.available().saturating_sub(room);
        let removed = self.units.remove(beyond);
        self.give_back(removed)
    }

    /// Passes the baton to the next in the queue, or ends it.
    pub(super) fn pass_on(&mut self, leases: &Arc<LeaseTable>, deliveries: &mut Deliveries) {
        self.baton = None;
        while let Some(Waiter { charge, to, .. }) = self.waiters.pop_front() {
            if !to.is_closed() {
                let baton = self.new_baton(leases, &charge);
                return deliveries.handed.push((to, Handed::Baton(baton)));
            }
        }
    }

    /// Ends the baton, and has all that wait decide anew.
    pub(super) fn close(&mut self, deliveries: &mut Deliveries) {
        self.baton = None;
        self.demand.record_shortage();
        deliveries.closed.append(&mut self.waiters);
    }

    pub(super) fn new_baton(&mut self, leases: &Arc<LeaseTable>, charge: &Charge) -> Baton {
        let number = leases.baton_number();
        self.baton = Some(number);
        Baton { leases: Arc::clone(leases), charge: *charge, number: Some(number) }
    }

    /// Removes the available units, and gives them back.
    pub(super) fn drain(&mut self) -> SmallVec<[Correction; 2]> {
        let removed = self.units.remove(self.units.available());
        self.give_back(removed)
    }

    /// The same for those that have expired.
    pub(super) fn drain_expired(&mut self, now: u64) -> SmallVec<[Correction; 2]> {
        let removed = self.units.remove_expired(now);
        self.give_back(removed)
    }

    fn give_back(&self, removed: SmallVec<[(u64, Lease); 2]>) -> SmallVec<[Correction; 2]> {
        let back = |(units, lease): (u64, Lease)| give_back(&self.charge, units, lease.taken_at);
        removed.into_iter().filter_map(back).collect()
    }

    /// Whether it must stay in the table.
    pub(super) fn is_needed(&self) -> bool {
        self.units.available() > 0 || self.reserved > 0 || self.is_scheduled || self.baton.is_some()
    }

    /// Notes what the server has answered.
    pub(super) fn record_reply(&mut self, remaining: u64, usage: &Usage, times: RoundTrip) {
        self.remaining = remaining;
        self.resets_at = times.received.saturating_add(nanos(usage.reset()));
        self.demand.record_reply(times.received.saturating_sub(times.sent));
    }
}

impl ReservedCharge {
    /// A charge that has no pool: the server is asked for all of it.
    pub(super) fn unpooled(charge: &Charge) -> Self {
        let charge = Charge { lease: 0, ..*charge };
        Self { to_server: Some(charge), ..Self::pooled(&charge, 0, Lease::NONE) }
    }

    pub(super) fn pooled(charge: &Charge, units: u64, lease: Lease) -> Self {
        let usage = Usage::default();
        Self { charge: *charge, units, lease, to_server: None, baton: None, usage }
    }

    pub(super) fn has_pool(&self) -> bool {
        self.charge.lease > 0
    }
}
