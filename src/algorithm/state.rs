//! What one key has used under one policy, by any algorithm: [`State`].

use super::{
    Algorithm,
    fixed_window::FixedWindow,
    quota_state::{Charged, PastUse, QuotaState},
    sliding_window::SlidingWindow,
    token_bucket::TokenBucket,
};
use crate::{clock::Now, quota::Quota};

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

    /// The emptier one of two buckets under the same quota. Of two windows, this one.
    pub(super) fn or_emptier(self, other: Self) -> Self {
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

    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
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
