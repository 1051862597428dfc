//! Quotas, times and endpoints as an operator writes them: `100 per minute`, `2 seconds`,
//! `GET /v1/users`.

use std::{borrow::Cow, str::FromStr, time::Duration};

use http::Method;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::quota::Quota;

/// Units of time with their lengths in nanoseconds, the longest first.
const UNITS: [(&str, u128); 7] = [
    ("day", 86_400_000_000_000),
    ("hour", 3_600_000_000_000),
    ("minute", 60_000_000_000),
    ("second", 1_000_000_000),
    ("millisecond", 1_000_000),
    ("microsecond", 1_000),
    ("nanosecond", 1),
];

/// `100 per minute`, `5 per 10 minutes`, `60 per minute, burst 10`, `4 in flight`, or `unlimited`; with
/// the feature `calendar` also `10000 per calendar month from 15 in Asia/Shanghai`.
pub(super) fn parse_quota(text: &str) -> Result<Quota, String> {
    let no_quota = || {
        format!(
            "`{}` is no quota; write one like `100 per minute`, `5 per 10 minutes` or \
             `60 per minute, burst 10`, or write `unlimited`",
            text.escape_debug()
        )
    };
    if text == "unlimited" {
        return Ok(Quota::unlimited());
    }
    if let Some(units) = text.strip_suffix(" in flight") {
        return Ok(Quota::in_flight(number(units)?));
    }
    let (rate, burst) = match text.split_once(", burst ") {
        Some((rate, burst)) => (rate, Some(burst)),
        None => (text, None),
    };
    let (units, window) = rate.split_once(" per ").ok_or_else(no_quota)?;
    let units = number(units)?;
    let quota = match (window.strip_prefix("calendar "), window.split_once(' ')) {
        (Some(calendar), _) => parse_calendar(units, calendar)?,
        (None, Some((period, rest)))
            if ["day", "week", "month", "year"].contains(&period)
                && (rest.starts_with("from ") || rest.starts_with("in ")) =>
        {
            return Err(format!(
                "only windows of the calendar have `from` and `in`; write `calendar {period}`"
            ));
        }
        (None, Some((count, unit))) => Quota::per_window(units, length(count, unit)?),
        (None, None) => Quota::per_window(units, length("1", window)?),
    };
    Ok(match burst {
        Some(burst) => quota.burst(number(burst)?),
        None => quota,
    })
}

/// The rest of `10000 per calendar month from 15 in Asia/Shanghai`.
#[cfg(feature = "calendar")]
fn parse_calendar(units: u64, text: &str) -> Result<Quota, String> {
    use crate::calendar::{Anchor, Period};

    let (text, zone) = match text.split_once(" in ") {
        Some((text, zone)) => (text, Some(zone)),
        None => (text, None),
    };
    let (period, anchor) = match text.split_once(" from ") {
        Some((period, anchor)) => (period, Some(anchor)),
        None => (text, None),
    };
    let period = match period {
        "day" => Period::Day,
        "week" => Period::Week,
        "month" => Period::Month,
        "year" => Period::Year,
        _ => {
            return Err(format!(
                "`{}` is no period of the calendar; write `day`, `week`, `month` or `year`, as in \
                 `10000 per calendar month from 15 in Asia/Shanghai`",
                period.escape_debug()
            ));
        }
    };
    let mut quota = Quota::per_calendar(units, period);
    if let Some(anchor) = anchor {
        quota = quota.anchor(anchor.parse::<Anchor>().map_err(|problem| problem.to_string())?);
    }
    Ok(zone.map_or(quota, |zone| quota.in_zone(zone)))
}

#[cfg(not(feature = "calendar"))]
fn parse_calendar(_: u64, _: &str) -> Result<Quota, String> {
    Err("this program has no calendar; write a length, as in `100 per day`, or build it with the \
         feature `calendar`"
        .into())
}

/// As it is read. The words after `per`; `None` without a calendar.
fn write_calendar(quota: &Quota) -> Option<String> {
    #[cfg(feature = "calendar")]
    return quota.calendar().map(|calendar| {
        let (period, anchor) = (calendar.period(), calendar.anchor());
        let is_first = Quota::per_calendar(1, period).calendar().map(|first| first.anchor());
        let from = (is_first != Some(anchor)).then(|| format!(" from {anchor}"));
        let from = from.unwrap_or_default();
        format!("calendar {}{from} in {}", period.as_str(), calendar.zone())
    });
    #[cfg(not(feature = "calendar"))]
    return quota.calendar_words();
}

