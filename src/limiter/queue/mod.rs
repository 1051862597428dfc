//! Waiting for quota in arrival order: the [`WaitQueue`].
//!
//! A request that waits reserves its units by its place in the line: whoever comes later to one of
//! its keys passes only if the units of all those ahead would fit as well. Nothing is charged until
//! its turn comes, so there is nothing to give back when its caller leaves, and those behind move
//! up by themselves.
//!
//! One caller leaves room for others: it waits with no more requests than positions are free, in all
//! and in a line that all share. And a request whose turn has come has to be polled: if it is not
//! for a tenth of a second, those behind go first.

mod places;

use std::{
    collections::hash_map::Entry,
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

pub(crate) use self::places::Callers;
use self::places::{Awaited, Places, Ticket};
use crate::{
    clock::{Now, nanos},
    store::{Charge, Mode},
};

/// Those who wait, over all keys.
#[derive(Debug)]
pub(crate) struct WaitQueue {
    /// Read without the lock: mostly nobody waits.
    waiting: AtomicUsize,
    places: Mutex<Places>,
    max: MaxHeld,
}

/// How many may wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MaxHeld {
    pub(crate) all: usize,
    pub(crate) per_caller: usize,
    pub(crate) per_key: usize,
}

/// A store that is asked for one who waits may take so long: then those behind go first.
const STORE_PATIENCE: u64 = Duration::from_secs(1).as_nanos() as u64;

/// What a request asks of one key.
pub(crate) struct Request<'a> {
    pub(crate) charge: &'a Charge,
    /// How long until it fits, if all those ahead use their units as soon as they fit.
    pub(crate) wait: Duration,
    /// How long it may take.
    pub(crate) hold: Duration,
    /// Whether all callers share the key.
    pub(crate) is_global: bool,
}

impl Request<'_> {
    /// What costs nothing, or is only tried out, is not waited for.
    fn is_waited_for(&self) -> bool {
        self.charge.mode == Mode::Enforced && self.charge.cost > 0
    }
}

/// Why a ticket is to be polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wakeup {
    /// For no reason of the line's.
    No,
    /// The one ahead may be late earlier than was known: it looks again for how long it waits.
    Nudged,
    /// Its turn may have come.
    Yes,
}

/// What came of joining.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Join {
    /// This is the ticket.
    Queued(u64),
    /// The line is too long, or a wait might be longer than it may.
    Full,
    /// Someone has joined or left since the charges were looked at: the waits are no longer true.
    Outdated,
}

impl WaitQueue {
    pub(crate) fn new(max: MaxHeld) -> Self {
        Self { waiting: AtomicUsize::new(0), places: Mutex::default(), max }
    }

    /// Whether anybody waits.
    #[inline]
    pub(crate) fn has_waiting(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// How many wait.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Tells each charge what those who wait for its key will use before it: those ahead of
    /// `ticket`, or all for one who has just arrived. Who is late is not counted.
    pub(crate) fn set_queued_ahead<'a>(
        &self,
        charges: impl Iterator<Item = &'a mut Charge>,
        ticket: Option<u64>,
        now: Now,
    ) {
        if self.waiting.load(Relaxed) == 0 {
            charges.for_each(|charge| charge.ahead = 0);
            return;
        }
        let now = now.monotonic_nanos();
        let mut places = self.lock();
        if let Some(ticket) = ticket {
            places.expect(ticket, now.saturating_add(STORE_PATIENCE));
        }
        for charge in charges {
            let key = places
                .keys
                .get(&charge.id())
                .filter(|_| charge.mode != Mode::Peek && charge.cost > 0);
            charge.ahead = key.map_or(0, |key| key.cost_ahead_of(ticket, now));
        }
    }

