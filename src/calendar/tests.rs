//! Windows of the calendar beside jiff's own arithmetic, and spelled out where clocks are changed.

use std::{collections::HashMap, thread};

use jiff::{
    Timestamp, ToSpan, Zoned,
    civil::{Date, DateTime, date},
    tz::{self, TimeZone},
};

use super::*;
use crate::quota::Quota;

fn nanos(time: &str) -> u64 {
    time.parse::<Timestamp>().unwrap().as_nanosecond().try_into().unwrap()
}

fn calendar(period: Period, anchor: Option<Anchor>, zone: &str) -> Calendar {
    let calendar = Calendar::new(period).in_zone(zone);
    let calendar = anchor.map_or(calendar, |anchor| calendar.with_anchor(anchor));
    assert_eq!(calendar.problem(), None);
    calendar
}

/// The beginnings of windows in the zone, by the dates of its clocks: what jiff's `Zoned` makes of each.
fn naive(tz: &TimeZone, dates: impl Iterator<Item = DateTime>) -> Vec<u64> {
    let begins = |time: DateTime| {
        let midnight = time.date().to_zoned(tz.clone()).unwrap().start_of_day().unwrap();
        if time.time() == jiff::civil::Time::midnight() {
            // Of a day that the zone has skipped, the next one.
            return midnight.timestamp();
        }
        let zoned: Zoned = time.to_zoned(tz.clone()).unwrap();
        if zoned.datetime() == time {
            return zoned.timestamp();
        }
        // Clocks are set forward over this time: it begins at that moment.
        let before = zoned.timestamp() - 26.hours();
        let changes = tz.following(before).map(|change| change.timestamp());
        changes.take_while(|change| *change <= zoned.timestamp()).last().unwrap()
    };
    let mut edges: Vec<u64> =
        dates.map(|time| begins(time).as_nanosecond().try_into().unwrap()).collect();
    edges.dedup();
    edges
}

const FIRST: Date = date(2007, 1, 1);
const LAST: Date = date(2027, 1, 1);

/// The calendars that are compared, and the dates and times at which their windows begin.
fn compared() -> Vec<(Period, Option<Anchor>, Vec<DateTime>)> {
    let days = || FIRST.series(1.day()).take_while(|day| *day <= LAST);
    let clamped = |year: i16, month: i8, day: i8| {
        let first = date(year, month, 1);
        date(year, month, day.min(first.days_in_month()))
    };
    let mut all = vec![];
    for (hour, minute) in [(0, 0), (2, 30), (23, 45)] {
        let anchor = Anchor::Time { hour: hour as u8, minute: minute as u8 };
        let anchor = Some(anchor).filter(|_| (hour, minute) != (0, 0));
        all.push((Period::Day, anchor, days().map(|day| day.at(hour, minute, 0, 0)).collect()));
    }
    for (index, anchor) in [(0, None), (3, Some(Weekday::Thursday)), (6, Some(Weekday::Sunday))] {
        let begins = days().filter(|day| day.weekday().to_monday_zero_offset() == index);
        let begins = begins.map(|day| day.at(0, 0, 0, 0)).collect();
        all.push((Period::Week, anchor.map(Anchor::from), begins));
    }
    for (day, anchor) in [(1, None), (15, Some(15)), (29, Some(29)), (31, Some(31))] {
        let months = (2007..2027).flat_map(|year| (1..=12).map(move |month| (year, month)));
        let begins = months.map(|(year, month)| clamped(year, month, day).at(0, 0, 0, 0));
        all.push((Period::Month, anchor.map(Anchor::MonthDay), begins.collect()));
    }
    for (month, day) in [(1, 1), (4, 6), (2, 29)] {
        let anchor = Anchor::YearDay { month: month as u8, day: day as u8 };
        let begins = (2007..2027).map(|year| clamped(year, month, day).at(0, 0, 0, 0));
        all.push((Period::Year, Some(anchor), begins.collect()));
    }
    all
}