pub(super) fn write_quota(quota: &Quota) -> String {
    if quota.is_unlimited() {
        return "unlimited".to_owned();
    }
    if quota.is_in_flight() {
        return format!("{} in flight", quota.units());
    }
    let window = write_calendar(quota).unwrap_or_else(|| write_duration(quota.window()));
    let window = window.strip_prefix("1 ").unwrap_or(&window);
    let burst = quota.has_burst().then(|| format!(", burst {}", quota.capacity()));
    format!("{} per {window}{}", quota.units(), burst.unwrap_or_default())
}

/// `2 seconds`, `1 hour`.
pub(super) fn parse_duration(text: &str) -> Result<Duration, String> {
    let (count, unit) = text.split_once(' ').ok_or_else(|| {
        let text = text.escape_debug();
        format!("`{text}` is no time; write one like `2 seconds` or `500 milliseconds`")
    })?;
    length(count, unit)
}

/// In the longest unit of which it is a whole number.
pub(super) fn write_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    let fits = |(_, length): &&(&str, u128)| nanos >= *length && nanos.is_multiple_of(*length);
    match UNITS.iter().find(fits) {
        Some((unit, length)) if nanos == *length => format!("1 {unit}"),
        Some((unit, length)) => format!("{} {unit}s", nanos / length),
        None => "0 seconds".to_owned(),
    }
}

fn length(count: &str, unit: &str) -> Result<Duration, String> {
    let named = |(name, _): &&(&str, u128)| unit == *name || unit.strip_suffix('s') == Some(*name);
    let (_, length) = UNITS.iter().find(named).ok_or_else(|| match unit.trim_end_matches('s') {
        period @ ("week" | "month" | "year") => format!(
            "`{unit}` is no unit of time; write its days, as in `100 per 30 days`, or `calendar {period}`"
        ),
        _ => format!(
            "`{}` is no unit of time; write `second`, `minute`, `hour` or `day`, as in `5 per 10 \
             minutes`, or `milliseconds` for a part of a second",
            unit.escape_debug()
        ),
    })?;
    let nanos = number::<u128>(count)
        .map_err(|problem| match count.contains('.') {
            true => format!(
                "`{count}` is no whole number; write a shorter unit, as in `1500 milliseconds`"
            ),
            false => problem,
        })?
        .saturating_mul(*length);
    let seconds = u64::try_from(nanos / 1_000_000_000)
        .map_err(|_| format!("`{count} {unit}` is too long; write a shorter time"))?;
    Ok(Duration::new(seconds, (nanos % 1_000_000_000) as u32))
}

/// A whole number, which may have a comma or underscore before each group of three digits.
fn number<T: FromStr>(text: &str) -> Result<T, String> {
    let groups: Vec<_> = text.split(['_', ',']).collect();
    let are_thousands = groups.iter().skip(1).all(|group| group.len() == 3);
    let is_number = groups
        .iter()
        .all(|group| !group.is_empty() && group.bytes().all(|digit| digit.is_ascii_digit()));
    let shown = text.escape_debug();
    if !is_number || !are_thousands {
        return Err(format!("`{shown}` is no whole number; write one like `100` or `1_000`"));
    }
    groups.concat().parse().map_err(|_| format!("`{shown}` is too large; write a smaller number"))
}

/// A name as a key of TOML, in quotes if need be.
pub(super) fn key(name: &str) -> Cow<'_, str> {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match !name.is_empty() && name.bytes().all(is_bare) {
        true => name.into(),
        false => format!("\"{}\"", name.escape_debug()).into(),
    }
}

/// The usual method that is probably meant by a name that differs in a slip, or in two if it is long.
/// Such a name would match no request, without a word.
fn misspelt_method(name: &str) -> Option<&'static str> {
    const USUAL: [&str; 10] =
        ["CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"];
    if USUAL.contains(&name) || name.len() > 20 {
        return None;
    }
    let most = if name.len() < 6 { 1 } else { 2 };
    USUAL.into_iter().find(|usual| strsim::damerau_levenshtein(name, usual) <= most)
}

