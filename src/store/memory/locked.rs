//! Charging keys under the lock of their segments: those that are new, or whose states are kept
//! aside. This is where keys come and go.

use std::{
    slice,
    sync::{MutexGuard, Once, atomic::Ordering::Relaxed},
};

use smallvec::SmallVec;

use super::{
    MemoryStore,
    ledger::{Counted, Ledger, Room, usage},
    quotas::Quotas,
    segment::{Segment, in_table},
    slot::{Address, Slot, is_wide},
    sync::Moving,
    table::Table,
};
use crate::{
    algorithm::{Count, State},
    clock::Now,
    quota::Quota,
    store::{Change, Charge, Correction, Mode, Usage},
    warning::{Code, warn},
};

/// How many slots are looked at for each key that is added: more than one, so that expired keys go
/// faster than new ones come.
const SWEEP_PER_KEY: usize = 4;
/// How many slots are looked at when there is no room.
const SWEEP_WHEN_FULL: usize = 32;

impl MemoryStore {
    /// Makes a request's only charge where that takes a lock.
    #[inline(never)]
    pub(super) fn charge_one_locked(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        if is_wide(charge)
            && let Some(made) = self.charge_one_aside(charge, now)
        {
            *usage = made;
        } else {
            self.charge_locked(slice::from_ref(charge), slice::from_mut(usage), now);
        }
    }

    /// Makes the charges under the locks of their segments. It has a large frame, that the others
    /// shall not have.
    #[inline(never)]
    pub(super) fn charge_locked(&self, charges: &[Charge], usages: &mut [Usage], now: Now) {
        let home = |charge| Address::of(charge).segment(self.segments.count());
        let homes: SmallVec<[usize; 4]> = charges.iter().map(home).collect();
        // In order, so that no two requests wait for each other.
        let mut order = homes.clone();
        order.sort_unstable();
        order.dedup();
        let lock = |&home: &usize| Locked::new(self.segments.get(home), &self.quotas, now);
        let mut locked: SmallVec<[Locked<'_>; 4]> = order.iter().map(lock).collect();
        let place = |home: &usize| order.binary_search(home).unwrap_or_default();

        let found: SmallVec<[Found; 4]> = charges
            .iter()
            .zip(&homes)
            .map(|(charge, home)| locked[place(home)].find(charge))
            .collect();
        let fits =
            |(charge, found): (&Charge, &Found)| charge.mode != Mode::Enforced || found.wait == 0;
        let passes = charges.iter().zip(&found).all(fits);
        for (((charge, home), found), usage) in charges.iter().zip(&homes).zip(found).zip(usages) {
            let segment = &mut locked[place(home)];
            if passes && found.wait == 0 && charge.uses_units() {
                segment.take(charge, found);
                if found.shares {
                    self.overflowed.fetch_add(1, Relaxed);
                    log_full();
                }
            }
            *usage = segment.usage(charge, found);
        }
    }
}

/// What was found of a charge, before any of its request is made.
#[derive(Clone, Copy)]
struct Found {
    /// How long until it fits.
    wait: u64,
    /// Whether it is counted in the state that keys without room share.
    shares: bool,
}

/// A segment whose keys can be counted, come and go.
pub(super) struct Locked<'a> {
    /// Room for the new keys of this request that were found to have it.
    promised: isize,
    segment: Segment<'a>,
    ledger: MutexGuard<'a, Ledger>,
    moving: Moving<'a>,
    quotas: &'a Quotas,
    now: Now,
}

impl<'a> Locked<'a> {
    pub(super) fn new(segment: Segment<'a>, quotas: &'a Quotas, now: Now) -> Self {
        let (ledger, moving) = segment.lock();
        Self { promised: 0, segment, ledger, moving, quotas, now }
    }

    /// How long until `charge` fits, and where it is counted. Makes room for its key if it can and
    /// needs to.
    fn find(&mut self, charge: &Charge) -> Found {
        in_table!(if is_wide(charge), self.segment, table => self.find_in(table, charge))
    }

