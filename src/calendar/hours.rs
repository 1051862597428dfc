//! Hours of the week: [`Hours`], and how they are written.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    Weekday,
    zone::{self, Zone},
};

const MINUTES_OF_DAY: usize = 24 * 60;
const MINUTES: usize = 7 * MINUTES_OF_DAY;

/// Hours of the week by the clocks of a time zone, such as `Mo-Fr 08:00-18:00` in `Europe/Berlin`; for
/// [`Policy::schedule`](crate::Policy::schedule).
///
/// The weekdays are `Mo`, `Tu`, `We`, `Th`, `Fr`, `Sa` and `Su`, as ranges or a list, and the times of a
/// day are ranges of `hh:mm`, also several. Without a weekday they are those of each day. Times that
/// end earlier than they begin go on after midnight. Other days come after a semicolon:
/// `Mo-Fr 08:00-12:00,13:00-18:00; Sa 10:00-14:00`. There are no holidays.
///
/// Where clocks are set back, hours that they show twice are twice part of it.
///
/// ```
/// use std::time::Duration;
/// use tower_quota::calendar::hours;
///
/// let nights = hours("Fr-Sa 22:00-06:00", "Europe/Berlin");
/// assert_eq!(nights.to_string(), "Fr-Sa 22:00-06:00 in Europe/Berlin");
/// // 2024-03-03 04:59 UTC, which is Sunday, 05:59, in Berlin.
/// assert!(nights.contains(Duration::from_secs(1_709_441_940)));
/// assert!(!nights.contains(Duration::from_secs(1_709_442_000)));
/// ```
#[derive(Clone)]
pub struct Hours {
    text: Arc<str>,
    zone_name: Arc<str>,
    /// `None` if no zone has the name.
    zone: Option<&'static Zone>,
    /// A bit for each minute of the week, from Monday on; or why the text has none.
    minutes: Result<Arc<[u64]>, String>,
}

/// These hours of the week in this time zone, see [`Hours`]. `build()` fails if either cannot be read,
/// and says what to write instead.
#[must_use]
pub fn hours(text: &str, zone: &str) -> Hours {
    let zone_name = zone;
    let zone = zone::by_number(zone::number(zone)).filter(|zone| zone.tz.is_some());
    Hours {
        text: text.into(),
        zone_name: zone.map_or(zone_name, |zone| &zone.name).into(),
        zone,
        minutes: read(text).map(Arc::from),
    }
}

impl Hours {
    /// Whether they include this time, since 1970 UTC.
    #[must_use]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "the seconds of the years 1969 to 2555, and remainders of them"
    )]
    pub fn contains(&self, unix: Duration) -> bool {
        let (Some(zone), Ok(minutes)) = (self.zone, &self.minutes) else { return false };
        let local = zone.local_seconds(u64::try_from(unix.as_nanos()).unwrap_or(u64::MAX));
        // 1970 began on a Thursday.
        let minute = (local.div_euclid(60) + 3 * MINUTES_OF_DAY as i64).rem_euclid(MINUTES as i64);
        is_set(minutes, minute as usize)
    }

    /// As they were written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of the time zone in the IANA database.
    #[must_use]
    pub fn zone(&self) -> &str {
        &self.zone_name
    }

    /// What is wrong with them, and what to write instead.
    pub(crate) fn problem(&self) -> Option<String> {
        let unknown = || self.zone.is_none().then(|| zone::unknown(&self.zone_name));
        self.minutes.as_ref().err().cloned().or_else(unknown)
    }
}

fn is_set(minutes: &[u64], minute: usize) -> bool {
    let word = minutes.get(minute.div_euclid(64)).copied().unwrap_or_default();
    word >> minute.rem_euclid(64) & 1 == 1
}

/// The bits of the minutes.
///
/// # Errors
/// What is wrong, and what to write instead.
fn read(text: &str) -> Result<Vec<u64>, String> {
    let mut minutes = vec![0; MINUTES.div_ceil(64)];
    let mut seen = [false; 7];
    for part in text.split(';') {
        let part = part.trim();
        let times_begin = part.find(|character: char| character.is_ascii_digit());
        let (days, times) =
            part.split_at_checked(times_begin.unwrap_or(part.len())).unwrap_or((part, ""));
        if times.is_empty() {
            return Err(format!("`{part}` has no times; write it as in `Mo-Fr 08:00-18:00`"));
        }
        let days = read_days(days.trim())?;
        for day in &days {
            let is_again = seen.get_mut(*day as usize).map(|seen| std::mem::replace(seen, true));
            if is_again == Some(true) {
                return Err(format!(
                    "`{}` is there twice; write all its times in one part, as in `Mo-Fr 08:00-12:00,13:00-18:00`",
                    day.short()
                ));
            }
        }
        for range in times.split(',') {
            let (begins, length) = read_range(range.trim())?;
            for day in &days {
                let first = (*day as usize).saturating_mul(MINUTES_OF_DAY).saturating_add(begins);
                for minute in first..first.saturating_add(length) {
                    // Sunday's may go on after midnight, on Monday.
                    let minute = minute.rem_euclid(MINUTES);
                    if let Some(word) = minutes.get_mut(minute.div_euclid(64)) {
                        *word |= 1 << minute.rem_euclid(64);
                    }
                }
            }
        }
    }
    Ok(minutes)
}

