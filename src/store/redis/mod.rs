//! Counts in Redis or Valkey, which several replicas share: [`RedisStore`].
//!
//! # The chain
//! Each link uses those below it, and knows nothing of those above:
//! ```text
//! RedisStore                 the public face; builder.rs has its settings
//!  └ RollbackOnDrop          gives a charge back if its caller leaves
//!     └ Replica              decides by what this process knows, or else asks the servers
//!        ├ LeaseTable        leases/: units that this process holds
//!        ├ InFlightTable     in_flight/: units that requests under way hold
//!        └ Shards            a request's charges, on one server after the other
//!           ├ DenyCache      deny_cache/: refusals that this process remembers
//!           └ ConnectionManager  connection_manager/: one connection, its queue, up or down
//!              ├ Connection  connection.rs: the `redis` crate
//!              └ ScriptCall  script/: one run of the script that counts
//! ```
//! Beside the chain stand `time_budget.rs` (how long requests wait), `clock.rs` (the caller's time),
//! `overrides/` (what replicas share of callers; no request waits for it) and `announced_policies.rs`
//! (limiters that count together by mistake).
//!
//! # The way of one charge
//! 1. [`RedisStore`] asks [`Replica::decide_locally`]: units of a lease are spent, or a remembered
//!    refusal answers. Nothing waits.
//! 2. Otherwise [`RollbackOnDrop`] holds the future of [`Replica::decide`]. A policy with a lease
//!    reserves units first, and asks for a batch.
//! 3. [`Shards::charge`](shards::Shards::charge) runs the script once; in a cluster, once for each
//!    shard.
//! 4. [`ConnectionManager::run`](connection_manager::ConnectionManager::run) waits for the connection
//!    and for a slot in the send queue, sends, and waits for the reply as long as the budget lasts.
//! 5. The reply is read, batches fill their pools, and a refusal is remembered.
//!
//! # What happens on a fault
//! | fault | what happens |
//! |---|---|
//! | a reply comes too late | the request fails; a probe shows if the server is down; what the server has counted stays counted |
//! | three errors in a row, or a failed probe | the server is down: requests fail at once until a probe works |
//! | the connection is lost | the same; it is opened again at once, and then after growing pauses |
//! | a later shard refuses or fails | the charges on earlier shards are given back |
//! | the caller leaves | before the command is sent, nothing is charged; after that, the charge is given back |
//! | the queue is full | requests wait for `queue_timeout`, and then fail |
//! | units cannot be given back | they return as the quota's window passes; those in flight with the next statement that the server gets |
//! | the server counts units in flight that no request holds, while requests for the key never pause | the next statement corrects it: meanwhile, charges of the key wait in their replica for two round trips, for half of `decision_timeout` at most |
//! | a replica is killed | its units in flight are back after `in_flight_timeout` |
//! | a replica is paused, or cut off, for longer than that | its units are back too, though its requests go on: what they hold is the excess, until they end; after its next statement, no request enters before there is room |
//! | a server has lost counts, as in a fail-over | units in flight are counted again with the next statement, a fifth of `in_flight_timeout` later at most; what is admitted meanwhile is the excess |
//! | the tokio runtime ends | its tasks end; the next request starts new ones in its own runtime |
//!
//! A request that fails is decided by its policies' `on_store_failure`. As long as the servers keep their
//! counts, no fault lets more pass than the quota.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod announced_policies;
mod builder;
mod clock;
mod connection;
mod connection_manager;
mod deny_cache;
mod in_flight;
mod in_turn;
mod leases;
mod overrides;
mod replica;
mod rollback;
mod script;
mod shards;
mod time_budget;

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{runtime::Handle, task::JoinError};

pub use self::builder::RedisStoreBuilder;
#[cfg(any(fuzzing, test))]
pub(crate) use self::script::read_any as read_any_reply;
use self::{
    builder::Address,
    clock::ClockAnchor,
    in_turn::InTurn,
    leases::{date_back, is_leased},
    overrides::RedisOverrides,
    replica::{Replica, Turn},
    rollback::RollbackOnDrop,
};
use super::{
    Announcement, Charge, Correction, OverrideStore, Store, StoreError, StoreFuture,
    preview::preview_by_peeks,
};
use crate::{algorithm::Algorithm, clock::Now};

