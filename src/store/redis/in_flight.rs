//! The units in flight that this replica holds, and how servers know of them: [`InFlightTable`].
//!
//! A server counts the units of each replica by themselves, and until when. A replica *states* again and
//! again what it holds. So the units of a replica that has died come back when its time is over, and
//! what a server has lost, or has not heard of, is put right by the next statement.
//!
//! Statements are numbered. Each charge, and each unit that is given back, has the number of the last
//! statement before it, so that a server can tell what a statement includes:
//!
//! | what comes to a server | what the server does |
//! |---|---|
//! | a statement, then a unit that was given back before it | nothing: the statement does not include that unit |
//! | what was charged or given back after a statement, then the statement | leaves the statement out; the next one includes it |
//! | a statement, then a charge that was begun before it | counts the charge twice, until the next statement |
//!
//! So whatever the order is, a server counts at least the units that are held, and one statement later
//! it counts exactly these.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{runtime::Handle, task::AbortHandle};

use super::{script::stamped, shards::charges_made};
use crate::{
    algorithm::Algorithm,
    lock::Mutex,
    store::{Answer, Change, Charge, Correction},
};

/// How often a replica states what it holds, while its units last.
const STATEMENTS: u32 = 5;

/// The units in flight that this replica holds.
pub(super) struct InFlightTable {
    held: Mutex<Held>,
    /// The number of the last statement; it changes while `held` is locked.
    statement: Arc<AtomicU64>,
    /// How long servers count units that this replica does not state again.
    lasts: Duration,
}

#[derive(Default)]
struct Held {
    keys: HashMap<u128, HeldKey>,
    /// The task that states what is held, perhaps of a runtime that has ended.
    heart: Option<AbortHandle>,
    /// The runtime of the last charge, for units that are given back outside of any.
    runtime: Option<Handle>,
}

/// What this replica holds of one key under one policy.
struct HeldKey {
    charge: Charge,
    /// With those of charges that are under way.
    units: u64,
    /// How many commands there are of which it is not known whether the server has done them.
    unsure: u32,
    /// The last statement before the last change.
    changed: u64,
}

impl HeldKey {
    fn is_needed(&self) -> bool {
        self.units > 0 || self.unsure > 0
    }
}

/// Charges that are under way. If it is dropped, the servers may have made them or not.
pub(super) struct Begun {
    table: Arc<InFlightTable>,
    /// Each with its index in the request.
    charges: SmallVec<[(usize, Charge); 1]>,
}

fn is_held(charge: &Charge) -> bool {
    charge.algorithm == Algorithm::InFlight
}

impl InFlightTable {
    pub(super) fn new(statement: Arc<AtomicU64>, lasts: Duration) -> Self {
        Self { held: Mutex::default(), statement, lasts }
    }

    /// The pause between two statements.
    #[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
    pub(super) fn pause(&self) -> Duration {
        self.lasts / STATEMENTS
    }

    /// Counts the units of charges before a server does. `None` if there are none.
    pub(super) fn begin(self: &Arc<Self>, charges: &[Charge]) -> Option<Begun> {
        let takes = |(_, charge): &(usize, &Charge)| is_held(charge) && charge.uses_units();
        let charges: SmallVec<[(usize, Charge); 1]> = charges
            .iter()
            .enumerate()
            .filter(takes)
            .map(|(index, charge)| (index, *charge))
            .collect();
        if charges.is_empty() {
            return None;
        }
        let mut held = self.held.lock();
        held.runtime = Handle::try_current().ok();
        for (_, charge) in &charges {
            self.change(&mut held, charge, |key| {
                key.units = key.units.saturating_add(charge.cost);
                key.unsure = key.unsure.saturating_add(1);
            });
        }
        drop(held);
        Some(Begun { table: Arc::clone(self), charges })
    }

