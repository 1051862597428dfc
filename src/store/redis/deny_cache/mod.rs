//! Refusals that are remembered until they end: a refused flood costs the server next to nothing. A
//! refusal of some units refuses more units as well.

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use smallvec::SmallVec;

use super::leases::lifetime;
use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    quota::Quota,
    store::{Answer, Charge, Mode, Usage, Usages},
};

const SEGMENTS: usize = 64;
/// The most refusals of one key: more units are refused for longer.
const REFUSALS: usize = 4;

/// Refusals, by the monotonic clock of this process.
pub(super) struct DenyCache {
    segments: Box<[Mutex<Segment>]>,
    keys_per_segment: usize,
    longest: u64,
    hits: AtomicU64,
    #[cfg(feature = "metrics")]
    metric: crate::metrics::DenyCacheHits,
}

#[derive(Debug, Default)]
struct Segment {
    denied: HashMap<u128, Denied>,
    /// Before that, a full segment has no room for another key.
    full_until: u64,
    /// How often something has come back out of turn: what was refused before is not remembered
    /// afterwards.
    changes: u64,
}

/// A key that is refused.
#[derive(Debug)]
struct Denied {
    /// The refusals hold under this quota only.
    quota: Quota,
    /// In the order of their units.
    refusals: SmallVec<[Refusal; 1]>,
    remaining: u64,
    resets_at: u64,
    /// When it was refused, by the server's clock and by ours.
    at: (Now, u64),
}

/// A refusal of some units. None come back until it ends, so more units are refused as long at least.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    /// The units of the charge and those ahead of it.
    units: u64,
    /// The earliest and the latest end: the server decided between the command and its answer.
    ends: (u64, u64),
}

/// When a request was begun.
#[derive(Debug)]
pub(super) struct Begun {
    at: u64,
    changes: SmallVec<[u64; 4]>,
}

impl DenyCache {
    /// For so many keys, each for no `longer` than this.
    pub(super) fn new(keys: usize, longest: Duration) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            keys_per_segment: keys.div_ceil(SEGMENTS),
            longest: nanos(longest),
            hits: AtomicU64::new(0),
            #[cfg(feature = "metrics")]
            metric: Default::default(),
        }
    }

    /// How many requests were refused by what is remembered.
    pub(super) fn hits(&self) -> u64 {
        self.hits.load(Relaxed)
    }

    /// What is known to refuse the charges now, but for those that need no server.
    pub(super) fn look(
        &self,
        charges: &[Charge],
        now: Now,
        is_covered: impl Fn(&Charge) -> bool,
    ) -> Result<Answer, Begun> {
        let now = now.monotonic_nanos();
        let mut begun = Begun { at: now, changes: SmallVec::new() };
        let mut denied: Option<Answer> = None;
        for (place, charge) in charges.iter().enumerate() {
            let is_covered = is_covered(charge);
            let segment = self.segment(charge);
            begun.changes.push(segment.changes);
            if charge.mode != Mode::Enforced || !has_known_end(charge) || is_covered {
                continue;
            }
            let Some((usage, at)) = segment.refuses(charge, now) else { continue };
            let unknown = || Answer { usages: Usages::unknown(charges.len()), at };
            denied.get_or_insert_with(unknown).usages[place] = usage;
        }
        let denied = denied.ok_or(begun)?;
        self.hits.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metric.count();
        Ok(denied)
    }

    /// Remembers what the server has refused: between two times since it was begun.
    pub(super) fn remember(
        &self,
        charges: &[Charge],
        begun: &Begun,
        answer: &Answer,
        (asked, heard): (Duration, Duration),
    ) {
        let [asked, heard] = [asked, heard].map(|since| begun.at.saturating_add(nanos(since)));
        for ((charge, usage), changes) in charges.iter().zip(&answer.usages).zip(&begun.changes) {
            let mut segment = self.segment(charge);
            if usage.fits() {
                // Perhaps it was made: whoever wants more than that has now longer to wait.
                segment.denied.remove(&charge.id());
            } else if charge.mode == Mode::Enforced
                && has_known_end(charge)
                && segment.changes == *changes
            {
                segment.insert(charge, usage, (asked, heard), answer.at, self);
            }
        }
    }

    /// Some units of the key have come back, or all.
    pub(super) fn forget(&self, charge: &Charge) {
        let mut segment = self.segment(charge);
        segment.changes += 1;
        segment.denied.remove(&charge.id());
    }

    fn segment(&self, charge: &Charge) -> MutexGuard<'_, Segment> {
        let segment = &self.segments[charge.id() as usize % SEGMENTS];
        segment.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a response may give back what it was charged, nobody knows when a refusal ends; nor where
/// those ahead have still to use what comes back.
fn has_known_end(charge: &Charge) -> bool {
    let capacity = charge.algorithm.capacity(&charge.quota);
    let waits_its_turn = charge.cost <= capacity && charge.ahead > capacity - charge.cost;
    !charge.is_settled && !waits_its_turn
}

