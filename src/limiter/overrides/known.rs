//! An override that a limiter knows, and its end by the process's clock: [`Known`].

use std::time::Duration;

use crate::{
    clock::{Now, nanos},
    override_record::Override,
};

/// Clocks that differ by less tell the same time: each is corrected now and then.
const SAME_TIME: Duration = Duration::from_secs(1);

/// An override, and when it ends by this process's clock.
#[derive(Clone, Debug)]
pub(in crate::limiter) struct Known {
    pub(super) data: Override,
    /// Monotonic, in nanoseconds. So a wall clock that is set back blocks no caller for longer.
    pub(super) ends_at: u64,
}

impl Known {
    /// `store_now` is the time `now` by the clock that `data` is of.
    pub(super) fn new(data: Override, store_now: Duration, now: Now) -> Self {
        let ends_at = now.monotonic_nanos().saturating_add(nanos(data.left(store_now)));
        Self { data, ends_at }
    }

    /// The override with its times by the clock of `now`. They differ from those of `data` if that
    /// clock was set, or if the store has another.
    pub(super) fn view(&self, now: Now) -> Override {
        let left = Duration::from_nanos(self.ends_at.saturating_sub(now.monotonic_nanos()));
        let until = now.unix().saturating_add(left);
        let mut view = self.data.clone();
        if until.abs_diff(view.until) > SAME_TIME {
            let time = view.until.saturating_sub(view.since);
            (view.since, view.until) = (until.saturating_sub(time), until);
        }
        view
    }

    pub(super) fn is_of(&self, policy: Option<&str>) -> bool {
        self.data.policy() == policy
    }
}
