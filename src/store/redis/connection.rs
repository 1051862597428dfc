//! The `redis` crate behind two types: [`Servers`], and a [`Connection`] to them.

use std::{pin::pin, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, RedisError, RedisResult,
    ServerErrorKind, Value, aio::MultiplexedConnection, cluster::ClusterClient,
    cluster_async::ClusterConnection, cluster_routing::SingleNodeRoutingInfo, cmd,
    from_redis_value, sentinel::SentinelClient,
};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};

use super::{
    overrides::OverrideCall,
    script::ScriptCall,
    time_budget::{TimeBudget, Timeouts},
};
use crate::store::{Answer, StoreError};

/// The most commands on their way to a server: enough to keep it busy, and few enough that the last
/// is answered long before its time is over.
pub(super) const MAX_IN_FLIGHT: usize = 256;

/// The pause between two attempts while a cluster moves slots.
const REARRANGING_PAUSE: Duration = Duration::from_millis(2);

/// A cluster has the time of this many connections, which are opened one after the other.
const CLUSTER_CONNECTIONS: u32 = 10;

/// How long it may take at least to find the master and connect to it: longer than the `redis` crate waits for one
/// Sentinel that is down, and then for a master that is down.
const SENTINEL_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a server keeps an announcement.
const ANNOUNCEMENT_TTL: Duration = Duration::from_secs(30 * 86_400);

/// Where to connect to.
#[derive(Clone)]
pub(super) enum Servers {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
    /// The Sentinels, which name the master. The client keeps its connections to them.
    Sentinels(Arc<Mutex<SentinelClient>>),
}

/// An open connection, which many requests use at once.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl Servers {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    pub(super) async fn connect(&self, timeouts: &Timeouts) -> Result<Connection, StoreError> {
        // `TimeBudget` counts the time. The buffer has room for all commands that the send queue lets
        // through.
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(None)
            .set_response_timeout(None)
            .set_pipeline_buffer_size(MAX_IN_FLIGHT);
        let connect = async {
            match self {
                Self::One(client) => {
                    let connect = client.get_multiplexed_async_connection_with_config(&config);
                    connect.await.map(Connection::One)
                }
                Self::Cluster(client) => {
                    client.get_async_connection().await.map(Connection::Cluster)
                }
                Self::Sentinels(client) => {
                    let mut client = client.lock().await;
                    client.get_async_connection_with_config(&config).await.map(Connection::One)
                }
            }
        };
        let mut budget = TimeBudget::new(match self {
            Self::One(_) => timeouts.connect,
            Self::Cluster(_) => timeouts.connect.saturating_mul(CLUSTER_CONNECTIONS),
            Self::Sentinels(_) => timeouts.connect.max(SENTINEL_TIMEOUT),
        });
        match budget.wait(Duration::MAX, pin!(connect)).await {
            Some(connection) => connection.map_err(|error| store_error(&error)),
            None => Err(StoreError::new("the connection to Redis was not opened in time")),
        }
    }
}

