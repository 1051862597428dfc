//! Refusals that are remembered until they end: [`DenyCache`]. A flood of requests that are refused
//! costs the server next to nothing.
//!
//! A refusal is of some units of a key, under one quota. It refuses more units as well, and holds until
//! enough units have come back by the clock. Where units come back otherwise (a reset, units that are
//! given back), the key is [forgotten](DenyCache::forget).
//!
//! | what | test |
//! |---|---|
//! | nothing is refused that the server would let pass | `a_request_is_refused_as_long_as_the_server_would` |
//! | a request that may draw on another quota is not refused here | `a_refusal_counts_only_if_no_other_quota_may_have_room` |
//! | a flood of one cost asks once, of many costs a few times | `a_flood_asks_the_server_once`, `a_flood_of_many_costs_asks_the_server_a_few_times` |
//! | memory is bounded | `costs_that_grow_take_no_more_memory`, `nothing_is_remembered_longer_than_allowed_or_beyond_the_bound` |

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        MutexGuard,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    clock::{RoundTrip, later},
    leases::lifetime,
};
use crate::{
    algorithm::Algorithm,
    clock::{NANOS_PER_SECOND, Now, nanos},
    lock::Mutex,
    quota::Quota,
    store::{Answer, Charge, Mode, Usage, Usages, runs},
};

const SEGMENTS: usize = 64;
/// The most refusals of one key. A refusal of more units holds longer.
const MAX_REFUSALS: usize = 4;

/// A block is not remembered for longer: another replica may lift it.
const LONGEST_BLOCK: u64 = NANOS_PER_SECOND;

/// Its times are of the caller's monotonic clock.
pub(super) struct DenyCache {
    segments: Box<[Mutex<Segment>]>,
    max_keys_per_segment: usize,
    /// Nothing is remembered longer.
    longest: u64,
    /// How many requests were refused without asking a server.
    pub(super) hits: AtomicU64,
    #[cfg(feature = "metrics")]
    counter: std::sync::OnceLock<metrics::Counter>,
}

#[derive(Debug, Default)]
struct Segment {
    denied: HashMap<u128, DeniedKey>,
    /// When a refusal of a full segment ends, and another key has room.
    full_until: u64,
    /// How often a key was forgotten. A refusal is not remembered if it may be from before that.
    version: u64,
}

/// A key that is refused.
#[derive(Debug)]
struct DeniedKey {
    /// The refusals hold under this quota only.
    quota: Quota,
    /// In the order of their units.
    refusals: SmallVec<[Refusal; 1]>,
    remaining: u64,
    resets_at: u64,
    /// When the block of its penalty ends; 0 if there is none. None of its refusals is used longer.
    blocked_until: u64,
    /// When the server refused it, by its clock.
    refused_at: Now,
    /// When the reply came.
    received_at: u64,
}

/// None of these units come back until it ends, so more units are refused at least as long.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// The units of the charge, and those ahead of it.
    units: u64,
    /// The server decided at some time between the command and its reply. So the refusal certainly
    /// holds until the first time, and is certainly over at the second.
    first_end: u64,
    last_end: u64,
}

/// Says that a look-up found no refusal. What the server answers is remembered only if no key of the
/// request's segments was forgotten since.
#[derive(Debug)]
pub(super) struct CacheMiss {
    versions: SmallVec<[u64; 4]>,
}

