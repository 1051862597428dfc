//! Waiting for quota in arrival order: the [`Line`].
//!
//! A request that waits reserves its units by its place in the line: whoever comes later to one of
//! its keys passes only if the units of all those ahead would fit as well. Nothing is charged until
//! its turn comes, so there is nothing to give back when its caller leaves, and those behind move
//! up by themselves.

mod places;

use std::{
    mem,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use smallvec::SmallVec;

use self::places::{Awaited, Places, Ticket};
use crate::{
    clock::{Now, nanos},
    store::{Charge, Mode},
};

/// Those who wait, over all keys.
#[derive(Debug)]
pub(crate) struct Line {
    /// Read without the lock: mostly nobody waits.
    waiting: AtomicUsize,
    places: Mutex<Places>,
    max: usize,
    max_per_key: usize,
}

/// What a request asks of one key.
pub(crate) struct Wanted<'a> {
    pub(crate) charge: &'a Charge,
    /// How long until it fits, if all those ahead use their units as soon as they fit.
    pub(crate) wait: Duration,
    /// How long it may take.
    pub(crate) hold: Duration,
}

impl Wanted<'_> {
    /// What costs nothing, or is only tried out, is not waited for.
    fn is_waited_for(&self) -> bool {
        self.charge.mode == Mode::Enforced && self.charge.cost > 0
    }
}

/// What came of joining.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Joined {
    /// This is the ticket.
    At(u64),
    /// The line is too long, or a wait might be longer than it may.
    Refused,
    /// Someone has joined or left since the charges were looked at: the waits are no longer true.
    Outdated,
}

impl Line {
    pub(crate) fn new(max: usize, max_per_key: usize) -> Self {
        Self { waiting: AtomicUsize::new(0), places: Mutex::default(), max, max_per_key }
    }

    /// Whether anybody waits.
    #[inline]
    pub(crate) fn is_waited_in(&self) -> bool {
        self.waiting.load(Relaxed) > 0
    }

