//! The units of one key: [`Pool`], and what it reserves for a request: [`ReservedCharge`].

use std::mem;

use tokio::sync::watch;

use super::lease::{Lease, give_back};
use crate::{
    clock::nanos,
    store::{Charge, Correction, Usage},
};

/// A batch that a request has asked the server for. It changes when the batch has come in full. It is
/// closed when fewer units have come, or none.
pub(crate) type BatchInFlight = watch::Receiver<()>;

pub(super) struct Pool {
    /// The latest charge of its key and policy, which has their current quota and lease.
    pub(super) charge: Charge,
    /// Units to spend.
    pub(super) available: u64,
    /// Units that requests hold while they ask a server, for more units or for other policies.
    pub(super) reserved: u64,
    /// The lease of the available units; if they have several, the one that expires first.
    pub(super) lease: Lease,
    /// How much remained at the server when it last answered, and when that grows.
    remaining: u64,
    resets_at: u64,
    pub(super) batch: Option<BatchInFlight>,
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
    /// What the server is to charge, if the reserved units are too few. Its lease is the batch.
    pub(super) to_server: Option<Charge>,
    /// Closes the pool's [`BatchInFlight`] when it is dropped.
    pub(super) batch: Option<watch::Sender<()>>,
    /// The answer if the server need not be asked.
    pub(super) usage: Usage,
}

impl Pool {
    pub(super) fn new(charge: &Charge) -> Self {
        Self {
            charge: *charge,
            available: 0,
            reserved: 0,
            lease: Lease::NONE,
            remaining: 0,
            resets_at: 0,
            batch: None,
            is_scheduled: false,
        }
    }

    /// Whether there are enough units for a charge and for the requests ahead of it.
    #[inline]
    pub(super) fn covers(&self, charge: &Charge, now: u64) -> bool {
        self.available >= charge.ahead.saturating_add(charge.cost)
            && !self.lease.has_expired(now)
            && self.charge.quota == charge.quota
    }

    /// The answer to a charge that was covered.
    #[inline]
    pub(super) fn usage(&self, now: u64) -> Usage {
        let remaining = self.remaining.saturating_add(self.available);
        // Once more units are back at the server, the next batch shows it.
        let grows_at = if self.resets_at > now { self.resets_at } else { self.lease.expires_at };
        Usage::from_nanos(0, remaining, grows_at.saturating_sub(now))
    }

    /// Reserves what a charge costs, or all that there is. In the second case the charge is to ask the
    /// server for the rest, and for a batch unless one is on its way.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "units are parts of what they are taken from, and a batch is part of a lease"
    )]
    pub(super) fn reserve(&mut self, charge: &Charge, now: u64) -> ReservedCharge {
        let wanted = charge.ahead.saturating_add(charge.cost);
        let is_covered = self.covers(charge, now);
        let units = if is_covered { charge.cost } else { self.available };
        let room = u64::from(charge.lease).saturating_sub(self.reserved).saturating_sub(units);
        self.available -= units;
        self.reserved = self.reserved.saturating_add(units);
        let mut reserved = ReservedCharge::pooled(charge, units, self.lease);
        if is_covered {
            reserved.usage = self.usage(now);
            return reserved;
        }
        let cost = charge.cost.saturating_sub(units);
        let batch = if room > cost && self.batch.is_none() { room } else { 0 };
        if batch > 0 {
            let (sender, receiver) = watch::channel(());
            (self.batch, reserved.batch) = (Some(receiver), Some(sender));
        }
        let ahead = wanted - units - cost;
        reserved.to_server = Some(Charge { cost, ahead, lease: batch as u32, ..*charge });
        reserved
    }

    /// Adds units, and gives back those that the lease has no room for.
    pub(super) fn deposit(&mut self, units: u64, lease: Lease) -> Option<Correction> {
        if units == 0 {
            return None;
        }
        self.lease = if self.available == 0 { lease } else { self.lease.earlier(lease) };
        let held = self.available.saturating_add(self.reserved);
        let room = u64::from(self.charge.lease).saturating_sub(held);
        self.available = self.available.saturating_add(units.min(room));
        give_back(&self.charge, units.saturating_sub(room), lease.taken_at)
    }

    /// Removes the available units, and gives them back.
    pub(super) fn drain(&mut self) -> Option<Correction> {
        give_back(&self.charge, mem::take(&mut self.available), self.lease.taken_at)
    }

    /// Whether it must stay in the table.
    pub(super) fn is_needed(&self) -> bool {
        self.available > 0 || self.reserved > 0 || self.is_scheduled || self.batch.is_some()
    }

    /// Notes what the server has answered.
    pub(super) fn record_reply(&mut self, remaining: u64, usage: &Usage, received_at: u64) {
        self.remaining = remaining;
        self.resets_at = received_at.saturating_add(nanos(usage.reset()));
    }

    /// Notes that a batch is on its way no more.
    pub(super) fn end_batch(&mut self, sender: &watch::Sender<()>) {
        self.batch.take_if(|batch| batch.same_channel(&sender.subscribe()));
    }
}

impl ReservedCharge {
    /// A charge that has no pool: the server is asked for all of it.
    pub(super) fn unpooled(charge: &Charge) -> Self {
        let charge = Charge { lease: 0, ..*charge };
        Self { to_server: Some(charge), ..Self::pooled(&charge, 0, Lease::NONE) }
    }

    fn pooled(charge: &Charge, units: u64, lease: Lease) -> Self {
        let usage = Usage::default();
        Self { charge: *charge, units, lease, to_server: None, batch: None, usage }
    }

    pub(super) fn has_pool(&self) -> bool {
        self.charge.lease > 0
    }
}
