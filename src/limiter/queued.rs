//! A held request's ticket and timer: [`Queued`].

use std::time::Duration;

use tokio::time::Instant;

use super::{Limiter, queue::Left};
use crate::{
    clock::{Clock, Now, Timer},
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// How long the first in line waits before it asks the store again for units that another process may give
/// back at any time.
const ASKS_AGAIN: Duration = Duration::from_millis(100);

/// How long a request was held so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    pub(super) in_all: Duration,
    /// For units that come back at an unknown time: without the waits for other policies before that.
    pub(super) for_unknown: Duration,
    /// Whether it has a ticket.
    pub(super) is_queued: bool,
}

/// A ticket in the queue, which leaves when this is dropped.
pub(super) struct Queued {
    pub(super) limiter: Limiter,
    pub(super) ticket: u64,
    /// When its units are expected to fit.
    pub(super) due: Instant,
    /// The monotonic time from which its wait counts under policies whose units come back at an unknown
    /// time: until then, other policies let it wait.
    pub(super) known_until: Duration,
    /// Whether another process may give back the units that it waits for.
    pub(super) asks_again: bool,
    pub(super) timer: Timer,
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
        let core = &self.limiter.core;
        let (queue, clock) = (&core.queue, &core.clock);
        if self.asks_again && queue.is_first(self.ticket) {
            let wake_at = self.due.min(clock.instant() + ASKS_AGAIN);
            return self.timer.reset(wake_at);
        }
        let late_in = queue.next_late_in(self.ticket, now);
        let late_at = late_in.map(|late_in| clock.instant() + late_in);
        let wake_at = late_at.map_or(self.due, |late_at| late_at.min(self.due));
        self.timer.reset(wake_at);
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let core = &self.limiter.core;
        core.queue.leave(self.ticket, self.left, core.clock.now());
    }
}

/// A timer; `None`, and a warning, where the clock has none.
pub(super) fn timer(clock: &Clock, wake_at: Instant) -> Option<Timer> {
    let timer = clock.timer(wake_at);
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
