//! What is remembered of a source: the [`SourceCache`].

use std::{collections::HashMap, future::Future, mem, sync::Arc, thread, time::Duration};

use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::timeout,
};

use super::{CachedSource, OnSourceFailure, SourceOverrides};
#[cfg(feature = "metrics")]
use crate::metrics::OperationMetrics;
use crate::{
    clock::{Clock, nanos},
    key::Key,
    lock::Mutex,
    store::StoreError,
    warning::{Code, warn},
};

/// After a failure, the source is not asked for the same caller for this time.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// After an outage was logged, another one is not logged for this time.
const LOG_PAUSE: Duration = Duration::from_secs(60);

/// The answers of a source, and the look-ups that are under way.
pub(in crate::limiter) struct SourceCache {
    pub(in crate::limiter) settings: CachedSource,
    clock: Clock,
    remembered: Cache<u128, Remembered, UnitWeighter, ahash::RandomState>,
    permits: Semaphore,
    /// By caller. A receiver has the answer when the look-up has ended.
    under_way: Mutex<HashMap<u128, watch::Receiver<Option<Answer>>>>,
    outage: Mutex<Outage>,
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

/// What was logged of a source that does not answer.
#[derive(Default)]
struct Outage {
    /// Whether it was logged, and that it answers again was not.
    is_logged: bool,
    logged_at: Option<u64>,
}

fn new_cache(max_callers: usize) -> Cache<u128, Remembered, UnitWeighter, ahash::RandomState> {
    // A caller is a keyed hash already, so the seeds need not be secret.
    let hasher = ahash::RandomState::with_seeds(1, 2, 3, 4);
    let max_weight = u64::try_from(max_callers).unwrap_or(u64::MAX);
    Cache::with(max_callers, max_weight, UnitWeighter, hasher, DefaultLifecycle::default())
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
            remembered: new_cache(settings.max_callers),
            permits: Semaphore::new(settings.max_look_ups.min(Semaphore::MAX_PERMITS)),
            under_way: Mutex::default(),
            outage: Mutex::default(),
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
        let Ok(runtime) = Handle::try_current() else {
            self.report_failure("there is no tokio runtime");
            return None;
        };
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

    /// Remembers that a look-up has failed. Returns what is remembered and still holds.
    fn fail(&self, caller: u128, error: &str) -> Answer {
        self.report_failure(error);
        let before = self.remembered.get(&caller).unwrap_or_default();
        let failed_at = Some(self.clock.now().monotonic_nanos());
        self.remembered.insert(caller, Remembered { failed_at, ..before });
        let answer = self.remembered(caller);
        if answer.is_err() && self.settings.on_failure == OnSourceFailure::UsePlan {
            warn_plan_used();
        }
        answer
    }

    /// Logs the first failure of an outage. A source may fail for single callers only, so at most one
    /// outage is logged each minute.
    fn report_failure(&self, error: &str) {
        let now = self.clock.now().monotonic_nanos();
        let mut outage = self.outage.lock();
        let is_recent =
            outage.logged_at.is_some_and(|at| now.saturating_sub(at) < nanos(LOG_PAUSE));
        if outage.is_logged || is_recent {
            return;
        }
        *outage = Outage { is_logged: true, logged_at: Some(now) };
        drop(outage);
        log_failure(error);
    }

    /// Logs the first answer after an outage that was logged.
    fn report_answer(&self) {
        if mem::take(&mut self.outage.lock().is_logged) {
            log_answer();
        }
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
        let key_text = key.as_bytes().to_vec();
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
        match found {
            Ok(overrides) => {
                cache.report_answer();
                let at = cache.clock.now().monotonic_nanos();
                let found = Found { overrides: Arc::new(overrides), at };
                let remembered = Remembered { found: Some(found.clone()), failed_at: None };
                cache.remembered.insert(self.caller, remembered);
                Ok(found)
            }
            Err(error) => cache.fail(self.caller, &without(&key_text, &error.to_string())),
        }
    }
}

impl Drop for LookUp {
    fn drop(&mut self) {
        self.cache.under_way.lock().remove(&self.caller);
        if thread::panicking() {
            let _ = self.cache.fail(self.caller, "it has panicked");
        }
    }
}

fn age(found: &Found, now: u64) -> u64 {
    now.saturating_sub(found.at)
}

/// The source's own words, without the caller's key, which no log has.
fn without(key: &[u8], error: &str) -> String {
    match std::str::from_utf8(key) {
        Ok(key) if !key.is_empty() => error.replace(key, "…"),
        _ => error.to_owned(),
    }
}

#[cold]
fn warn_plan_used() {
    warn(Code::SourceUnavailable, "", || {
        "the override source did not answer, so a caller had what its plan says; if the source can \
         block callers, write `.on_failure(OnSourceFailure::Refuse)`"
            .to_owned()
    });
}

fn log_failure(error: &str) {
    #[cfg(feature = "tracing")]
    tracing::warn!(error, "the override source does not answer");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}

fn log_answer() {
    #[cfg(feature = "tracing")]
    tracing::info!("the override source answers again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_source_do_not_name_the_caller() {
        let error = "no row for tenant-7: `tenant-7`";
        assert_eq!(without(b"tenant-7", error), "no row for …: `…`");
        for key in [&b""[..], b"\xff", b"tenant-8"] {
            assert_eq!(without(key, error), error);
        }
    }
}
