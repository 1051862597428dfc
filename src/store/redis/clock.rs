//! The caller's time at moments of tokio's clock: [`ClockAnchor`], and [`RoundTrip`] of one command.

use std::time::Duration;

use tokio::time::Instant;

use crate::clock::Now;

pub(super) fn later(now: Now, by: Duration) -> Now {
    Now::new(now.monotonic().saturating_add(by), now.unix().saturating_add(by))
}

/// When a command was sent and its reply received, in nanoseconds of the caller's monotonic clock. The
/// server decided in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// The caller's time at one moment. The time at a later moment follows by tokio's clock, since only the
/// caller knows the limiter's clock.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClockAnchor {
    now: Now,
    instant: Instant,
}

impl ClockAnchor {
    /// `now` is the time of this moment.
    pub(super) fn new(now: Now) -> Self {
        Self { now, instant: Instant::now() }
    }

    /// When it was made.
    pub(super) const fn instant(&self) -> Instant {
        self.instant
    }

    pub(super) fn at(&self, instant: Instant) -> Now {
        later(self.now, instant.saturating_duration_since(self.instant))
    }

    pub(super) fn now(&self) -> Now {
        self.at(Instant::now())
    }
}
