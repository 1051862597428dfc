use std::{collections::HashMap, sync::MutexGuard};

use slab::Slab;

use super::{
    quotas::Quotas,
    segment::{Moving, Segment},
    slot::{Address, Slot},
};
use crate::{
    algorithm::{Algorithm, Count, State},
    clock::Now,
    quota::Quota,
    store::{Change, Charge, Correction, Usage},
};

/// How many slots are looked at for each key that is added: more than one, so that expired keys go
/// faster than new ones come.
const SWEEP_PER_KEY: usize = 4;
/// How many slots are looked at when there is no room.
const SWEEP_WHEN_FULL: usize = 32;

/// What a segment knows beside its slots.
pub(super) struct Ledger {
    len: usize,
    room: Room,
    /// The slot that is swept next.
    cursor: usize,
    /// States that do not fit into a slot.
    aside: Slab<Counted>,
    /// The states that keys without room share, by policy.
    shared: HashMap<u64, Counted>,
}

/// A state, and the quota it was counted under.
pub(super) struct Counted {
    pub(super) state: State,
    pub(super) quota: Quota,
}

/// How much the keys of a segment may take.
#[derive(Clone, Copy)]
pub(super) struct Room {
    /// Below 0 where keys needed more after they had come.
    pub(super) left: isize,
    /// What a key takes.
    pub(super) slot: isize,
    /// What it takes more if its state is kept aside.
    pub(super) aside: isize,
}

impl Room {
    fn of(&self, slot: &Slot) -> isize {
        self.slot + if slot.may_be_aside() { self.aside } else { 0 }
    }

    /// All that a new key may take.
    fn of_new_key(&self) -> isize {
        self.slot + self.aside
    }
}

impl Ledger {
    pub(super) fn new(room: Room) -> Self {
        let (aside, shared) = (Slab::new(), HashMap::new());
        Self { len: 0, room, cursor: 0, aside, shared }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// A state that did not fit into its slot.
    pub(super) fn aside(&mut self, index: usize) -> Option<&mut Counted> {
        self.aside.get_mut(index)
    }

    /// A key's slot is given up.
    fn forget(&mut self, slot: Slot) {
        self.len -= 1;
        self.room.left += self.room.of(&slot);
        if let Some(index) = slot.index_aside() {
            self.aside.try_remove(index);
        }
    }
}

/// What was found of a charge, before any of its request is made.
#[derive(Clone, Copy)]
pub(super) struct Found {
    /// How long until it fits.
    pub(super) wait: u64,
    /// Whether it is counted in the state that keys without room share.
    pub(super) shares: bool,
}

/// A segment whose keys can be counted, come and go.
pub(super) struct Locked<'a> {
    /// Room for the new keys of this request that were found to have it.
    promised: isize,
    ledger: MutexGuard<'a, Ledger>,
    slots: Moving<'a>,
    quotas: &'a Quotas,
    now: Now,
}

impl<'a> Locked<'a> {
    pub(super) fn new(segment: &'a Segment, quotas: &'a Quotas, now: Now) -> Self {
        let (ledger, slots) = segment.lock();
        Self { promised: 0, ledger, slots, quotas, now }
    }

    /// How long until `charge` fits, and where it is counted. Makes room for its key if it can and
    /// needs to.
    pub(super) fn find(&mut self, charge: &Charge) -> Found {
        let is_new = self.slots.find(&Address::of(charge)).is_none();
        if is_new && charge.uses_units() && self.is_full() {
            self.make_room();
        }
        let shares = is_new && self.is_full();
        if is_new && charge.uses_units() && !shares {
            self.promised += self.ledger.room.of_new_key();
        }
        let (now, units) = (self.now, charge.ahead.saturating_add(charge.cost));
        let wait = self.look(charge, shares, |state| state.wait(&charge.quota, now, units));
        Found { wait, shares }
    }

    fn is_full(&self) -> bool {
        let Room { left, .. } = self.ledger.room;
        left - self.promised < self.ledger.room.of_new_key()
    }

