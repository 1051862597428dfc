//! The values of structured fields (RFC 9651) in the drafts 07 and 11.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::HeaderValue;
use smallvec::SmallVec;

use super::whole_seconds;
use crate::{
    decision::{Decision, Outcome},
    limiter::Limiter,
    quota::{MAX_UNITS, NANOS_PER_SECOND},
};

/// A value being written, on the stack unless its policies are many: the header then allocates
/// just what it needs.
type Value = SmallVec<[u8; 256]>;

/// `limit=100, remaining=50, reset=5`
pub(super) fn draft_07(outcome: &Outcome) -> Option<HeaderValue> {
    let mut value = Value::new();
    push_number(&mut value, "limit=", outcome.limit());
    push_number(&mut value, ", remaining=", outcome.remaining());
    push_number(&mut value, ", reset=", whole_seconds(outcome.reset()));
    HeaderValue::from_bytes(&value).ok()
}

/// `"burst";q=100;w=60, "hourly";q=1000;w=3600`
pub(super) fn policies(decision: &Decision, keys_of: Option<&Limiter>) -> Option<HeaderValue> {
    list(decision, keys_of, |value, outcome| {
        push_number(value, ";q=", outcome.limit());
        push_number(value, ";w=", window_seconds(outcome));
    })
}

/// `"burst";r=50;t=30, "hourly";r=950;t=1800`
pub(super) fn limits(decision: &Decision, keys_of: Option<&Limiter>) -> Option<HeaderValue> {
    list(decision, keys_of, |value, outcome| {
        push_number(value, ";r=", outcome.remaining());
        push_number(value, ";t=", whole_seconds(outcome.reset()));
    })
}

/// One member for each policy; `keys_of`: the limiter whose partition keys are told.
fn list(
    decision: &Decision,
    keys_of: Option<&Limiter>,
    push_parameters: fn(&mut Value, &Outcome),
) -> Option<HeaderValue> {
    let mut value = Value::new();
    for outcome in decision.outcomes() {
        if !value.is_empty() {
            value.extend_from_slice(b", ");
        }
        push_string(&mut value, outcome.policy());
        push_parameters(&mut value, outcome);
        if let Some(key) = keys_of.and_then(|limiter| limiter.public_fingerprint(outcome)) {
            push_bytes(&mut value, ";pk=", key.to_be_bytes());
        }
    }
    // `build()` has refused names that a string cannot carry.
    HeaderValue::from_bytes(&value).ok()
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

/// Whether a string can carry it: printable ASCII, and the space (RFC 9651, section 3.3.3).
pub(super) fn fits_string(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

fn push_number(value: &mut Value, before: &str, number: u64) {
    value.extend_from_slice(before.as_bytes());
    value.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A byte sequence (RFC 9651, section 4.1.8).
fn push_bytes(value: &mut Value, before: &str, bytes: [u8; 8]) {
    let mut base64 = [0; 12];
    // Eight bytes are twelve characters: this cannot fail.
    let written = BASE64_STANDARD.encode_slice(bytes, &mut base64).unwrap_or_default();
    value.extend_from_slice(before.as_bytes());
    value.push(b':');
    value.extend_from_slice(&base64[..written]);
    value.push(b':');
}

/// The time in which the limit comes back: the window, or what a bucket takes to refill.
fn window_seconds(outcome: &Outcome) -> u64 {
    let quota = outcome.quota();
    let nanos = u128::from(quota.window_nanos()) * u128::from(outcome.limit());
    let seconds = nanos.div_ceil(u128::from(quota.units()) * u128::from(NANOS_PER_SECOND));
    // A large bucket that refills slowly may take longer than an integer can tell.
    u64::try_from(seconds).unwrap_or(u64::MAX).min(MAX_UNITS)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::Usage;
    use crate::{policy::Policy, quota::Quota};

    fn outcome(policy: Policy) -> Outcome {
        {
            let usage = Usage::new(Duration::ZERO, 50, Duration::from_millis(29_001));
            Outcome { usage, ..Outcome::unused(policy) }
        }
    }

    fn both(policies_of: impl IntoIterator<Item = Policy>) -> (HeaderValue, HeaderValue) {
        let decision = Decision::of(policies_of.into_iter().map(outcome));
        (policies(&decision, None).unwrap(), limits(&decision, None).unwrap())
    }

    #[test]
    fn draft_07_is_a_dictionary() {
        let outcome = outcome(Policy::fixed_window("burst", Quota::per_minute(100)));
        assert_eq!(draft_07(&outcome).unwrap(), "limit=100, remaining=50, reset=30");
    }

    #[test]
    fn every_policy_has_its_place_in_both_lists() {
        let (policies, limits) = both([
            Policy::fixed_window("burst", Quota::per_minute(100)),
            Policy::sliding_window("hourly", Quota::per_hour(1_000)),
        ]);
        assert_eq!(policies, r#""burst";q=100;w=60, "hourly";q=1000;w=3600"#);
        assert_eq!(limits, r#""burst";r=50;t=30, "hourly";r=50;t=30"#);
    }

    #[test]
    fn names_are_escaped() {
        let (policies, _) = both([Policy::fixed_window(r#"a "b" \c"#, Quota::per_second(1))]);
        assert_eq!(policies, r#""a \"b\" \\c";q=1;w=1"#);
        assert!(fits_string("a ~\"\\"));
        assert!(!fits_string("größe") && !fits_string("a\tb") && !fits_string("\u{7f}"));
    }

    #[test]
    fn windows_are_whole_seconds_and_a_bucket_tells_when_it_is_full_again() {
        let window = |millis| Quota::per_window(5, Duration::from_millis(millis));
        for (policy, told) in [
            (Policy::fixed_window("p", window(100)), r#""p";q=5;w=1"#),
            (Policy::fixed_window("p", window(1_500)), r#""p";q=5;w=2"#),
            (Policy::token_bucket("p", Quota::per_minute(60).burst(10)), r#""p";q=10;w=10"#),
            (Policy::token_bucket("p", Quota::per_minute(40).burst(60)), r#""p";q=60;w=90"#),
            (Policy::token_bucket("p", Quota::per_hour(7).burst(1)), r#""p";q=1;w=515"#),
        ] {
            assert_eq!(both([policy]).0, told);
        }
    }

    #[test]
    fn the_partition_key_is_a_byte_sequence() {
        let limiter = Limiter::builder().build().unwrap();
        let outcome = outcome(Policy::fixed_window("p", Quota::per_second(1)));
        let key =
            BASE64_STANDARD.encode(limiter.public_fingerprint(&outcome).unwrap().to_be_bytes());
        let decision = Decision::of([outcome]);
        let limits = limits(&decision, Some(&limiter)).unwrap();
        assert_eq!(limits, format!(r#""p";r=50;t=30;pk=:{key}:"#));
    }
}
