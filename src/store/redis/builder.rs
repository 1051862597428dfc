//! What a store needs, and what is wrong with it: [`RedisStoreBuilder`].

use std::{fmt, sync::Arc, time::Duration};

use redis::{Client, cluster::ClusterClientBuilder};

use super::{
    RedisStore, Shared,
    announced::Announced,
    connection::Servers,
    deny_cache::DenyCache,
    leases::Leases,
    leasing::Moment,
    link::{Link, Timeouts},
    wire::{Names, Request},
};
use crate::error::BuildError;

const CULPRIT: &str = "the Redis store";
const MAX_DENIED: usize = 100_000;
const MAX_LEASED: usize = 100_000;
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
}

enum Address {
    One(String),
    Client(Client),
    Cluster(Vec<String>),
}

impl RedisStoreBuilder {
    pub(super) fn one(url: String) -> Self {
        Self::new(Address::One(url))
    }

    pub(super) fn client(client: Client) -> Self {
        Self::new(Address::Client(client))
    }

    pub(super) fn cluster(urls: Vec<String>) -> Self {
        Self::new(Address::Cluster(urls))
    }

    fn new(address: Address) -> Self {
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
            max_denied: MAX_DENIED,
            max_leased: MAX_LEASED,
        }
    }

    /// The secret by which keys become fingerprints: the same for all replicas, and known to them
    /// alone. `openssl rand -hex 16` makes one, `u128::from_str_radix(hex, 16)` reads it. Another
    /// secret means other fingerprints: all quotas are whole again.
    pub fn secret(mut self, secret: u128) -> Self {
        self.secret = Some(secret);
        self
    }

    /// What the names of all keys begin with. Default: `tower-quota`.
    ///
    /// A policy is its name and its algorithm: services with the same prefix and secret count the
    /// policies that have the same together. Those that are not meant to need a prefix each. Where
    /// two meet whose quota or keys differ, the warning [`policy_differs`](crate::warning) is given.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// How long opening a connection may take. Default: 90 ms. A cluster, which takes several
    /// connections, has ten times as long. Requests wait for the first connection only, and never
    /// longer than a decision may take.
    pub fn connect_timeout(mut self, time: Duration) -> Self {
        self.timeouts.connect = time;
        self
    }

    /// How long a server may take to answer. Default: 40 ms, from when the command is on its way.
    pub fn response_timeout(mut self, time: Duration) -> Self {
        self.timeouts.response = time;
        self
    }

    /// How long servers may take for a decision, whatever that needs. Default: 50 ms.
    pub fn decision_timeout(mut self, time: Duration) -> Self {
        self.timeouts.decision = time;
        self
    }

    /// How long a request may wait for its turn while 256 others are on their way to the server, or
    /// 64 to a 64th of a cluster. Default: 1 s.
    ///
    /// That is our own queue, and not the server's failure: requests wait in it in their order, as
    /// long as the server answers any of them. One that has waited for so long is decided as
    /// [`Policy::on_store_failure`](crate::Policy::on_store_failure) says, and the warning
    /// [`redis_queue`](crate::warning) is given once. A request waits at most for this and for
    /// [`decision_timeout`](Self::decision_timeout) together, and for whatever time this process has
    /// no time for it at all.
    pub fn queue_timeout(mut self, time: Duration) -> Self {
        self.timeouts.queue = time;
        self
    }

    /// For how many keys a refusal is remembered, so that whoever floods while refused costs the
    /// server next to nothing: a key takes another command when its refusal ends, and a few more at
    /// most where requests cost different numbers of units. Default: 100,000, about 15 MB, or
    /// 25 MB where costs differ; 0 remembers none.
    ///
    /// A refusal holds for the key, the policy and the quota that it was made under, and for all
    /// requests that cost as much or more.
    ///
    /// It is remembered until it ends, but for 10 seconds at most: when another replica resets the
    /// key, this one knows by then. What this one resets or gives back it knows at once, and so it
    /// does when the key's plan changes. Where a response may change what a request has cost
    /// ([`Policy::settle`](crate::Policy::settle)), nothing is remembered.
    pub fn max_denied(mut self, keys: usize) -> Self {
        self.max_denied = keys;
        self
    }

    /// For how many keys units may be leased at once; see [`Policy::lease`](crate::Policy::lease).
    /// Those of other keys ask the server. Default: 100,000, about 30 MB.
    pub fn max_leased(mut self, keys: usize) -> Self {
        self.max_leased = keys;
        self
    }

    /// The store. It connects in the background when it is first asked.
    ///
    /// # Errors
    /// A missing secret; a URL that is none; a time-out of zero; a prefix with `{` or `}`, which
    /// would decide where a cluster keeps the keys.
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
        let servers = self.address.servers(&self.timeouts)?;
        let announced = Announced::new(&self.prefix);
        let names = Names::new(self.prefix);
        let probe_names = names.clone();
        let probe = move |shard| Request::probe(&probe_names, shard);
        let link = Link::new(servers, self.timeouts, probe, announced);
        let deny_cache = DenyCache::new(self.max_denied, LONGEST_DENIED);
        let leases = Arc::new(Leases::new(self.max_leased));
        let moment = Moment::new();
        Ok(RedisStore(Arc::new(Shared { link, names, secret, deny_cache, leases, moment })))
    }
}

impl Address {
    fn servers(self, timeouts: &Timeouts) -> Result<Servers, BuildError> {
        // The crate's errors may repeat a password.
        let fail = |problem: &str| BuildError::new(CULPRIT, problem);
        match self {
            Self::One(url) => Client::open(&*url).map(Servers::One).map_err(|_| bad_url(&url)),
            Self::Client(client) if !client.get_connection_info().addr().is_supported() => {
                Err(fail(NO_TLS))
            }
            Self::Client(client) => Ok(Servers::One(client)),
            Self::Cluster(urls) if urls.is_empty() => {
                Err(fail("it has no URL; write that of one server of the cluster at least"))
            }
            Self::Cluster(urls) => {
                if let Some(url) = urls.iter().find(|url| Client::open(url.as_str()).is_err()) {
                    return Err(bad_url(url));
                }
                let cluster = ClusterClientBuilder::new(urls)
                    .connection_timeout(timeouts.connect)
                    // We count the time ourselves, from when a command has its turn.
                    .response_timeout(timeouts.response.saturating_mul(4))
                    // It would also repeat what may have been done.
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

const NO_TLS: &str = "it asks for TLS, and the `redis` crate is built without; add one of its TLS \
                      features to your Cargo.toml, as in `redis = { version = \"1\", features = \
                      [\"tokio-native-tls-comp\"] }`";

/// A URL that asks for TLS is never answered by one that does not.
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
