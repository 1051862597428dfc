//! Limits that are replaced while requests are decided, held and answered.

mod changes;
mod counts;
mod held;
mod property;
mod under_load;
mod watch;
mod whole_or_not;

use std::time::{Duration, UNIX_EPOCH};

use tower_quota::{Algorithm, Clock, Limiter, LimiterBuilder, Policy, Quota};

use crate::by_key::policy;

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

/// A day that has just begun, on a clock that only the test moves.
fn clock() -> Clock {
    Clock::tokio(UNIX_EPOCH + Duration::from_secs(20_000 * 86_400))
}

/// A policy of a day's window.
fn daily(name: &str, units: u64) -> Policy {
    policy(name, Algorithm::FixedWindow, Quota::per_day(units))
}

fn limits(policies: impl IntoIterator<Item = Policy>) -> LimiterBuilder {
    policies.into_iter().fold(Limiter::builder(), LimiterBuilder::policy)
}
