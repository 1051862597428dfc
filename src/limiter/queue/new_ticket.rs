//! The ticket of a request that joins the queue, if it has room: [`new_ticket`].

use std::mem;

use smallvec::SmallVec;

use super::{
    Join, Turn,
    first_of::{FirstOf, is_waited_for},
    waiters::{AwaitedKey, Callers, Ticket, Waiters},
};
use crate::{clock::Now, limiter::decision::Outcome, store::Charge};

/// The ticket of a request that joins now, and the one that makes room for it in a fair line; or why
/// it cannot join.
pub(super) fn new_ticket<'a>(
    waiters: &Waiters,
    outcomes: impl Iterator<Item = Outcome<'a>> + Clone,
    turn: Option<Turn>,
    now: Now,
) -> Result<(Ticket, Option<u64>), Join> {
    let at = now.monotonic_nanos();
    let mut callers = callers(outcomes.clone());
    let free = waiters.max.all.saturating_sub(waiters.tickets.len());
    let held_by = |caller: &u128| waiters.callers.get(caller).copied().unwrap_or(0);
    let most_by_one = callers.iter().map(held_by).max();
    let mut has_room = most_by_one.is_none_or(|held| held < free.min(waiters.max.per_caller));
    if let Some(Turn { tenant, .. }) = turn {
        // A tenant leaves room for the lines of others, as a caller does.
        let Some(tenant) = tenant else { return Err(Join::Full) };
        has_room &= held_by(&tenant) < free;
        if !callers.contains(&tenant) {
            callers.push(tenant);
        }
    }
    if free == 0 || !has_room || waiters.max.per_key == 0 {
        return Err(Join::Full);
    }
    let rank = waiters.next_ticket;
    let mut joining = Ticket { rank, callers, due: at, latest: at, ..Ticket::default() };
    let mut makes_room = None;
    let mut waterfall = FirstOf::default();
    let mut waits = Waits::new();
    for outcome in outcomes {
        let Outcome { entry, charge, .. } = outcome;
        if !is_waited_for(&outcome) {
            waterfall.add(FirstOf { due: at, latest: at });
            if !charge.or_else {
                waterfall = FirstOf::default();
            }
            continue;
        }
        let key = charge.id();
        let turn = turn.filter(|turn| turn.of(charge).is_some());
        let rank = new_rank(waiters, charge, turn);
        let fits = waiters.foresee(&outcome, rank, now);
        if let Some(queue) = waiters.keys.get(&key) {
            let free = waiters.max.per_key.saturating_sub(queue.waiting.len());
            if queue.cost_ahead_of(rank, at) != charge.ahead {
                return Err(Join::Outdated);
            }
            if let Some(turn) = turn {
                if free == 0 {
                    makes_room = Some(queue.fair.makes_room(turn).ok_or(Join::Full)?);
                }
            } else {
                let takes_all = |caller: &u128| {
                    entry.labels.is_global && waiters.held_by(*caller, queue) >= free
                };
                if free == 0 || joining.callers.iter().any(takes_all) {
                    return Err(Join::Full);
                }
            }
        } else if charge.ahead != 0 {
            return Err(Join::Outdated);
        }
        if let Some(turn) = turn {
            joining.fair = Some((key, turn));
        }
        joining.keys.push(AwaitedKey { key, due: fits.due });
        waterfall.add(fits);
        if charge.or_else {
            continue;
        }
        let FirstOf { due, latest } = mem::take(&mut waterfall);
        waits.push((latest.saturating_sub(at), entry.special.hold()));
        joining.due = joining.due.max(due);
        joining.latest = joining.latest.max(latest);
    }
    if !are_within_holds(&waits) {
        return Err(Join::Full);
    }
    Ok((joining, makes_room))
}

/// For how long each policy lets a request wait at the latest, and its hold.
type Waits = SmallVec<[(u64, u64); 4]>;

/// Whether each policy adds no more than its hold to the waits for the others, and all of them together no
/// more than the longest hold.
fn are_within_holds(waits: &Waits) -> bool {
    let longest_hold = waits.iter().map(|(_, hold)| *hold).max().unwrap_or(0);
    waits.iter().enumerate().all(|(index, (wait, hold))| {
        let others = waits.iter().enumerate().filter(|(other, _)| *other != index);
        let others = others.map(|(_, (wait, _))| *wait).max().unwrap_or(0);
        *wait <= others.saturating_add(*hold).min(longest_hold)
    })
}

/// The rank that a ticket would have which joins the queue of this charge now.
pub(super) fn new_rank(waiters: &Waiters, charge: &Charge, turn: Option<Turn>) -> u64 {
    let turn = turn.filter(|turn| turn.tenant.is_some() && turn.of(charge).is_some());
    turn.map_or(u64::MAX, |turn| waiters.rank_in_turn(charge, turn))
}

/// The callers for the bounds of the queue: each key of the request, except for those that all
/// callers share. There are none if all policies are global.
fn callers<'a>(outcomes: impl Iterator<Item = Outcome<'a>>) -> Callers {
    let mut callers = Callers::new();
    for key in outcomes.filter_map(|outcome| outcome.fingerprint()) {
        if !callers.contains(&key) {
            callers.push(key);
        }
    }
    callers
}
