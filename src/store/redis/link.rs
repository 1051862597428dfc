//! The connection: opened and healed in the background, and not asked while it fails.

use std::{
    sync::{
        Arc, Weak,
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
    Down,
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
}

impl Opened {
    fn new(connection: Connection) -> Self {
        let parts = if connection.is_cluster() { PARTS } else { 1 };
        Self { connection, parts: (0..parts).map(|_| Part::default()).collect() }
    }

    fn part(&self, slot: u16) -> &Part {
        &self.parts[usize::from(slot) * self.parts.len() / SLOTS]
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
        let part = opened.part(request.slot());
        if part.is_down.load(Relaxed) {
            return Err(StoreError::new("a Redis server is down"));
        }
        let deadline = deadline.min(Instant::now() + self.timeouts.response);
        let (times, error) = match timeout_at(deadline, opened.connection.run(request)).await {
            Ok(Ok(answer)) => {
                part.failures.store(0, Relaxed);
                return Ok(answer);
            }
            Ok(Err(error)) if error.is_lost => (FAILURES, error.into()),
            Ok(Err(error)) => (1, error.into()),
            Err(_) => (1, StoreError::new("a Redis server has not answered in time")),
        };
        if part.failures.fetch_add(times, Relaxed) + times >= FAILURES {
            self.take_down(&opened, request, &error);
        }
        Err(error)
    }

    /// The connection; the first request waits until there is one.
    async fn opened(self: &Arc<Self>, deadline: Instant) -> Result<Arc<Opened>, StoreError> {
        if let State::Open(opened) = &*self.state.borrow() {
            return Ok(Arc::clone(opened));
        }
        let mut state = self.state.subscribe();
        self.change(|state| matches!(state, State::Closed), State::Opening);
        let settled = state.wait_for(|state| matches!(state, State::Open(_) | State::Down));
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
    fn take_down(self: &Arc<Self>, failed: &Arc<Opened>, request: &Request, error: &StoreError) {
        let part = failed.part(request.slot());
        if !self.is_cluster() {
            let is_it =
                |state: &State| matches!(state, State::Open(now) if Arc::ptr_eq(now, failed));
            if self.change(is_it, State::Down) {
                log_down(error);
            }
        } else if !part.is_down.swap(true, Relaxed) {
            log_down(error);
            tokio::spawn(heal(Arc::downgrade(self), Arc::clone(failed), request.shard()));
        }
    }

    /// Changes the state if it is the one expected, and opens the connection then.
    fn change(self: &Arc<Self>, expected: impl Fn(&State) -> bool, to: State) -> bool {
        let changed = self.state.send_if_modified(|state| {
            let changes = expected(state);
            if changes {
                *state = to;
            }
            changes
        });
        if changed {
            tokio::spawn(open(Opening(Arc::downgrade(self))));
        }
        changed
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
        self.answers(&connection, 0).await?;
        Ok(Opened::new(connection))
    }
}

/// The task that opens the connection. If its runtime ends first, the next request begins anew.
struct Opening(Weak<Link>);

impl Drop for Opening {
    fn drop(&mut self) {
        let Some(link) = self.0.upgrade() else { return };
        link.state.send_if_modified(|state| {
            let given_up = matches!(state, State::Opening | State::Down);
            if given_up {
                *state = State::Closed;
            }
            given_up
        });
    }
}

async fn open(opening: Opening) {
    let mut pauses = Pauses::new();
    while let Some(link) = opening.0.upgrade() {
        match link.try_to_open().await {
            Ok(opened) => {
                let connection = opened.connection.clone();
                let before = link.state.send_replace(State::Open(Arc::new(opened)));
                if matches!(before, State::Down) {
                    log_up();
                }
                let evicting = timeout(link.timeouts.response, connection.eviction_policy()).await;
                if let Ok(Some(policy)) = evicting {
                    log_evicting(&policy);
                }
                return;
            }
            Err(error) => {
                if matches!(link.state.send_replace(State::Down), State::Opening) {
                    log_down(&error);
                }
            }
        }
        drop(link);
        pauses.next().await;
    }
}

/// Waits until the server of `shard` works again.
async fn heal(link: Weak<Link>, opened: Arc<Opened>, shard: u64) {
    let mut pauses = Pauses::new();
    while let Some(link) = link.upgrade() {
        if link.answers(&opened.connection, shard).await.is_ok() {
            let part = opened.part((link.probe)(shard).slot());
            part.failures.store(0, Relaxed);
            part.is_down.store(false, Relaxed);
            log_up();
            return;
        }
        drop(link);
        pauses.next().await;
    }
}

/// Longer and longer ones.
struct Pauses(Duration);

impl Pauses {
    fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    async fn next(&mut self) {
        sleep(self.0).await;
        self.0 = (self.0 * 2).min(LONGEST_PAUSE);
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
