//! The log of requests: [`RequestLog`].

use std::{fmt, sync::Arc};

use http::request::Parts;

#[cfg(feature = "axum")]
use super::known_keys::KnownKeys;
use super::{
    Entry, LoggedKey, Reader, Sink,
    label::{cut_label, label_of_api_key},
};
use crate::{
    error::BuildError,
    key::{Caller, Fingerprint, Key},
};

type Label = Arc<dyn Fn(&Key<'_>) -> String + Send + Sync>;

/// Writes an [`Entry`] about each request of a [`RateLimitLayer`](crate::RateLimitLayer) to
/// [sinks](Sink).
///
/// A clone is the same log: give one to
/// [`RateLimitLayerBuilder::observe`](crate::RateLimitLayerBuilder::observe) and one to the
/// [usage page](crate::usage#usage-for-the-caller).
///
/// ```
/// use tower_quota::{Limiter, RateLimitLayer, key, usage::{MemoryLog, RequestLog}};
///
/// let limiter = Limiter::builder().build()?;
/// let log = RequestLog::builder(key::bearer()).sink(MemoryLog::new()).build()?;
/// let layer = RateLimitLayer::builder(limiter).observe(log).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug)]
pub struct RequestLog(Arc<Settings>);

struct Settings {
    caller: Caller,
    label: Option<Label>,
    sinks: Vec<Arc<dyn Sink>>,
    #[cfg(feature = "axum")]
    known: Option<KnownKeys>,
}

impl RequestLog {
    /// A log that identifies requests by their `caller`. A caller sees its own requests. A request
    /// without a caller is logged, and no caller sees it.
    ///
    /// If an `OperatorPage` reads the log, give the same [`Caller`] to
    /// [`LimiterBuilder::caller`](crate::LimiterBuilder::caller). A sink that outlives the process
    /// needs a caller with a [secret](Caller::secret).
    pub fn builder(caller: impl Into<Caller>) -> RequestLogBuilder {
        RequestLogBuilder(Settings {
            caller: caller.into(),
            label: None,
            sinks: Vec::new(),
            #[cfg(feature = "axum")]
            known: None,
        })
    }

    /// What reads the log: the [reader](Sink::reader) of the first sink that has one.
    #[must_use]
    pub fn reader(&self) -> Option<Arc<dyn Reader>> {
        self.0.sinks.iter().find_map(|sink| sink.reader())
    }

    /// The key of a request's caller; `None` if it is missing or unreadable.
    pub(crate) fn key_of(&self, request: &Parts) -> Option<LoggedKey> {
        let Settings { caller, label, .. } = &*self.0;
        let key = caller.extractor.extract(request).found()?;
        let label = match label {
            Some(label) => label(&key),
            None => label_of_api_key(&caller.extractor.kind(), &key),
        };
        let fingerprint = Fingerprint(caller.fingerprint(&key));
        Some(LoggedKey::new(fingerprint, cut_label(&label)))
    }

    /// The quotas of keys; `None` if the log does not remember them.
    #[cfg(feature = "axum")]
    pub(crate) fn known_keys(&self) -> Option<&KnownKeys> {
        self.0.known.as_ref()
    }

    #[cfg(feature = "axum")]
    pub(crate) fn caller(&self) -> &Caller {
        &self.0.caller
    }

    pub(crate) fn record(&self, entry: &Entry) {
        self.0.sinks.iter().for_each(|sink| sink.record(entry));
    }
}

/// Collects what a [`RequestLog`] needs.
#[derive(Debug)]
#[must_use]
pub struct RequestLogBuilder(Settings);

impl RequestLogBuilder {
    /// Adds a sink. Every sink gets every entry.
    pub fn sink(mut self, sink: impl Sink) -> Self {
        self.0.sinks.push(Arc::new(sink));
        self
    }

    /// A label that identifies a key to its owner without disclosing it; cut after 64 characters.
    ///
    /// Default: the prefix and the last four characters of an API key, `pk_live_…9f2c`. An API key has
    /// a prefix of up to 12 lower-case letters and `_`, and then at least 16 letters, digits or dashes,
    /// with at least one digit. Any other key is labelled by its kind only.
    ///
    /// ```
    /// use tower_quota::{key, usage::RequestLog};
    ///
    /// let log = RequestLog::builder(key::bearer()).label(|token| {
    ///     let token = String::from_utf8_lossy(token.as_bytes());
    ///     let tenant = token.split('.').next().unwrap_or_default();
    ///     format!("a key of {tenant}")
    /// });
    /// # let _ = log;
    /// ```
    pub fn label(mut self, label: impl Fn(&Key<'_>) -> String + Send + Sync + 'static) -> Self {
        self.0.label = Some(Arc::new(label));
        self
    }

    /// Remembers the quotas that up to `max` keys use, by fingerprints: an `OperatorPage` shows and
    /// resets them. A new key replaces the oldest one that made only one request. Default: 0.
    #[cfg(feature = "axum")]
    pub fn remember_keys(mut self, max: usize) -> Self {
        self.0.known = (max > 0).then(|| KnownKeys::new(max));
        self
    }

    /// The log.
    ///
    /// # Errors
    /// A setting that cannot work: the error names it and says what to write instead.
    pub fn build(self) -> Result<RequestLog, BuildError> {
        let settings = &self.0;
        let fail = |problem: &str| Err(BuildError::new("request log", problem));
        if let Some(problem) = settings.caller.extractor.problem() {
            return fail(&problem);
        }
        if settings.sinks.is_empty() {
            return fail("it has nowhere to write to; add `.sink(MemoryLog::new())` or another");
        }
        if !settings.caller.has_secret && settings.sinks.iter().any(|sink| sink.is_persistent()) {
            return fail(
                "a sink outlives the process, and its fingerprints would not; give the log a `Caller` with a `.secret(…)`",
            );
        }
        Ok(RequestLog(Arc::new(self.0)))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("caller", &self.caller)
            .field("sinks", &self.sinks.len())
            .finish_non_exhaustive()
    }
}
