//! Reading without a lock what is written under one: a sequence lock (Boehm, "Can seqlocks get
//! along with programming language memory models?", 2012).
//!
//! What it guards is kept in atomics, written and read relaxed. A writer may also take the lock on
//! condition that nothing was written since it read: then what it has worked out still holds.

use super::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// Odd while someone writes.
#[derive(Debug, Default)]
pub(crate) struct Version(AtomicU64);

/// What was read holds if the version is still this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen(u64);

/// The lock; dropping it makes what was written visible.
#[derive(Debug)]
#[must_use]
pub(crate) struct Writing<'a> {
    version: &'a AtomicU64,
    after: u64,
}

impl Version {
    /// Where reading begins; `None` while someone writes.
    #[inline]
    pub(crate) fn see(&self) -> Option<Seen> {
        let version = self.0.load(Acquire);
        version.is_multiple_of(2).then_some(Seen(version))
    }

    /// Whether nothing was written since.
    #[inline]
    pub(crate) fn still(&self, seen: Seen) -> bool {
        fence(Acquire);
        self.0.load(Relaxed) == seen.0
    }

    /// The lock, if nothing was written since.
    #[inline]
    pub(crate) fn write_if_still(&self, seen: Seen) -> Option<Writing<'_>> {
        // What was written before this version was acquired when it was seen.
        self.0.compare_exchange(seen.0, seen.0 + 1, Relaxed, Relaxed).ok()?;
        // No write is seen before the version is odd.
        fence(Release);
        Some(Writing { version: &self.0, after: seen.0 + 2 })
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.version.store(self.after, Release);
    }
}
