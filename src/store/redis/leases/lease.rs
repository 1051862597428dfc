//! How long units may be spent: [`Lease`].

use std::time::Duration;

use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    quota::{NANOS_PER_SECOND, Quota},
    store::{
        Charge, Usage,
        redis::clock::{RoundTrip, later},
    },
};

/// How long units may be spent after a server has taken them: a second, or a tenth of a shorter
/// window.
pub(in crate::store::redis) fn lifetime(quota: &Quota) -> u64 {
    NANOS_PER_SECOND.min(quota.window_nanos() / 10)
}

/// When some units were taken, and when they expire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) expires_at: u64,
    /// When the server took them, by its clock.
    pub(super) taken_at: Now,
    /// When its reply came, by the caller's clock.
    received_at: u64,
}

impl Lease {
    /// The lease of no units.
    pub(super) const NONE: Self = Self { expires_at: 0, taken_at: Now::ZERO, received_at: 0 };

    /// The lease of units that a server took at `taken_at`. Its lifetime begins when the command was
    /// sent, and so never ends late. It never outlasts the fixed window in which they were taken.
    pub(super) fn new(charge: &Charge, usage: &Usage, taken_at: Now, times: RoundTrip) -> Self {
        let lasts = match charge.algorithm {
            Algorithm::FixedWindow => lifetime(&charge.quota).min(nanos(usage.reset())),
            Algorithm::TokenBucket | Algorithm::SlidingWindow => lifetime(&charge.quota),
        };
        let expires_at = times.sent.saturating_add(lasts);
        Self { expires_at, taken_at, received_at: times.received }
    }

    pub(super) const fn has_expired(&self, now: u64) -> bool {
        self.expires_at <= now
    }

    /// The one of two that expires first.
    pub(super) fn earlier(self, other: Self) -> Self {
        if other.expires_at < self.expires_at { other } else { self }
    }

    /// What the server's clock shows now, or a little less.
    pub(super) fn server_time(&self, now: u64) -> Now {
        later(self.taken_at, Duration::from_nanos(now.saturating_sub(self.received_at)))
    }
}
