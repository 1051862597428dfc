//! The wall clock minus the monotonic one, measured once a second: [`WallOffset`].

use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use super::reference::Reference;

/// How long a measurement holds, in nanoseconds. It is slightly less than a second, because
/// the offset is checked only when the counter is set forward.
const INTERVAL: u64 = 990_000_000;

/// All times are nanoseconds.
#[derive(Debug)]
pub(super) struct WallOffset {
    offset: AtomicU64,
    /// The monotonic time from which the offset is measured again.
    due: AtomicU64,
    /// Whether a thread measures now.
    pub(super) is_measuring: AtomicBool,
}

impl WallOffset {
    pub(super) fn new(reference: &Reference) -> Self {
        Self {
            offset: AtomicU64::new(reference.wall_offset()),
            due: AtomicU64::new(INTERVAL),
            is_measuring: AtomicBool::new(false),
        }
    }

    #[inline]
    pub(super) fn get(&self) -> u64 {
        self.offset.load(Relaxed)
    }

    /// Measures the offset if it is due. Only one thread measures at a time, so that none overwrites a
    /// later measurement with its own.
    pub(super) fn refresh(&self, reference: &Reference, monotonic: u64) {
        if monotonic < self.due.load(Relaxed) || self.is_measuring.swap(true, Acquire) {
            return;
        }
        self.offset.store(reference.wall_offset(), Relaxed);
        self.due.store(monotonic.saturating_add(INTERVAL), Relaxed);
        self.is_measuring.store(false, Release);
    }
}
