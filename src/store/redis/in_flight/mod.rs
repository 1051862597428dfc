//! The units in flight that this replica holds, and how servers know of them: [`InFlightTable`]. Commands
//! that are under way are in `awaited.rs`.
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
//! # After a lost command
//! A statement makes the count exact only if nothing is under way. While requests for a key never pause, some
//! charge always is, and the server's count could keep what a lost command has left there. So a statement
//! *bars* the key: new charges wait until the charges under way and the statement have their answers, which
//! takes two round trips. They wait for half of their time budget at most, so that a slow server fails no more
//! requests than without the wait. If that is too short, a later statement is exact.
//!
//! A command without an answer, such as one that gives a unit back, leaves the key in *doubt*: the command may
//! still be on its way. Statements include the key until that is over, even if none of its units is held.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod awaited;

use std::{
    collections::{HashMap, hash_map::Entry},
    pin::pin,
    sync::{
        Arc, MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    runtime::{self, Handle},
    sync::Notify,
    time::Instant,
};

pub(super) use self::awaited::{Barred, Begun, Released};
use super::{script::stamped, time_budget::TimeBudget};
use crate::{
    algorithm::Algorithm,
    lock::Mutex,
    store::{Change, Charge, Correction},
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
    /// How long servers count units that this replica does not state again. No command stays on its way for
    /// longer.
    lasts: Duration,
    /// Notified when no charge of a barred key is under way any more.
    drained: Notify,
    /// Notified when keys are no longer barred.
    unbarred: Notify,
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
    /// How many charges, and how many commands that give units back, have no answer yet.
    awaited: u32,
    /// The last statement before the last change.
    changed: u64,
    /// Until when a command without an answer may be on its way, or longer: until an exact statement.
    doubt: Option<Instant>,
    /// Whether new charges wait for the statement.
    is_barred: bool,
}

impl HeldKey {
    fn is_needed(&self) -> bool {
        self.units > 0 || self.awaited > 0 || self.doubt.is_some()
    }
}

/// Whether a charge takes units in flight.
fn takes_units(charge: &Charge) -> bool {
    is_held(charge) && charge.uses_units()
}

fn is_held(charge: &Charge) -> bool {
    charge.algorithm == Algorithm::InFlight
}

fn gives_back(correction: &Correction) -> bool {
    is_held(&correction.charge) && matches!(correction.change, Change::GiveBack(_))
}

impl InFlightTable {
    pub(super) fn new(statement: Arc<AtomicU64>, lasts: Duration) -> Self {
        let (drained, unbarred) = (Notify::new(), Notify::new());
        Self { held: Mutex::default(), statement, lasts, drained, unbarred }
    }

    /// The pause between two statements.
    #[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
    pub(super) fn pause(&self) -> Duration {
        self.lasts / STATEMENTS
    }

    /// Counts the units of charges before a server does, once none of their keys is barred, or half of the
    /// time is over. `None` if there are none.
    pub(super) async fn begin(
        self: &Arc<Self>,
        charges: &[Charge],
        budget: &mut TimeBudget,
    ) -> Option<Begun> {
        if !charges.iter().any(takes_units) {
            return None;
        }
        // Boxed, so that the futures of other requests stay small.
        Some(Box::pin(self.begin_to_take(charges, budget)).await)
    }

    #[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
    async fn begin_to_take(self: &Arc<Self>, charges: &[Charge], budget: &mut TimeBudget) -> Begun {
        let charges: SmallVec<[(usize, Charge); 1]> = charges
            .iter()
            .enumerate()
            .filter(|(_, charge)| takes_units(charge))
            .map(|(index, charge)| (index, *charge))
            .collect();
        let (mut waits, own_half) = (true, budget.left / 2);
        loop {
            let unbarred = self.unbarred.notified();
            if self.count(&charges, waits) {
                let is_sent = Arc::clone(&budget.is_sent);
                return Begun { table: Arc::clone(self), charges, is_sent };
            }
            let for_others = budget.left.saturating_sub(own_half);
            waits = budget.wait(for_others, pin!(unbarred)).await.is_some();
        }
    }

    /// Counts charges as under way, unless they wait for a key that is barred.
    fn count(&self, charges: &[(usize, Charge)], waits: bool) -> bool {
        let mut held = self.held.lock();
        let is_barred = |(_, charge): &(usize, Charge)| {
            held.keys.get(&charge.id()).is_some_and(|key| key.is_barred)
        };
        if waits && charges.iter().any(is_barred) {
            return false;
        }
        if let Ok(runtime) = Handle::try_current() {
            held.enter(runtime);
        }
        for (_, charge) in charges {
            self.change(&mut held, charge, |key| {
                key.under_way = key.under_way.saturating_add(charge.cost);
                key.awaited = key.awaited.saturating_add(1);
            });
        }
        true
    }

    /// Gives back the units of corrections here, before a server does.
    pub(super) fn release(self: &Arc<Self>, corrections: &[Correction]) -> Released {
        let (table, is_done) = (Arc::clone(self), !corrections.iter().any(gives_back));
        if is_done {
            return Released { table, corrections: corrections.iter().copied().collect(), is_done };
        }
        let mut held = self.held.lock();
        let release = |correction: &Correction| match correction.change {
            Change::GiveBack(units) if is_held(&correction.charge) => {
                self.change(&mut held, &correction.charge, |key| {
                    key.units = key.units.saturating_sub(units);
                    key.awaited = key.awaited.saturating_add(1);
                });
                stamped(correction, self.statement.load(Relaxed))
            }
            _ => *correction,
        };
        Released { table, corrections: corrections.iter().map(release).collect(), is_done }
    }

    /// A runtime in which a command can be sent, where there is no other.
    pub(super) fn runtime(&self) -> Option<Handle> {
        self.held.lock().runtimes.first().cloned()
    }

    /// The keys that are to be stated. `None` if nothing is held, or another heart beats: this one then
    /// ends.
    pub(super) fn keys(&self, heart: u64) -> Option<Vec<u128>> {
        let mut held = self.held.lock();
        let is_empty = held.keys.is_empty();
        let beats = held.heart.as_mut().filter(|beats| beats.number == heart)?;
        beats.beat = Instant::now();
        if is_empty {
            held.heart = None;
            return None;
        }
        Some(held.keys.keys().copied().collect())
    }

    /// Bars those of the keys of which charges are under way.
    pub(super) fn bar(&self, keys: &[u128]) -> Barred<'_> {
        let mut held = self.held.lock();
        let mut barred = SmallVec::new();
        for id in keys {
            if let Some(key) = held.keys.get_mut(id)
                && key.under_way > 0
            {
                key.is_barred = true;
                barred.push(*id);
            }
        }
        drop(held);
        Barred { table: self, keys: barred }
    }

    /// The next statement, of these keys, and its number, with what is under way as the costs.
    pub(super) fn state(&self, keys: &[u128]) -> (u64, Vec<Correction>) {
        let held = self.held.lock();
        let number = self.statement.fetch_add(1, Relaxed).saturating_add(1);
        let state = |key: &HeldKey| {
            let under_way = Charge { cost: key.under_way, ..key.charge };
            stamped(&Correction::new(under_way, Change::Take(key.units)), number)
        };
        let statements = keys.iter().filter_map(|id| held.keys.get(id)).map(state).collect();
        (number, statements)
    }

    /// Notes what has become of a statement that was made at this time.
    pub(super) fn stated(
        &self,
        number: u64,
        at: Instant,
        statements: &[Correction],
        is_heard: bool,
    ) {
        let mut held = self.held.lock();
        for Correction { charge, .. } in statements {
            let Entry::Occupied(mut known) = held.keys.entry(charge.id()) else { continue };
            let key = known.get_mut();
            if !is_heard {
                // It may come later, when it is no longer true.
                key.doubt = Some(self.doubt());
            } else if key.changed < number && charge.cost == 0 {
                // Otherwise the server may have left it out, or left its count.
                key.doubt.take_if(|doubt| *doubt <= at);
            }
            if !key.is_needed() {
                known.remove();
            }
        }
    }

    /// Until when a command without an answer may be on its way.
    #[expect(clippy::arithmetic_side_effects, reason = "it lasts for an hour at most")]
    fn doubt(&self) -> Instant {
        Instant::now() + self.lasts
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
        let key = held.keys.entry(charge.id()).or_insert_with(|| HeldKey::new(charge));
        change(key);
        key.changed = self.statement.load(Relaxed);
    }

    /// Notes the result of a command that is no longer awaited.
    fn settle(
        &self,
        held: &mut MutexGuard<'_, Held>,
        charge: &Charge,
        change: impl FnOnce(&mut HeldKey),
    ) {
        let Entry::Occupied(mut known) = held.keys.entry(charge.id()) else { return };
        let key = known.get_mut();
        change(key);
        key.awaited = key.awaited.saturating_sub(1);
        if key.is_barred && key.under_way == 0 {
            self.drained.notify_waiters();
        }
        if !key.is_needed() {
            known.remove();
        }
    }
}

impl HeldKey {
    fn new(charge: &Charge) -> Self {
        let (units, under_way, awaited, changed) = (0, 0, 0, 0);
        let (doubt, is_barred) = (None, false);
        Self { charge: *charge, units, under_way, awaited, changed, doubt, is_barred }
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
}
