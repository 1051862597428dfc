//! The queue from requests to the thread that writes: requests never wait.

use std::{collections::VecDeque, sync::Condvar, time::Duration};

use crate::{
    lock::{Mutex, unpoisoned},
    usage::log::Entry,
};

/// The most entries written at once.
pub(super) const BATCH: usize = 1_000;
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
    /// The entries that wait, without the batch that the writer has.
    waiting: VecDeque<Entry>,
    stats: SqliteLogStats,
    /// The number of entries written that a caller of `flush` waits for.
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
        let mut state = self.state.lock();
        if state.waiting.len() >= self.max {
            state.stats.lost += 1;
            return;
        }
        state.waiting.push_back(entry);
        state.stats.waiting += 1;
        let wakes = matches!(state.waiting.len(), 1 | BATCH);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// Waits for the next batch, until it is full, its first entry has waited for `GATHER`, or a caller
    /// flushes. An empty batch if no entry comes within `idle`. `None` when the log is closed and
    /// its last batch was returned.
    pub(super) fn next(&self, idle: Duration) -> Option<Vec<Entry>> {
        let is_idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.changed.wait_timeout_while(self.state.lock(), idle, is_idle);
        let mut state = unpoisoned(state).0;
        if state.waiting.is_empty() {
            return (!state.closed).then(Vec::new);
        }
        let gathers = |state: &mut State| {
            state.waiting.len() < BATCH && !state.closed && state.flush_goal <= state.stats.written
        };
        let gathered = self.changed.wait_timeout_while(state, GATHER, gathers);
        state = unpoisoned(gathered).0;
        let batch = state.waiting.len().min(BATCH);
        Some(state.waiting.drain(..batch).collect())
    }

    pub(super) fn has_waiting(&self) -> bool {
        !self.state.lock().waiting.is_empty()
    }

    pub(super) fn written(&self, entries: usize) {
        let mut state = self.state.lock();
        state.stats.written += entries as u64;
        state.stats.waiting -= entries as u64;
        state.stats.is_failing = false;
        self.changed.notify_all();
    }

    /// Notes that a batch could not be written, and waits for `pause`. `false` if the log is closed,
    /// so that there is no further try.
    pub(super) fn failed(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        state.stats.is_failing = true;
        let paused = self.changed.wait_timeout_while(state, pause, |state| !state.closed);
        !unpoisoned(paused).0.closed
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }

    /// Waits until the entries queued so far are written. `true` if they were, within `patience`.
    pub(super) fn flush(&self, patience: Duration) -> bool {
        let mut state = self.state.lock();
        let goal = state.stats.written + state.stats.waiting;
        state.flush_goal = state.flush_goal.max(goal);
        self.changed.notify_all();
        let is_early = |state: &mut State| state.stats.written < goal;
        let flushed = self.changed.wait_timeout_while(state, patience, is_early);
        !unpoisoned(flushed).1.timed_out()
    }

    pub(super) fn stats(&self) -> SqliteLogStats {
        self.state.lock().stats
    }
}
