//! Applies a file of limits whenever it changes: [`Watch`].

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

use super::{
    Layer, Limits, Registry, file,
    off_runtime::{Failed, Threads},
};
use crate::limiter::{Limiter, overrides::OverrideError};
#[cfg(feature = "describe")]
use crate::{limiter::Lint, lock::Mutex};

/// How often the file is read, and how often overrides that the store has not taken are sent again.
const PERIOD: Duration = Duration::from_secs(1);

/// How long a read may take: that of a network may never end.
const MAX_READ: Duration = Duration::from_secs(10);

/// How long it may take to check and apply a file. The largest takes some seconds.
const MAX_APPLY: Duration = Duration::from_secs(600);

/// How long lints may take: they compare categories with each other.
#[cfg(feature = "describe")]
const MAX_LINT: Duration = Duration::from_secs(10);

/// How many times in a row the file must not be readable until that is reported: an editor or a
/// deployment replaces it by another one.
const UNREADABLE_AFTER: u32 = 5;

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
/// - After the limits, the [overrides](Limits::apply_overrides) of the file are set. If that fails, as
///   while the store does not answer, the limits hold already. An event of `tracing` says why, and the
///   overrides are sent again every second until they are set.
///
/// After each file that is applied, an event of level `WARN` reports each [lint](Limiter::lint) that the limits
/// before it did not have. With [`routes`](Self::routes), the lints also find routes that lose their limits.
/// Lints need the feature `describe`, and are left out if they take more than ten seconds, as for thousands
/// of categories.
///
/// The store, the clock, the caller and the override source stay. A file that names another
/// [`caller`](Limits::caller) is not applied.
///
/// The settings of [`layer`](Limits::layer) are those of the layer that was built: they do
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
    lints: Arc<Mutex<Lints>>,
}