impl Segment {
    fn refuses(&self, charge: &Charge, now: u64) -> Option<(Usage, Now)> {
        let denied = self.denied.get(&charge.id()).filter(|denied| denied.quota == charge.quota)?;
        let wait = denied.until(charge, now)?.checked_sub(now).filter(|wait| *wait > 0)?;
        // Units that have come back since are told when somebody asks the server again.
        let reset = denied.resets_at.checked_sub(now).filter(|left| *left > 0).unwrap_or(wait);
        let (at, heard) = denied.at;
        let since = Duration::from_nanos(now.saturating_sub(heard));
        let at = Now::new(at.monotonic() + since, at.unix() + since);
        Some((Usage::from_nanos(wait, denied.remaining, reset), at))
    }

    fn insert(
        &mut self,
        charge: &Charge,
        usage: &Usage,
        times: (u64, u64),
        at: Now,
        cache: &DenyCache,
    ) {
        let (slot, heard) = (charge.id(), times.1);
        if !self.denied.contains_key(&slot) && !self.has_room(heard, cache.keys_per_segment) {
            return;
        }
        let quota = charge.quota;
        let before = self.denied.remove(&slot).filter(|before| before.quota == quota);
        let mut denied = Denied {
            quota,
            refusals: before.map_or_else(SmallVec::new, |before| before.refusals),
            remaining: usage.remaining(),
            resets_at: heard.saturating_add(nanos(usage.reset())),
            at: (at, heard),
        };
        denied.refusals.retain(|refusal| refusal.ends.0 > heard);
        for (units, wait) in refused(charge, usage) {
            // Other replicas may give back what they have not spent of a lease.
            let longest = if charge.lease > 0 { lifetime(&quota) } else { cache.longest };
            let first = times.0.saturating_add(wait.min(longest.min(cache.longest)));
            denied.add(Refusal { units, ends: (first, heard.saturating_add(wait)) });
        }
        self.denied.insert(slot, denied);
    }

    /// Whether another key may come. It is looked for one that has ended only if there may be one.
    fn has_room(&mut self, now: u64, keys: usize) -> bool {
        if self.denied.len() >= keys && now >= self.full_until {
            self.denied.retain(|_, denied| denied.ends() > now);
            self.full_until = self.denied.values().map(Denied::ends).min().unwrap_or(0);
        }
        self.denied.len() < keys
    }
}

/// What is refused as well, each for how long: one unit more than remains, until another comes back.
fn refused(charge: &Charge, usage: &Usage) -> impl Iterator<Item = (u64, u64)> {
    let (units, wait) = (charge.ahead.saturating_add(charge.cost), usage.wait_nanos());
    // Of a lease, this replica may hold some of what remains.
    let is_exact = charge.lease == 0 && usage.is_known() && usage.reset() > Duration::ZERO;
    let fewer = usage.remaining().saturating_add(1);
    let fewer = (is_exact && fewer < units).then(|| (fewer, nanos(usage.reset()).min(wait)));
    fewer.into_iter().chain([(units, wait)])
}

impl Denied {
    /// When the last of it ends.
    fn ends(&self) -> u64 {
        self.refusals.iter().map(|refusal| refusal.ends.0).max().unwrap_or(0)
    }

    /// Of more units than there is room for, the largest are kept: all others are between two.
    fn add(&mut self, new: Refusal) {
        let place = self.refusals.partition_point(|refusal| refusal.units < new.units);
        match self.refusals.get_mut(place).filter(|known| known.units == new.units) {
            Some(known) => *known = new,
            None => self.refusals.insert(place, new),
        }
        if self.refusals.len() > REFUSALS {
            self.refusals.remove(REFUSALS - 1);
        }
    }

    /// If a charge is sure to be refused now: when it is sure to fit, unless others use more.
    fn until(&self, charge: &Charge, now: u64) -> Option<u64> {
        let units = charge.ahead.saturating_add(charge.cost);
        let place = self.refusals.partition_point(|refusal| refusal.units <= units);
        let (fewer, more) = self.refusals.split_at(place);
        let fewer = fewer.iter().rev().find(|refusal| refusal.ends.0 > now)?;
        if fewer.units == units {
            return Some(fewer.ends.1);
        }
        let (quota, capacity) = (&charge.quota, charge.algorithm.capacity(&charge.quota));
        match charge.algorithm {
            Algorithm::TokenBucket => {
                let refill = charge.algorithm.longest_wait(quota, units - fewer.units);
                Some(fewer.ends.1.saturating_add(refill))
            }
            Algorithm::FixedWindow if units <= capacity => Some(fewer.ends.1),
            // None of these ever fits.
            _ if fewer.units > capacity => Some(fewer.ends.1),
            // Between two it is the time of one of them. The server knows which, as long as there is room.
            _ if self.refusals.len() < REFUSALS => None,
            _ => more.iter().map(|refusal| refusal.ends.1).find(|ends| *ends >= fewer.ends.1),
        }
    }
}
