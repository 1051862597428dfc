//! Charges and corrections under the locks of their shards. New keys are charged here, keys whose
//! states are spilled, and all keys that the [fast path](super::fast_path) gives up on.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::slice;

use smallvec::SmallVec;

use super::{
    address::Address,
    entry::{Entry, uses_log},
    eviction, large_states,
    locked_shard::LockedShard,
    shard::{Shards, with_table},
    shard_meta::{Stored, expires_at},
    table::Table,
};
use crate::{
    algorithm::{State, StatesByQuota},
    clock::Now,
    store::{Change, Charge, Correction, Mode, Usage},
};

/// Makes the only charge of a request.
#[inline(never)]
pub(super) fn charge_one(shards: &Shards, charge: &Charge, usage: &mut Usage, now: Now) {
    match large_states::charge(shards, charge, now) {
        Some(charged) => *usage = charged,
        None => charge_all(shards, slice::from_ref(charge), slice::from_mut(usage), now),
    }
}

/// Makes all the charges of a request, or none. This function has a large stack frame, which its
/// callers shall not have.
#[inline(never)]
#[expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "another shard would count the charge anew"
)]
pub(super) fn charge_all(shards: &Shards, charges: &[Charge], usages: &mut [Usage], now: Now) {
    let homes: SmallVec<[usize; 4]> = charges.iter().map(|charge| shards.number(charge)).collect();
    // In order, so that no two requests wait for each other.
    let mut order = homes.clone();
    order.sort_unstable();
    order.dedup();
    let lock = |&home: &usize| LockedShard::new(shards.get(home), now);
    let mut locked: SmallVec<[LockedShard<'_>; 4]> = order.iter().map(lock).collect();
    let index = |home: &usize| order.binary_search(home).expect("each home was locked");

    let found: SmallVec<[Found; 4]> = charges
        .iter()
        .zip(&homes)
        .map(|(charge, home)| {
            let shard = &mut locked[index(home)];
            with_table!(if uses_log(charge), shard.shard, table => find(shard, table, charge))
        })
        .collect();
    let fits =
        |(charge, found): (&Charge, &Found)| charge.mode != Mode::Enforced || found.wait == 0;
    let passes = charges.iter().zip(&found).all(fits);
    let is_made = |charge: &Charge, found: &Found| passes && found.wait == 0 && charge.uses_units();
    for (((charge, home), found), usage) in charges.iter().zip(&homes).zip(&found).zip(usages) {
        let shard = &mut locked[index(home)];
        if is_made(charge, found) {
            consume(shard, charge, found.is_shared);
        }
        *usage = usage_of(shard, charge, *found);
    }
    locked.clear();
    // Unlocked, as this may log, and a subscriber may charge the store.
    let shared = charges.iter().zip(&found).filter(|(_, found)| found.is_shared);
    for (charge, _) in shared.filter(|(charge, found)| is_made(charge, found)) {
        shards.overflow.record(charge.policy);
    }
}

/// Makes a correction, and returns what is left.
pub(super) fn correct(shards: &Shards, correction: &Correction, now: Now) -> Usage {
    let charge = &correction.charge;
    let mut locked = LockedShard::new(shards.get(shards.number(charge)), now);
    let is_shared = with_table!(
        if uses_log(charge), locked.shard, table => correct_in(&mut locked, table, correction)
    );
    usage_of(&locked, charge, Found { wait: 0, is_shared })
}

/// What was found of a charge, before any charge of its request is made.
#[derive(Clone, Copy)]
struct Found {
    /// How long until it fits.
    wait: u64,
    /// Whether it is counted in the state that keys without an entry share.
    is_shared: bool,
}

/// Makes a charge that was found to fit.
fn consume(locked: &mut LockedShard<'_>, charge: &Charge, is_shared: bool) {
    let now = locked.now;
    let consume = |states: &mut StatesByQuota| states.consume(&charge.quota, now, charge.cost);
    with_table!(
        if uses_log(charge), locked.shard, table => change(locked, table, charge, is_shared, consume)
    );
}

/// What is left for a charge.
fn usage_of(locked: &LockedShard<'_>, charge: &Charge, Found { wait, is_shared }: Found) -> Usage {
    let usage = |state: &State| state.charged(&charge.quota, locked.now, wait).into();
    with_table!(
        if uses_log(charge), locked.shard, table => look(locked, table, charge, is_shared, usage)
    )
}

/// How long until `charge` fits, and where it is counted. Makes room for a new key if needed.
/// Tracks the charge's quota, whether or not the charge will be made.
#[expect(clippy::arithmetic_side_effects, reason = "a request has few charges")]
fn find<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
) -> Found {
    let entry = locked.find(table, &Address::of(charge)).map(|(_, entry)| entry);
    let is_new = entry.is_none();
    if is_new && charge.uses_units() && locked.is_full_for::<N>() {
        eviction::make_room::<N>(locked, charge.policy);
    }
    let is_shared = is_new && locked.is_full_for::<N>();
    if is_new && charge.uses_units() && !is_shared {
        locked.reserved += locked.meta.budget.cost.max::<N>();
    }
    if charge.mode != Mode::Peek {
        track(locked, table, charge, entry, is_shared);
    }
    let now = locked.now;
    let wait = |state: &State| state.wait(&charge.quota, now, charge.units_required());
    Found { wait: look(locked, table, charge, is_shared, wait), is_shared }
}

