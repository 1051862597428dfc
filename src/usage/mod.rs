//! A log of requests, and pages that show it to callers and operators.
//!
//! # The request log
//!
//! A [`RequestLog`] writes an [`Entry`] about each request of a
//! [`RateLimitLayer`](crate::RateLimitLayer) to its [sinks](Sink), when the head of the response is
//! ready. Requests that get no response, because the caller left or the service failed, have entries
//! too.
//!
//! | sink | feature | keeps |
//! |---|---|---|
//! | [`MemoryLog`] | `usage` | the newest entries, and the sums of the last day's minutes, both bounded |
//! | `SqliteLog` | `usage-sqlite` | the same in a file, which survives a restart; bounded by age and size |
//! | `TracingLog` | `usage`, `tracing` | nothing: it writes an event for each request |
//!
//! The log contains no keys, no paths and no other text from callers. An endpoint is the pattern of a
//! route. A key is a keyed [`Fingerprint`](crate::key::Fingerprint), and a label that identifies the
//! key to its owner without disclosing it.
//!
//! # Usage for the caller
//!
//! With the feature `axum`, `UsagePage` is a router that shows callers what is left of their
//! quotas, and their own requests: as JSON, and as a page that updates itself.
//!
//! # For the operator
//!
//! With the feature `axum`, `OperatorPage` is a router that shows the busiest and the most refused
//! keys, and on which operators block a key, or change its quotas for a time.

mod log;
#[cfg(feature = "axum")]
mod web;

#[cfg(feature = "tracing")]
pub use self::log::TracingLog;
pub use self::log::{
    Entry, KeySum, LoggedKey, LoggedVerdict, MemoryLog, Page, ReadError, Reader, RequestLog,
    RequestLogBuilder, Sink, Sum, UNMATCHED,
};
#[cfg(feature = "usage-sqlite")]
pub use self::log::{SqliteLog, SqliteLogBuilder, SqliteLogStats};
#[cfg(feature = "axum")]
pub use self::web::{OperatorPage, OperatorPageBuilder, UsagePage, UsagePageBuilder};
