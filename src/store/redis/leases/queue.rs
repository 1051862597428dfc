//! The requests that wait for a key's units, and what they get: [`Handed`].
//!
//! The server is asked for a key's units by one command at a time, which is sent by who has the key's
//! [`Baton`]. The others wait in a queue. The reply serves them in this order, and passes the baton on to
//! the first that is left: its command asks for the units of all that wait then.

use std::{collections::VecDeque, sync::Arc};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::{lease::Lease, table::LeaseTable};
use crate::store::{Answer, Charge};

/// What a request waits for. It is closed if the reply was a refusal, a part of the batch, or none: then
/// the request decides anew.
pub(crate) type Waiting = oneshot::Receiver<Handed>;

/// What a request gets that has waited.
pub(crate) enum Handed {
    Units(Grant),
    Baton(Baton),
}

/// A request in the queue.
pub(super) struct Waiter {
    pub(super) charge: Charge,
    /// Whether the command that is on its way asks for its units.
    pub(super) is_joined: bool,
    pub(super) to: oneshot::Sender<Handed>,
}

/// The units of one request. If they are not taken, they go back to their pool.
pub(crate) struct Grant {
    pub(super) leases: Arc<LeaseTable>,
    pub(super) charge: Charge,
    pub(super) lease: Lease,
    pub(super) is_taken: bool,
}

/// The right to ask the server for a key's units. If it is not taken, the next in the queue has it.
pub(crate) struct Baton {
    pub(super) leases: Arc<LeaseTable>,
    pub(super) charge: Charge,
    /// `None` once it is taken.
    pub(super) number: Option<u64>,
}

/// What is sent, or dropped, once no lock is held: either may run code that takes the lock.
#[derive(Default)]
pub(super) struct Deliveries {
    pub(super) handed: SmallVec<[(oneshot::Sender<Handed>, Handed); 1]>,
    pub(super) closed: VecDeque<Waiter>,
}

impl Handed {
    /// Whether it is for this charge.
    pub(super) fn is_for(&self, charge: &Charge) -> bool {
        let (Self::Units(Grant { charge: own, .. }) | Self::Baton(Baton { charge: own, .. })) =
            self;
        own.id() == charge.id()
    }
}

impl Grant {
    /// Spends the units, unless their lease has ended.
    pub(crate) fn spend(mut self, now: u64) -> Option<Answer> {
        self.is_taken = !self.lease.has_expired(now);
        self.is_taken.then(|| Answer {
            usages: [self.leases.usage(&self.charge, now)].into_iter().collect(),
            at: self.lease.server_time(now),
        })
    }
}

impl Baton {
    pub(crate) const fn charge(&self) -> &Charge {
        &self.charge
    }

    pub(super) fn take(mut self) -> Option<u64> {
        self.number.take()
    }
}

impl Deliveries {
    pub(super) fn send(self) {
        for (to, handed) in self.handed {
            // What does not arrive is dropped, and so goes to the next in the queue.
            drop(to.send(handed));
        }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        if !self.is_taken {
            self.leases.put_back(&self.charge, self.charge.cost, self.lease);
        }
    }
}

impl Drop for Baton {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.leases.pass_on(&self.charge, number);
        }
    }
}
