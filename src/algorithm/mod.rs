//! How a quota is counted: pure functions of (state, now, quota, cost).
//!
//! No clock, no I/O, no atomics: a store holds the [`State`]s and hands in the time. All times are
//! nanoseconds, and all arithmetic is exact.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod counts;
mod fixed_window;
#[cfg(test)]
mod oracle;
mod sliding_window;
#[cfg(test)]
mod tests;
mod token_bucket;

#[cfg(feature = "redis")]
pub(crate) use self::token_bucket::Missing;
pub(crate) use self::{
    counts::Counts, fixed_window::FixedWindow, sliding_window::SlidingWindow,
    token_bucket::TokenBucket,
};
use crate::{clock::Now, quota::Quota};

/// How a quota is counted. [`Policy`](crate::Policy) has a constructor for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket that holds the quota's burst and refills evenly over the window: the generic cell
    /// rate algorithm (ITU-T I.371), in exact arithmetic.
    TokenBucket,
    /// Windows aligned to the wall clock, in UTC: an hour begins on the hour. Each begins a whole
    /// number of windows after 1970, so one of 7 hours begins at another hour each day.
    FixedWindow,
    /// No more than the quota in any half-open interval of the window's length. A unit comes back when
    /// the window has passed over it, at most 1/60 of the window late.
    SlidingWindow,
}

impl Algorithm {
    /// A name for logs and JSON: `token_bucket`, `fixed_window` or `sliding_window`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenBucket => "token_bucket",
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
        }
    }

    /// For how many nanoseconds a use counts at most, without a debt.
    pub(crate) fn longest(self, quota: &Quota) -> u128 {
        match self {
            Self::TokenBucket => quota.time_to_fill().unwrap_or(u128::MAX),
            Self::FixedWindow | Self::SlidingWindow => quota.window_nanos().into(),
        }
    }

    /// The most that can be used at once under `quota`.
    #[inline]
    pub(crate) fn capacity(self, quota: &Quota) -> u64 {
        match self {
            Self::TokenBucket => quota.capacity(),
            Self::FixedWindow | Self::SlidingWindow => quota.units(),
        }
    }

    /// How long it takes at most until `cost` units are there, however much was used.
    #[expect(clippy::arithmetic_side_effects, reason = "128 bits hold the product of two 64")]
    pub(crate) fn longest_wait(self, quota: &Quota, cost: u64) -> u64 {
        match self {
            Self::TokenBucket => ceil_div(
                u128::from(cost) * u128::from(quota.parts_per_unit()),
                quota.parts_per_nano(),
            ),
            Self::FixedWindow | Self::SlidingWindow => quota.window_nanos(),
        }
    }
}

/// As [`Algorithm::as_str`].
impl serde::Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// What one key has used under one policy.
#[derive(Clone, Debug)]
pub(crate) enum State {
    TokenBucket(TokenBucket),
    FixedWindow(FixedWindow),
    SlidingWindow(SlidingWindow),
}

impl From<TokenBucket> for State {
    fn from(bucket: TokenBucket) -> Self {
        Self::TokenBucket(bucket)
    }
}

impl From<FixedWindow> for State {
    fn from(window: FixedWindow) -> Self {
        Self::FixedWindow(window)
    }
}

impl From<SlidingWindow> for State {
    fn from(log: SlidingWindow) -> Self {
        Self::SlidingWindow(log)
    }
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
            Algorithm::SlidingWindow => Self::SlidingWindow(SlidingWindow::default()),
        }
    }

    /// Of two buckets under the same quota, the one of which more is missing; of windows, this one.
    fn or_emptier(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::TokenBucket(this), Self::TokenBucket(that)) if that.is_emptier(this) => other,
            _ => self,
        }
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::TokenBucket(_) => Algorithm::TokenBucket,
            Self::FixedWindow(_) => Algorithm::FixedWindow,
            Self::SlidingWindow(_) => Algorithm::SlidingWindow,
        }
    }
}

/// A use that is given back, as it was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) at: Now,
    /// All units of the use.
    pub(crate) cost: u64,
    /// The units that remained right after it, and the reset, where these are known.
    pub(crate) left: Option<(u64, u64)>,
}

