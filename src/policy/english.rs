//! A policy's settings in plain English: `5 per minute, by email, or else ip`.

use std::{borrow::Borrow, time::Duration};

use super::{Policy, settings::IN_FLIGHT_UNIT};
use crate::{
    algorithm::Algorithm,
    penalty::{Counted, Penalty},
    quota::Quota,
};

/// `1,000 per hour`, `5 per 10 minutes`, `60 per minute, 10 at once`, `1,000 tokens per hour`, `4 in flight`
pub(crate) fn limit(quota: &Quota, algorithm: Algorithm, unit: Option<&str>) -> String {
    if quota.is_unlimited() {
        return "unlimited".to_owned();
    }
    let unit = unit.filter(|unit| *unit != IN_FLIGHT_UNIT);
    let unit = unit.map(|unit| format!(" {unit}")).unwrap_or_default();
    if algorithm == Algorithm::InFlight {
        return format!("{}{unit} in flight", number(quota.units()));
    }
    let window = quota.calendar_words().unwrap_or_else(|| window(quota.window()));
    let rate = format!("{}{unit} per {window}", number(quota.units()));
    match algorithm {
        Algorithm::TokenBucket => format!("{rate}, {} at once", number(quota.capacity())),
        Algorithm::FixedWindow | Algorithm::SlidingWindow | Algorithm::InFlight => rate,
    }
}

/// `5 per minute, by email, or else ip`; with a schedule `5 per minute (Sa 10:00-14:00 in UTC: 9 per
/// minute), by ip`
pub(crate) fn settings<K: Borrow<str>>(policy: &Policy, kinds: &[K]) -> String {
    let limit = limit(&policy.quota(), policy.algorithm(), policy.settings.unit.as_deref());
    let schedule = schedule(policy).map_or(String::new(), |schedule| format!(" ({schedule})"));
    format!("{limit}{schedule}, by {}", keys(policy.settings.keys.is_global, kinds))
}

/// `Sa 10:00-14:00 in UTC: 9 per minute`; `None` for a policy whose quota is the same at all hours.
pub(crate) fn schedule(policy: &Policy) -> Option<String> {
    #[cfg(feature = "calendar")]
    if !policy.settings.schedules.is_empty() {
        let quota = |quota| limit(quota, policy.algorithm(), policy.settings.unit.as_deref());
        let all = policy.settings.schedules.iter();
        let all: Vec<_> = all.map(|(hours, limit)| format!("{hours}: {}", quota(limit))).collect();
        return Some(all.join("; "));
    }
    let _ = policy;
    None
}

/// `ip`, `email, or else ip`
pub(crate) fn keys<K: Borrow<str>>(is_global: bool, kinds: &[K]) -> String {
    match kinds {
        [] if is_global => "all requests together".to_owned(),
        [] => "the key asked about".to_owned(),
        kinds => kinds.join(", or else "),
    }
}

/// `5 refusals within 1 minute block for 2 minutes, then 1 day; forgotten after 1 day`
pub(crate) fn penalty(penalty: &Penalty) -> String {
    let what = if penalty.counts(Counted::Failures) { "failure" } else { "refusal" };
    let (plural, verb) = if penalty.after == 1 { ("", "blocks") } else { ("s", "block") };
    let within = duration(penalty.within());
    let blocks: Vec<_> = penalty.blocks.iter().map(|block| duration(*block)).collect();
    let (after, blocks) = (penalty.after, blocks.join(", then "));
    let forgotten = duration(penalty.forget_after);
    format!(
        "{after} {what}{plural} within {within} {verb} for {blocks}; forgotten after {forgotten}"
    )
}

/// `2 seconds`, `1 hour`
pub(crate) fn duration(duration: Duration) -> String {
    let (count, unit) = in_units(duration);
    match &*count {
        "1" => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    }
}

/// The same, rounded up to milliseconds.
#[cfg(any(feature = "describe", feature = "testing"))]
pub(crate) fn rounded(exact: Duration) -> String {
    let millis = u64::try_from(exact.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
    duration(Duration::from_millis(millis))
}

/// `hour`, `10 minutes`
fn window(length: Duration) -> String {
    let text = duration(length);
    text.strip_prefix("1 ").unwrap_or(&text).to_owned()
}

/// The duration in the largest unit of which it is a whole number.
#[expect(clippy::arithmetic_side_effects, reason = "no unit is 0 seconds long")]
fn in_units(duration: Duration) -> (String, &'static str) {
    let seconds = duration.as_secs();
    if duration.subsec_nanos() != 0 {
        return (duration.as_secs_f64().to_string(), "second");
    }
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let whole =
        units.into_iter().find(|(length, _)| seconds >= *length && seconds.is_multiple_of(*length));
    let (length, unit) = whole.unwrap_or((1, "second"));
    (number(seconds / length), unit)
}

/// The number with a comma between thousands: `1,000`.
fn number(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_in_plain_english() {
        let (bucket, window) = (Algorithm::TokenBucket, Algorithm::SlidingWindow);
        for (quota, algorithm, words) in [
            (Quota::per_hour(1_000), window, "1,000 per hour"),
            (Quota::per_day(1_234_567), window, "1,234,567 per day"),
            (Quota::per_window(5, Duration::from_secs(600)), window, "5 per 10 minutes"),
            (Quota::per_window(5, Duration::from_secs(90)), window, "5 per 90 seconds"),
            (Quota::per_window(5, Duration::from_millis(1_500)), window, "5 per 1.5 seconds"),
            (Quota::per_minute(60).burst(10), bucket, "60 per minute, 10 at once"),
            (Quota::per_minute(60), bucket, "60 per minute, 60 at once"),
            (Quota::unlimited(), bucket, "unlimited"),
            (Quota::in_flight(4), Algorithm::InFlight, "4 in flight"),
        ] {
            assert_eq!(limit(&quota, algorithm, None), words);
        }
        let tokens = limit(&Quota::per_minute(60).burst(10), bucket, Some("tokens"));
        assert_eq!(tokens, "60 tokens per minute, 10 at once");
        let minute = Duration::from_secs(60);
        let longer = Penalty::after(5).refusals_within(minute).block(2 * minute).then(10 * minute);
        assert_eq!(
            penalty(&longer),
            "5 refusals within 1 minute block for 2 minutes, then 10 minutes; forgotten after 1 day"
        );
        let first = Penalty::after(1).failures_within(minute).block(minute).forget_after(minute);
        assert_eq!(
            penalty(&first),
            "1 failure within 1 minute blocks for 1 minute; forgotten after 1 minute"
        );
        assert_eq!(duration(Duration::from_secs(1)), "1 second");
        assert_eq!(duration(Duration::from_millis(250)), "0.25 seconds");
    }
}