impl Watch {
    /// Begins to watch a file, which may name the functions of `registry`.
    ///
    /// # Panics
    /// Outside of a tokio runtime, or if its timers or its I/O are off (`enable_all`).
    pub fn new(limiter: &Limiter, path: impl Into<PathBuf>, registry: Registry) -> Self {
        let path: Arc<Path> = path.into().into();
        let file =
            WatchedFile { path: Arc::clone(&path), applied: None, seen: None, unreadable: 0 };
        let applied = Applied {
            limiter: limiter.clone(),
            registry: Arc::new(registry),
            threads: Threads::default(),
            #[cfg(feature = "describe")]
            lints: Arc::default(),
            #[cfg(feature = "describe")]
            lint_threads: Threads::default(),
            #[cfg(feature = "describe")]
            is_linted: true,
            layer: None,
            without_overrides: None,
            problem: None,
        };
        #[cfg(feature = "describe")]
        let lints = Arc::clone(&applied.lints);
        // A signal between here and the first turn of the task would end the process otherwise.
        let hangups = Hangups::new();
        Self {
            path,
            task: tokio::spawn(file.watch(hangups, applied)),
            #[cfg(feature = "describe")]
            lints,
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
        self.lints.lock().routes = routes.collect();
        self
    }
}

/// The routes of the program, and the lints that are reported already.
#[cfg(feature = "describe")]
#[derive(Default)]
struct Lints {
    routes: Vec<(String, String)>,
    known: Vec<Lint>,
}

#[cfg(feature = "describe")]
impl Lints {
    /// Logs the lints that the file before did not have.
    fn note(&mut self, found: Vec<Lint>, path: &Path) {
        #[cfg(feature = "tracing")]
        for lint in found.iter().filter(|lint| !self.known.contains(lint)) {
            tracing::warn!(file = %path.display(), lint = lint.kind().as_str(), "{lint}");
        }
        #[cfg(not(feature = "tracing"))]
        let _ = path;
        self.known = found;
    }
}

/// The lints of the limits that hold now. With many categories, this may take seconds.
#[cfg(feature = "describe")]
fn lints_of(limiter: &Limiter, routes: &[(String, String)]) -> Vec<Lint> {
    match routes {
        [] => limiter.lint(),
        routes => limiter.lint_routes(routes.iter().map(|(method, path)| (method, path))),
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

/// What is known of the file.
struct WatchedFile {
    path: Arc<Path>,
    /// The text that was applied, or could not be.
    applied: Option<String>,
    /// The text of the last read.
    seen: Option<String>,
    /// How many reads in a row have failed.
    unreadable: u32,
}

impl WatchedFile {
    async fn watch(mut self, mut hangups: Hangups, mut applied: Applied) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_asked = tokio::select! {
                _ = ticks.tick() => false,
                () = hangups.next() => true,
            };
            let path = Arc::clone(&self.path);
            let read = applied.threads.run(MAX_READ, move || file::read(&path)).await;
            let read = read.unwrap_or_else(|_| {
                let text = format!("the read has not ended after {} seconds", MAX_READ.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            });
            if let Some(text) = self.take_new(read, is_asked) {
                applied.apply(&self.path, text).await;
            }
            applied.set_overrides().await;
            #[cfg(feature = "describe")]
            applied.lint(&self.path).await;
        }
    }

    /// The text to apply; `None` if there is none, or none that is whole for sure. If the file
    /// `is_asked` for, it is whole.
    fn take_new(&mut self, read: io::Result<String>, is_asked: bool) -> Option<String> {
        let text = match read {
            Ok(text) => text,
            Err(error) => {
                self.seen = None;
                self.unreadable = self.unreadable.saturating_add(1);
                // A missing file may be on its way. What is no file will not become one.
                let after = match error.kind() {
                    io::ErrorKind::NotFound => UNREADABLE_AFTER,
                    _ => 1,
                };
                if is_asked || self.unreadable == after {
                    Limiter::report_unread(&self.path, &error);
                }
                return None;
            }
        };
        self.unreadable = 0;
        let is_whole = is_asked || self.seen.as_ref() == Some(&text);
        let is_new = is_asked || self.applied.as_ref() != Some(&text);
        if is_whole && is_new {
            self.seen = Some(text.clone());
            return Some(self.applied.insert(text).clone());
        }
        self.seen = Some(text);
        None
    }
}

/// What is applied to the limiter.
struct Applied {
    limiter: Limiter,
    registry: Arc<Registry>,
    threads: Threads,
    #[cfg(feature = "describe")]
    lints: Arc<Mutex<Lints>>,
    /// Threads of their own: lints that take long must not keep a file from being read.
    #[cfg(feature = "describe")]
    lint_threads: Threads,
    /// Whether the limits that were applied last are linted.
    #[cfg(feature = "describe")]
    is_linted: bool,
    /// The layer of the file when it was applied last.
    layer: Option<Layer>,
    /// The limits that hold, whose overrides are not set yet.
    without_overrides: Option<Limits>,
    /// Why the overrides could not be set.
    problem: Option<OverrideError>,
}

impl Applied {
    /// It reports an error itself.
    async fn apply(&mut self, path: &Arc<Path>, text: String) {
        let (limiter, registry) = (self.limiter.clone(), Arc::clone(&self.registry));
        let file = Arc::clone(path);
        let load = move || {
            let limits = Limits::from_toml(&text, &registry);
            let built = limits.and_then(|limits| Ok((limits.builder(&registry)?, limits)));
            match built {
                Ok((builder, limits)) => limiter.apply(builder).is_ok().then_some(limits),
                Err(error) => {
                    Limiter::report_unread(&file, &error);
                    None
                }
            }
        };
        match self.threads.run(MAX_APPLY, load).await {
            Ok(None) => {}
            Ok(Some(limits)) => {
                self.note_layer(path, &limits.layer);
                self.without_overrides = Some(limits);
                #[cfg(feature = "describe")]
                {
                    self.is_linted = false;
                }
            }
            Err(Failed::Panicked) => {
                Limiter::report_unread(path, &"a function of the program panicked");
            }
            Err(Failed::TimedOut) => Limiter::report_unread(path, &"to apply them takes too long"),
        }
    }

    /// Logs the lints of the limits that were applied last.
    #[cfg(feature = "describe")]
    async fn lint(&mut self, path: &Path) {
        if std::mem::replace(&mut self.is_linted, true) {
            return;
        }
        let (limiter, routes) = (self.limiter.clone(), self.lints.lock().routes.clone());
        match self.lint_threads.run(MAX_LINT, move || lints_of(&limiter, &routes)).await {
            Ok(found) => self.lints.lock().note(found, path),
            #[cfg(feature = "tracing")]
            Err(error) => tracing::warn!(
                file = %path.display(),
                ?error,
                "the limits hold, and were not linted: there may be too many categories"
            ),
            #[cfg(not(feature = "tracing"))]
            Err(_) => {}
        }
    }

    /// Warns if the layer has changed since the file was applied last.
    fn note_layer(&mut self, path: &Path, layer: &Layer) {
        let before = self.layer.replace(layer.clone());
        #[cfg(feature = "tracing")]
        if before.is_some_and(|before| before != *layer) {
            tracing::warn!(
                file = %path.display(),
                "`[layer]` has changed in the file of limits: it applies at the next start"
            );
        }
        #[cfg(not(feature = "tracing"))]
        let _ = (before, path);
    }

    /// Sets the overrides that are not set yet, and logs each new problem once.
    async fn set_overrides(&mut self) {
        let Some(limits) = &self.without_overrides else { return };
        let problem = limits.apply_overrides(&self.limiter).await.err();
        #[cfg(feature = "tracing")]
        match &problem {
            Some(error) if self.problem.as_ref() != Some(error) => tracing::error!(
                %error,
                "the overrides of the limits could not be set, and are sent again every second"
            ),
            None if self.problem.is_some() => {
                tracing::info!("the overrides of the limits are set now");
            }
            _ => {}
        }
        if problem.is_none() {
            self.without_overrides = None;
        }
        self.problem = problem;
    }
}

/// The signals by which operators ask for a reload.
struct Hangups {
    /// `None` if the process cannot have them.
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangups {
    #[cfg(unix)]
    fn new() -> Self {
        use tokio::signal::unix::{SignalKind, signal};
        Self { signal: signal(SignalKind::hangup()).ok() }
    }

    #[cfg(not(unix))]
    fn new() -> Self {
        Self {}
    }

    async fn next(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal {
            if signal.recv().await.is_some() {
                return;
            }
            self.signal = None;
        }
        std::future::pending().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> WatchedFile {
        let path: Arc<Path> = PathBuf::from("limits.toml").into();
        WatchedFile { path, applied: None, seen: None, unreadable: 0 }
    }

    /// What is applied after each of these reads; `!` fails.
    fn applied(reads: &[(&str, bool)]) -> Vec<Option<String>> {
        let mut file = file();
        let read = |text: &str| match text {
            "!" => Err(io::ErrorKind::NotFound.into()),
            text => Ok(text.to_owned()),
        };
        let taken = reads.iter().map(|(text, is_asked)| file.take_new(read(text), *is_asked));
        taken.collect()
    }

    #[test]
    fn a_text_is_applied_once_when_two_reads_have_found_it_or_when_it_is_asked_for() {
        let (a, b) = (Some("a".to_owned()), Some("b".to_owned()));
        for (reads, expected) in [
            (&[("a", false), ("a", false), ("a", false)][..], vec![None, a.clone(), None]),
            // Half written, then whole.
            (
                &[("a", false), ("ab", false), ("b", false), ("b", false)],
                vec![None, None, None, b.clone()],
            ),
            // Missing for a moment, and the same afterwards; or another.
            (
                &[("a", false), ("a", false), ("!", false), ("a", false), ("a", false)],
                vec![None, a.clone(), None, None, None],
            ),
            (
                &[("a", false), ("!", false), ("a", false), ("a", false)],
                vec![None, None, None, a.clone()],
            ),
            // By a signal: at once, and again.
            (&[("a", true), ("a", true), ("a", false)], vec![a.clone(), a.clone(), None]),
            (&[("!", true), ("b", true), ("b", false)], vec![None, b.clone(), None]),
            // Back to what was applied before.
            (
                &[("a", true), ("b", true), ("a", false), ("a", false)],
                vec![a.clone(), b.clone(), None, a.clone()],
            ),
        ] {
            assert_eq!(applied(reads), expected, "{reads:?}");
        }
    }
}
