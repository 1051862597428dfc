//! Times by the caller's monotonic clock, in nanoseconds: [`RoundTrip`] and [`ClockAnchor`].

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::clock::{Now, nanos};

pub(super) fn later(now: Now, by: Duration) -> Now {
    Now::new(now.monotonic().saturating_add(by), now.unix().saturating_add(by))
}

/// When a command was sent and its reply received. The server decided in between.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundTrip {
    pub(super) sent: u64,
    pub(super) received: u64,
}

/// Tells background tasks the caller's time: the last that a caller said, and what has passed since by
/// tokio's clock.
#[derive(Debug)]
pub(super) struct ClockAnchor(Mutex<(u64, Instant)>);

impl ClockAnchor {
    pub(super) fn new() -> Self {
        Self(Mutex::new((0, Instant::now())))
    }

    pub(super) fn set(&self, now: u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (now, Instant::now());
    }

    pub(super) fn now(&self) -> u64 {
        let (at, instant) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        at.saturating_add(nanos(instant.elapsed()))
    }
}