    /// Makes a charge that was found to fit.
    pub(super) fn take(&mut self, charge: &Charge, found: Found) {
        let now = self.now;
        self.change(charge, found.shares, |state| state.take(&charge.quota, now, charge.cost));
    }

    /// What is left to a charge.
    pub(super) fn usage(&self, charge: &Charge, Found { wait, shares }: Found) -> Usage {
        self.look(charge, shares, |state| usage(state, &charge.quota, wait, self.now))
    }

    /// Makes a correction, and tells what is left.
    pub(super) fn correct(&mut self, correction: &Correction) -> Usage {
        let Correction { charge, charged_at, change } = correction;
        let (now, slot) = (self.now, self.slots.find(&Address::of(charge)));
        let shares = slot.is_none() && self.is_full();
        match (*change, slot) {
            (Change::Take(0), _) => {}
            (Change::Take(units), _) => {
                self.change(charge, shares, |state| state.take(&charge.quota, now, units));
            }
            (Change::GiveBack(units), Some(_)) => {
                self.change(charge, shares, |state| {
                    state.give_back(&charge.quota, now, charged_at.unwrap_or(now), units);
                });
            }
            (Change::Reset, Some((place, slot))) => {
                self.ledger.forget(slot);
                self.slots.remove(place);
            }
            (Change::GiveBack(_) | Change::Reset, None) => {}
        }
        self.usage(charge, Found { wait: 0, shares })
    }

    /// Reads the state that `charge` would be counted in.
    fn look<T>(&self, charge: &Charge, shares: bool, read: impl FnOnce(&State) -> T) -> T {
        let found = self.slots.find(&Address::of(charge)).map(|(_, slot)| slot);
        let kept = match found {
            Some(slot) => match slot.unpack(self.quotas) {
                Some((mut state, quota)) => {
                    state.under(quota, &charge.quota, self.now);
                    return read(&state);
                }
                None => slot.index_aside().and_then(|index| self.ledger.aside.get(index)),
            },
            None if shares => self.ledger.shared.get(&charge.policy),
            None => None,
        };
        match kept {
            Some(counted) if counted.quota == charge.quota => read(&counted.state),
            Some(Counted { state, quota }) => {
                let mut state = state.clone();
                state.under(quota, &charge.quota, self.now);
                read(&state)
            }
            None => read(&State::new(charge.algorithm)),
        }
    }

    /// Changes the state that `charge` is counted in.
    fn change(&mut self, charge: &Charge, shares: bool, change: impl FnOnce(&mut State)) {
        let address = Address::of(charge);
        let (quotas, now) = (self.quotas, self.now);
        let Some((place, slot)) = self.slots.find(&address) else {
            return self.begin(charge, shares, change);
        };
        match (slot.unpack(quotas), slot.index_aside()) {
            (Some((mut state, quota)), _) => {
                state.under(quota, &charge.quota, now);
                change(&mut state);
                let changed = self.fit(charge, state);
                let room = &mut self.ledger.room;
                room.left += room.of(&slot) - room.of(&changed);
                self.slots.set(place, changed);
            }
            (None, Some(index)) => {
                if let Some(counted) = self.ledger.aside.get_mut(index) {
                    let forgotten_at = counted.change(charge, now, change);
                    self.slots.set(place, Slot::aside(&address, forgotten_at, index));
                }
            }
            (None, None) => {}
        }
    }

    /// A key's first state.
    fn begin(&mut self, charge: &Charge, shares: bool, change: impl FnOnce(&mut State)) {
        let fresh = || Counted { state: State::new(charge.algorithm), quota: charge.quota };
        if shares {
            let shared = self.ledger.shared.entry(charge.policy).or_insert_with(fresh);
            shared.change(charge, self.now, change);
            return;
        }
        let mut state = fresh().state;
        change(&mut state);
        self.sweep(SWEEP_PER_KEY);
        if self.slots.is_tight(self.ledger.len) {
            let Self { ledger, slots, quotas, now, .. } = self;
            slots.grow(quotas, *now, |slot| ledger.forget(slot));
        }
        self.ledger.len += 1;
        let slot = self.fit(charge, state);
        self.ledger.room.left -= self.ledger.room.of(&slot);
        self.slots.insert(slot);
    }

