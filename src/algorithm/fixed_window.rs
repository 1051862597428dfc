//! Windows aligned to the wall clock.

use super::{Count, Made, wanted};
use crate::{
    clock::Now,
    quota::{NANOS_PER_SECOND, Quota},
};

/// How far ahead of the clock a window may begin without the clock having been set back. A thread may
/// be interrupted between reading the clock and counting, while others begin the next window. That
/// takes milliseconds, and more on overloaded processors. A window that begins later still was begun
/// before the clock was set back.
const AHEAD: u64 = 2 * NANOS_PER_SECOND;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FixedWindow {
    /// Unix time at which the window began.
    pub(crate) start: u64,
    pub(crate) used: u64,
}

impl FixedWindow {
    /// The window of `now`, with what was used in it.
    #[inline]
    fn at(&self, quota: &Quota, now: Now) -> Self {
        let start = start(quota, now);
        if self.start < start {
            return Self { start, used: 0 };
        }
        // A thread may have read the clock just before the window began and count after another that
        // read it later. It counts in the later window, or the quota would be granted twice.
        if !self.is_ahead(now) {
            return *self;
        }
        // The wall clock was set back: what was used stays used, in the window of now.
        Self { start, used: self.used }
    }

    /// Whether the window was begun before the clock was set back. It must then be written anew before
    /// any answer, or its uses would count in each window until this one.
    #[inline]
    pub(crate) fn is_ahead(&self, now: Now) -> bool {
        self.start > now.unix_nanos().saturating_add(AHEAD)
    }

    /// How long until `cost` units fit into this window, or into one after it.
    #[inline]
    fn wait_in(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let short = cost.saturating_sub(quota.units().saturating_sub(self.used));
        if short == 0 {
            return 0;
        }
        if quota.units() == 0 {
            return u64::MAX;
        }
        self.until(short.div_ceil(quota.units()), quota, now)
    }

    #[inline]
    fn until(&self, windows: u64, quota: &Quota, now: Now) -> u64 {
        let span = windows.saturating_mul(quota.window_nanos());
        self.start.saturating_add(span).saturating_sub(now.unix_nanos())
    }
}

/// When the window of `now` began.
#[inline]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "a remainder is no more than what was divided, and the divisor is not 0"
)]
fn start(quota: &Quota, now: Now) -> u64 {
    now.unix_nanos() - now.unix_nanos() % quota.window_nanos().max(1)
}

impl Count for FixedWindow {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        self.at(quota, now).wait_in(quota, now, cost)
    }

    /// The window is looked for once.
    #[inline]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> (u64, u64, u64) {
        let mut window = self.at(quota, now);
        let wait = window.wait_in(quota, now, wanted(ahead, cost));
        if wait == 0 && cost > 0 {
            window.used = window.used.saturating_add(cost);
            *self = window;
        }
        (wait, quota.units().saturating_sub(window.used), window.until(1, quota, now))
    }

    #[inline]
    fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        *self = self.at(quota, now);
        self.used = self.used.saturating_add(cost);
    }

    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        *self = self.at(quota, now);
        if start(quota, made.at) >= self.start {
            self.used = self.used.saturating_sub(units);
        }
    }

    #[inline]
    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        quota.units().saturating_sub(self.at(quota, now).used)
    }

    #[inline]
    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        self.at(quota, now).until(1, quota, now)
    }

    /// What was used in the window before is used in the one of `quota`.
    fn under(&self, before: &Quota, quota: &Quota, now: Now) -> Self {
        Self { start: start(quota, now), used: self.at(before, now).used }
    }

    fn anchor(&mut self, quota: &Quota, now: Now) -> bool {
        let is_ahead = self.is_ahead(now);
        if is_ahead {
            *self = self.at(quota, now);
        }
        is_ahead
    }

    fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        let window = self.at(quota, now);
        if window.used == 0 { 0 } else { window.until(1, quota, now) }
    }
}
