//! Charging keys under the lock of their segments: those that are new, or whose states are kept
//! aside. This is where keys come and go.

use std::{slice, sync::MutexGuard};

use smallvec::SmallVec;

use super::{
    MemoryStore,
    ledger::{Ledger, Room, forgotten_at, usage},
    quotas::{Quotas, UNNUMBERED},
    segment::{Segment, in_table},
    slot::{Address, Slot, is_wide},
    sync::Moving,
    table::Table,
};
use crate::{
    algorithm::{QuotaState, State, StatesByQuota},
    clock::Now,
    quota::Quota,
    store::{Change, Charge, Correction, Mode, Usage},
};

/// How many slots are looked at for each key that is added: more than one, so that expired keys go
/// faster than new ones come.
const SWEEP_PER_KEY: usize = 4;
/// How many slots are looked at when there is no room.
const SWEEP_WHEN_FULL: usize = 32;
/// How many are looked at for a policy that has less than its share, in each of two rounds.
const SWEEP_FOR_SHARE: usize = 128;

impl MemoryStore {
    /// Makes a request's only charge where that takes a lock.
    #[inline(never)]
    pub(super) fn charge_one_locked(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        match self.charge_one_aside(charge, now) {
            Some(made) => *usage = made,
            None => self.charge_locked(slice::from_ref(charge), slice::from_mut(usage), now),
        }
    }

