//! When the charges fit that a held request waits for; of those of a waterfall, the first: [`FirstOf`].

use std::time::Duration;

use super::waiters::Waiters;
use crate::{
    clock::{Now, nanos},
    limiter::decision::Outcome,
    store::Mode,
};

/// When a charge fits, or the first one of a waterfall: when it is due, and at the latest.
#[derive(Clone, Copy)]
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
    pub(super) fn add(&mut self, other: Self) {
        self.due = self.due.min(other.due);
        self.latest = self.latest.min(other.latest);
    }
}

impl Waiters {
    /// When this charge alone fits, behind the tickets of a lower rank. If that is unknown, it may fit at
    /// once.
    pub(super) fn foresee(&self, outcome: &Outcome<'_>, rank: u64, now: Now) -> FirstOf {
        let at = now.monotonic_nanos();
        if !is_waited_for(outcome) {
            return FirstOf { due: at, latest: at };
        }
        let due = due_at(outcome, at);
        let latest = |wait| due.max(self.latest(outcome.charge, nanos(wait), false, rank, now));
        FirstOf { due, latest: outcome.usage.known_wait().map_or(at, latest) }
    }
}

/// When a charge is expected to fit. If that is unknown, the request waits until it is woken, or until
/// its hold is over.
fn due_at(outcome: &Outcome<'_>, now: u64) -> u64 {
    let hold = Duration::from_nanos(outcome.entry.special.hold());
    now.saturating_add(nanos(outcome.usage.known_wait().unwrap_or(hold)))
}

/// Whether a request waits for this charge. It does not if the charge is of zero units or of an unlimited
/// quota, or a dry run.
pub(super) fn is_waited_for(outcome: &Outcome<'_>) -> bool {
    outcome.charge.mode == Mode::Enforced && outcome.charge.uses_units()
}
