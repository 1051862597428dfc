//! The one place where time enters: [`Clock`] makes a [`Now`], which is handed down.

mod counter;

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use self::counter::Counter;

/// One reading of both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    monotonic: u64,
    unix: u64,
}

impl Now {
    pub(crate) const ZERO: Self = Self { monotonic: 0, unix: 0 };

    /// A reading: time since any fixed moment that never goes back, and time since 1970 UTC.
    /// Beyond 584 years, the largest representable time.
    #[must_use]
    pub fn new(monotonic: Duration, unix: Duration) -> Self {
        Self { monotonic: nanos(monotonic), unix: nanos(unix) }
    }

    /// Time since a fixed moment; unmoved by steps of the wall clock.
    #[must_use]
    pub const fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.monotonic)
    }

    /// Time since 1970 UTC, by the wall clock.
    #[must_use]
    pub const fn unix(&self) -> Duration {
        Duration::from_nanos(self.unix)
    }

    pub(crate) const fn monotonic_nanos(&self) -> u64 {
        self.monotonic
    }

    pub(crate) const fn unix_nanos(&self) -> u64 {
        self.unix
    }
}

/// Where a limiter reads the time.
///
/// [`Clock::system`] is the default. [`Clock::starting_at`] is for tests: it begins at the moment
/// given and goes on with tokio's clock, so that `tokio::time::pause` and `advance` move every
/// window.
///
/// ```
/// use std::time::{Duration, UNIX_EPOCH};
/// use tower_quota::Clock;
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let clock = Clock::starting_at(UNIX_EPOCH + Duration::from_secs(1_705_399_200));
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
        /// The wall clock's time then.
        unix: u64,
    },
}

impl Clock {
    /// The system's clocks, by the processor's counter where that is steady: it is read in half the
    /// time. The monotonic time is at most 5 microseconds behind the system's. The wall clock is
    /// read again within a second: a step of it moves the fixed windows by then, and nothing else.
    /// The first of a process takes a few milliseconds, in which the counter is calibrated.
    ///
    /// It does not follow a paused clock of tokio; [`starting_at`](Self::starting_at) does.
    #[must_use]
    pub fn system() -> Self {
        // All have one origin: times of one limiter are comparable with those of another, which may
        // have the same store.
        static SYSTEM: LazyLock<Counter> = LazyLock::new(Counter::of_processor);
        Self(Source::System(&SYSTEM))
    }

    /// A clock that reads `start` now and follows tokio's clock from here on.
    #[must_use]
    pub fn starting_at(start: SystemTime) -> Self {
        Self(Source::Tokio { origin: Instant::now(), unix: since_epoch(start) })
    }

    /// The time.
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

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Zero before 1970.
fn since_epoch(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_tells_both_times() {
        let clock = Clock::system();
        let real = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        // The clock is some microseconds behind; more where this thread is often interrupted.
        let before = real() - Duration::from_millis(500);
        let now = clock.now();
        assert!(before <= now.unix() && now.unix() <= real());
        assert!(clock.now().monotonic() >= now.monotonic());
    }

    #[test]
    fn system_clocks_tell_the_same_time() {
        let first = Clock::system();
        while first.now().monotonic() < Duration::from_millis(1) {}
        let before = first.now().monotonic();
        let later = Clock::system().now().monotonic();
        assert!(before <= later && later <= first.now().monotonic());
    }

    #[test]
    fn a_time_before_1970_is_no_panic() {
        let clock = Clock::starting_at(UNIX_EPOCH - Duration::from_secs(1));
        assert!(clock.now().unix() < Duration::from_secs(60));
    }
}
