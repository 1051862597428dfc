//! Counts in Redis or Valkey, which several replicas share.

mod announced_policies;
mod builder;
mod clock;
mod connection;
mod connection_manager;
mod deny_cache;
mod leases;
mod replica;
mod rollback;
mod script;
mod shards;
mod time_budget;

use std::{fmt, sync::Arc};

use smallvec::SmallVec;
use tokio::runtime::Handle;

pub use self::builder::RedisStoreBuilder;
#[cfg(any(fuzzing, test))]
pub(crate) use self::script::read_any as read_any_reply;
use self::{leases::date_back, replica::Replica, rollback::RollbackOnDrop};
use super::{Announcement, Charge, Correction, Store, StoreError, StoreFuture};
use crate::clock::Now;

/// Counts in a Redis or Valkey server, or a cluster of them, which several replicas share.
///
/// A request takes one round trip, whatever the number of its policies: a script checks all and
/// charges all or none, by the server's own clock. In a cluster that holds for the policies whose
/// counts are on one server, see [`Policy::shard`](crate::Policy::shard); the others are charged one
/// server after the other, and given back when a later one refuses. Until then they are missing to
/// others, who may be refused in that moment; never is more admitted than the quota.
///
/// While the server is slow or down, no decision waits longer for it than
/// [`decision_timeout`](RedisStoreBuilder::decision_timeout), and
/// [`Policy::on_store_failure`](crate::Policy::on_store_failure) says what is decided. A server that
/// has not answered in time gets one more question, in the background. If it does not answer that
/// either, or after three errors in a row or a lost connection, requests do without it, which costs
/// them nothing, until it is seen to work in the background. With the feature `tracing` both changes
/// are logged. The server need not be there when this replica starts.
///
/// A crowd of our own is no failure of the server: 256 commands are on their way to it at once, and
/// other requests wait for their turn, for
/// [`queue_timeout`](RedisStoreBuilder::queue_timeout) at most. The server's time counts from when a
/// command has its turn, and only while this process itself runs.
///
/// What a server has counted though its answer came too late stays counted; so do units that were
/// to be given back while it was down. Never is more admitted for that.
///
/// Keys in Redis are fingerprints, and each has a time to live. Policies with the same name and
/// algorithm count together, whatever their quotas: a quota may change at any time, in a rolling
/// release as well. Services that must not count together need a
/// [`prefix`](RedisStoreBuilder::prefix) each. The quota and the kinds of key of each policy are kept
/// in words, so that the warning [`policy_differs`](crate::warning#policy_differs) can be given.
///
/// A release that writes counts in another format counts anew: it neither reads nor overwrites the
/// counts of others. A count that cannot be read means a key that has used its whole quota, until that
/// has come back: something was used, and it is not known how much.
///
/// It takes Redis 6.2, Valkey 7.2 or later; it was tried with Redis 7.0. A Redis user of its own needs
/// no more than this:
/// ```text
/// ACL SETUSER quota on >password ~tower-quota:* +evalsha +eval +time +hmget +hset +hdel +hlen +pexpire +del +select +info +set +cluster|slots +ping +asking
/// ```
/// `SELECT` is for a database other than 0, `CLUSTER SLOTS`, `PING` and `ASKING` are for clusters.
/// Without `INFO` and `SET`, no warning is given about eviction or about policies that differ. `AUTH`
/// and `HELLO` need no permission, and `CLIENT SETINFO`, by which the `redis` crate tells its name,
/// may be refused.
///
/// A clone is the same store.
///
/// # Panics
/// A tokio runtime has to drive it: a request that is decided outside of any is decided without the
/// store, and in one whose time or I/O is not enabled it panics.
///
/// ```no_run
/// use tower_quota::{Limiter, Policy, Quota, key, store::RedisStore};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Of all replicas, and no one else's: made once with `openssl rand -hex 16`.
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
    /// A URL that begins with `rediss://` asks for TLS. Your own dependency on `redis` then needs one
    /// of its TLS features: `tokio-native-tls-comp`, or `tokio-rustls-comp` beside a crypto provider
    /// that you install for `rustls`.
    pub fn builder(url: impl Into<String>) -> RedisStoreBuilder {
        RedisStoreBuilder::one(url.into())
    }

    /// A builder for a store on a cluster, by the URLs of some of its servers. The store learns the
    /// other servers from these.
    pub fn cluster_builder<U: Into<String>>(
        urls: impl IntoIterator<Item = U>,
    ) -> RedisStoreBuilder {
        RedisStoreBuilder::cluster(urls.into_iter().map(Into::into).collect())
    }

    /// A builder for a store on one server, by a client of the `redis` crate (version 1). It is for
    /// settings that a URL cannot hold: certificates, credentials that change.
    pub fn client_builder(client: redis::Client) -> RedisStoreBuilder {
        RedisStoreBuilder::client(client)
    }

    /// Gives back what this replica has taken by [`Policy::lease`](crate::Policy::lease) and has not
    /// spent, so that others have it at once and not after a second. To be awaited when no more
    /// requests come; dropping the last clone inside of a tokio runtime begins the same, and nobody
    /// knows whether it ends.
    ///
    /// ```no_run
    /// # use tower_quota::store::RedisStore;
    /// # async fn serve(app: (), store: RedisStore) {}
    /// # async fn shut_down(store: RedisStore) {
    /// // after the server has ended, as when `axum::serve(…).with_graceful_shutdown(…)` returns
    /// if let Err(error) = store.give_back_leases().await {
    ///     eprintln!("leases come back by themselves: {error}");
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// Where a server does not answer, what it has counted comes back as the quota's window passes.
    pub async fn give_back_leases(&self) -> Result<(), StoreError> {
        self.replica.give_back_leases().await
    }

    /// How many requests were refused by what is remembered, without asking a server.
    #[must_use]
    pub fn denied_from_cache(&self) -> u64 {
        self.replica.shards.deny_cache.hits()
    }
}

impl Store for RedisStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        match self.replica.decide_locally(charges, now) {
            Ok(answer) => StoreFuture::ready(Ok(answer)),
            Err(_) if Handle::try_current().is_err() => StoreFuture::ready(Err(no_runtime())),
            Err(miss) => StoreFuture::later(RollbackOnDrop::new(&self.replica, charges, now, miss)),
        }
    }

    fn correct(&self, corrections: &[Correction], _: Now) -> StoreFuture {
        let Ok(runtime) = Handle::try_current() else {
            return StoreFuture::ready(Err(no_runtime()));
        };
        let corrections: SmallVec<[Correction; 4]> = corrections.iter().map(date_back).collect();
        let replica = Arc::clone(&self.replica);
        // A task makes the corrections even if the caller leaves.
        let correcting = runtime.spawn(async move { replica.correct(&corrections).await });
        StoreFuture::later(async {
            let ended = |_| Err(StoreError::new("the tokio runtime has ended"));
            correcting.await.unwrap_or_else(ended)
        })
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        self.replica.shards.manager.announced().add(policies);
    }

    fn secret(&self) -> Option<u128> {
        Some(self.secret)
    }
}

fn no_runtime() -> StoreError {
    StoreError::new("there is no tokio runtime to ask Redis in")
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = self.replica.shards.names.prefix();
        f.debug_struct("RedisStore").field("prefix", &prefix).finish_non_exhaustive()
    }
}
