//! How long requests wait for servers: [`Timeouts`], and what is left for one decision: [`TimeBudget`].
//!
//! Time in which this process did not run does not count: an answer may have come meanwhile that it
//! could not read.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout_at};

/// A wait is cut into this many slices. Each slice counts as its length, however long it took. Other
/// tasks run between two slices, such as the one that reads the answers.
const SLICES: u32 = 4;
/// The resolution of timers.
const SHORTEST: Duration = Duration::from_millis(1);
/// The longest slice: 30 years.
const LONGEST: Duration = Duration::from_secs(30 * 365 * 86_400);

/// The settings of the same names in [`RedisStoreBuilder`](super::RedisStoreBuilder).
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) response: Duration,
    pub(super) decision: Duration,
    pub(super) queue: Duration,
}

/// What is left of the time that servers have for one decision.
#[derive(Debug)]
pub(super) struct TimeBudget {
    pub(super) left: Duration,
    /// When the last wait began.
    pub(super) wait_began: Instant,
    /// When the last wait ended.
    pub(super) wait_ended: Instant,
    /// Whether a server may have charged something.
    pub(super) is_sent: Arc<AtomicBool>,
    /// Whether a server may have kept units that it should have given back.
    pub(super) is_left: bool,
}

impl TimeBudget {
    pub(super) fn new(time: Duration) -> Self {
        Self::of_sent(time, Instant::now(), Arc::default())
    }

    /// With the flag that says whether a server may have charged something, at a time of which none is used up.
    pub(super) const fn of_sent(time: Duration, now: Instant, is_sent: Arc<AtomicBool>) -> Self {
        Self { left: time, wait_began: now, wait_ended: now, is_sent, is_left: false }
    }

    /// Notes that a command is sent.
    pub(super) fn mark_sent(&self) {
        self.is_sent.store(true, Relaxed);
    }

    /// Waits for an answer: at most for this time, and at most for what is left. The caller pins a large
    /// future: here it would be moved several times, with room for each.
    pub(super) async fn wait<T>(
        &mut self,
        at_most: Duration,
        answer: impl Future<Output = T> + Unpin,
    ) -> Option<T> {
        self.wait_began = Instant::now();
        let (answer, ended) = wait(self.wait_began, at_most, &mut self.left, answer).await;
        self.wait_ended = ended;
        answer
    }
}

/// Waits for an answer since `began`: at most for this time, and at most for what is left. Returns the end of the
/// wait as well.
#[expect(clippy::arithmetic_side_effects, reason = "a time is divided by a constant")]
pub(super) async fn wait<T>(
    began: Instant,
    at_most: Duration,
    left: &mut Duration,
    mut answer: impl Future<Output = T> + Unpin,
) -> (Option<T>, Instant) {
    let mut slice_began = began;
    let mut waits = at_most.min(*left);
    let slice = (waits / SLICES).max(SHORTEST);
    while !waits.is_zero() {
        // Times so long that there is no such moment are cut.
        let ends = slice_began.checked_add(slice.min(waits)).unwrap_or(slice_began + LONGEST);
        let answered = timeout_at(ends, &mut answer).await;
        let now = Instant::now();
        let took = now.saturating_duration_since(slice_began);
        let counted = took.min(slice.saturating_add(SHORTEST));
        slice_began = now;
        waits = waits.saturating_sub(counted);
        *left = left.saturating_sub(counted);
        if let Ok(answer) = answered {
            return (Some(answer), now);
        }
    }
    (None, slice_began)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn, ready},
        pin::pin,
        task::Poll,
    };

    use tokio::time::{advance, sleep};

    use super::*;

    const TIME: Duration = Duration::from_millis(40);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_given_up_in_time() {
        for at_most in [TIME, Duration::from_micros(1), Duration::from_millis(333)] {
            let (mut budget, began) = (TimeBudget::new(Duration::from_secs(1)), Instant::now());
            assert!(budget.wait(at_most, pending::<()>()).await.is_none());
            let waited = began.elapsed();
            assert!(waited >= at_most && waited <= at_most + 9 * SHORTEST, "{waited:?}");
            assert!(budget.left <= Duration::from_secs(1) - at_most);
        }
        let mut budget = TimeBudget::new(TIME);
        assert_eq!(budget.wait(Duration::MAX, ready(7)).await, Some(7));
        assert!(budget.wait(Duration::MAX, pending::<()>()).await.is_none());
        assert!(budget.wait(Duration::MAX, ready(7)).await.is_none(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_time_is_no_panic() {
        let mut budget = TimeBudget::new(Duration::MAX);
        let answer = pin!(async {
            sleep(Duration::from_secs(86_400)).await;
            7
        });
        assert_eq!(budget.wait(Duration::MAX, answer).await, Some(7));
    }

    /// The answer is ready at the third poll, as if another task had to read it first. This process
    /// stands still for an hour before each poll.
    #[tokio::test(start_paused = true)]
    async fn a_process_that_stands_still_has_not_waited() {
        let mut polls = 0;
        // It never wakes the task: the timer does.
        let answer = poll_fn(|_| {
            polls += 1;
            if polls == 3 { Poll::Ready(7) } else { Poll::Pending }
        });
        let mut budget = TimeBudget::new(TIME);
        let waiting = tokio::spawn(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
                advance(Duration::from_secs(3_600)).await;
            }
        });
        assert_eq!(budget.wait(TIME, answer).await, Some(7));
        waiting.await.unwrap();
        assert!(budget.left > Duration::ZERO);
    }
}
