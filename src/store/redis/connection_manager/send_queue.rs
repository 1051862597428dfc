//! The queue in which requests wait to send a command: [`SendQueue`].
//!
//! Few commands are on their way to a server at once, so that a crowd of our own does not look like a
//! slow server.

use std::{mem, sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::lock::Mutex;

/// Gives permits in the order of the requests.
#[derive(Debug)]
pub(super) struct SendQueue {
    max_in_flight: usize,
    semaphore: Mutex<Arc<Semaphore>>,
}

/// Why a request got no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotSent {
    /// The server does not answer.
    Abandoned,
    /// The request has waited too long.
    QueueTimeout,
}

impl SendQueue {
    pub(super) fn new(max_in_flight: usize) -> Self {
        Self { max_in_flight, semaphore: Mutex::new(Arc::new(Semaphore::new(max_in_flight))) }
    }

    /// Waits for a permit, which is held while a command is on its way.
    pub(super) async fn acquire(&self, at_most: Duration) -> Result<OwnedSemaphorePermit, NotSent> {
        let semaphore = Arc::clone(&self.semaphore.lock());
        match Arc::clone(&semaphore).try_acquire_owned() {
            Ok(permit) => Ok(permit),
            // Boxed, so that the futures of requests that need not wait stay small.
            Err(_) => match Box::pin(timeout(at_most, semaphore.acquire_owned())).await {
                Ok(permit) => permit.map_err(|_| NotSent::Abandoned),
                Err(_) => Err(NotSent::QueueTimeout),
            },
        }
    }

    /// Fails all requests that wait now. Later requests get permits, whatever is still on its way.
    pub(super) fn abandon_waiting(&self) {
        let fresh = Arc::new(Semaphore::new(self.max_in_flight));
        mem::replace(&mut *self.semaphore.lock(), fresh).close();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_waiting_request_is_sent_abandoned_or_too_late() {
        let queue = Arc::new(SendQueue::new(2));
        let (first, _second) = (queue.acquire(SECOND).await.unwrap(), queue.acquire(SECOND).await);
        let wait = |at_most| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.acquire(at_most).await.map(drop) })
        };
        let third = wait(Duration::MAX);
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(third.await.unwrap(), Ok(()));

        let mut held = JoinSet::new();
        let permit = queue.acquire(SECOND).await.unwrap();
        held.spawn(wait(SECOND));
        held.spawn(wait(SECOND));
        tokio::task::yield_now().await;
        assert_eq!(queue.acquire(SECOND / 2).await.map(drop), Err(NotSent::QueueTimeout));
        queue.abandon_waiting();
        for waited in held.join_all().await {
            assert_eq!(waited.unwrap(), Err(NotSent::Abandoned));
        }
        // The earlier permits are still held.
        assert!(queue.acquire(SECOND).await.is_ok());
        drop(permit);
    }
}
