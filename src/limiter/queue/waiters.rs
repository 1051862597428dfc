//! Which tickets wait for which key: [`Waiters`].

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    Left, MaxHeld, Wakeup,
    fair_line::{FairLine, Turn},
};
use crate::store::Charge;

/// A ticket that is due and is not polled for this long, in nanoseconds, is late: the tickets
/// behind pass it. An executor that is so busy cannot keep an order.
const LATE_AFTER: u64 = Duration::from_millis(100).as_nanos() as u64;

/// The fingerprints of a request's callers.
pub(super) type Callers = SmallVec<[u128; 2]>;

#[derive(Debug, Default)]
pub(super) struct Waiters {
    pub(super) next_ticket: u64,
    pub(super) tickets: HashMap<u64, Ticket>,
    /// The tickets of each key, in the order in which they pass.
    pub(super) keys: HashMap<u128, KeyQueue>,
    /// How many tickets each caller has.
    pub(super) callers: HashMap<u128, usize>,
    pub(super) max: MaxHeld,
    /// The wakers to call as soon as the lock is released.
    pub(super) woken: Vec<Waker>,
}

#[derive(Debug, Default)]
pub(super) struct Ticket {
    /// Tickets pass in this order, under each of their keys: in that of arrival, but tickets of one
    /// fair line change ranks among themselves, so that its tenants take turns. As a ticket has one
    /// rank under all keys, no two tickets ever wait for each other.
    pub(super) rank: u64,
    /// The key whose line is fair, and whose turn it is there.
    pub(super) fair: Option<(u128, Turn)>,
    pub(super) keys: SmallVec<[AwaitedKey; 4]>,
    pub(super) callers: Callers,
    /// The monotonic time at which its units are expected to fit.
    pub(super) due: u64,
    /// The monotonic time at which they fit at the latest, as far as that is known: units that come
    /// back at an unknown time may come back at once.
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
    /// By rank.
    pub(super) waiting: VecDeque<Waiter>,
    pub(super) total_cost: u64,
    /// The tickets among them whose tenants take turns.
    pub(super) fair: FairLine,
}

