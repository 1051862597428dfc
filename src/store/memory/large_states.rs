//! Charges of keys whose states are spilled: states of several quotas, sliding windows with uses in more
//! than six steps, and keys with a penalty. Such a charge locks the shard's mutex, and does not stop the
//! fast path of other keys.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use super::{
    address::Address,
    entry::uses_log,
    shard::{Shard, Shards, with_table},
    shard_meta::usage,
    table::Table,
};
use crate::{
    clock::Now,
    store::{Charge, Mode, Usage},
};

/// Makes one charge, or looks for a block. `None` if the key's state is not spilled, or may have room in its entry again,
/// or if the charge is a peek.
#[inline(never)]
pub(super) fn charge(shards: &Shards, charge: &Charge, now: Now) -> Option<Usage> {
    let shard = shards.shard(&Address::of(charge));
    if charge.only_looks() {
        return Some(
            with_table!(if uses_log(charge), shard, table => look(shard, table, charge, now)),
        );
    }
    if charge.mode == Mode::Peek {
        return None;
    }
    with_table!(if uses_log(charge), shard, table => charge_in(shard, table, charge, now))
}

/// Looks whether a key is blocked. Keys come and go only under the mutex, so none is missed.
fn look<const N: usize>(shard: Shard<'_>, table: Table<'_, N>, charge: &Charge, now: Now) -> Usage {
    let meta = shard.meta();
    let read = table.read(shard.version(), &Address::of(charge), None);
    let spilled = read.and_then(|read| meta.spilled.get(read.entry.spilled_index()?));
    Usage::looked(spilled.map_or(0, |spilled| spilled.blocked_for(charge, now)))
}

#[expect(clippy::arithmetic_side_effects, reason = "both costs are a few thousand bytes")]
fn charge_in<const N: usize>(
    shard: Shard<'_>,
    table: Table<'_, N>,
    charge: &Charge,
    now: Now,
) -> Option<Usage> {
    let mut meta = shard.meta();
    let version = shard.version();
    let read = table.read((version, version.stamp()?), &Address::of(charge), None)?;
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
