//! The time that is left to wait for a server: [`Patience`]. Time in which this process did not run
//! does not count: an answer may have come that it had no time to read.

use std::{
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, timeout};

/// A wait is cut into this many slices, each of which counts as its length however long it took.
/// Between two slices other tasks run, such as the one that reads the answers.
const SLICES: u32 = 4;
/// The resolution of timers.
const SHORTEST: Duration = Duration::from_millis(1);

/// What is left of the time for one decision.
#[derive(Debug)]
pub(super) struct Patience {
    left: Duration,
    began: Instant,
    has_asked: Arc<AtomicBool>,
}

impl Patience {
    pub(super) fn new(time: Duration) -> Self {
        Self { left: time, began: Instant::now(), has_asked: Arc::default() }
    }

    /// Sets this flag when a command is sent.
    pub(super) fn telling(self, has_asked: Arc<AtomicBool>) -> Self {
        Self { has_asked, ..self }
    }

    /// A command is sent: from here on, a server may have charged something.
    pub(super) fn asks(&self) {
        self.has_asked.store(true, Relaxed);
    }

    pub(super) fn left(&self) -> Duration {
        self.left
    }

    /// When the last wait began.
    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// Waits for an answer, for `at_most` and for the time that is left.
    pub(super) async fn wait<T>(
        &mut self,
        at_most: Duration,
        answer: impl Future<Output = T>,
    ) -> Option<T> {
        let mut answer = pin!(answer);
        let mut left = at_most.min(self.left);
        let slice = (left / SLICES).max(SHORTEST);
        self.began = Instant::now();
        let mut since = self.began;
        while !left.is_zero() {
            let came = timeout(slice.min(left), answer.as_mut()).await;
            let now = Instant::now();
            let counted = (now - since).min(slice.saturating_add(SHORTEST));
            since = now;
            left = left.saturating_sub(counted);
            self.left = self.left.saturating_sub(counted);
            if let Ok(answer) = came {
                return Some(answer);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, poll_fn},
        task::Poll,
    };

    use tokio::time::{advance, sleep};

    use super::*;

    const TIME: Duration = Duration::from_millis(40);

    #[tokio::test(start_paused = true)]
    async fn what_does_not_come_is_given_up_in_time() {
        for at_most in [TIME, Duration::from_micros(1), Duration::from_millis(333)] {
            let (mut patience, began) = (Patience::new(Duration::from_secs(1)), Instant::now());
            assert!(patience.wait(at_most, pending::<()>()).await.is_none());
            let waited = began.elapsed();
            assert!(waited >= at_most && waited <= at_most + 9 * SHORTEST, "{waited:?}");
            assert!(patience.left() <= Duration::from_secs(1) - at_most);
        }
        let mut patience = Patience::new(TIME);
        assert_eq!(patience.wait(Duration::MAX, async { 7 }).await, Some(7));
        assert!(patience.wait(Duration::MAX, pending::<()>()).await.is_none());
        assert!(patience.wait(Duration::MAX, async { 7 }).await.is_none(), "nothing is left");
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_time_is_no_panic() {
        let mut patience = Patience::new(Duration::MAX);
        let answer = async {
            sleep(Duration::from_secs(86_400)).await;
            7
        };
        assert_eq!(patience.wait(Duration::MAX, answer).await, Some(7));
    }

    /// What is ready when it is looked at for the third time, as an answer that another task has to
    /// read first; and this process does nothing for an hour before each look.
    #[tokio::test(start_paused = true)]
    async fn a_process_that_stands_still_has_not_waited() {
        let mut looks = 0;
        // It wakes no task: the timer does.
        let answer = poll_fn(|_| {
            looks += 1;
            if looks == 3 { Poll::Ready(7) } else { Poll::Pending }
        });
        let mut patience = Patience::new(TIME);
        let waiting = tokio::spawn(async {
            for _ in 0..4 {
                tokio::task::yield_now().await;
                advance(Duration::from_secs(3_600)).await;
            }
        });
        assert_eq!(patience.wait(TIME, answer).await, Some(7));
        waiting.await.unwrap();
        assert!(patience.left() > Duration::ZERO);
    }
}
