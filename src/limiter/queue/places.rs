//! Who waits for which key.

use std::{
    collections::{HashMap, VecDeque},
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

use crate::{algorithm::Algorithm, store::Charge};

/// Who was to come and does not come for so long is late: those behind go first. An executor that
/// is that busy has worse to do than to keep an order.
const LATE_AFTER: u64 = Duration::from_millis(100).as_nanos() as u64;

/// The callers of a request, by their keys.
pub(crate) type Callers = SmallVec<[u128; 2]>;

#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) next_ticket: u64,
    pub(super) tickets: HashMap<u64, Ticket>,
    /// For each key of a policy, in order of arrival.
    pub(super) keys: HashMap<u128, Key>,
    /// With how many requests each caller waits.
    pub(super) callers: HashMap<u128, usize>,
    /// Who is to be woken as soon as the lock is given back.
    pub(super) woken: Vec<Waker>,
}

#[derive(Debug)]
pub(super) struct Ticket {
    pub(super) keys: SmallVec<[Awaited; 4]>,
    pub(super) callers: Callers,
    /// The monotonic time at which its units are expected to fit.
    pub(super) due: u64,
    /// The monotonic time at which they fit at the latest.
    pub(super) latest: u64,
    pub(super) woken: bool,
    /// Whether it is to look again for how long it waits for the one ahead.
    pub(super) nudged: bool,
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
    pub(super) waiting: VecDeque<Waiting>,
    pub(super) total_cost: u64,
}

/// A ticket in the line of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) ticket: u64,
    pub(super) cost: u64,
    /// The monotonic time at which it is expected to be polled.
    comes_at: u64,
}

impl Waiting {
    /// When those behind stop waiting for it.
    const fn late_at(&self) -> u64 {
        self.comes_at.saturating_add(LATE_AFTER)
    }

    const fn is_late(&self, now: u64) -> bool {
        self.late_at() <= now
    }
}

