//! The limiters whose memory is measured.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use governor::DefaultKeyedRateLimiter;
use tower_quota::{Clock, Limiter, Policy, Quota};

use crate::common::{governors, limiter, now_or_never, process::again};

/// Ours with a token bucket.
pub const TOKEN_BUCKET: &str = "token-bucket";
/// Ours with a fixed window.
pub const FIXED_WINDOW: &str = "fixed-window";
/// Ours with a sliding window.
pub const SLIDING_WINDOW: &str = "sliding-window";
/// governor, with keys of its own.
pub const GOVERNOR: &str = "governor";

/// Something that admits each key once in a while.
pub enum Subject {
    Ours(Limiter),
    Governor(DefaultKeyedRateLimiter<String>),
}

impl Subject {
    /// One request a `window`, with room for `keys`.
    pub fn new(name: &str, window: Duration, keys: usize) -> Self {
        let quota = Quota::per_window(1, window);
        let policy = match name {
            TOKEN_BUCKET => Policy::token_bucket("p", quota),
            FIXED_WINDOW => Policy::fixed_window("p", quota),
            SLIDING_WINDOW => Policy::sliding_window("p", quota),
            GOVERNOR => {
                return Self::Governor(DefaultKeyedRateLimiter::keyed(governors(1, window)));
            }
            other => panic!("nothing is called {other}"),
        };
        // It follows tokio's clock, which may stand still until it is moved.
        Self::Ours(limiter([policy], keys, Clock::tokio(SystemTime::now())))
    }

    pub fn admits(&self, key: &String) -> bool {
        match self {
            Self::Ours(limiter) => {
                let check = limiter.check("p", key).into_future();
                now_or_never(check).expect("the policy's name").is_allowed()
            }
            Self::Governor(governor) => governor.check_key(key).is_ok(),
        }
    }
}

/// This program, measuring `what` of a subject.
pub fn measuring(what: &str, subject: &str, numbers: &[usize]) -> Command {
    let mut command = again();
    command.args(["measure", what, subject]).args(numbers.iter().map(ToString::to_string));
    command
}
