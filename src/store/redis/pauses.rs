//! How long a server that fails is left alone between two attempts.

use std::time::Duration;

use tokio::time::Instant;

/// Between two attempts to reach a server that is down.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// One that answers and fails again before this is left alone for longer: probes succeed where
/// requests do not, as when there is little memory left.
const STEADY: Duration = Duration::from_secs(1);

/// Why something is down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Failures,
    ConnectionLost,
}

/// Longer and longer ones, until it has worked for a while.
pub(super) struct Pauses {
    next: Duration,
    works_since: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, works_since: None }
    }
}

impl Pauses {
    pub(super) fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    pub(super) fn works(&mut self) {
        self.works_since = Some(Instant::now());
    }

    /// The first after it has worked.
    pub(super) fn again(&mut self, cause: Cause) -> Duration {
        let worked = self.works_since.map_or(Duration::MAX, |since| since.elapsed());
        let steady = match cause {
            Cause::Failures => STEADY,
            // That says less about the server.
            Cause::ConnectionLost => FIRST_PAUSE,
        };
        if worked >= steady || cause == Cause::ConnectionLost {
            self.next = FIRST_PAUSE;
        }
        if worked >= steady { Duration::ZERO } else { self.next() }
    }
}
