//! A quota as pages show it: [`quota_json`].

use std::time::Duration;

use serde_json::{Value, json};

use crate::limiter::Outcome;

/// A policy's quota, and how much of it is used.
pub(super) fn quota_json(outcome: Outcome<'_>) -> Value {
    let (limit, remaining, quota) = (outcome.limit(), outcome.remaining(), outcome.quota());
    let mut json = json!({
        "policy": outcome.policy(),
        "counted_by": outcome.key_kind(),
        "algorithm": outcome.algorithm().as_str(),
        "limit": limit,
        "used": limit.saturating_sub(remaining),
        "remaining": remaining,
        "units": quota.units(),
    });
    if let (Some(reset), Value::Object(json)) = (outcome.known_reset(), &mut json) {
        json.insert("reset_seconds".to_owned(), reset.as_secs_f64().into());
        json.insert("window_seconds".to_owned(), quota.window().as_secs_f64().into());
    }
    if let (Some(block), Value::Object(json)) = (outcome.blocked_for(), &mut json) {
        json.insert("blocked_seconds".to_owned(), block.as_secs_f64().into());
    }
    if let (Some(calendar), Value::Object(json)) = (quota.calendar_words(), &mut json) {
        json.insert("calendar".to_owned(), calendar.into());
    }
    json
}

/// A point in time, in milliseconds since 1970 UTC.
pub(super) fn unix_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
