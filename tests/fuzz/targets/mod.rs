//! The fuzz targets: functions that panic if an input breaks a promise. `tests/it/fuzz_corpus.rs` runs
//! the inputs in `tests/fuzz/corpus` again in each test run. Those of `replies`, which are not public,
//! run in a unit test of the module that reads replies.

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
