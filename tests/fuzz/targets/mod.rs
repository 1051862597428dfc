//! What is fed with hostile input: functions that fail where a promise is broken. Each has a corpus
//! of its own in `tests/fuzz/corpus`, which `tests/fuzz_corpus.rs` runs again in each test run; that of
//! `replies`, which are not public, a test of the module that reads them.

mod bodies;
mod forwarded;
mod keys;
mod paths;
#[cfg(fuzzing)]
mod replies;
mod settings;

/// Panics where `data` makes the crate break a promise.
pub type Target = fn(&[u8]);

/// By name.
pub const ALL: &[(&str, Target)] = &[
    ("bodies", bodies::bodies),
    ("forwarded", forwarded::forwarded),
    ("keys", keys::keys),
    ("paths", paths::paths),
    #[cfg(fuzzing)]
    ("replies", replies::replies),
    ("settings", settings::settings),
];
