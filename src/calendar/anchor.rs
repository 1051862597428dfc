//! Where in its period a window begins: [`Anchor`].

use std::{fmt, str::FromStr};

use super::{NO_KIND, Period};

/// Where in its period a window of the calendar begins; for
/// [`Quota::anchor`](crate::Quota::anchor).
///
/// A number is a day of the month, and a [`Weekday`] is one. From a text, such as that of a file, it
/// is read like this: `15`, `Sunday` or `Su`, `06:00`, `04-01`.
///
/// ```
/// use tower_quota::calendar::{Anchor, Weekday};
///
/// assert_eq!("15".parse(), Ok(Anchor::MonthDay(15)));
/// assert_eq!("Su".parse(), Ok(Anchor::from(Weekday::Sunday)));
/// assert_eq!("06:00".parse(), Ok(Anchor::Time { hour: 6, minute: 0 }));
/// assert_eq!("04-01".parse(), Ok(Anchor::YearDay { month: 4, day: 1 }));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Anchor {
    /// A month begins on this day, from 1 to 31; a shorter month on its last day. Default: 1.
    MonthDay(u8),
    /// A week begins on this day. Default: Monday.
    Weekday(Weekday),
    /// A day begins at this time. Default: midnight.
    Time {
        /// From 0 to 23.
        hour: u8,
        /// From 0 to 59.
        minute: u8,
    },
    /// A year begins on this day; on the last day of February, if it is its 29th and the year has
    /// none. Default: January 1st.
    YearDay {
        /// From 1 to 12.
        month: u8,
        /// From 1 to 31.
        day: u8,
    },
}

/// A day of the week.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Weekday {
    /// `Mo`
    Monday,
    /// `Tu`
    Tuesday,
    /// `We`
    Wednesday,
    /// `Th`
    Thursday,
    /// `Fr`
    Friday,
    /// `Sa`
    Saturday,
    /// `Su`
    Sunday,
}

impl Weekday {
    pub(super) const ALL: [Self; 7] = [
        Self::Monday,
        Self::Tuesday,
        Self::Wednesday,
        Self::Thursday,
        Self::Friday,
        Self::Saturday,
        Self::Sunday,
    ];

    /// The name in English, such as `Monday`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Monday => "Monday",
            Self::Tuesday => "Tuesday",
            Self::Wednesday => "Wednesday",
            Self::Thursday => "Thursday",
            Self::Friday => "Friday",
            Self::Saturday => "Saturday",
            Self::Sunday => "Sunday",
        }
    }

    /// The first two letters of the name, such as `Mo`.
    pub(super) fn short(self) -> &'static str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

/// A day of the month.
impl From<u8> for Anchor {
    fn from(day: u8) -> Self {
        Self::MonthDay(day)
    }
}

impl From<Weekday> for Anchor {
    fn from(day: Weekday) -> Self {
        Self::Weekday(day)
    }
}

impl Anchor {
    /// Its kind in 3 bits, and its value in 16.
    pub(super) fn pack(self) -> (u16, u16) {
        let both = |high: u8, low: u8| u16::from_be_bytes([high, low]);
        match self {
            Self::MonthDay(day) => (1, day.into()),
            Self::Weekday(day) => (2, day as u16),
            Self::Time { hour, minute } => (3, both(hour, minute)),
            Self::YearDay { month, day } => (4, both(month, day)),
        }
    }

    /// `None` if a calendar has none of its own.
    pub(super) fn unpack(kind: u16, value: u16) -> Option<Self> {
        let [high, low] = value.to_be_bytes();
        Some(match kind {
            NO_KIND => return None,
            1 => Self::MonthDay(low),
            2 => Self::Weekday(*Weekday::ALL.get(usize::from(low))?),
            3 => Self::Time { hour: high, minute: low },
            _ => Self::YearDay { month: high, day: low },
        })
    }

