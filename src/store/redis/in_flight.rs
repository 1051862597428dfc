//! The units in flight that this replica holds, and how servers know of them: [`InFlightTable`].
//!
//! A server counts the units of each replica by themselves, and until when. A replica *states* again and
//! again what it holds. So the units of a replica that has died come back when its time is over, and
//! what a server has lost, or has not heard of, is put right by the next statement.
//!
//! A statement says how many units are held for sure, and how many more are *under way*: those of charges
//! whose answer has not come, which the server may have made, may make, or has refused. A count above the
//! first number, by no more than the second, may be right, and the server leaves it. If it took what is
//! under way for held, callers who try again and again would keep alive what is not held.
//!
//! Statements are numbered. Each charge, and each unit that is given back, has the number of the last
//! statement before it, so that a server can tell what a statement includes:
//!
//! | what comes to a server | what the server does |
//! |---|---|
//! | a statement by which its count may be right | leaves the count; what is given back late still counts |
//! | another statement | sets the count to the nearest that may be right |
//! | after that, a unit that was given back before the statement | nothing: the statement does not include that unit |
//! | after that, a charge that was begun before the statement | counts the charge, perhaps twice until the next statement |
//! | what was charged or given back after a statement, then the statement | leaves the statement out; the next one says it |
//!
//! So whatever the order is, a server counts at least the units that are held, unless it has forgotten
//! some: then the next statement puts it right, as far as nothing is under way.
//!
//! What a lost command has left, such as a unit that could not be given back, the next statement puts
//! right as well, unless as many units are under way at that moment: then a later one does, the first with
//! fewer under way. So callers who try again without a pause can keep such a unit from coming back, for as
//! long as they do.

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
use tokio::{
    runtime::{self, Handle},
    time::Instant,
};

use super::{script::stamped, shards::charges_made};
use crate::{
    algorithm::Algorithm,
    lock::Mutex,
    store::{Answer, Change, Charge, Correction},
};

/// How often a replica states what it holds, while its units last.
const STATEMENTS: u32 = 5;
/// More runtimes than a program has whose work goes on.
const MAX_RUNTIMES: usize = 4;

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
    /// Counts the hearts.
    hearts: u64,
    heart: Option<Heart>,
    /// Those of the last charges, the last one first.
    runtimes: SmallVec<[Handle; 1]>,
}

/// The task that states what is held.
struct Heart {
    number: u64,
    /// When it last did so, or began. In a runtime that is not driven, it does nothing.
    beat: Instant,
}

/// What this replica holds of one key under one policy.
struct HeldKey {
    charge: Charge,
    /// Those of charges that were made.
    units: u64,
    /// Those of charges whose answer has not come.
    under_way: u64,
    /// How many commands there are of which it is not known whether the server has done them.
    unsure: u32,
    /// The last statement before the last change.
    changed: u64,
}

impl HeldKey {
    fn is_needed(&self) -> bool {
        self.units > 0 || self.under_way > 0 || self.unsure > 0
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
        if let Ok(runtime) = Handle::try_current() {
            held.enter(runtime);
        }
        for (_, charge) in &charges {
            self.change(&mut held, charge, |key| {
                key.under_way = key.under_way.saturating_add(charge.cost);
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
            held.get_or_insert_with(|| self.held.lock()).settle(charge, |_| {});
        }
    }

    /// A runtime in which a command can be sent, where there is no other.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.held.lock().runtimes.first().cloned()
    }

    /// The next statement of this heart and its number, with what is under way as the costs. `None` if
    /// nothing is held, or another heart beats: this one then ends.
    pub(super) fn state(&self, heart: u64) -> Option<(u64, Vec<Correction>)> {
        let mut held = self.held.lock();
        let is_empty = held.keys.is_empty();
        let beats = held.heart.as_mut().filter(|beats| beats.number == heart)?;
        beats.beat = Instant::now();
        if is_empty {
            held.heart = None;
            return None;
        }
        let number = self.statement.fetch_add(1, Relaxed).saturating_add(1);
        let state = |key: &HeldKey| {
            let under_way = Charge { cost: key.under_way, ..key.charge };
            stamped(&Correction::new(under_way, Change::Take(key.units)), number)
        };
        Some((number, held.keys.values().map(state).collect()))
    }

    /// Notes that servers know a statement about these keys.
    pub(super) fn stated(&self, number: u64, statements: &[Correction]) {
        let mut held = self.held.lock();
        for Correction { charge, .. } in statements {
            let Entry::Occupied(mut known) = held.keys.entry(charge.id()) else { continue };
            let key = known.get_mut();
            // Otherwise the server may have left it out, or left its count.
            if key.changed < number && charge.cost == 0 {
                key.unsure = 0;
            }
            if !key.is_needed() {
                known.remove();
            }
        }
    }

    /// The number of a heart that has to be started, if something is held, and none beats.
    pub(super) fn needs_heart(&self) -> Option<u64> {
        let mut held = self.held.lock();
        let is_late = |heart: &Heart| heart.beat.elapsed() > self.pause().saturating_mul(2);
        held.heart.as_ref().is_none_or(is_late).then(|| held.new_heart())?
    }

    /// The number of a heart that has to be started in another runtime, as this one ends with its own.
    pub(super) fn next_heart(&self, ended: u64, runtime: runtime::Id) -> Option<(u64, Handle)> {
        let mut held = self.held.lock();
        held.heart.take_if(|heart| heart.number == ended)?;
        held.runtimes.retain(|known| known.id() != runtime);
        let next = held.runtimes.first()?.clone();
        Some((held.new_heart()?, next))
    }

    fn change(
        &self,
        held: &mut MutexGuard<'_, Held>,
        charge: &Charge,
        change: impl FnOnce(&mut HeldKey),
    ) {
        let new = || HeldKey { charge: *charge, units: 0, under_way: 0, unsure: 0, changed: 0 };
        let key = held.keys.entry(charge.id()).or_insert_with(new);
        change(key);
        key.changed = self.statement.load(Relaxed);
    }
}

impl Held {
    fn enter(&mut self, runtime: Handle) {
        if self.runtimes.first().is_none_or(|last| last.id() != runtime.id()) {
            self.runtimes.retain(|known| known.id() != runtime.id());
            self.runtimes.truncate(MAX_RUNTIMES.saturating_sub(1));
            self.runtimes.insert(0, runtime);
        }
    }

    fn new_heart(&mut self) -> Option<u64> {
        if self.keys.is_empty() {
            return None;
        }
        self.hearts = self.hearts.wrapping_add(1);
        let heart = Heart { number: self.hearts, beat: Instant::now() };
        Some(self.heart.insert(heart).number)
    }

    /// Notes what one command has done.
    fn settle(&mut self, charge: &Charge, change: impl FnOnce(&mut HeldKey)) {
        let Entry::Occupied(mut known) = self.keys.entry(charge.id()) else { return };
        let key = known.get_mut();
        change(key);
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
            held.settle(&charge, |key| {
                key.under_way = key.under_way.saturating_sub(charge.cost);
                if made.contains(&index) {
                    key.units = key.units.saturating_add(charge.cost);
                }
            });
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
                key.under_way = key.under_way.saturating_sub(charge.cost);
            });
        }
    }
}
