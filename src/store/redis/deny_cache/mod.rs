//! Refusals that are remembered until they end: whoever floods while refused costs the server
//! nothing.

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

use smallvec::{SmallVec, smallvec};

use super::leases::lifetime;
use crate::{
    clock::{Now, nanos},
    quota::Quota,
    store::{Answer, Charge, Mode, Usage},
};

const SEGMENTS: usize = 64;
/// Of one key: requests of different costs are refused for different times.
const COSTS: usize = 4;

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
    /// How often something has come back out of turn: what was refused before is not remembered
    /// afterwards.
    changes: u64,
}

/// A key that is refused.
#[derive(Debug)]
struct Denied {
    quota: Quota,
    /// By units asked for, with those ahead.
    refusals: SmallVec<[Refusal; 1]>,
    remaining: u64,
    resets_at: u64,
    /// When it was refused, by the server's clock and by ours.
    at: (Now, u64),
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    units: u64,
    /// The refusal was decided between asking and hearing of it, and ends so much later: not before
    /// the first of these, and not after the second.
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
            let unknown = || Answer { usages: smallvec![Usage::unknown(); charges.len()], at };
            denied.get_or_insert_with(unknown).usages[place] = usage;
        }
        let denied = denied.ok_or(begun)?;
        self.hits.fetch_add(1, Relaxed);
        #[cfg(feature = "metrics")]
        self.metric.count();
        Ok(denied)
    }

    /// Remembers what the server has refused.
    pub(super) fn remember(
        &self,
        charges: &[Charge],
        begun: &Begun,
        answer: &Answer,
        took: Duration,
    ) {
        let heard = begun.at.saturating_add(nanos(took));
        for ((charge, usage), changes) in charges.iter().zip(&answer.usages).zip(&begun.changes) {
            let mut segment = self.segment(charge);
            if usage.fits() {
                // Perhaps it was made: whoever wants more than that has now longer to wait.
                segment.denied.remove(&charge.slot());
            } else if charge.mode == Mode::Enforced
                && has_known_end(charge)
                && segment.changes == *changes
            {
                segment.insert(charge, usage, (begun.at, heard), answer.at, self);
            }
        }
    }

    /// Some units of the key have come back, or all.
    pub(super) fn forget(&self, charge: &Charge) {
        let mut segment = self.segment(charge);
        segment.changes += 1;
        segment.denied.remove(&charge.slot());
    }

    fn segment(&self, charge: &Charge) -> MutexGuard<'_, Segment> {
        let segment = &self.segments[charge.slot() as usize % SEGMENTS];
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
        let denied =
            self.denied.get(&charge.slot()).filter(|denied| denied.quota == charge.quota)?;
        let units = charge.ahead.saturating_add(charge.cost);
        let refusal = denied.refusals.iter().find(|refusal| refusal.units == units)?;
        if refusal.ends.0 <= now {
            return None;
        }
        let wait = refusal.ends.1 - now;
        // Units that have come back since are told when somebody asks the server again.
        let reset = denied.resets_at.checked_sub(now).filter(|left| *left > 0).unwrap_or(wait);
        let (at, heard) = denied.at;
        let since = Duration::from_nanos(now.saturating_sub(heard));
        let at = Now::new(at.monotonic() + since, at.unix() + since);
        Some((Usage::of_nanos(wait, denied.remaining, reset), at))
    }

    fn insert(
        &mut self,
        charge: &Charge,
        usage: &Usage,
        (asked, heard): (u64, u64),
        at: Now,
        cache: &DenyCache,
    ) {
        let slot = charge.slot();
        if self.denied.len() >= cache.keys_per_segment && !self.denied.contains_key(&slot) {
            self.denied
                .retain(|_, denied| denied.refusals.iter().any(|refusal| refusal.ends.0 > heard));
            if self.denied.len() >= cache.keys_per_segment {
                return;
            }
        }
        let wait = usage.wait_nanos();
        // Other replicas may give back what they have not spent of a lease.
        let longest = if charge.lease > 0 { lifetime(&charge.quota) } else { cache.longest };
        let first_end = asked.saturating_add(wait.min(longest.min(cache.longest)));
        let units = charge.ahead.saturating_add(charge.cost);
        let refusal = Refusal { units, ends: (first_end, heard.saturating_add(wait)) };
        let resets_at = heard.saturating_add(nanos(usage.reset()));
        let remaining = usage.remaining();
        let (at, quota) = ((at, heard), charge.quota);
        let mut refusals: SmallVec<[Refusal; 1]> = smallvec![refusal];
        if let Some(before) = self.denied.remove(&slot).filter(|before| before.quota == quota) {
            let still = before.refusals.iter();
            let still = still.filter(|other| other.units != units && other.ends.0 > heard);
            refusals.extend(still.take(COSTS - 1).copied());
        }
        self.denied.insert(slot, Denied { quota, refusals, remaining, resets_at, at });
    }
}
