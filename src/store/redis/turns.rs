//! Turns to send a command: a bounded number of commands is on its way to a server at once, and other
//! requests wait in the order in which they came. So a crowd of our own does not look like a slow
//! server.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

/// Held while a command is on its way.
pub(super) type Turn = OwnedSemaphorePermit;

#[derive(Debug)]
pub(super) struct Turns {
    at_once: usize,
    gate: Mutex<Arc<Semaphore>>,
}

/// Why there was no turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoTurn {
    /// The server does not answer.
    GivenUp,
    /// The request has waited too long.
    TooLate,
}

impl Turns {
    pub(super) fn new(at_once: usize) -> Self {
        Self { at_once, gate: Mutex::new(Arc::new(Semaphore::new(at_once))) }
    }

    pub(super) async fn take(&self, at_most: Duration) -> Result<Turn, NoTurn> {
        let gate = Arc::clone(&self.gate());
        match Arc::clone(&gate).try_acquire_owned() {
            Ok(turn) => Ok(turn),
            // Boxed: those who need not wait would be moved about with room for it.
            Err(_) => Box::pin(wait(gate, at_most)).await,
        }
    }

    /// Makes all that wait now give up. Later requests have turns, whatever is still on its way.
    pub(super) fn give_up(&self) {
        let fresh = Arc::new(Semaphore::new(self.at_once));
        mem::replace(&mut *self.gate(), fresh).close();
    }

    fn gate(&self) -> MutexGuard<'_, Arc<Semaphore>> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait(gate: Arc<Semaphore>, at_most: Duration) -> Result<Turn, NoTurn> {
    match timeout(at_most, gate.acquire_owned()).await {
        Ok(turn) => turn.map_err(|_| NoTurn::GivenUp),
        Err(_) => Err(NoTurn::TooLate),
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn who_waits_has_a_turn_gives_up_or_comes_too_late() {
        let turns = Arc::new(Turns::new(2));
        let (first, _second) = (turns.take(SECOND).await.unwrap(), turns.take(SECOND).await);
        let wait = |at_most| {
            let turns = turns.clone();
            tokio::spawn(async move { turns.take(at_most).await.map(drop) })
        };
        let third = wait(Duration::MAX);
        tokio::task::yield_now().await;
        drop(first);
        assert_eq!(third.await.unwrap(), Ok(()));

        let mut held = JoinSet::new();
        let turn = turns.take(SECOND).await.unwrap();
        held.spawn(wait(SECOND));
        held.spawn(wait(SECOND));
        tokio::task::yield_now().await;
        assert_eq!(turns.take(SECOND / 2).await.map(drop), Err(NoTurn::TooLate));
        turns.give_up();
        for waited in held.join_all().await {
            assert_eq!(waited.unwrap(), Err(NoTurn::GivenUp));
        }
        // The old ones are still held.
        assert!(turns.take(SECOND).await.is_ok());
        drop(turn);
    }
}
