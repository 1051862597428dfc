//! Longer waits, so that callers that are refused together do not come back together: [`Jitter`].

use std::time::Duration;

use crate::{
    error::BuildProblem,
    limiter::{Decision, Limiter},
};

/// The longest jitter: a day.
const MAX: Duration = Duration::from_secs(86_400);

/// The longest time that is added to a wait; zero adds none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Jitter(pub(super) Duration);

impl Jitter {
    pub(super) fn problem(self) -> Option<BuildProblem> {
        let problem =
            "it lengthens waits by more than a day; write a shorter time, such as 10 seconds";
        let is_too_long = self.0 > MAX;
        is_too_long.then(|| {
            BuildProblem::new("jitter of `Retry-After`", problem).in_setting("jitter_retry_after")
        })
    }

    /// Lengthens the waits of a refusal, by a time that depends on the caller's key.
    pub(super) fn lengthen(self, decision: &mut Decision, limiter: &Limiter) {
        if self.0.is_zero() {
            return;
        }
        // Under a global policy all callers have one key; under another policy they may not.
        let public = |outcome| limiter.public_fingerprint(&outcome);
        let key = decision.tightest().into_iter().chain(decision.outcomes()).find_map(public);
        if let Some(key) = key {
            decision.delay(self.share(key));
        }
    }

    /// The time to add for a key: evenly spread over keys, and always the same for one key.
    #[expect(clippy::arithmetic_side_effects, reason = "128 bits hold the product of two 64")]
    fn share(self, key: u64) -> Duration {
        let most = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        let nanos = (u128::from(most) * u128::from(key)) >> 64;
        Duration::from_nanos(nanos as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_even() {
        let jitter = Jitter(Duration::from_secs(60));
        assert_eq!(jitter.share(0), Duration::ZERO);
        assert_eq!(jitter.share(1 << 63), Duration::from_secs(30));
        let last = jitter.share(u64::MAX);
        assert!(Duration::from_secs(59) < last && last < Duration::from_secs(60));
        assert!(Jitter(Duration::MAX).share(u64::MAX) < Duration::MAX);
    }
}