    /// Joins the line for all that is wanted, in the name of these callers.
    pub(crate) fn join<'a>(
        &self,
        callers: Callers,
        wanted: impl Iterator<Item = Request<'a>>,
        now: Now,
    ) -> Join {
        let wanted = wanted.filter(Request::is_waited_for);
        let now = now.monotonic_nanos();
        let mut places = self.lock();
        let free = self.max.all.saturating_sub(places.tickets.len());
        let held_by = |caller| places.callers.get(caller).copied().unwrap_or(0);
        let most_by_one = callers.iter().map(held_by).max().unwrap_or(0);
        let has_room = most_by_one < free.min(self.max.per_caller);
        if free == 0 || (!callers.is_empty() && !has_room) || self.max.per_key == 0 {
            return Join::Full;
        }
        let ticket = places.next_ticket;
        let mut joining = Ticket::new(callers, now);
        let mut costs: SmallVec<[u64; 4]> = SmallVec::new();
        for Request { charge, wait, hold, is_global } in wanted {
            let key = charge.id();
            let due = now.saturating_add(nanos(wait));
            let latest = due.max(places.latest(charge));
            if let Some(line) = places.keys.get(&key) {
                let free = self.max.per_key.saturating_sub(line.waiting.len());
                let takes_all = |caller: &u128| is_global && places.held_by(*caller, line) >= free;
                if line.cost_ahead_of(None, now) != charge.ahead {
                    return Join::Outdated;
                }
                if free == 0 || joining.callers.iter().any(takes_all) {
                    return Join::Full;
                }
            } else if charge.ahead != 0 {
                return Join::Outdated;
            }
            if due > now && latest > now.saturating_add(nanos(hold)) {
                return Join::Full;
            }
            joining.due = joining.due.max(due);
            joining.latest = joining.latest.max(latest);
            joining.keys.push(Awaited { key, due });
            costs.push(charge.cost);
        }
        for (awaited, cost) in joining.keys.iter().zip(costs) {
            places.keys.entry(awaited.key).or_default().push(ticket, cost, joining.due);
        }
        for caller in &joining.callers {
            let held = places.callers.entry(*caller).or_default();
            *held = held.saturating_add(1);
        }
        places.next_ticket = places.next_ticket.saturating_add(1);
        places.tickets.insert(ticket, joining);
        self.waiting.store(places.tickets.len(), Relaxed);
        Join::Queued(ticket)
    }

    /// A ticket goes on waiting, perhaps until another time than was expected.
    pub(crate) fn wait_again<'a>(
        &self,
        ticket: u64,
        wanted: impl Iterator<Item = Request<'a>>,
        now: Now,
    ) {
        let now = now.monotonic_nanos();
        self.change(|places| {
            let Some(known) = places.tickets.get_mut(&ticket) else { return };
            let before = mem::replace(&mut known.due, now);
            let enforced = wanted.filter(Request::is_waited_for);
            for (awaited, wanted) in known.keys.iter_mut().zip(enforced) {
                awaited.due = now.saturating_add(nanos(wanted.wait));
                known.due = known.due.max(awaited.due);
            }
            let (due, moved_up) = (known.due, mem::take(&mut known.moved_up));
            places.expect(ticket, due);
            if moved_up || due < before {
                places.wake_those_behind(ticket, true, now);
            }
        });
    }

    /// How long until the next ahead of the ticket is late: then this one is not to wait for it any
    /// more. `None` where it is the first.
    pub(crate) fn next_late_in(&self, ticket: u64, now: Now) -> Option<Duration> {
        let now = now.monotonic_nanos();
        let late_at = self.lock().next_late_at(ticket, now)?;
        Some(Duration::from_nanos(late_at.saturating_sub(now)))
    }

    /// How long a refused charge waits at most, behind those who wait already, of whom some may
    /// have come after it; zero where what is known of it stands.
    pub(crate) fn longest_wait(&self, charge: &Charge, behind_all: bool, now: Now) -> Duration {
        let places = self.lock();
        let latest =
            if behind_all { places.latest_behind_all(charge) } else { places.latest(charge) };
        Duration::from_nanos(latest.saturating_sub(now.monotonic_nanos()))
    }

    /// Whether the ticket was woken since this was last asked; if not, `waker` is told when it is.
    pub(crate) fn take_wakeup(&self, ticket: u64, waker: &Waker) -> Wakeup {
        let waker = waker.clone();
        let (woken, _replaced) = self.change(|places| {
            let Some(known) = places.tickets.get_mut(&ticket) else { return (Wakeup::Yes, None) };
            let woken = match (mem::take(&mut known.woken), mem::take(&mut known.nudged)) {
                (true, _) => Wakeup::Yes,
                (false, true) => Wakeup::Nudged,
                (false, false) => Wakeup::No,
            };
            (woken, known.waker.replace(waker))
        });
        woken
    }

    /// For how long the ticket gives way to those who came earlier to one of its keys and are due at
    /// `now` as well. It is woken when one ahead leaves.
    pub(crate) fn yields_turn(&self, ticket: u64, now: Now) -> Option<Duration> {
        let now = now.monotonic_nanos();
        let mut places = self.lock();
        let until = places.gives_way_until(ticket, now);
        if let Some(known) = places.tickets.get_mut(&ticket) {
            known.gives_way = until.is_some();
        }
        let until = until?;
        places.expect(ticket, until);
        Some(Duration::from_nanos(until.saturating_sub(now)))
    }

    /// Leaves the line: because its turn has come, as was expected of it, or before.
    pub(crate) fn leave(&self, ticket: u64, turn_has_come: bool, now: Now) {
        let now = now.monotonic_nanos();
        let _left = self.change(|places| {
            let moved_up = places.tickets.get(&ticket).is_some_and(|known| known.moved_up);
            places.wake_those_behind(ticket, moved_up || !turn_has_come, now);
            if !turn_has_come {
                places.forget_dues_behind(ticket);
            }
            let left = places.tickets.remove(&ticket)?;
            for Awaited { key, .. } in &left.keys {
                let Some(waiting) = places.keys.get_mut(key) else { continue };
                waiting.remove(ticket);
                if waiting.waiting.is_empty() {
                    places.keys.remove(key);
                }
            }
            for caller in &left.callers {
                if let Entry::Occupied(mut held) = places.callers.entry(*caller) {
                    *held.get_mut() = held.get().saturating_sub(1);
                    if *held.get() == 0 {
                        held.remove();
                    }
                }
            }
            self.waiting.store(places.tickets.len(), Relaxed);
            Some(left)
        });
    }

    /// Units of these charges have come back out of turn: the first who waits may pass earlier.
    pub(crate) fn on_released<'a>(&self, charges: impl IntoIterator<Item = &'a Charge>, now: Now) {
        if self.waiting.load(Relaxed) == 0 {
            return;
        }
        let now = now.monotonic_nanos();
        self.change(|places| {
            for charge in charges {
                let first = places.keys.get(&charge.id()).and_then(|key| key.waiting.front());
                if let Some(ticket) = first.map(|first| first.ticket) {
                    places.wake(ticket, true, now);
                    places.forget_dues(charge.id(), 0);
                }
            }
        });
    }

    /// Changes who waits; afterwards, without the lock, wakes whom that concerns. A waker is the
    /// runtime's: woken or dropped, it may drop a request that waits here, which then leaves.
    fn change<T>(&self, change: impl FnOnce(&mut Places) -> T) -> T {
        let mut places = self.lock();
        let changed = change(&mut places);
        let woken = mem::take(&mut places.woken);
        drop(places);
        woken.into_iter().for_each(Waker::wake);
        changed
    }

    fn lock(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{algorithm::Algorithm, quota::Quota};

    fn charge(cost: u64) -> Charge {
        let quota = Quota::per_second(1);
        Charge { cost, ..Charge::new(1, 2, Algorithm::TokenBucket, quota) }
    }

    fn join(line: &WaitQueue, charge: &Charge) -> Join {
        let second = Duration::from_secs(1);
        let wanted = Request { charge, wait: second, hold: 9 * second, is_global: false };
        line.join(Callers::new(), [wanted].into_iter(), now())
    }

    fn now() -> Now {
        Now::new(Duration::from_secs(1), Duration::from_secs(1))
    }

    fn line() -> WaitQueue {
        WaitQueue::new(MaxHeld { all: 10, per_caller: 10, per_key: 10 })
    }

    #[test]
    fn who_looked_before_another_joined_looks_again() {
        let line = line();
        let (first, mut second) = ([charge(3)], [charge(1)]);
        assert_eq!(join(&line, &first[0]), Join::Queued(0));
        assert_eq!(join(&line, &second[0]), Join::Outdated, "it did not see the first");
        line.set_queued_ahead(second.iter_mut(), None, now());
        assert_eq!(second[0].ahead, 3);
        assert_eq!(join(&line, &second[0]), Join::Queued(1));

        line.leave(0, true, now());
        line.set_queued_ahead(second.iter_mut(), Some(1), now());
        assert_eq!(second[0].ahead, 0, "who left is not ahead");
        line.leave(1, false, now());
        second[0].ahead = 7;
        line.set_queued_ahead(second.iter_mut(), None, now());
        assert_eq!(second[0].ahead, 0, "nobody waits any more");
        assert!(line.lock().keys.is_empty() && line.lock().tickets.is_empty());
    }

    /// A waker of a runtime that drops the task at once, which then leaves the line.
    struct Leaves {
        line: Arc<WaitQueue>,
        ticket: u64,
    }

    impl std::task::Wake for Leaves {
        fn wake(self: Arc<Self>) {
            self.line.leave(self.ticket, false, now());
        }
    }

    #[test]
    fn who_is_woken_may_leave_at_once() {
        let line = Arc::new(line());
        let (first, mut second) = ([charge(3)], [charge(1)]);
        assert_eq!(join(&line, &first[0]), Join::Queued(0));
        line.set_queued_ahead(second.iter_mut(), None, now());
        assert_eq!(join(&line, &second[0]), Join::Queued(1));
        let waker = Waker::from(Arc::new(Leaves { line: Arc::clone(&line), ticket: 1 }));
        assert_eq!(line.take_wakeup(1, &waker), Wakeup::No);
        // This wakes the second, which leaves: it must find the line unlocked.
        line.leave(0, true, now());
        assert!(line.lock().tickets.is_empty());
    }
}
