use std::{fmt, sync::Arc, time::Duration};

use super::{Entry, Fingerprint, LoggedKey};

/// Takes the entries of a [`RequestLog`](super::RequestLog).
///
/// It is called on the request's way, when the head of the response is ready: an implementation
/// does not wait for anything and does not panic. What takes time belongs onto a thread of its own.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use tower_quota::usage::{Entry, Sink};
///
/// /// Counts the answers that came from a fault of the server.
/// #[derive(Default)]
/// struct Faults(AtomicU64);
///
/// impl Sink for Faults {
///     fn record(&self, entry: &Entry) {
///         if entry.status.is_some_and(|status| status >= 500) {
///             self.0.fetch_add(1, Relaxed);
///         }
///     }
/// }
/// ```
pub trait Sink: Send + Sync + 'static {
    /// Takes one entry.
    fn record(&self, entry: &Entry);

    /// Whether what it has taken is still there when the process is gone. Then the log needs a
    /// [secret](super::RequestLogBuilder::secret), without which nothing would find it again.
    fn is_persistent(&self) -> bool {
        false
    }

    /// What reads the entries back for the pages. Default: none, the sink keeps nothing to read.
    fn reader(&self) -> Option<Arc<dyn Reader>> {
        None
    }
}

impl<S: Sink + ?Sized> Sink for Arc<S> {
    fn record(&self, entry: &Entry) {
        (**self).record(entry);
    }

    fn is_persistent(&self) -> bool {
        (**self).is_persistent()
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        (**self).reader()
    }
}

/// What can be read back from a sink, by key. Calls may block; the usage page makes them where that
/// hurts nobody.
pub trait Reader: Send + Sync + 'static {
    /// The `limit` newest entries of a key, or those that are older than the cursor `before`;
    /// the newest first.
    ///
    /// # Errors
    /// The log cannot be read.
    fn entries(
        &self,
        key: Fingerprint,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page, ReadError>;

    /// The sums of a key's minutes from `since` (since 1970 UTC) on, the oldest first.
    ///
    /// # Errors
    /// The log cannot be read.
    fn sums(&self, key: Fingerprint, since: Duration) -> Result<Vec<Sum>, ReadError>;

    /// How much each key has asked for, by the sums of the minutes from `since` (since 1970 UTC) on,
    /// in any order.
    ///
    /// # Errors
    /// The log cannot be read.
    fn keys(&self, since: Duration) -> Result<Vec<KeySum>, ReadError>;
}

/// Entries, and where the next older ones are.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The newest first.
    pub entries: Vec<Entry>,
    /// The cursor of older ones; `None` where there are none.
    pub next: Option<u64>,
}

impl Page {
    /// Entries, and the cursor of older ones.
    #[must_use]
    pub fn new(entries: Vec<Entry>, next: Option<u64>) -> Self {
        Self { entries, next }
    }
}

/// The requests of one key to one endpoint within a minute that ended alike.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sum {
    /// Whose requests.
    pub key: Option<LoggedKey>,
    /// The beginning of the minute, since 1970 UTC.
    pub minute: Duration,
    /// The pattern of the route, as in [`Entry::endpoint`].
    pub endpoint: Arc<str>,
    /// As in [`Entry::method`].
    pub method: &'static str,
    /// The first digit of the status; 0 where there was none.
    pub status_class: u8,
    /// Whether the limiter refused them.
    pub refused: bool,
    /// How many.
    pub requests: u64,
    /// Their response times together.
    pub response_time: Duration,
    /// The longest of their response times.
    pub longest: Duration,
}

/// The requests of one key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KeySum {
    /// Whose requests.
    pub key: LoggedKey,
    /// How many.
    pub requests: u64,
    /// How many of them the limiter refused.
    pub refused: u64,
}

impl KeySum {
    /// So many requests of this key.
    #[must_use]
    pub fn new(key: LoggedKey, requests: u64, refused: u64) -> Self {
        Self { key, requests, refused }
    }
}

/// A log could not be read: the message says why, for whoever operates it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError(String);

impl ReadError {
    /// With a message for whoever operates the log.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request log cannot be read: {}", self.0)
    }
}

impl std::error::Error for ReadError {}
