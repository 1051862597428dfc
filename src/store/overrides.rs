//! How a store shares overrides between processes: the trait [`OverrideStore`].

use std::{future::Future, pin::Pin, time::Duration};

use super::StoreError;
use crate::{key::Fingerprint, override_record::Override};

/// Keeps overrides that several processes share; from [`Store::overrides`](super::Store::overrides).
///
/// Each limiter knows the overrides as they were at one version. It asks a few times a second for
/// what has changed since, and no request waits for that. A store must keep these promises:
/// - **One after another**: each change has a new version, which no other change ever had, also after
///   the store has lost the last changes. If the store no longer knows what has changed since a
///   version, or never knew that version, it answers with all overrides.
/// - **By one clock**: the store's own clock decides when an override ends.
/// - **In bounded number**: at most [`MAX_OVERRIDES`] at once.
/// - **In bounded time**: it answers with a [`StoreError`] when it is slow or down.
pub trait OverrideStore: Send + Sync + 'static {
    /// What has changed since the version `known`, in one `space`. `None` asks for all overrides.
    ///
    /// A space is that of all limiters that make fingerprints of callers with the same secret.
    fn read(&self, space: u64, known: Option<OverrideVersion>) -> OverrideFuture;

    /// Changes overrides, and answers as [`read`](Self::read) does, the change included. The change
    /// is made even if the answer is not awaited.
    fn change(
        &self,
        space: u64,
        change: OverrideUpdate,
        known: Option<OverrideVersion>,
    ) -> OverrideFuture;

    /// How long the first requests of a process wait until the overrides were read for the first time.
    /// Then they are decided without. Default: 50 ms.
    fn first_read_timeout(&self) -> Duration {
        Duration::from_millis(50)
    }
}

/// The most overrides at once.
pub const MAX_OVERRIDES: usize = 10_000;

/// What an [`OverrideStore`] answers later.
pub type OverrideFuture = Pin<Box<dyn Future<Output = Result<SharedOverrides, StoreError>> + Send>>;

/// Identifies a change of the overrides in a store, and all changes before it. Only the store knows
/// what the bytes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OverrideVersion(pub [u8; 16]);

/// One change of the overrides in a store.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverrideUpdate {
    /// Sets an override, instead of that of the same caller and policy. Its length counts, from
    /// `since` to `until`; the store sets both by its own clock.
    Set(Override),
    /// Ends an override.
    End {
        /// The caller.
        caller: Fingerprint,
        /// The policy of the quota; `None` for a block.
        policy: Option<String>,
    },
    /// Ends all overrides of a caller.
    EndAll(Fingerprint),
}

/// What an [`OverrideStore`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SharedOverrides {
    /// The version that this answer leads to.
    pub version: OverrideVersion,
    /// The store's time, since 1970 UTC.
    pub now: Duration,
    /// Whether `set` are all overrides that there are.
    pub is_all: bool,
    /// The overrides that were set, each as it is now.
    pub set: Vec<Override>,
    /// The overrides that were ended: caller and [policy](Override::policy).
    pub ended: Vec<(Fingerprint, Option<String>)>,
    /// The overrides that held before a change, and that it has replaced or ended.
    pub before: Vec<Override>,
    /// Whether nothing was set, as there are [`MAX_OVERRIDES`] already.
    pub is_full: bool,
}

impl SharedOverrides {
    /// An answer by which nothing has changed since the version that the limiter knows. `now` is the
    /// store's time, since 1970 UTC.
    #[must_use]
    pub const fn new(version: OverrideVersion, now: Duration) -> Self {
        Self {
            version,
            now,
            is_all: false,
            set: Vec::new(),
            ended: Vec::new(),
            before: Vec::new(),
            is_full: false,
        }
    }
}
