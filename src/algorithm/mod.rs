//! How a quota is counted: pure functions of (state, now, quota, cost).
//!
//! There is no clock, no I/O and no atomic here: a store holds the [`State`]s and hands in the
//! time. All times are nanoseconds, and all arithmetic is exact. [`QuotaState`] is what an
//! algorithm implements.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod fixed_window;
mod given_back;
mod in_flight;
#[cfg(test)]
mod merges;
#[cfg(test)]
mod oracle;
#[cfg(test)]
mod penalty_oracle;
mod penalty_state;
mod quota_state;
mod sliding_window;
mod state;
mod states_by_quota;
#[cfg(test)]
mod tests;
mod token_bucket;

use std::time::Duration;

#[cfg(test)]
pub(crate) use self::penalty_oracle::NaivePenalty;
use self::quota_state::ceil_div;
pub(crate) use self::{
    fixed_window::FixedWindow,
    given_back::GivenBack,
    in_flight::{InFlight, NOT_KNOWN},
    penalty_state::PenaltyState,
    quota_state::{Charged, PastUse, QuotaState, units_required},
    sliding_window::{STEPS_PER_WINDOW, SlidingWindow, is_same_step, next_step},
    state::State,
    states_by_quota::StatesByQuota,
    token_bucket::TokenBucket,
};
#[cfg(feature = "redis")]
pub(crate) use self::{fixed_window::MAX_AHEAD, token_bucket::Deficit};
use crate::{
    clock::Now,
    quota::{MAX_UNITS, MAX_WINDOW, Quota},
};

/// How a quota is counted. [`Policy`](crate::Policy) has a constructor for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "config",
    derive(serde::Deserialize, schemars::JsonSchema),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum Algorithm {
    /// A bucket that holds the quota's burst and refills evenly over the window: the generic cell
    /// rate algorithm (ITU-T I.371), in exact arithmetic.
    TokenBucket,
    /// Windows aligned to the wall clock, in UTC: an hour begins on the hour. Each begins a whole
    /// number of windows after 1970, so one of 7 hours begins at another hour each day.
    FixedWindow,
    /// No more than the quota in any half-open interval of the window's length. A unit comes back
    /// when the window has passed over it, at most 1/60 of the window late.
    SlidingWindow,
    /// How many units are held at once, by requests that have begun and not ended. A unit comes back
    /// when its request ends, and never by the clock.
    InFlight,
}

impl Algorithm {
    /// A name for logs and JSON: `token_bucket`, `fixed_window`, `sliding_window` or `in_flight`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TokenBucket => "token_bucket",
            Self::FixedWindow => "fixed_window",
            Self::SlidingWindow => "sliding_window",
            Self::InFlight => "in_flight",
        }
    }

    /// The nanoseconds for which a use counts at most, if nothing is owed.
    pub(crate) fn longest(self, quota: &Quota) -> u128 {
        match self {
            Self::TokenBucket => quota.time_to_fill().unwrap_or(u128::MAX),
            Self::FixedWindow | Self::SlidingWindow => quota.window_nanos().into(),
            Self::InFlight => u128::MAX,
        }
    }

    /// The smallest quota.
    pub(crate) const fn one_unit(self) -> Quota {
        match self {
            Self::TokenBucket | Self::FixedWindow | Self::SlidingWindow => Quota::per_second(1),
            Self::InFlight => Quota::in_flight(1),
        }
    }

    /// The largest quota that headers can carry.
    pub(crate) const fn largest(self) -> Quota {
        match self {
            Self::InFlight => Quota::in_flight(MAX_UNITS),
            _ => Quota::per_window(MAX_UNITS, Duration::from_nanos(MAX_WINDOW)),
        }
    }

    /// The most that can be used at once under `quota`.
    #[inline]
    pub(crate) fn capacity(self, quota: &Quota) -> u64 {
        match self {
            Self::TokenBucket => quota.capacity(),
            Self::FixedWindow | Self::SlidingWindow | Self::InFlight => quota.units(),
        }
    }

    /// The nanoseconds in which so many units come back at the latest, one after another.
    pub(crate) fn longest_wait_for_all(self, quota: &Quota, units: u64) -> u64 {
        match self {
            _ if units == 0 => 0,
            Self::TokenBucket | Self::InFlight => self.longest_wait(quota, units),
            Self::FixedWindow | Self::SlidingWindow => {
                let windows = ceil_div(units.into(), quota.units());
                quota.longest_window().saturating_mul(windows)
            }
        }
    }

    /// When the units of a window come back that are used at `at`, as monotonic time. In a sliding
    /// window, a later use in the same step delays them.
    pub(crate) fn comes_back(self, quota: &Quota, at: u64, now: Now) -> u64 {
        match self {
            Self::FixedWindow => {
                let unix =
                    now.unix_nanos().saturating_add(at.saturating_sub(now.monotonic_nanos()));
                let end = quota.windows_end(quota.window_start(unix), 1);
                at.saturating_add(end.saturating_sub(unix))
            }
            Self::SlidingWindow => SlidingWindow::leaves(at, quota),
            Self::TokenBucket | Self::InFlight => at,
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
            Self::FixedWindow | Self::SlidingWindow => quota.longest_window(),
            Self::InFlight => NOT_KNOWN,
        }
    }
}

/// As [`Algorithm::as_str`].
impl serde::Serialize for Algorithm {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