    /// `day 15`, `Sunday`, `06:00`, `April 1`
    pub(super) fn words(self) -> String {
        match self {
            Self::MonthDay(day) => format!("day {day}"),
            Self::YearDay { month, day } => {
                let month = usize::from(month).checked_sub(1).and_then(|index| MONTHS.get(index));
                format!("{} {day}", month.map_or("?", |(name, _)| name))
            }
            anchor => anchor.to_string(),
        }
    }

    /// What is wrong with it for this period, and what to write instead.
    pub(super) fn problem(self, period: Period) -> Option<String> {
        match (period, self) {
            (Period::Month, Self::MonthDay(1..=31))
            | (Period::Week, Self::Weekday(_))
            | (Period::Day, Self::Time { hour: 0..=23, minute: 0..=59 }) => None,
            (Period::Year, Self::YearDay { month: month @ 1..=12, day: day @ 1.. })
                if MONTHS
                    .get(usize::from(month).saturating_sub(1))
                    .is_some_and(|(_, days)| day <= *days) =>
            {
                None
            }
            _ => {
                let instead = match period {
                    Period::Month => "on a day from 1 to 31; write it as in `.anchor(15)`",
                    Period::Week => {
                        "on a day of the week; write it as in `.anchor(Weekday::Sunday)`"
                    }
                    Period::Day => {
                        "at a time from 00:00 to 23:59; write it as in `.anchor(Anchor::Time { hour: 6, minute: 0 })`"
                    }
                    Period::Year => {
                        "on a day of a month; write it as in `.anchor(Anchor::YearDay { month: 4, day: 1 })`"
                    }
                };
                Some(format!(
                    "its anchor is `{self}`, but a calendar {} begins {instead}",
                    period.as_str()
                ))
            }
        }
    }
}

/// The months, and the most days of each.
const MONTHS: [(&str, u8); 12] = [
    ("January", 31),
    ("February", 29),
    ("March", 31),
    ("April", 30),
    ("May", 31),
    ("June", 30),
    ("July", 31),
    ("August", 31),
    ("September", 30),
    ("October", 31),
    ("November", 30),
    ("December", 31),
];

/// As it is read: `15`, `Sunday`, `06:00`, `04-01`.
impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MonthDay(day) => write!(f, "{day}"),
            Self::Weekday(day) => f.write_str(day.as_str()),
            Self::Time { hour, minute } => write!(f, "{hour:02}:{minute:02}"),
            Self::YearDay { month, day } => write!(f, "{month:02}-{day:02}"),
        }
    }
}

/// A text that is no [`Anchor`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAnchorError(String);

impl fmt::Display for ParseAnchorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is no anchor; write a day of the month (`15`), a weekday (`Sunday`), a time (`06:00`), or a month and a day (`04-01`)",
            self.0
        )
    }
}

impl std::error::Error for ParseAnchorError {}

impl FromStr for Anchor {
    type Err = ParseAnchorError;

    fn from_str(text: &str) -> Result<Self, ParseAnchorError> {
        let number = |text: &str| {
            let is_number =
                matches!(text.len(), 1..=2) && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| is_number)
        };
        let two = |(high, low): (&str, &str)| {
            let both = (number(high)?, number(low)?);
            (high.len() == 2 && low.len() == 2).then_some(both)
        };
        let is_named = |day: &&Weekday| {
            day.short().eq_ignore_ascii_case(text) || day.as_str().eq_ignore_ascii_case(text)
        };
        let weekday = || Weekday::ALL.iter().find(is_named).map(|day| Self::Weekday(*day));
        let time = || {
            let (hour, minute) = text.split_once(':').and_then(two)?;
            Some(Self::Time { hour, minute })
        };
        let year_day = || {
            let (month, day) = text.split_once('-').and_then(two)?;
            Some(Self::YearDay { month, day })
        };
        let month_day = || number(text).map(Self::MonthDay);
        let read = month_day().or_else(weekday).or_else(time).or_else(year_day);
        read.ok_or_else(|| ParseAnchorError(text.to_owned()))
    }
}