/// `Mo-Fr,Su`; nothing for each day.
fn read_days(text: &str) -> Result<Vec<Weekday>, String> {
    if text.is_empty() {
        return Ok(Weekday::ALL.to_vec());
    }
    let mut days = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.trim().split_once('-').unwrap_or((range.trim(), range.trim()));
        let (first, last) = (read_day(first.trim())?, read_day(last.trim())?);
        // A range may go on from Sunday to Monday.
        let from_first = Weekday::ALL.iter().cycle().skip_while(|day| **day != first);
        for day in from_first.take(7) {
            days.push(*day);
            if *day == last {
                break;
            }
        }
    }
    Ok(days)
}

fn read_day(text: &str) -> Result<Weekday, String> {
    let day = Weekday::ALL.iter().find(|day| day.short() == text);
    day.copied().ok_or_else(|| format!("`{text}` is no day; write Mo, Tu, We, Th, Fr, Sa or Su"))
}

/// The minute of the day at which `08:00-18:00` begins, and its length in minutes.
fn read_range(text: &str) -> Result<(usize, usize), String> {
    let Some((first, last)) = text.split_once('-') else {
        return Err(format!("`{text}` is no range of times; write it as in `08:00-18:00`"));
    };
    let (first, last) = (read_time(first.trim())?, read_time(last.trim())?);
    match last.checked_sub(first) {
        _ if first == MINUTES_OF_DAY => {
            Err(format!("`{text}` begins at 24:00; write `00:00`, and the next day"))
        }
        Some(0) => Err(format!("`{text}` has no length; write `00:00-24:00` for a whole day")),
        Some(length) => Ok((first, length)),
        None => Ok((first, last.saturating_add(MINUTES_OF_DAY).saturating_sub(first))),
    }
}

/// `08:00`, up to `24:00`
fn read_time(text: &str) -> Result<usize, String> {
    let number = |text: &str| -> Option<usize> {
        let is_number = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_number)
    };
    let time = text.split_once(':').and_then(|(hour, minute)| {
        let (hour, minute) = (number(hour)?, number(minute).filter(|minute| *minute < 60)?);
        Some(hour.saturating_mul(60).saturating_add(minute)).filter(|time| *time <= MINUTES_OF_DAY)
    });
    time.ok_or_else(|| format!("`{text}` is no time from 00:00 to 24:00; write it as in `08:00`"))
}

/// `Mo-Fr 08:00-18:00 in Europe/Berlin`
impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", self.text, self.zone_name)
    }
}

impl fmt::Debug for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Equal if they are written alike.
impl PartialEq for Hours {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, &self.zone_name) == (&other.text, &other.zone_name)
    }
}

