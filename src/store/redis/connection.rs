//! What the `redis` crate knows of servers, connections and errors.

use std::{fmt, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ErrorKind, RedisError, RedisResult, ServerErrorKind, Value,
    aio::MultiplexedConnection, cluster::ClusterClient, cluster_async::ClusterConnection,
    cluster_routing::SingleNodeRoutingInfo, cmd, from_redis_value,
};
use tokio::time::sleep;

use super::{
    link::Timeouts,
    parts::AT_ONCE,
    patience::Patience,
    wire::{self, Request},
};
use crate::store::{Answer, StoreError};

/// Between two attempts while a cluster is being rearranged, as long as there is time to decide.
const REARRANGING: Duration = Duration::from_millis(2);

/// A cluster is given the time of so many, one after the other.
const CONNECTIONS: u32 = 10;

/// How long an announcement says something.
const KEPT: Duration = Duration::from_secs(30 * 86_400);

/// One server, or some of a cluster.
#[derive(Clone)]
pub(super) enum Servers {
    One(Client),
    Cluster(Box<ClusterClient>),
}

/// One that is used by many requests at once.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// Why a server has not done what was asked.
pub(super) struct Failure {
    problem: String,
    /// There was no answer.
    pub(super) is_timeout: bool,
    /// The connection is gone, and with it all answers that were on their way.
    pub(super) is_lost: bool,
}

impl Servers {
    pub(super) async fn connect(&self, timeouts: &Timeouts) -> Result<Connection, StoreError> {
        let connecting = async {
            match self {
                Self::One(client) => {
                    // It is us who count the time; and what has its turn is written at once.
                    let config = AsyncConnectionConfig::new()
                        .set_connection_timeout(None)
                        .set_response_timeout(None)
                        .set_pipeline_buffer_size(AT_ONCE);
                    let connecting = client.get_multiplexed_async_connection_with_config(&config);
                    connecting.await.map(Connection::One)
                }
                Self::Cluster(client) => {
                    client.get_async_connection().await.map(Connection::Cluster)
                }
            }
        };
        let connections = if matches!(self, Self::Cluster(_)) { CONNECTIONS } else { 1 };
        let mut patience = Patience::new(timeouts.connect.saturating_mul(connections));
        match patience.wait(Duration::MAX, connecting).await {
            Some(connection) => connection.map_err(|error| Failure::from(error).into()),
            None => Err(StoreError::new("the connection to Redis was not opened in time")),
        }
    }
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// How a server makes room when it is full, where that takes counts which still matter.
    pub(super) async fn eviction_policy(&self) -> Option<String> {
        let mut info = cmd("INFO");
        info.arg("memory");
        let told: RedisResult<Value> = match self {
            Self::One(connection) => info.query_async(&mut connection.clone()).await,
            // Each of its servers answers.
            Self::Cluster(connection) => info.query_async(&mut connection.clone()).await,
        };
        match told.ok()? {
            Value::Map(servers) => servers.into_iter().find_map(|(_, told)| evicting(told)),
            told => evicting(told),
        }
    }

    /// Sets a text, which is kept for a while, and tells what it was before, if there was one.
    pub(super) async fn replace(&self, key: &str, text: &str) -> Option<String> {
        let mut set = cmd("SET");
        set.arg(key).arg(text).arg("GET").arg("EX").arg(KEPT.as_secs());
        let before: RedisResult<Option<String>> = match self {
            Self::One(connection) => set.query_async(&mut connection.clone()).await,
            Self::Cluster(connection) => set.query_async(&mut connection.clone()).await,
        };
        before.ok()?
    }

    /// Runs the script.
    pub(super) async fn run(&self, request: &Request) -> Result<Answer, Failure> {
        let answer = match self {
            Self::One(connection) => wire::run(&mut connection.clone(), request).await,
            Self::Cluster(connection) => run_in_cluster(&mut connection.clone(), request).await,
        };
        answer.map_err(Failure::from)
    }
}

/// Runs the script, and asks again what a cluster has not done because it is being rearranged. What
/// it may have done is not asked for twice, or units would be given back twice: its client retries
/// nothing by itself.
async fn run_in_cluster(
    connection: &mut ClusterConnection,
    request: &Request,
) -> RedisResult<Answer> {
    loop {
        let mut answer = wire::run(connection, request).await;
        if let Some(node) = answer.as_ref().err().and_then(taking_over) {
            answer = wire::run_asking(connection, request, node).await;
        }
        match answer {
            Err(error) if is_rearranged(&error) => sleep(REARRANGING).await,
            answer => return answer,
        }
    }
}

/// The server that is taking over the slot that was asked for.
fn taking_over(error: &RedisError) -> Option<SingleNodeRoutingInfo> {
    let (node, _) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    let is_it = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
    let (host, port) = (host.to_owned(), port.parse().ok()?);
    is_it.then_some(SingleNodeRoutingInfo::ByAddress { host, port })
}

/// Whether nothing was done because servers change their slots or their roles.
fn is_rearranged(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::Server(Ask | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
    )
}

fn evicting(told: Value) -> Option<String> {
    let memory: String = from_redis_value(told).ok()?;
    let field = |name| memory.lines().find_map(|line| line.trim().strip_prefix(name));
    let is_bounded = field("maxmemory:").is_some_and(|bytes| bytes != "0");
    let policy = field("maxmemory_policy:").filter(|policy| is_bounded && *policy != "noeviction");
    policy.map(str::to_owned)
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        let is_timeout = error.is_timeout();
        let is_lost = error.is_io_error() || error.is_connection_dropped();
        Self { problem: error.to_string(), is_timeout, is_lost: is_lost && !is_timeout }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        Self::new(failure.problem)
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without addresses, which may hold a password.
        f.write_str(match self {
            Self::One(_) => "one server",
            Self::Cluster(_) => "a cluster",
        })
    }
}