/// Counts in a Redis or Valkey server, or in a cluster, which several replicas share.
///
/// A request takes one round trip, however many policies it has. A script checks all policies and
/// charges all or none, by the server's clock. In a cluster, this is so if the counts are on one
/// server, see [`Policy::shard`](crate::Policy::shard). Otherwise one server is charged after the
/// other, and the charges are given back if a later server refuses. Until then, other requests may
/// be refused for these units. No more than the quota is ever admitted.
///
/// # Faults
/// No decision waits longer for a server than [`decision_timeout`](RedisStoreBuilder::decision_timeout).
/// [`Policy::on_store_failure`](crate::Policy::on_store_failure) says what is decided then. A server that has
/// not answered in time is probed once in the background. It counts as down if the probe fails too, after
/// three errors in a row, or when the connection is lost. Requests are then decided without it at once, until
/// a probe in the background works. The feature `tracing` logs both changes. The server need not run when
/// this replica starts.
///
/// Many requests at once are no fault of the server. At most 256 commands are on their way to it, and
/// other requests wait in a queue, for [`queue_timeout`](RedisStoreBuilder::queue_timeout) at most.
/// The server's time counts from when the command is sent, and only while this process runs.
///
/// If an answer comes too late, its charge stays counted. Units that cannot be given back, because
/// the server is down, stay counted too. Neither admits more than the quota.
///
/// # Units in flight
/// A replica states several times in [`in_flight_timeout`](RedisStoreBuilder::in_flight_timeout) which units
/// [in flight](crate::Policy::in_flight) its requests hold. If it stops, because it was killed, its units are
/// free after that time. The next statement restores what the server has lost, and gives back the units that
/// could not be given back, however many requests come meanwhile. If the policy
/// [holds](crate::Policy::hold) requests, the first in line asks the server ten times a second, because other
/// replicas give units back too. While a server is down,
/// [`OnStoreFailure::CountLocally`](crate::OnStoreFailure::CountLocally) counts only requests that begin then.
///
/// # What is stored
/// Keys are stored as fingerprints, and each expires. Policies with the same name and algorithm count
/// together, whatever their quotas: a quota may change at any time, also in a rolling release.
/// Services that must not count together need different [prefixes](RedisStoreBuilder::prefix). Each
/// policy's quota and kinds of key are stored as text, for the warning
/// [`policy_differs`](crate::warning#policy_differs).
///
/// A release with another storage format counts anew. It neither reads nor overwrites the counts of
/// other releases. A key whose count cannot be read has used its whole quota, which comes back as
/// usual.
///
/// [Overrides](crate::overrides::Overrides) are in one hash, with the fingerprints of callers, the reasons
/// and the authors. The hash expires a minute after its last override. Each replica asks for its version four
/// times a second. The first requests of a process wait until the overrides were read, for
/// `decision_timeout` at most, and never longer than a second.
///
/// # Server
/// Redis 6.2, Valkey 7.2 or later. Tested with Redis 6.2, 7.0 and 8.2, and Valkey 8.1 and 9.1. A Redis user
/// of its own needs these permissions:
/// ```text
/// ACL SETUSER quota on >password ~tower-quota:* +evalsha +eval +time +hmget +hgetall +hset +hdel +hlen +pexpire +del +select +info +set +cluster|slots +ping +asking
/// ```
/// `SELECT` is needed only for a database other than 0; `CLUSTER SLOTS`, `PING` and `ASKING` only
/// for a cluster. Without `INFO` and `SET`, there are no warnings about eviction or about policies
/// that differ; with Sentinels, `INFO` is needed. `AUTH` and `HELLO` need no permission. `CLIENT SETINFO`,
/// by which the `redis` crate sends its name, may be refused.
///
/// A clone is the same store.
///
/// # Panics
/// It needs a tokio runtime. Outside of one, requests are decided without the store. In a runtime
/// whose time or I/O is not enabled, it panics.
///
/// ```no_run
/// use tower_quota::{Limiter, Policy, Quota, key, store::RedisStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // The same for all replicas, and secret: from `openssl rand -hex 16`.
/// let secret = u128::from_str_radix(&std::env::var("QUOTA_SECRET")?, 16)?;
/// let limiter = Limiter::builder()
///     .policy(Policy::token_bucket("api", Quota::per_minute(600)).key(key::bearer()).or_refuse())
///     .store(RedisStore::builder("redis://10.0.0.7/").secret(secret).build()?)
///     .build()?;
/// # let _ = limiter;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct RedisStore {
    replica: Arc<Replica>,
    secret: u128,
}

