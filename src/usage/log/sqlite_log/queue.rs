use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::usage::log::Entry;

/// How many entries are written at once, at most.
pub(super) const BATCH: usize = 1_000;
/// As long as a wait is asked of the system.
const LONG: Duration = Duration::from_secs(3_600);
/// How long the first entry of a batch waits for others.
const GATHER: Duration = Duration::from_millis(100);

/// The way of entries from the requests to the thread that writes them: requests never wait.
pub(super) struct Queue {
    state: Mutex<State>,
    /// There is something to do for the writer, or for those who wait for it.
    changed: Condvar,
    max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Entry>,
    /// How many were taken in since the beginning, and what became of them.
    taken: u64,
    written: u64,
    given_up: u64,
    /// How many found no room.
    turned_away: u64,
    failing: bool,
    /// How many of those taken in somebody waits for.
    wanted: u64,
    closed: bool,
}

/// What became of the entries of a [`SqliteLog`](super::SqliteLog).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteLogStats {
    /// Entries that were written: they survive a crash of the process or of the machine.
    pub written: u64,
    /// Entries that wait to be written.
    pub waiting: u64,
    /// Entries that were lost, because the disk was full, locked or slow for too long.
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
            state.turned_away += 1;
            return;
        }
        state.waiting.push_back(entry);
        state.taken += 1;
        let wakes = matches!(state.waiting.len(), 1 | BATCH);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// The next batch: as soon as it is full, its first entry has waited, or somebody waits for it.
    /// Nothing comes within `idle`: an empty one. `None` when the log is closed and all is taken.
    pub(super) fn next(&self, idle: Duration) -> Option<Vec<Entry>> {
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_timeout_while(self.lock(), idle, is_idle);
        let mut state = state.unwrap_or_else(PoisonError::into_inner).0;
        if state.waiting.is_empty() {
            return (!state.closed).then(Vec::new);
        }
        let gathers = |state: &mut State| {
            state.waiting.len() < BATCH && !state.closed && state.wanted <= state.settled()
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

    /// A batch could not be written. Waits `pause` for another try; `false` where there is none,
    /// because the log is closed.
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

    /// Waits until what is in the queue now is written; whether it was, within `patience`.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        // Where that is no time, it waits for as long as it takes.
        let deadline = Instant::now().checked_add(patience);
        let mut state = self.lock();
        let goal = state.taken;
        let lost = state.given_up;
        state.wanted = state.wanted.max(goal);
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
            waiting: state.taken - state.settled(),
            lost: state.given_up + state.turned_away,
            is_failing: state.failing,
        }
    }

    /// Each change under the lock is whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn settled(&self) -> u64 {
        self.written + self.given_up
    }
}
