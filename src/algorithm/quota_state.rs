//! What an algorithm implements, [`QuotaState`], and what it calculates with.

use crate::{clock::Now, quota::Quota};

/// An earlier use. Some of its units are given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PastUse {
    pub(crate) at: Now,
    /// All units of the use.
    pub(crate) cost: u64,
    /// The units that remained right after it and the reset, if these are known.
    pub(crate) left: Option<(u64, u64)>,
    /// The units that were [given back](super::GivenBack) since, of uses that were no later.
    pub(crate) given_back: u64,
}

/// The result of a charge. Times are in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Charged {
    /// How long until the charge fits: 0 if it was made.
    pub(crate) wait: u64,
    /// The units left.
    pub(crate) remaining: u64,
    /// How long until there are more, or until a fixed window ends.
    pub(crate) reset: u64,
}

/// A key's state under one quota. Each algorithm implements it.
pub(crate) trait QuotaState {
    /// How long until `cost` units fit: 0 if they fit now, and always for a cost of 0. A cost above
    /// the quota's capacity waits as long as that many single units, one after another.
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64;

    /// Uses `cost` units, whether or not they fit. A bucket owes at most one capacity beyond empty.
    fn consume(&mut self, quota: &Quota, now: Now, cost: u64);

    /// Counts a use that another quota of the key has admitted. This quota has not admitted it, so
    /// it never owes anything for it.
    fn record(&mut self, quota: &Quota, now: Now, cost: u64) {
        self.consume(quota, now, cost);
    }

    /// Uses `units` more for an earlier use, whether or not they fit. They come back when the earlier
    /// use does. A bucket has no moments: it owes them as if they were used now.
    fn consume_late(&mut self, quota: &Quota, now: Now, units: u64, _at: Now) {
        self.consume(quota, now, units);
    }

    /// Counts units that were [used late](Self::consume_late) under another quota of the key.
    fn record_late(&mut self, quota: &Quota, now: Now, units: u64, at: Now) {
        self.consume_late(quota, now, units, at);
    }

    /// Gives back `units` of a use, as far as they have not come back by themselves. Returns how many
    /// these are, rounded up.
    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) -> u64;

    /// The units left.
    fn remaining(&self, quota: &Quota, now: Now) -> u64;

    /// How long until [`remaining`](Self::remaining) grows, or until a fixed window ends. 0 if
    /// nothing is used of a token bucket or a sliding window.
    fn reset(&self, quota: &Quota, now: Now) -> u64;

    /// The result of a charge that has left this state and had this `wait`.
    #[inline]
    fn charged(&self, quota: &Quota, now: Now, wait: u64) -> Charged {
        Charged { wait, remaining: self.remaining(quota, now), reset: self.reset(quota, now) }
    }

    /// Uses `cost` units if these fit behind the units `ahead`. Returns the [`wait`](Self::wait) of
    /// before, and what [remains](Self::remaining) and the [`reset`](Self::reset) of after.
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged;

    /// The state under the quota `to` of a key with this state under the quota `from`: what was
    /// used stays used.
    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self
    where
        Self: Sized;

    /// Merges the state of another key into this one. From now on, it counts at each time the larger of both
    /// counts, so that one state stands for both keys.
    fn merge(&mut self, other: &Self, quota: &Quota, now: Now)
    where
        Self: Sized;

    /// How long ago the uses were that a window still counts, in nanoseconds. A bucket counts them by
    /// no window: 0.
    fn looks_back(&self, _quota: &Quota, _now: Now) -> u64 {
        0
    }

    /// Whether it is of a window that began before the clock was set back. It must then be
    /// [realigned](Self::realign) before any answer, or its uses would count in each window until
    /// that one.
    fn is_ahead(&self, _now: Now) -> bool {
        false
    }

    /// Moves a window that [is ahead](Self::is_ahead) of the clock to now.
    fn realign(&mut self, _quota: &Quota, _now: Now) {}

    /// How long until this state answers as a new one does.
    fn expires_in(&self, quota: &Quota, now: Now) -> u64;
}

/// How many units must be left for `cost` to fit behind the units `ahead`. A cost of 0 waits for no
/// other units.
#[inline]
pub(crate) fn units_required(ahead: u64, cost: u64) -> u64 {
    if cost == 0 { 0 } else { ahead.saturating_add(cost) }
}

/// What [`charge`](QuotaState::charge) does, by the other methods.
#[cfg(test)]
pub(super) fn charge_by_steps(
    state: &mut dyn QuotaState,
    quota: &Quota,
    now: Now,
    ahead: u64,
    cost: u64,
) -> Charged {
    let wait = state.wait(quota, now, units_required(ahead, cost));
    if wait == 0 && cost > 0 {
        state.consume(quota, now, cost);
    }
    state.charged(quota, now, wait)
}

/// `a / b`, rounded up; the largest `u64` where it is more, or where `b` is 0.
#[inline]
pub(super) fn ceil_div(a: u128, b: u64) -> u64 {
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
pub(super) fn saturate(number: u128) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