impl DenyCache {
    /// For this many keys, each for no longer than `longest`.
    pub(super) fn new(max_keys: usize, longest: Duration) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            max_keys_per_segment: max_keys.div_ceil(SEGMENTS),
            longest: nanos(longest),
            hits: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            counter: Default::default(),
        }
    }

    /// Finds what refuses the charges now. Charges that are covered by a lease are left out.
    #[expect(clippy::indexing_slicing, reason = "there is a usage for each charge")]
    pub(super) fn look_up(
        &self,
        charges: &[Charge],
        now: Now,
        is_covered: impl Fn(&Charge) -> bool,
    ) -> Result<Answer, CacheMiss> {
        let now = now.monotonic_nanos();
        let mut miss = CacheMiss { versions: SmallVec::new() };
        let mut refused: Option<Answer> = None;
        for (index, charge) in charges.iter().enumerate() {
            let is_covered = is_covered(charge);
            let segment = self.segment(charge);
            miss.versions.push(segment.version);
            if !can_be_remembered(charge) || is_covered {
                continue;
            }
            let Some((usage, at)) = segment.look_up(charge, now) else { continue };
            let unknown = || Answer { usages: Usages::unknown(charges.len()), at };
            refused.get_or_insert_with(unknown).usages[index] = usage;
        }
        let is_refused = |refused: &mut Answer| refuses_each_of_a_run(charges, &mut refused.usages);
        let refused = refused.take_if(is_refused).ok_or(miss)?;
        self.hits.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.counter.get_or_init(crate::metrics::deny_cache_hits).increment(1);
        Ok(refused)
    }

    /// Remembers what the server has refused.
    pub(super) fn remember(
        &self,
        charges: &[Charge],
        miss: &CacheMiss,
        answer: &Answer,
        times: RoundTrip,
    ) {
        for ((charge, usage), version) in charges.iter().zip(&*answer.usages).zip(&miss.versions) {
            let mut segment = self.segment(charge);
            if usage.fits() {
                // Perhaps it was charged: then other refusals of the key last longer now.
                segment.denied.remove(&charge.id());
            } else if can_be_remembered(charge) && segment.version == *version {
                segment.insert(charge, usage, answer.at, times, self);
            }
        }
    }

    /// Forgets a key of which units have come back, or all.
    pub(super) fn forget(&self, charge: &Charge) {
        let mut segment = self.segment(charge);
        segment.version = segment.version.wrapping_add(1);
        segment.denied.remove(&charge.id());
    }

    #[expect(clippy::indexing_slicing, reason = "the remainder is below the number of segments")]
    fn segment(&self, charge: &Charge) -> MutexGuard<'_, Segment> {
        let segment = &self.segments[charge.id() as usize % SEGMENTS];
        segment.lock()
    }
}

/// Whether each charge of some run is refused: then the request is. In other runs, a charge may fit of
/// which nothing is known, so the refusals there are set to unknown.
#[expect(clippy::indexing_slicing, reason = "there is a usage for each charge")]
fn refuses_each_of_a_run(charges: &[Charge], usages: &mut Usages) -> bool {
    let mut is_refused = false;
    for run in runs(charges) {
        let usages = &mut usages[run];
        if usages.iter().all(Usage::is_known) {
            is_refused = true;
        } else {
            usages.fill(Usage::unknown());
        }
    }
    is_refused
}

/// Whether it is known when a refusal of the charge ends. It is not where a response may give units
/// back, nor where requests ahead of this one are still to use what comes back.
fn can_be_remembered(charge: &Charge) -> bool {
    let capacity = charge.algorithm.capacity(&charge.quota);
    let waits_in_line = capacity.checked_sub(charge.cost).is_some_and(|rest| charge.ahead > rest);
    let comes_back = charge.is_settled || charge.algorithm == Algorithm::InFlight;
    charge.mode == Mode::Enforced && !comes_back && !waits_in_line
}

impl Segment {
    fn look_up(&self, charge: &Charge, now: u64) -> Option<(Usage, Now)> {
        let denied = self.denied.get(&charge.id()).filter(|denied| denied.quota == charge.quota)?;
        let wait = denied.refused_until(charge, now)?.checked_sub(now).filter(|wait| *wait > 0)?;
        if denied.is_blocked() && !charge.has_penalty {
            // The policy has no penalty any more, so the block has ended.
            return None;
        }
        // Units may have come back since: the next answer of the server shows them.
        let reset = denied.resets_at.checked_sub(now).filter(|left| *left > 0).unwrap_or(wait);
        let since = Duration::from_nanos(now.saturating_sub(denied.received_at));
        let usage = match denied.blocked_until.saturating_sub(now) {
            0 => Usage::from_nanos(wait, denied.remaining, reset),
            blocked => Usage::blocked_nanos(blocked, wait, reset),
        };
        Some((usage, later(denied.refused_at, since)))
    }

