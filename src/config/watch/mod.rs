//! Applies a file of limits whenever it changes: [`Watch`].

mod applier;
mod hangups;
#[cfg(feature = "describe")]
mod lints;
#[cfg(not(feature = "describe"))]
#[path = "no_lints.rs"]
mod lints;
mod watched_file;

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use self::{applier::Applier, hangups::Hangups, lints::Lints, watched_file::WatchedFile};
use super::{Registry, file};
use crate::limiter::Limiter;

/// How often the file is read, and how often overrides that the store has not taken are sent again.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a read may take: that of a network may never end.
const MAX_READ: Duration = Duration::from_secs(10);

/// Applies a file of limits to a limiter whenever the file changes, until it is dropped.
///
/// - The file is read once a second. A new text is applied when two reads in a row have found it, so
///   that a file which is only half written is not. The file may be replaced by another one of the
///   same name, and may be missing for some seconds.
/// - On Unix, the signal `SIGHUP` applies the file at once, also if its text is the same. Without
///   this, the signal would end the process.
/// - If the file is wrong or cannot be read, the limits stay as they are. One event of `tracing` has
///   all problems, and the counter `tower_quota_reloads_total` counts the failure. The same text is
///   not tried again.
/// - The file is applied for the first time after two seconds, as it may have changed since the
///   limiter was built.
/// - Only a regular file of at most 4 MiB is read, also by a symbolic link. The file is read and
///   applied on a thread of its own. If a read does not end, as on a network that is down, that is
///   reported, and tried again; neither the runtime nor its shutdown waits for it.
/// - If a function of the registry panics while the file is applied, that is logged, and the watch
///   goes on.
/// - After the limits, the [overrides](super::Limits::apply_overrides) of the file are set. If that fails, as
///   while the store does not answer, the limits hold already. An event of `tracing` says why, and the
///   overrides are sent again every second until they are set.
///
/// After each file that is applied, an event of level `WARN` reports each [lint](Limiter::lint) that the limits
/// before it did not have. With [`routes`](Self::routes), the lints also find routes that lose their limits.
/// Lints need the feature `describe`, and are left out if they take more than ten seconds, as for many
/// thousands of categories.
///
/// The store, the clock, the caller and the override source stay. A file that names another
/// [`caller`](super::Limits::caller) is not applied.
///
/// The settings of [`layer`](super::Limits::layer) are those of the layer that was built: they do
/// not change. If the file has others, a warning says that they apply at the next start.
///
/// Give it a name, if only `_watch`: `let _ = Watch::new(…)` ends it at once.
///
/// ```no_run
/// use tower_quota::config::{Limits, Registry, Watch};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let registry = Registry::new();
/// let limits = Limits::read("limits.toml", &registry)?;
/// let limiter = limits.builder(&registry)?.build()?;
/// if let Err(error) = limits.apply_overrides(&limiter).await {
///     eprintln!("the overrides are not set yet: {error}"); // the watch tries again
/// }
/// let watch = Watch::new(&limiter, "limits.toml", registry);
/// // Serve requests as long as `watch` is there.
/// # drop(watch);
/// # Ok(())
/// # }
/// ```
#[must_use = "the file is watched until this is dropped"]
pub struct Watch {
    path: Arc<Path>,
    task: JoinHandle<()>,
    #[cfg(feature = "describe")]
    routes: lints::Routes,
}

impl Watch {
    /// Begins to watch a file, which may name the functions of `registry`.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its timers or its I/O are off (`enable_all`).
    pub fn new(limiter: &Limiter, path: impl Into<PathBuf>, registry: Registry) -> Self {
        let path: Arc<Path> = path.into().into();
        let file = WatchedFile::new(Arc::clone(&path));
        let (applier, lints) = (Applier::new(limiter.clone(), registry), Lints::default());
        #[cfg(feature = "describe")]
        let routes = Arc::clone(&lints.routes);
        // A signal between here and the first turn of the task would end the process otherwise.
        let hangups = Hangups::new();
        Self {
            path,
            task: tokio::spawn(watch(file, hangups, applier, lints)),
            #[cfg(feature = "describe")]
            routes,
        }
    }

    /// Sets the routes of the program, as for [`Limiter::lint_routes`]. Lints then compare each new file with
    /// them, so that a path with a typo is reported as soon as the file is applied.
    ///
    /// ```no_run
    /// # use tower_quota::config::{Registry, Watch};
    /// # fn watch(limiter: &tower_quota::Limiter, registry: Registry) -> Watch {
    /// Watch::new(limiter, "limits.toml", registry)
    ///     .routes([("POST", "/v1/chat"), ("GET", "/v1/models"), ("GET", "/v1/models/{id}")])
    /// # }
    /// ```
    #[cfg(feature = "describe")]
    pub fn routes<M: Into<String>, P: Into<String>>(
        self,
        routes: impl IntoIterator<Item = (M, P)>,
    ) -> Self {
        let routes = routes.into_iter().map(|(method, path)| (method.into(), path.into()));
        *self.routes.lock() = routes.collect();
        self
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Reads the file, and applies what is new, for ever.
async fn watch(
    mut watched: WatchedFile,
    mut hangups: Hangups,
    mut applier: Applier,
    mut lints: Lints,
) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let by_signal = tokio::select! {
            _ = ticks.tick() => false,
            () = hangups.next() => true,
        };
        let path = Arc::clone(&watched.path);
        let read = applier.threads.run(MAX_READ, move || file::read(&path)).await;
        let read = read.unwrap_or_else(|_| {
            let text = format!("the read has not ended after {} seconds", MAX_READ.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, text))
        });
        if let Some(text) = watched.take_new(read, by_signal)
            && applier.apply(&watched.path, text).await
        {
            lints.set_due();
        }
        applier.set_overrides().await;
        lints.run(&applier.limiter, &watched.path).await;
    }
}
