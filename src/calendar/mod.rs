//! Windows by the calendar: months, weeks, days and years of a time zone. And hours of the week, in
//! which a policy has [another quota](crate::Policy::schedule).
//!
//! A [`Quota`](crate::Quota) may count by the calendar instead of in windows of one length:
//!
//! ```
//! use tower_quota::{Policy, Quota, calendar::Weekday, key};
//!
//! // Each month begins on the 15th, at midnight in Shanghai.
//! let billed = Quota::per_calendar_month(10_000).anchor(15).in_zone("Asia/Shanghai");
//! // Each week begins on Sunday, at midnight UTC.
//! let weekly = Quota::per_calendar_week(500).anchor(Weekday::Sunday);
//! let exports = Policy::fixed_window("exports", billed).key(key::bearer()).or_refuse();
//! # let _ = (weekly, exports);
//! ```
//!
//! Only a fixed window may have such a quota: `build()` fails for other policies, and for a time
//! zone that is not known.
//!
//! # Where a window begins
//! A window begins at the first moment at which clocks in its zone show its date and time, or a
//! later time. So if clocks are set forward over midnight, the day begins when they are. A day on
//! which clocks are set forward has 23 hours, and one on which they are set back has 25. A month
//! that has no 31st begins on its last day.
//!
//! # The time zones
//! They are those of the IANA database: the system's (`/usr/share/zoneinfo`, or what `TZDIR` says)
//! if it has one, or else the one that this program was built with. A zone's rules are read once in
//! a process. So restart it after the database has changed.
//!
//! A process remembers each zone that it uses, and the windows of up to 4,096 calendars: 4 to 16 KB
//! each. The windows of further calendars are computed for each request, which takes some
//! microseconds.

//! # In Redis
//! Windows begin and end by the server's clock, whatever the replicas' clocks show. The server has no
//! time zones: each request tells it the windows that are about now. If it needs others, it is asked
//! again at once; that is so for the first request, and where a key changes between plans by
//! different calendars. The replicas should have the same release of the database. Where they differ
//! about an edge, a window that has begun for one of them never begins again for another.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod anchor;
mod cache;
mod hours;
mod period;
#[cfg(test)]
mod tests;
mod zone;

use std::{fmt, ops::Range, time::Duration};

use serde::{Serializer, ser::SerializeStruct};

pub use self::{
    anchor::{Anchor, ParseAnchorError, Weekday},
    hours::{Hours, hours},
    period::Period,
};
use self::{cache::Edges, zone::Zone};

/// Which windows a quota by the calendar has: their period, where it begins, and in which time zone.
/// From [`Quota::calendar`](crate::Quota::calendar).
///
/// ```
/// use std::time::Duration;
/// use tower_quota::{Quota, calendar::{Anchor, Period}};
///
/// let calendar = Quota::per_calendar_month(100).anchor(31).calendar().expect("it has one");
/// assert_eq!((calendar.period(), calendar.anchor()), (Period::Month, Anchor::MonthDay(31)));
/// assert_eq!(calendar.to_string(), "calendar month from day 31 in UTC");
///
/// // 2024-02-28 12:00 UTC is in the window that ends on February 29th.
/// let window = calendar.window_at(Duration::from_secs(1_709_121_600));
/// assert_eq!(window.end, Duration::from_secs(1_709_164_800));
/// ```
// The bits: from below, 12 of the zone's number, 16 of the anchor's value, 3 of its kind, and 3 of
// the period. So a quota has room for it, and needs no table.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Calendar(u64);

const ANCHOR_SHIFT: u32 = 12;
const KIND_SHIFT: u32 = ANCHOR_SHIFT + 16;
const PERIOD_SHIFT: u32 = KIND_SHIFT + 3;
/// Its windows are in microseconds instead of nanoseconds, as Redis counts.
const IN_MICROS: u64 = 1 << (PERIOD_SHIFT + 3);

/// Without an anchor of its own.
const NO_KIND: u16 = 0;

