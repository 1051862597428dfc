//! The pauses between two attempts to use a server that fails: [`Pauses`].

use std::time::Duration;

use tokio::time::Instant;

/// The first pause between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// A server that fails again within this time after it has worked gets a longer pause: a probe may
/// succeed where requests do not, as when little memory is left.
const STEADY: Duration = Duration::from_secs(1);

/// Why something is down.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    Failures,
    ConnectionLost,
}

/// Pauses that grow until the server has worked for a while.
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

    /// The first pause after the server has worked.
    pub(super) fn again(&mut self, cause: Cause) -> Duration {
        let worked = self.works_since.map_or(Duration::MAX, |since| since.elapsed());
        let steady = match cause {
            Cause::Failures => STEADY,
            // A lost connection says less about the server.
            Cause::ConnectionLost => FIRST_PAUSE,
        };
        if worked >= steady || cause == Cause::ConnectionLost {
            self.next = FIRST_PAUSE;
        }
        if worked >= steady { Duration::ZERO } else { self.next() }
    }
}
