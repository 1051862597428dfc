//! The only place where the time is read: [`Clock`] makes a [`Now`], which is passed on.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod counter;
#[cfg(feature = "testing")]
mod manual;
mod now;
mod reference;
mod timer;
mod wall;

#[cfg(feature = "testing")]
use std::{sync::Arc, task::Waker, time::Duration};
use std::{sync::LazyLock, time::SystemTime};

use tokio::time::Instant;

#[cfg(feature = "testing")]
use self::manual::{ManualSleep, ManualTime};
pub use self::now::Now;
pub(crate) use self::now::{NANOS_PER_SECOND, nanos};
pub(crate) use self::timer::Timer;
use self::{counter::Counter, now::since_epoch};

/// Where a limiter reads the time.
///
/// [`Clock::system`] is the default. The others are for tests. `Clock::manual`, with the feature `testing`,
/// is moved by hand. [`Clock::tokio`] follows tokio's clock, so `tokio::time::pause` and `advance` move every
/// window.
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
    #[cfg(feature = "testing")]
    Manual(Arc<ManualTime>),
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
            #[cfg(feature = "testing")]
            Source::Manual(time) => time.now(),
        }
    }

    /// The time now, from which the deadlines of timers are computed.
    pub(crate) fn instant(&self) -> Instant {
        match &self.0 {
            #[cfg(feature = "testing")]
            Source::Manual(time) => time.instant(),
            _ => Instant::now(),
        }
    }

    /// A timer on this clock. The system's clock and tokio's need a tokio runtime that has timers; `None`
    /// without one.
    pub(crate) fn timer(&self, deadline: Instant) -> Option<Timer> {
        match &self.0 {
            #[cfg(feature = "testing")]
            Source::Manual(time) => {
                Some(Timer::Manual(ManualSleep::new(Arc::clone(time), deadline)))
            }
            _ => Timer::tokio(deadline),
        }
    }

    /// Whether there may be [timers](Self::timer) here: only making one shows whether the runtime has any.
    #[cfg(feature = "describe")]
    pub(crate) fn may_have_timers(&self) -> bool {
        match &self.0 {
            #[cfg(feature = "testing")]
            Source::Manual(_) => true,
            _ => tokio::runtime::Handle::try_current().is_ok(),
        }
    }
}

/// Clocks that are moved by hand.
#[cfg(feature = "testing")]
impl Clock {
    /// A clock for tests that stands still until [`advance`](Self::advance) moves it. It begins on Monday,
    /// 2024-01-01T00:00:00Z, where windows of a minute, an hour, a day and a week begin. See
    /// [`testing`](crate::testing).
    ///
    /// Clones have the same time. Held requests wait for this time too, and need no tokio runtime.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_quota::{Clock, Limiter, Policy, Quota};
    ///
    /// let clock = Clock::manual();
    /// let mails = Policy::sliding_window("mails", Quota::per_hour(1));
    /// let limiter = Limiter::builder().clock(clock.clone()).check_only(mails).build()?;
    /// assert!(limiter.check("mails", "ana").at_once()?.is_allowed());
    /// clock.advance(Duration::from_secs(3_599));
    /// assert!(!limiter.check("mails", "ana").at_once()?.is_allowed());
    /// clock.advance(Duration::from_secs(1));
    /// assert!(limiter.check("mails", "ana").at_once()?.is_allowed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn manual() -> Self {
        Self(Source::Manual(ManualTime::new(1_704_067_200 * NANOS_PER_SECOND)))
    }

    /// A clock like [`manual`](Self::manual) that begins at this time of the wall clock.
    #[must_use]
    pub fn manual_at(start: SystemTime) -> Self {
        Self(Source::Manual(ManualTime::new(since_epoch(start))))
    }

    /// Moves a clock from [`manual`](Self::manual) in one step, and wakes the held requests that are due then.
    /// Requests that are due one after another need a step each;
    /// [`TestClient::advance`](crate::testing::TestClient::advance) makes these steps. Tokio's time does not move.
    ///
    /// # Panics
    /// If the clock is the system's or tokio's.
    #[track_caller]
    #[expect(clippy::panic, reason = "a test that moves another clock tests nothing")]
    pub fn advance(&self, by: Duration) {
        match &self.0 {
            Source::Manual(time) => time.advance(by),
            Source::System(_) => panic!(
                "this clock is the system's, and no test can move it; build the limiter with \
                 `.clock(Clock::manual())`"
            ),
            Source::Tokio { .. } => panic!(
                "this clock is tokio's; move it with `tokio::time::advance`, or build the limiter with \
                 `.clock(Clock::manual())`"
            ),
        }
    }

    /// How many timers wait for a later time, to wake `waker`.
    pub(crate) fn sleeping(&self, waker: &Waker) -> usize {
        match &self.0 {
            Source::Manual(time) => time.sleeping(waker),
            _ => 0,
        }
    }

    /// How long until the next timer is due; `None` if none waits.
    pub(crate) fn next_deadline(&self) -> Option<Duration> {
        match &self.0 {
            Source::Manual(time) => time.next_deadline(),
            _ => None,
        }
    }

    /// Whether `other` is a clone of this clock.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::Manual(one), Source::Manual(other)) => Arc::ptr_eq(one, other),
            (Source::System(_), Source::System(_)) => true,
            (Source::Tokio { origin: one, .. }, Source::Tokio { origin: other, .. }) => {
                one == other
            }
            _ => false,
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
