//! What makes room for a new key, and in which order. The [overview](super) names the policy.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use std::time::Duration;

use super::locked_shard::LockedShard;
use crate::{
    algorithm::{Algorithm, StatesByQuota},
    clock::Now,
    store::Charge,
};

/// How many slots are swept for each new key: more than one, so that expired keys go faster than
/// new ones come.
const SWEEP_PER_KEY: usize = 4;
/// How many slots are swept when there is no room.
const SWEEP_WHEN_FULL: usize = 32;
/// How many slots are swept for a policy with less than its share, in each of three rounds.
const SWEEP_FOR_SHARE: usize = 128;
/// How long a key stays after it has expired, unless there is no room. A caller that comes again and again then
/// finds its entry, even if its quota is whole again each time. A new key takes five times as long.
const KEPT_EXPIRED: Duration = Duration::from_millis(500);

/// A key that had expired by this time goes even if there is room.
pub(super) fn expired_by(now: Now) -> Now {
    now.earlier(KEPT_EXPIRED)
}

/// Sweeps the next slots: removes keys that expired some time ago.
pub(super) fn sweep(locked: &mut LockedShard<'_>) {
    for _ in 0..SWEEP_PER_KEY.min(locked.capacity()) {
        let index = locked.next_index();
        if locked.is_expired_at(index, expired_by(locked.now)) {
            locked.remove_at(index);
        }
    }
}

/// Makes room for the new key of a charge in a full shard, if it can. The keys of all `charges` of its request
/// stay: one that has room already reserves none, and would come back without room.
pub(super) fn make_room(locked: &mut LockedShard<'_>, charge: &Charge, charges: &[Charge]) {
    evict_cheap(locked, charge, charges);
    if locked.is_full_for(charge) {
        evict_for_share(locked, charge, charges);
    }
}

/// Removes keys that have expired until there is room. If there are none, evicts a key that has
/// nearly all of its quota left, so that little is given back. That key is not one of another
/// policy within its share: to give such a key its units back again and again would give back all
/// of them. Nor is it one that is or was blocked, or was reset: its penalty or reset would go with it.
fn evict_cheap(locked: &mut LockedShard<'_>, charge: &Charge, charges: &[Charge]) {
    let share = locked.meta.shares.share(charge.policy);
    let mut nearly_full = None;
    for _ in 0..SWEEP_WHEN_FULL.min(locked.capacity()) {
        let index = locked.next_index();
        if locked.is_of(index, charges) {
            continue;
        }
        if locked.is_expired_at(index, locked.now) {
            locked.remove_at(index);
            nearly_full = None;
            if !locked.is_full_for(charge) {
                return;
            }
        } else if nearly_full.is_none() {
            nearly_full = locked.states_at(index).and_then(|(other, states)| {
                let may_go =
                    other == charge.policy || !locked.meta.shares.is_within(share, other, 0);
                let may_go = may_go && has_eighths_left(&states, 7, locked.now);
                (may_go && !locked.goes_last_at(index)).then_some(index)
            });
        }
    }
    if let Some(index) = nearly_full {
        locked.remove_at(index);
    }
}

/// If a policy uses less than its share of the room, evicts keys of policies that use more until
/// there is room: first keys that have half of their quota left, then any without a block or a reset, and
/// then those. What they had used and their resets are remembered, so that no flood gives a spent key its
/// quota back. A key stays if there is no room to remember what it has used.
#[cold]
#[inline(never)]
#[expect(clippy::arithmetic_side_effects, reason = "a shard has room for fewer than 2^40 bytes")]
fn evict_for_share(locked: &mut LockedShard<'_>, charge: &Charge, charges: &[Charge]) {
    let needed = locked.reserved + locked.max_cost(charge);
    let share = locked.meta.shares.share(charge.policy);
    if !locked.meta.shares.is_within(share, charge.policy, needed) {
        return;
    }
    for (least_left, may_be_last) in [(4, false), (0, false), (0, true)] {
        for _ in 0..SWEEP_FOR_SHARE.min(locked.capacity()) {
            let index = locked.next_index();
            let Some((other, states)) = locked.states_at(index) else { continue };
            if !locked.meta.shares.is_within(share, other, 0)
                && has_eighths_left(&states, least_left, locked.now)
                && (may_be_last || !locked.goes_last_at(index))
                && !locked.is_of(index, charges)
                && locked.meta.can_remember(other, &states, locked.now)
            {
                locked.evict_at(index, other);
                if !locked.is_full_for(charge) {
                    return;
                }
            }
        }
    }
}

/// Whether so many eighths of each quota are left, and no unit is held in flight: it comes back, and
/// must find its count. A key that holds none may be there for its penalty alone.
fn has_eighths_left(states: &StatesByQuota, eighths: u64, now: Now) -> bool {
    states.iter().all(|(quota, state)| match state.algorithm() {
        Algorithm::InFlight => state.expires_in(quota, now) == 0,
        algorithm => {
            let enough = algorithm.capacity(quota).saturating_mul(eighths);
            state.remaining(quota, now).saturating_mul(8) >= enough
        }
    })
}