    /// A slot for a state, which is kept aside if it is too large.
    fn fit(&mut self, charge: &Charge, state: State) -> Slot {
        let address = Address::of(charge);
        Slot::pack(&address, &state, &charge.quota, self.quotas).unwrap_or_else(|| {
            let counted = Counted { state, quota: charge.quota };
            let forgotten_at = counted.forgotten_at(self.now);
            Slot::aside(&address, forgotten_at, self.ledger.aside.insert(counted))
        })
    }

    /// Looks at the next slots and drops the keys that have expired.
    fn sweep(&mut self, slots: usize) {
        for _ in 0..slots.min(self.slots.capacity()) {
            let place = self.next();
            if let Some(slot) = self.expired(place) {
                self.drop_key(place, slot);
            }
        }
    }

    /// Drops keys that have expired until there is room; or else one that has nearly all of its
    /// quota left, so that dropping it gives back little.
    fn make_room(&mut self) {
        let mut nearly_full = None;
        for _ in 0..SWEEP_WHEN_FULL.min(self.slots.capacity()) {
            let place = self.next();
            if let Some(slot) = self.expired(place) {
                self.drop_key(place, slot);
                nearly_full = None;
                if !self.is_full() {
                    return;
                }
            } else if nearly_full.is_none() {
                let slot = self.slots.get(place);
                nearly_full = self.is_nearly_full(&slot).then_some((place, slot));
            }
        }
        if let Some((place, slot)) = nearly_full {
            self.drop_key(place, slot);
        }
    }

    /// Whether seven eighths of the quota are left.
    fn is_nearly_full(&self, slot: &Slot) -> bool {
        let nearly_full = |state: &State, quota: &Quota, algorithm: Algorithm| {
            let (left, capacity) = (state.remaining(quota, self.now), algorithm.capacity(quota));
            left.saturating_mul(8) >= capacity.saturating_mul(7)
        };
        match slot.unpack(self.quotas) {
            Some((state, quota)) => nearly_full(&state, quota, state.algorithm()),
            None => slot.index_aside().and_then(|index| self.ledger.aside.get(index)).is_some_and(
                |Counted { state, quota }| nearly_full(state, quota, state.algorithm()),
            ),
        }
    }

    fn drop_key(&mut self, place: usize, slot: Slot) {
        self.ledger.forget(slot);
        self.slots.remove(place);
        // Another one may have moved there.
        self.ledger.cursor = place;
    }

    fn next(&mut self) -> usize {
        let place = self.ledger.cursor % self.slots.capacity().max(1);
        self.ledger.cursor = place + 1;
        place
    }

    /// What is in a slot, if it has expired. Most have not, which a glance tells.
    fn expired(&self, place: usize) -> Option<Slot> {
        let is_expired = |slot: &Slot| slot.is_expired(self.quotas, self.now);
        let may_be = is_expired(&self.slots.peek(place));
        may_be.then(|| self.slots.get(place)).filter(is_expired)
    }
}

impl Counted {
    /// Changes the state as `charge` is counted; when it may be forgotten.
    fn change(&mut self, charge: &Charge, now: Now, change: impl FnOnce(&mut State)) -> u64 {
        self.state.under(&self.quota, &charge.quota, now);
        self.quota = charge.quota;
        change(&mut self.state);
        self.forgotten_at(now)
    }

    pub(super) fn forgotten_at(&self, now: Now) -> u64 {
        now.monotonic_nanos().saturating_add(self.state.forgotten_in(&self.quota, now))
    }
}

/// What is left, for a charge that fits after `wait`.
pub(super) fn usage(state: &impl Count, quota: &Quota, wait: u64, now: Now) -> Usage {
    Usage::of_nanos(wait, state.remaining(quota, now), state.reset(quota, now))
}
