//! The connection to the servers: opened in the background, not used while it fails, and probed until
//! it works again.
//!
//! ```text
//!            first request           opens, probe works
//!   Closed ────────────────► Opening ──────────────────► Open ◄───────────────┐
//!     ▲                         │                          │ connection lost, │
//!     │ the runtime ends        │ fails                    │ three errors, or │ opens,
//!     │ (from any state)        ▼                          ▼ a failed probe   │ probe works
//!     └─────────────────────── Down ◄──────────────────────┴──────────────────┘
//! ```
//!
//! Requests wait in `Opening`, as long as their time budget allows. In `Down` they fail at once. One
//! task opens the connection, and opens it again when it is lost. The connection to a cluster stays
//! open: there, each [`SlotRange`](connected::SlotRange) goes up and down by itself.

mod backoff;
mod connected;
mod send_queue;

use std::{
    mem,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{Cmd, RedisResult, Value};
use tokio::{sync::watch, time::sleep};

use self::{
    backoff::{Backoff, DownReason},
    connected::Connected,
    send_queue::NotSent,
};
use super::{
    announced_policies::AnnouncedPolicies,
    connection::{Connection, Servers, is_lost, store_error},
    overrides::OverrideCall,
    script::{KeyNames, ScriptCall},
    time_budget::{TimeBudget, Timeouts},
};
use crate::{
    store::{Answer, StoreError},
    warning::{Code, warn},
};

/// A server counts as down after this many errors in a row.
const MAX_ERRORS: u32 = 3;

pub(super) struct ConnectionManager {
    servers: Servers,
    timeouts: Timeouts,
    pub(super) names: KeyNames,
    state: watch::Sender<State>,
    /// Whether the warning about the queue is still to be given.
    warns_of_queue: AtomicBool,
    /// The policies that limiters of this store have announced.
    pub(super) announced: AnnouncedPolicies,
}

#[derive(Clone)]
enum State {
    Closed,
    /// For the first time: requests wait for it.
    Opening,
    Open(Arc<Connected>),
    /// It is being opened again, and no request waits for it.
    Down(DownReason),
}

impl ConnectionManager {
    pub(super) fn new(
        servers: Servers,
        timeouts: Timeouts,
        names: KeyNames,
        secret: u128,
    ) -> Arc<Self> {
        let (state, warns_of_queue) = (watch::Sender::new(State::Closed), AtomicBool::new(true));
        let announced = AnnouncedPolicies::new(names.clone(), secret);
        Arc::new(Self { servers, timeouts, names, state, warns_of_queue, announced })
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.servers.is_cluster()
    }

    /// How long servers may take for one decision.
    pub(super) fn decision_timeout(&self) -> Duration {
        self.timeouts.decision
    }

    /// Runs the script of the overrides, within a time of its own.
    pub(super) async fn run_overrides(
        self: &Arc<Self>,
        call: &OverrideCall,
        within: Duration,
    ) -> Result<Value, StoreError> {
        self.within(within, async |connection| connection.run_overrides(call).await).await
    }

    /// Runs one command that decides nothing, within a time of its own.
    pub(super) async fn ask(
        self: &Arc<Self>,
        command: &Cmd,
        within: Duration,
    ) -> Result<Value, StoreError> {
        self.within(within, async |connection| connection.query(command).await).await
    }

    /// Asks beside the requests, for which no server goes down but by a lost connection or a failed
    /// probe.
    async fn within(
        self: &Arc<Self>,
        within: Duration,
        ask: impl AsyncFnOnce(&Connection) -> RedisResult<Value>,
    ) -> Result<Value, StoreError> {
        let mut budget = TimeBudget::new(within);
        let connected = self.connected(&mut budget).await?;
        let probe = || ScriptCall::probe(&self.names, 0);
        let answers_before = connected.range(|| probe().slot()).answers.load(Relaxed);
        match budget.wait(Duration::MAX, pin!(ask(&connected.connection))).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) if !error.is_timeout() => {
                let is_lost = is_lost(&error) && !self.is_cluster();
                let error = store_error(&error);
                if is_lost {
                    self.mark_down(&connected, &probe(), DownReason::ConnectionLost, &error);
                }
                Err(error)
            }
            Some(Err(_)) | None => {
                self.start_probe(&connected, &probe(), answers_before);
                Err(not_in_time())
            }
        }
    }

    /// Whether the server answers and no part of a cluster is down. Opens the connection.
    pub(super) async fn is_up(self: &Arc<Self>) -> bool {
        let answers =
            self.run(&ScriptCall::probe(&self.names, 0), &mut self.time_budget()).await.is_ok();
        let no_part_is_down = match &*self.state.borrow() {
            State::Open(connected) => !connected.any_is_down(),
            _ => false,
        };
        answers && no_part_is_down
    }

    /// The time that servers have for one decision.
    pub(super) fn time_budget(&self) -> TimeBudget {
        TimeBudget::new(self.timeouts.decision)
    }

    /// Runs the script on the server of its shard. Fails at once while that is down.
    pub(super) async fn run(
        self: &Arc<Self>,
        call: &ScriptCall,
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let connected = self.connected(budget).await?;
        let range = connected.range(|| call.slot());
        let permit = range.send_queue.acquire(self.timeouts.queue).await;
        let _permit = permit.map_err(|why| self.not_sent(why))?;
        if range.is_down.load(Relaxed) {
            return Err(StoreError::new("a Redis server is down"));
        }
        budget.mark_sent();
        let answers_before = range.answers.load(Relaxed);
        let reply = pin!(connected.connection.run(call));
        let reply = budget.wait(self.timeouts.response, reply).await;
        let error = match reply {
            Some(Ok(answer)) => {
                range.answers.fetch_add(1, Relaxed);
                range.errors.store(0, Relaxed);
                if self.announced.has_unsent.load(Relaxed) {
                    self.announced.send(connected.connection.clone(), self.timeouts.response);
                }
                return Ok(answer);
            }
            Some(Err(error)) if !error.is_timeout() => error,
            Some(Err(_)) | None => {
                self.start_probe(&connected, call, answers_before);
                return Err(not_in_time());
            }
        };
        let (is_lost, error) = (is_lost(&error), store_error(&error));
        let errors = range.errors.fetch_add(1, Relaxed).saturating_add(1);
        if is_lost {
            self.mark_down(&connected, call, DownReason::ConnectionLost, &error);
        } else {
            range.answers.fetch_add(1, Relaxed);
            if errors >= MAX_ERRORS {
                self.mark_down(&connected, call, DownReason::Errors, &error);
            }
        }
        Err(error)
    }

    #[cold]
    fn not_sent(&self, why: NotSent) -> StoreError {
        if why == NotSent::Abandoned {
            return not_in_time();
        }
        let limit = self.timeouts.queue;
        if self.warns_of_queue.swap(false, Relaxed) {
            warn(Code::RedisQueue, "", || {
                format!(
                    "requests have waited {limit:?} for their turn to ask Redis, and are decided \
                     without it: this process has more of them than it or Redis can serve; add \
                     `Policy::lease(…)`, processors or servers, or write a longer \
                     `RedisStoreBuilder::queue_timeout`"
                )
            });
        }
        StoreError::new("this process has too many requests for Redis")
    }

    /// The connection. The first request opens it, and requests wait for it while it opens.
    async fn connected(
        self: &Arc<Self>,
        budget: &mut TimeBudget,
    ) -> Result<Arc<Connected>, StoreError> {
        if let State::Open(connected) = &*self.state.borrow() {
            return Ok(Arc::clone(connected));
        }
        // Boxed, so that the futures of other requests stay small.
        Box::pin(self.opened(budget)).await
    }

    /// The connection, which is not open yet.
    async fn opened(
        self: &Arc<Self>,
        budget: &mut TimeBudget,
    ) -> Result<Arc<Connected>, StoreError> {
        let mut state = self.state.subscribe();
        if self.change(|state| matches!(state, State::Closed), State::Opening) {
            tokio::spawn(keep_connected(Reconnector(Arc::downgrade(self))));
        }
        let opened = state.wait_for(|state| matches!(state, State::Open(_) | State::Down(_)));
        match budget.wait(Duration::MAX, pin!(opened)).await {
            Some(Ok(state)) => match &*state {
                State::Open(connected) => Ok(Arc::clone(connected)),
                _ => Err(StoreError::new("there is no connection to Redis")),
            },
            _ => Err(StoreError::new("the connection to Redis was not opened in time")),
        }
    }

    /// Probes a server that has not answered in time. One command alone may be slow, so the server is
    /// down only if the probe fails too. If nothing else was answered since the command was sent, the
    /// requests that wait to send theirs fail at once: none of them waits for a time-out of its own.
    #[cold]
    fn start_probe(
        self: &Arc<Self>,
        connected: &Arc<Connected>,
        call: &ScriptCall,
        answers_before: u64,
    ) {
        let range = connected.range(|| call.slot());
        if range.is_probed.swap(true, Relaxed) {
            return;
        }
        if range.answers.load(Relaxed) == answers_before {
            range.send_queue.abandon_waiting();
        }
        tokio::spawn(probe_once(Arc::clone(self), Arc::clone(connected), call.shard));
    }

    /// Marks the server down, or the range of a cluster, until it works again.
    #[cold]
    fn mark_down(
        self: &Arc<Self>,
        failed: &Arc<Connected>,
        call: &ScriptCall,
        reason: DownReason,
        error: &StoreError,
    ) {
        let range = failed.range(|| call.slot());
        if !self.is_cluster() {
            let is_current =
                |state: &State| matches!(state, State::Open(now) if Arc::ptr_eq(now, failed));
            if self.change(is_current, State::Down(reason)) {
                range.is_down.store(true, Relaxed);
                range.send_queue.abandon_waiting();
                log_down(error);
            }
        } else if !range.is_down.swap(true, Relaxed) {
            range.send_queue.abandon_waiting();
            log_down(error);
            let (manager, probe) =
                (Arc::downgrade(self), ScriptCall::probe(&self.names, call.shard));
            tokio::spawn(probe_until_up(manager, Arc::clone(failed), probe, reason));
        }
    }

    /// Changes the state if it is the expected one.
    fn change(&self, is_expected: impl Fn(&State) -> bool, to: State) -> bool {
        self.state.send_if_modified(|state| {
            let changes = is_expected(state);
            if changes {
                *state = to;
            }
            changes
        })
    }

    async fn probe(&self, connection: &Connection, probe: &ScriptCall) -> Result<(), StoreError> {
        let mut budget = TimeBudget::new(self.timeouts.response);
        match budget.wait(Duration::MAX, pin!(connection.run(probe))).await {
            Some(answer) => answer.map(drop).map_err(|error| store_error(&error)),
            None => Err(not_in_time()),
        }
    }

    async fn connect(&self) -> Result<Connected, StoreError> {
        let connection = self.servers.connect(&self.timeouts).await?;
        // One server of a cluster may fail: then its ranges are down, and no others.
        if !self.is_cluster() {
            self.probe(&connection, &ScriptCall::probe(&self.names, 0)).await?;
        }
        Ok(Connected::new(connection))
    }
}

