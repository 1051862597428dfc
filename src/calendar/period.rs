//! The windows of a calendar, worked out by the time zone's rules: [`window`], [`edges_of_span`].

use std::{fmt, ops::Range};

use jiff::{
    Span, Timestamp,
    civil::{Date, DateTime},
    tz::{AmbiguousOffset, TimeZone},
};

use super::{Anchor, Calendar, Weekday};
use crate::clock::NANOS_PER_SECOND;

/// How long a window of the calendar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Period {
    /// A day, of 23 to 25 hours in most zones.
    Day = 1,
    /// Seven days.
    Week = 2,
    /// A month, of 28 to 31 days.
    Month = 3,
    /// A year, of 365 or 366 days.
    Year = 4,
}

impl Period {
    pub(super) const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Day),
            2 => Some(Self::Week),
            3 => Some(Self::Month),
            4 => Some(Self::Year),
            _ => None,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        let all = [Self::Day, Self::Week, Self::Month, Self::Year];
        all.into_iter().find(|period| period.as_str() == name)
    }

    /// The name: `day`, `week`, `month` or `year`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
            Self::Year => "year",
        }
    }

    /// Where it begins without an anchor of its own.
    pub(super) const fn first_anchor(self) -> Anchor {
        match self {
            Self::Day => Anchor::Time { hour: 0, minute: 0 },
            Self::Week => Anchor::Weekday(Weekday::Monday),
            Self::Month => Anchor::MonthDay(1),
            Self::Year => Anchor::YearDay { month: 1, day: 1 },
        }
    }

    /// The nanoseconds of the longest one, if all its days have 24 hours.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a year has fewer nanoseconds than 64 bits count"
    )]
    pub(super) const fn longest(self) -> u64 {
        let days = match self {
            Self::Day => 1,
            Self::Week => 7,
            Self::Month => 31,
            Self::Year => 366,
        };
        days * 86_400 * NANOS_PER_SECOND
    }

    /// The number of the period of this date, or of the one after it. They are numbered in order.
    #[expect(clippy::arithmetic_side_effects, reason = "dates are in the years -9999 to 9999")]
    fn number_near(self, date: Date) -> i64 {
        let years = i64::from(date.year());
        match self {
            Self::Day => days_since_1970(date),
            Self::Week => days_since_1970(date).div_euclid(7),
            Self::Month => years * 12 + i64::from(date.month()) - 1,
            Self::Year => years,
        }
    }

    /// The date and time at which the period with this number begins, by the clocks of its zone.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        reason = "a remainder is from 0 to 11"
    )]
    fn begins(self, anchor: Anchor, number: i64) -> Option<DateTime> {
        let in_month = |year: i64, month: u8, day: u8| {
            let first = Date::new(year.try_into().ok()?, month.try_into().ok()?, 1).ok()?;
            let day = i8::try_from(day).ok()?.clamp(1, first.days_in_month());
            Some(first.with().day(day).build().ok()?.at(0, 0, 0, 0))
        };
        match (self, anchor) {
            (Self::Week, Anchor::Weekday(day)) => {
                // 1970 began on a Thursday, three days after a Monday.
                let monday = number.checked_mul(7)?.checked_sub(3)?;
                Some(date_of(monday.checked_add(day as i64)?)?.at(0, 0, 0, 0))
            }
            (Self::Month, Anchor::MonthDay(day)) => {
                in_month(number.div_euclid(12), number.rem_euclid(12) as u8 + 1, day)
            }
            (Self::Year, Anchor::YearDay { month, day }) => in_month(number, month, day),
            (_, Anchor::Time { hour, minute }) => {
                Some(date_of(number)?.at(hour.try_into().ok()?, minute.try_into().ok()?, 0, 0))
            }
            _ => Some(date_of(number)?.at(0, 0, 0, 0)),
        }
    }
}

