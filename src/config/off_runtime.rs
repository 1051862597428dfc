//! Work that may take long or never end, on a thread of its own: [`Threads`].

use std::{
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::{runtime::Handle, task::spawn_blocking};

/// How many threads of work that does not end there may be.
const MAX_STUCK: usize = 4;

/// For how long a runtime that shuts down waits for the work at most.
const SLICE: Duration = Duration::from_millis(50);

/// The threads of one user. They are detached: a runtime that shuts down does not wait for them, as it
/// would for `spawn_blocking`.
#[derive(Default)]
pub(super) struct Threads {
    alive: Arc<()>,
}

/// Why work has no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Failed {
    /// It has not ended in time, or too much earlier work has not ended.
    TimedOut,
    Panicked,
}

impl Threads {
    /// Does the work, and waits for it for so long.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        patience: Duration,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failed> {
        if Arc::strong_count(&self.alive) > MAX_STUCK {
            return Err(Failed::TimedOut);
        }
        let (alive, runtime) = (Arc::clone(&self.alive), Handle::current());
        let (sender, mut receiver) = mpsc::sync_channel(1);
        let thread = thread::Builder::new().name("tower-quota limits".into()).spawn(move || {
            // Clocks and stores may need it.
            let _runtime = runtime.enter();
            let done = work();
            drop(alive);
            // It fails if the work took too long: the receiver is gone.
            let _ = sender.send(done);
        });
        if thread.is_err() {
            return Err(Failed::TimedOut);
        }
        let started = Instant::now();
        loop {
            // In slices, by a blocking thread of the runtime: its clock stands still meanwhile if a test
            // has paused it, as for any other work on such a thread.
            let wait = move || wait(receiver);
            match spawn_blocking(wait).await {
                Ok((_, Ok(done))) => return Ok(done),
                Ok((_, Err(RecvTimeoutError::Disconnected))) => return Err(Failed::Panicked),
                Ok((again, Err(RecvTimeoutError::Timeout))) if started.elapsed() < patience => {
                    receiver = again;
                }
                Ok((_, Err(RecvTimeoutError::Timeout))) | Err(_) => return Err(Failed::TimedOut),
            }
        }
    }
}

fn wait<T>(receiver: Receiver<T>) -> (Receiver<T>, Result<T, RecvTimeoutError>) {
    let received = receiver.recv_timeout(SLICE);
    (receiver, received)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn work_that_panics_or_does_not_end_is_told_and_bounded() {
        let threads = Threads::default();
        assert_eq!(threads.run(LONG, || 1).await, Ok(1));
        assert_eq!(
            threads.run(LONG, || panic!("on purpose")).await,
            Err::<(), _>(Failed::Panicked)
        );
        let (release, released) = mpsc::channel::<()>();
        let released = Arc::new(std::sync::Mutex::new(released));
        for _ in 0..MAX_STUCK {
            let released = Arc::clone(&released);
            let stuck = move || released.lock().unwrap().recv().is_ok();
            assert_eq!(threads.run(Duration::ZERO, stuck).await, Err(Failed::TimedOut));
        }
        let never = threads.run(LONG, || panic!("it does not run")).await;
        assert_eq!(never, Err::<(), _>(Failed::TimedOut));
        drop(release);
        while threads.run(LONG, || 2).await != Ok(2) {
            tokio::task::yield_now().await;
        }
    }

    #[test]
    fn a_runtime_ends_while_work_does_not() {
        let (release, released) = mpsc::channel::<()>();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.spawn(async move {
            let stuck = move || released.recv().is_ok();
            let _ = Threads::default().run(LONG, stuck).await;
        });
        drop(runtime);
        drop(release);
    }
}
