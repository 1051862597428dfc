//! What is fed with hostile input: functions that fail where a promise is broken. Each has a corpus
//! of its own in `tests/fuzz/corpus`, which `tests/it/fuzz_corpus.rs` runs again in each test run; that of
//! `replies`, which are not public, a test of the module that reads them.

#[cfg(feature = "axum")]
pub mod bodies;
pub mod forwarded;
pub mod keys;
#[cfg(feature = "axum")]
pub mod paths;
#[cfg(fuzzing)]
mod replies;
#[cfg(feature = "describe")]
pub mod settings;

/// Panics where `data` makes the crate break a promise.
pub type Target = fn(&[u8]);

/// By name.
pub const ALL: &[(&str, Target)] = &[
    #[cfg(feature = "axum")]
    ("bodies", bodies::bodies),
    ("forwarded", forwarded::forwarded),
    ("keys", keys::keys),
    #[cfg(feature = "axum")]
    ("paths", paths::paths),
    #[cfg(fuzzing)]
    ("replies", replies::replies),
    #[cfg(feature = "describe")]
    ("settings", settings::settings),
];
