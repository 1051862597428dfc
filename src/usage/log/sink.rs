//! The traits of what keeps entries, [`Sink`], and of what reads them back, [`Reader`].

use std::{fmt, sync::Arc, time::Duration};

use super::{Entry, Fingerprint, LoggedKey};

/// Receives the entries of a [`RequestLog`](crate::usage::RequestLog).
///
/// The log calls it for each request, before the response leaves. So an implementation must not wait
/// and must not panic; slow work belongs on another thread.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
/// use tower_quota::usage::{Entry, Sink};
///
/// /// Counts the responses with a server error.
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
    /// Receives one entry.
    fn record(&self, entry: &Entry);

    /// Whether the entries outlive the process. If so, the log's caller needs a
    /// [secret](crate::key::Caller::secret): without it, a later process could not find the entries
    /// of a key. Default: no.
    fn is_persistent(&self) -> bool {
        false
    }

    /// What reads the entries back for the pages. Default: `None`, the sink keeps no entries.
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

/// Reads a sink's entries back, by key. A call may block: the pages call it on a thread for that.
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

    /// The number of requests of each key, by the sums of the minutes from `since` (since 1970 UTC) on,
    /// in any order.
    ///
    /// # Errors
    /// The log cannot be read.
    fn keys(&self, since: Duration) -> Result<Vec<KeySum>, ReadError>;
}

/// Entries, and a cursor to older ones.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Page {
    /// The newest first.
    pub entries: Vec<Entry>,
    /// The cursor to older entries; `None` where there are none.
    pub next: Option<u64>,
}

impl Page {
    /// A page of these entries, with the cursor to older ones.
    #[must_use]
    pub fn new(entries: Vec<Entry>, next: Option<u64>) -> Self {
        Self { entries, next }
    }
}

/// The sum of the requests of one key in one minute, with the same endpoint, method and outcome.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Sum {
    /// The key of the requests.
    pub key: Option<LoggedKey>,
    /// The beginning of the minute, since 1970 UTC.
    pub minute: Duration,
    /// The pattern of the route, as in [`Entry::endpoint`].
    pub endpoint: Arc<str>,
    /// As in [`Entry::method`].
    pub method: &'static str,
    /// The first digit of the status; 0 where there was no response.
    pub status_class: u8,
    /// Whether the limiter refused them.
    pub refused: bool,
    /// The number of requests.
    pub requests: u64,
    /// The sum of their response times.
    pub response_time: Duration,
    /// The longest of their response times.
    pub longest: Duration,
}

/// The number of requests of one key.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct KeySum {
    /// The key.
    pub key: LoggedKey,
    /// The number of requests.
    pub requests: u64,
    /// The number of those that the limiter refused.
    pub refused: u64,
}

impl KeySum {
    /// The number of a key's requests, and of those that were refused.
    #[must_use]
    pub fn new(key: LoggedKey, requests: u64, refused: u64) -> Self {
        Self { key, requests, refused }
    }
}

/// The log could not be read. The message says why, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError(String);

impl ReadError {
    /// An error with a message for operators.
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
