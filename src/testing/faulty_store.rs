//! A store that fails on command: [`FaultyStore`].

use std::{sync::Arc, time::Duration};

use crate::{
    algorithm::Algorithm,
    clock::{Clock, Now},
    lock::Mutex,
    store::{
        Announcement, Charge, Correction, OverrideStore, Store, StoreError, StoreFuture, Usage,
    },
};

/// A store that fails on command, around another one that counts. It tests
/// [`Policy::on_store_failure`](crate::Policy::on_store_failure). Clones share the other store and the fault.
///
/// It answers as the other store does until [`fail`](Self::fail) or [`time_out`](Self::time_out), and again
/// from [`recover`](Self::recover) on. While it fails, it counts nothing. The other store's overrides do not
/// fail.
///
/// ```
/// use tower_quota::{
///     Limiter, OnStoreFailure, Policy, Quota, RateLimitLayer,
///     store::MemoryStore,
///     testing::{FaultyStore, TestClient},
/// };
///
/// let store = FaultyStore::new(MemoryStore::default());
/// let per_ip = Policy::sliding_window("per ip", Quota::per_minute(100))
///     .key(tower_quota::key::ClientIp::new())
///     .or_refuse()
///     .on_store_failure(OnStoreFailure::CountLocally { replicas: 4 });
/// let limiter = Limiter::builder().store(store.clone()).policy(per_ip).build()?;
/// let mut client = TestClient::new(RateLimitLayer::new(limiter));
///
/// client.send(40, "/").expect_admitted(40);
/// store.fail();
/// client.send(40, "/").expect_admitted(25); // a quarter of the quota
/// store.recover();
/// client.send(80, "/").expect_admitted(60);
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone)]
pub struct FaultyStore {
    store: Arc<dyn Store>,
    fault: Arc<Mutex<Option<Fault>>>,
}

#[derive(Clone, Debug)]
enum Fault {
    Error,
    TimeOut { clock: Clock, after: Duration },
}

impl FaultyStore {
    /// A store that answers as `store` does.
    pub fn new(store: impl Store) -> Self {
        Self { store: Arc::new(store), fault: Arc::default() }
    }

    /// From now on, it answers at once with an error.
    pub fn fail(&self) {
        *self.fault.lock() = Some(Fault::Error);
    }

    /// From now on, it answers with an error after this time of `clock`. Give it the clock of the limiter.
    pub fn time_out(&self, clock: &Clock, after: Duration) {
        *self.fault.lock() = Some(Fault::TimeOut { clock: clock.clone(), after });
    }

    /// From now on, it answers as the other store does.
    pub fn recover(&self) {
        *self.fault.lock() = None;
    }

    /// The answer of the fault, or else that of the other store.
    #[expect(clippy::arithmetic_side_effects, reason = "584 years, the longest, lead to a moment")]
    fn answer(&self, answer: impl FnOnce(&dyn Store) -> StoreFuture) -> StoreFuture {
        let fault = self.fault.lock().clone();
        match fault {
            None => answer(&*self.store),
            Some(Fault::Error) => {
                StoreFuture::ready(Err(StoreError::new("the test has let the store fail")))
            }
            Some(Fault::TimeOut { clock, after }) => StoreFuture::later(async move {
                if let Some(timer) = clock.timer(clock.instant() + after) {
                    timer.await;
                }
                Err(StoreError::new("the test has let the store time out"))
            }),
        }
    }
}

impl std::fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FaultyStore").field("fault", &*self.fault.lock()).finish_non_exhaustive()
    }
}

impl Store for FaultyStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.answer(|store| store.charge(charges, now))
    }

    fn counts(&self, algorithm: Algorithm) -> bool {
        self.store.counts(algorithm)
    }

    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        self.fault.lock().is_none() && self.store.charge_at_once(charges, usages, now)
    }

    fn preview(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.answer(|store| store.preview(charges, now))
    }

    fn prefetch(&self, key: u128, algorithm: Algorithm) {
        self.store.prefetch(key, algorithm);
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.answer(|store| store.correct(corrections, now))
    }

    fn keeps_penalties(&self) -> bool {
        self.store.keeps_penalties()
    }

    fn live_keys(&self, now: Now) -> Option<usize> {
        self.store.live_keys(now)
    }

    fn overflowed(&self, policy: u64) -> Option<u64> {
        self.store.overflowed(policy)
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        self.store.announce(policies);
    }

    fn overrides(&self) -> Option<Arc<dyn OverrideStore>> {
        self.store.overrides()
    }

    fn secret(&self) -> Option<u128> {
        self.store.secret()
    }
}