impl Calendar {
    /// A calendar without a period, which `in_zone` or `anchor` makes of a quota that has none.
    /// [`Self::problem`] reports it.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) const fn new(period: Period) -> Self {
        Self((period as u64) << PERIOD_SHIFT)
    }

    pub(crate) fn in_zone(self, name: &str) -> Self {
        Self(self.0 >> ANCHOR_SHIFT << ANCHOR_SHIFT | zone::number(name))
    }

    pub(crate) fn with_anchor(self, anchor: Anchor) -> Self {
        // Equal calendars have equal bits.
        let is_first = self.own_period().is_some_and(|period| period.first_anchor() == anchor);
        let (kind, value) = if is_first { (NO_KIND, 0) } else { anchor.pack() };
        let others = self.0 & !(0x7_FFFF << ANCHOR_SHIFT);
        Self(others | u64::from(kind) << KIND_SHIFT | u64::from(value) << ANCHOR_SHIFT)
    }

    /// In fewer than 62 bits.
    pub(crate) const fn to_bits(self) -> u64 {
        self.0
    }

    pub(crate) const fn from_bits(bits: u64) -> Self {
        Self(bits & (IN_MICROS | (IN_MICROS - 1)))
    }

    const fn own_period(self) -> Option<Period> {
        Period::from_number((self.0 & !IN_MICROS) >> PERIOD_SHIFT)
    }

    /// How long a window is.
    #[must_use]
    pub fn period(self) -> Period {
        self.own_period().unwrap_or(Period::Day)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the bits are cut")]
    fn anchor_bits(self) -> (u16, u16) {
        ((self.0 >> KIND_SHIFT) as u16 & 0x7, (self.0 >> ANCHOR_SHIFT) as u16)
    }

    /// Where a window begins.
    #[must_use]
    pub fn anchor(self) -> Anchor {
        let (kind, value) = self.anchor_bits();
        Anchor::unpack(kind, value).unwrap_or_else(|| self.period().first_anchor())
    }

    fn own_zone(self) -> Option<&'static Zone> {
        zone::by_number(self.0 & ((1 << ANCHOR_SHIFT) - 1))
    }

    /// The name of the time zone in the IANA database, such as `Asia/Shanghai`; `UTC` by default.
    /// Empty if [`in_zone`](crate::Quota::in_zone) got a name that is not known: such a quota is
    /// refused.
    #[must_use]
    pub fn zone(self) -> &'static str {
        self.own_zone().filter(|zone| zone.tz.is_some()).map_or("", |zone| &zone.name)
    }

    /// The window of a time: when it begins and when it ends, since 1970 UTC.
    ///
    /// No window begins before 1970, and after the year 2554 none ends.
    #[must_use]
    pub fn window_at(self, unix: Duration) -> Range<Duration> {
        let window = self.window(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX));
        Duration::from_nanos(window.start)..Duration::from_nanos(window.end)
    }

    /// The window that ends this much later than now. A store in another process may have a clock
    /// that is not ours: then it is the window that ends at about that time.
    pub(crate) fn window_with(self, now: Duration, reset: Duration) -> Range<Duration> {
        let end = now.saturating_add(reset);
        let window = self.window_at(end);
        let is_nearer = end.saturating_sub(window.start) < window.end.saturating_sub(end);
        match window.start.checked_sub(Duration::from_nanos(1)) {
            Some(before) if is_nearer && !reset.is_zero() => self.window_at(before),
            _ => window,
        }
    }

    /// The window of a time, in nanoseconds since 1970. Not inlined, so that windows of a fixed length
    /// do not pay for its registers.
    #[inline(never)]
    pub(crate) fn window(self, at: u64) -> Range<u64> {
        if self.0 & IN_MICROS != 0 {
            let window = Self(self.0 & !IN_MICROS).window(at.saturating_mul(1_000));
            return window.start / 1_000..window.end / 1_000;
        }
        match Edges::of(self) {
            Some(edges) => edges.window(at),
            None => period::window(self, at),
        }
    }

    /// When so many windows end: the one that begins at `start`, and those that follow it.
    #[inline(never)]
    pub(crate) fn end_of(self, start: u64, windows: u64) -> u64 {
        match windows {
            _ if self.0 & IN_MICROS != 0 => {
                let calendar = Self(self.0 & !IN_MICROS);
                calendar.end_of(start.saturating_mul(1_000), windows) / 1_000
            }
            1 => self.window(start).end,
            windows => period::end_of(self, start, windows),
        }
    }

    /// The nanoseconds of the longest window, if no clock is set back in it.
    pub(crate) const fn longest(self) -> u64 {
        match self.own_period() {
            Some(period) if self.0 & IN_MICROS != 0 => period.longest() / 1_000,
            Some(period) => period.longest(),
            None => 0,
        }
    }

    /// A hash of it, which is the same in each process and each release.
    #[cfg(feature = "redis")]
    pub(crate) fn hash(self) -> u64 {
        Edges::of(self).map_or_else(|| cache::hash(self), |edges| edges.hash)
    }

    /// The calendar for which `is_it` holds, if the process has used it.
    #[cfg(feature = "redis")]
    pub(crate) fn find(is_it: impl Fn(Self) -> bool) -> Option<Self> {
        Edges::all().map(|edges| edges.calendar).find(|calendar| is_it(*calendar))
    }

    /// The same windows in microseconds: where others take and return nanoseconds, it does those.
    #[cfg(feature = "redis")]
    pub(crate) const fn in_micros(self) -> Self {
        Self(self.0 | IN_MICROS)
    }

    /// What is wrong with it, and what to write instead.
    pub(crate) fn problem(self) -> Option<String> {
        let Some(period) = self.own_period() else {
            return Some(
                "only a quota by the calendar has a time zone or an anchor; write `Quota::per_calendar_day(…)`, or leave `in_zone` and `anchor` out".into(),
            );
        };
        if let Some(problem) = self.anchor().problem(period) {
            return Some(problem);
        }
        match self.own_zone() {
            Some(Zone { tz: Some(_), .. }) => None,
            zone => Some(zone::unknown(zone.map_or("", |zone| &zone.name))),
        }
    }
}

/// `calendar month from day 15 in Asia/Shanghai`
impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(period) = self.own_period() else { return f.write_str("no calendar") };
        write!(f, "calendar {}", period.as_str())?;
        if self.anchor() != period.first_anchor() {
            write!(f, " from {}", self.anchor().words())?;
        }
        let name = self.own_zone().map_or("a zone that is not known", |zone| &zone.name);
        write!(f, " in {name}")
    }
}

/// An object of `period`, `anchor` and `zone`: `{"period":"month","anchor":"15","zone":"Asia/Tokyo"}`.
impl serde::Serialize for Calendar {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Calendar", 3)?;
        object.serialize_field("period", self.period().as_str())?;
        object.serialize_field("anchor", &self.anchor().to_string())?;
        object.serialize_field("zone", self.zone())?;
        object.end()
    }
}

impl fmt::Debug for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
