//! The values of the structured fields (RFC 9651) of drafts 07 and later.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use smallvec::SmallVec;

use super::{HeaderStyle, whole_seconds};
use crate::{
    algorithm::Algorithm,
    clock::{NANOS_PER_SECOND, Now},
    limiter::{Decision, Limiter, Outcome},
    quota::{MAX_UNITS, Quota},
};

/// A value while it is written: on the stack, unless it has many policies. The header then
/// allocates exactly what it needs.
type Value = SmallVec<[u8; 256]>;

/// `limit=100, remaining=50, reset=5`
#[expect(clippy::expect_used, reason = "without, the field would be missing")]
pub(super) fn dictionary(outcome: &Outcome<'_>) -> HeaderValue {
    let mut value = Value::new();
    push_number(&mut value, "limit=", outcome.limit());
    push_number(&mut value, ", remaining=", outcome.remaining());
    if let Some(reset) = outcome.known_reset() {
        push_number(&mut value, ", reset=", whole_seconds(reset));
    }
    HeaderValue::from_bytes(&value).expect("names and digits are visible ASCII")
}

/// `"burst";q=100;w=60, "hourly";q=1000;w=3600`
pub(super) fn policies(
    decision: &Decision,
    style: HeaderStyle,
    limiter: Option<&Limiter>,
) -> Option<HeaderValue> {
    list(decision, style, limiter, |value, outcome, now| {
        push_number(value, ";q=", outcome.limit());
        if let Some(unit) = outcome.entry.labels.unit.as_deref() {
            value.extend_from_slice(b";qu=");
            push_string(value, unit);
        }
        if !outcome.quota().is_in_flight() {
            push_number(value, ";w=", window_seconds(outcome, now));
        }
    })
}

/// `"burst";r=50;t=30, "hourly";r=950;t=1800`
pub(super) fn limits(
    decision: &Decision,
    style: HeaderStyle,
    limiter: Option<&Limiter>,
) -> Option<HeaderValue> {
    list(decision, style, limiter, |value, outcome, _| {
        push_number(value, ";r=", outcome.remaining());
        if let Some(seconds) = effective_window_seconds(outcome) {
            push_number(value, ";t=", seconds);
        }
    })
}

