//! Charges and corrections under the locks of their shards. New keys are charged here, keys whose
//! states are spilled, and all keys that the [fast path](super::fast_path) gives up on.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::{borrow::Cow, slice};

use smallvec::SmallVec;

use super::{
    address::Address,
    entry::uses_log,
    eviction, large_states,
    locked_shard::LockedShard,
    shard::{Shards, with_table},
    shard_meta::{KeyState, usage},
    table::Table,
};
use crate::{
    algorithm::{Algorithm, State, StatesByQuota},
    clock::Now,
    penalty::Penalty,
    store::{Change, Charge, Correction, Mode, Usage, pass},
};

/// Makes the only charge of a request.
#[inline(never)]
pub(super) fn charge_one(shards: &Shards, charge: &Charge, usage: &mut Usage, now: Now) {
    match large_states::charge(shards, charge, now) {
        Some(charged) => *usage = charged,
        None => charge_all(shards, slice::from_ref(charge), slice::from_mut(usage), now),
    }
}

/// Makes all the charges of a request, or none. It is not inlined, so that its callers do not
/// pay for its large stack frame.
#[inline(never)]
#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "another shard would count the charge anew"
)]
pub(super) fn charge_all(shards: &Shards, charges: &[Charge], usages: &mut [Usage], now: Now) {
    // In order, so that no two requests wait for each other.
    let mut homes: SmallVec<[usize; 4]> =
        charges.iter().map(|charge| shards.number(charge)).collect();
    homes.sort_unstable();
    homes.dedup();
    let lock = |&home: &usize| LockedShard::new(shards.get(home), now);
    let mut locked: SmallVec<[LockedShard<'_>; 4]> = homes.iter().map(lock).collect();
    let index =
        |charge: &Charge| homes.binary_search(&shards.number(charge)).expect("each home is locked");

    // Whether a charge for which the current one would stand fits.
    let mut is_spared = false;
    let find = |charge: &Charge| {
        let locked = &mut locked[index(charge)];
        let found = match is_spared {
            // It makes no room for its key, as it will not be made.
            true => {
                let peek = Charge { mode: Mode::Peek, ..*charge };
                Found { is_spared, ..find(locked, &peek, charges) }
            }
            false => find(locked, charge, charges),
        };
        is_spared = charge.or_else && (is_spared || found.fits());
        found
    };
    let found: SmallVec<[Found; 4]> = charges.iter().map(find).collect();
    let passes = pass(charges, |index| found[index].fits());
    let is_made = |charge: &Charge, found: &Found| {
        passes && found.fits() && !found.is_spared && charge.uses_units()
    };
    for ((charge, found), usage) in charges.iter().zip(&found).zip(usages) {
        let shard = &mut locked[index(charge)];
        if is_made(charge, found) {
            change(shard, charge, found.is_shared, |states| {
                states.consume(&charge.quota, now, charge.cost);
            });
        }
        *usage = usage_of(shard, charge, *found);
    }
    locked.clear();
    // Unlocked, as this may log, and a subscriber may charge the store.
    let lacks_room =
        |charge: &Charge| charge.algorithm == Algorithm::InFlight && charge.uses_units();
    let shared = charges.iter().zip(&found).filter(|(_, found)| found.is_shared);
    for (charge, _) in shared.filter(|(charge, found)| is_made(charge, found) || lacks_room(charge))
    {
        shards.overflow.record(charge.policy);
    }
}

/// Makes a correction, and returns what is left.
pub(super) fn correct(shards: &Shards, correction: &Correction, now: Now) -> Usage {
    let charge = &correction.charge;
    let mut locked = LockedShard::new(shards.get(shards.number(charge)), now);
    if let Change::Penalize(penalty) = correction.change {
        let charge = Charge { has_penalty: true, ..*charge };
        return penalize(shards, locked, &charge, penalty);
    }
    if charge.only_looks() && matches!(correction.change, Change::Take(_) | Change::GiveBack(_)) {
        return Usage::unknown();
    }
    let is_new = locked.states(charge).is_none();
    let is_shared = is_new && locked.is_full_for(charge);
    match correction.change {
        Change::Take(0) => {}
        Change::Take(units) => {
            change(&mut locked, charge, is_shared, |states| {
                states.consume_late(&charge.quota, now, units, correction.past_use(now).at);
            });
        }
        Change::GiveBack(_) if is_new || locked.is_reset_since(correction) => {}
        Change::GiveBack(units) => change_key(&mut locked, charge, |state| {
            state.give_back(correction, units, now);
        }),
        Change::Reset => locked.reset(charge),
        Change::Pardon if is_new => {}
        Change::Pardon | Change::Penalize(_) => change_key(&mut locked, charge, |state| {
            state.penalty = None;
        }),
    }
    usage_of(&locked, charge, Found { wait: 0, blocked: 0, is_shared, is_spared: false })
}

/// Counts a refusal or a failure towards the penalty of a key, and returns what is left. A key without
/// an entry of its own gets none: others would be blocked with it.
fn penalize(
    shards: &Shards,
    mut locked: LockedShard<'_>,
    charge: &Charge,
    penalty: &Penalty,
) -> Usage {
    let now = locked.now;
    if !locked.has_room_for_penalty(charge) {
        eviction::make_room(&mut locked, charge, slice::from_ref(charge));
    }
    let has_room = locked.has_room_for_penalty(charge);
    if has_room {
        // Nothing is counted under an unlimited quota, so a new key begins with any other.
        let quota = if charge.only_looks() { charge.algorithm.one_unit() } else { charge.quota };
        change_key(&mut locked, &Charge { quota, ..*charge }, |state| {
            state.penalty.get_or_insert_default().count(penalty, now);
        });
    }
    let is_shared = locked.states(charge).is_none();
    let blocked = locked.blocked_for(charge);
    let wait = |state: &State| state.wait(&charge.quota, now, charge.units_required());
    let wait = if charge.only_looks() { 0 } else { look(&locked, charge, is_shared, wait) };
    let usage = usage_of(&locked, charge, Found { wait, blocked, is_shared, is_spared: false });
    drop(locked);
    if !has_room {
        // Unlocked, as this may log.
        shards.overflow.record(charge.policy);
    }
    usage
}

/// What was found of a charge, before any charge of its request is made.
#[derive(Clone, Copy)]
struct Found {
    /// How long until its units fit.
    wait: u64,
    /// How much longer its key is blocked.
    blocked: u64,
    /// Whether it is counted in the state that keys without an entry share.
    is_shared: bool,
    /// Whether another charge, for which it would stand, fits.
    is_spared: bool,
}

impl Found {
    const fn fits(&self) -> bool {
        self.wait == 0 && self.blocked == 0
    }
}

/// What is left for a charge.
fn usage_of(
    locked: &LockedShard<'_>,
    charge: &Charge,
    Found { wait, blocked, is_shared, .. }: Found,
) -> Usage {
    if charge.only_looks() {
        return Usage::looked(blocked);
    }
    look(locked, charge, is_shared, |state| usage(state, charge, wait, blocked, locked.now))
}

/// How long until `charge`, one of the `charges` of a request, fits, and where it is counted. Makes room for a new
/// key if needed. Tracks the charge's quota, whether or not the charge will be made.
#[expect(clippy::arithmetic_side_effects, reason = "a request has few charges")]
fn find(locked: &mut LockedShard<'_>, charge: &Charge, charges: &[Charge]) -> Found {
    if charge.only_looks() {
        let blocked = locked.blocked_for(charge);
        return Found { wait: 0, blocked, is_shared: false, is_spared: false };
    }
    let (quota, now) = (&charge.quota, locked.now);
    let is_tracked = |(tracked, state): (&_, &State)| tracked == quota && !state.is_ahead(now);
    let known = locked.states(charge).map(|states| states.single().is_some_and(is_tracked));
    if known.is_none() && charge.uses_units() && locked.is_full_for(charge) {
        eviction::make_room(locked, charge, charges);
    }
    let is_shared = known.is_none() && locked.is_full_for(charge);
    if known.is_none() && charge.uses_units() && !is_shared {
        locked.reserved += locked.max_cost(charge);
    }
    let track = |states: &mut StatesByQuota| {
        states.track(quota, now);
    };
    match known {
        _ if charge.mode == Mode::Peek => {}
        Some(is_tracked) if !is_tracked => change(locked, charge, is_shared, track),
        None if is_shared => {
            let shared = locked.meta.shared.get_mut(&charge.policy);
            shared.into_iter().for_each(|shared| shared.track(quota, now));
        }
        Some(_) | None => {}
    }
    let wait = |state: &State| state.wait(quota, now, charge.units_required());
    let wait = look(locked, charge, is_shared, wait);
    Found { wait, blocked: locked.blocked_for(charge), is_shared, is_spared: false }
}

/// Reads the state in which `charge` would be counted.
fn look<T>(
    locked: &LockedShard<'_>,
    charge: &Charge,
    is_shared: bool,
    read: impl FnOnce(&State) -> T,
) -> T {
    let new_key = || locked.meta.beginning(charge, is_shared, locked.now).map(Cow::Borrowed);
    match locked.states(charge).or_else(new_key) {
        Some(states) => read(&states.under(&charge.quota, locked.now)),
        None if is_shared => read(&State::without_room(charge.algorithm)),
        None => read(&State::new(charge.algorithm)),
    }
}

/// Changes the states in which `charge` is counted.
fn change(
    locked: &mut LockedShard<'_>,
    charge: &Charge,
    is_shared: bool,
    change: impl FnOnce(&mut StatesByQuota),
) {
    with_table!(if uses_log(charge), locked.shard, table => {
        match table.find(&locked.writer, &Address::of(charge)) {
            Some(found) => locked.change(table, found, charge, |state| change(&mut state.states)),
            None => begin(locked, table, charge, is_shared, change),
        }
    });
}

/// Changes the state of a charge's key. A new key gets an entry.
fn change_key(locked: &mut LockedShard<'_>, charge: &Charge, change: impl FnOnce(&mut KeyState)) {
    with_table!(if uses_log(charge), locked.shard, table => {
        match table.find(&locked.writer, &Address::of(charge)) {
            Some(found) => locked.change(table, found, charge, change),
            None => {
                let mut state = new_key(locked, charge).into();
                change(&mut state);
                eviction::sweep(locked);
                locked.insert(table, charge, state);
            }
        }
    });
}

/// What a new key with room begins with.
fn new_key(locked: &LockedShard<'_>, charge: &Charge) -> StatesByQuota {
    match locked.meta.beginning(charge, false, locked.now) {
        Some(states) => states.for_new_key(&charge.quota, locked.now),
        None => StatesByQuota::new(charge.quota, State::new(charge.algorithm)),
    }
}

/// Makes the first change to the states of a new key.
fn begin<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    is_shared: bool,
    change: impl FnOnce(&mut StatesByQuota),
) {
    if is_shared {
        return locked.meta.change_shared(charge, locked.now, change);
    }
    let mut states = new_key(locked, charge);
    change(&mut states);
    eviction::sweep(locked);
    locked.insert(table, charge, states.into());
}
