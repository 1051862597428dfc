//! Answers what charges would be answered, and changes nothing.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use smallvec::SmallVec;

use super::{locked_shard::LockedShard, shard::Shards};
use crate::{
    algorithm::{State, StatesByQuota},
    clock::Now,
    store::{Charge, Mode, Usage, Usages},
};

/// The answers to the charges of a request. Each charge is made in a copy of its key's states. If the
/// store is full, a new key's answer is that of the state that such keys share, although a charge
/// might make room for it.
pub(super) fn preview(shards: &Shards, charges: &[Charge], now: Now) -> Usages {
    let mut all: SmallVec<[_; 4]> = charges
        .iter()
        .map(|charge| {
            let mut states = copy(shards, charge, now);
            if charge.mode != Mode::Peek {
                states.track(&charge.quota, now);
            }
            let state = states.under(&charge.quota, now);
            let wait = state.wait(&charge.quota, now, charge.units_required());
            (charge, states, wait)
        })
        .collect();
    let passes = all.iter().all(|(charge, _, wait)| charge.mode != Mode::Enforced || *wait == 0);
    let answer = |(charge, states, wait): &mut (&Charge, StatesByQuota, u64)| {
        if passes && *wait == 0 && charge.uses_units() {
            states.consume(&charge.quota, now, charge.cost);
        }
        let state = states.under(&charge.quota, now);
        Usage::from(state.charged(&charge.quota, now, *wait))
    };
    all.iter_mut().map(answer).collect()
}

/// A copy of the states in which a charge would be counted. Shards are locked one after another, so
/// the answers for several keys may be of different moments, a few microseconds apart.
fn copy(shards: &Shards, charge: &Charge, now: Now) -> StatesByQuota {
    let locked = LockedShard::new(shards.get(shards.number(charge)), now);
    if let Some(states) = locked.states(charge) {
        return states.into_owned();
    }
    let is_full = locked.is_full_for(charge);
    let shared = locked.meta.shared.get(&charge.policy).filter(|_| is_full);
    let beginning = shared.or_else(|| locked.meta.beginning(charge.policy)).cloned();
    let new = if is_full { State::without_room } else { State::new };
    beginning.unwrap_or_else(|| StatesByQuota::new(charge.quota, new(charge.algorithm)))
}