impl Connection {
    pub(super) async fn query<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        match self {
            Self::One(connection) => command.query_async(&mut connection.clone()).await,
            Self::Cluster(connection) => command.query_async(&mut connection.clone()).await,
        }
    }

    /// Runs the script.
    pub(super) async fn run(&self, call: &ScriptCall) -> RedisResult<Answer> {
        match self {
            Self::One(connection) => call.run(&mut connection.clone()).await,
            // Boxed, so that the futures of other requests stay small.
            Self::Cluster(connection) => {
                Box::pin(run_in_cluster(&mut connection.clone(), call)).await
            }
        }
    }

    /// Runs the script of the overrides. A cluster that moves slots has not run it, and is asked again.
    pub(super) async fn run_overrides(&self, call: &OverrideCall) -> RedisResult<Value> {
        loop {
            let mut answer = self.query(&call.known).await;
            let is_unknown =
                |error: &RedisError| error.kind() == ErrorKind::Server(ServerErrorKind::NoScript);
            if answer.as_ref().is_err_and(is_unknown) {
                answer = self.query(&call.with_source).await;
            }
            match answer {
                Err(error) if matches!(self, Self::Cluster(_)) && is_rearranged(&error) => {
                    sleep(REARRANGING_PAUSE).await;
                }
                answer => return answer,
            }
        }
    }

    /// Writes a text that a server keeps for a while, and returns the text that was there before.
    pub(super) async fn replace(&self, key: &str, text: &str) -> Option<String> {
        let mut set = cmd("SET");
        set.arg(key).arg(text).arg("GET").arg("EX").arg(ANNOUNCEMENT_TTL.as_secs());
        self.query(&set).await.ok()?
    }

    /// Warns if a full server makes room by dropping counts that still matter.
    pub(super) async fn warn_if_evicting(self, within: Duration) {
        let policy = timeout(within, self.eviction_policy()).await;
        #[cfg(feature = "tracing")]
        if let Ok(Some(policy)) = policy {
            tracing::warn!(
                policy,
                "a full Redis server forgets counts that still matter, and more is admitted than \
                 the quota; set its `maxmemory-policy` to `noeviction`"
            );
        }
        #[cfg(not(feature = "tracing"))]
        let _ = policy;
    }

    async fn eviction_policy(&self) -> Option<String> {
        let mut info = cmd("INFO");
        info.arg("memory");
        match self.query(&info).await.ok()? {
            // Each server of a cluster answers.
            Value::Map(servers) => servers.into_iter().find_map(|(_, memory)| evicting(memory)),
            memory => evicting(memory),
        }
    }
}

/// Runs the script, and runs it again where a cluster has not done so because it moves slots. What a
/// server may have done is never repeated, or units would be given back twice. For the same reason,
/// the cluster's client retries nothing.
async fn run_in_cluster(
    connection: &mut ClusterConnection,
    call: &ScriptCall,
) -> RedisResult<Answer> {
    loop {
        let mut answer = call.run(connection).await;
        if let Some(node) = answer.as_ref().err().and_then(taking_over) {
            answer = call.run_asking(connection, node).await;
        }
        match answer {
            Err(error) if is_rearranged(&error) => sleep(REARRANGING_PAUSE).await,
            answer => return answer,
        }
    }
}

/// The server that takes over the slot, where the error names one.
fn taking_over(error: &RedisError) -> Option<SingleNodeRoutingInfo> {
    let (node, _) = error.redirect_node()?;
    let (host, port) = node.rsplit_once(':')?;
    let is_ask = error.kind() == ErrorKind::Server(ServerErrorKind::Ask);
    let (host, port) = (host.to_owned(), port.parse().ok()?);
    is_ask.then_some(SingleNodeRoutingInfo::ByAddress { host, port })
}

/// Whether the script did not run because servers change their slots or their roles.
fn is_rearranged(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, MasterDown, Moved, ReadOnly, TryAgain};
    matches!(
        error.kind(),
        ErrorKind::Server(Ask | ClusterDown | MasterDown | Moved | ReadOnly | TryAgain)
    )
}

/// The eviction policy in what a server says of its memory, if it takes counts that still matter.
fn evicting(memory: Value) -> Option<String> {
    let memory: String = from_redis_value(memory).ok()?;
    let field = |name| memory.lines().find_map(|line| line.trim().strip_prefix(name));
    let is_bounded = field("maxmemory:").is_some_and(|bytes| bytes != "0");
    let policy = field("maxmemory_policy:").filter(|policy| is_bounded && *policy != "noeviction");
    policy.map(str::to_owned)
}

/// Whether the connection is lost, and with it all answers that were on their way.
pub(super) fn is_lost(error: &RedisError) -> bool {
    error.is_io_error() || error.is_connection_dropped()
}

pub(super) fn store_error(error: &RedisError) -> StoreError {
    StoreError::new(error.to_string())
}
