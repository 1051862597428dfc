//! What the log says about one request: [`Entry`].

use std::{sync::Arc, time::Duration};

use super::Fingerprint;
use crate::limiter::Reason;

/// The endpoint of requests without a known route. Routes begin with a slash, so none has this name.
pub const UNMATCHED: &str = "unmatched";

/// What the log says about one request. It contains no text from the caller.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Entry {
    /// When the request arrived, since 1970 UTC.
    pub at: Duration,
    /// The pattern of the route: axum's `MatchedPath`, or else the path of the
    /// [`Matcher`](crate::Matcher) that puts the request into its category, or else [`UNMATCHED`].
    /// It is never the path itself, which may contain personal data.
    pub endpoint: Arc<str>,
    /// One of the methods of RFC 9110 and RFC 5789, or `_OTHER`.
    pub method: &'static str,
    /// The status of the response; `None` where there was no response, because the caller left or the
    /// service failed.
    pub status: Option<u16>,
    /// The time from the arrival to the head of the response, including the time held. Without a
    /// response, the time until the caller left or the service failed.
    pub response_time: Duration,
    /// The policy that refused, or else the policy that the headers show.
    pub policy: Option<Arc<str>>,
    /// What was decided.
    pub verdict: LoggedVerdict,
    /// The units that the request used of that policy, once the response had settled them.
    pub units: u64,
    /// How long the request was held.
    pub held: Duration,
    /// The key of the caller.
    pub key: Option<LoggedKey>,
}

/// A key as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoggedKey {
    /// Identifies the key: entries of one key have the same fingerprint.
    pub fingerprint: Fingerprint,
    /// Shows the owner which key it is, without disclosing it: at most 64 characters.
    pub label: Arc<str>,
}

impl LoggedKey {
    pub(crate) fn new(fingerprint: Fingerprint, label: Arc<str>) -> Self {
        Self { fingerprint, label }
    }
}

/// What was decided about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LoggedVerdict {
    /// It passed.
    Allowed,
    /// It was refused.
    Refused(Reason),
    /// The caller left while it was held.
    Undecided,
}

impl LoggedVerdict {
    const ALL: [Self; 11] = [
        Self::Allowed,
        Self::Refused(Reason::QuotaExceeded),
        Self::Refused(Reason::CostExceedsQuota),
        Self::Refused(Reason::NoQuota),
        Self::Refused(Reason::MissingKey),
        Self::Refused(Reason::UnreadableKey),
        Self::Refused(Reason::StoreUnavailable),
        Self::Refused(Reason::SourceUnavailable),
        Self::Refused(Reason::Blocked),
        Self::Refused(Reason::Penalty),
        Self::Undecided,
    ];

    /// The name in logs: `allowed`, `undecided`, or the reason: `quota_exceeded`,
    /// `cost_exceeds_quota`, `no_quota`, `missing_key`, `unreadable_key`, `store_unavailable`,
    /// `source_unavailable`, `blocked`, `penalty`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Refused(Reason::QuotaExceeded) => "quota_exceeded",
            Self::Refused(Reason::CostExceedsQuota) => "cost_exceeds_quota",
            Self::Refused(Reason::NoQuota) => "no_quota",
            Self::Refused(Reason::MissingKey) => "missing_key",
            Self::Refused(Reason::UnreadableKey) => "unreadable_key",
            Self::Refused(Reason::StoreUnavailable) => "store_unavailable",
            Self::Refused(Reason::SourceUnavailable) => "source_unavailable",
            Self::Refused(Reason::Blocked) => "blocked",
            Self::Refused(Reason::Penalty) => "penalty",
            Self::Undecided => "undecided",
        }
    }

    /// The verdict with this [name](Self::as_str).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verdict| verdict.as_str() == name)
    }

    pub(crate) const fn is_refused(self) -> bool {
        matches!(self, Self::Refused(_))
    }
}

/// A time in milliseconds, without digits beyond nanoseconds.
#[cfg(any(feature = "axum", feature = "tracing"))]
pub(crate) fn millis(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e6
}

/// The name of a known method. Callers may invent others, of any length: these become `_OTHER`.
pub(crate) fn method_name(method: &str) -> &'static str {
    const NAMES: [&str; 9] =
        ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE"];
    NAMES.into_iter().find(|name| *name == method).unwrap_or("_OTHER")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A request of `key` that was answered in the first minute of 1970.
    pub(crate) fn entry(key: u128) -> Entry {
        Entry {
            at: Duration::ZERO,
            endpoint: "/things/{id}".into(),
            method: "GET",
            status: Some(200),
            response_time: Duration::from_millis(5),
            policy: Some("read".into()),
            verdict: LoggedVerdict::Allowed,
            units: 1,
            held: Duration::ZERO,
            key: Some(LoggedKey::new(Fingerprint(key), "pk_…0001".into())),
        }
    }

    #[test]
    fn names_of_verdicts_are_read_back() {
        for verdict in LoggedVerdict::ALL {
            assert_eq!(LoggedVerdict::from_name(verdict.as_str()), Some(verdict));
        }
        assert_eq!(LoggedVerdict::from_name("else"), None);
    }

    #[test]
    fn a_caller_who_left_while_it_was_held_was_not_refused() {
        let passed = LoggedVerdict::ALL.into_iter().filter(|verdict| !verdict.is_refused());
        assert!(passed.eq([LoggedVerdict::Allowed, LoggedVerdict::Undecided]));
    }

    #[cfg(any(feature = "axum", feature = "tracing"))]
    #[test]
    fn a_time_in_milliseconds_has_no_more_digits_than_nanoseconds_are() {
        for nanos in 0..2_000_000 {
            let text = millis(Duration::from_nanos(nanos)).to_string();
            assert!(text.len() <= "1.123456".len(), "{text}");
        }
    }

    #[test]
    fn methods_of_a_callers_own_invention_have_one_name() {
        assert_eq!(method_name("PATCH"), "PATCH");
        assert_eq!(method_name("patch"), "_OTHER");
        assert_eq!(method_name("<SCRIPT>"), "_OTHER");
    }
}
