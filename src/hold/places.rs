//! Who waits for which key.

use std::{
    collections::{HashMap, VecDeque},
    task::Waker,
};

use smallvec::SmallVec;

use crate::{algorithm::Algorithm, store::Charge};

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) next_ticket: u64,
    pub(super) tickets: HashMap<u64, Ticket>,
    /// For each key of a policy, in order of arrival.
    pub(super) keys: HashMap<u128, Key>,
    /// Who is to be woken as soon as the lock is given back.
    pub(super) woken: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) keys: SmallVec<[Awaited; 4]>,
    /// The monotonic time at which its units are expected to fit.
    pub(super) due: u64,
    /// The monotonic time at which they fit at the latest.
    pub(super) latest: u64,
    pub(super) woken: bool,
    /// Whether someone ahead has left before its turn, which those behind are to learn as well.
    pub(super) moved_up: bool,
    /// Whether it is due, and waits for those ahead that are due as well.
    pub(super) gives_way: bool,
    pub(super) waker: Option<Waker>,
}

/// A key that a ticket waits for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Awaited {
    pub(super) key: u128,
    /// When its units fit by this key alone.
    pub(super) due: u64,
}

#[derive(Debug, Default)]
pub(super) struct Key {
    /// Tickets and their costs.
    pub(super) waiting: VecDeque<(u64, u64)>,
    pub(super) total_cost: u64,
}

impl Ticket {
    pub(super) fn new(now: u64) -> Self {
        Self {
            keys: SmallVec::new(),
            due: now,
            latest: now,
            woken: false,
            moved_up: false,
            gives_way: false,
            waker: None,
        }
    }
}

impl Places {
    /// When a charge fits at the latest, where that may be later than when it is due.
    ///
    /// It is due when all units ahead fit beside it. Where a whole quota has no room for them, it
    /// depends on when they are used: one ahead may be kept by another of its keys, and several
    /// units used at once leave a part of a window empty. The longest wait after the last of those
    /// is enough.
    pub(super) fn latest(&self, charge: &Charge) -> u64 {
        let Some(key) = self.keys.get(&charge.slot()) else { return 0 };
        let capacity = charge.algorithm.capacity(&charge.quota);
        if key.total_cost.saturating_add(charge.cost) <= capacity {
            return 0;
        }
        let in_windows = charge.algorithm != Algorithm::TokenBucket;
        let uneven = |cost: u64| in_windows && cost > 1;
        let unsure = key.waiting.iter().filter_map(|(ticket, cost)| {
            let ahead = self.tickets.get(ticket)?;
            let here = ahead.keys.iter().find(|awaited| awaited.key == charge.slot())?;
            let unsure = ahead.latest > here.due || uneven(*cost) || uneven(charge.cost);
            unsure.then_some(ahead.latest)
        });
        let longest_wait = charge.algorithm.longest_wait(&charge.quota, charge.cost);
        unsure.max().map_or(0, |latest| latest.saturating_add(longest_wait))
    }

    pub(super) fn is_behind(&self, ticket: u64, now: u64) -> bool {
        let Some(known) = self.tickets.get(&ticket) else { return false };
        let keys = known.keys.iter().filter_map(|awaited| self.keys.get(&awaited.key));
        let ahead = keys.flat_map(|key| key.waiting.iter().map(|(other, _)| *other));
        let mut ahead = ahead.filter(|other| *other < ticket);
        ahead.any(|other| self.tickets.get(&other).is_some_and(|other| other.due <= now))
    }

    /// Wakes, for each of the ticket's keys, the next one, and the next one that gives way. Who has
    /// moved up wakes the one behind in turn.
    pub(super) fn wake_those_behind(&mut self, ticket: u64, moved_up: bool) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        let mut woken: SmallVec<[u64; 4]> = SmallVec::new();
        for key in known.keys.iter().filter_map(|awaited| self.keys.get(&awaited.key)) {
            let gives_way =
                |other: &u64| self.tickets.get(other).is_some_and(|other| other.gives_way);
            woken.extend(key.behind(ticket).next());
            woken.extend(key.behind(ticket).find(gives_way));
        }
        for ticket in woken {
            self.wake(ticket, moved_up);
        }
    }

    /// Those behind may be due earlier by the keys of this ticket than is known.
    pub(super) fn forget_dues_behind(&mut self, ticket: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        for Awaited { key, .. } in known.keys.clone() {
            self.forget_dues(key, ticket + 1);
        }
    }

    /// From `first` on, those who wait for `key` may be due earlier by it than is known: if they
    /// wait for another key as well, that one may be what keeps them.
    pub(super) fn forget_dues(&mut self, key: u128, first: u64) {
        let waiting = self.keys.get(&key).map(|key| &key.waiting);
        for (ticket, _) in waiting.into_iter().flatten().filter(|(ticket, _)| *ticket >= first) {
            let Some(known) = self.tickets.get_mut(ticket) else { continue };
            if known.keys.len() > 1 {
                let here = known.keys.iter_mut().filter(|awaited| awaited.key == key);
                here.for_each(|awaited| awaited.due = 0);
            }
        }
    }

    pub(super) fn wake(&mut self, ticket: u64, moved_up: bool) {
        let Some(known) = self.tickets.get_mut(&ticket) else { return };
        known.woken = true;
        known.moved_up |= moved_up;
        self.woken.extend(known.waker.take());
    }
}

impl Key {
    pub(super) fn ahead_of(&self, ticket: Option<u64>) -> u64 {
        let Some(ticket) = ticket else { return self.total_cost };
        let ahead = self.waiting.iter().take_while(|(other, _)| *other < ticket);
        ahead.fold(0, |sum, (_, cost)| sum.saturating_add(*cost))
    }

    pub(super) fn behind(&self, ticket: u64) -> impl Iterator<Item = u64> {
        let next = self.waiting.partition_point(|(other, _)| *other <= ticket);
        self.waiting.range(next..).map(|(ticket, _)| *ticket)
    }

    pub(super) fn remove(&mut self, ticket: u64) {
        if let Ok(place) = self.waiting.binary_search_by_key(&ticket, |(other, _)| *other)
            && let Some((_, cost)) = self.waiting.remove(place)
        {
            self.total_cost = self.total_cost.saturating_sub(cost);
        }
    }
}
