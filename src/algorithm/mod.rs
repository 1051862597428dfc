//! How a quota is counted: pure functions of (state, now, quota, cost).
//!
//! There is no clock, no I/O and no atomic here: a store holds the [`State`]s and hands in the time. All
//! times are nanoseconds, and all arithmetic is exact. [`QuotaState`] is what an algorithm implements.

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod fixed_window;
#[cfg(test)]
mod oracle;
mod sliding_window;
mod states_by_quota;
#[cfg(test)]
mod tests;
mod token_bucket;

pub(crate) use self::{
    fixed_window::FixedWindow, sliding_window::SlidingWindow, states_by_quota::StatesByQuota,
    token_bucket::TokenBucket,
};
#[cfg(feature = "redis")]
pub(crate) use self::{fixed_window::MAX_AHEAD, token_bucket::Deficit};
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

    /// The nanoseconds for which a use counts at most, if nothing is owed.
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

    /// The nanoseconds until `cost` units are left at the latest, however many were used.
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

    /// Of two buckets under the same quota, the one of which more is missing. Of two windows, this one.
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

/// An earlier use, of which units are given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastUse {
    pub(crate) at: Now,
    /// All units of the use.
    pub(crate) cost: u64,
    /// The units that remained right after it and the reset, if these are known.
    pub(crate) left: Option<(u64, u64)>,
}

/// A key's state under one quota. Each algorithm implements it.
pub(crate) trait QuotaState {
    /// How long until `cost` units fit: 0 if they fit now, and always for a cost of 0. A cost above the
    /// quota's capacity waits as long as that many single units, one after another.
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64;

    /// Uses `cost` units, whether or not they fit. A bucket owes at most one capacity beyond empty.
    fn consume(&mut self, quota: &Quota, now: Now, cost: u64);

    /// Counts a use that another quota of the key has admitted. This quota has not admitted it, so it
    /// never owes anything for it.
    fn record(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.consume(quota, now, cost);
    }

    /// Gives back `units` of a use, as far as they have not come back by themselves.
    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse);

    /// Gives back `units` of a use that was [recorded](Self::record).
    fn give_back_recorded(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) {
        self.give_back(quota, now, units, past_use);
    }

    /// The units left.
    fn remaining(&self, quota: &Quota, now: Now) -> u64;

    /// How long until [`remaining`](Self::remaining) grows, or until a fixed window ends. 0 if nothing
    /// is used of a token bucket or a sliding window.
    fn reset(&self, quota: &Quota, now: Now) -> u64;

    /// Uses `cost` units if these fit behind the units `ahead`. Returns the [`wait`](Self::wait), 0 if
    /// they fit, and what is so afterwards: what [remains](Self::remaining), and the
    /// [`reset`](Self::reset).
    #[inline]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> (u64, u64, u64) {
        charge_by_steps(self, quota, now, ahead, cost)
    }

    /// The state under the quota `to` of a key with this state under the quota `from`: what was used
    /// stays used.
    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self
    where
        Self: Sized;

    /// After the clock was set back, moves a window that is ahead of the clock to now. Returns whether
    /// it was ahead.
    fn realign(&mut self, _quota: &Quota, _now: Now) -> bool {
        false
    }

    /// How long until this state answers as a new one does.
    fn expires_in(&self, quota: &Quota, now: Now) -> u64;
}

impl QuotaState for State {
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        each!(self, inner => inner.wait(quota, now, cost))
    }

    fn consume(&mut self, quota: &Quota, now: Now, cost: u64) {
        each!(self, inner => inner.consume(quota, now, cost));
    }

    fn record(&mut self, quota: &Quota, now: Now, cost: u64) {
        each!(self, inner => inner.record(quota, now, cost));
    }

    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) {
        each!(self, inner => inner.give_back(quota, now, units, past_use));
    }

    fn give_back_recorded(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) {
        each!(self, inner => inner.give_back_recorded(quota, now, units, past_use));
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

    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self {
        if from == to {
            return self.clone();
        }
        each!(self, inner => inner.convert(from, to, now).into())
    }

    fn realign(&mut self, quota: &Quota, now: Now) -> bool {
        each!(self, inner => inner.realign(quota, now))
    }

    fn expires_in(&self, quota: &Quota, now: Now) -> u64 {
        each!(self, inner => inner.expires_in(quota, now))
    }
}

/// How many units must be left for `cost` to fit behind the units `ahead`. A cost of 0 waits for no
/// other units.
#[inline]
pub(crate) fn units_required(ahead: u64, cost: u64) -> u64 {
    if cost == 0 { 0 } else { ahead.saturating_add(cost) }
}

#[inline]
fn charge_by_steps(
    state: &mut (impl QuotaState + ?Sized),
    quota: &Quota,
    now: Now,
    ahead: u64,
    cost: u64,
) -> (u64, u64, u64) {
    let wait = state.wait(quota, now, units_required(ahead, cost));
    if wait == 0 && cost > 0 {
        state.consume(quota, now, cost);
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
