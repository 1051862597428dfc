//! Counts the first requests, which show mistakes that a single request does not: [`FirstRequests`].

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// Counts down the first 1,000 requests. After them, it costs one atomic load for each request.
#[derive(Debug)]
pub(crate) struct FirstRequests(AtomicU32);

impl FirstRequests {
    /// Only the first one: for a mistake that is reported once, though each request may show it.
    pub(crate) const fn one() -> Self {
        Self(AtomicU32::new(1))
    }

    /// The number of first requests.
    pub(crate) const MANY: u32 = 1_000;

    #[inline]
    pub(crate) fn are_over(&self) -> bool {
        self.0.load(Relaxed) == 0
    }

    /// Watches a request for a mistake that all of the first ones share. The last of them reports it,
    /// unless one was right.
    #[inline]
    pub(crate) fn watch(&self, is_right: bool, report: impl FnOnce()) {
        match (self.are_over(), is_right) {
            (false, true) => self.end(),
            (false, false) if self.count() => report(),
            _ => {}
        }
    }

    /// Counts a request. `true` if it is the last of the first ones.
    pub(crate) fn count(&self) -> bool {
        self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
    }

    /// Ends the count, when the mistake was reported or cannot happen any more.
    pub(crate) fn end(&self) {
        self.0.store(0, Relaxed);
    }
}

impl Default for FirstRequests {
    fn default() -> Self {
        Self(AtomicU32::new(Self::MANY))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_them_is_the_last() {
        let first = FirstRequests::default();
        let last = |counted: u32| (0..counted).filter(|_| first.count()).count();
        assert_eq!(last(FirstRequests::MANY - 1), 0);
        assert!(!first.are_over());
        assert_eq!(last(10), 1);
        assert!(first.are_over());
        let ended = FirstRequests::default();
        ended.end();
        assert!(ended.are_over() && !ended.count());
    }
}
