//! Applies texts of a file, and sets their overrides: [`Applier`].

use std::{path::Path, sync::Arc, time::Duration};

use crate::{
    config::{
        Layer, Limits, Registry,
        off_runtime::{Failed, Threads},
    },
    limiter::{Limiter, overrides::OverrideError},
};

/// How long it may take to check and apply a file. The largest takes some seconds.
const MAX_APPLY: Duration = Duration::from_secs(600);

/// Applies texts of the file to the limiter, and sets their overrides.
pub(super) struct Applier {
    pub(super) limiter: Limiter,
    registry: Arc<Registry>,
    /// The threads that read the file and apply it.
    pub(super) threads: Threads,
    /// The layer of the file when it was applied last.
    layer: Option<Layer>,
    /// The limits that hold, whose overrides are not set yet.
    without_overrides: Option<Limits>,
    /// Why the overrides could not be set.
    problem: Option<OverrideError>,
}

impl Applier {
    pub(super) fn new(limiter: Limiter, registry: Registry) -> Self {
        Self {
            limiter,
            registry: Arc::new(registry),
            threads: Threads::default(),
            layer: None,
            without_overrides: None,
            problem: None,
        }
    }

    /// Returns whether the limits hold. It reports an error itself.
    pub(super) async fn apply(&mut self, path: &Arc<Path>, text: String) -> bool {
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
                return true;
            }
            Err(Failed::Panicked) => {
                Limiter::report_unread(path, &"a function of the program panicked");
            }
            Err(Failed::TimedOut) => Limiter::report_unread(path, &"to apply them takes too long"),
        }
        false
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
    pub(super) async fn set_overrides(&mut self) {
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
