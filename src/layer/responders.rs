//! The copies of a layer's responder, one for each thread: [`Responders`].

use std::{
    fmt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use super::responder::Responder;

/// The [`Responder`] of a layer, in as many copies as threads need. Each request changes a reference count
/// twice or more: with one count for all, threads would wait for its cache line.
#[derive(Clone)]
pub(super) enum Responders {
    /// All copies, in a layer and in the services that it makes. A thread takes the copy of its number; more
    /// threads than copies share some.
    OfLayer(Arc<[Arc<Responder>]>),
    /// One copy, in a clone of a service: frameworks clone it for each request, or for each connection.
    OfThread(Arc<Responder>),
}

/// The number of copies: a power of two, and at least twice the number of processors, so that few threads share one.
static COPIES: LazyLock<usize> = LazyLock::new(|| {
    let processors = thread::available_parallelism().map_or(8, usize::from);
    processors.next_power_of_two().saturating_mul(2)
});

thread_local! {
    /// The number of this thread.
    static THREAD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed)
    };
}

impl Responders {
    pub(super) fn new(responder: Arc<Responder>) -> Self {
        let copies = (1..*COPIES).map(|_| responder.copy());
        Self::OfLayer([Arc::clone(&responder)].into_iter().chain(copies).collect())
    }

    /// The copy of this thread; of a cloned service, the copy of the thread that cloned it.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "one less than a power of two is a mask")]
    pub(super) fn of_thread(&self) -> &Arc<Responder> {
        match self {
            Self::OfLayer(all) => &all[THREAD.with(|thread| thread & all.len().wrapping_sub(1))],
            Self::OfThread(responder) => responder,
        }
    }

    /// Only that copy, for a clone of the service.
    #[inline]
    pub(super) fn for_request(&self) -> Self {
        Self::OfThread(Arc::clone(self.of_thread()))
    }
}

impl fmt::Debug for Responders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.of_thread().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limiter::Limiter;

    fn responders() -> Responders {
        Responders::new(Arc::new(Responder::new(Limiter::builder().build().unwrap())))
    }

    /// The address of the count that a request of a new thread changes.
    fn count_of_new_thread(responders: &Responders) -> usize {
        let count = || Arc::as_ptr(responders.for_request().of_thread()).addr();
        thread::scope(|scope| {
            let counts = scope.spawn(|| [count(), count()]).join().unwrap();
            assert_eq!(counts[0], counts[1]);
            counts[0]
        })
    }

    #[test]
    fn threads_count_in_lines_of_their_own() {
        let responders = responders();
        // Threads of other tests come between these, so that some find the same one.
        let mut counts: Vec<_> = (0..64).map(|_| count_of_new_thread(&responders)).collect();
        counts.sort_unstable();
        counts.dedup();
        assert!(counts.len() > 1);
        assert!(counts.windows(2).all(|pair| pair[1] - pair[0] >= 128), "{counts:?}");
    }

    #[test]
    fn a_service_that_was_cloned_keeps_its_count() {
        let responders = responders().for_request();
        let count = Arc::as_ptr(responders.of_thread()).addr();
        assert_eq!(count_of_new_thread(&responders), count);
    }

    #[test]
    fn the_limiter_checks_the_settings_until_the_last_request_has_ended() {
        for number in 0..*COPIES {
            let responder = Arc::new(Responder::new(Limiter::builder().build().unwrap()));
            let registered = Arc::downgrade(&responder);
            let Responders::OfLayer(all) = Responders::new(responder) else { unreachable!() };
            let request = Responders::OfThread(Arc::clone(&all[number]));
            drop(all);
            assert!(registered.upgrade().is_some());
            drop(request);
            assert!(registered.upgrade().is_none());
        }
    }
}