/// A ticket in the queue of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiter {
    pub(super) ticket: u64,
    pub(super) rank: u64,
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
    /// The rank of a ticket; `u64::MAX`, behind all others, if it has left.
    pub(super) fn rank_of(&self, ticket: u64) -> u64 {
        self.tickets.get(&ticket).map_or(u64::MAX, |known| known.rank)
    }

    /// The rank that a new ticket would have which takes turns under this charge.
    pub(super) fn rank_in_turn(&self, charge: &Charge, turn: Turn) -> u64 {
        let new = self.next_ticket;
        let Some(queue) = self.keys.get(&charge.id()) else { return new };
        let mut fair = queue.fair.clone();
        fair.push(turn, new, charge.cost);
        let order = fair.order();
        let rank = |ticket: &u64| if *ticket == new { new } else { self.rank_of(*ticket) };
        let mut ranks: Vec<_> = order.iter().map(rank).collect();
        ranks.sort_unstable();
        let position = order.iter().position(|ticket| *ticket == new);
        position.and_then(|position| ranks.get(position)).map_or(new, |rank| *rank)
    }

    /// Divides the ranks of a fair line's tickets among them again, so that they are in order. Wakes the
    /// first one that has moved up, but for the `new` one: what was behind a ticket that has left may
    /// cost less, and pass earlier than that one.
    pub(super) fn reorder(&mut self, key: u128, new: Option<u64>, now: u64) {
        let Some(queue) = self.keys.get(&key) else { return };
        let order = queue.fair.order();
        let mut ranks: Vec<_> = order.iter().map(|ticket| self.rank_of(*ticket)).collect();
        ranks.sort_unstable();
        let mut changed: SmallVec<[u128; 4]> = SmallVec::new();
        let mut moved_up = None;
        for (ticket, rank) in order.into_iter().zip(ranks) {
            let Some(known) = self.tickets.get_mut(&ticket).filter(|known| known.rank != rank)
            else {
                continue;
            };
            if rank < known.rank && new != Some(ticket) {
                moved_up.get_or_insert(ticket);
            }
            known.rank = rank;
            for awaited in &known.keys {
                if !changed.contains(&awaited.key) {
                    changed.push(awaited.key);
                }
            }
        }
        for key in changed {
            let Some(queue) = self.keys.get_mut(&key) else { continue };
            for waiter in &mut queue.waiting {
                waiter.rank = self.tickets.get(&waiter.ticket).map_or(u64::MAX, |known| known.rank);
            }
            queue.waiting.make_contiguous().sort_unstable_by_key(|waiter| waiter.rank);
        }
        if let Some(ticket) = moved_up {
            self.wake(ticket, true, now);
        }
    }

    /// Removes a ticket. It has used its turn if it was charged; otherwise those behind move up.
    pub(super) fn remove(&mut self, ticket: u64, left: Left, now: u64) -> Option<Ticket> {
        let removed = self.tickets.remove(&ticket)?;
        for AwaitedKey { key, .. } in &removed.keys {
            let Some(queue) = self.keys.get_mut(key) else { continue };
            queue.remove(removed.rank);
            if removed.fair.is_some_and(|(fair, _)| fair == *key) {
                match left {
                    Left::Charged => queue.fair.pass(ticket),
                    Left::Refused | Left::Early => queue.fair.leave(ticket),
                }
            }
            if queue.waiting.is_empty() {
                self.keys.remove(key);
            }
        }
        for caller in &removed.callers {
            if let Entry::Occupied(mut held) = self.callers.entry(*caller) {
                *held.get_mut() = held.get().saturating_sub(1);
                if *held.get() == 0 {
                    held.remove();
                }
            }
        }
        if let Some((key, _)) = removed.fair {
            self.reorder(key, None, now);
        }
        if left != Left::Charged {
            self.forget_dues_behind(&removed);
        }
        let moved_up = removed.moved_up || left != Left::Charged;
        self.wake_those_behind(&removed.keys, removed.rank, moved_up, now);
        Some(removed)
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
            if let Some(waiting) = self.keys.get_mut(key).and_then(|key| key.get_mut(known.rank)) {
                waiting.comes_at = comes_at;
            }
        }
    }

    /// Until when the ticket yields to tickets ahead that are due at `now` as well, and not late;
    /// `None` if there are none.
    pub(super) fn yields_until(&self, ticket: u64, now: u64) -> Option<u64> {
        let rank = self.rank_of(ticket);
        let ahead = self.queues_of(ticket).flat_map(|key| key.ahead_of(rank, now));
        let is_due =
            |other: &&Waiter| self.tickets.get(&other.ticket).is_some_and(|other| other.due <= now);
        ahead.filter(is_due).map(Waiter::late_at).max()
    }

    /// The earliest time at which a ticket directly ahead, in any queue, is late unless it is
    /// polled.
    pub(super) fn next_late_at(&self, ticket: u64, now: u64) -> Option<u64> {
        let rank = self.rank_of(ticket);
        let directly_ahead =
            self.queues_of(ticket).filter_map(|key| key.ahead_of(rank, now).next_back());
        directly_ahead.map(Waiter::late_at).min()
    }

    /// Wakes, in each of these queues, the next ticket behind this rank and the next one that yields.
    /// A ticket that has moved up wakes the one behind it in turn.
    pub(super) fn wake_those_behind(
        &mut self,
        keys: &[AwaitedKey],
        rank: u64,
        moved_up: bool,
        now: u64,
    ) {
        let mut woken: SmallVec<[u64; 4]> = SmallVec::new();
        for key in keys.iter().filter_map(|awaited| self.keys.get(&awaited.key)) {
            let yields = |other: &u64| self.tickets.get(other).is_some_and(|other| other.yields);
            woken.extend(key.behind(rank).next());
            woken.extend(key.behind(rank).find(yields));
        }
        for ticket in woken {
            self.wake(ticket, moved_up, now);
        }
    }

    /// Wakes, in each of these queues, the next ticket behind this rank that yields: the one of this rank
    /// waits on.
    pub(super) fn wake_those_that_yield(&mut self, keys: &[AwaitedKey], rank: u64, now: u64) {
        let mut woken: SmallVec<[u64; 4]> = SmallVec::new();
        for key in keys.iter().filter_map(|awaited| self.keys.get(&awaited.key)) {
            let yields = |other: &u64| self.tickets.get(other).is_some_and(|other| other.yields);
            woken.extend(key.behind(rank).find(yields));
        }
        for ticket in woken {
            self.wake(ticket, false, now);
        }
    }

    /// Forgets when the tickets behind this one, which has left, are due under its keys: it may be
    /// earlier now.
    fn forget_dues_behind(&mut self, left: &Ticket) {
        for AwaitedKey { key, .. } in &left.keys {
            self.forget_dues(*key, left.rank);
        }
    }

    /// Forgets when the tickets of `key`, from this rank on, are due under this key: it may be
    /// earlier now. A ticket of one key needs no change, as no other key can delay it.
    pub(super) fn forget_dues(&mut self, key: u128, first: u64) {
        let waiting = self.keys.get(&key).map(|key| &key.waiting);
        for Waiter { ticket, rank, .. } in waiting.into_iter().flatten() {
            let Some(known) = self.tickets.get_mut(ticket).filter(|_| *rank >= first) else {
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
        let rank = known.rank;
        let keys: SmallVec<[u128; 4]> = known.keys.iter().map(|awaited| awaited.key).collect();
        self.expect(ticket, now);
        for key in keys {
            let behind = self.keys.get(&key).and_then(|key| key.behind(rank).next());
            let Some(behind) = behind.and_then(|behind| self.tickets.get_mut(&behind)) else {
                continue;
            };
            behind.wakeup = behind.wakeup.max(Wakeup::Nudged);
            self.woken.extend(behind.waker.take());
        }
    }
}

impl KeyQueue {
    /// Adds a ticket behind all others.
    pub(super) fn push(&mut self, ticket: u64, cost: u64, comes_at: u64) {
        self.waiting.push_back(Waiter { ticket, rank: ticket, cost, comes_at });
        self.total_cost = self.total_cost.saturating_add(cost);
    }

    /// The tickets of a lower rank that are not late.
    fn ahead_of(&self, rank: u64, now: u64) -> impl DoubleEndedIterator<Item = &Waiter> {
        let ahead = self.waiting.partition_point(|other| other.rank < rank);
        self.waiting.range(..ahead).filter(move |other| !other.is_late(now))
    }

    /// The units of the tickets of a lower rank.
    pub(super) fn cost_ahead_of(&self, rank: u64, now: u64) -> u64 {
        self.ahead_of(rank, now).fold(0, |sum, other| sum.saturating_add(other.cost))
    }

    pub(super) fn behind(&self, rank: u64) -> impl Iterator<Item = u64> {
        let next = self.waiting.partition_point(|other| other.rank <= rank);
        self.waiting.range(next..).map(|other| other.ticket)
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.waiting.front().map(|first| first.ticket)
    }

    fn find(&self, rank: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&rank, |other| other.rank).ok()
    }

    fn get_mut(&mut self, rank: u64) -> Option<&mut Waiter> {
        self.find(rank).and_then(|index| self.waiting.get_mut(index))
    }

    fn remove(&mut self, rank: u64) {
        if let Some(removed) = self.find(rank).and_then(|index| self.waiting.remove(index)) {
            self.total_cost = self.total_cost.saturating_sub(removed.cost);
        }
    }
}
