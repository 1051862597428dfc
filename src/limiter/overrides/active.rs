//! What holds for callers now: [`ActiveOverrides`]. If the store shares overrides, a task reads its
//! changes.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::watch,
    time::{sleep, timeout},
};

use super::{
    CachedSource, OverrideError, SourceCache,
    known::Known,
    table::{Edit, OverrideTable},
};
#[cfg(feature = "metrics")]
use crate::metrics::{OperationMetrics, SharedGauge};
use crate::{
    clock::{Clock, Now},
    key::Fingerprint,
    override_record::Override,
    store::{OverrideStore, OverrideUpdate, OverrideVersion, SharedOverrides, StoreError},
    warning::{Code, warn},
};

/// The pause between two reads of the changes: each change is known everywhere within a second.
const READ_PAUSE: Duration = Duration::from_millis(250);

/// How often a change reads what others have changed meanwhile. The next read in the background sees
/// the rest.
const MAX_READS: usize = 3;

/// The overrides of a limiter.
pub(in crate::limiter) struct ActiveOverrides {
    pub(in crate::limiter) table: OverrideTable,
    pub(in crate::limiter) source: Option<Arc<SourceCache>>,
    pub(super) clock: Clock,
    shared: Option<Shared>,
    #[cfg(feature = "metrics")]
    gauge: SharedGauge,
}

/// The store that shares the overrides.
struct Shared {
    store: Arc<dyn OverrideStore>,
    space: u64,
    /// Whether a task reads the changes.
    is_reading: AtomicBool,
    progress: watch::Sender<Progress>,
    #[cfg(feature = "metrics")]
    metrics: OperationMetrics,
}

/// What became of the reads so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Progress {
    #[default]
    NotTried,
    /// The last read has failed. What was known before still holds.
    Failed,
    Read,
}

impl ActiveOverrides {
    /// `shared` is the store that shares overrides, and the space of the limiter's callers in it.
    pub(in crate::limiter) fn new(
        clock: Clock,
        shared: Option<(Arc<dyn OverrideStore>, u64)>,
        source: Option<CachedSource>,
    ) -> Arc<Self> {
        let shared = shared.map(|(store, space)| Shared {
            store,
            space,
            is_reading: AtomicBool::new(false),
            progress: watch::Sender::default(),
            #[cfg(feature = "metrics")]
            metrics: OperationMetrics::new("overrides"),
        });
        let overrides = Self {
            table: OverrideTable::default(),
            source: source.map(|source| SourceCache::new(source, clock.clone())),
            clock,
            shared,
            #[cfg(feature = "metrics")]
            gauge: SharedGauge::new("tower_quota_overrides", "Overrides of callers that apply."),
        };
        let overrides = Arc::new(overrides);
        overrides.never_skip(overrides.is_shared());
        overrides.start_reading();
        overrides
    }

    /// Sets whether requests look callers up even if the table is empty, as they also do if there is a
    /// source.
    fn never_skip(&self, never_skips: bool) {
        self.table.never_skip(never_skips || self.source.is_some());
    }

    pub(super) fn is_shared(&self) -> bool {
        self.shared.is_some()
    }

    #[cfg(feature = "metrics")]
    pub(in crate::limiter) fn update_gauge(&self, now: Now) {
        self.gauge.set(self.table.count(now));
    }

    /// Starts the task that reads the store's changes, if none does. It needs a runtime: without one,
    /// the next request tries again.
    fn start_reading(self: &Arc<Self>) {
        let Some(shared) = &self.shared else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        if !shared.is_reading.swap(true, Ordering::AcqRel) {
            runtime.spawn(keep_reading(Reading(Arc::downgrade(self))));
        }
    }

