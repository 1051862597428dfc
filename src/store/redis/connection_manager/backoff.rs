//! The pauses between two attempts to use a server that fails: [`Backoff`].

use std::time::Duration;

use tokio::time::Instant;

const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A server that fails again within this time after an attempt worked gets a longer pause. A probe may
/// work where requests do not, as when little memory is left.
const STEADY: Duration = Duration::from_secs(1);

/// Why a server is down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum DownReason {
    Errors,
    ConnectionLost,
}

/// Pauses that double until the server has worked for a while.
#[derive(Default)]
pub(super) struct Backoff {
    /// The number of pauses since the shortest one.
    pauses: u32,
    works_since: Option<Instant>,
}

impl Backoff {
    /// The pause after an attempt that failed.
    pub(super) fn next_pause(&mut self) -> Duration {
        let pause = FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(self.pauses));
        self.pauses = self.pauses.saturating_add(1);
        pause.min(LONGEST_PAUSE)
    }

    /// Notes that an attempt has worked.
    pub(super) fn record_success(&mut self) {
        self.works_since = Some(Instant::now());
    }

    /// The pause before the first attempt after the server went down: none if it worked for a while.
    pub(super) fn first_pause(&mut self, reason: DownReason) -> Duration {
        let worked = self.works_since.map_or(Duration::MAX, |since| since.elapsed());
        let steady = match reason {
            DownReason::Errors => STEADY,
            // A lost connection says less about the server.
            DownReason::ConnectionLost => FIRST_PAUSE,
        };
        if worked >= steady || reason == DownReason::ConnectionLost {
            self.pauses = 0;
        }
        if worked >= steady { Duration::ZERO } else { self.next_pause() }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    /// The backoff after a server has failed five times.
    fn after_failures() -> Backoff {
        let mut backoff = Backoff::default();
        let pauses = [(); 5].map(|()| backoff.next_pause().as_millis());
        assert_eq!(pauses, [25, 50, 100, 200, 400]);
        backoff
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_worked_for_a_while_is_tried_again_at_once() {
        let mut backoff = after_failures();
        backoff.record_success();
        advance(STEADY - Duration::from_millis(1)).await;
        assert_eq!(backoff.first_pause(DownReason::Errors), LONGEST_PAUSE);
        advance(Duration::from_millis(1)).await;
        assert_eq!(backoff.first_pause(DownReason::Errors), Duration::ZERO);
        assert_eq!(backoff.next_pause(), FIRST_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_connection_has_the_shortest_pause_or_none() {
        let mut backoff = after_failures();
        backoff.record_success();
        assert_eq!(backoff.first_pause(DownReason::ConnectionLost), FIRST_PAUSE);
        advance(FIRST_PAUSE).await;
        assert_eq!(backoff.first_pause(DownReason::ConnectionLost), Duration::ZERO);
    }
}