/// All zones of the database. Of those whose clocks were the same in these years, the windows of one
/// are compared.
#[test]
fn windows_are_those_of_jiff_in_all_zones_over_20_years() {
    let first = FIRST.to_zoned(TimeZone::UTC).unwrap().timestamp() - 48.hours();
    let last = LAST.to_zoned(TimeZone::UTC).unwrap().timestamp() + 48.hours();
    let mut by_clocks: HashMap<_, Vec<_>> = HashMap::new();
    let mut names = 0;
    for name in tz::db().available() {
        let tz = tz::db().get(name.as_str()).unwrap();
        if tz.is_unknown() {
            continue;
        }
        let changes = tz.following(first).map(|change| (change.timestamp(), change.offset()));
        let changes: Vec<_> = changes.take_while(|(at, _)| *at <= last).collect();
        names += 1;
        by_clocks.entry((tz.to_offset(first), changes)).or_default().push((name.to_string(), tz));
    }
    assert!(names > 400 && by_clocks.len() > 100, "{names}, {}", by_clocks.len());
    let compared = compared();
    let firsts: Vec<_> = by_clocks.values().map(|zones| &zones[0]).collect();
    thread::scope(|scope| {
        for some in firsts.chunks(firsts.len().div_ceil(4)) {
            let compared = &compared;
            scope.spawn(move || some.iter().for_each(|(name, tz)| compare(name, tz, compared)));
        }
    });
    // The names of all others have the same windows.
    let now = nanos("2024-05-20T12:00:00Z");
    for zones in by_clocks.values() {
        let window = |name: &str| calendar(Period::Day, None, name).window(now);
        let first = window(&zones[0].0);
        zones.iter().for_each(|(name, _)| assert_eq!(window(name), first, "{name}"));
    }
}

fn compare(name: &str, tz: &TimeZone, compared: &[(Period, Option<Anchor>, Vec<DateTime>)]) {
    for (period, anchor, begins) in compared {
        let calendar = calendar(*period, *anchor, name);
        let expected = naive(tz, begins.iter().copied());
        for edges in expected.windows(2) {
            let window = calendar.window(edges[0]);
            assert_eq!(window, edges[0]..edges[1], "{calendar}");
        }
        for edges in expected.windows(2).step_by(31) {
            let (start, end) = (edges[0], edges[1]);
            assert_eq!(calendar.window(end - 1), start..end, "{calendar}");
            assert_eq!(calendar.window(start + (end - start) / 2), start..end, "{calendar}");
            assert_eq!(period::window(calendar, end - 1), start..end, "{calendar}");
            assert!(end - start <= calendar.longest() + 86_400 * 1_000_000_000);
        }
        let skips_a_day = expected.len() < begins.len();
        for some in expected.windows(6).step_by(13).filter(|_| !skips_a_day) {
            let ends = (1..6).map(|windows| calendar.end_of(some[0], windows));
            assert_eq!(ends.collect::<Vec<_>>(), some[1..], "{calendar}");
        }
    }
}