/// What each algorithm says of the state of a key.
pub(crate) trait Count {
    /// How long until `cost` units fit; 0 when they fit now, and always for a cost of 0. A cost above
    /// the quota's capacity counts as that many single units, one after another.
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64;

    /// Uses `cost` units, whether or not they fit. A bucket owes at most one capacity beyond empty.
    fn take(&mut self, quota: &Quota, now: Now, cost: u64);

    /// Counts a use that was made under another quota. This quota has not admitted it, so it never
    /// owes anything for it.
    fn take_elsewhere(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.take(quota, now, cost);
    }

    /// Takes back `units` of a use, as far as they have not come back by themselves.
    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, made: &Made);

    /// Takes back `units` of a use that was made under another quota.
    fn give_back_elsewhere(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        self.give_back(quota, now, units, made);
    }

    /// The units left.
    fn remaining(&self, quota: &Quota, now: Now) -> u64;

    /// How long until [`remaining`](Self::remaining) grows, or until a fixed window ends; 0 for any
    /// other of which nothing is used.
    fn reset(&self, quota: &Quota, now: Now) -> u64;

    /// Uses `cost` units if these and the `ahead` fit, and tells what is then: the
    /// [`wait`](Self::wait), 0 if they fit; what [remains](Self::remaining); and the
    /// [`reset`](Self::reset).
    #[inline]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> (u64, u64, u64) {
        charge_by_steps(self, quota, now, ahead, cost)
    }

    /// The state under `quota` of a key with this state under the quota `before`: what was used stays
    /// used.
    fn under(&self, before: &Quota, quota: &Quota, now: Now) -> Self
    where
        Self: Sized;

    /// Moves a window that is ahead of a clock that was set back to now. Returns whether it was ahead.
    fn anchor(&mut self, _quota: &Quota, _now: Now) -> bool {
        false
    }

    /// How long until this state says no more than a new one would.
    fn forgotten_in(&self, quota: &Quota, now: Now) -> u64;
}

impl Count for State {
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        each!(self, inner => inner.wait(quota, now, cost))
    }

    fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        each!(self, inner => inner.take(quota, now, cost));
    }

    fn take_elsewhere(&mut self, quota: &Quota, now: Now, cost: u64) {
        each!(self, inner => inner.take_elsewhere(quota, now, cost));
    }

    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        each!(self, inner => inner.give_back(quota, now, units, made));
    }

    fn give_back_elsewhere(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        each!(self, inner => inner.give_back_elsewhere(quota, now, units, made));
    }

    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.remaining(quota, now))
    }

    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.reset(quota, now))
    }

    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> (u64, u64, u64) {
        each!(self, inner => inner.charge(quota, now, ahead, cost))
    }

    fn under(&self, before: &Quota, quota: &Quota, now: Now) -> Self {
        if before == quota {
            return self.clone();
        }
        each!(self, inner => inner.under(before, quota, now).into())
    }

    fn anchor(&mut self, quota: &Quota, now: Now) -> bool {
        each!(self, inner => inner.anchor(quota, now))
    }

    fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.forgotten_in(quota, now))
    }
}

/// How many units must be there for `cost` to fit behind those `ahead`. A cost of 0 waits for no other
/// units.
#[inline]
pub(crate) fn wanted(ahead: u64, cost: u64) -> u64 {
    if cost == 0 { 0 } else { ahead.saturating_add(cost) }
}

#[inline]
fn charge_by_steps(
    state: &mut (impl Count + ?Sized),
    quota: &Quota,
    now: Now,
    ahead: u64,
    cost: u64,
) -> (u64, u64, u64) {
    let wait = state.wait(quota, now, wanted(ahead, cost));
    if wait == 0 && cost > 0 {
        state.take(quota, now, cost);
    }
    (wait, state.remaining(quota, now), state.reset(quota, now))
}

/// `a / b`, rounded up; the largest `u64` where it is more, or where `b` is 0.
#[inline]
fn ceil_div(a: u128, b: u64) -> u64 {
    match (u64::try_from(a), b) {
        (Ok(a), 1) => a,
        (Ok(0), 0) => 0,
        (_, 0) => u64::MAX,
        // A division of 128 bits takes several times as long.
        (Ok(a), _) => a.div_ceil(b),
        (Err(_), _) => saturate(a.div_ceil(u128::from(b))),
    }
}

#[inline]
fn saturate(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