/// The methods, none for any, and the path of `GET, POST /v1/users` or `/v1/users`.
pub(super) fn parse_endpoint(text: &str) -> Result<(Vec<Method>, String), String> {
    let Some((methods, path)) = text.rsplit_once(' ') else {
        return Ok((Vec::new(), text.to_owned()));
    };
    let method = |name: &str| {
        if let Some(usual) = misspelt_method(name) {
            return Err(format!(
                "`{name}` is no usual method; write `{usual}`, or name a function that matches \
                 `{name}` if that is meant"
            ));
        }
        let known = Method::from_bytes(name.as_bytes()).ok();
        known.filter(|_| name.bytes().all(|byte| byte.is_ascii_uppercase())).ok_or_else(|| {
            format!(
                "`{}` is no method; write requests like `GET /v1/users`, `POST, PATCH /v1/users` \
                 or `/v1/users`",
                name.escape_debug()
            )
        })
    };
    let methods = methods.split(',').map(|name| method(name.trim())).collect::<Result<_, _>>()?;
    Ok((methods, path.to_owned()))
}

pub(super) fn write_endpoint(methods: &[Method], path: &str) -> String {
    let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
    if methods.is_empty() { path.to_owned() } else { format!("{} {path}", methods.join(", ")) }
}

/// As text, like `100 per minute`: see the module [`config`](crate::config).
impl Serialize for Quota {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_quota(self))
    }
}

/// From text, like `100 per minute`: see the module [`config`](crate::config).
impl<'de> Deserialize<'de> for Quota {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parse_quota(&Text::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

impl JsonSchema for Quota {
    fn schema_name() -> Cow<'static, str> {
        "Quota".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`100 per minute`, `5 per 10 minutes`, `60 per minute, burst 10`, `4 in flight`, `10000 per calendar month from 15 in Asia/Shanghai`, or `unlimited`",
            "pattern": format!(
                "^(unlimited|{NUMBER} in flight|{NUMBER} per (({NUMBER} )?{UNIT}|{CALENDAR})(, burst {NUMBER})?)$"
            ),
        })
    }
}
const NUMBER: &str = "[0-9]+([_,][0-9]{3})*";
const CALENDAR: &str =
    "calendar (day|week|month|year)( from [0-9A-Za-z:-]+)?( in [0-9A-Za-z/_+-]+)?";
const UNIT: &str = "((milli|micro|nano)?second|minute|hour|day)s?";

/// For a field with `#[serde(with = "text::duration")]`.
pub(super) mod duration {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&write_duration(*duration))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        parse_duration(&Text::deserialize(deserializer)?.0).map_err(D::Error::custom)
    }
}

/// For a field that may be absent.
pub(super) mod optional_duration {
    use super::*;

    #[expect(clippy::ref_option, reason = "serde hands in a reference to the field")]
    pub(in crate::config) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => super::duration::serialize(duration, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        super::duration::deserialize(deserializer).map(Some)
    }
}

/// For a list.
pub(super) mod durations {
    use super::*;

    /// A time in a list.
    #[derive(Deserialize)]
    struct Item(#[serde(with = "super::duration")] Duration);

    pub(in crate::config) fn serialize<S: Serializer>(
        durations: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(durations.iter().map(|duration| write_duration(*duration)))
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let items = Vec::<Item>::deserialize(deserializer)?;
        Ok(items.into_iter().map(|Item(duration)| duration).collect())
    }
}

/// The schema of a time.
pub(super) struct Time;

impl JsonSchema for Time {
    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "`2 seconds`, `500 milliseconds`, `1 hour`",
            "pattern": format!("^{NUMBER} {UNIT}$"),
        })
    }
}

/// A string, which a format may lend or own.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use super::*;

    /// The registered methods of HTTP that are in capital letters, and a common one that is not registered.
    #[test]
    fn a_misspelt_method_is_an_error_and_an_unusual_one_is_not() {
        let unusual = "ACL BIND CHECKIN CHECKOUT COPY LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR MKCOL MOVE \
                       ORDERPATCH PROPFIND PROPPATCH QUERY REBIND REPORT SEARCH UNBIND UNLINK UNLOCK \
                       UPDATE PURGE";
        for method in unusual.split(' ') {
            let (methods, _) = parse_endpoint(&format!("{method} /x")).unwrap();
            assert_eq!(methods[0].as_str(), method);
        }
        for (wrong, meant) in [
            ("GTE", "GET"),
            ("PSOT", "POST"),
            ("DELTE", "DELETE"),
            ("OPTION", "OPTIONS"),
            ("PATHC", "PATCH"),
        ] {
            let problem = parse_endpoint(&format!("GET, {wrong} /x")).unwrap_err();
            assert!(problem.contains(&format!("write `{meant}`")), "{problem}");
        }
    }
}
