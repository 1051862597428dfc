//! The requests that are held, in the order of their arrival: the [`WaitQueue`].
//!
//! ```text
//!             keys                                tickets
//! key A:  [ #3 | #5 | #6 ]      #3: keys A, B; due at 10:00:01; waker
//! key B:  [ #3 | #4 ]           #4: key B; …
//! ```
//! A request that is held has a *ticket*, numbered in order of arrival, and stands in the queue of each
//! key that it charges. It charges nothing until its turn comes, so there is nothing to give back when
//! its caller leaves, and the tickets behind move up.
//!
//! # How units are kept for a ticket
//! Each charge carries the units of all tickets ahead of it ([`Charge::ahead`], set by
//! [`WaitQueue::set_queued_ahead`]). The store lets a charge pass only if those units fit as well. So a
//! later request cannot take the units that an earlier one waits for.
//!
//! # The steps of a ticket
//! 1. [`join`](WaitQueue::join): if the queue has changed since the charges were set, the request
//!    is charged again; if the queue is full, or the wait may become too long, the request is
//!    refused.
//! 2. It sleeps until it is *due*: the time at which its units fit under all of its keys.
//! 3. [`yields_turn`](WaitQueue::yields_turn): tickets ahead that are due as well go first. One that
//!    waits on after all, for another key, wakes the next one that yields.
//! 4. It charges. If another request was faster, it waits on ([`wait_again`](WaitQueue::wait_again)).
//! 5. [`leave`](WaitQueue::leave) wakes the next ticket of each key.
//!
//! # Fair lines
//! In the line of a policy with [`fair_by`](crate::Policy::fair_by), tenants take turns
//! ([`fair_line`]). Its tickets keep the ranks that they have in all queues, and change them among
//! themselves. So tickets wait for each other in one order under all keys, and never in a circle. A
//! ticket that is overtaken finds out when it charges, and waits on, or is refused if that takes too
//! long. If a fair line is full, the tenant with the most tickets for its weight makes room.
//!
//! # Bounds
//! The queue has bounds: in total, per key and per caller. A caller has no more tickets than
//! positions are free, so it leaves room for others. A ticket whose turn has come must be polled
//! within a tenth of a second. After that it is *late*, and the tickets behind pass it.
//!
//! # Locks
//! One mutex guards all tickets. Wakers are called after it is released: a waker may drop a request
//! that waits here. `waiting`, the number of tickets, is read without the lock, as it is mostly
//! zero.
//!
//! # Waterfalls
//! A request that may draw on several quotas stands in the queue of each of them, and is due when the
//! first one has room ([`first_of`]).
//!
//! # What the tests check
//! | invariant | tests |
//! |---|---|
//! | requests of one key pass in order of arrival, whatever they cost | `hold_properties.rs`, `hold_fairness.rs` |
//! | under several policies, requests pass as in a simple simulation | `hold_several.rs` |
//! | a ticket that leaves gives its position to those behind | `a_ticket_may_leave_while_it_is_woken`, `hold.rs` |
//! | a request that saw an old queue is charged again | `a_request_that_saw_an_old_queue_is_charged_again` |

mod fair_line;
mod first_of;
mod latest;
mod new_ticket;
#[cfg(test)]
mod tests;
mod waiters;

use std::{
    mem,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

pub(crate) use self::fair_line::Turn;
use self::{
    first_of::{FirstOf, is_waited_for},
    new_ticket::{new_rank, new_ticket},
    waiters::{KeyQueue, Waiters},
};
use super::decision::Outcome;
use crate::{
    algorithm::{Algorithm, STEPS_PER_WINDOW},
    clock::{Now, nanos},
    lock::Mutex,
    store::Charge,
};

/// The tickets of all keys.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// How many tickets there are.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters>,
}

/// The bounds of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxHeld {
    pub(crate) all: usize,
    pub(crate) per_caller: usize,
    pub(crate) per_key: usize,
}

impl Default for MaxHeld {
    fn default() -> Self {
        Self { all: 10_000, per_caller: usize::MAX, per_key: 100 }
    }
}

