//! Counts the first requests, which show mistakes that a single request does not: [`FirstRequests`].

use std::{
    cell::Cell,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

thread_local! {
    /// Whether what this thread reads now is a request, and not an explanation of one.
    static IS_COUNTING: Cell<bool> = const { Cell::new(true) };
}

pub(crate) fn is_counting() -> bool {
    IS_COUNTING.get()
}

/// Reads a request that is only to be explained: it does not count as one of the first, and gives no
/// warning.
#[cfg(feature = "describe")]
pub(crate) fn without_counting<T>(read: impl FnOnce() -> T) -> T {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_COUNTING.set(self.0);
        }
    }
    let _restore = Restore(IS_COUNTING.replace(false));
    read()
}

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
        is_counting() && self.0.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)) == Ok(1)
    }

    /// Ends the count, when the mistake was reported or cannot happen any more.
    pub(crate) fn end(&self) {
        if is_counting() {
            self.0.store(0, Relaxed);
        }
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

    #[cfg(feature = "describe")]
    #[test]
    fn what_is_explained_is_not_counted() {
        let first = FirstRequests::one();
        without_counting(|| {
            assert!(!first.count());
            first.end();
            without_counting(|| first.watch(false, || panic!("it is no request")));
            assert!(!is_counting());
        });
        std::panic::catch_unwind(|| without_counting(|| panic!("a closure of the user")))
            .unwrap_err();
        assert!(is_counting() && first.count());
    }
}