#[test]
fn windows_where_clocks_are_changed() {
    for (period, anchor, zone, at, start, end) in [
        // The 31st, in months that have none.
        (
            Period::Month,
            Some(31.into()),
            "UTC",
            "2024-02-28T23:59:59Z",
            "2024-01-31T00:00:00Z",
            "2024-02-29T00:00:00Z",
        ),
        (
            Period::Month,
            Some(31.into()),
            "UTC",
            "2023-02-28T00:00:00Z",
            "2023-02-28T00:00:00Z",
            "2023-03-31T00:00:00Z",
        ),
        (
            Period::Month,
            Some(31.into()),
            "UTC",
            "2024-04-30T00:00:00Z",
            "2024-04-30T00:00:00Z",
            "2024-05-31T00:00:00Z",
        ),
        (
            Period::Month,
            None,
            "Asia/Shanghai",
            "2024-01-31T16:00:00Z",
            "2024-01-31T16:00:00Z",
            "2024-02-29T16:00:00Z",
        ),
        (
            Period::Month,
            None,
            "Asia/Shanghai",
            "2024-01-31T15:59:59.999999999Z",
            "2023-12-31T16:00:00Z",
            "2024-01-31T16:00:00Z",
        ),
        // 23 hours, and 25.
        (
            Period::Day,
            None,
            "Europe/Berlin",
            "2024-03-31T12:00:00Z",
            "2024-03-30T23:00:00Z",
            "2024-03-31T22:00:00Z",
        ),
        (
            Period::Day,
            None,
            "Europe/Berlin",
            "2024-10-27T12:00:00Z",
            "2024-10-26T22:00:00Z",
            "2024-10-27T23:00:00Z",
        ),
        // There is no 02:30 on that day: it begins at 03:00. And in autumn, at the first 02:30.
        (
            Period::Day,
            Some(Anchor::Time { hour: 2, minute: 30 }),
            "Europe/Berlin",
            "2024-03-31T12:00:00Z",
            "2024-03-31T01:00:00Z",
            "2024-04-01T00:30:00Z",
        ),
        (
            Period::Day,
            Some(Anchor::Time { hour: 2, minute: 30 }),
            "Europe/Berlin",
            "2024-10-27T01:15:00Z",
            "2024-10-27T00:30:00Z",
            "2024-10-28T01:30:00Z",
        ),
        // There was no midnight.
        (
            Period::Day,
            None,
            "America/Sao_Paulo",
            "2018-11-04T12:00:00Z",
            "2018-11-04T03:00:00Z",
            "2018-11-05T02:00:00Z",
        ),
        // Clocks went back at midnight: the day before had 25 hours.
        (
            Period::Day,
            None,
            "America/Sao_Paulo",
            "2018-02-18T02:30:00Z",
            "2018-02-17T02:00:00Z",
            "2018-02-18T03:00:00Z",
        ),
        // Samoa had no December 30th.
        (
            Period::Day,
            None,
            "Pacific/Apia",
            "2011-12-30T09:59:59Z",
            "2011-12-29T10:00:00Z",
            "2011-12-30T10:00:00Z",
        ),
        (
            Period::Day,
            None,
            "Pacific/Apia",
            "2011-12-30T10:00:00Z",
            "2011-12-30T10:00:00Z",
            "2011-12-31T10:00:00Z",
        ),
        (
            Period::Week,
            Some(Weekday::Sunday.into()),
            "America/New_York",
            "2024-03-12T00:00:00Z",
            "2024-03-10T05:00:00Z",
            "2024-03-17T04:00:00Z",
        ),
        (
            Period::Year,
            Some(Anchor::YearDay { month: 4, day: 6 }),
            "Europe/London",
            "2024-04-05T22:59:59Z",
            "2023-04-05T23:00:00Z",
            "2024-04-05T23:00:00Z",
        ),
    ] {
        let calendar = calendar(period, anchor, zone);
        assert_eq!(calendar.window(nanos(at)), nanos(start)..nanos(end), "{calendar} at {at}");
    }
}

#[test]
fn every_time_has_a_window() {
    for zone in ["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"] {
        for period in [Period::Day, Period::Week, Period::Month, Period::Year] {
            let calendar = calendar(period, None, zone);
            let mut at = 0;
            for _ in 0..580 {
                let window = calendar.window(at);
                assert!(window.contains(&at), "{calendar}: {window:?} of {at}");
                at = window.end;
            }
            for at in [u64::MAX, u64::MAX - 1, 1 << 57, (1 << 57) - 1, 1 << 63] {
                let window = calendar.window(at);
                assert!(window.start <= at && (at < window.end || window.end == u64::MAX));
            }
            assert_eq!(calendar.end_of(at, u64::MAX), u64::MAX);
            assert_eq!(calendar.end_of(at, 1 << 40), u64::MAX);
        }
    }
}

