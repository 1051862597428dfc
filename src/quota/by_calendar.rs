//! Quotas whose windows are those of a calendar, with the feature `calendar`; and what other modules ask
//! of a quota whether or not there is the feature.

#[cfg(feature = "calendar")]
use super::CALENDAR;
use super::Quota;
#[cfg(feature = "calendar")]
use crate::calendar::{Anchor, Calendar, Period};

#[cfg(feature = "calendar")]
impl Quota {
    /// `units` in each day of the calendar, from midnight to midnight in UTC, or
    /// [in a time zone](Self::in_zone): see the module [`calendar`](crate::calendar).
    #[must_use]
    pub const fn per_calendar_day(units: u64) -> Self {
        Self::per_calendar(units, Period::Day)
    }

    /// `units` in each week of the calendar, from Monday, or another [anchor](Self::anchor).
    #[must_use]
    pub const fn per_calendar_week(units: u64) -> Self {
        Self::per_calendar(units, Period::Week)
    }

    /// `units` in each month of the calendar, from its first day, or another
    /// [anchor](Self::anchor).
    ///
    /// ```
    /// use tower_quota::Quota;
    ///
    /// let billed = Quota::per_calendar_month(10_000).anchor(15).in_zone("Asia/Shanghai");
    /// assert_eq!(format!("{billed:?}"), "10000 per calendar month from day 15 in Asia/Shanghai");
    /// ```
    #[must_use]
    pub const fn per_calendar_month(units: u64) -> Self {
        Self::per_calendar(units, Period::Month)
    }

    /// `units` in each year of the calendar, from January 1st, or another [anchor](Self::anchor).
    #[must_use]
    pub const fn per_calendar_year(units: u64) -> Self {
        Self::per_calendar(units, Period::Year)
    }

    /// `units` in each of these periods of the calendar.
    #[must_use]
    pub const fn per_calendar(units: u64, period: Period) -> Self {
        Self { time: CALENDAR | Calendar::new(period).to_bits(), ..Self::per_nanos(units, 1) }
    }

    /// Begins the windows elsewhere in their period: a month on this day (a shorter one on its last
    /// day), a week on this weekday, a day at this time, a year on this date. `build()` fails for an
    /// anchor that does not fit the period, and for a quota without a calendar.
    ///
    /// ```
    /// use tower_quota::{Quota, calendar::{Anchor, Weekday}};
    ///
    /// let month = Quota::per_calendar_month(1_000).anchor(31);
    /// let week = Quota::per_calendar_week(500).anchor(Weekday::Sunday);
    /// let day = Quota::per_calendar_day(100).anchor(Anchor::Time { hour: 6, minute: 0 });
    /// let year = Quota::per_calendar_year(9_000).anchor(Anchor::YearDay { month: 4, day: 1 });
    /// # let _ = (month, week, day, year);
    /// ```
    #[must_use]
    pub fn anchor(self, anchor: impl Into<Anchor>) -> Self {
        self.with_calendar(|calendar| calendar.with_anchor(anchor.into()))
    }

    /// Begins the windows by the clocks of this time zone, by its name in the IANA database, such as
    /// `Europe/Berlin`. Default: UTC. `build()` fails for a name that is not known, and for a quota
    /// without a calendar; a request whose quota comes from
    /// [`quota_by`](crate::Policy::quota_by) is refused.
    #[must_use]
    pub fn in_zone(self, name: &str) -> Self {
        self.with_calendar(|calendar| calendar.in_zone(name))
    }

    fn with_calendar(mut self, change: impl FnOnce(Calendar) -> Calendar) -> Self {
        if !self.is_unlimited() {
            let calendar = self.calendar().unwrap_or(Calendar::NONE);
            self.time = CALENDAR | change(calendar).to_bits();
        }
        self
    }

    /// Which windows it has; `None` if all have the same length.
    #[must_use]
    #[inline]
    pub const fn calendar(&self) -> Option<Calendar> {
        if self.is_by_calendar() { Some(self.calendar_bits()) } else { None }
    }

    pub(super) const fn calendar_bits(&self) -> Calendar {
        Calendar::from_bits(self.time)
    }
}

impl Quota {
    /// The same quota where times are in microseconds, and the code takes them for nanoseconds; `None`
    /// without a calendar.
    #[cfg(feature = "redis")]
    pub(crate) const fn in_micros(&self) -> Option<Self> {
        #[cfg(feature = "calendar")]
        if let Some(calendar) = self.calendar() {
            return Some(Self { time: CALENDAR | calendar.in_micros().to_bits(), ..*self });
        }
        None
    }

    /// Its calendar in words, if it has one.
    pub(crate) fn calendar_words(&self) -> Option<String> {
        #[cfg(feature = "calendar")]
        return self.calendar().map(|calendar| calendar.to_string());
        #[cfg(not(feature = "calendar"))]
        None
    }

    /// The period, the anchor and the zone of its calendar, if it has one, as they are saved.
    pub(crate) fn calendar_parts(&self) -> Option<[String; 3]> {
        #[cfg(feature = "calendar")]
        return self.calendar().map(|calendar| {
            [calendar.period().to_string(), calendar.anchor().to_string(), calendar.zone().into()]
        });
        #[cfg(not(feature = "calendar"))]
        None
    }

    /// The quota of these units by the calendar of these parts; `None` if there is no such calendar here.
    pub(crate) fn by_calendar_parts(units: u64, parts: &[String; 3]) -> Option<Self> {
        #[cfg(feature = "calendar")]
        {
            let [period, anchor, zone] = parts;
            let quota = Self::per_calendar(units, Period::named(period)?);
            let quota = quota.anchor(anchor.parse::<Anchor>().ok()?).in_zone(zone);
            quota.calendar().is_some_and(|calendar| calendar.problem().is_none()).then_some(quota)
        }
        #[cfg(not(feature = "calendar"))]
        {
            let _ = (units, parts);
            None
        }
    }
}