/// How long the store may take to answer a ticket, in nanoseconds. After that, the tickets behind
/// go first.
const STORE_PATIENCE: u64 = Duration::from_secs(1).as_nanos() as u64;

/// Why a ticket is polled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Wakeup {
    /// The queue has not woken it.
    #[default]
    No,
    /// The ticket ahead may be late earlier than expected: the wait has to be computed again.
    Nudged,
    /// Its turn may have come.
    Yes,
}

/// The result of joining.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// The number of the ticket.
    Queued(u64),
    /// The queue is full, or the wait may become longer than the hold.
    Full,
    /// The queue has changed since the charges were set, so the waits are wrong.
    Outdated,
}

/// Why a ticket leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its turn has come, and its request was charged.
    Charged,
    /// Its turn has come, and its request is refused.
    Refused,
    /// Its caller has left before its turn; or it makes room in a fair line.
    Early,
}

impl WaitQueue {
    pub(crate) fn new(max: MaxHeld) -> Self {
        let waiters = Waiters { max, ..Waiters::default() };
        Self { waiting: AtomicUsize::new(0), waiters: Mutex::new(waiters) }
    }

    /// Whether there are tickets.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// How many tickets there are.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Sets in each charge the units of the tickets ahead: those before `ticket`, or all if the
    /// request has no ticket; where it would take a turn, those before that. Late tickets do not count.
    pub(crate) fn set_queued_ahead<'a>(
        &self,
        charges: impl Iterator<Item = &'a mut Charge>,
        ticket: Option<u64>,
        turn: Option<Turn>,
        now: Now,
    ) {
        if !self.has_waiting() {
            charges.for_each(|charge| charge.ahead = 0);
            return;
        }
        let now = now.monotonic_nanos();
        let mut waiters = self.waiters.lock();
        if let Some(ticket) = ticket {
            waiters.expect(ticket, now.saturating_add(STORE_PATIENCE));
        }
        let rank = ticket.map(|ticket| waiters.rank_of(ticket)).filter(|rank| *rank < u64::MAX);
        for charge in charges {
            let rank = rank.unwrap_or_else(|| new_rank(&waiters, charge, turn));
            let key = waiters.keys.get(&charge.id()).filter(|_| charge.uses_units());
            charge.ahead = key.map_or(0, |key| key.cost_ahead_of(rank, now));
        }
    }

    /// Gives a request a ticket in the queues of the charges that it waits for.
    pub(crate) fn join<'a>(
        &self,
        outcomes: impl Iterator<Item = Outcome<'a>> + Clone,
        turn: Option<Turn>,
        now: Now,
    ) -> Join {
        let (join, _left) = self.change(|waiters| {
            let (joining, makes_room) = match new_ticket(waiters, outcomes.clone(), turn, now) {
                Ok(joining) => joining,
                Err(join) => return (join, None),
            };
            let mut left = makes_room
                .and_then(|other| waiters.remove(other, Left::Early, now.monotonic_nanos()));
            waiters.woken.extend(left.as_mut().and_then(|left| left.waker.take()));
            let ticket = waiters.next_ticket;
            for Outcome { charge, .. } in outcomes.filter(is_waited_for) {
                let queue = waiters.keys.entry(charge.id()).or_default();
                queue.push(ticket, charge.cost, joining.due);
                if let Some((_, turn)) = joining.fair.filter(|(key, _)| *key == charge.id()) {
                    queue.fair.push(turn, ticket, charge.cost);
                }
            }
            for caller in &joining.callers {
                let held = waiters.callers.entry(*caller).or_default();
                *held = held.saturating_add(1);
            }
            waiters.next_ticket = waiters.next_ticket.saturating_add(1);
            let fair = joining.fair;
            waiters.tickets.insert(ticket, joining);
            if let Some((key, _)) = fair {
                waiters.reorder(key, Some(ticket), now.monotonic_nanos());
            }
            self.waiting.store(waiters.tickets.len(), Relaxed);
            (Join::Queued(ticket), left)
        });
        join
    }

    /// Whether a request would get a ticket now.
    #[cfg(feature = "describe")]
    pub(crate) fn has_room<'a>(
        &self,
        outcomes: impl Iterator<Item = Outcome<'a>> + Clone,
        turn: Option<Turn>,
        now: Now,
    ) -> bool {
        // If the queue has just changed, the request would ask the store again.
        let ticket = new_ticket(&self.waiters.lock(), outcomes, turn, now);
        matches!(ticket, Ok(_) | Err(Join::Outdated))
    }

    /// Lets a ticket wait on, for the waits in a new answer of the store. `false` if it is not there
    /// any more: it has made room in a fair line.
    pub(crate) fn wait_again<'a>(
        &self,
        ticket: u64,
        outcomes: impl Iterator<Item = Outcome<'a>>,
        now: Now,
    ) -> bool {
        let at = now.monotonic_nanos();
        self.change(|waiters| {
            let rank = waiters.rank_of(ticket);
            let fits =
                |outcome: Outcome<'a>| (outcome.charge, waiters.foresee(&outcome, rank, now));
            let charges: SmallVec<[_; 4]> = outcomes.map(fits).collect();
            let Some(known) = waiters.tickets.get_mut(&ticket) else { return false };
            let before = mem::replace(&mut known.due, at);
            known.latest = at;
            let mut waterfall = FirstOf::default();
            for (charge, fits) in charges {
                let here = known.keys.iter_mut().filter(|awaited| awaited.key == charge.id());
                here.for_each(|awaited| awaited.due = fits.due);
                waterfall.add(fits);
                if !charge.or_else {
                    let FirstOf { due, latest } = mem::take(&mut waterfall);
                    known.due = known.due.max(due);
                    known.latest = known.latest.max(latest);
                }
            }
            let (due, moved_up) = (known.due, mem::take(&mut known.moved_up));
            let (keys, rank) = (known.keys.clone(), known.rank);
            waiters.expect(ticket, due);
            if moved_up || due < before {
                waiters.wake_those_behind(&keys, rank, true, at);
            } else {
                waiters.wake_those_that_yield(&keys, rank, at);
            }
            true
        })
    }

    /// Whether no ticket is ahead of this one.
    pub(crate) fn is_first(&self, ticket: u64) -> bool {
        self.waiters.lock().is_first(ticket)
    }

    /// How long until a ticket directly ahead is late, so that this one passes it. `None` if this
    /// one is the first.
    pub(crate) fn next_late_in(&self, ticket: u64, now: Now) -> Option<Duration> {
        let now = now.monotonic_nanos();
        let late_at = self.waiters.lock().next_late_at(ticket, now)?;
        Some(Duration::from_nanos(late_at.saturating_sub(now)))
    }

    /// The longest wait of a refused charge behind the tickets. `wait` is the store's answer. With
    /// `behind_all`, tickets that came after the request count as well. So do all others of a fair
    /// line: when the request comes again, its tenant's turn comes after theirs.
    pub(crate) fn longest_wait(
        &self,
        charge: &Charge,
        wait: Duration,
        behind_all: bool,
        now: Now,
    ) -> Duration {
        let waiters = self.waiters.lock();
        let latest = waiters
            .latest(charge, nanos(wait), behind_all, u64::MAX, now)
            .saturating_sub(now.monotonic_nanos());
        let key = waiters.keys.get(&charge.id()).filter(|key| !key.fair.is_empty());
        let overtaken = key.map_or(0, |key| key.total_cost.saturating_sub(charge.ahead));
        // A ticket may charge in a step of the window that has units already: all of these then come
        // back with the ticket's.
        let is_delayed =
            charge.algorithm == Algorithm::SlidingWindow && waiters.keys.contains_key(&charge.id());
        let step = charge.quota.window_nanos().div_ceil(STEPS_PER_WINDOW);
        let wait = nanos(wait)
            .saturating_add(charge.algorithm.longest_wait_for_all(&charge.quota, overtaken))
            .max(latest)
            .saturating_add(if is_delayed { step } else { 0 });
        Duration::from_nanos(wait)
    }

    /// Returns whether the queue has woken the ticket since the last call, and keeps `waker` for
    /// the next time.
    pub(crate) fn take_wakeup(&self, ticket: u64, waker: &Waker) -> Wakeup {
        let waker = waker.clone();
        let (wakeup, _replaced) = self.change(|waiters| {
            let Some(known) = waiters.tickets.get_mut(&ticket) else { return (Wakeup::Yes, None) };
            (mem::take(&mut known.wakeup), known.waker.replace(waker))
        });
        wakeup
    }

    /// How long the ticket yields to tickets ahead that are due at `now` as well. It is woken when
    /// one of them leaves.
    pub(crate) fn yields_turn(&self, ticket: u64, now: Now) -> Option<Duration> {
        let now = now.monotonic_nanos();
        let mut waiters = self.waiters.lock();
        let until = waiters.yields_until(ticket, now);
        if let Some(known) = waiters.tickets.get_mut(&ticket) {
            known.yields = until.is_some();
        }
        let until = until?;
        waiters.expect(ticket, until);
        Some(Duration::from_nanos(until.saturating_sub(now)))
    }

    /// Removes a ticket.
    pub(crate) fn leave(&self, ticket: u64, left: Left, now: Now) {
        let now = now.monotonic_nanos();
        let _left = self.change(|waiters| {
            let removed = waiters.remove(ticket, left, now);
            self.waiting.store(waiters.tickets.len(), Relaxed);
            removed
        });
    }

    /// Counts the turn of a request that was charged at once, though tickets wait under its keys.
    pub(crate) fn pass_at_once<'a>(
        &self,
        outcomes: impl Iterator<Item = Outcome<'a>>,
        turn: Turn,
        now: Now,
    ) {
        let mut outcomes = outcomes.filter(is_waited_for);
        let Some(charge) = outcomes.find_map(|outcome| turn.of(outcome.charge)) else { return };
        self.change(|waiters| {
            let ticket = waiters.next_ticket;
            if let Some(queue) = waiters.keys.get_mut(&charge.id()) {
                queue.fair.push(turn, ticket, charge.cost);
                queue.fair.pass(ticket);
                waiters.reorder(charge.id(), None, now.monotonic_nanos());
            }
        });
    }

    /// Wakes the first ticket of each key, as units of these charges were given back.
    pub(crate) fn on_released<'a>(&self, charges: impl IntoIterator<Item = &'a Charge>, now: Now) {
        if !self.has_waiting() {
            return;
        }
        let now = now.monotonic_nanos();
        self.change(|waiters| {
            for charge in charges {
                if let Some(ticket) = waiters.keys.get(&charge.id()).and_then(KeyQueue::first) {
                    waiters.wake(ticket, true, now);
                    waiters.forget_dues(charge.id(), 0);
                }
            }
        });
    }

    /// The bounds.
    pub(crate) fn max(&self) -> MaxHeld {
        self.waiters.lock().max
    }

    /// Sets the bounds for requests that come later.
    pub(crate) fn set_max(&self, max: MaxHeld) {
        self.waiters.lock().max = max;
    }

    /// Wakes the first ticket of each key, as quotas may be others now. It always locks: a request
    /// that joins at the same time is woken, or sees afterwards that the rules are others.
    pub(crate) fn wake_all(&self, now: Now) {
        let now = now.monotonic_nanos();
        self.change(|waiters| {
            let first = |(key, queue): (&u128, &KeyQueue)| Some((*key, queue.first()?));
            let first: Vec<_> = waiters.keys.iter().filter_map(first).collect();
            for (key, ticket) in first {
                waiters.wake(ticket, true, now);
                waiters.forget_dues(key, 0);
            }
        });
    }

    /// Changes the tickets under the lock, and calls wakers after it is released. A waker that is
    /// called or dropped may drop a request that waits here, which then needs the lock to leave.
    fn change<T>(&self, change: impl FnOnce(&mut Waiters) -> T) -> T {
        let mut waiters = self.waiters.lock();
        let changed = change(&mut waiters);
        let woken = mem::take(&mut waiters.woken);
        drop(waiters);
        woken.into_iter().for_each(Waker::wake);
        changed
    }
}