#[test]
fn a_mistake_says_what_to_write_instead() {
    let problem = |quota: Quota| quota.problem().unwrap_or_default();
    let month = Quota::per_calendar_month(5);
    assert_eq!(problem(month.anchor(31).in_zone("asia/shanghai")), "");
    for (quota, text) in [
        (
            month.in_zone("Asia/Shangai"),
            "the time zone `Asia/Shangai` is not known; write a name of the IANA database, such as `Europe/Berlin`",
        ),
        (
            month.in_zone("Etc/Unknown"),
            "the time zone `Etc/Unknown` is not known; write a name of the IANA database, such as `Europe/Berlin`",
        ),
        (
            month.in_zone(""),
            "the time zone is not known; write a name of the IANA database, such as `Europe/Berlin`",
        ),
        (
            month.anchor(32),
            "its anchor is `32`, but a calendar month begins on a day from 1 to 31; write it as in `.anchor(15)`",
        ),
        (
            month.anchor(0),
            "its anchor is `0`, but a calendar month begins on a day from 1 to 31; write it as in `.anchor(15)`",
        ),
        (
            month.anchor(Weekday::Sunday),
            "its anchor is `Sunday`, but a calendar month begins on a day from 1 to 31; write it as in `.anchor(15)`",
        ),
        (
            Quota::per_calendar_week(5).anchor(3),
            "its anchor is `3`, but a calendar week begins on a day of the week; write it as in `.anchor(Weekday::Sunday)`",
        ),
        (
            Quota::per_calendar_day(5).anchor(Anchor::Time { hour: 24, minute: 0 }),
            "its anchor is `24:00`, but a calendar day begins at a time from 00:00 to 23:59; write it as in `.anchor(Anchor::Time { hour: 6, minute: 0 })`",
        ),
        (
            Quota::per_calendar_year(5).anchor(Anchor::YearDay { month: 2, day: 30 }),
            "its anchor is `02-30`, but a calendar year begins on a day of a month; write it as in `.anchor(Anchor::YearDay { month: 4, day: 1 })`",
        ),
        (
            Quota::per_day(5).in_zone("Asia/Shanghai"),
            "only a quota by the calendar has a time zone or an anchor; write `Quota::per_calendar_day(…)`, or leave `in_zone` and `anchor` out",
        ),
        (
            Quota::per_day(5).anchor(3),
            "only a quota by the calendar has a time zone or an anchor; write `Quota::per_calendar_day(…)`, or leave `in_zone` and `anchor` out",
        ),
    ] {
        assert_eq!(problem(quota), text);
    }
}

#[test]
fn unknown_zones_take_no_more_memory_than_some_names() {
    for number in 0..1_000 {
        let quota = Quota::per_calendar_day(5).in_zone(&format!("Nowhere/{number}"));
        let problem = quota.problem().unwrap();
        assert!(problem.contains("is not known; write a name"), "{problem}");
        assert_eq!(quota.calendar().unwrap().zone(), "");
    }
    let unknown = |name: &str| Quota::per_calendar_day(5).in_zone(name);
    assert_eq!(unknown("Nowhere/998"), unknown("Nowhere/999"), "they have no number of their own");
    assert!(unknown(&"x".repeat(10_000)).problem().is_some());
    assert_eq!(Quota::per_calendar_day(5).in_zone("Asia/Tokyo").problem(), None);
}

#[test]
fn equal_calendars_are_equal_and_others_are_not() {
    let month = Quota::per_calendar_month(5);
    assert_eq!(month, month.in_zone("utc").anchor(1));
    assert_eq!(month.in_zone("Asia/Tokyo"), month.in_zone("asia/tokyo"));
    let all = [
        month,
        month.in_zone("Asia/Tokyo"),
        month.in_zone("Asia/Seoul"),
        month.anchor(2),
        month.anchor(2).in_zone("Asia/Tokyo"),
        Quota::per_calendar_week(5),
        Quota::per_calendar_week(5).anchor(Weekday::Tuesday),
        Quota::per_calendar_month(6),
        Quota::per_window(5, month.window()),
    ];
    for (index, quota) in all.iter().enumerate() {
        for other in &all[..index] {
            assert_ne!(quota, other);
        }
    }
}

#[test]
fn anchors_are_read_as_they_are_written() {
    for anchor in [
        Anchor::MonthDay(7),
        Anchor::MonthDay(31),
        Anchor::Weekday(Weekday::Wednesday),
        Anchor::Time { hour: 0, minute: 5 },
        Anchor::YearDay { month: 12, day: 31 },
    ] {
        assert_eq!(anchor.to_string().parse(), Ok(anchor));
    }
    assert_eq!("we".parse(), Ok(Anchor::Weekday(Weekday::Wednesday)));
    for text in ["", "123", "+1", "Sunda", "6:00", "06:0", "06:00:00", "4-1", "-1", "1.", "１"] {
        let error = text.parse::<Anchor>().unwrap_err();
        assert!(error.to_string().starts_with(&format!("`{text}` is no anchor; write a day")));
    }
}
