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

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Seek},
        sync::Arc,
        time::Duration,
    };

    use super::*;
    use crate::usage::log::tests::entry;

    #[test]
    fn each_field_of_an_entry_is_a_field_of_its_event() {
        let mut file = tempfile::tempfile().unwrap();
        let writer = Arc::new(file.try_clone().unwrap());
        let subscriber = tracing_subscriber::fmt().with_writer(writer).without_time();
        tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
            let entry = Entry { held: Duration::from_millis(3), units: 2, ..entry(7) };
            TracingLog::new().record(&entry);
            TracingLog::new().record(&Entry { status: None, policy: None, key: None, ..entry });
        });
        let mut events = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut events).unwrap();
        let event = |status, policy, key| {
            format!(
                " INFO tower_quota::request: request method=\"GET\" endpoint=\"/things/{{id}}\"\
                 {status} response_ms=5.0{policy} verdict=\"allowed\" units=2 held_ms=3.0{key}\n"
            )
        };
        let all = event(" status=200", " policy=\"read\"", " key=\"pk_…0001\"");
        assert_eq!(events, all + &event("", "", ""));
    }
}
