//! The one place where time enters: [`Clock`] makes a [`Now`], which is handed down.

use std::{
    sync::{
        LazyLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::time::Instant;

use crate::quota::NANOS_PER_SECOND;

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
#[derive(Debug)]
pub struct Clock {
    monotonic: Monotonic,
    /// The wall clock minus the monotonic one, in nanoseconds.
    offset: AtomicU64,
    /// The monotonic time from which `offset` is to be measured again; `u64::MAX`: never.
    measure_at: AtomicU64,
}

/// Time since a moment in the past.
#[derive(Clone, Debug)]
enum Monotonic {
    /// The processor's counter, where it is steady: it is read in half the time.
    System {
        clock: quanta::Clock,
        origin: u64,
    },
    Tokio {
        origin: Instant,
    },
}

impl Monotonic {
    /// All have one origin: times of one limiter are comparable with those of another, which may
    /// have the same store.
    fn system() -> Self {
        static SYSTEM: LazyLock<Monotonic> = LazyLock::new(|| Monotonic::of(quanta::Clock::new()));
        SYSTEM.clone()
    }

    fn of(clock: quanta::Clock) -> Self {
        let origin = clock.raw();
        Self::System { clock, origin }
    }

    fn nanos(&self) -> u64 {
        match self {
            Self::System { clock, origin } => clock.delta_as_nanos(*origin, clock.raw()),
            Self::Tokio { origin } => nanos(origin.elapsed()),
        }
    }
}

impl Clock {
    /// The monotonic clock, with the wall clock read again each second: a step of the wall clock
    /// moves the fixed windows within a second, and nothing else. The first of a process takes a
    /// few milliseconds, in which the processor's counter is calibrated.
    ///
    /// It does not follow a paused clock of tokio; [`starting_at`](Self::starting_at) does.
    #[must_use]
    pub fn system() -> Self {
        Self::measuring(Monotonic::system())
    }

    fn measuring(monotonic: Monotonic) -> Self {
        Self { monotonic, offset: AtomicU64::new(0), measure_at: AtomicU64::new(0) }
    }

    /// A clock that reads `start` now and follows tokio's clock from here on.
    #[must_use]
    pub fn starting_at(start: SystemTime) -> Self {
        Self {
            monotonic: Monotonic::Tokio { origin: Instant::now() },
            offset: AtomicU64::new(since_epoch(start)),
            measure_at: AtomicU64::new(u64::MAX),
        }
    }

    /// The time.
    #[must_use]
    #[inline]
    pub fn now(&self) -> Now {
        let monotonic = self.monotonic.nanos();
        if monotonic >= self.measure_at.load(Relaxed) {
            // Two threads may both measure: they find the same.
            self.offset.store(since_epoch(SystemTime::now()).saturating_sub(monotonic), Relaxed);
            self.measure_at.store(monotonic + NANOS_PER_SECOND, Relaxed);
        }
        Now { monotonic, unix: self.offset.load(Relaxed).saturating_add(monotonic) }
    }
}

/// A clone tells the same time: handlers may share the limiter's.
impl Clone for Clock {
    fn clone(&self) -> Self {
        let Self { monotonic, offset, measure_at } = self;
        let copy = |value: &AtomicU64| AtomicU64::new(value.load(Relaxed));
        Self { monotonic: monotonic.clone(), offset: copy(offset), measure_at: copy(measure_at) }
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
        let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let now = clock.now();
        let after = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(before <= now.unix() && now.unix() <= after);
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
    fn the_wall_clock_is_read_again_after_a_second() {
        let (counter, mock) = quanta::Clock::mock();
        let clock = Clock::measuring(Monotonic::of(counter));
        let first = clock.now();
        // The wall clock stays where it is while the other jumps: to us it steps back an hour.
        mock.increment(Duration::from_secs(3_600));
        let later = clock.now();
        assert_eq!(later.monotonic() - first.monotonic(), Duration::from_secs(3_600));
        assert!(later.unix() - first.unix() < Duration::from_secs(60));
    }

    #[test]
    fn a_time_before_1970_is_no_panic() {
        let clock = Clock::starting_at(UNIX_EPOCH - Duration::from_secs(1));
        assert!(clock.now().unix() < Duration::from_secs(60));
    }
}