    /// Makes a charge that was found to fit.
    fn take(&mut self, charge: &Charge, found: Found) {
        let now = self.now;
        let take = |state: &mut State| state.take(&charge.quota, now, charge.cost);
        in_table!(
            if is_wide(charge), self.segment, table => self.change(table, charge, found.shares, take)
        );
    }

    /// What is left to a charge.
    fn usage(&self, charge: &Charge, Found { wait, shares }: Found) -> Usage {
        let read = |state: &State| usage(state, &charge.quota, wait, self.now);
        in_table!(if is_wide(charge), self.segment, table => self.look(table, charge, shares, read))
    }

    /// Makes a correction, and tells what is left.
    pub(super) fn correct(&mut self, correction: &Correction) -> Usage {
        let charge = &correction.charge;
        let shares = in_table!(
            if is_wide(charge), self.segment, table => self.correct_in(table, correction)
        );
        self.usage(charge, Found { wait: 0, shares })
    }

    fn find_in<const N: usize>(&mut self, table: Table<'_, N>, charge: &Charge) -> Found {
        let is_new = table.find(&self.moving, &Address::of(charge)).is_none();
        if is_new && charge.uses_units() && self.is_full_for::<N>() {
            self.make_room::<N>();
        }
        let shares = is_new && self.is_full_for::<N>();
        if is_new && charge.uses_units() && !shares {
            self.promised += self.ledger.room.key.most::<N>();
        }
        let (now, units) = (self.now, charge.ahead.saturating_add(charge.cost));
        let wait = |state: &State| state.wait(&charge.quota, now, units);
        Found { wait: self.look(table, charge, shares, wait), shares }
    }

    fn is_full_for<const N: usize>(&self) -> bool {
        let Room { left, key } = self.ledger.room;
        left - self.promised < key.most::<N>()
    }

