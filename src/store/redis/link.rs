//! The connection: opened and healed in the background, and not asked while it fails.

use std::{
    mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    connection::{Connection, Servers},
    wire::Request,
};
use crate::store::{Answer, StoreError};

/// After so many failures, without an answer between them, a server counts as down.
const FAILURES: u32 = 3;
/// A cluster's slots fall into so many parts, each of which is down or not: a server has some of
/// them.
const PARTS: usize = 64;
const SLOTS: usize = 16_384;
/// Between two attempts to reach a server that is down.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);
/// One that answers and fails again before this is left alone for longer: probes succeed where
/// requests do not, as when there is little memory left.
const STEADY: Duration = Duration::from_secs(1);

/// How long is waited for a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) response: Duration,
    pub(super) decision: Duration,
}

pub(super) struct Link {
    servers: Servers,
    timeouts: Timeouts,
    /// What asks the server of a shard for as little as can be.
    probe: Box<dyn Fn(u64) -> Request + Send + Sync>,
    state: watch::Sender<State>,
}

#[derive(Clone)]
enum State {
    Closed,
    /// For the first time: requests wait for it.
    Opening,
    Open(Arc<Opened>),
    /// It is being opened again, and nobody waits for it.
    Down(Cause),
}

/// Why something is down.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Failures,
    ConnectionLost,
}

struct Opened {
    connection: Connection,
    /// Of a cluster; or all is one.
    parts: Box<[Part]>,
}

/// The servers of some slots.
#[derive(Default)]
struct Part {
    failures: AtomicU32,
    is_down: AtomicBool,
    pauses: Mutex<Pauses>,
}

impl Part {
    fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    fn new(connection: Connection) -> Self {
        let parts = if connection.is_cluster() { PARTS } else { 1 };
        Self { connection, parts: (0..parts).map(|_| Part::default()).collect() }
    }

    fn part(&self, slot: impl FnOnce() -> u16) -> &Part {
        match &*self.parts {
            [all] => all,
            parts => &parts[usize::from(slot()) * parts.len() / SLOTS],
        }
    }
}

impl Link {
    pub(super) fn new(
        servers: Servers,
        timeouts: Timeouts,
        probe: impl Fn(u64) -> Request + Send + Sync + 'static,
    ) -> Arc<Self> {
        let (probe, state) = (Box::new(probe), watch::Sender::new(State::Closed));
        Arc::new(Self { servers, timeouts, probe, state })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// When a decision that began at a time has to be there.
    pub(super) fn deadline(&self, began: Instant) -> Instant {
        began + self.timeouts.decision
    }

    /// Runs the script where the shard of `request` is. While that is down, this fails at once.
    pub(super) async fn run(
        self: &Arc<Self>,
        request: &Request,
        deadline: Instant,
    ) -> Result<Answer, StoreError> {
        let opened = self.opened(deadline).await?;
        let part = opened.part(|| request.slot());
        if part.is_down.load(Relaxed) {
            return Err(StoreError::new("a Redis server is down"));
        }
        let deadline = deadline.min(Instant::now() + self.timeouts.response);
        let (cause, error) = match timeout_at(deadline, opened.connection.run(request)).await {
            Ok(Ok(answer)) => {
                part.failures.store(0, Relaxed);
                return Ok(answer);
            }
            Ok(Err(error)) if error.is_lost => (Cause::ConnectionLost, error.into()),
            Ok(Err(error)) => (Cause::Failures, error.into()),
            Err(_) => (Cause::Failures, StoreError::new("a Redis server has not answered in time")),
        };
        let failures = part.failures.fetch_add(1, Relaxed) + 1;
        if cause == Cause::ConnectionLost || failures >= FAILURES {
            self.take_down(&opened, request, cause, &error);
        }
        Err(error)
    }

    /// The connection; the first request waits until there is one.
    async fn opened(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Opened>, StoreError> {
        if let State::Open(opened) = &*self.state.borrow() {
            return Ok(Arc::clone(opened));
        }
        let mut state = self.state.subscribe();
        if self.change(|state| matches!(state, State::Closed), State::Opening) {
            tokio::spawn(keep_open(Keeper(Arc::downgrade(self))));
        }
        let settled = state.wait_for(|state| matches!(state, State::Open(_) | State::Down(_)));
        match timeout_at(deadline, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Open(opened) => Ok(Arc::clone(opened)),
                _ => Err(StoreError::new("there is no connection to Redis")),
            },
            _ => Err(StoreError::new("the connection to Redis was not opened in time")),
        }
    }

    /// Does without what has failed until it works again.
    #[cold]
    fn take_down(
        self: &Arc<Self>,
        failed: &Arc<Opened>,
        request: &Request,
        cause: Cause,
        error: &StoreError,
    ) {
        let part = failed.part(|| request.slot());
        if !self.is_cluster() {
            let is_it =
                |state: &State| matches!(state, State::Open(now) if Arc::ptr_eq(now, failed));
            if self.change(is_it, State::Down(cause)) {
                log_down(error);
            }
        } else if !part.is_down.swap(true, Relaxed) {
            log_down(error);
            let (shard, slot) = (request.shard(), request.slot());
            tokio::spawn(heal(Arc::downgrade(self), Arc::clone(failed), (shard, slot), cause));
        }
    }

    /// Changes the state if it is the one expected.
    fn change(&self, expected: impl Fn(&State) -> bool, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let changes = expected(state);
            if changes {
                *state = to;
            }
            changes
        })
    }

    /// Whether the server of a shard does what is asked of it.
    async fn answers(&self, connection: &Connection, shard: u64) -> Result<(), StoreError> {
        match timeout(self.timeouts.response, connection.run(&(self.probe)(shard))).await {
            Ok(answer) => answer.map(drop).map_err(StoreError::from),
            Err(_) => Err(StoreError::new("a Redis server has not answered in time")),
        }
    }

    async fn try_to_open(&self) -> Result<Opened, StoreError> {
        let connection = self.servers.connect(&self.timeouts).await?;
        // One server of a cluster may fail: then its part is down, and no other.
        if !self.is_cluster() {
            self.answers(&connection, 0).await?;
        }
        Ok(Opened::new(connection))
    }
}