/// Returns whether the correction is made in the state that keys without an entry share.
fn correct_in<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    correction: &Correction,
) -> bool {
    let Correction { charge, change: wanted, .. } = correction;
    let (now, found) = (locked.now, locked.find(table, &Address::of(charge)));
    let is_shared = found.is_none() && locked.is_full_for::<N>();
    match (*wanted, found) {
        (Change::Take(0), _) => {}
        (Change::Take(units), _) => {
            change(locked, table, charge, is_shared, |states| {
                states.consume(&charge.quota, now, units);
            });
        }
        (Change::GiveBack(units), Some(_)) => {
            let past_use = correction.past_use(now);
            change(locked, table, charge, is_shared, |states| {
                states.give_back(&charge.quota, now, units, &past_use);
            });
        }
        (Change::Reset, Some((index, entry))) => locked.remove(table, index, &entry),
        (Change::GiveBack(_) | Change::Reset, None) => {}
    }
    is_shared
}

/// Reads the state in which `charge` would be counted.
fn look<const N: usize, T>(
    locked: &LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    is_shared: bool,
    read: impl FnOnce(&State) -> T,
) -> T {
    let (quota, now) = (&charge.quota, locked.now);
    let beginning = locked.meta.beginning(charge.policy);
    let states = match locked.find(table, &Address::of(charge)) {
        Some((_, entry)) => match locked.meta.stored(&entry, locked.quotas()) {
            Stored::InEntry(state, before) if before == quota => return read(&state),
            Stored::InEntry(state, before) => return read(&state.convert(before, quota, now)),
            Stored::Spilled(states) => Some(states),
        },
        None if is_shared => locked.meta.shared.get(&charge.policy).or(beginning),
        None => beginning,
    };
    match states {
        Some(states) => read(&states.under(quota, now)),
        None => read(&State::new(charge.algorithm)),
    }
}

/// Tracks the quota of `charge`, if its key, which has this entry, has used anything.
fn track<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    entry: Option<Entry<N>>,
    is_shared: bool,
) {
    let (quota, now) = (&charge.quota, locked.now);
    let track = |states: &mut StatesByQuota| {
        states.track(quota, now);
    };
    match entry {
        Some(entry) => {
            let is_tracked =
                |(mut state, tracked): (State, &_)| tracked == quota && !state.realign(quota, now);
            if !entry.unpack(locked.quotas()).is_some_and(is_tracked) {
                change(locked, table, charge, is_shared, track);
            }
        }
        None if is_shared => {
            locked.meta.shared.get_mut(&charge.policy).into_iter().for_each(track);
        }
        None => {}
    }
}

/// Changes the states in which `charge` is counted.
fn change<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    is_shared: bool,
    change: impl FnOnce(&mut StatesByQuota),
) {
    let address = Address::of(charge);
    let Some((index, entry)) = locked.find(table, &address) else {
        return begin(locked, table, charge, is_shared, change);
    };
    let cost = locked.meta.cost(&entry);
    let changed = match entry.unpack(locked.quotas()) {
        Some((state, quota)) => {
            let mut states = StatesByQuota::new(*quota, state);
            change(&mut states);
            locked.pack(&address, charge.policy, states)
        }
        None => {
            let now = locked.now;
            let (spilled_at, states) = locked.meta.spilled_mut(&entry);
            let quotas_before = states.len();
            change(states);
            if states.len() < quotas_before {
                let states = locked.meta.spilled.remove(spilled_at);
                locked.pack(&address, charge.policy, states)
            } else {
                let expires_at = expires_at(states, now);
                Entry::spilled(&address, entry.quota_number(), expires_at, spilled_at)
            }
        }
    };
    locked.replace(table, index, (&entry, cost), changed);
}

/// Makes the first change to the states of a new key.
fn begin<const N: usize>(
    locked: &mut LockedShard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    is_shared: bool,
    change: impl FnOnce(&mut StatesByQuota),
) {
    let beginning = locked.meta.beginning(charge.policy).cloned();
    let new = || StatesByQuota::new(charge.quota, State::new(charge.algorithm));
    let mut states = beginning.unwrap_or_else(new);
    if is_shared {
        change(locked.meta.shared.entry(charge.policy).or_insert(states));
        return;
    }
    change(&mut states);
    eviction::sweep(locked);
    let entry = locked.pack(&Address::of(charge), charge.policy, states);
    locked.insert(table, entry);
}
