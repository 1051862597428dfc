//! The settings of a store, and what is wrong with them: [`RedisStoreBuilder`].

use std::{fmt, sync::Arc, time::Duration};

use redis::{Client, ConnectionAddr, cluster::ClusterClientBuilder, sentinel::SentinelClient};
use tokio::sync::Mutex;

use super::{
    RedisStore, connection::Servers, connection_manager::ConnectionManager, deny_cache::DenyCache,
    leases::LeaseTable, replica::Replica, script::KeyNames, shards::Shards, time_budget::Timeouts,
};
use crate::error::BuildError;

const CULPRIT: &str = "the Redis store";
/// Shorter than a few round trips to a busy server would free units that are held.
const SHORTEST_IN_FLIGHT: Duration = Duration::from_secs(1);
const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(3_600);
const LONGEST_DENIED: Duration = Duration::from_secs(10);

/// Collects what a [`RedisStore`] needs.
#[must_use]
pub struct RedisStoreBuilder {
    address: Address,
    secret: Option<u128>,
    prefix: String,
    timeouts: Timeouts,
    max_denied: usize,
    max_leased: usize,
    in_flight_timeout: Duration,
}

/// Where the servers are.
pub(super) enum Address {
    One(String),
    Client(Box<Client>),
    Cluster(Vec<String>),
    Sentinels(Box<SentinelClient>),
}

impl RedisStoreBuilder {
    pub(super) fn new(address: Address) -> Self {
        let timeouts = Timeouts {
            connect: Duration::from_millis(90),
            response: Duration::from_millis(40),
            decision: Duration::from_millis(50),
            queue: Duration::from_secs(1),
        };
        Self {
            address,
            secret: None,
            prefix: "tower-quota".into(),
            timeouts,
            max_denied: 100_000,
            max_leased: 100_000,
            in_flight_timeout: Duration::from_secs(10),
        }
    }

    /// The secret by which keys become fingerprints. All replicas need the same one, and no one else may
    /// know it. `openssl rand -hex 16` makes one, `u128::from_str_radix(hex, 16)` reads it. A new secret
    /// makes new fingerprints: every key has its whole quota again.
    pub fn secret(mut self, secret: u128) -> Self {
        self.secret = Some(secret);
        self
    }

    /// The text before the name of each Redis key. Default: `tower-quota`.
    ///
    /// Services with the same prefix and secret count policies with the same name and algorithm
    /// together. Services that must not count together need different prefixes. If two such policies
    /// differ in quota or keys, the warning [`policy_differs`](crate::warning#policy_differs) is given.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long it may take to open a connection. Default: 90 ms. A cluster has ten times as long, because it needs
    /// several connections, and a store with Sentinels has 3 seconds at least. Requests wait for the first connection
    /// only, and never longer than [`decision_timeout`](Self::decision_timeout).
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.timeouts.connect = time;
        self
    }

    /// How long a server may take to answer a command, from when it is sent. Default: 40 ms.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.timeouts.response = time;
        self
    }

    /// How long servers may take for one decision, however many commands it needs. Default: 50 ms.
    pub fn decision_timeout(mut self, time: Duration) -> Self {
        self.timeouts.decision = time;
        self
    }

    /// How long a request may wait to be sent. Default: 1 s. Requests wait while 256 commands are
    /// on their way to the server. In a cluster, they wait while 64 commands are on their way to
    /// their part of the slots, of which there are 64.
    ///
    /// This is a queue of this process, and no fault of the server. Requests wait in the order in which
    /// they came, as long as the server answers any of them. A request that has waited too long is
    /// decided by [`Policy::on_store_failure`](crate::Policy::on_store_failure), and the warning
    /// [`redis_queue`](crate::warning#redis_queue) is given once. In all, a request waits no longer than
    /// this and [`decision_timeout`](Self::decision_timeout) together, while this process runs.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_quota::store::RedisStore;
    ///
    /// // Requests hardly wait: when there are too many, `on_store_failure` decides.
    /// let store = RedisStore::builder("redis://127.0.0.1/")
    ///     .secret(7)
    ///     .queue_timeout(Duration::from_millis(5))
    ///     .build()?;
    /// # let _ = store;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn queue_timeout(mut self, time: Duration) -> Self {
        self.timeouts.queue = time;
        self
    }

    /// The number of keys whose refusal is remembered. Default: 100,000, about 15 MB, or 25 MB if
    /// requests differ in cost; 0 remembers none.
    ///
    /// Then many refused requests cost the server almost nothing: a key needs one command each time
    /// that its refusal ends, and a few more if requests differ in cost. A refusal is for one key,
    /// policy and quota, and for all requests that cost as much or more.
    ///
    /// A refusal is remembered until it ends, and for 10 seconds at most. So if another replica
    /// resets the key, this one may refuse it for 10 seconds more. A reset by this replica, units
    /// that it gives back, and a new plan of the key have effect at once. No refusal is remembered
    /// for policies whose cost a response may change ([`Policy::settle`](crate::Policy::settle)).
    pub fn max_denied(mut self, keys: usize) -> Self {
        self.max_denied = keys;
        self
    }

    /// The number of keys that may have leased units at once, see
    /// [`Policy::lease`](crate::Policy::lease). Default: 100,000, about 30 MB. Requests of other keys
    /// ask the server.
    pub fn max_leased(mut self, keys: usize) -> Self {
        self.max_leased = keys;
        self
    }

    /// How long it takes until the units [in flight](crate::Policy::in_flight) of a replica are free again, if
    /// the replica was killed, or is cut off from the server. Default: 10 s; from 1 s to an hour. Set the same
    /// time for all replicas.
    ///
    /// A replica states what it holds five times in this time, in one command for 64 keys. So if a unit
    /// could not be given back, or the server has lost one, the count is correct again a fifth of this time
    /// after the server answers again. While requests for the key never pause, they wait for two more round
    /// trips at each statement, for half of [`decision_timeout`](Self::decision_timeout) at most. If the server
    /// is slower than that, a later statement corrects the count.
    ///
    /// If a replica is paused or cut off for longer, its requests go on while others take their units. The
    /// excess is what that replica holds.
    pub fn in_flight_timeout(mut self, time: Duration) -> Self {
        self.in_flight_timeout = time;
        self
    }

    /// Builds the store. It connects in the background at the first request.
    ///
    /// # Errors
    /// If there is no secret, if a URL cannot be read, if a time-out is zero, if the prefix contains `{` or
    /// `}`, by which a cluster would place all keys, or if a server needs TLS, and the feature `redis-tls` or a
    /// crypto provider is missing.
    pub fn build(self) -> Result<RedisStore, BuildError> {
        let fail = |problem: &str| Err(BuildError::new(CULPRIT, problem));
        let Some(secret) = self.secret else {
            return fail(
                "it has no secret; add `.secret(…)`, the same for all replicas, as `openssl rand -hex 16` makes one",
            );
        };
        if self.prefix.contains(['{', '}']) {
            return fail(
                "its prefix has a brace, by which a cluster would place all keys; leave it out",
            );
        }
        let Timeouts { connect, response, decision, queue } = self.timeouts;
        if [connect, response, decision, queue].contains(&Duration::ZERO) {
            return fail("a time-out of 0 is over before it begins; write at least 1 ms");
        }
        if !(SHORTEST_IN_FLIGHT..=LONGEST_IN_FLIGHT).contains(&self.in_flight_timeout) {
            return fail(
                "units in flight last from 1 second to 1 hour; write such a time, as 10 seconds",
            );
        }
        let servers = self.address.servers(&self.timeouts)?;
        let mut names = KeyNames::new(self.prefix);
        names.holder.lasts = self.in_flight_timeout;
        let manager = ConnectionManager::new(servers, self.timeouts, names, secret);
        let deny_cache = DenyCache::new(self.max_denied, LONGEST_DENIED);
        let shards = Shards { manager, deny_cache };
        let replica = Arc::new(Replica::new(shards, LeaseTable::new(self.max_leased)));
        Ok(RedisStore { replica, secret })
    }
}