/// Ends with the task that keeps the connection open, as when the task's runtime ends. The connection
/// ends as well then, and the next request starts a new task.
struct Reconnector(Weak<ConnectionManager>);

impl Drop for Reconnector {
    fn drop(&mut self) {
        if let Some(manager) = self.0.upgrade() {
            manager.state.send_replace(State::Closed);
        }
    }
}

/// Opens the connection, and opens it again when it is lost.
async fn keep_connected(reconnector: Reconnector) {
    let (mut backoff, mut is_first) = (Backoff::default(), true);
    while let Some(manager) = reconnector.0.upgrade() {
        match manager.connect().await {
            Ok(connected) => {
                let (connection, state) = (connected.connection.clone(), manager.state.subscribe());
                let before = manager.state.send_replace(State::Open(Arc::new(connected)));
                if matches!(before, State::Down(_)) {
                    log_up();
                }
                backoff.record_success();
                manager.announced.has_unsent.store(true, Relaxed);
                if mem::take(&mut is_first) {
                    tokio::spawn(connection.warn_if_evicting(manager.timeouts.response));
                }
                drop(manager);
                let Some(reason) = until_down(state).await else { return };
                sleep(backoff.first_pause(reason)).await;
            }
            Err(error) => {
                let down = State::Down(DownReason::Errors);
                if matches!(manager.state.send_replace(down), State::Opening) {
                    log_down(&error);
                }
                drop(manager);
                sleep(backoff.next_pause()).await;
            }
        }
    }
}

