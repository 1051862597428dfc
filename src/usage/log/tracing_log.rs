//! A sink that writes entries as `tracing` events: [`TracingLog`].

use super::{Entry, Sink, entry::millis};

/// Writes each entry as an event: level `INFO`, target `tower_quota::request`, with the fields of
/// [`Entry`], times in milliseconds. The event is in the span of the request, where there is one. Its
/// time is that of the response.
///
/// The event has the label of the key, not its fingerprint.
///
/// ```
/// use tower_quota::{key, usage::{RequestLog, TracingLog}};
///
/// let log = RequestLog::builder(key::bearer()).sink(TracingLog::new()).build()?;
/// # let _ = log;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingLog;

impl TracingLog {
    /// The sink.
    #[must_use]
    pub fn new() -> Self {
        Self
    }
}

impl Sink for TracingLog {
    fn record(&self, entry: &Entry) {
        tracing::info!(
            target: "tower_quota::request",
            method = entry.method,
            endpoint = &*entry.endpoint,
            // A field without a value is left out.
            status = entry.status,
            response_ms = millis(entry.response_time),
            policy = entry.policy.as_deref(),
            verdict = entry.verdict.as_str(),
            units = entry.units,
            held_ms = millis(entry.held),
            key = entry.key.as_ref().map(|key| &*key.label),
            "request"
        );
    }
}
