//! The connection: opened and healed in the background, and not asked while it fails.

use std::{
    mem,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    announced::Announced,
    connection::{Connection, Servers},
    parts::Opened,
    patience::Patience,
    pauses::{Cause, Pauses},
    turns::NoTurn,
    wire::Request,
};
use crate::{
    store::{Answer, StoreError},
    warning::{Code, warn},
};

/// A server counts as down after this many errors without an answer between them.
const FAILURES: u32 = 3;
/// How long requests wait for a server.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    pub(super) connect: Duration,
    pub(super) response: Duration,
    pub(super) decision: Duration,
    pub(super) queue: Duration,
}

pub(super) struct Link {
    servers: Servers,
    timeouts: Timeouts,
    /// What asks the server of a shard for as little as can be.
    probe: Box<dyn Fn(u64) -> Request + Send + Sync>,
    state: watch::Sender<State>,
    warns_of_queue: AtomicBool,
    announced: Announced,
}

#[derive(Clone)]
enum State {
    Closed,
    /// For the first time: requests wait for it.
    Opening,
    Open(Arc<Opened>),
    /// It is being opened again, and no request waits for it.
    Down(Cause),
}

impl Link {
    pub(super) fn new(
        servers: Servers,
        timeouts: Timeouts,
        probe: impl Fn(u64) -> Request + Send + Sync + 'static,
        announced: Announced,
    ) -> Arc<Self> {
        let (probe, state) = (Box::new(probe), watch::Sender::new(State::Closed));
        let warns_of_queue = AtomicBool::new(true);
        Arc::new(Self { servers, timeouts, probe, state, warns_of_queue, announced })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.servers, Servers::Cluster(_))
    }

    /// The time that servers have for one decision.
    pub(super) fn patience(&self) -> Patience {
        Patience::new(self.timeouts.decision)
    }

    /// Runs the script where the shard of `request` is. While that is down, this fails at once.
    pub(super) async fn run(
        self: &Arc<Self>,
        request: &Request,
        patience: &mut Patience,
    ) -> Result<Answer, StoreError> {
        let opened = self.opened(patience).await?;
        let part = opened.part(|| request.slot());
        let turn = part.turns.take(self.timeouts.queue).await;
        let _turn = turn.map_err(|why| self.no_turn(why))?;
        if part.is_down.load(Relaxed) {
            return Err(StoreError::new("a Redis server is down"));
        }
        patience.asks();
        let answered = part.answered.load(Relaxed);
        let answer = patience.wait(self.timeouts.response, opened.connection.run(request)).await;
        let failure = match answer {
            Some(Ok(answer)) => {
                part.answered.fetch_add(1, Relaxed);
                part.failures.store(0, Relaxed);
                if self.announced.is_news() {
                    self.announce(opened);
                }
                return Ok(answer);
            }
            Some(Err(failure)) if !failure.is_timeout => failure,
            Some(Err(_)) | None => {
                self.doubt(&opened, request, answered);
                return Err(not_in_time());
            }
        };
        let cause = if failure.is_lost { Cause::ConnectionLost } else { Cause::Failures };
        let error = failure.into();
        let failures = part.failures.fetch_add(1, Relaxed) + 1;
        if cause == Cause::ConnectionLost {
            self.take_down(&opened, request, cause, &error);
        } else {
            part.answered.fetch_add(1, Relaxed);
            if failures >= FAILURES {
                self.take_down(&opened, request, cause, &error);
            }
        }
        Err(error)
    }

    #[cold]
    fn no_turn(&self, why: NoTurn) -> StoreError {
        if why == NoTurn::GivenUp {
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

    /// The connection; the first request waits until there is one.
    async fn opened(self: &Arc<Self>, patience: &mut Patience) -> Result<Arc<Opened>, StoreError> {
        if let State::Open(opened) = &*self.state.borrow() {
            return Ok(Arc::clone(opened));
        }
        let mut state = self.state.subscribe();
        if self.change(|state| matches!(state, State::Closed), State::Opening) {
            tokio::spawn(keep_open(Keeper(Arc::downgrade(self))));
        }
        let settled = state.wait_for(|state| matches!(state, State::Open(_) | State::Down(_)));
        match patience.wait(Duration::MAX, settled).await {
            Some(Ok(state)) => match &*state {
                State::Open(opened) => Ok(Arc::clone(opened)),
                _ => Err(StoreError::new("there is no connection to Redis")),
            },
            _ => Err(StoreError::new("the connection to Redis was not opened in time")),
        }
    }

    /// The policies that limiters of this store have announced.
    pub(super) fn announced(&self) -> &Announced {
        &self.announced
    }

    /// Announces our policies to a server that answers, in the background, and compares them with
    /// those of others.
    #[cold]
    fn announce(&self, opened: Arc<Opened>) {
        let news = self.announced.take();
        let news: Vec<_> = news.iter().flat_map(|policies| policies.iter()).cloned().collect();
        let news: Vec<_> = news.into_iter().map(|news| (self.announced.key(&news), news)).collect();
        let within = self.timeouts.response;
        tokio::spawn(async move {
            for (key, news) in news {
                let before = opened.connection.replace(&key, &news.settings);
                if let Ok(Some(before)) = timeout(within, before).await {
                    news.compare(&before);
                }
            }
        });
    }

    /// A server has not answered in time. One command alone may be slow, so the server gets a question
    /// in the background before it counts as down. If it has answered no other command since, requests
    /// that wait for their turn give up at once, so that none of them waits for a time-out of its own.
    #[cold]
    fn doubt(self: &Arc<Self>, opened: &Arc<Opened>, request: &Request, answered: u64) {
        let part = opened.part(|| request.slot());
        if part.is_doubted.swap(true, Relaxed) {
            return;
        }
        if part.answered.load(Relaxed) == answered {
            part.turns.give_up();
        }
        tokio::spawn(ask_again(Arc::clone(self), Arc::clone(opened), request.shard()));
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
                part.is_down.store(true, Relaxed);
                part.turns.give_up();
                log_down(error);
            }
        } else if !part.is_down.swap(true, Relaxed) {
            part.turns.give_up();
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
    async fn answers(&self, connection: &Connection, request: &Request) -> Result<(), StoreError> {
        let mut patience = Patience::new(self.timeouts.response);
        match patience.wait(Duration::MAX, connection.run(request)).await {
            Some(answer) => answer.map(drop).map_err(StoreError::from),
            None => Err(not_in_time()),
        }
    }

    async fn try_to_open(&self) -> Result<Opened, StoreError> {
        let connection = self.servers.connect(&self.timeouts).await?;
        // One server of a cluster may fail: then its part is down, and no other.
        if !self.is_cluster() {
            self.answers(&connection, &(self.probe)(0)).await?;
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
                link.announced.again();
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

/// Takes a server down if it does not answer a probe either.
async fn ask_again(link: Arc<Link>, opened: Arc<Opened>, shard: u64) {
    let probe = (link.probe)(shard);
    let answer = link.answers(&opened.connection, &probe).await;
    let part = opened.part(|| probe.slot());
    if let Err(error) = answer {
        link.take_down(&opened, &probe, Cause::Failures, &error);
    }
    part.is_doubted.store(false, Relaxed);
}

fn not_in_time() -> StoreError {
    StoreError::new("a Redis server has not answered in time")
}

/// Waits until the server of a shard, and so of all its part, works again.
async fn heal(link: Weak<Link>, opened: Arc<Opened>, (shard, slot): (u64, u16), cause: Cause) {
    let part = opened.part(|| slot);
    let pause = part.pauses().again(cause);
    sleep(pause).await;
    while let Some(link) = link.upgrade() {
        if link.answers(&opened.connection, &(link.probe)(shard)).await.is_ok() {
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
