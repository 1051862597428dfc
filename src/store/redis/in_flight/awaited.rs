//! Commands about units in flight that have no answer yet: [`Begun`] and [`Released`]; and the keys whose new
//! charges wait: [`Barred`].

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Held, InFlightTable, gives_back};
use crate::{
    store::redis::{shards::charges_made, time_budget::TimeBudget},
    store::{Answer, Charge, Correction},
};

/// Charges that are under way. If it is dropped after they were sent, the servers may have made them or
/// not.
pub(crate) struct Begun {
    pub(super) table: Arc<InFlightTable>,
    /// Each charge with its index in the request.
    pub(super) charges: SmallVec<[(usize, Charge); 1]>,
    pub(super) is_sent: Arc<AtomicBool>,
}

/// Corrections, of which some may give units in flight back. If it is dropped, the servers may have made
/// them or not.
pub(crate) struct Released {
    pub(super) table: Arc<InFlightTable>,
    /// The corrections to send to the servers.
    pub(crate) corrections: SmallVec<[Correction; 4]>,
    pub(super) is_done: bool,
}

/// Keys whose new charges wait until it is dropped.
pub(crate) struct Barred<'a> {
    pub(super) table: &'a InFlightTable,
    pub(super) keys: SmallVec<[u128; 4]>,
}

impl Begun {
    /// Keeps the units of the charges that were made.
    pub(crate) fn settle(mut self, charges: &[Charge], answer: &Answer, budget: &TimeBudget) {
        let doubt = budget.is_left.then(|| self.table.doubt());
        let made: SmallVec<[usize; 4]> =
            charges_made(charges, answer).map(|(index, _)| index).collect();
        let mut held = self.table.held.lock();
        for (index, charge) in mem::take(&mut self.charges) {
            self.table.settle(&mut held, &charge, |key| {
                key.under_way = key.under_way.saturating_sub(charge.cost);
                key.doubt = doubt.or(key.doubt);
                if made.contains(&index) {
                    key.units = key.units.saturating_add(charge.cost);
                }
            });
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if self.charges.is_empty() {
            return;
        }
        let doubt = self.is_sent.load(Relaxed).then(|| self.table.doubt());
        let mut held = self.table.held.lock();
        for (_, charge) in &self.charges {
            self.table.settle(&mut held, charge, |key| {
                key.under_way = key.under_way.saturating_sub(charge.cost);
                key.doubt = doubt.or(key.doubt);
            });
        }
    }
}

impl Released {
    /// Notes that servers have made the corrections.
    pub(crate) fn settle(mut self) {
        self.end(None);
    }

    fn end(&mut self, doubt: Option<Instant>) {
        if mem::replace(&mut self.is_done, true) {
            return;
        }
        let mut held = self.table.held.lock();
        for Correction { charge, .. } in self.corrections.iter().filter(|each| gives_back(each)) {
            self.table.settle(&mut held, charge, |key| key.doubt = doubt.or(key.doubt));
        }
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        self.end(Some(self.table.doubt()));
    }
}

impl Barred<'_> {
    /// Waits until no charge of the keys is under way.
    pub(crate) async fn drained(&self) {
        loop {
            let drained = self.table.drained.notified();
            let is_under_way =
                |held: &Held, id| held.keys.get(id).is_some_and(|key| key.under_way > 0);
            let is_drained = {
                let held = self.table.held.lock();
                !self.keys.iter().any(|id| is_under_way(&held, id))
            };
            if is_drained {
                return;
            }
            drained.await;
        }
    }
}

impl Drop for Barred<'_> {
    fn drop(&mut self) {
        if self.keys.is_empty() {
            return;
        }
        let mut held = self.table.held.lock();
        for id in &self.keys {
            if let Some(key) = held.keys.get_mut(id) {
                key.is_barred = false;
            }
        }
        drop(held);
        self.table.unbarred.notify_waiters();
    }
}
