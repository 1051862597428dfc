//! The wall clock minus the monotonic one, measured once a second: [`WallOffset`].

use std::sync::{
    Mutex, TryLockError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::reference::Reference;

/// All times are nanoseconds.
#[derive(Debug)]
pub(super) struct WallOffset {
    offset: AtomicU64,
    /// How long a measurement holds.
    interval: u64,
    /// The monotonic time from which the offset is measured again.
    due: AtomicU64,
    measuring: Mutex<()>,
}

impl WallOffset {
    pub(super) fn new(reference: &Reference, interval: u64) -> Self {
        Self {
            offset: AtomicU64::new(reference.wall_offset()),
            interval,
            due: AtomicU64::new(interval),
            measuring: Mutex::new(()),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.offset.load(Relaxed)
    }

    /// Measures the offset if it is due. Only one thread measures at a time, so that none overwrites a
    /// later measurement with its own.
    pub(super) fn refresh(&self, reference: &Reference, monotonic: u64) {
        if monotonic < self.due.load(Relaxed) {
            return;
        }
        let _measuring = match self.measuring.try_lock() {
            Err(TryLockError::WouldBlock) => return,
            Err(TryLockError::Poisoned(measuring)) => measuring.into_inner(),
            Ok(measuring) => measuring,
        };
        self.offset.store(reference.wall_offset(), Relaxed);
        self.due.store(monotonic.saturating_add(self.interval), Relaxed);
    }

    #[cfg(test)]
    pub(super) fn measuring(&self) -> &Mutex<()> {
        &self.measuring
    }
}