impl RedisStore {
    /// A builder for a store on one server, by its URL: `redis://:password@host:port/database`.
    ///
    /// With `?protocol=resp3` at the end of the URL, the store speaks RESP3.
    ///
    /// With a URL that begins with `rediss://`, the store speaks TLS. The feature `redis-tls` does so by `rustls`,
    /// which trusts the certificates that the system trusts. For other certificates, see
    /// [`client_builder`](Self::client_builder).
    /// A process has one crypto provider for `rustls`, so the application chooses it: add
    /// `rustls = { version = "0.23", default-features = false, features = ["ring", "std"] }`, and call
    /// `rustls::crypto::ring::default_provider().install_default()` at the beginning of `main`.
    /// [`build`](RedisStoreBuilder::build) fails if there is none.
    ///
    /// For `native-tls` instead of the feature, your own dependency on `redis` needs `tokio-native-tls-comp`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Address::One(url.into()))
    }

    /// A builder for a store on a cluster, by the URLs of some of its servers. The store learns the
    /// other servers from these.
    pub fn cluster_builder<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
    ) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Address::Cluster(urls.into_iter().map(Into::into).collect()))
    }

    /// A builder for a store on one server, by a client of the `redis` crate (version 1). Use it
    /// for settings that a URL cannot have: certificates, or credentials that change.
    pub fn client_builder(client: redis::Client) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Address::Client(Box::new(client)))
    }

    /// A builder for a store on the master that Sentinels name, by a client of the `redis` crate (version 1).
    ///
    /// The store asks the Sentinels for the master whenever it opens a connection. So after a fail-over, it counts
    /// on the new master, which lacks only what was not replicated. A connection may then take 3 seconds to open,
    /// because some Sentinels may be down. Requests do not wait for it: see [faults](Self#faults). If the client
    /// uses TLS, install a crypto provider as for [`builder`](Self::builder). `build` does not check for it here.
    ///
    /// ```no_run
    /// use redis::{ConnectionAddr, sentinel::{SentinelClientBuilder, SentinelServerType}};
    /// use tower_quota::store::RedisStore;
    ///
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let sentinels = ["10.0.0.7", "10.0.0.8", "10.0.0.9"];
    /// let sentinels = sentinels.map(|host| ConnectionAddr::Tcp(host.to_owned(), 26_379));
    /// let client = SentinelClientBuilder::new(sentinels, "mymaster", SentinelServerType::Master)?
    ///     .set_client_to_redis_username("quota")
    ///     .set_client_to_redis_password("password")
    ///     .build()?;
    /// let store = RedisStore::sentinel_builder(client).secret(7).build()?;
    /// # let _ = store;
    /// # Ok(())
    /// # }
    /// ```
    pub fn sentinel_builder(client: redis::sentinel::SentinelClient) -> RedisStoreBuilder {
        RedisStoreBuilder::new(Address::Sentinels(Box::new(client)))
    }

    /// Gives back the units that this replica has leased, see
    /// [`Policy::lease`](crate::Policy::lease), and has not spent. Other replicas then have them at
    /// once, instead of after a second.
    ///
    /// Await it when no more requests come. Dropping the last clone in a tokio runtime starts the same
    /// in the background, but the process may end before it is done.
    ///
    /// ```no_run
    /// # use tower_quota::store::RedisStore;
    /// # async fn serve(app: (), store: RedisStore) {}
    /// # async fn shut_down(store: RedisStore) {
    /// // After the server has ended: when `axum::serve(…).with_graceful_shutdown(…)` returns.
    /// if let Err(error) = store.give_back_leases().await {
    ///     eprintln!("leases come back by themselves: {error}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// If a server does not answer. Its units then come back by themselves, as used units do.
    pub async fn give_back_leases(&self) -> Result<(), StoreError> {
        self.replica.shards.correct_all(&self.replica.leases.drain()).await
    }

    /// Whether requests are counted in Redis now. It sends one command, which writes as those of requests do,
    /// and waits no longer than a request waits for Redis. Where the server is known to be down, it answers at
    /// once. The first call opens the connection. A cluster is up if a server of it answers and
    /// no other is known to be down. `false` outside of a tokio runtime.
    ///
    /// Ask it before a new replica gets its first requests, and for alerts. While Redis is down, it is down for
    /// all replicas: if each of them then counts as not ready, no request is answered at all, though
    /// [`on_store_failure`](crate::Policy::on_store_failure) could decide.
    ///
    /// ```no_run
    /// # use tower_quota::store::RedisStore;
    /// # fn routes(store: RedisStore) -> axum::Router {
    /// use axum::{Router, http::StatusCode, routing::get};
    ///
    /// Router::new().route("/ready", get(async move || match store.is_up().await {
    ///     true => StatusCode::OK,
    ///     false => StatusCode::SERVICE_UNAVAILABLE,
    /// }))
    /// # }
    /// ```
    pub async fn is_up(&self) -> bool {
        Handle::try_current().is_ok() && self.replica.shards.manager.is_up().await
    }

    /// How many requests were refused by a remembered refusal, without asking a server.
    #[must_use]
    pub fn denied_from_cache(&self) -> u64 {
        self.replica.shards.deny_cache.hits.load(Relaxed)
    }
}