    fn insert(
        &mut self,
        charge: &Charge,
        usage: &Usage,
        refused_at: Now,
        RoundTrip { sent, received }: RoundTrip,
        cache: &DenyCache,
    ) {
        let (slot, quota) = (charge.id(), charge.quota);
        if !self.denied.contains_key(&slot) && !self.has_room(received, cache.max_keys_per_segment)
        {
            return;
        }
        let block = usage.blocked_for().map(nanos);
        // Refusals by the quota end at other times than those of a block.
        let stays =
            |before: &DeniedKey| before.quota == quota && before.is_blocked() == block.is_some();
        let before = self.denied.remove(&slot).filter(stays);
        let mut denied = DeniedKey {
            quota,
            refusals: before.map_or_else(SmallVec::new, |before| before.refusals),
            remaining: usage.remaining(),
            resets_at: received.saturating_add(nanos(usage.reset())),
            blocked_until: block.map_or(0, |block| received.saturating_add(block)),
            refused_at,
            received_at: received,
        };
        denied.refusals.retain(|refusal| refusal.first_end > received);
        for (units, wait) in refused_units(charge, usage) {
            // Other replicas may give back units that they have not spent of a lease.
            let longest = if charge.lease > 0 { lifetime(&quota) } else { cache.longest };
            let longest = longest.min(block.map_or(u64::MAX, |block| block.min(LONGEST_BLOCK)));
            let first_end = sent.saturating_add(wait.min(longest).min(cache.longest));
            denied.add(Refusal { units, first_end, last_end: received.saturating_add(wait) });
        }
        self.denied.insert(slot, denied);
    }

    /// Whether there is room for another key. Refusals that are over are removed, but the search for
    /// them begins only when there is one.
    fn has_room(&mut self, now: u64, max_keys: usize) -> bool {
        if self.denied.len() >= max_keys && now >= self.full_until {
            self.denied.retain(|_, denied| denied.ends() > now);
            self.full_until = self.denied.values().map(DeniedKey::ends).min().unwrap_or(0);
        }
        self.denied.len() < max_keys
    }
}

/// The units that a refusal refuses, each with the time for which it does: those of the charge; and,
/// where fewer units would be refused as well, one unit more than remains, until another comes back.
fn refused_units(charge: &Charge, usage: &Usage) -> impl Iterator<Item = (u64, u64)> {
    let (units, wait) = (charge.ahead.saturating_add(charge.cost), usage.wait_nanos());
    // Some of what remains to a lease may be in this replica.
    let is_exact = charge.lease == 0 && usage.is_known() && usage.reset() > Duration::ZERO;
    let fewer = usage.remaining().saturating_add(1);
    let fewer = (is_exact && fewer < units).then(|| (fewer, nanos(usage.reset()).min(wait)));
    fewer.into_iter().chain([(units, wait)])
}

impl DeniedKey {
    fn is_blocked(&self) -> bool {
        self.blocked_until > 0
    }

    /// When its last refusal ends.
    fn ends(&self) -> u64 {
        self.refusals.iter().map(|refusal| refusal.first_end).max().unwrap_or(0)
    }

    /// Adds a refusal. Where there are too many, the second largest of the others goes: any other
    /// number of units is then still between two that are known.
    fn add(&mut self, new: Refusal) {
        let index = self.refusals.partition_point(|refusal| refusal.units < new.units);
        match self.refusals.get_mut(index).filter(|known| known.units == new.units) {
            Some(known) => *known = new,
            None => self.refusals.insert(index, new),
        }
        if self.refusals.len() > MAX_REFUSALS {
            let second_largest = MAX_REFUSALS - 1;
            self.refusals
                .remove(second_largest.saturating_sub(usize::from(index == second_largest)));
        }
    }

    /// When a charge certainly fits, unless others use more; `None` if it may fit now.
    fn refused_until(&self, charge: &Charge, now: u64) -> Option<u64> {
        let units = charge.ahead.saturating_add(charge.cost);
        let index = self.refusals.partition_point(|refusal| refusal.units <= units);
        let (fewer, more) = self.refusals.split_at(index);
        let fewer = fewer.iter().rev().find(|refusal| refusal.first_end > now)?;
        let further = units.checked_sub(fewer.units).filter(|further| *further > 0);
        let Some(further) = further else { return Some(fewer.last_end) };
        let (quota, capacity) = (&charge.quota, charge.algorithm.capacity(&charge.quota));
        match charge.algorithm {
            Algorithm::TokenBucket => {
                let refill = charge.algorithm.longest_wait(quota, further);
                Some(fewer.last_end.saturating_add(refill))
            }
            Algorithm::FixedWindow if units <= capacity => Some(fewer.last_end),
            // Neither ever fits.
            _ if fewer.units > capacity => Some(fewer.last_end),
            // Units between two refusals end with one of them. The server knows which, and is asked
            // while there is room for its answer.
            _ if self.refusals.len() < MAX_REFUSALS => None,
            // More units end no earlier. A reply that was late may make it look so.
            _ => more.first().map(|refusal| refusal.last_end.max(fewer.last_end)),
        }
    }
}
