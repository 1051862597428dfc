//! A quota as pages show it: [`QuotaJson`].

use std::time::Duration;

use serde::Serialize;

use crate::limiter::Outcome;

/// A policy's quota, and how much of it is used.
#[derive(Serialize)]
pub(super) struct QuotaJson<'a> {
    policy: &'a str,
    counted_by: &'a str,
    algorithm: &'static str,
    limit: u64,
    used: u64,
    remaining: u64,
    reset_seconds: f64,
    units: u64,
    window_seconds: f64,
}

impl<'a> QuotaJson<'a> {
    pub(super) fn new(outcome: &Outcome<'a>) -> Self {
        let (limit, quota) = (outcome.limit(), outcome.quota());
        Self {
            policy: outcome.policy(),
            counted_by: outcome.key_kind(),
            algorithm: outcome.algorithm().as_str(),
            limit,
            used: limit.saturating_sub(outcome.remaining()),
            remaining: outcome.remaining(),
            reset_seconds: outcome.reset().as_secs_f64(),
            units: quota.units(),
            window_seconds: quota.window().as_secs_f64(),
        }
    }
}

/// A point in time, in milliseconds since 1970 UTC.
pub(super) fn unix_millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
