//! What callers and operators see: a log of requests, and pages made of it.
//!
//! # The request log
//!
//! A [`RequestLog`] makes an [`Entry`] of each request that a
//! [`RateLimitLayer`](crate::RateLimitLayer) answers, when the head of its response is ready, and
//! tells its [sinks](Sink). It tells of those as well that get no response: the caller has left, or
//! the service has failed.
//!
//! | sink | feature | keeps |
//! |---|---|---|
//! | [`MemoryLog`] | `usage` | the newest entries, and the sums of the last day's minutes, both bounded |
//! | `SqliteLog` | `usage-sqlite` | the same in a file, which survives a restart; bounded by age and size |
//! | `TracingLog` | `usage`, `tracing` | nothing: it makes an event of each request |
//!
//! The log holds no key, no path and no text of a caller's: the endpoint is the pattern of a route,
//! and a key is a keyed [`Fingerprint`](crate::key::Fingerprint) and a label that identifies without disclosing.
//!
//! # Usage for the caller
//!
//! With the feature `axum`, `UsagePage` is a router that shows callers what is left of their
//! quotas, and their part of the log: as JSON, and as a page that keeps itself up to date.
//!
//! # For the operator
//!
//! With the feature `axum`, `OperatorPage` is a router that shows the busiest and the most refused
//! keys, and lets those whom its guard lets in change what holds for one of them.

mod log;
#[cfg(feature = "axum")]
mod web;

#[cfg(feature = "tracing")]
pub use self::log::TracingLog;
pub use self::log::{
    Entry, KeySum, LoggedKey, MemoryLog, Page, ReadError, Reader, RequestLog, RequestLogBuilder,
    Sink, Sum, UNMATCHED, Verdict,
};
#[cfg(feature = "usage-sqlite")]
pub use self::log::{SqliteLog, SqliteLogBuilder, SqliteLogStats};
#[cfg(feature = "axum")]
pub use self::web::{OperatorPage, OperatorPageBuilder, UsagePage, UsagePageBuilder};
