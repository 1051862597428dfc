//! The request log: it observes a layer, and writes an entry about each request to its sinks.
//!
//! A sink that keeps entries also keeps sums of each minute. In memory these are bounded (`sums`), and
//! `tally` counts the heaviest keys, so that no flood of other keys hides them.

mod entry;
#[cfg(feature = "axum")]
pub(super) mod known_keys;
mod label;
mod memory_log;
mod pending_entry;
mod request_log;
mod sink;
#[cfg(feature = "usage-sqlite")]
mod sqlite_log;
mod sums;
mod tally;
#[cfg(feature = "tracing")]
mod tracing_log;

#[cfg(feature = "axum")]
pub(crate) use self::entry::millis;
#[cfg(test)]
pub(crate) use self::entry::tests;
#[cfg(feature = "usage-sqlite")]
pub use self::sqlite_log::{SqliteLog, SqliteLogBuilder, SqliteLogStats};
#[cfg(feature = "tracing")]
pub use self::tracing_log::TracingLog;
pub use self::{
    entry::{Entry, LoggedKey, LoggedVerdict, UNMATCHED},
    memory_log::MemoryLog,
    request_log::{RequestLog, RequestLogBuilder},
    sink::{KeySum, Page, ReadError, Reader, Sink, Sum},
};
use crate::key::Fingerprint;
