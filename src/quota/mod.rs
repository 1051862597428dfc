//! Units per window, and the burst: [`Quota`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod by_calendar;

use std::{fmt, time::Duration};

#[cfg(feature = "calendar")]
use crate::calendar::Calendar;
use crate::clock::NANOS_PER_SECOND;

/// The most units of a quota: the largest integer in a structured header field (RFC 9651, section
/// 3.3.1).
pub(crate) const MAX_UNITS: u64 = 999_999_999_999_999;

/// The longest window, in nanoseconds: a hundred years.
pub(crate) const MAX_WINDOW: u64 = 100 * 365 * 86_400 * NANOS_PER_SECOND;

/// In `units`: [`Quota::unlimited`].
const UNLIMITED: u64 = u64::MAX;

/// In `burst`: there is none.
const NO_BURST: u64 = u64::MAX;

/// The units that a key may use in each window, and the burst that it may use at once.
///
/// A request costs one unit, unless the policy has a [`cost`](crate::Policy::cost).
///
/// ```
/// use std::time::Duration;
/// use tower_quota::Quota;
///
/// let reads = Quota::per_minute(1_000);
/// let sign_ups = Quota::per_window(5, Duration::from_secs(600));
/// let bursty = Quota::per_minute(60).burst(10);
/// assert_eq!(bursty.capacity(), 10);
/// assert_eq!(sign_ups.window(), Duration::from_secs(600));
/// assert!(Quota::unlimited().is_unlimited());
/// # let _ = reads;
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Quota {
    // Only three words, as each decision holds several quotas.
    units: u64,
    /// The nanoseconds in which one unit comes back, and the bit [`WHOLE`], if that is a whole number.
    /// It is for most quotas, and saves token buckets a division. Otherwise the nanoseconds of the
    /// window; or a calendar, and the bit [`CALENDAR`].
    time: u64,
    burst: u64,
}

/// In `time`: the rest is the time of a unit. No window is long enough to set this bit.
const WHOLE: u64 = 1 << 63;

/// In `time`, alone: the units are in flight, and have no window. A window of 0 that is a mistake has
/// [`WHOLE`] as well.
const IN_FLIGHT: u64 = 0;

/// In `time`, without [`WHOLE`]: the rest is a calendar. No window is long enough to set this bit.
const CALENDAR: u64 = 1 << 62;

impl Quota {
    /// `units` in each second.
    #[must_use]
    pub const fn per_second(units: u64) -> Self {
        Self::per_nanos(units, NANOS_PER_SECOND)
    }

    /// `units` in each minute.
    #[must_use]
    pub const fn per_minute(units: u64) -> Self {
        Self::per_nanos(units, 60 * NANOS_PER_SECOND)
    }

    /// `units` in each hour.
    #[must_use]
    pub const fn per_hour(units: u64) -> Self {
        Self::per_nanos(units, 3_600 * NANOS_PER_SECOND)
    }

    /// `units` in each day of 24 hours. A fixed window begins at midnight UTC.
    #[must_use]
    pub const fn per_day(units: u64) -> Self {
        Self::per_nanos(units, 86_400 * NANOS_PER_SECOND)
    }

    /// `units` in each `window`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "what does not fit was cut")]
    pub const fn per_window(units: u64, window: Duration) -> Self {
        let nanos = window.as_nanos();
        Self::per_nanos(units, if nanos > u64::MAX as u128 { u64::MAX } else { nanos as u64 })
    }

    /// `units` at once, for [`Policy::in_flight`](crate::Policy::in_flight) and its plans. They have no
    /// window: each comes back when its request has ended.
    #[must_use]
    pub const fn in_flight(units: u64) -> Self {
        Self { time: IN_FLIGHT, ..Self::per_nanos(units, 0) }
    }

    /// No limit: requests pass and are not counted, and headers do not show the policy. A key that is blocked
    /// by a [penalty](crate::Penalty) stays blocked.
    #[must_use]
    pub const fn unlimited() -> Self {
        Self { units: UNLIMITED, time: CALENDAR - 1, burst: NO_BURST }
    }

    /// The same window with 0 units, which refuses every request.
    pub(crate) const fn nothing(self) -> Self {
        Self { burst: NO_BURST, ..self.with_units(0) }
    }