impl Ticket {
    pub(super) fn new(callers: Callers, now: u64) -> Self {
        Self {
            keys: SmallVec::new(),
            callers,
            due: now,
            latest: now,
            woken: false,
            nudged: false,
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
        self.latest_behind(charge, |ahead, here, cost| {
            let in_windows = charge.algorithm != Algorithm::TokenBucket;
            let uneven = |cost: u64| in_windows && cost > 1;
            ahead.latest > here.due || uneven(cost) || uneven(charge.cost)
        })
    }

    /// When a charge fits at the latest behind all who wait, of whom some came after it.
    pub(super) fn latest_behind_all(&self, charge: &Charge) -> u64 {
        self.latest_behind(charge, |_, _, _| true)
    }

    /// The longest wait after the last of those that are `unsure` to use their units when they are
    /// due.
    fn latest_behind(
        &self,
        charge: &Charge,
        unsure: impl Fn(&Ticket, &Awaited, u64) -> bool,
    ) -> u64 {
        let Some(key) = self.keys.get(&charge.id()) else { return 0 };
        let capacity = charge.algorithm.capacity(&charge.quota);
        if key.total_cost.saturating_add(charge.cost) <= capacity {
            return 0;
        }
        let latest = key.waiting.iter().filter_map(|Waiting { ticket, cost, .. }| {
            let ahead = self.tickets.get(ticket)?;
            let here = ahead.keys.iter().find(|awaited| awaited.key == charge.id())?;
            unsure(ahead, here, *cost).then_some(ahead.latest)
        });
        let longest_wait = charge.algorithm.longest_wait(&charge.quota, charge.cost);
        latest.max().map_or(0, |latest| latest.saturating_add(longest_wait))
    }

    /// With how many requests a caller waits in the line of `key`.
    pub(super) fn held_by(&self, caller: u128, key: &Key) -> usize {
        let is_callers = |waiting: &&Waiting| {
            let known = self.tickets.get(&waiting.ticket);
            known.is_some_and(|known| known.callers.contains(&caller))
        };
        key.waiting.iter().filter(is_callers).count()
    }

    /// The ticket is expected to be polled at this time.
    pub(super) fn expect(&mut self, ticket: u64, comes_at: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        for Awaited { key, .. } in &known.keys {
            if let Some(waiting) = self.keys.get_mut(key).and_then(|key| key.get_mut(ticket)) {
                waiting.comes_at = comes_at;
            }
        }
    }

    /// Until when the ticket gives way to those who came earlier to one of its keys and are due at
    /// `now` as well, unless they are late; `None` where there are none.
    pub(super) fn gives_way_until(&self, ticket: u64, now: u64) -> Option<u64> {
        let known = self.tickets.get(&ticket)?;
        let keys = known.keys.iter().filter_map(|awaited| self.keys.get(&awaited.key));
        let ahead = keys.flat_map(|key| key.ahead_of(ticket, now));
        let is_due = |other: &&Waiting| {
            self.tickets.get(&other.ticket).is_some_and(|other| other.due <= now)
        };
        ahead.filter(is_due).map(Waiting::late_at).max()
    }

    /// When the next ahead of the ticket, by any of its keys, is late unless it comes.
    pub(super) fn next_late_at(&self, ticket: u64, now: u64) -> Option<u64> {
        let known = self.tickets.get(&ticket)?;
        let keys = known.keys.iter().filter_map(|awaited| self.keys.get(&awaited.key));
        keys.filter_map(|key| key.ahead_of(ticket, now).next_back()).map(Waiting::late_at).min()
    }

    /// Wakes, for each of the ticket's keys, the next one, and the next one that gives way. Who has
    /// moved up wakes the one behind in turn.
    pub(super) fn wake_those_behind(&mut self, ticket: u64, moved_up: bool, now: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        let mut woken: SmallVec<[u64; 4]> = SmallVec::new();
        for key in known.keys.iter().filter_map(|awaited| self.keys.get(&awaited.key)) {
            let gives_way =
                |other: &u64| self.tickets.get(other).is_some_and(|other| other.gives_way);
            woken.extend(key.behind(ticket).next());
            woken.extend(key.behind(ticket).find(gives_way));
        }
        for ticket in woken {
            self.wake(ticket, moved_up, now);
        }
    }

    /// Those behind may be due earlier by the keys of this ticket than is known.
    pub(super) fn forget_dues_behind(&mut self, ticket: u64) {
        let Some(known) = self.tickets.get(&ticket) else { return };
        for Awaited { key, .. } in known.keys.clone() {
            self.forget_dues(key, ticket.saturating_add(1));
        }
    }

    /// From `first` on, those who wait for `key` may be due earlier by it than is known: if they
    /// wait for another key as well, that one may be what keeps them.
    pub(super) fn forget_dues(&mut self, key: u128, first: u64) {
        let waiting = self.keys.get(&key).map(|key| &key.waiting);
        for Waiting { ticket, .. } in waiting.into_iter().flatten() {
            let Some(known) = self.tickets.get_mut(ticket).filter(|_| *ticket >= first) else {
                continue;
            };
            if known.keys.len() > 1 {
                let here = known.keys.iter_mut().filter(|awaited| awaited.key == key);
                here.for_each(|awaited| awaited.due = 0);
            }
        }
    }

    /// Wakes a ticket, which is expected to come at once; who is behind it waits no longer for it
    /// than for any that is late.
    pub(super) fn wake(&mut self, ticket: u64, moved_up: bool, now: u64) {
        let Some(known) = self.tickets.get_mut(&ticket) else { return };
        known.woken = true;
        known.moved_up |= moved_up;
        self.woken.extend(known.waker.take());
        let keys: SmallVec<[u128; 4]> = known.keys.iter().map(|awaited| awaited.key).collect();
        self.expect(ticket, now);
        for key in keys {
            let behind = self.keys.get(&key).and_then(|key| key.behind(ticket).next());
            let Some(behind) = behind.and_then(|behind| self.tickets.get_mut(&behind)) else {
                continue;
            };
            behind.nudged = true;
            self.woken.extend(behind.waker.take());
        }
    }
}

impl Key {
    pub(super) fn push(&mut self, ticket: u64, cost: u64, comes_at: u64) {
        self.waiting.push_back(Waiting { ticket, cost, comes_at });
        self.total_cost = self.total_cost.saturating_add(cost);
    }

    /// Those who came before `ticket` and are not late.
    fn ahead_of(&self, ticket: u64, now: u64) -> impl DoubleEndedIterator<Item = &Waiting> {
        let ahead = self.waiting.partition_point(|other| other.ticket < ticket);
        self.waiting.range(..ahead).filter(move |other| !other.is_late(now))
    }

    /// What those before `ticket` will use, or all before one who has just arrived.
    pub(super) fn cost_ahead_of(&self, ticket: Option<u64>, now: u64) -> u64 {
        let ahead = self.ahead_of(ticket.unwrap_or(u64::MAX), now);
        ahead.fold(0, |sum, other| sum.saturating_add(other.cost))
    }

    pub(super) fn behind(&self, ticket: u64) -> impl Iterator<Item = u64> {
        let next = self.waiting.partition_point(|other| other.ticket <= ticket);
        self.waiting.range(next..).map(|other| other.ticket)
    }

    fn find(&self, ticket: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&ticket, |other| other.ticket).ok()
    }

    fn get_mut(&mut self, ticket: u64) -> Option<&mut Waiting> {
        self.find(ticket).and_then(|place| self.waiting.get_mut(place))
    }

    pub(super) fn remove(&mut self, ticket: u64) {
        if let Some(removed) = self.find(ticket).and_then(|place| self.waiting.remove(place)) {
            self.total_cost = self.total_cost.saturating_sub(removed.cost);
        }
    }
}
