//! Answers what charges would be answered, and changes nothing.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use smallvec::SmallVec;

use super::{locked_shard::LockedShard, shard::Shards, shard_meta::usage};
use crate::{
    algorithm::{State, StatesByQuota},
    clock::Now,
    store::{Charge, Mode, Usage, Usages, pass},
};

/// The answers to the charges of a request. Each charge is made in a copy of its key's states. If the
/// store is full, a new key's answer is that of the state that such keys share, although a charge
/// might make room for it.
pub(super) fn preview(shards: &Shards, charges: &[Charge], now: Now) -> Usages {
    // Whether a charge that the current one stands for fits.
    let mut has_fitting = false;
    let mut all: SmallVec<[_; 4]> = charges
        .iter()
        .map(|charge| {
            let (mut states, blocked) = copy(shards, charge, now);
            if charge.only_looks() {
                return (charge, states, (0, blocked), blocked == 0);
            }
            if charge.mode != Mode::Peek && !has_fitting {
                states.track(&charge.quota, now);
            }
            let state = states.under(&charge.quota, now);
            let wait = state.wait(&charge.quota, now, charge.units_required());
            let fits = wait == 0 && blocked == 0;
            let is_first = fits && !has_fitting;
            has_fitting = charge.or_else && (has_fitting || is_first);
            (charge, states, (wait, blocked), is_first)
        })
        .collect();
    let passes =
        pass(charges, |index| all.get(index).is_some_and(|(_, _, waits, _)| *waits == (0, 0)));
    let answer =
        |(charge, states, waits, is_first): &mut (&Charge, StatesByQuota, (u64, u64), bool)| {
            if charge.only_looks() {
                return Usage::looked(waits.1);
            }
            if passes && *is_first && charge.uses_units() {
                states.consume(&charge.quota, now, charge.cost);
            }
            usage(&states.under(&charge.quota, now), charge, waits.0, waits.1, now)
        };
    all.iter_mut().map(answer).collect()
}

/// A copy of the states in which a charge would be counted, and how much longer its key is blocked.
/// Shards are locked one after another, so the answers for several keys may be of different moments, a
/// few microseconds apart.
fn copy(shards: &Shards, charge: &Charge, now: Now) -> (StatesByQuota, u64) {
    let locked = LockedShard::new(shards.get(shards.number(charge)), now);
    if let Some(states) = locked.states(charge) {
        return (states.into_owned(), locked.blocked_for(charge));
    }
    let is_full = locked.is_full_for(charge);
    let beginning = locked.meta.beginning(charge, is_full, now).cloned();
    let new = if is_full { State::without_room } else { State::new };
    let new = || StatesByQuota::new(charge.quota, new(charge.algorithm));
    (beginning.unwrap_or_else(new), 0)
}