impl Address {
    fn servers(self, timeouts: &Timeouts) -> Result<Servers, BuildError> {
        // The errors of the `redis` crate may repeat a password.
        let fail = |problem: &str| BuildError::new(CULPRIT, problem);
        match self {
            Self::One(url) => {
                let client = Client::open(&*url).map_err(|_| bad_url(&url))?;
                Self::Client(Box::new(client)).servers(timeouts)
            }
            Self::Client(client) => {
                let address = client.get_connection_info().addr();
                if !address.is_supported() {
                    return Err(fail(NO_TLS));
                }
                check_crypto_provider(address)?;
                Ok(Servers::One(client))
            }
            Self::Sentinels(client) => Ok(Servers::Sentinels(Arc::new(Mutex::new(*client)))),
            Self::Cluster(urls) if urls.is_empty() => {
                Err(fail("it has no URL; write that of one server of the cluster at least"))
            }
            Self::Cluster(urls) => {
                for url in &urls {
                    let client = Client::open(url.as_str()).map_err(|_| bad_url(url))?;
                    check_crypto_provider(client.get_connection_info().addr())?;
                }
                let cluster = ClusterClientBuilder::new(urls)
                    .connection_timeout(timeouts.connect)
                    // `TimeBudget` counts the time, from when a command is sent.
                    .response_timeout(timeouts.response.saturating_mul(4))
                    // A retry would repeat what a server may have done.
                    .retries(0);
                let cluster = cluster.build().map(|client| Servers::Cluster(Box::new(client)));
                cluster.map_err(|_| {
                    fail(
                        "its URLs differ in more than host and port; write the same scheme, user, \
                         password and database in each",
                    )
                })
            }
        }
    }
}

const NO_TLS: &str =
    "it asks for TLS, and is built without; add the feature `redis-tls` of `tower-quota`";

/// Without a provider, `rustls` may panic when it connects.
fn check_crypto_provider(address: &ConnectionAddr) -> Result<(), BuildError> {
    #[cfg(feature = "redis-tls")]
    if matches!(address, ConnectionAddr::TcpTls { .. })
        && rustls::crypto::CryptoProvider::get_default().is_none()
    {
        return Err(BuildError::new(
            CULPRIT,
            "it asks for TLS, and the process has no crypto provider; install one at the beginning of \
             `main`, as by `rustls::crypto::ring::default_provider().install_default()`",
        ));
    }
    let _ = address;
    Ok(())
}

/// The error never proposes a URL without TLS for one with TLS.
fn bad_url(url: &str) -> BuildError {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let wants_tls = ["rediss", "valkeys"].iter().any(|tls| scheme.eq_ignore_ascii_case(tls));
    let problem = if !wants_tls {
        "its URL cannot be read; write one like `redis://:password@host:6379/0`, or with TLS \
         `rediss://:password@host:6379/0`"
    } else if Client::open(format!("redis://{rest}")).is_ok() {
        NO_TLS
    } else {
        "its URL cannot be read; write one like `rediss://:password@host:6379/0`"
    };
    BuildError::new(CULPRIT, problem)
}

impl fmt::Debug for RedisStoreBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStoreBuilder")
            .field("prefix", &self.prefix)
            .field("timeouts", &self.timeouts)
            .finish_non_exhaustive()
    }
}