    /// How many wait.
    #[cfg(feature = "metrics")]
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.load(Relaxed)
    }

    /// Tells each charge what those who wait for its key will use before it: those ahead of
    /// `ticket`, or all for one who has just arrived.
    pub(crate) fn look<'a>(
        &self,
        charges: impl Iterator<Item = &'a mut Charge>,
        ticket: Option<u64>,
    ) {
        if self.waiting.load(Relaxed) == 0 {
            charges.for_each(|charge| charge.ahead = 0);
            return;
        }
        let places = self.lock();
        for charge in charges {
            let key = places
                .keys
                .get(&charge.slot())
                .filter(|_| charge.mode != Mode::Peek && charge.cost > 0);
            charge.ahead = key.map_or(0, |key| key.ahead_of(ticket));
        }
    }

    /// Joins the line for all that is wanted.
    pub(crate) fn join<'a>(&self, wanted: impl Iterator<Item = Wanted<'a>>, now: Now) -> Joined {
        let wanted = wanted.filter(Wanted::is_waited_for);
        let now = now.monotonic_nanos();
        let mut places = self.lock();
        if places.tickets.len() >= self.max || self.max_per_key == 0 {
            return Joined::Refused;
        }
        let ticket = places.next_ticket;
        let mut joining = Ticket::new(now);
        let mut costs: SmallVec<[u64; 4]> = SmallVec::new();
        for Wanted { charge, wait, hold } in wanted {
            let key = charge.slot();
            let due = now.saturating_add(nanos(wait));
            let latest = due.max(places.latest(charge));
            let (length, ahead) =
                places.keys.get(&key).map_or((0, 0), |key| (key.waiting.len(), key.total_cost));
            if ahead != charge.ahead {
                return Joined::Outdated;
            }
            let too_late = due > now && latest > now.saturating_add(nanos(hold));
            if too_late || length >= self.max_per_key {
                return Joined::Refused;
            }
            joining.due = joining.due.max(due);
            joining.latest = joining.latest.max(latest);
            joining.keys.push(Awaited { key, due });
            costs.push(charge.cost);
        }
        for (awaited, cost) in joining.keys.iter().zip(costs) {
            let key = places.keys.entry(awaited.key).or_default();
            key.waiting.push_back((ticket, cost));
            key.total_cost = key.total_cost.saturating_add(cost);
        }
        places.next_ticket += 1;
        places.tickets.insert(ticket, joining);
        self.waiting.store(places.tickets.len(), Relaxed);
        Joined::At(ticket)
    }

    /// A ticket goes on waiting, perhaps until another time than was expected.
    pub(crate) fn wait_again<'a>(
        &self,
        ticket: u64,
        wanted: impl Iterator<Item = Wanted<'a>>,
        now: Now,
    ) {
        self.change(|places| {
            let Some(known) = places.tickets.get_mut(&ticket) else { return };
            let before = mem::replace(&mut known.due, now.monotonic_nanos());
            let enforced = wanted.filter(Wanted::is_waited_for);
            for (awaited, wanted) in known.keys.iter_mut().zip(enforced) {
                awaited.due = now.monotonic_nanos().saturating_add(nanos(wanted.wait));
                known.due = known.due.max(awaited.due);
            }
            if mem::take(&mut known.moved_up) || known.due < before {
                places.wake_those_behind(ticket, true);
            }
        });
    }

    /// Whether the ticket was woken since this was last asked; if not, `waker` is told when it is.
    pub(crate) fn woken(&self, ticket: u64, waker: &Waker) -> bool {
        let waker = waker.clone();
        let (woken, _replaced) = self.change(|places| {
            let Some(known) = places.tickets.get_mut(&ticket) else { return (true, None) };
            (mem::take(&mut known.woken), known.waker.replace(waker))
        });
        woken
    }

    /// Whether someone who came earlier to one of the ticket's keys is due at `now` as well. Then
    /// it gives way, and is woken when one ahead leaves.
    pub(crate) fn gives_way(&self, ticket: u64, now: u64) -> bool {
        let mut places = self.lock();
        let gives_way = places.is_behind(ticket, now);
        if let Some(known) = places.tickets.get_mut(&ticket) {
            known.gives_way = gives_way;
        }
        gives_way
    }

    /// Leaves the line: because its turn has come, as was expected of it, or before.
    pub(crate) fn leave(&self, ticket: u64, turn_has_come: bool) {
        let _left = self.change(|places| {
            let moved_up = places.tickets.get(&ticket).is_some_and(|known| known.moved_up);
            places.wake_those_behind(ticket, moved_up || !turn_has_come);
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
            self.waiting.store(places.tickets.len(), Relaxed);
            Some(left)
        });
    }

    /// Units of these charges have come back out of turn: the first who waits may pass earlier.
    pub(crate) fn freed<'a>(&self, charges: impl IntoIterator<Item = &'a Charge>) {
        if self.waiting.load(Relaxed) == 0 {
            return;
        }
        self.change(|places| {
            for charge in charges {
                let first =
                    places.keys.get(&charge.slot()).and_then(|key| key.waiting.front().copied());
                if let Some((ticket, _)) = first {
                    places.wake(ticket, true);
                    places.forget_dues(charge.slot(), 0);
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

    fn join(line: &Line, charge: &Charge) -> Joined {
        let second = Duration::from_secs(1);
        let wanted = Wanted { charge, wait: second, hold: 9 * second };
        line.join([wanted].into_iter(), Now::new(second, second))
    }

    #[test]
    fn who_looked_before_another_joined_looks_again() {
        let line = Line::new(10, 10);
        let (first, mut second) = ([charge(3)], [charge(1)]);
        assert_eq!(join(&line, &first[0]), Joined::At(0));
        assert_eq!(join(&line, &second[0]), Joined::Outdated, "it did not see the first");
        line.look(second.iter_mut(), None);
        assert_eq!(second[0].ahead, 3);
        assert_eq!(join(&line, &second[0]), Joined::At(1));

        line.leave(0, true);
        line.look(second.iter_mut(), Some(1));
        assert_eq!(second[0].ahead, 0, "who left is not ahead");
        line.leave(1, false);
        second[0].ahead = 7;
        line.look(second.iter_mut(), None);
        assert_eq!(second[0].ahead, 0, "nobody waits any more");
        assert!(line.lock().keys.is_empty() && line.lock().tickets.is_empty());
    }

    /// A waker of a runtime that drops the task at once, which then leaves the line.
    struct Leaves {
        line: Arc<Line>,
        ticket: u64,
    }

    impl std::task::Wake for Leaves {
        fn wake(self: Arc<Self>) {
            self.line.leave(self.ticket, false);
        }
    }

    #[test]
    fn who_is_woken_may_leave_at_once() {
        let line = Arc::new(Line::new(10, 10));
        let (first, mut second) = ([charge(3)], [charge(1)]);
        assert_eq!(join(&line, &first[0]), Joined::At(0));
        line.look(second.iter_mut(), None);
        assert_eq!(join(&line, &second[0]), Joined::At(1));
        let waker = Waker::from(Arc::new(Leaves { line: Arc::clone(&line), ticket: 1 }));
        assert!(!line.woken(1, &waker));
        // This wakes the second, which leaves: it must find the line unlocked.
        line.leave(0, true);
        assert!(line.lock().tickets.is_empty());
    }
}