    /// Waits until the store's overrides were read for the first time, or could not be read. `None` if
    /// there is nothing to wait for.
    pub(in crate::limiter) fn first_read(
        self: &Arc<Self>,
    ) -> Option<impl Future<Output = ()> + Send + 'static> {
        let shared = self.shared.as_ref()?;
        if !shared.is_reading.load(Ordering::Acquire) {
            self.start_reading();
        }
        if *shared.progress.borrow() != Progress::NotTried || Handle::try_current().is_err() {
            return None;
        }
        let mut progress = shared.progress.subscribe();
        let longest = shared.store.first_read_timeout();
        let overrides = Arc::clone(self);
        Some(async move {
            let tried = progress.wait_for(|progress| *progress != Progress::NotTried);
            if timeout(longest, tried).await.is_err()
                && let Some(shared) = &overrides.shared
            {
                // Requests that come now do not wait as well.
                shared.report(&overrides, Err(StoreError::new("it has not answered in time")));
            }
        })
    }

    /// Changes overrides that only this process has.
    pub(super) fn change_at_once(
        &self,
        update: OverrideUpdate,
    ) -> Result<Vec<Override>, OverrideError> {
        if self.is_shared() {
            return Err(OverrideError::WouldWait);
        }
        let now = self.clock.now();
        let edit = match update {
            OverrideUpdate::Set(new) => Edit::Set(Known::new(new, now.unix(), now)),
            OverrideUpdate::End { caller, policy } => Edit::End { caller: caller.0, policy },
            OverrideUpdate::EndAll(caller) => Edit::EndAll(caller.0),
        };
        self.table.edit(edit, now)
    }

    /// Sets an override that a process before this one has set.
    pub(super) fn load(&self, saved: Override) -> Result<(), OverrideError> {
        let now = self.clock.now();
        if saved.left(now.unix()).is_zero() {
            return Ok(());
        }
        self.table.edit(Edit::Set(Known::new(saved, now.unix(), now)), now).map(drop)
    }

    /// Changes overrides in the store, and at once in this process.
    pub(super) async fn change(
        self: Arc<Self>,
        update: OverrideUpdate,
    ) -> Result<Vec<Override>, OverrideError> {
        let Some(shared) = &self.shared else { return self.change_at_once(update) };
        self.start_reading();
        let (sent, asked) = (self.clock.now(), self.table.version());
        let answer = shared.store.change(shared.space, update, asked);
        #[cfg(feature = "metrics")]
        let answer = shared.metrics.time(answer);
        let answer = answer.await.map_err(OverrideError::Store)?;
        let is_full = answer.is_full;
        let before = answer.before.iter().filter(|ended| ended.until > answer.now);
        let before = before.map(|ended| Known::new(ended.clone(), answer.now, sent).view(sent));
        let before = before.collect();
        let mut is_known = self.apply(answer, asked, sent);
        for _ in 0..MAX_READS {
            // Another change was faster. A read that fails is repeated in the background.
            if is_known {
                break;
            }
            is_known = self.read().await.unwrap_or(true);
        }
        if is_full { Err(OverrideError::Full) } else { Ok(before) }
    }

    /// Reads what others have changed meanwhile.
    #[cfg(feature = "config")]
    pub(super) async fn refresh(self: &Arc<Self>) -> Result<(), OverrideError> {
        self.start_reading();
        for _ in 0..MAX_READS {
            if self.read().await.map_err(OverrideError::Store)? {
                break;
            }
        }
        Ok(())
    }

    /// Reads what has changed in the store. `false` if a change was faster, and the answer is not used.
    async fn read(&self) -> Result<bool, StoreError> {
        let Some(shared) = &self.shared else { return Ok(true) };
        let (sent, asked) = (self.clock.now(), self.table.version());
        let answer = shared.store.read(shared.space, asked);
        #[cfg(feature = "metrics")]
        let answer = shared.metrics.time(answer);
        Ok(self.apply(answer.await?, asked, sent))
    }

    /// Applies an answer. Ends count from when the question was sent, so that no override lasts longer
    /// than it was set for.
    fn apply(&self, answer: SharedOverrides, asked: Option<OverrideVersion>, sent: Now) -> bool {
        let SharedOverrides { version, now, is_all, set, ended, .. } = answer;
        if !is_all && asked == Some(version) {
            return true;
        }
        let set = set.into_iter().map(|new| Edit::Set(Known::new(new, now, sent)));
        let end = |(caller, policy): (Fingerprint, _)| Edit::End { caller: caller.0, policy };
        let edits = ended.into_iter().map(end).chain(set).collect();
        self.table.apply_shared(edits, is_all, (asked, version), self.clock.now())
    }
}

impl Shared {
    /// Notes what became of a read.
    fn report(&self, overrides: &ActiveOverrides, result: Result<bool, StoreError>) {
        let (progress, error) = match result {
            Ok(_) => (Progress::Read, None),
            Err(error) => (Progress::Failed, Some(error)),
        };
        let before = self.progress.send_replace(progress);
        if before == Progress::NotTried
            && let Some(error) = &error
        {
            warn_unknown(&error.to_string());
        }
        if before != progress {
            log_change(before, error.as_ref());
        }
        overrides.never_skip(false);
    }
}

/// Ends with the task that reads the changes, as when the task's runtime ends. The next request starts
/// a new one.
struct Reading(Weak<ActiveOverrides>);

impl Drop for Reading {
    fn drop(&mut self) {
        let Some(overrides) = self.0.upgrade() else { return };
        if let Some(shared) = &overrides.shared {
            shared.is_reading.store(false, Ordering::Release);
            overrides.never_skip(true);
        }
    }
}

/// Reads the changes as long as the limiter is there.
async fn keep_reading(reading: Reading) {
    while let Some(overrides) = reading.0.upgrade() {
        let Some(shared) = &overrides.shared else { return };
        let result = overrides.read().await;
        shared.report(&overrides, result);
        drop(overrides);
        sleep(READ_PAUSE).await;
    }
}

#[cold]
fn warn_unknown(problem: &str) {
    warn(Code::OverridesUnknown, "", || {
        format!(
            "the overrides in the store could not be read when this process started ({problem}), and \
             none holds until they are; let the store run before this process"
        )
    });
}

fn log_change(before: Progress, error: Option<&StoreError>) {
    #[cfg(feature = "tracing")]
    match error {
        Some(error) => tracing::warn!(
            %error,
            "the store's overrides cannot be read: those that are known keep holding until their ends"
        ),
        None if before == Progress::Failed => {
            tracing::info!("the store's overrides can be read again");
        }
        None => {}
    }
    #[cfg(not(feature = "tracing"))]
    let _ = (before, error);
}