    /// Gives back the units of corrections here, and returns what a server has to be told.
    pub(super) fn release(&self, corrections: &[Correction]) -> SmallVec<[Correction; 4]> {
        if !corrections.iter().any(|correction| is_held(&correction.charge)) {
            return corrections.iter().copied().collect();
        }
        let mut held = self.held.lock();
        let release = |correction: &Correction| match correction.change {
            Change::GiveBack(units) if is_held(&correction.charge) => {
                self.change(&mut held, &correction.charge, |key| {
                    key.units = key.units.saturating_sub(units);
                    key.unsure = key.unsure.saturating_add(1);
                });
                stamped(correction, self.statement.load(Relaxed))
            }
            _ => *correction,
        };
        corrections.iter().map(release).collect()
    }

    /// Notes that servers have given back the units of these corrections.
    pub(super) fn released(&self, corrections: &[Correction]) {
        let given_back = corrections.iter().filter(|correction| {
            is_held(&correction.charge) && matches!(correction.change, Change::GiveBack(_))
        });
        let mut held = None;
        for Correction { charge, .. } in given_back {
            held.get_or_insert_with(|| self.held.lock()).settle(charge, 0);
        }
    }

    /// A runtime in which a command can be sent, where there is no other.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.held.lock().runtime.clone()
    }

    /// The next statement and its number; `None` if nothing is held: the task that states it then ends.
    pub(super) fn state(&self) -> Option<(u64, Vec<Correction>)> {
        let mut held = self.held.lock();
        if held.keys.is_empty() {
            held.heart = None;
            return None;
        }
        let number = self.statement.fetch_add(1, Relaxed).saturating_add(1);
        let state =
            |key: &HeldKey| stamped(&Correction::new(key.charge, Change::Take(key.units)), number);
        Some((number, held.keys.values().map(state).collect()))
    }

    /// Notes that servers know a statement about these keys.
    pub(super) fn stated(&self, number: u64, statements: &[Correction]) {
        let mut held = self.held.lock();
        for Correction { charge, .. } in statements {
            let Entry::Occupied(mut known) = held.keys.entry(charge.id()) else { continue };
            let key = known.get_mut();
            // The server may have left it out.
            if key.changed < number {
                key.unsure = 0;
            }
            if !key.is_needed() {
                known.remove();
            }
        }
    }

    /// Starts the task that states what is held, if there is something, and no such task.
    pub(super) fn start_heart(&self, start: impl FnOnce() -> AbortHandle) {
        let mut held = self.held.lock();
        if !held.keys.is_empty() && held.heart.as_ref().is_none_or(AbortHandle::is_finished) {
            held.heart = Some(start());
        }
    }

    fn change(
        &self,
        held: &mut MutexGuard<'_, Held>,
        charge: &Charge,
        change: impl FnOnce(&mut HeldKey),
    ) {
        let new = || HeldKey { charge: *charge, units: 0, unsure: 0, changed: 0 };
        let key = held.keys.entry(charge.id()).or_insert_with(new);
        change(key);
        key.changed = self.statement.load(Relaxed);
    }
}

impl Held {
    /// Notes what one command has done: `units` are not held after all.
    fn settle(&mut self, charge: &Charge, units: u64) {
        let Entry::Occupied(mut known) = self.keys.entry(charge.id()) else { return };
        let key = known.get_mut();
        key.units = key.units.saturating_sub(units);
        key.unsure = key.unsure.saturating_sub(1);
        if !key.is_needed() {
            known.remove();
        }
    }
}

impl Begun {
    /// Keeps the units of the charges that were made.
    pub(super) fn settle(mut self, charges: &[Charge], answer: &Answer) {
        let made: SmallVec<[usize; 4]> =
            charges_made(charges, answer).map(|(index, _)| index).collect();
        let mut held = self.table.held.lock();
        for (index, charge) in std::mem::take(&mut self.charges) {
            held.settle(&charge, if made.contains(&index) { 0 } else { charge.cost });
        }
    }
}

/// The next statement says that the units are not held.
impl Drop for Begun {
    fn drop(&mut self) {
        if self.charges.is_empty() {
            return;
        }
        let mut held = self.table.held.lock();
        for (_, charge) in &self.charges {
            self.table.change(&mut held, charge, |key| {
                key.units = key.units.saturating_sub(charge.cost);
            });
        }
    }
}
