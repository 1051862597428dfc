//! One reading of both clocks: [`Now`].

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub(crate) const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    pub(super) monotonic: u64,
    pub(super) unix: u64,
}

impl Now {
    pub(crate) const ZERO: Self = Self { monotonic: 0, unix: 0 };

    /// A reading of both clocks: `monotonic`, the time since some fixed moment, which never goes
    /// back; and `unix`, the time since 1970 UTC. Both are cut to 584 years.
    #[must_use]
    pub fn new(monotonic: Duration, unix: Duration) -> Self {
        Self { monotonic: nanos(monotonic), unix: nanos(unix) }
    }

    /// The time since a fixed moment. Setting the wall clock does not change it.
    #[must_use]
    pub const fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic)
    }

    /// The time since 1970 UTC, by the wall clock.
    #[must_use]
    pub const fn unix(&self) -> Duration {
        Duration::from_nanos(self.unix)
    }

    /// What both clocks said this much earlier, unless the wall clock was set since.
    pub(crate) fn earlier(self, by: Duration) -> Self {
        let by = nanos(by);
        Self { monotonic: self.monotonic.saturating_sub(by), unix: self.unix.saturating_sub(by) }
    }

    pub(crate) const fn monotonic_nanos(&self) -> u64 {
        self.monotonic
    }

    pub(crate) const fn unix_nanos(&self) -> u64 {
        self.unix
    }
}

/// At most 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970; zero before that.
pub(super) fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, nanos)
}
