//! The fixed window counter: windows aligned to the wall clock.

use super::quota_state::{Charged, PastUse, QuotaState, units_required};
use crate::{
    clock::{NANOS_PER_SECOND, Now},
    quota::Quota,
};

/// The nanoseconds by which a window may begin after now though no clock was set back. A thread may
/// be interrupted between reading the clock and counting, while others begin the next window. That
/// takes milliseconds, and more on overloaded processors. A window that begins later still was
/// begun before the clock was set back.
pub(crate) const MAX_AHEAD: u64 = 2 * NANOS_PER_SECOND;

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FixedWindow {
    /// Unix time at which the window began.
    pub(crate) start: u64,
    pub(crate) used: u64,
}

impl FixedWindow {
    /// The window that counts at `now`, and what was used in it.
    #[inline]
    fn current(&self, quota: &Quota, now: Now) -> Self {
        let start = start(quota, now);
        if self.start < start {
            return Self { start, used: 0 };
        }
        // This thread may have read the clock just before the window began, and count after a
        // thread that read it later. It counts in the later window, or the quota would be granted
        // twice.
        if !self.is_ahead(now) {
            return *self;
        }
        // The wall clock was set back. What was used stays used, in the window of now.
        Self { start, used: self.used }
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

    /// How long until so many windows have passed, this one included.
    #[inline]
    fn until(&self, windows: u64, quota: &Quota, now: Now) -> u64 {
        quota.windows_end(self.start, windows).saturating_sub(now.unix_nanos())
    }
}

/// When the window of `now` began.
#[inline]
fn start(quota: &Quota, now: Now) -> u64 {
    quota.window_start(now.unix_nanos())
}

impl QuotaState for FixedWindow {
    #[inline]
    fn wait(&self, quota: &Quota, now: Now, cost: u64) -> u64 {
        self.current(quota, now).wait_in(quota, now, cost)
    }

    /// Finds the window once.
    #[inline]
    fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
        let mut window = self.current(quota, now);
        let wait = window.wait_in(quota, now, units_required(ahead, cost));
        if wait == 0 && cost > 0 {
            window.used = window.used.saturating_add(cost);
            *self = window;
        }
        let remaining = quota.units().saturating_sub(window.used);
        Charged { wait, remaining, reset: window.until(1, quota, now) }
    }

    #[inline]
    fn consume(&mut self, quota: &Quota, now: Now, cost: u64) {
        *self = self.current(quota, now);
        self.used = self.used.saturating_add(cost);
    }

    /// A window that has ended has nothing to charge any more.
    fn consume_late(&mut self, quota: &Quota, now: Now, units: u64, at: Now) {
        *self = self.current(quota, now);
        if start(quota, at) >= self.start {
            self.used = self.used.saturating_add(units);
        }
    }

    fn give_back(&mut self, quota: &Quota, now: Now, units: u64, past_use: &PastUse) -> u64 {
        *self = self.current(quota, now);
        let is_over = start(quota, past_use.at) < self.start;
        let given = if is_over { 0 } else { units.min(self.used) };
        self.used = self.used.saturating_sub(given);
        given
    }

    #[inline]
    fn remaining(&self, quota: &Quota, now: Now) -> u64 {
        quota.units().saturating_sub(self.current(quota, now).used)
    }

    #[inline]
    fn reset(&self, quota: &Quota, now: Now) -> u64 {
        self.current(quota, now).until(1, quota, now)
    }

    /// What was used in the window of `from` is used in the one of `to`.
    fn convert(&self, from: &Quota, to: &Quota, now: Now) -> Self {
        Self { start: start(to, now), used: self.current(from, now).used }
    }

    /// The larger use of both. If the next window has begun for one of them, the uses of both count in that
    /// window.
    fn merge(&mut self, other: &Self, quota: &Quota, now: Now) {
        let (this, that) = (self.current(quota, now), other.current(quota, now));
        *self = Self { start: this.start.max(that.start), used: this.used.max(that.used) };
    }

    fn looks_back(&self, quota: &Quota, now: Now) -> u64 {
        now.unix_nanos().saturating_sub(self.current(quota, now).start)
    }

    #[inline]
    fn is_ahead(&self, now: Now) -> bool {
        self.start > now.unix_nanos().saturating_add(MAX_AHEAD)
    }

    fn realign(&mut self, quota: &Quota, now: Now) {
        *self = self.current(quota, now);
    }

    fn expires_in(&self, quota: &Quota, now: Now) -> u64 {
        let window = self.current(quota, now);
        if window.used == 0 { 0 } else { window.until(1, quota, now) }
    }
}