/// The task that opens the connection, and opens it again when it is lost. The connection lives as
/// long as the task's runtime; when that ends, the next request begins anew, on its own.
struct Keeper(Weak<Link>);

impl Drop for Keeper {
    fn drop(&mut self) {
        if let Some(link) = self.0.upgrade() {
            link.state.send_replace(State::Closed);
        }
    }
}

async fn keep_open(keeper: Keeper) {
    let (mut pauses, mut tells_evicting) = (Pauses::default(), true);
    while let Some(link) = keeper.0.upgrade() {
        match link.try_to_open().await {
            Ok(opened) => {
                let (connection, state) = (opened.connection.clone(), link.state.subscribe());
                let before = link.state.send_replace(State::Open(Arc::new(opened)));
                if matches!(before, State::Down(_)) {
                    log_up();
                }
                pauses.works();
                if mem::take(&mut tells_evicting) {
                    tokio::spawn(warn_if_evicting(connection, link.timeouts.response));
                }
                drop(link);
                let Some(cause) = until_down(state).await else { return };
                sleep(pauses.again(cause)).await;
            }
            Err(error) => {
                let down = State::Down(Cause::Failures);
                if matches!(link.state.send_replace(down), State::Opening) {
                    log_down(&error);
                }
                drop(link);
                sleep(pauses.next()).await;
            }
        }
    }
}

/// `None`: the store is gone.
async fn until_down(mut state: watch::Receiver<State>) -> Option<Cause> {
    let down = state.wait_for(|state| matches!(state, State::Down(_))).await.ok()?;
    if let State::Down(cause) = *down { Some(cause) } else { None }
}

async fn warn_if_evicting(connection: Connection, within: Duration) {
    if let Ok(Some(policy)) = timeout(within, connection.eviction_policy()).await {
        log_evicting(&policy);
    }
}

/// Waits until the server of a shard, and so of all its part, works again.
async fn heal(link: Weak<Link>, opened: Arc<Opened>, (shard, slot): (u64, u16), cause: Cause) {
    let part = opened.part(|| slot);
    let pause = part.pauses().again(cause);
    sleep(pause).await;
    while let Some(link) = link.upgrade() {
        if link.answers(&opened.connection, shard).await.is_ok() {
            part.pauses().works();
            part.failures.store(0, Relaxed);
            part.is_down.store(false, Relaxed);
            log_up();
            return;
        }
        drop(link);
        let pause = part.pauses().next();
        sleep(pause).await;
    }
}

/// Between attempts: longer and longer ones, until it has worked for a while.
struct Pauses {
    next: Duration,
    works_since: Option<Instant>,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { next: FIRST_PAUSE, works_since: None }
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(LONGEST_PAUSE);
        pause
    }

    fn works(&mut self) {
        self.works_since = Some(Instant::now());
    }

    /// The first after it has worked.
    fn again(&mut self, cause: Cause) -> Duration {
        let worked = self.works_since.map_or(Duration::MAX, |since| since.elapsed());
        let steady = match cause {
            Cause::Failures => STEADY,
            // That says less about the server.
            Cause::ConnectionLost => FIRST_PAUSE,
        };
        if worked >= steady || cause == Cause::ConnectionLost {
            self.next = FIRST_PAUSE;
        }
        if worked >= steady { Duration::ZERO } else { self.next() }
    }
}

fn log_down(error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "Redis is given up until it answers: policies decide without it");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

fn log_evicting(policy: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(
        policy,
        "a full Redis server forgets counts that still matter, and more is admitted than the \
         quota; set its `maxmemory-policy` to `noeviction`"
    );
    #[cfg(not(feature = "tracing"))]
    let _ = policy;
}

fn log_up() {
    #[cfg(feature = "tracing")]
    tracing::info!("Redis answers again");
}
