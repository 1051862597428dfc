//! How a quota is counted: pure functions of (state, now, quota, cost).
//!
//! No clock, no I/O, no atomics: a store holds the [`State`]s and hands in the time. All times are
//! nanoseconds, and all arithmetic is exact.

mod fixed_window;
#[cfg(test)]
mod oracle;
mod sliding_window;
mod token_bucket;

use fixed_window::FixedWindow;
use sliding_window::SlidingWindow;
use token_bucket::TokenBucket;

use crate::{clock::Now, quota::Quota};

/// How a quota is counted. [`Policy`](crate::Policy) has a constructor for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket that holds the quota's burst and refills evenly over the window: the generic cell
    /// rate algorithm (ITU-T I.371), in exact arithmetic.
    TokenBucket,
    /// Windows aligned to the wall clock, in UTC: an hour begins on the hour.
    FixedWindow,
    /// No more than the quota in any interval of the window's length. A unit comes back when the
    /// window has passed over it, at most 1/60 of the window late.
    SlidingWindow,
}

impl Algorithm {
    /// The most that can be used at once under `quota`.
    pub(crate) fn capacity(self, quota: &Quota) -> u64 {
        match self {
            Self::TokenBucket => quota.capacity(),
            Self::FixedWindow | Self::SlidingWindow => quota.units(),
        }
    }

    /// How long it takes at most until `cost` units are there, however much was used.
    pub(crate) fn longest_wait(self, quota: &Quota, cost: u64) -> u64 {
        match self {
            Self::TokenBucket => mul_div_ceil(cost, quota.window_nanos(), quota.units()),
            Self::FixedWindow | Self::SlidingWindow => quota.window_nanos(),
        }
    }
}

/// What one key has used under one policy.
#[derive(Clone, Debug)]
pub(crate) enum State {
    TokenBucket(TokenBucket),
    FixedWindow(FixedWindow),
    /// Boxed: it is large, and other keys shall not pay for it.
    SlidingWindow(Box<SlidingWindow>),
}

macro_rules! each {
    ($state:expr, $inner:ident => $do:expr) => {
        match $state {
            State::TokenBucket($inner) => $do,
            State::FixedWindow($inner) => $do,
            State::SlidingWindow($inner) => $do,
        }
    };
}

impl State {
    /// A key that has used nothing.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::TokenBucket => Self::TokenBucket(TokenBucket::default()),
            Algorithm::FixedWindow => Self::FixedWindow(FixedWindow::default()),
            Algorithm::SlidingWindow => Self::SlidingWindow(Box::default()),
        }
    }

    /// How long until `cost` units fit; 0 when they fit now. A cost above the quota's capacity is
    /// read as that many single units asked for one after another.
    pub(crate) fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        each!(self, inner => inner.wait(quota, now, cost))
    }

    /// Uses `cost` units.
    pub(crate) fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        each!(self, inner => inner.take(quota, now, cost));
    }

    /// Takes back a use of `units` that was made at `taken_at`, as far as they have not come back
    /// by themselves.
    pub(crate) fn give_back(&mut self, quota: &Quota, now: Now, taken_at: Now, units: u64) {
        match self {
            Self::TokenBucket(bucket) => bucket.give_back(quota, now, units),
            Self::FixedWindow(window) => window.give_back(quota, now, taken_at, units),
            Self::SlidingWindow(log) => log.give_back(quota, now, taken_at, units),
        }
    }

    /// The units left.
    pub(crate) fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.remaining(quota, now))
    }

    /// How long until [`remaining`](Self::remaining) grows, or until a fixed window ends; 0 for any
    /// other of which nothing is used.
    pub(crate) fn reset(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.reset(quota, now))
    }

    /// How long until this state says no more than a new one would.
    pub(crate) fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.forgotten_in(quota, now))
    }
}

/// `a * b / c`, rounded up; the largest `u64` where it is more, or where `c` is 0.
fn mul_div_ceil(a: u64, b: u64, c: u64) -> u64 {
    match (a.checked_mul(b), c) {
        (_, 0) => u64::MAX,
        // A division of 128 bits takes several times as long.
        (Some(product), _) => product.div_ceil(c),
        (None, _) => saturate((u128::from(a) * u128::from(b)).div_ceil(u128::from(c))),
    }
}

/// `a * b / c`, rounded down; the largest `u64` where it is more, or where `c` is 0.
fn mul_div(a: u64, b: u64, c: u64) -> u64 {
    match (a.checked_mul(b), c) {
        (_, 0) => u64::MAX,
        (Some(product), _) => product / c,
        (None, _) => saturate(u128::from(a) * u128::from(b) / u128::from(c)),
    }
}

fn saturate(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
