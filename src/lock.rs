//! Locks that a panic does not poison: [`Mutex`], and [`unpoisoned`] for other locks.
//!
//! std poisons a lock if a thread panics while it holds the lock, as the data may be half changed.
//! Here that is safe: no closure of a user runs in a critical section of this crate, and each
//! section leaves its data whole wherever it may panic: at most the thread's own change is lost. So
//! the next thread goes on, and one panic does not end the limiting of all later requests.

use std::sync::{LockResult, MutexGuard, PoisonError};

/// A [`std::sync::Mutex`] that a panic does not poison.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        unpoisoned(self.0.lock())
    }
}

/// What was locked, whether or not a thread has panicked while it held the lock.
#[inline]
pub(crate) fn unpoisoned<T>(locked: LockResult<T>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_whose_holder_has_panicked_can_be_locked_again() {
        let mutex = Mutex::new(1);
        let panics = || {
            let mut value = mutex.lock();
            *value = 2;
            panic!("the holder of the lock panics");
        };
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).unwrap_err();
        assert_eq!(*mutex.lock(), 2);
    }
}
