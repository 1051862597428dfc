//! The queue from requests to the thread that writes: requests never wait.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::usage::log::Entry;

/// The most entries written at once.
pub(super) const BATCH: usize = 1_000;
/// The longest single wait of a condition variable.
const LONG: Duration = Duration::from_secs(3_600);
/// How long the first entry of a batch waits for others.
const GATHER: Duration = Duration::from_millis(100);

/// The entries that wait to be written, and counts of what became of the others.
pub(super) struct Queue {
    state: Mutex<State>,
    /// Signals that the writer, or a caller of `flush`, has something to do.
    changed: Condvar,
    max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// The number of entries queued so far; each ends as written or given up.
    queued: u64,
    written: u64,
    given_up: u64,
    /// The number of entries that found no room.
    rejected: u64,
    failing: bool,
    /// The number of entries, of those queued, that a caller of `flush` waits for.
    flush_goal: u64,
    closed: bool,
}

/// What became of the entries of a [`SqliteLog`](super::SqliteLog).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteLogStats {
    /// The number of entries written: they survive a crash of the process or of the machine.
    pub written: u64,
    /// The number of entries that wait to be written.
    pub waiting: u64,
    /// The number of entries lost, because the disk was full, locked or slow for too long.
    pub lost: u64,
    /// Whether writing fails now.
    pub is_failing: bool,
}

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), max }
    }

    pub(super) fn push(&self, entry: &Entry) {
        let entry = entry.clone();
        let mut state = self.lock();
        if state.waiting.len() >= self.max {
            state.rejected += 1;
            return;
        }
        state.waiting.push_back(entry);
        state.queued += 1;
        let wakes = matches!(state.waiting.len(), 1 | BATCH);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// Waits for the next batch, until it is full, its first entry has waited for `GATHER`, or a caller
    /// flushes. An empty batch where no entry comes within `idle`. `None` when the log is closed and
    /// its last batch was returned.
    pub(super) fn next(&self, idle: Duration) -> Option<Vec<Entry>> {
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_timeout_while(self.lock(), idle, is_idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner).0;
        if state.waiting.is_empty() {
            return (!state.closed).then(Vec::new);
        }
        let gathers = |state: &mut State| {
            state.waiting.len() < BATCH && !state.closed && state.flush_goal <= state.settled()
        };
        let gathered = self.changed.wait_timeout_while(state, GATHER, gathers);
        state = gathered.unwrap_or_else(PoisonError::into_inner).0;
        let batch = state.waiting.len().min(BATCH);
        Some(state.waiting.drain(..batch).collect())
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    pub(super) fn written(&self, entries: usize) {
        let mut state = self.lock();
        state.written += entries as u64;
        state.failing = false;
        self.changed.notify_all();
    }

    /// Notes that a batch could not be written, and waits for `pause`. `false` where the log is closed,
    /// so that there is no further try.
    pub(super) fn failed(&self, pause: Duration) -> bool {
        let mut state = self.lock();
        state.failing = true;
        let paused = self.changed.wait_timeout_while(state, pause, |state| !state.closed);
        !paused.unwrap_or_else(PoisonError::into_inner).0.closed
    }

    pub(super) fn gave_up(&self, entries: usize) {
        self.lock().given_up += entries as u64;
        self.changed.notify_all();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until the entries queued so far are written. `true` if they were, within `patience`.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        // Without a deadline, it waits for as long as it takes.
        let deadline = Instant::now().checked_add(patience);
        let mut state = self.lock();
        let goal = state.queued;
        let lost = state.given_up;
        state.flush_goal = state.flush_goal.max(goal);
        self.changed.notify_all();
        while state.settled() < goal {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return false;
            }
            let waited = self.changed.wait_timeout(state, left.unwrap_or(LONG).min(LONG));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.given_up == lost
    }

    pub(super) fn stats(&self) -> SqliteLogStats {
        let state = self.lock();
        SqliteLogStats {
            written: state.written,
            waiting: state.queued - state.settled(),
            lost: state.given_up + state.rejected,
            is_failing: state.failing,
        }
    }

    /// No thread panics between two changes that belong together.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settled(&self) -> u64 {
        self.written + self.given_up
    }
}