    /// The same window and burst with another number of units.
    ///
    /// ```
    /// use tower_quota::Quota;
    ///
    /// assert_eq!(Quota::per_minute(100).with_units(500), Quota::per_minute(500));
    /// ```
    #[must_use]
    pub const fn with_units(self, units: u64) -> Self {
        let mut quota = Self::per_nanos(units, self.window_nanos());
        if self.is_by_calendar() || self.is_in_flight() {
            quota.time = self.time;
        }
        quota.burst = self.burst;
        quota
    }

    #[expect(clippy::arithmetic_side_effects, reason = "the units that divide a window are not 0")]
    const fn per_nanos(units: u64, window: u64) -> Self {
        // A quota that was computed wrong must not become unlimited, nor set the bits `WHOLE` and
        // `CALENDAR`. What is too large here is still too large for `build()`, which refuses it.
        let units = if units == UNLIMITED { UNLIMITED - 1 } else { units };
        let window = if window < CALENDAR { window } else { CALENDAR - 1 };
        let time = match window.checked_rem(units) {
            Some(0) => (window / units) | WHOLE,
            _ => window,
        };
        Self { units, time, burst: NO_BURST }
    }

    /// The units of a full token bucket, which may be used at once. Default: the units of one window.
    /// Only a token bucket has a burst; `build()` fails for other policies.
    #[must_use]
    pub const fn burst(mut self, units: u64) -> Self {
        self.burst = if units == NO_BURST { NO_BURST - 1 } else { units };
        self
    }

    /// The share of one of several replicas: at least 1 unit, unless the quota has 0.
    #[inline]
    #[expect(clippy::arithmetic_side_effects, reason = "the replicas are not 0")]
    pub(crate) fn share(&self, replicas: u32) -> Self {
        if replicas <= 1 || self.is_unlimited() {
            return *self;
        }
        let share = |units: u64| (units / u64::from(replicas)).max(units.min(1));
        let burst = self.own_burst().map_or(NO_BURST, share);
        Self { burst, ..self.with_units(share(self.units)) }
    }
}

impl Quota {
    /// Units per window.
    #[must_use]
    pub const fn units(&self) -> u64 {
        self.units
    }

