//! Callers that were refused together come back apart.

use std::time::Duration;

use crate::{limiter::Decision, limiter::Limiter};

/// The most by which a wait is lengthened; zero: it is not.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spread(pub(crate) Duration);

impl Spread {
    /// Makes of a refusal what its caller is told: with waits lengthened by the caller's share.
    pub(crate) fn apply(self, decision: &mut Decision, limiter: &Limiter) {
        if self.0.is_zero() {
            return;
        }
        // A global policy does not tell callers apart; another of the request's policies may.
        let mut outcomes = decision.tightest().into_iter().chain(decision.outcomes());
        if let Some(key) = outcomes.find_map(|outcome| limiter.public_fingerprint(outcome)) {
            decision.delay(self.share(key));
        }
    }

    /// Evenly spread over keys, and always the same for one of them.
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
        let spread = Spread(Duration::from_secs(60));
        assert_eq!(spread.share(0), Duration::ZERO);
        assert_eq!(spread.share(1 << 63), Duration::from_secs(30));
        let last = spread.share(u64::MAX);
        assert!(Duration::from_secs(59) < last && last < Duration::from_secs(60));
        assert!(Spread(Duration::MAX).share(u64::MAX) < Duration::MAX);
    }
}