/// `None`: the store is gone.
async fn until_down(mut state: watch::Receiver<State>) -> Option<DownReason> {
    let down = state.wait_for(|state| matches!(state, State::Down(_))).await.ok()?;
    if let State::Down(reason) = *down { Some(reason) } else { None }
}

/// Marks a server down if it does not answer a probe either.
async fn probe_once(manager: Arc<ConnectionManager>, connected: Arc<Connected>, shard: u64) {
    let probe = ScriptCall::probe(&manager.names, shard);
    if let Err(error) = manager.probe(&connected.connection, &probe).await {
        manager.mark_down(&connected, &probe, DownReason::Errors, &error);
    }
    connected.range(|| probe.slot()).is_probed.store(false, Relaxed);
}

/// Probes the server of a shard until it works, and then marks the range up.
async fn probe_until_up(
    manager: Weak<ConnectionManager>,
    connected: Arc<Connected>,
    probe: ScriptCall,
    reason: DownReason,
) {
    let range = connected.range(|| probe.slot());
    let mut pause = range.backoff.lock().first_pause(reason);
    loop {
        sleep(pause).await;
        let Some(manager) = manager.upgrade() else { return };
        if manager.probe(&connected.connection, &probe).await.is_ok() {
            range.backoff.lock().record_success();
            range.errors.store(0, Relaxed);
            range.is_down.store(false, Relaxed);
            return log_up();
        }
        drop(manager);
        pause = range.backoff.lock().next_pause();
    }
}

fn not_in_time() -> StoreError {
    StoreError::new("a Redis server has not answered in time")
}

fn log_down(error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::warn!(%error, "Redis is given up until it answers: policies decide without it");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

fn log_up() {
    #[cfg(feature = "tracing")]
    tracing::info!("Redis answers again");
}
