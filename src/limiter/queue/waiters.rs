//! Which tickets wait for which key: [`Waiters`].

use std::{
    collections::{HashMap, VecDeque},
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

use super::{MaxHeld, Wakeup};
use crate::{algorithm::Algorithm, store::Charge};

/// A ticket that is due and is not polled for this long, in nanoseconds, is late: the tickets
/// behind pass it. An executor that is so busy cannot keep an order.
const LATE_AFTER: u64 = Duration::from_millis(100).as_nanos() as u64;

/// The fingerprints of a request's callers.
pub(super) type Callers = SmallVec<[u128; 2]>;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    pub(super) next_ticket: u64,
    pub(super) tickets: HashMap<u64, Ticket>,
    /// The tickets of each key, in order of arrival.
    pub(super) keys: HashMap<u128, KeyQueue>,
    /// How many tickets each caller has.
    pub(super) callers: HashMap<u128, usize>,
    pub(super) max: MaxHeld,
    /// The wakers to call as soon as the lock is released.
    pub(super) woken: Vec<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Ticket {
    pub(super) keys: SmallVec<[AwaitedKey; 4]>,
    pub(super) callers: Callers,
    /// The monotonic time at which its units are expected to fit.
    pub(super) due: u64,
    /// The monotonic time at which they fit at the latest.
    pub(super) latest: u64,
    /// Whether the queue has woken it since it was polled.
    pub(super) wakeup: Wakeup,
    /// Whether a ticket ahead has left before its turn. This is passed on to the tickets behind.
    pub(super) moved_up: bool,
    /// Whether it is due, and yields to tickets ahead that are due as well.
    pub(super) yields: bool,
    pub(super) waker: Option<Waker>,
}

/// A key that a ticket waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct AwaitedKey {
    pub(super) key: u128,
    /// The monotonic time at which its units fit under this key alone; 0 if not known.
    pub(super) due: u64,
}

#[derive(Debug, Default)]
pub(super) struct KeyQueue {
    pub(super) waiting: VecDeque<Waiter>,
    pub(super) total_cost: u64,
}

/// A ticket in the queue of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) cost: u64,
    /// The monotonic time at which it is expected to be polled.
    comes_at: u64,
}

impl Waiter {
    /// When the tickets behind pass it.
    const fn late_at(&self) -> u64 {
        self.comes_at.saturating_add(LATE_AFTER)
    }

    const fn is_late(&self, now: u64) -> bool {
        self.late_at() <= now
    }
}

impl Waiters {
    /// The latest time at which a charge fits; 0 if that is when it is due, or if nobody knows. With `behind_all`, it
    /// charges behind the tickets that came after it as well.
    ///
    /// A charge is due when it fits beside all units ahead. If these are more than a whole quota,
    /// that depends on when the tickets ahead charge: another key may delay one, and several units
    /// charged at once leave a part of a window empty. The longest wait after the last such ticket
    /// is an upper bound; in a window, after the last ticket of all, as a unit that is charged late
    /// may stay as long as one that is charged shortly after it.
    pub(super) fn latest(&self, charge: &Charge, behind_all: bool) -> u64 {
        let Some(key) = self.keys.get(&charge.id()) else { return 0 };
        if charge.algorithm == Algorithm::InFlight {
            return 0;
        }
        let capacity = charge.algorithm.capacity(&charge.quota);
        if key.total_cost.saturating_add(charge.cost) <= capacity {
            return 0;
        }
        let in_windows = charge.algorithm != Algorithm::TokenBucket;
        let uneven = |cost: u64| in_windows && cost > 1;
        let tickets = key.waiting.iter().filter_map(|Waiter { ticket, cost, .. }| {
            let ahead = self.tickets.get(ticket)?;
            let here = ahead.keys.iter().find(|awaited| awaited.key == charge.id())?;
            Some((uneven(*cost) || ahead.latest > here.due, ahead.latest))
        });
        let all_unsure = behind_all
            || uneven(charge.cost)
            || in_windows && tickets.clone().any(|(is_unsure, _)| is_unsure);
        let latest = tickets.filter(|(is_unsure, _)| all_unsure || *is_unsure);
        let latest = latest.map(|(_, latest)| latest);
        let longest_wait = charge.algorithm.longest_wait(&charge.quota, charge.cost);
        latest.max().map_or(0, |latest| latest.saturating_add(longest_wait))
    }

    /// The queues in which a ticket waits.
    fn queues_of(&self, ticket: u64) -> impl Iterator<Item = &KeyQueue> {
        let keys = self.tickets.get(&ticket).map(|known| &known.keys);
        keys.into_iter().flatten().filter_map(|awaited| self.keys.get(&awaited.key))
    }

    /// Whether the ticket is the first in each of its queues.
    pub(super) fn is_first(&self, ticket: u64) -> bool {
        self.queues_of(ticket).all(|key| key.first() == Some(ticket))
    }

    /// How many tickets a caller has in the queue of `key`.
    pub(super) fn held_by(&self, caller: u128, key: &KeyQueue) -> usize {
        let is_callers = |waiting: &&Waiter| {
            let known = self.tickets.get(&waiting.ticket);
            known.is_some_and(|known| known.callers.contains(&caller))
        };
        key.waiting.iter().filter(is_callers).count()
    }

