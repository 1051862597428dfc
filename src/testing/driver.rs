//! Runs requests until they are answered or wait for a clock: [`Driver`].

use std::{
    future::poll_fn,
    panic::resume_unwind,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Wake, Waker},
    thread,
    time::Duration,
};

use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::yield_now,
    time::timeout,
};

use super::exchange::Exchange;
use crate::{clock::Clock, lock::Mutex};

/// How long requests may take in real time, such as with a store on another server.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// How often tasks that requests have spawned may be polled after the requests themselves wait.
const POLLS_OF_SPAWNED: u32 = 16;

/// A runtime of a test client's own, which runs the requests and what they spawn.
#[derive(Debug)]
pub(super) struct Driver {
    /// `None` once it is dropped.
    runtime: Option<Runtime>,
}

impl Driver {
    #[expect(clippy::expect_used, reason = "a test without a runtime fails")]
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread().enable_all().build();
        Self { runtime: Some(runtime.expect("the system has room for a runtime")) }
    }

    /// Polls the requests, in order, until each is answered or waits for one of `clocks`, to which the
    /// clocks of their limiters are added. `false` if that takes too long.
    pub(super) fn run(&self, exchanges: &mut [Exchange], clocks: &mut Vec<Clock>) -> bool {
        let Some(runtime) = &self.runtime else { return false };
        let run = async { timeout(PATIENCE, run_until_stalled(exchanges, clocks)).await.is_ok() };
        if Handle::try_current().is_err() {
            return runtime.block_on(run);
        }
        // A thread that is in one runtime cannot run another one.
        #[cfg(feature = "tracing")]
        let subscriber = tracing::dispatcher::get_default(Clone::clone);
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                #[cfg(feature = "tracing")]
                let _subscriber = tracing::dispatcher::set_default(&subscriber);
                runtime.block_on(run)
            });
            thread.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // Within another runtime, a runtime must not wait for its own end.
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

async fn run_until_stalled(exchanges: &mut [Exchange], clocks: &mut Vec<Clock>) {
    let wakeup = Arc::new(Wakeup::default());
    let waker = Waker::from(Arc::clone(&wakeup));
    loop {
        poll_fn(|context| {
            *wakeup.runtime.lock() = Some(context.waker().clone());
            wakeup.is_woken.store(false, SeqCst);
            for exchange in &mut *exchanges {
                exchange.poll(&mut Context::from_waker(&waker));
            }
            for clock in exchanges.iter().flat_map(|exchange| exchange.recorder.clocks()) {
                if !clocks.iter().any(|known| known.is(&clock)) {
                    clocks.push(clock);
                }
            }
            let under_way = exchanges.iter().filter(|exchange| exchange.is_under_way()).count();
            // Those of these requests: others may wait for the same clock.
            let sleeping: usize = clocks.iter().map(|clock| clock.sleeping(&waker)).sum();
            match under_way <= sleeping && !wakeup.is_woken.load(SeqCst) {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }
        })
        .await;
        // What the requests have spawned runs too, and may wake them.
        for _ in 0..POLLS_OF_SPAWNED {
            yield_now().await;
        }
        if !wakeup.is_woken.load(SeqCst) {
            return;
        }
    }
}

/// The waker of all requests: it has all of them polled again.
#[derive(Default)]
struct Wakeup {
    is_woken: AtomicBool,
    runtime: Mutex<Option<Waker>>,
}

impl Wake for Wakeup {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, SeqCst);
        let waker = self.runtime.lock().clone();
        waker.into_iter().for_each(Waker::wake);
    }
}