/// One member for each policy; `None` if there is none. A decision of another limiter comes without
/// `limiter`: then there are no partition keys, and policies that a list cannot contain are left
/// out.
#[expect(clippy::expect_used, reason = "without, the field would be missing")]
fn list(
    decision: &Decision,
    style: HeaderStyle,
    limiter: Option<&Limiter>,
    push_parameters: fn(&mut Value, &Outcome<'_>, Now),
) -> Option<HeaderValue> {
    let keys_of = limiter.filter(|_| style.partition_key);
    let mut value = Value::new();
    for outcome in decision.outcomes() {
        if limiter.is_none() && !outcome.entry.labels.fit(fits_string) {
            continue;
        }
        if !value.is_empty() {
            value.extend_from_slice(b", ");
        }
        push_string(&mut value, outcome.policy());
        push_parameters(&mut value, &outcome, decision.record.now);
        if let Some(key) = keys_of.and_then(|limiter| limiter.public_fingerprint(&outcome)) {
            push_bytes(&mut value, ";pk=", key.to_be_bytes());
        }
    }
    // A list without members is no field (RFC 9651, section 3.1).
    let value = Some(value).filter(|value| !value.is_empty())?;
    Some(HeaderValue::from_bytes(&value).expect("`build()` refuses names that no string carries"))
}

/// A string (RFC 9651, section 4.1.6).
fn push_string(value: &mut Value, text: &str) {
    value.push(b'"');
    for byte in text.bytes() {
        if matches!(byte, b'"' | b'\\') {
            value.push(b'\\');
        }
        value.push(byte);
    }
    value.push(b'"');
}

/// Whether a string can contain the text: printable ASCII and the space (RFC 9651, section 3.3.3).
pub(super) fn fits_string(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn push_number(value: &mut Value, before: &str, number: u64) {
    value.extend_from_slice(before.as_bytes());
    value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A byte sequence (RFC 9651, section 4.1.8).
#[expect(clippy::expect_used, reason = "an empty key would be another one's")]
fn push_bytes(value: &mut Value, before: &str, bytes: [u8; 8]) {
    let mut base64 = [0; 12];
    BASE64_STANDARD.encode_slice(bytes, &mut base64).expect("eight bytes are twelve characters");
    value.extend_from_slice(before.as_bytes());
    value.push(b':');
    value.extend_from_slice(&base64);
    value.push(b':');
}

/// `w`: the seconds in which the whole limit comes back. It is the window, or the time in which a
/// bucket refills. By the calendar, it is the window of now.
fn window_seconds(outcome: &Outcome<'_>, now: Now) -> u64 {
    let quota = outcome.quota();
    #[cfg(feature = "calendar")]
    if let Some(calendar) = quota.calendar() {
        let window = calendar.window_with(now.unix(), outcome.reset());
        return whole_seconds(window.end.saturating_sub(window.start)).clamp(1, MAX_UNITS);
    }
    #[cfg(not(feature = "calendar"))]
    let _ = now;
    if quota.units() == 0 {
        // A quota of zero units never comes back: this shows its window.
        return whole_seconds(quota.window()).clamp(1, MAX_UNITS);
    }
    seconds_of(&quota, outcome.limit())
}

/// The seconds in which a quota gives so many units, rounded up.
#[expect(clippy::arithmetic_side_effects, reason = "128 bits hold the product of two 64")]
fn seconds_of(quota: &Quota, units: u64) -> u64 {
    let nanos = u128::from(quota.window_nanos()) * u128::from(units);
    let per_second = u128::from(quota.units().max(1)) * u128::from(NANOS_PER_SECOND);
    // A large bucket that refills slowly may take longer than an integer of RFC 9651 can say.
    u64::try_from(nanos.div_ceil(per_second)).unwrap_or(u64::MAX).min(MAX_UNITS)
}

/// `t`: the seconds within which the caller may use no more than what is left; see
/// [`HeaderStyle::ratelimit_lists`]. It is no longer than the wait of a refused caller
/// (draft-ietf-httpapi-ratelimit-headers-11, section 6). `None` if it is unknown.
fn effective_window_seconds(outcome: &Outcome<'_>) -> Option<u64> {
    let (remaining, reset) = (outcome.remaining(), whole_seconds(outcome.known_reset()?));
    let window = match outcome.algorithm() {
        _ if remaining == 0 => reset,
        Algorithm::FixedWindow => reset.max(1),
        Algorithm::TokenBucket | Algorithm::SlidingWindow | Algorithm::InFlight => {
            seconds_of(&outcome.quota(), remaining).max(reset)
        }
    };
    let wait = outcome.retry_after().map_or(u64::MAX, whole_seconds);
    Some(window.min(wait.max(1)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Usage;
    use crate::{policy::Policy, quota::Quota};

    /// A decision under these policies, with 50 units left.
    fn decision(policies: impl IntoIterator<Item = Policy>) -> Decision {
        let usage = Usage::new(Duration::ZERO, 50, Duration::from_millis(29_001));
        Decision::of(policies.into_iter().map(|policy| (policy, Some(usage), None)))
    }

    fn both(policies: impl IntoIterator<Item = Policy>) -> (HeaderValue, HeaderValue) {
        lists(&decision(policies), HeaderStyle::ratelimit_lists())
    }

    fn lists(decision: &Decision, style: HeaderStyle) -> (HeaderValue, HeaderValue) {
        let limiter = Limiter::builder().build().unwrap();
        let [policies, limits] =
            [policies, limits].map(|list| list(decision, style, Some(&limiter)).unwrap());
        (policies, limits)
    }

    #[test]
    fn the_dictionary_is_a_dictionary() {
        let decision = decision([Policy::fixed_window("burst", Quota::per_minute(100))]);
        assert_eq!(dictionary(&decision.tightest().unwrap()), "limit=100, remaining=50, reset=30");
    }

    #[test]
    fn both_lists_contain_every_policy() {
        let (policies, limits) = both([
            Policy::fixed_window("burst", Quota::per_minute(100)),
            Policy::sliding_window("hourly", Quota::per_hour(1_000)),
        ]);
        assert_eq!(policies, r#""burst";q=100;w=60, "hourly";q=1000;w=3600"#);
        assert_eq!(limits, r#""burst";r=50;t=30, "hourly";r=50;t=180"#);
    }

    #[test]
    fn the_effective_window_is_as_long_as_the_quota_takes_to_give_what_is_left() {
        let second = Duration::from_secs(1);
        let hourly = |policy: fn(&'static str, Quota) -> Policy, burst: Option<u64>| {
            let quota = Quota::per_hour(100);
            policy("p", burst.map_or(quota, |burst| quota.burst(burst)))
        };
        for (policy, remaining, reset, refused, window) in [
            // Until the fixed window ends.
            (hourly(Policy::fixed_window, None), 100, 3_600, None, 3_600),
            (hourly(Policy::fixed_window, None), 99, 7, None, 7),
            (hourly(Policy::fixed_window, None), 0, 7, None, 7),
            (hourly(Policy::fixed_window, None), 100, 0, None, 1),
            // A bucket: 36 s for each unit, and until there is one.
            (hourly(Policy::token_bucket, None), 100, 0, None, 3_600),
            (hourly(Policy::token_bucket, None), 99, 36, None, 3_564),
            (hourly(Policy::token_bucket, Some(10)), 10, 0, None, 360),
            (hourly(Policy::token_bucket, Some(10)), 1, 30, None, 36),
            (hourly(Policy::token_bucket, None), 0, 30, None, 30),
            // A sliding window: as a bucket, but no earlier than the first unit leaves it.
            (hourly(Policy::sliding_window, None), 100, 0, None, 3_600),
            (hourly(Policy::sliding_window, None), 50, 60, None, 1_800),
            (hourly(Policy::sliding_window, None), 1, 900, None, 900),
            (hourly(Policy::sliding_window, None), 0, 900, None, 900),
            // A refused caller may come back before.
            (hourly(Policy::token_bucket, None), 5, 36, Some(36), 36),
            (hourly(Policy::sliding_window, None), 50, 60, Some(120), 120),
        ] {
            let usage = Usage::new(second * refused.unwrap_or(0), remaining, second * reset);
            let refused = refused.map(|_| crate::limiter::Reason::QuotaExceeded);
            let decision = Decision::of([(policy, Some(usage), refused)]);
            let outcome = decision.tightest().unwrap();
            assert_eq!(effective_window_seconds(&outcome), Some(window), "{outcome:?}");
        }
        let quick = Policy::token_bucket("p", Quota::per_second(1_000));
        let usage = Usage::new(Duration::ZERO, 1, Duration::from_micros(900));
        let quick = Decision::of([(quick, Some(usage), None)]);
        let seconds = effective_window_seconds(&quick.tightest().unwrap());
        assert_eq!(seconds, Some(1), "never 0 where something is left");
    }

    #[test]
    fn a_unit_other_than_requests_stands_with_the_quota() {
        let policy = || Policy::token_bucket("p", Quota::per_minute(60));
        for (policy, lists) in [
            (policy().unit("tokens"), r#""p";q=60;qu="tokens";w=60"#),
            (policy().unit("content-bytes"), r#""p";q=60;qu="content-bytes";w=60"#),
            (policy().unit(r#"a"b"#), r#""p";q=60;qu="a\"b";w=60"#),
            (policy().unit("requests"), r#""p";q=60;w=60"#),
            (policy(), r#""p";q=60;w=60"#),
            (Policy::in_flight("p", 4), r#""p";q=4;qu="concurrent-requests""#),
            (Policy::in_flight("p", 4).unit("sockets"), r#""p";q=4;qu="sockets""#),
        ] {
            assert_eq!(both([policy]).0, lists);
        }
    }

    #[test]
    fn names_are_escaped() {
        let (policies, _) = both([Policy::fixed_window(r#"a "b" \c"#, Quota::per_second(1))]);
        assert_eq!(policies, r#""a \"b\" \\c";q=1;w=1"#);
        assert!(fits_string("a ~\"\\"));
        assert!(!fits_string("größe") && !fits_string("a\tb") && !fits_string("\u{7f}"));
    }

    #[test]
    fn windows_are_whole_seconds_and_that_of_a_bucket_is_the_time_in_which_it_refills() {
        let window = |millis| Quota::per_window(5, Duration::from_millis(millis));
        for (policy, list) in [
            (Policy::fixed_window("p", window(100)), r#""p";q=5;w=1"#),
            (Policy::fixed_window("p", window(1_500)), r#""p";q=5;w=2"#),
            (Policy::token_bucket("p", Quota::per_minute(60).burst(10)), r#""p";q=10;w=10"#),
            (Policy::token_bucket("p", Quota::per_minute(40).burst(60)), r#""p";q=60;w=90"#),
            (Policy::token_bucket("p", Quota::per_hour(7).burst(1)), r#""p";q=1;w=515"#),
            (Policy::token_bucket("p", Quota::per_hour(0)), r#""p";q=0;w=3600"#),
        ] {
            assert_eq!(both([policy]).0, list);
        }
    }

    #[test]
    fn the_partition_key_is_a_byte_sequence() {
        let limiter = Limiter::builder().build().unwrap();
        let decision = decision([Policy::fixed_window("p", Quota::per_second(1))]);
        let outcome = decision.tightest().unwrap();
        let key =
            BASE64_STANDARD.encode(limiter.public_fingerprint(&outcome).unwrap().to_be_bytes());
        let style = HeaderStyle::ratelimit_lists().partition_key();
        let limits = limits(&decision, style, Some(&limiter)).unwrap();
        assert_eq!(limits, format!(r#""p";r=50;t=30;pk=:{key}:"#));
    }
}