impl Eq for Hours {}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, ToSpan, tz::TimeZone};

    use super::*;

    fn at(time: &str) -> Duration {
        let moment: Timestamp = time.parse().unwrap();
        Duration::from_secs(moment.as_second().try_into().unwrap())
    }

    /// Each minute of some weeks in which clocks are changed, as the clocks show it.
    #[test]
    fn hours_are_those_that_clocks_show() {
        type Shown = fn(i8, i8) -> bool;
        let office: Shown = |day, hour| day < 5 && (8..18).contains(&hour);
        let nights: Shown =
            |day, hour| (day == 4 || day == 6) && hour >= 22 || (day == 5 || day == 0) && hour < 6;
        let small: Shown = |_, hour| (1..3).contains(&hour);
        let over_week: Shown = |day, hour| match day {
            6 => hour >= 20,
            0 => !(4..20).contains(&hour),
            1 => hour < 4,
            _ => false,
        };
        for (text, shown) in [
            ("Mo-Fr 08:00-18:00", office),
            ("Fr,Su 22:00-06:00", nights),
            ("01:00-03:00", small),
            ("Su-Mo 20:00-04:00", over_week),
        ] {
            for (zone, week) in [
                ("Europe/Berlin", "2024-03-30T00:00:00Z"),
                ("Europe/Berlin", "2024-10-26T00:00:00Z"),
                ("Australia/Lord_Howe", "2024-04-05T00:00:00Z"),
                ("America/Sao_Paulo", "2018-11-02T00:00:00Z"),
                ("Pacific/Apia", "2011-12-28T00:00:00Z"),
                ("UTC", "2024-02-27T00:00:00Z"),
                // Clocks were some seconds off.
                ("Africa/Monrovia", "1971-12-30T00:00:00Z"),
            ] {
                let (hours, tz) = (hours(text, zone), TimeZone::get(zone).unwrap());
                assert_eq!(hours.problem(), None);
                let mut moment: Timestamp = week.parse().unwrap();
                for _ in 0..9 * 1_440 {
                    let local = tz.to_datetime(moment);
                    let day = local.weekday().to_monday_zero_offset();
                    let unix = Duration::from_secs(moment.as_second() as u64);
                    let included = hours.contains(unix);
                    assert_eq!(included, shown(day, local.hour()), "{hours} at {local}");
                    moment += 60.seconds();
                }
            }
        }
    }

    #[test]
    fn an_edge_is_exact_to_the_nanosecond() {
        let office = hours("Mo-Fr 08:00-18:00", "Europe/Berlin");
        let nano = Duration::from_nanos(1);
        // A Monday, an hour earlier in UTC.
        let (opens, closes) = (at("2024-03-25T07:00:00Z"), at("2024-03-25T17:00:00Z"));
        assert!(!office.contains(opens - nano) && office.contains(opens));
        assert!(office.contains(closes - nano) && !office.contains(closes));
        // A week later clocks are set forward.
        assert!(office.contains(at("2024-04-01T06:00:00Z")));
        assert!(!office.contains(at("2024-04-01T16:00:00Z")));
    }

    #[test]
    fn lists_and_whole_days_are_read() {
        for (text, included, excluded) in [
            (
                "Mo,We-Fr 08:00-12:00, 13:00-18:00; Sa 10:00-14:00",
                "2024-03-27T13:00:00Z",
                "2024-03-26T13:00:00Z",
            ),
            (
                "Mo,We-Fr 08:00-12:00,13:00-18:00;Sa 10:00-14:00",
                "2024-03-30T10:00:00Z",
                "2024-03-27T12:30:00Z",
            ),
            ("Sa - Su 00:00 - 24:00", "2024-03-31T23:59:59Z", "2024-04-01T00:00:00Z"),
            ("22:00-24:00", "2024-03-26T22:00:00Z", "2024-03-27T00:00:00Z"),
            ("Th-Mo 00:00-24:00", "2024-04-01T12:00:00Z", "2024-04-02T12:00:00Z"),
            ("Mo 18:00-08:00", "2024-03-26T07:59:00Z", "2024-03-25T07:59:00Z"),
        ] {
            let hours = hours(text, "UTC");
            assert_eq!(hours.problem(), None, "{text}");
            assert!(hours.contains(at(included)), "{text} at {included}");
            assert!(!hours.contains(at(excluded)), "{text} at {excluded}");
        }
    }

    #[test]
    fn a_mistake_says_what_to_write_instead() {
        let no_times = |text| format!("`{text}` has no times; write it as in `Mo-Fr 08:00-18:00`");
        let no_day = |text| format!("`{text}` is no day; write Mo, Tu, We, Th, Fr, Sa or Su");
        let no_time =
            |text| format!("`{text}` is no time from 00:00 to 24:00; write it as in `08:00`");
        for (text, problem) in [
            ("", no_times("")),
            ("Mo-Fr", no_times("Mo-Fr")),
            ("Mo-Fr 08:00-18:00;", no_times("")),
            ("Mon 08:00-18:00", no_day("Mon")),
            ("mo 08:00-18:00", no_day("mo")),
            ("PH 08:00-18:00", no_day("PH")),
            ("Mo-Fr-Su 08:00-18:00", no_day("Fr-Su")),
            ("Mo, 08:00-18:00", no_day("")),
            ("Mo Tu 08:00-18:00", no_day("Mo Tu")),
            ("Mo 8:00-18:00", no_time("8:00")),
            ("Mo 08:00-24:01", no_time("24:01")),
            ("Mo 08:60-18:00", no_time("08:60")),
            ("Mo 08-18", no_time("08")),
            ("Mo 08:00-18:00 off", no_time("18:00 off")),
            ("Mo 08:00-18:00,", "`` is no range of times; write it as in `08:00-18:00`".into()),
            ("Mo 08:00", "`08:00` is no range of times; write it as in `08:00-18:00`".into()),
            ("Mo 08:00-08:00", "`08:00-08:00` has no length; write `00:00-24:00` for a whole day".into()),
            ("Mo 24:00-08:00", "`24:00-08:00` begins at 24:00; write `00:00`, and the next day".into()),
            ("Mo-We 08:00-12:00; Tu 13:00-18:00", "`Tu` is there twice; write all its times in one part, as in `Mo-Fr 08:00-12:00,13:00-18:00`".into()),
        ] {
            assert_eq!(hours(text, "UTC").problem(), Some(problem), "{text}");
            assert!(!hours(text, "UTC").contains(at("2024-03-25T08:30:00Z")));
        }
        assert_eq!(
            hours("Mo 08:00-18:00", "Europe/Berln").problem().unwrap(),
            "the time zone `Europe/Berln` is not known; write a name of the IANA database, such as `Europe/Berlin`"
        );
    }
}
