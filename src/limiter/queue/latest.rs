//! The latest time at which the charge of a held request fits: [`Waiters::latest`].
//!
//! A charge is due when it fits beside all units ahead. The store computes that as if the tickets ahead
//! charge as soon as they fit under this key. But another key may delay one of them, and several units
//! that are charged at once may leave a part of a window empty. So this follows the tickets ahead to the
//! times at which they charge at the latest.

use super::waiters::{Waiter, Waiters};
use crate::{
    algorithm::{Algorithm, is_same_step},
    clock::Now,
    store::Charge,
};

/// The tickets ahead of a charge.
struct Ahead {
    /// When each of them charges at the latest, and its units; in order of time.
    tickets: Vec<(u64, u64)>,
    /// The units of all of them, and of the charge itself.
    units: u64,
}

impl Waiters {
    /// The latest time at which a charge fits that is due after `wait`; 0 if that is when it is due, or
    /// unknown. With `behind_all`, it charges behind the tickets that came after it as well.
    ///
    /// Only tickets of a rank below `rank` are ahead.
    pub(super) fn latest(
        &self,
        charge: &Charge,
        wait: u64,
        behind_all: bool,
        rank: u64,
        now: Now,
    ) -> u64 {
        let Some(key) = self.keys.get(&charge.id()) else { return 0 };
        let is_uneven = |cost: u64| charge.algorithm != Algorithm::TokenBucket && cost > 1;
        let mut ahead = Ahead { tickets: Vec::new(), units: charge.cost };
        let mut is_unsure = behind_all || is_uneven(charge.cost);
        for Waiter { ticket, cost, .. } in key.waiting.iter().take_while(|other| other.rank < rank)
        {
            let Some(known) = self.tickets.get(ticket) else { continue };
            let here = known.keys.iter().find(|awaited| awaited.key == charge.id());
            is_unsure |= is_uneven(*cost) || here.is_some_and(|here| known.latest > here.due);
            ahead.tickets.push((known.latest.max(now.monotonic_nanos()), *cost));
            ahead.units = ahead.units.saturating_add(*cost);
        }
        if !is_unsure || ahead.units <= charge.algorithm.capacity(&charge.quota) {
            return 0;
        }
        ahead.tickets.sort_unstable();
        match charge.algorithm {
            Algorithm::TokenBucket => ahead.fit_in_bucket(charge, wait, now),
            Algorithm::FixedWindow | Algorithm::SlidingWindow => ahead.fit_in_window(charge, now),
            Algorithm::InFlight => 0,
        }
    }
}

impl Ahead {
    /// When the charge fits beside the tickets whose units have not come back by then. This is after the
    /// units that are used now have come back, as the tickets' come back later.
    fn fit_in_window(&self, charge: &Charge, now: Now) -> u64 {
        let Charge { algorithm, quota, .. } = charge;
        let (mut units, mut back) = (self.units, 0);
        let mut last: Option<u64> = None;
        for (latest, cost) in &self.tickets {
            let is_delayed = *algorithm == Algorithm::SlidingWindow
                && last.is_some_and(|last| is_same_step(last, *latest, quota.window_nanos()));
            if units <= quota.units() && !is_delayed {
                break;
            }
            back = algorithm.comes_back(quota, *latest, now);
            units = units.saturating_sub(*cost);
            last = Some(*latest);
        }
        back
    }

    /// When the bucket, which is full at times while tickets wait for other keys, has units for the charge
    /// and for the tickets that still wait then.
    fn fit_in_bucket(&self, charge: &Charge, wait: u64, now: Now) -> u64 {
        // Units are counted by the nanoseconds in which they come back.
        let nanos = |units| charge.algorithm.longest_wait(&charge.quota, units);
        let full = nanos(charge.algorithm.capacity(&charge.quota));
        let due = nanos(charge.ahead.saturating_add(charge.cost));
        let (mut level, mut since) = (due.saturating_sub(wait), now.monotonic_nanos());
        let mut units = self.units;
        for (latest, cost) in &self.tickets {
            let fits_at = since.saturating_add(nanos(units).saturating_sub(level));
            if nanos(units) <= full && fits_at <= *latest {
                return fits_at;
            }
            level = level.saturating_add(latest.saturating_sub(since)).min(full);
            level = level.saturating_sub(nanos(*cost));
            units = units.saturating_sub(*cost);
            since = *latest;
        }
        since.saturating_add(nanos(units).saturating_sub(level))
    }
}
