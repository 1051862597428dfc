//! A request that asks the server: what is reserved for it, and what it asks for.

use std::{collections::hash_map::Entry, sync::Arc};

use smallvec::SmallVec;
use tokio::sync::watch;

use super::{
    Leases, give_back,
    pool::{Lease, Pool},
    taken,
};
use crate::store::{Answer, Charge, Correction, Mode, Usage, Usages};

/// Units in the hands of a request that is on its way. Dropped unspent, they go back to their pools.
pub(in crate::store::redis) struct Asking {
    leases: Arc<Leases>,
    /// For each charge.
    pub(super) parts: SmallVec<[Part; 2]>,
    /// To be given back before anything is taken.
    pub(in crate::store::redis) expired: SmallVec<[Correction; 1]>,
    passes: bool,
    is_spent: bool,
}

/// What one charge has, and lacks.
pub(super) struct Part {
    /// With a lease if it has a pool.
    charge: Charge,
    /// Reserved, under this lease.
    units: u64,
    lease: Lease,
    /// What the server is asked for, if more is needed. A batch is asked for as its lease.
    pub(super) asks: Option<Charge>,
    /// Others wait until this is gone.
    pub(super) filling: Option<watch::Sender<()>>,
    /// What is told if nothing was asked.
    pub(super) told: Usage,
}

impl Part {
    /// Of a charge that has no pool.
    pub(super) fn of_server(charge: &Charge) -> Self {
        let charge = Charge { lease: 0, ..*charge };
        Self { asks: Some(charge), ..Self::of_pool(&charge, 0, Lease::NONE) }
    }

    pub(super) fn of_pool(charge: &Charge, units: u64, lease: Lease) -> Self {
        let told = Usage::default();
        Self { charge: *charge, units, lease, asks: None, filling: None, told }
    }

    #[cfg(test)]
    pub(super) fn units(&self) -> u64 {
        self.units
    }

    fn has_pool(&self) -> bool {
        self.charge.lease > 0
    }
}

impl Asking {
    pub(super) fn new(leases: Arc<Leases>) -> Self {
        let (parts, expired) = (SmallVec::new(), SmallVec::new());
        Self { leases, parts, expired, passes: false, is_spent: false }
    }

    /// What the server is asked for.
    pub(in crate::store::redis) fn charges(&self) -> SmallVec<[Charge; 4]> {
        self.parts.iter().filter_map(|part| part.asks).collect()
    }

    /// Spends all, if the server need not be asked.
    pub(in crate::store::redis) fn spend_covered(&mut self, now: u64) -> Option<Answer> {
        if self.parts.iter().any(|part| part.asks.is_some()) {
            return None;
        }
        self.is_spent = true;
        let usages = self.parts.iter().map(|part| part.told).collect();
        let first = self.parts.first().map(|part| part.lease.server_time(now));
        Some(Answer { usages, at: first? })
    }

    /// What the request is told, when the server was asked and has answered at these times. What is
    /// not needed goes to the pools.
    pub(in crate::store::redis) fn hear(&mut self, answer: &Answer, times: (u64, u64)) -> Answer {
        let asked = self.parts.iter().filter_map(|part| part.asks.as_ref());
        let fits =
            |(charge, usage): (&Charge, &Usage)| charge.mode != Mode::Enforced || usage.fits();
        self.passes = asked.zip(&answer.usages).all(fits);
        let mut told = answer.usages.iter();
        let mut usages = Usages::default();
        for part in &mut self.parts {
            let usage = match &part.asks {
                None if self.passes => part.told,
                None => more(&part.told, part.units),
                Some(asks) => {
                    let Some(usage) = told.next() else { break };
                    if !part.has_pool() {
                        *usage
                    } else if self.passes {
                        let (asks, usage) = (*asks, *usage);
                        self.leases.fill(part, &asks, &usage, answer, times)
                    } else {
                        more(usage, part.units)
                    }
                }
            };
            usages.extend([usage]);
        }
        Answer { usages, at: answer.at }
    }

    /// Whether a charge is spent from a pool.
    pub(in crate::store::redis) fn has_pool(&self, place: usize) -> bool {
        self.parts.get(place).is_some_and(Part::has_pool)
    }

    /// The request knows: if it passes, its units are spent.
    pub(in crate::store::redis) fn told(mut self) {
        self.is_spent = self.passes;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        for part in self.parts.drain(..) {
            if part.has_pool() {
                self.leases.release(part, self.is_spent);
            }
        }
        self.leases.return_later(self.expired.drain(..));
    }
}

impl Leases {
    /// Takes in what the server has taken for a part; what it costs stays reserved.
    fn fill(
        &self,
        part: &mut Part,
        asks: &Charge,
        usage: &Usage,
        answer: &Answer,
        times: (u64, u64),
    ) -> Usage {
        let taken = taken(asks, usage);
        let remaining = if asks.lease > 0 { usage.remaining() - taken } else { usage.remaining() };
        let lease = Lease::new(asks, usage, answer.at, times);
        let cost = part.charge.cost;
        // The oldest units are spent first.
        let rest = (part.units + taken).saturating_sub(cost);
        let rest_lease = if part.units > cost { part.lease.and(lease) } else { lease };
        let had = part.units;
        part.lease = if had > 0 { part.lease.and(lease) } else { lease };
        part.units = cost;

        let slot = part.charge.id();
        let mut segment = self.segment(slot);
        let pool = segment.get_mut(&slot).filter(|pool| pool.charge.quota == part.charge.quota);
        let Some(pool) = pool else {
            // It was reset, or has another quota since.
            let unwanted = give_back(&part.charge, rest, answer.at);
            self.return_later(unwanted);
            return told(usage, remaining);
        };
        if let Some(sender) = part.filling.take() {
            end_filling(pool, &sender);
            if taken == u64::from(asks.lease) {
                sender.send_replace(());
            }
        }
        pool.reserved = pool.reserved.saturating_sub(had).saturating_add(cost);
        let unwanted = pool.put(rest, rest_lease);
        pool.hear(remaining, usage, times.1);
        let left = pool.left;
        self.return_later(unwanted);
        told(usage, remaining.saturating_add(left))
    }

    /// Ends a part: its units are spent, or go back.
    fn release(&self, part: Part, is_spent: bool) {
        let Part { charge, units, lease, filling, .. } = part;
        let units_back = if is_spent { 0 } else { units };
        let slot = charge.id();
        let mut segment = self.segment(slot);
        let known = segment.entry(slot);
        let unwanted = match known {
            Entry::Occupied(mut known) => {
                let pool: &mut Pool = known.get_mut();
                pool.reserved = pool.reserved.saturating_sub(units);
                if let Some(sender) = filling {
                    end_filling(pool, &sender);
                }
                let unwanted = if pool.charge.quota == charge.quota {
                    pool.put(units_back, lease)
                } else {
                    give_back(&charge, units_back, lease.at)
                };
                self.keep_or_drop(slot, known);
                unwanted
            }
            Entry::Vacant(_) => give_back(&charge, units_back, lease.at),
        };
        self.return_later(unwanted);
    }
}

fn end_filling(pool: &mut Pool, sender: &watch::Sender<()>) {
    pool.filling.take_if(|filling| filling.same_channel(&sender.subscribe()));
}

/// With these units as well.
fn more(usage: &Usage, units: u64) -> Usage {
    told(usage, usage.remaining().saturating_add(units))
}

fn told(usage: &Usage, remaining: u64) -> Usage {
    if !usage.is_known() {
        return *usage;
    }
    Usage::new(usage.wait(), remaining, usage.reset())
}
