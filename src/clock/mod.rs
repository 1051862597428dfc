//! The only place where the time is read: [`Clock`] makes a [`Now`], which is passed on.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod counter;
mod now;
mod reference;
mod wall;

use std::{sync::LazyLock, time::SystemTime};

use tokio::time::Instant;

pub use self::now::Now;
pub(crate) use self::now::{NANOS_PER_SECOND, nanos};
use self::{counter::Counter, now::since_epoch};

/// Where a limiter reads the time.
///
/// [`Clock::system`] is the default. [`Clock::tokio`] is for tests: it follows tokio's clock, so
/// `tokio::time::pause` and `advance` move every window.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use tower_quota::Clock;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let clock = Clock::tokio(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
/// tokio::time::advance(Duration::from_secs(60)).await;
/// assert_eq!(clock.now().unix(), Duration::from_secs(1_705_399_260));
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System(&'static Counter),
    Tokio {
        origin: Instant,
        /// The wall clock's time at the origin, in nanoseconds.
        unix: u64,
    },
}

impl Clock {
    /// The system's clocks. If the processor's counter is steady, the time is computed from the
    /// counter, which is twice as fast.
    ///
    /// The monotonic time is at most 5 microseconds behind the system's. The wall clock is read
    /// once a second. So if someone sets the wall clock, fixed windows move up to a second later.
    /// Nothing else moves. The first call in a process takes a few milliseconds, to calibrate the
    /// counter.
    ///
    /// This clock goes on while tokio's is paused; [`Clock::tokio`] does not.
    #[must_use]
    pub fn system() -> Self {
        // One origin for all clocks: two limiters may share a store, and there compare their times.
        static SYSTEM: LazyLock<Counter> = LazyLock::new(Counter::new);
        Self(Source::System(&SYSTEM))
    }

    /// Tokio's clock, for tests with `tokio::time::pause`. It begins with the wall clock at `start`
    /// and the monotonic time at zero.
    #[must_use]
    pub fn tokio(start: SystemTime) -> Self {
        Self(Source::Tokio { origin: Instant::now(), unix: since_epoch(start) })
    }

    /// The time now.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Now {
        match &self.0 {
            Source::System(counter) => counter.now(),
            Source::Tokio { origin, unix } => {
                let monotonic = nanos(origin.elapsed());
                Now { monotonic, unix: unix.saturating_add(monotonic) }
            }
        }
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn the_system_clock_reads_both_clocks() {
        let clock = Clock::system();
        let real = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // The clock is some microseconds behind; more where this thread is often interrupted.
        let before = real() - Duration::from_millis(500);
        let now = clock.now();
        assert!(before <= now.unix() && now.unix() <= real());
        assert!(clock.now().monotonic() >= now.monotonic());
    }

    #[test]
    fn all_system_clocks_have_the_same_time() {
        let first = Clock::system();
        while first.now().monotonic() < Duration::from_millis(1) {}
        let before = first.now().monotonic();
        let later = Clock::system().now().monotonic();
        assert!(before <= later && later <= first.now().monotonic());
    }

    #[test]
    fn a_time_before_1970_is_zero() {
        let clock = Clock::tokio(UNIX_EPOCH - Duration::from_secs(1));
        assert!(clock.now().unix() < Duration::from_secs(60));
    }
}
