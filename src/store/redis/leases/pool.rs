//! The units of one key.

use std::{mem, time::Duration};

use tokio::sync::watch;

use super::{Filling, asking::Part, give_back, lifetime};
use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    store::{Charge, Correction, Usage},
};

pub(super) struct Pool {
    /// Whose it is, and under which quota.
    pub(super) charge: Charge,
    /// The units to spend.
    pub(super) left: u64,
    /// Those in the hands of requests that ask the server for more, or for other policies.
    pub(super) reserved: u64,
    /// Under which units are here. Of several, the one that ends first.
    pub(super) lease: Lease,
    /// What the server had left at last, and when that grows.
    pub(super) remaining: u64,
    pub(super) resets_at: u64,
    /// While a batch is on its way.
    pub(super) filling: Option<Filling>,
    /// Whether it will be looked at when its lease ends.
    pub(super) is_due: bool,
}

/// How long units may be spent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) expires_at: u64,
    /// When they were taken by the server's clock, and heard of by ours.
    pub(super) at: Now,
    heard: u64,
}

impl Lease {
    /// Of no units.
    pub(super) const NONE: Self = Self { expires_at: 0, at: Now::ZERO, heard: 0 };

    /// Of units that were asked for and heard of at these times: taken in between, so it never ends
    /// later than a lifetime after that, and never after the fixed window they were taken in.
    pub(super) fn new(charge: &Charge, usage: &Usage, at: Now, (asked, heard): (u64, u64)) -> Self {
        let lasts = match charge.algorithm {
            Algorithm::FixedWindow => lifetime(&charge.quota).min(nanos(usage.reset())),
            Algorithm::TokenBucket | Algorithm::SlidingWindow => lifetime(&charge.quota),
        };
        Self { expires_at: asked.saturating_add(lasts), at, heard }
    }

    pub(super) const fn has_expired(&self, now: u64) -> bool {
        self.expires_at <= now
    }

    /// The one that ends first.
    pub(super) fn and(self, other: Self) -> Self {
        if other.expires_at < self.expires_at { other } else { self }
    }

    /// What the server's clock says now, or a little earlier.
    pub(super) fn server_time(&self, now: u64) -> Now {
        let since = Duration::from_nanos(now.saturating_sub(self.heard));
        Now::new(self.at.monotonic() + since, self.at.unix() + since)
    }
}

impl Pool {
    pub(super) fn new(charge: &Charge) -> Self {
        Self {
            charge: *charge,
            left: 0,
            reserved: 0,
            lease: Lease::NONE,
            remaining: 0,
            resets_at: 0,
            filling: None,
            is_due: false,
        }
    }

    /// Whether there are units for a charge, and for those ahead of it.
    #[inline]
    pub(super) fn covers(&self, charge: &Charge, now: u64) -> bool {
        self.left >= charge.ahead.saturating_add(charge.cost)
            && !self.lease.has_expired(now)
            && self.charge.quota == charge.quota
    }

    /// What is told of a charge that was covered.
    #[inline]
    pub(super) fn usage(&self, now: u64) -> Usage {
        let remaining = self.remaining.saturating_add(self.left);
        // Once more is there, that is known when the server is asked again.
        let known_at = if self.resets_at > now { self.resets_at } else { self.lease.expires_at };
        Usage::from_nanos(0, remaining, known_at.saturating_sub(now))
    }

    /// Reserves what a charge costs, or else all that there is; with the batch that is to be asked
    /// for, unless one is on its way.
    pub(super) fn reserve(&mut self, charge: &Charge, now: u64) -> Part {
        let wanted = charge.ahead.saturating_add(charge.cost);
        let is_covered = self.covers(charge, now);
        let units = if is_covered { charge.cost } else { self.left };
        let room = u64::from(charge.lease).saturating_sub(self.reserved).saturating_sub(units);
        self.left -= units;
        self.reserved += units;
        let mut part = Part::of_pool(charge, units, self.lease);
        if is_covered {
            part.told = self.usage(now);
            return part;
        }
        let cost = charge.cost.saturating_sub(units);
        let batch = if room > cost && self.filling.is_none() { room } else { 0 };
        if batch > 0 {
            let (sender, filling) = watch::channel(());
            (self.filling, part.filling) = (Some(filling), Some(sender));
        }
        // A lease is 32 bits long, and a batch is no more.
        let lease = batch as u32;
        part.asks = Some(Charge { cost, ahead: wanted - units - cost, lease, ..*charge });
        part
    }

    /// Puts units in; these are too many.
    pub(super) fn put(&mut self, units: u64, lease: Lease) -> Option<Correction> {
        if units == 0 {
            return None;
        }
        self.lease = if self.left == 0 { lease } else { self.lease.and(lease) };
        let room = u64::from(self.charge.lease).saturating_sub(self.left + self.reserved);
        self.left += units.min(room);
        give_back(&self.charge, units.saturating_sub(room), lease.at)
    }

    /// Takes all units, to be given back.
    pub(super) fn empty(&mut self) -> Option<Correction> {
        give_back(&self.charge, mem::take(&mut self.left), self.lease.at)
    }

    /// Whether something would be missed if it was not there.
    pub(super) fn is_needed(&self) -> bool {
        self.left > 0 || self.reserved > 0 || self.is_due || self.filling.is_some()
    }

    /// What the server has said.
    pub(super) fn hear(&mut self, remaining: u64, usage: &Usage, heard: u64) {
        self.remaining = remaining;
        self.resets_at = heard.saturating_add(nanos(usage.reset()));
    }
}
