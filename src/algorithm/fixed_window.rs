//! Windows aligned to the wall clock.

use super::Count;
use crate::{clock::Now, quota::Quota};

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
        let window = quota.window_nanos().max(1);
        let start = now.unix_nanos() - now.unix_nanos() % window;
        if self.start < start {
            return Self { start, used: 0 };
        }
        // A thread that read the clock just before the window began comes after one that read it
        // just after: it stays in the later window, or its quota would be granted twice.
        if self.start == start.saturating_add(window) {
            return *self;
        }
        // Ours; or the window has grown, or the wall clock was set back: what was used stays used.
        Self { start, used: self.used }
    }

    #[inline]
    fn until(&self, windows: u64, quota: &Quota, now: Now) -> u64 {
        let span = windows.saturating_mul(quota.window_nanos());
        self.start.saturating_add(span).saturating_sub(now.unix_nanos())
    }
}

impl Count for FixedWindow {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        let window = self.at(quota, now);
        let short = cost.saturating_sub(quota.units().saturating_sub(window.used));
        if short == 0 {
            return 0;
        }
        if quota.units() == 0 {
            return u64::MAX;
        }
        window.until(short.div_ceil(quota.units()), quota, now)
    }

    #[inline]
    fn take(&mut self, quota: &Quota, now: Now, cost: u64) {
        *self = self.at(quota, now);
        self.used = self.used.saturating_add(cost);
    }

    fn give_back(&mut self, quota: &Quota, now: Now, taken_at: Now, units: u64) {
        *self = self.at(quota, now);
        let began = taken_at.unix_nanos() - taken_at.unix_nanos() % quota.window_nanos().max(1);
        if began >= self.start {
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

    fn forgotten_in(&self, quota: &Quota, now: Now) -> u64 {
        let window = self.at(quota, now);
        if window.used == 0 { 0 } else { window.until(1, quota, now) }
    }
}