    /// Sets when the ticket is expected to be polled.
    pub(super) fn expect(&mut self, ticket: u64, comes_at: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        for AwaitedKey { key, .. } in &known.keys {
            if let Some(waiting) = self.keys.get_mut(key).and_then(|key| key.get_mut(ticket)) {
                waiting.comes_at = comes_at;
            }
        }
    }

    /// Until when the ticket yields to tickets ahead that are due at `now` as well, and not late;
    /// `None` if there are none.
    pub(super) fn yields_until(&self, ticket: u64, now: u64) -> Option<u64> {
        let ahead = self.queues_of(ticket).flat_map(|key| key.ahead_of(ticket, now));
        let is_due =
            |other: &&Waiter| self.tickets.get(&other.ticket).is_some_and(|other| other.due <= now);
        ahead.filter(is_due).map(Waiter::late_at).max()
    }

    /// The earliest time at which a ticket directly ahead, in any queue, is late unless it is
    /// polled.
    pub(super) fn next_late_at(&self, ticket: u64, now: u64) -> Option<u64> {
        let directly_ahead =
            self.queues_of(ticket).filter_map(|key| key.ahead_of(ticket, now).next_back());
        directly_ahead.map(Waiter::late_at).min()
    }

    /// Wakes, in each queue of the ticket, the next ticket and the next one that yields. A ticket
    /// that has moved up wakes the one behind it in turn.
    pub(super) fn wake_those_behind(&mut self, ticket: u64, moved_up: bool, now: u64) {
        let mut woken: SmallVec<[u64; 4]> = SmallVec::new();
        for key in self.queues_of(ticket) {
            let yields = |other: &u64| self.tickets.get(other).is_some_and(|other| other.yields);
            woken.extend(key.behind(ticket).next());
            woken.extend(key.behind(ticket).find(yields));
        }
        for ticket in woken {
            self.wake(ticket, moved_up, now);
        }
    }

    /// Forgets when the tickets behind are due under the keys of this ticket: it may be earlier
    /// now.
    pub(super) fn forget_dues_behind(&mut self, ticket: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        for AwaitedKey { key, .. } in known.keys.clone() {
            self.forget_dues(key, ticket.saturating_add(1));
        }
    }

    /// Forgets when the tickets of `key`, from `first` on, are due under this key: it may be
    /// earlier now. A ticket of one key needs no change, as no other key can delay it.
    pub(super) fn forget_dues(&mut self, key: u128, first: u64) {
        let waiting = self.keys.get(&key).map(|key| &key.waiting);
        for Waiter { ticket, .. } in waiting.into_iter().flatten() {
            let Some(known) = self.tickets.get_mut(ticket).filter(|_| *ticket >= first) else {
                continue;
            };
            if known.keys.len() > 1 {
                let here = known.keys.iter_mut().filter(|awaited| awaited.key == key);
                here.for_each(|awaited| awaited.due = 0);
            }
        }
    }

    /// Wakes a ticket, which is expected to be polled at once. The ticket behind has to compute its
    /// wait again, as this one may be late.
    pub(super) fn wake(&mut self, ticket: u64, moved_up: bool, now: u64) {
        let Some(known) = self.tickets.get_mut(&ticket) else { return };
        known.wakeup = Wakeup::Yes;
        known.moved_up |= moved_up;
        self.woken.extend(known.waker.take());
        let keys: SmallVec<[u128; 4]> = known.keys.iter().map(|awaited| awaited.key).collect();
        self.expect(ticket, now);
        for key in keys {
            let behind = self.keys.get(&key).and_then(|key| key.behind(ticket).next());
            let Some(behind) = behind.and_then(|behind| self.tickets.get_mut(&behind)) else {
                continue;
            };
            behind.wakeup = behind.wakeup.max(Wakeup::Nudged);
            self.woken.extend(behind.waker.take());
        }
    }
}

impl KeyQueue {
    pub(super) fn push(&mut self, ticket: u64, cost: u64, comes_at: u64) {
        self.waiting.push_back(Waiter { ticket, cost, comes_at });
        self.total_cost = self.total_cost.saturating_add(cost);
    }

    /// The tickets before `ticket` that are not late.
    fn ahead_of(&self, ticket: u64, now: u64) -> impl DoubleEndedIterator<Item = &Waiter> {
        let ahead = self.waiting.partition_point(|other| other.ticket < ticket);
        self.waiting.range(..ahead).filter(move |other| !other.is_late(now))
    }

    /// The units of the tickets before `ticket`, or of all for a request without one.
    pub(super) fn cost_ahead_of(&self, ticket: Option<u64>, now: u64) -> u64 {
        let ahead = self.ahead_of(ticket.unwrap_or(u64::MAX), now);
        ahead.fold(0, |sum, other| sum.saturating_add(other.cost))
    }

    pub(super) fn behind(&self, ticket: u64) -> impl Iterator<Item = u64> {
        let next = self.waiting.partition_point(|other| other.ticket <= ticket);
        self.waiting.range(next..).map(|other| other.ticket)
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.ticket)
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |other| other.ticket).ok()
    }

    fn get_mut(&mut self, ticket: u64) -> Option<&mut Waiter> {
        self.find(ticket).and_then(|index| self.waiting.get_mut(index))
    }

    pub(super) fn remove(&mut self, ticket: u64) {
        if let Some(removed) = self.find(ticket).and_then(|index| self.waiting.remove(index)) {
            self.total_cost = self.total_cost.saturating_sub(removed.cost);
        }
    }
}
