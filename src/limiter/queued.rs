//! A held request's ticket and timer: [`Queued`].

use std::{panic, pin::Pin, time::Duration};

use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

use super::{Limiter, queue::Left};
use crate::{
    clock::Now,
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// How long the first in line waits before it asks the store again for units that another process may give
/// back at any time.
const ASKS_AGAIN: Duration = Duration::from_millis(100);

/// A ticket in the queue, which leaves when this is dropped.
pub(super) struct Queued {
    pub(super) limiter: Limiter,
    pub(super) ticket: u64,
    /// When its units are expected to fit.
    pub(super) due: Instant,
    /// Whether another process may give back the units that it waits for.
    pub(super) asks_again: bool,
    pub(super) sleep: Pin<Box<Sleep>>,
    /// Why it leaves, if it is dropped now.
    pub(super) left: Left,
}

impl Queued {
    /// Sleeps until the units should fit; or, if that is earlier, until the ticket ahead is late, so that this
    /// one passes it. The first in line asks again in intervals if nothing wakes it when units come back.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    pub(super) fn sleep_until_due_or_first(&mut self, now: Now) {
        let queue = &self.limiter.core.queue;
        if self.asks_again && queue.is_first(self.ticket) {
            let wake_at = self.due.min(Instant::now() + ASKS_AGAIN);
            return self.sleep.as_mut().reset(wake_at);
        }
        let late_in = queue.next_late_in(self.ticket, now);
        let late_at = late_in.map(|late_in| Instant::now() + late_in);
        let wake_at = late_at.map_or(self.due, |late_at| late_at.min(self.due));
        self.sleep.as_mut().reset(wake_at);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let core = &self.limiter.core;
        core.queue.leave(self.ticket, self.left, core.clock.now());
    }
}

/// A timer; `None` without a tokio runtime that has timers.
pub(super) fn timer(wake_at: Instant) -> Option<Sleep> {
    // Tokio has no query for this: it panics if the runtime's timers are off.
    let timer = || panic::catch_unwind(|| tokio::time::sleep_until(wake_at)).ok();
    let timer = Handle::try_current().ok().and_then(|_| timer());
    if timer.is_none() {
        report_no_timer();
    }
    timer
}

#[cold]
fn report_no_timer() {
    static REPORTED: FirstRequests = FirstRequests::one();
    if REPORTED.count() {
        warn(Code::NoTimer, "", || {
            "a request could not be held and was refused, as there is no tokio runtime with time \
             here; call `enable_time` on the runtime's builder, or ask inside of the runtime"
                .to_owned()
        });
    }
}