    /// Makes the charges under the locks of their segments. It has a large frame, that the others
    /// shall not have.
    #[inline(never)]
    #[expect(clippy::expect_used, reason = "another segment's counts would be charged")]
    pub(super) fn charge_locked(&self, charges: &[Charge], usages: &mut [Usage], now: Now) {
        let home = |charge| Address::of(charge).segment(self.segments.count());
        let homes: SmallVec<[usize; 4]> = charges.iter().map(home).collect();
        // In order, so that no two requests wait for each other.
        let mut order = homes.clone();
        order.sort_unstable();
        order.dedup();
        let lock = |&home: &usize| Locked::new(self.segments.get(home), &self.quotas, now);
        let mut locked: SmallVec<[Locked<'_>; 4]> = order.iter().map(lock).collect();
        let place = |home: &usize| order.binary_search(home).expect("each home was locked");

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
                    self.overflow.count(charge.policy);
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
    /// needs to; and keeps its quota in mind, whatever becomes of it.
    fn find(&mut self, charge: &Charge) -> Found {
        in_table!(if is_wide(charge), self.segment, table => self.find_in(table, charge))
    }

    /// Makes a charge that was found to fit.
    fn take(&mut self, charge: &Charge, found: Found) {
        let now = self.now;
        let take = |counts: &mut StatesByQuota| counts.consume(&charge.quota, now, charge.cost);
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
            self.make_room::<N>(charge.policy);
            if self.is_full_for::<N>() {
                self.claim_share::<N>(charge.policy);
            }
        }
        let shares = is_new && self.is_full_for::<N>();
        if is_new && charge.uses_units() && !shares {
            self.promised += self.ledger.room.key.most::<N>();
        }
        if charge.mode != Mode::Peek {
            self.adopt(table, charge, shares);
        }
        let now = self.now;
        let wait = |state: &State| state.wait(&charge.quota, now, charge.units_required());
        Found { wait: self.look(table, charge, shares, wait), shares }
    }

    fn is_full_for<const N: usize>(&self) -> bool {
        let Room { left, key } = self.ledger.room;
        left - self.promised < key.most::<N>()
    }

    /// Whether it is made in the state that keys without room share.
    fn correct_in<const N: usize>(&mut self, table: Table<'_, N>, correction: &Correction) -> bool {
        let Correction { charge, change, .. } = correction;
        let (now, slot) = (self.now, table.find(&self.moving, &Address::of(charge)));
        let shares = slot.is_none() && self.is_full_for::<N>();
        match (*change, slot) {
            (Change::Take(0), _) => {}
            (Change::Take(units), _) => {
                self.change(table, charge, shares, |counts| {
                    counts.consume(&charge.quota, now, units)
                });
            }
            (Change::GiveBack(units), Some(_)) => {
                let made = correction.past_use(now);
                self.change(table, charge, shares, |counts| {
                    counts.give_back(&charge.quota, now, units, &made);
                });
            }
            (Change::Reset, Some((place, slot))) => {
                self.ledger.forget(&slot, self.quotas);
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
        let (quota, now) = (&charge.quota, self.now);
        let beginning = self.ledger.beginning(charge.policy);
        let kept = match table.find(&self.moving, &Address::of(charge)) {
            Some((_, slot)) => match slot.unpack(self.quotas) {
                Some((state, before)) if before == quota => return read(&state),
                Some((state, before)) => return read(&state.convert(before, quota, now)),
                None => self.ledger.aside_of(&slot),
            },
            None if shares => self.ledger.shared.get(&charge.policy).or(beginning),
            None => beginning,
        };
        match kept {
            Some(counts) => read(&counts.under(quota, now)),
            None => read(&State::new(charge.algorithm)),
        }
    }

    /// Counts what a key has used under the quota of `charge` as well, where it has used any.
    fn adopt<const N: usize>(&mut self, table: Table<'_, N>, charge: &Charge, shares: bool) {
        let (quota, now) = (&charge.quota, self.now);
        let adopt = |counts: &mut StatesByQuota| {
            counts.track(quota, now);
        };
        match table.find(&self.moving, &Address::of(charge)) {
            Some((_, slot)) => {
                let counted = slot.unpack(self.quotas);
                let is_so = |(mut state, before): (State, &Quota)| {
                    before == quota && !state.realign(quota, now)
                };
                if !counted.is_some_and(is_so) {
                    self.change(table, charge, shares, adopt);
                }
            }
            None if shares => {
                self.ledger.shared.get_mut(&charge.policy).into_iter().for_each(adopt);
            }
            None => {}
        }
    }

    /// Changes what `charge` is counted in.
    #[expect(clippy::expect_used, reason = "what is not counted is admitted again")]
    fn change<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        charge: &Charge,
        shares: bool,
        change: impl FnOnce(&mut StatesByQuota),
    ) {
        let address = Address::of(charge);
        let Some((place, slot)) = table.find(&self.moving, &address) else {
            return self.begin(table, charge, shares, change);
        };
        let needed = self.ledger.needs(&slot);
        let changed = match slot.unpack(self.quotas) {
            Some((state, quota)) => {
                let mut counts = StatesByQuota::new(*quota, state);
                change(&mut counts);
                self.fit(&address, charge.policy, counts)
            }
            None => {
                let index = slot.index_aside().expect("a state that is not here is kept aside");
                let counts = self.ledger.aside.get_mut(index).expect("as long as its slot");
                let plans = counts.len();
                change(counts);
                if counts.len() < plans {
                    let counts = self.ledger.aside.remove(index);
                    self.fit(&address, charge.policy, counts)
                } else {
                    let forgotten_at = forgotten_at(counts, self.now);
                    Slot::aside(&address, slot.quota_number(), forgotten_at, index)
                }
            }
        };
        let needs = self.ledger.needs(&changed);
        let policy = |slot: &Slot<N>| self.quotas.policy(slot.quota_number());
        self.ledger.take(policy(&slot), -needed);
        self.ledger.take(policy(&changed), needs);
        table.set(&self.moving, place, changed);
    }

    /// A key's first state.
    fn begin<const N: usize>(
        &mut self,
        table: Table<'_, N>,
        charge: &Charge,
        shares: bool,
        change: impl FnOnce(&mut StatesByQuota),
    ) {
        let beginning = self.ledger.beginning(charge.policy).cloned();
        let fresh = || StatesByQuota::new(charge.quota, State::new(charge.algorithm));
        let mut counts = beginning.unwrap_or_else(fresh);
        if shares {
            change(self.ledger.shared.entry(charge.policy).or_insert(counts));
            return;
        }
        change(&mut counts);
        self.sweep();
        let (ledger, quotas, now) = (&mut self.ledger, self.quotas, self.now);
        let keys = *ledger.keys_in::<N>();
        if table.is_tight(keys) {
            table.grow(&self.moving, |slot| {
                let is_over = ledger.is_over(slot, quotas, now);
                if is_over {
                    ledger.forget(slot, quotas);
                }
                is_over
            });
        } else {
            table.prepare(keys);
        }
        let slot = self.fit(&Address::of(charge), charge.policy, counts);
        self.ledger.add(&slot, self.quotas);
        table.insert(&self.moving, slot);
    }

    /// A slot for what a key has used, which is kept aside if it is too much.
    fn fit<const N: usize>(
        &mut self,
        address: &Address,
        policy: u64,
        counts: StatesByQuota,
    ) -> Slot<N> {
        let quotas = self.quotas;
        let only = counts.single();
        let packed =
            only.and_then(|(quota, state)| Slot::pack(address, policy, state, quota, quotas));
        packed.unwrap_or_else(|| {
            let forgotten_at = forgotten_at(&counts, self.now);
            let quota = counts.iter().find_map(|(quota, _)| quotas.number(policy, quota));
            let index = self.ledger.aside.insert(counts);
            Slot::aside(address, quota.unwrap_or(UNNUMBERED), forgotten_at, index)
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
    /// quota left, so that dropping it gives back little. That is not one of another policy which
    /// has no more than its share: to give it back again and again would give back all.
    fn make_room<const N: usize>(&mut self, policy: u64) {
        let share = self.ledger.shares.share(policy);
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
                nearly_full = self.counts_at(place).and_then(|(other, counts)| {
                    let may_go = other == policy || !self.ledger.shares.has_within(share, other, 0);
                    (may_go && has_eighths_left(&counts, 7, self.now)).then_some(place)
                });
            }
        }
        if let Some(place) = nearly_full {
            self.drop_key(place);
        }
    }

    /// Where a policy has less than its share of the room, drops keys of those that have more until
    /// there is room: such that have half of their quota left, and then any. What these had used is
    /// kept in mind, so that no flood gives a spent key its quota back.
    #[cold]
    #[inline(never)]
    fn claim_share<const N: usize>(&mut self, policy: u64) {
        let most = self.ledger.room.key.most::<N>();
        let share = self.ledger.shares.share(policy);
        if !self.ledger.shares.has_within(share, policy, self.promised + most) {
            return;
        }
        for least_left in [4, 0] {
            for _ in 0..SWEEP_FOR_SHARE.min(self.capacity()) {
                let place = self.next();
                let Some((other, counts)) = self.counts_at(place) else { continue };
                if !self.ledger.shares.has_within(share, other, 0)
                    && has_eighths_left(&counts, least_left, self.now)
                {
                    self.ledger.remember(other, counts, self.now);
                    self.drop_key(place);
                    if !self.is_full_for::<N>() {
                        return;
                    }
                }
            }
        }
    }

    /// What is counted in a slot, and of which policy.
    fn counts_at(&self, place: usize) -> Option<(u64, StatesByQuota)> {
        in_table!(at place, self.segment, (table, place) => {
            let slot = table.get(&self.moving, place);
            let counts = self.ledger.counts_of(&slot, self.quotas)?;
            Some((self.quotas.policy(slot.quota_number()), counts))
        })
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
        let Self { segment, moving, quotas, now, ledger, .. } = self;
        in_table!(at place, segment, (table, place) => {
            // Most have not, which a glance tells.
            table.peek(place).is_expired(quotas, *now)
                && ledger.is_over(&table.get(moving, place), quotas, *now)
        })
    }

    fn drop_key(&mut self, place: usize) {
        // Another one may move there.
        self.ledger.cursor = place;
        in_table!(at place, self.segment, (table, place) => {
            self.ledger.forget(&table.get(&self.moving, place), self.quotas);
            table.remove(&self.moving, place);
        });
    }
}

fn has_eighths_left(counts: &StatesByQuota, eighths: u64, now: Now) -> bool {
    counts.iter().all(|(quota, state)| {
        let capacity = state.algorithm().capacity(quota);
        state.remaining(quota, now).saturating_mul(8) >= capacity.saturating_mul(eighths)
    })
}