    /// The length of the window; zero for units [in flight](Self::in_flight). Of a quota by the
    /// calendar, it is that of the longest one, with days of 24 hours: 366 days for a year, and 31 for
    /// a month. Where clocks are set back, a window is longer by that.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_nanos(self.window_nanos())
    }

    /// The most that can be used at once: the burst, or else the units of one window.
    #[must_use]
    pub const fn capacity(&self) -> u64 {
        if self.has_burst() { self.burst } else { self.units }
    }

    /// Whether this is [`Quota::unlimited`].
    #[must_use]
    pub const fn is_unlimited(&self) -> bool {
        self.units == UNLIMITED
    }

    /// Whether its units are [in flight](Self::in_flight), and have no window.
    #[must_use]
    pub const fn is_in_flight(&self) -> bool {
        self.time == IN_FLIGHT
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "it is the window that was divided by these units"
    )]
    pub(crate) const fn window_nanos(&self) -> u64 {
        if self.is_whole() {
            return self.parts_per_unit() * self.units;
        }
        #[cfg(feature = "calendar")]
        if self.is_by_calendar() {
            return self.calendar_bits().longest();
        }
        self.time
    }

    const fn is_whole(&self) -> bool {
        self.time & WHOLE != 0
    }

    /// Whether its windows are those of a calendar.
    #[inline]
    pub(crate) const fn is_by_calendar(&self) -> bool {
        cfg!(feature = "calendar") && self.time & (WHOLE | CALENDAR) == CALENDAR
    }

    /// The nanoseconds of the longest window.
    pub(crate) const fn longest_window(&self) -> u64 {
        // No zone has ever set its clocks back by more than a day.
        let set_back = if self.is_by_calendar() { 86_400 * NANOS_PER_SECOND } else { 0 };
        self.window_nanos().saturating_add(set_back)
    }

    /// When the fixed window of this time began, in nanoseconds since 1970.
    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a remainder is no more than what was divided, and the divisor is not 0"
    )]
    pub(crate) fn window_start(&self, at: u64) -> u64 {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar() {
            return calendar.window(at).start;
        }
        at - at % self.window_nanos().max(1)
    }

    /// When so many fixed windows end: the one that begins at `start`, and those that follow it.
    #[inline]
    pub(crate) fn windows_end(&self, start: u64, windows: u64) -> u64 {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar() {
            return calendar.end_of(start, windows);
        }
        start.saturating_add(windows.saturating_mul(self.window_nanos()))
    }

    /// A number that differs between quotas of equal units and windows, if their calendars differ.
    pub(crate) const fn time_bits(&self) -> u64 {
        self.time
    }

    /// A token bucket divides each unit into so many parts, and [`parts_per_nano`](Self::parts_per_nano)
    /// of them come back in a nanosecond. Both are whole numbers, so it never rounds.
    pub(crate) const fn parts_per_unit(&self) -> u64 {
        self.time & !WHOLE
    }

    pub(crate) const fn parts_per_nano(&self) -> u64 {
        if self.is_whole() { 1 } else { self.units }
    }

    /// The nanoseconds in which an empty token bucket fills, rounded up; `None` if it never does.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "128 bits hold the product of two 64, and the units are not 0"
    )]
    pub(crate) const fn time_to_fill(&self) -> Option<u128> {
        if self.units == 0 {
            return None;
        }
        let unit_times = self.window_nanos() as u128 * self.capacity() as u128;
        Some(unit_times.div_ceil(self.units as u128))
    }

    pub(crate) const fn has_burst(&self) -> bool {
        self.burst != NO_BURST
    }

    fn own_burst(&self) -> Option<u64> {
        self.has_burst().then_some(self.burst)
    }

    /// What is wrong with this quota, and what to write instead.
    pub(crate) fn problem(&self) -> Option<String> {
        if self.is_unlimited() {
            let problem = "an unlimited quota has no burst; leave `burst` out, or write the units";
            return self.has_burst().then(|| problem.to_owned());
        }
        if self.units == 0 {
            return Some("a quota of 0 units refuses every request; write at least 1".into());
        }
        #[cfg(feature = "calendar")]
        if let Some(problem) = self.calendar().and_then(Calendar::problem) {
            return Some(problem);
        }
        if self.window_nanos() == 0 && !self.is_in_flight() {
            return Some("a window of 0 has no end; write its length, as in `Quota::per_window(5, Duration::from_secs(600))`".into());
        }
        if self.units > MAX_UNITS {
            return Some(format!(
                "{} units are more than a header can carry; write at most {MAX_UNITS}, or `Quota::unlimited()`",
                self.units
            ));
        }
        if self.window_nanos() > MAX_WINDOW {
            return Some("the window is longer than a hundred years; write a shorter one".into());
        }
        match self.own_burst() {
            Some(0) => Some("a burst of 0 refuses every request; write at least 1".into()),
            Some(burst) if burst > MAX_UNITS => Some(format!(
                "the burst is more than a header can carry; write at most {MAX_UNITS}"
            )),
            _ => None,
        }
    }

    /// Writes it as text. Refusals have this text, and format strings would take several times as long.
    pub(crate) fn write(&self, to: &mut impl fmt::Write) -> fmt::Result {
        if self.is_unlimited() {
            return to.write_str("unlimited");
        }
        let window = self.window();
        if self.is_in_flight() {
            to.write_str(itoa::Buffer::new().format(self.units))?;
            return to.write_str(" in flight");
        }
        to.write_str(itoa::Buffer::new().format(self.units))?;
        to.write_str(" per ")?;
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar() {
            return write!(to, "{calendar}");
        }
        if window.subsec_nanos() == 0 {
            to.write_str(itoa::Buffer::new().format(window.as_secs()))?;
            to.write_str("s")?;
        } else {
            write!(to, "{window:?}")?;
        }
        self.own_burst().map_or(Ok(()), |burst| write!(to, ", burst {burst}"))
    }
}

impl fmt::Debug for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_shown_as_they_are_written() {
        let per_window = |window| Quota::per_window(7, window);
        for (quota, shown) in [
            (Quota::per_day(u64::MAX - 1), "18446744073709551614 per 86400s"),
            (Quota::per_second(1).burst(5), "1 per 1s, burst 5"),
            (Quota::unlimited(), "unlimited"),
            (Quota::in_flight(4), "4 in flight"),
            (Quota::in_flight(4).with_units(9), "9 in flight"),
            (per_window(Duration::from_nanos(1)), "7 per 1ns"),
            (per_window(Duration::from_millis(1_500)), "7 per 1.5s"),
        ] {
            assert_eq!(format!("{quota:?}"), shown);
        }
    }
}