/// As [`Period::as_str`].
impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn days_since_1970(date: Date) -> i64 {
    date.duration_since(Date::constant(1970, 1, 1)).as_hours().div_euclid(24)
}

fn date_of(days_since_1970: i64) -> Option<Date> {
    let days = Span::new().try_days(days_since_1970).ok()?;
    Date::constant(1970, 1, 1).checked_add(days).ok()
}

/// The first moment at which clocks of the zone show this time, or a later one.
fn first_moment(tz: &TimeZone, time: DateTime) -> Option<Timestamp> {
    let moment = tz.to_ambiguous_timestamp(time);
    if let AmbiguousOffset::Gap { .. } = moment.offset() {
        // No clock shows it: they are set forward over it.
        let before = moment.earlier().ok()?;
        return tz.following(before).next().map(|transition| transition.timestamp());
    }
    moment.earlier().ok()
}

/// The rules of one calendar.
struct Rules<'a> {
    tz: &'a TimeZone,
    period: Period,
    anchor: Anchor,
}

impl Rules<'_> {
    fn of(calendar: Calendar) -> Self {
        static UTC: TimeZone = TimeZone::UTC;
        // `build()` refuses a zone that is not known, and an anchor that does not fit.
        let tz = calendar.own_zone().and_then(|zone| zone.tz.as_ref()).unwrap_or(&UTC);
        let (period, anchor) = (calendar.period(), calendar.anchor());
        let is_sound = anchor.problem(period).is_none();
        Self { tz, period, anchor: if is_sound { anchor } else { period.first_anchor() } }
    }

    /// When the window with this number begins, in nanoseconds since 1970: 0 if it is earlier.
    fn edge(&self, number: i64) -> u64 {
        let begins = self.period.begins(self.anchor, number);
        match begins.and_then(|time| first_moment(self.tz, time)) {
            Some(moment) => u64::try_from(moment.as_nanosecond().max(0)).unwrap_or(u64::MAX),
            // After the year 9999, which is beyond all times of ours.
            None => u64::MAX,
        }
    }

    /// The number of the last window that begins at this time or before.
    #[expect(clippy::arithmetic_side_effects, reason = "the number is of a date")]
    fn number_at(&self, at: u64) -> i64 {
        let moment = Timestamp::from_nanosecond(at.into()).unwrap_or(Timestamp::MAX);
        // A window may begin later than its date says by less than a period.
        let mut number = self.period.number_near(self.tz.to_datetime(moment).date()) + 2;
        while number > i64::MIN + 1 && self.edge(number) > at {
            number -= 1;
        }
        number
    }
}

/// The window of a time.
#[expect(clippy::arithmetic_side_effects, reason = "the number is of a date")]
pub(super) fn window(calendar: Calendar, at: u64) -> Range<u64> {
    let rules = Rules::of(calendar);
    let number = rules.number_at(at);
    rules.edge(number)..rules.edge(number + 1)
}

/// When so many windows end, from the one that begins at `start`. A day that the zone skips counts as
/// one here.
pub(super) fn end_of(calendar: Calendar, start: u64, windows: u64) -> u64 {
    let rules = Rules::of(calendar);
    let windows = i64::try_from(windows).unwrap_or(i64::MAX);
    rules.number_at(start).checked_add(windows).map_or(u64::MAX, |number| rules.edge(number))
}

/// The edges in a span of time, and the last one before it and the first one after it. In order, each
/// once.
pub(super) fn edges_of_span(calendar: Calendar, span: Range<u64>) -> Box<[u64]> {
    let rules = Rules::of(calendar);
    let first = rules.number_at(span.start);
    let mut edges: Vec<u64> = Vec::new();
    for number in first.. {
        let edge = rules.edge(number);
        // A day that a zone has skipped has no length.
        if edges.last() != Some(&edge) {
            edges.push(edge);
        }
        if edge >= span.end {
            break;
        }
    }
    edges.into()
}