impl Store for RedisStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let without_leases;
        let charges = match charges.iter().any(|charge| charge.or_else) {
            true => {
                without_leases = leases::without_those_of_runs(charges);
                &without_leases[..]
            }
            false => charges,
        };
        match self.replica.decide_locally(charges, now) {
            Ok(answer) => StoreFuture::ready(Ok(answer)),
            Err(_) if Handle::try_current().is_err() => StoreFuture::ready(Err(no_runtime())),
            Err(miss) => match *charges {
                [charge] if is_leased(&charge) => {
                    StoreFuture::later(InTurn::new(&self.replica).decide(charge, miss, now))
                }
                _ => {
                    let (clock, turn) = (ClockAnchor::new(now), Turn::first(&self.replica));
                    let charged = RollbackOnDrop::new(&self.replica, charges, clock, miss, turn);
                    StoreFuture::later(charged)
                }
            },
        }
    }

    /// The units that this replica has leased count as there.
    fn preview(&self, charges: &[Charge], now: Now) -> StoreFuture {
        let leases = &self.replica.leases;
        preview_by_peeks(self, charges, |charge| leases.held(charge, now.monotonic_nanos()), now)
    }

    fn counts(&self, _: Algorithm) -> bool {
        true
    }

    fn correct(&self, corrections: &[Correction], _: Now) -> StoreFuture {
        let in_flight = &self.replica.in_flight;
        // If it cannot be sent, the next statement tells it.
        let mut released = in_flight.release(corrections);
        let runtime = Handle::try_current().ok().or_else(|| in_flight.runtime());
        let Some(runtime) = runtime else {
            return StoreFuture::ready(Err(no_runtime()));
        };
        for correction in &mut released.corrections {
            *correction = date_back(correction);
        }
        let replica = Arc::clone(&self.replica);
        // A task makes the corrections even if the caller leaves.
        let correcting = runtime.spawn(async move { replica.correct(released).await });
        StoreFuture::later(async {
            correcting.await.unwrap_or_else(|error| Err(ended_early(&error)))
        })
    }

    fn keeps_penalties(&self) -> bool {
        true
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        self.replica.shards.manager.announced.add(policies);
    }

    fn overrides(&self) -> Option<Arc<dyn OverrideStore>> {
        Some(Arc::new(RedisOverrides { manager: Arc::clone(&self.replica.shards.manager) }))
    }

    fn secret(&self) -> Option<u128> {
        Some(self.secret)
    }
}

/// Why a task has no result.
fn ended_early(error: &JoinError) -> StoreError {
    StoreError::new(if error.is_panic() {
        "a task that corrects counts in Redis has panicked, which is a bug in tower-quota"
    } else {
        "the tokio runtime has ended"
    })
}

fn no_runtime() -> StoreError {
    StoreError::new("there is no tokio runtime to ask Redis in")
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = &self.replica.shards.manager.names.prefix;
        f.debug_struct("RedisStore").field("prefix", prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use tokio::runtime::{Builder, Runtime};

    use super::*;
    use crate::{Algorithm, Quota, store::Change};

    #[test]
    fn the_error_says_whether_a_correction_panicked_or_its_runtime_ended() {
        let store = RedisStore::builder("redis://127.0.0.1:1/").secret(1).build().unwrap();
        let charge = Charge::new(1, 2, Algorithm::TokenBucket, Quota::per_second(1));
        let reset = [Correction::new(charge, Change::Reset)];
        let correct = |runtime: &Runtime| {
            let _in_runtime = runtime.enter();
            store.correct(&reset, Now::ZERO)
        };
        let runtime = Runtime::new().unwrap();
        // A runtime of one thread runs no task but in `block_on`.
        let ends = Builder::new_current_thread().build().unwrap();
        let correction = correct(&ends);
        drop(ends);
        let error = runtime.block_on(correction).unwrap_err();
        assert!(error.to_string().contains("runtime has ended"), "{error}");

        // The task panics when it reads the time.
        let time = Arc::clone(&store.replica.shards.manager.names.time);
        let poisoned = thread::spawn(move || {
            let _time = time.lock();
            panic!("on purpose");
        });
        poisoned.join().unwrap_err();
        let error = runtime.block_on(correct(&runtime)).unwrap_err();
        assert!(error.to_string().contains("has panicked"), "{error}");
    }
}
