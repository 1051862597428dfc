//! The units that one request holds while it asks a server: [`Reservation`].

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    pool::ReservedCharge,
    queue::{Baton, Handed, Waiting},
    table::{LeaseTable, with_remaining},
};
use crate::store::{Answer, Charge, Correction, Mode, Usage, redis::clock::RoundTrip};

/// If it is dropped without [`commit`](Self::commit), its units go back to their pools.
pub(crate) struct Reservation {
    leases: Arc<LeaseTable>,
    /// In the order of the request's charges.
    pub(super) charges: SmallVec<[ReservedCharge; 2]>,
    /// Units to give back before anything is charged.
    pub(crate) expired: SmallVec<[Correction; 2]>,
    passes: bool,
    is_spent: bool,
}

impl Reservation {
    /// Reserves what there is, or what the request has waited for. Where another request has the baton to
    /// ask for units, and this one needs them and may wait, nothing is reserved.
    pub(crate) fn new(
        leases: &Arc<LeaseTable>,
        charges: &[Charge],
        now: u64,
        may_wait: bool,
        mut handed: Option<Handed>,
    ) -> Result<Self, Waiting> {
        let mut new = Self::empty(leases);
        for charge in charges {
            let baton = match handed.take_if(|handed| handed.is_for(charge)) {
                Some(Handed::Units(mut grant)) if !grant.lease.has_expired(now) => {
                    let usage = leases.usage(charge, now);
                    leases.hold(&grant);
                    grant.is_taken = true;
                    let reserved = ReservedCharge::pooled(charge, charge.cost, grant.lease);
                    new.charges.push(ReservedCharge { usage, ..reserved });
                    continue;
                }
                Some(Handed::Baton(baton)) => baton.take(),
                Some(Handed::Units(_)) | None => None,
            };
            let reserved = leases.reserve(charge, now, may_wait, baton, &mut new.expired)?;
            new.charges.push(reserved);
        }
        Ok(new)
    }

    /// Asks for a batch ahead of its use; `None` if there is no room for one.
    pub(crate) fn ahead(leases: &Arc<LeaseTable>, baton: Baton, now: u64) -> Option<Self> {
        let mut new = Self::empty(leases);
        new.charges.push(leases.reserve_ahead(baton, now)?);
        Some(new)
    }

    fn empty(leases: &Arc<LeaseTable>) -> Self {
        let (leases, charges, expired) = (Arc::clone(leases), SmallVec::new(), SmallVec::new());
        Self { leases, charges, expired, passes: false, is_spent: false }
    }

    /// What the server is to charge.
    pub(crate) fn to_server(&self) -> SmallVec<[Charge; 4]> {
        self.charges.iter().filter_map(|reserved| reserved.to_server).collect()
    }

    /// Spends all units, if they suffice for the request.
    pub(crate) fn spend_if_covered(&mut self, now: u64) -> Option<Answer> {
        if self.charges.iter().any(|reserved| reserved.to_server.is_some()) {
            return None;
        }
        let at = self.charges.first()?.lease.server_time(now);
        self.is_spent = true;
        Some(Answer { usages: self.charges.iter().map(|reserved| reserved.usage).collect(), at })
    }

    /// Takes in the server's answer, and returns the answer to the request. Units beyond the cost go
    /// to the pools.
    pub(crate) fn apply_reply(&mut self, answer: &Answer, times: RoundTrip) -> Answer {
        let asked = self.charges.iter().filter_map(|reserved| reserved.to_server.as_ref());
        let fits =
            |(charge, usage): (&Charge, &Usage)| charge.mode != Mode::Enforced || usage.fits();
        self.passes = asked.zip(&*answer.usages).all(fits);
        let mut from_server = answer.usages.iter();
        let apply = |reserved: &mut ReservedCharge| {
            let with_reserved = |usage: &Usage| {
                with_remaining(usage, usage.remaining().saturating_add(reserved.units))
            };
            Some(match reserved.to_server {
                None if self.passes => reserved.usage,
                None => with_reserved(&reserved.usage),
                Some(asked) => {
                    let usage = from_server.next()?;
                    if !reserved.has_pool() {
                        *usage
                    } else if self.passes {
                        self.leases.apply_batch(reserved, &asked, usage, answer.at, times)
                    } else {
                        with_reserved(usage)
                    }
                }
            })
        };
        let usages = self.charges.iter_mut().map_while(apply).collect();
        Answer { usages, at: answer.at }
    }

    /// Whether a charge is spent from a pool.
    pub(crate) fn has_pool(&self, index: usize) -> bool {
        self.charges.get(index).is_some_and(ReservedCharge::has_pool)
    }

    /// Ends the batons that have brought nothing, when the server has refused or failed.
    pub(crate) fn close_batons(&mut self) {
        for reserved in &mut self.charges {
            if let Some(number) = reserved.baton.take() {
                self.leases.close(&reserved.charge, number);
            }
        }
    }

    /// Ends it when the caller has its answer: if the request passes, its units are spent.
    pub(crate) fn commit(mut self) {
        self.is_spent = self.passes;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        for reserved in self.charges.drain(..) {
            if reserved.has_pool() {
                self.leases.release(reserved, self.is_spent);
            }
        }
        self.leases.return_later(self.expired.drain(..));
    }
}
