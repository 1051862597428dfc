//! When the charges of a waterfall fit that a held request waits for: [`FirstOf`].

use std::time::Duration;

use crate::{clock::nanos, limiter::decision::Outcome, store::Mode};

/// When the first charge of a waterfall fits: when it is due, and at the latest.
pub(super) struct FirstOf {
    pub(super) due: u64,
    pub(super) latest: u64,
}

impl Default for FirstOf {
    fn default() -> Self {
        Self { due: u64::MAX, latest: u64::MAX }
    }
}

impl FirstOf {
    pub(super) fn add(&mut self, due: u64, latest: u64) {
        self.due = self.due.min(due);
        self.latest = self.latest.min(latest);
    }
}

/// When a charge is expected to fit. If that is unknown, the request waits until it is woken, or until
/// its hold is over.
pub(super) fn due_at(outcome: &Outcome<'_>, now: u64) -> u64 {
    let hold = Duration::from_nanos(outcome.entry.special.hold());
    now.saturating_add(nanos(outcome.usage.known_wait().unwrap_or(hold)))
}

/// Whether a request waits for this charge. It does not if the charge is of zero units or of an unlimited
/// quota, or a dry run.
pub(super) fn is_waited_for(outcome: &Outcome<'_>) -> bool {
    outcome.charge.mode == Mode::Enforced && outcome.charge.uses_units()
}