    /// Whether it is made in the state that keys without room share.
    fn correct_in<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        Correction { charge, charged_at, change }: &Correction,
    ) -> bool {
        let (now, slot) = (self.now, table.find(&self.moving, &Address::of(charge)));
        let shares = slot.is_none() && self.is_full_for::<N>();
        match (*change, slot) {
            (Change::Take(0), _) => {}
            (Change::Take(units), _) => {
                self.change(table, charge, shares, |state| state.take(&charge.quota, now, units));
            }
            (Change::GiveBack(units), Some(_)) => {
                self.change(table, charge, shares, |state| {
                    state.give_back(&charge.quota, now, charged_at.unwrap_or(now), units);
                });
            }
            (Change::Reset, Some((place, slot))) => {
                self.ledger.forget(slot);
                table.remove(&self.moving, place);
            }
            (Change::GiveBack(_) | Change::Reset, None) => {}
        }
        shares
    }

    /// Reads the state that `charge` would be counted in.
    fn look<const N: usize, T>(
        &self,
        table: Table<'_, N>,
        charge: &Charge,
        shares: bool,
        read: impl FnOnce(&State) -> T,
    ) -> T {
        let kept = match table.find(&self.moving, &Address::of(charge)) {
            Some((_, slot)) => match slot.unpack(self.quotas) {
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
    fn change<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        charge: &Charge,
        shares: bool,
        change: impl FnOnce(&mut State),
    ) {
        let address = Address::of(charge);
        let (quotas, now) = (self.quotas, self.now);
        let Some((place, slot)) = table.find(&self.moving, &address) else {
            return self.begin(table, charge, shares, change);
        };
        match (slot.unpack(quotas), slot.index_aside()) {
            (Some((mut state, quota)), _) => {
                state.under(quota, &charge.quota, now);
                change(&mut state);
                let changed = self.fit(charge, state);
                let Room { left, key } = &mut self.ledger.room;
                *left += key.of(&slot) - key.of(&changed);
                table.set(&self.moving, place, changed);
            }
            (None, Some(index)) => {
                if let Some(counted) = self.ledger.aside.get_mut(index) {
                    let forgotten_at = counted.change(charge, now, change);
                    let slot = Slot::aside(&address, forgotten_at, index);
                    table.set(&self.moving, place, slot);
                }
            }
            (None, None) => {}
        }
    }

    /// A key's first state.
    fn begin<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        charge: &Charge,
        shares: bool,
        change: impl FnOnce(&mut State),
    ) {
        let fresh = || Counted { state: State::new(charge.algorithm), quota: charge.quota };
        if shares {
            let shared = self.ledger.shared.entry(charge.policy).or_insert_with(fresh);
            shared.change(charge, self.now, change);
            return;
        }
        let mut state = fresh().state;
        change(&mut state);
        self.sweep();
        let ledger = &mut self.ledger;
        let keys = *ledger.keys_in::<N>();
        if table.is_tight(keys) {
            table.grow(&self.moving, self.quotas, self.now, |slot| ledger.forget(slot));
        } else {
            table.prepare(keys);
        }
        let slot = self.fit(charge, state);
        self.ledger.add(&slot);
        table.insert(&self.moving, slot);
    }

    /// A slot for a state, which is kept aside if it is too large.
    fn fit<const N: usize>(&mut self, charge: &Charge, state: State) -> Slot<N> {
        let address = Address::of(charge);
        Slot::pack(&address, &state, &charge.quota, self.quotas).unwrap_or_else(|| {
            let counted = Counted { state, quota: charge.quota };
            let forgotten_at = counted.forgotten_at(self.now);
            Slot::aside(&address, forgotten_at, self.ledger.aside.insert(counted))
        })
    }

    /// Looks at the next slots and drops the keys that have expired.
    fn sweep(&mut self) {
        for _ in 0..SWEEP_PER_KEY.min(self.capacity()) {
            let place = self.next();
            if self.is_expired(place) {
                self.drop_key(place);
            }
        }
    }

    /// Drops keys that have expired until there is room; or else one that has nearly all of its
    /// quota left, so that dropping it gives back little.
    fn make_room<const N: usize>(&mut self) {
        let mut nearly_full = None;
        for _ in 0..SWEEP_WHEN_FULL.min(self.capacity()) {
            let place = self.next();
            if self.is_expired(place) {
                self.drop_key(place);
                nearly_full = None;
                if !self.is_full_for::<N>() {
                    return;
                }
            } else if nearly_full.is_none() {
                nearly_full = Some(place).filter(|&place| self.is_nearly_full(place));
            }
        }
        if let Some(place) = nearly_full {
            self.drop_key(place);
        }
    }

    /// Slots of both tables, which are swept one after the other.
    fn capacity(&self) -> usize {
        self.segment.narrow().capacity() + self.segment.wide().capacity()
    }

    fn next(&mut self) -> usize {
        let place = self.ledger.cursor % self.capacity().max(1);
        self.ledger.cursor = place + 1;
        place
    }

    fn is_expired(&self, place: usize) -> bool {
        let Self { segment, moving, quotas, now, .. } = self;
        in_table!(at place, segment, (table, place) => {
            // Most have not, which a glance tells.
            table.peek(place).is_expired(quotas, *now)
                && table.get(moving, place).is_expired(quotas, *now)
        })
    }

    /// Whether seven eighths of the quota are left.
    fn is_nearly_full(&self, place: usize) -> bool {
        let nearly_full = |state: &State, quota: &Quota| {
            let capacity = state.algorithm().capacity(quota);
            state.remaining(quota, self.now).saturating_mul(8) >= capacity.saturating_mul(7)
        };
        in_table!(at place, self.segment, (table, place) => {
            let slot = table.get(&self.moving, place);
            match slot.unpack(self.quotas) {
                Some((state, quota)) => nearly_full(&state, quota),
                None => slot
                    .index_aside()
                    .and_then(|index| self.ledger.aside.get(index))
                    .is_some_and(|Counted { state, quota }| nearly_full(state, quota)),
            }
        })
    }

    fn drop_key(&mut self, place: usize) {
        // Another one may move there.
        self.ledger.cursor = place;
        in_table!(at place, self.segment, (table, place) => {
            self.ledger.forget(table.get(&self.moving, place));
            table.remove(&self.moving, place);
        });
    }
}

fn log_full() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        warn(Code::StoreFull, "", || {
            "the memory store is full: new keys share a quota until others expire. If these are honest \
             callers, raise `MemoryStore::with_max_keys`"
                .to_owned()
        });
    });
}
