//! Charges of keys whose states are spilled: states of several quotas, sliding windows with uses in more
//! than six steps, and keys with a penalty. Such a charge locks the shard's mutex, and does not stop the
//! fast path of other keys. A sliding window comes here only as a step begins or leaves: the entry has its
//! newest step and a sum of the older ones, by which the fast path charges it.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use super::{
    address::Address,
    entry::uses_log,
    shard::{Shard, Shards, with_table},
    shard_meta::{ShardMeta, usage},
    table::{SlotRead, Table},
};
use crate::{
    algorithm::QuotaState,
    clock::Now,
    store::{Charge, Mode, Usage},
};

/// Makes one charge, or checks for a block. `None` if the key's state is not spilled, or may have room in
/// its entry again, or if the charge is a peek.
#[inline(never)]
pub(super) fn charge(shards: &Shards, charge: &Charge, now: Now) -> Option<Usage> {
    let shard = shards.shard(&Address::of(charge));
    if charge.only_looks() {
        return with_table!(if uses_log(charge), shard, table => look(shard, table, charge, now));
    }
    if charge.mode == Mode::Peek {
        return None;
    }
    with_table!(if uses_log(charge), shard, table => charge_in(shard, table, charge, now))
}

/// Checks whether a key is blocked. Keys come and go only under the mutex, so none is missed.
fn look<const N: usize>(
    shard: Shard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    now: Now,
) -> Option<Usage> {
    let meta = shard.meta();
    let read = table.begin(shard.version())?.read(&Address::of(charge), None);
    let spilled = read.and_then(|read| meta.spilled.get(read.entry.spilled_index()?));
    Some(Usage::looked(spilled.map_or(0, |spilled| spilled.blocked_for(charge, now))))
}

#[expect(clippy::arithmetic_side_effects, reason = "both costs are a few thousand bytes")]
fn charge_in<const N: usize>(
    shard: Shard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    now: Now,
) -> Option<Usage> {
    let mut meta = shard.meta();
    let read = table.begin(shard.version())?.read(&Address::of(charge), None)?;
    if read.entry.newest_of_long_log().is_some() {
        return charge_long_log(&mut meta, &read, charge, now);
    }
    let cost_before = meta.cost(&read.entry);
    let spilled = meta.spilled.get_mut(read.entry.spilled_index()?)?;
    let is_forgotten = spilled.has_expired_extras(now);
    let blocked = spilled.blocked_for(charge, now);
    let states = &mut spilled.states;
    if is_forgotten || states.single().is_none() && states.is_expired(now) {
        return None;
    }
    let charged = if blocked == 0 {
        states.charge(&charge.quota, now, charge.ahead, charge.cost).into()
    } else {
        states.track(&charge.quota, now);
        let state = states.under(&charge.quota, now);
        let wait = state.wait(&charge.quota, now, charge.units_required());
        usage(&state, charge, wait, blocked, now)
    };
    read.set_spilled_expiry(spilled.expires_at(now));
    let cost = meta.cost(&read.entry);
    if cost != cost_before {
        let policy = shard.all.quotas.policy(read.entry.quota_number());
        meta.spend(policy, cost - cost_before);
    }
    Some(charged)
}

/// Charges a long log whose sum is not enough, mostly as a step begins or has left. The sum is made anew.
/// Other threads charge the key meanwhile by the sum, so its slot is locked as well.
fn charge_long_log<const N: usize>(
    meta: &mut ShardMeta,
    read: &SlotRead<'_, N>,
    charge: &Charge,
    now: Now,
) -> Option<Usage> {
    let (guard, entry) = read.lock()?;
    let index = entry.spilled_index()?;
    let spilled = meta.spilled.get_mut(index)?;
    let (quota, kept) = spilled.states.single_log_mut()?;
    if *quota != charge.quota {
        return None;
    }
    // A copy, as the entry may have no room for the log after the charge.
    let mut log = kept.clone();
    log.set_newest(entry.time(), entry.number());
    let charged = log.charge(quota, now, charge.ahead, charge.cost);
    let after = entry.with_long_log(&log, quota, index)?;
    *kept = log;
    guard.write(after.0);
    Some(charged.into())
}
