//! What one key has used under one policy, by any algorithm: [`State`].

use std::ops::{Deref, DerefMut};

use super::{
    Algorithm, fixed_window::FixedWindow, in_flight::InFlight, quota_state::QuotaState,
    sliding_window::SlidingWindow, token_bucket::TokenBucket,
};
use crate::{clock::Now, quota::Quota};

/// What one key has used under one policy. It has the methods of its algorithm's [`QuotaState`].
#[derive(Clone, Debug)]
pub(crate) enum State {
    TokenBucket(TokenBucket),
    FixedWindow(FixedWindow),
    SlidingWindow(SlidingWindow),
    InFlight(InFlight),
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

impl From<InFlight> for State {
    fn from(units: InFlight) -> Self {
        Self::InFlight(units)
    }
}

impl State {
    /// A key that has used nothing.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::TokenBucket => Self::TokenBucket(TokenBucket::default()),
            Algorithm::FixedWindow => Self::FixedWindow(FixedWindow::default()),
            Algorithm::SlidingWindow => Self::SlidingWindow(SlidingWindow::default()),
            Algorithm::InFlight => Self::InFlight(InFlight::default()),
        }
    }

    /// A key for which a full store has no count of its own. Keys can share other counts, but a unit in
    /// flight has to come back to the count that it was taken from, so such a key has none left.
    pub(crate) fn without_room(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::InFlight => InFlight::FULL.into(),
            algorithm => Self::new(algorithm),
        }
    }

    /// [Merges](QuotaState::merge) a state under the same quota. Both are of one algorithm, as
    /// [`can_merge`](super::StatesByQuota::can_merge) checks: no state of one algorithm counts the larger
    /// of two algorithms' counts.
    pub(super) fn merge(&mut self, other: &Self, quota: &Quota, now: Now) {
        match (self, other) {
            (Self::TokenBucket(this), Self::TokenBucket(that)) => this.merge(that, quota, now),
            (Self::FixedWindow(this), Self::FixedWindow(that)) => this.merge(that, quota, now),
            (Self::SlidingWindow(this), Self::SlidingWindow(that)) => this.merge(that, quota, now),
            (Self::InFlight(this), Self::InFlight(that)) => this.merge(that, quota, now),
            _ => {}
        }
    }

    /// The state under the quota `to` of a key with this state under the quota `from`.
    pub(crate) fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self {
        match self {
            _ if from == to => self.clone(),
            Self::TokenBucket(bucket) => bucket.convert(from, to, now).into(),
            Self::FixedWindow(window) => window.convert(from, to, now).into(),
            Self::SlidingWindow(log) => log.convert(from, to, now).into(),
            Self::InFlight(units) => units.convert(from, to, now).into(),
        }
    }

    pub(crate) const fn algorithm(&self) -> Algorithm {
        match self {
            Self::TokenBucket(_) => Algorithm::TokenBucket,
            Self::FixedWindow(_) => Algorithm::FixedWindow,
            Self::SlidingWindow(_) => Algorithm::SlidingWindow,
            Self::InFlight(_) => Algorithm::InFlight,
        }
    }
}

impl Deref for State {
    type Target = dyn QuotaState;

    fn deref(&self) -> &Self::Target {
        match self {
            Self::TokenBucket(bucket) => bucket,
            Self::FixedWindow(window) => window,
            Self::SlidingWindow(log) => log,
            Self::InFlight(units) => units,
        }
    }
}

impl DerefMut for State {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match self {
            Self::TokenBucket(bucket) => bucket,
            Self::FixedWindow(window) => window,
            Self::SlidingWindow(log) => log,
            Self::InFlight(units) => units,
        }
    }
}
