//! Limits that are replaced while requests are decided, held and answered.

mod changes;
mod counts;
mod held;
mod property;
mod under_load;
mod watch;
mod whole_or_not;

use std::time::{Duration, UNIX_EPOCH};

use http::{Request, request::Parts};
use tower_quota::{Algorithm, Clock, Limiter, LimiterBuilder, Policy, Quota, key::header};

const HOUR: Duration = Duration::from_secs(3_600);
const SECOND: Duration = Duration::from_secs(1);
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

/// A day that has just begun, on a clock that only the test moves.
fn clock() -> Clock {
    Clock::tokio(UNIX_EPOCH + Duration::from_secs(20_000 * 86_400))
}

fn policy(name: &str, algorithm: Algorithm, quota: Quota) -> Policy {
    let new = match algorithm {
        Algorithm::TokenBucket => Policy::token_bucket,
        Algorithm::FixedWindow => Policy::fixed_window,
        _ => Policy::sliding_window,
    };
    new(name, quota).key(header("x-key")).or_refuse()
}

/// A policy of a day's window.
fn daily(name: &str, units: u64) -> Policy {
    policy(name, Algorithm::FixedWindow, Quota::per_day(units))
}

fn limits(policies: impl IntoIterator<Item = Policy>) -> LimiterBuilder {
    policies.into_iter().fold(Limiter::builder(), LimiterBuilder::policy)
}

fn request(path: &str, key: &str) -> Parts {
    Request::get(path).header("x-key", key).body(()).unwrap().into_parts().0
}
