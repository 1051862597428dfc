//! Lints the limits of a file after they were applied: [`Lints`].

use std::{mem, path::Path, sync::Arc, time::Duration};

use crate::{
    config::off_runtime::Threads,
    limiter::{Limiter, Lint},
    lock::Mutex,
};

/// How long lints may take.
const MAX_LINT: Duration = Duration::from_secs(10);

/// The routes of the program: methods and paths.
pub(super) type Routes = Arc<Mutex<Vec<(String, String)>>>;

/// Finds and logs the lints of the limits that were applied.
#[derive(Default)]
pub(super) struct Lints {
    pub(super) routes: Routes,
    /// The lints of the last run.
    known: Vec<Lint>,
    /// Threads of their own: lints that take long must not keep a file from being read.
    threads: Threads,
    /// Whether the limits that hold are not linted yet.
    is_due: bool,
}

impl Lints {
    /// Notes that limits were applied.
    pub(super) fn set_due(&mut self) {
        self.is_due = true;
    }

    /// Lints the limits that were applied last, and logs the lints that the limits before them did not have.
    pub(super) async fn run(&mut self, limiter: &Limiter, path: &Path) {
        if !mem::take(&mut self.is_due) {
            return;
        }
        let (limiter, routes) = (limiter.clone(), self.routes.lock().clone());
        match self.threads.run(MAX_LINT, move || lints_of(&limiter, &routes)).await {
            Ok(found) => self.note(found, path),
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

    /// Logs the lints that the run before did not find.
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

/// The lints of the limits that hold now.
fn lints_of(limiter: &Limiter, routes: &[(String, String)]) -> Vec<Lint> {
    match routes {
        [] => limiter.lint(),
        routes => limiter.lint_routes(routes.iter().map(|(method, path)| (method, path))),
    }
}
