//! What is remembered of a source: the [`SourceCache`].

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use quick_cache::sync::Cache;
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{CachedSource, SourceOverrides};
#[cfg(feature = "metrics")]
use crate::metrics::OperationMetrics;
use crate::{
    clock::{Clock, nanos},
    key::Key,
    lock::Mutex,
    store::StoreError,
};

/// After a failure, the source is not asked for the same caller for this time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The answers of a source, and the look-ups that are under way.
pub(in crate::limiter) struct SourceCache {
    pub(in crate::limiter) settings: CachedSource,
    clock: Clock,
    remembered: Cache<u128, Remembered>,
    permits: Semaphore,
    /// By caller. A receiver has the answer when the look-up has ended.
    under_way: Mutex<HashMap<u128, watch::Receiver<Option<Answer>>>>,
    #[cfg(feature = "metrics")]
    metrics: OperationMetrics,
}

/// What the source says of a caller; an error if it has not answered.
pub(in crate::limiter) type Answer = Result<Found, NoAnswer>;

/// The source has not answered, and nothing young enough is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::limiter) struct NoAnswer;

/// What the source has said, and when: by the monotonic clock, in nanoseconds.
#[derive(Clone, Debug)]
pub(in crate::limiter) struct Found {
    pub(in crate::limiter) overrides: Arc<SourceOverrides>,
    pub(in crate::limiter) at: u64,
}

#[derive(Clone, Default)]
struct Remembered {
    found: Option<Found>,
    failed_at: Option<u64>,
}

/// What is known of a caller.
pub(in crate::limiter) enum Ask<F> {
    Known(Answer),
    /// The answer comes later.
    Later(F),
}

impl SourceCache {
    pub(in crate::limiter) fn new(settings: CachedSource, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            clock,
            remembered: Cache::new(settings.max_callers),
            permits: Semaphore::new(settings.max_look_ups.min(Semaphore::MAX_PERMITS)),
            under_way: Mutex::default(),
            #[cfg(feature = "metrics")]
            metrics: OperationMetrics::new("override_source"),
            settings,
        })
    }

    /// What is remembered of a caller and still holds.
    pub(in crate::limiter) fn remembered(&self, caller: u128) -> Answer {
        let now = self.clock.now().monotonic_nanos();
        let found = self.remembered.get(&caller).and_then(|remembered| remembered.found);
        found.filter(|found| age(found, now) < nanos(self.settings.max_age)).ok_or(NoAnswer)
    }

    /// What the source says of a caller. It is looked up if nothing is remembered that still holds, and
    /// in the background if that is not fresh.
    pub(in crate::limiter) fn ask(
        self: &Arc<Self>,
        caller: u128,
        key: &Key<'_>,
    ) -> Ask<impl Future<Output = Answer> + Send + use<>> {
        let now = self.clock.now().monotonic_nanos();
        let Remembered { found, failed_at } = self.remembered.get(&caller).unwrap_or_default();
        let pause = nanos(RETRY_PAUSE);
        let has_failed = failed_at.is_some_and(|at| now.saturating_sub(at) < pause);
        let found = found.filter(|found| age(found, now) < nanos(self.settings.max_age));
        if let Some(found) = found {
            let is_fresh = age(&found, now) < nanos(self.settings.fresh_for);
            if !is_fresh && !has_failed && self.permits.available_permits() > 0 {
                let _ = self.look_up(caller, key);
            }
            return Ask::Known(Ok(found));
        }
        if has_failed {
            return Ask::Known(Err(NoAnswer));
        }
        let Some(mut answered) = self.look_up(caller, key) else {
            return Ask::Known(Err(NoAnswer));
        };
        Ask::Later(async move {
            match answered.wait_for(Option::is_some).await {
                Ok(answer) => answer.clone().unwrap_or(Err(NoAnswer)),
                // The source has panicked, or the runtime of the look-up has ended.
                Err(_) => Err(NoAnswer),
            }
        })
    }

    /// Starts a look-up, or finds the one that is under way. `None` without a runtime.
    fn look_up(
        self: &Arc<Self>,
        caller: u128,
        key: &Key<'_>,
    ) -> Option<watch::Receiver<Option<Answer>>> {
        let runtime = Handle::try_current().ok()?;
        let mut under_way = self.under_way.lock();
        if let Some(answered) = under_way.get(&caller) {
            return Some(answered.clone());
        }
        let (answer, answered) = watch::channel(None);
        under_way.insert(caller, answered.clone());
        drop(under_way);
        let key = key.clone().into_owned();
        let look_up = LookUp { cache: Arc::clone(self), caller };
        runtime.spawn(async move { answer.send_replace(Some(look_up.run(key).await)) });
        Some(answered)
    }
}

/// A look-up that is under way, until it ends in whatever way.
struct LookUp {
    cache: Arc<SourceCache>,
    caller: u128,
}

impl LookUp {
    async fn run(self, key: Key<'static>) -> Answer {
        let cache = &*self.cache;
        let find = async {
            let _permit = cache.permits.acquire().await;
            let found = cache.settings.source.find(key).await;
            found.map_err(|error| StoreError::new(error.to_string()))
        };
        let found = async {
            let late = |_| Err(StoreError::new("it has not answered in time"));
            timeout(cache.settings.timeout, find).await.unwrap_or_else(late)
        };
        #[cfg(feature = "metrics")]
        let found = cache.metrics.time(found);
        let found = found.await;
        let now = cache.clock.now().monotonic_nanos();
        match found {
            Ok(overrides) => {
                let found = Found { overrides: Arc::new(overrides), at: now };
                let remembered = Remembered { found: Some(found.clone()), failed_at: None };
                cache.remembered.insert(self.caller, remembered);
                Ok(found)
            }
            Err(error) => {
                log_failure(&error);
                let before = cache.remembered.get(&self.caller).unwrap_or_default();
                let failed_at = Some(now);
                cache.remembered.insert(self.caller, Remembered { failed_at, ..before });
                cache.remembered(self.caller)
            }
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.cache.under_way.lock().remove(&self.caller);
    }
}

fn age(found: &Found, now: u64) -> u64 {
    now.saturating_sub(found.at)
}

/// The source's own words are for its operator, and may name a caller: they are not logged.
fn log_failure(error: &StoreError) {
    #[cfg(feature = "tracing")]
    {
        let _ = error;
        tracing::debug!("an override source has not answered");
    }
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
