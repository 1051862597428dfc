//! The system's clocks, to which the processor's counter is held: [`Reference`].

use std::time::{Instant, SystemTime};

use super::now::{nanos, since_epoch};

#[derive(Debug)]
pub(super) enum Reference {
    System {
        origin: Instant,
    },
    #[cfg(test)]
    Mock(&'static Mock),
}

/// Clocks that a test sets, in nanoseconds.
#[cfg(test)]
#[derive(Debug, Default)]
pub(super) struct Mock {
    pub(super) monotonic: std::sync::atomic::AtomicU64,
    pub(super) wall: std::sync::atomic::AtomicU64,
}

impl Reference {
    /// The monotonic clock, in nanoseconds since the origin.
    pub(super) fn monotonic(&self) -> u64 {
        match self {
            Self::System { origin } => nanos(origin.elapsed()),
            #[cfg(test)]
            Self::Mock(mock) => mock.monotonic.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    fn wall(&self) -> u64 {
        match self {
            Self::System { .. } => since_epoch(SystemTime::now()),
            #[cfg(test)]
            Self::Mock(mock) => mock.wall.load(std::sync::atomic::Ordering::Relaxed),
        }
    }

    /// The wall clock minus the monotonic one, in nanoseconds; never too large. Of a few readings, the
    /// one with the least time between the two clocks counts.
    pub(super) fn wall_offset(&self) -> u64 {
        let mut best = (u64::MAX, 0);
        for _ in 0..5 {
            let (before, wall, after) = (self.monotonic(), self.wall(), self.monotonic());
            best = best.min((after.saturating_sub(before), wall.saturating_sub(after)));
            if best.0 < 1_000 {
                break;
            }
        }
        best.1
    }
}
