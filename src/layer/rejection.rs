//! The typed reason of a refusal, and its default response: [`Rejection`].

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use super::{
    headers::{number, whole_seconds},
    response::default_body,
};
use crate::{
    limiter::{Decision, Outcome, Reason, Verdict, error_status},
    penalty::Counted,
};

/// A refused request: the reason, and the numbers for the response.
///
/// [`RateLimitLayerBuilder::on_rejection`](crate::RateLimitLayerBuilder::on_rejection) takes a
/// closure that turns it into a response; [`to_response`](Self::to_response) is the default.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota, Rejection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .check_only(Policy::sliding_window("delivery", Quota::per_hour(1)))
///     .build()?;
/// limiter.check("delivery", "key").await?;
/// let refused = limiter.check("delivery", "key").await?;
/// let rejection = Rejection::of(&refused).expect("the second is one too many");
/// assert_eq!(rejection.to_string(), "Quota of policy `delivery` is used up (1 per 3600s). Retry after 3600 seconds.");
/// assert_eq!(rejection.to_response().status(), 429);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Rejection {
    pub(super) reason: Reason,
    pub(super) decision: Decision,
    /// How many headers the layer adds. `None` in a handler, whose response needs a `Retry-After` of
    /// its own.
    pub(super) layer_headers: Option<usize>,
    pub(super) request_id: Option<HeaderValue>,
}

/// A cache must not answer the next caller with this one's refusal (RFC 9111, section 5.2.2.5).
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Marks a response as a refusal, for outer layers.
#[derive(Clone)]
pub(crate) struct Refused;

/// The decision of a handler's refusal. The outer layer writes its numbers, and not its own
/// decision's.
#[derive(Clone)]
pub(crate) struct RefusedByHandler(pub(crate) Decision);

impl Rejection {
    /// The rejection of a refused decision; `None` if the decision lets the request pass. If
    /// several policies refuse, it is about the one with the longest wait.
    ///
    /// Use it in a handler that calls [`Limiter::check`](crate::Limiter::check). The response has
    /// `Retry-After` and `Cache-Control: no-store`. A [`RateLimitLayer`](crate::RateLimitLayer)
    /// around the handler adds its styles of quota headers, with the numbers of this decision. It
    /// does not call its `on_rejection`, so use the same format for both.
    ///
    /// ```
    /// use axum::{body::Body, http::StatusCode, response::{IntoResponse, Response}};
    /// use tower_quota::{Limiter, Rejection, response::Problem};
    ///
    /// // The layer has `.on_rejection(refusals().renderer())`.
    /// fn refusals() -> Problem {
    ///     Problem::quota_exceeded()
    /// }
    ///
    /// async fn enrich(limiter: Limiter, tenant: &str) -> Response {
    ///     let Ok(decision) = limiter.check("enrich", tenant).cost(30).await else {
    ///         return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    ///     };
    ///     match Rejection::of(&decision) {
    ///         Some(rejection) => refusals().respond(&rejection).map(Body::from),
    ///         None => "enriched".into_response(),
    ///     }
    /// }
    /// # let _ = enrich;
    /// ```
    #[must_use]
    pub fn of(decision: &Decision) -> Option<Self> {
        let (reason, decision) = (decision.reason()?, decision.clone());
        Some(Self { reason, decision, layer_headers: None, request_id: None })
    }

    /// The decision that refuses the request.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// The outcome of the policy that refuses the request; if several do, of the one with the
    /// longest wait. `None` if no policy refuses: the caller is blocked, or it
    /// cannot be read while some callers have overrides.
    #[must_use]
    pub fn outcome(&self) -> Option<Outcome<'_>> {
        match self.decision.verdict() {
            Verdict::Refused(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// The name of the policy that refuses the request; empty if there is no
    /// [`outcome`](Self::outcome).
    #[must_use]
    pub fn policy(&self) -> &str {
        self.outcome().map_or("", |outcome| outcome.policy())
    }

    /// Why the request was refused.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The outcomes of all policies that refuse, the longest wait first. The first is
    /// [`outcome`](Self::outcome).
    pub fn refusing(&self) -> impl Iterator<Item = Outcome<'_>> {
        self.decision.refusing()
    }

    /// When more units come back, or an operator's block ends: seconds since 1970 UTC, rounded up.
    /// Headers with a reset in [Unix seconds](crate::ResetFormat::UnixSeconds) have the same
    /// number.
    #[must_use]
    pub fn resets_at_seconds(&self) -> u64 {
        let reset = match self.decision.verdict() {
            Verdict::Blocked { wait } => wait,
            _ => self.outcome().map_or(Duration::ZERO, |outcome| outcome.reset()),
        };
        whole_seconds(self.decision.decided_at().saturating_add(reset))
    }

    /// When the block of a [penalty](crate::Penalty) ends: seconds since 1970 UTC, rounded up. `None`
    /// if the [reason](Self::reason) is another one.
    #[must_use]
    pub fn blocked_until_seconds(&self) -> Option<u64> {
        let block = self.outcome()?.blocked_for().filter(|_| self.reason == Reason::Penalty)?;
        Some(whole_seconds(self.decision.decided_at().saturating_add(block)))
    }

    /// How long to wait until the same request passes; `None` if waiting does not help. One second
    /// if the store does not answer.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.decision.retry_after()
    }

    /// The value of the header `Retry-After` (RFC 9110, section 10.2.3), at least 1: whole seconds,
    /// rounded up. `None` if waiting does not help.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after().map(|wait| whole_seconds(wait).max(1))
    }

    pub(super) fn write_retry_after(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, number::value(seconds));
        }
    }

    /// The request's `X-Request-Id`. `None` if there is none, if it is not text, and in a rejection
    /// from [`of`](Self::of).
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// The HTTP status of the response:
    ///
    /// - 429 Too Many Requests (RFC 6585, section 4) in general;
    /// - 400 Bad Request if the key is missing;
    /// - the extractor's status, mostly 400, if the key cannot be read; 503 if its
    ///   [look-up](crate::LookUpLayer) has failed;
    /// - 503 Service Unavailable (RFC 9110, section 15.6.4) if the store does not answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.reason {
            Reason::QuotaExceeded
            | Reason::CostExceedsQuota
            | Reason::NoQuota
            | Reason::Blocked
            | Reason::Penalty => StatusCode::TOO_MANY_REQUESTS,
            Reason::MissingKey => StatusCode::BAD_REQUEST,
            Reason::UnreadableKey => match self.decision.verdict() {
                Verdict::UnreadableCaller { status } => status,
                Verdict::Refused(outcome) => error_status(outcome.entry.unreadable),
                _ => StatusCode::BAD_REQUEST,
            },
            Reason::StoreUnavailable | Reason::SourceUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The default response: a JSON object with `error`, a code such as `rate_limit_exceeded`, and
    /// `message`. It also has `policy`, `limit`, `remaining`, `retry_after` (in seconds) and
    /// `request_id`, as far as they are known; and `until` if the key is blocked by a
    /// [penalty](crate::Penalty): the Unix time in seconds at which the block ends.
    #[must_use]
    pub fn to_response(&self) -> Response<Bytes> {
        self.respond("application/json", default_body(self))
    }

    /// The default response with all of these headers.
    pub(super) fn with_headers(&self, headers: HeaderMap) -> Response<Bytes> {
        let mut response = Response::new(default_body(self));
        *response.status_mut() = self.status();
        *response.headers_mut() = headers;
        response
    }

    /// The response with a body of this type, and with room for the headers that the layer adds.
    pub(crate) fn respond(
        &self,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status();
        match self.layer_headers {
            Some(headers) => response.headers_mut().reserve(headers),
            None => self.mark(&mut response),
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// Marks the response as a refusal, for outer layers and for caches.
    #[cold]
    fn mark(&self, response: &mut Response<Bytes>) {
        self.write_retry_after(response.headers_mut());
        response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        response.extensions_mut().insert(Refused);
        response.extensions_mut().insert(RefusedByHandler(self.decision.clone()));
    }

    /// Appends the message.
    pub(crate) fn push_text(&self, to: &mut String) {
        // Writing into a string does not fail.
        let _ = self.write_text(to);
    }

    // Written part by part, like the most frequent sentence of `Complaint`: format strings take
    // several times as long.
    fn write_text(&self, to: &mut impl fmt::Write) -> fmt::Result {
        match self.decision.verdict() {
            Verdict::Admitted => {}
            Verdict::Refused(outcome) => Complaint(outcome).write_text(to)?,
            Verdict::Blocked { .. } => to.write_str("The key is blocked.")?,
            Verdict::SourceUnavailable => {
                to.write_str("The source of the key's quotas does not answer.")?
            }
            Verdict::UnreadableCaller { status } => {
                write!(to, "The caller's key cannot be read: {}.", why_unreadable(status))?;
            }
        }
        match self.retry_after_seconds() {
            Some(1) => to.write_str(" Retry after 1 second."),
            Some(seconds) => {
                to.write_str(" Retry after ")?;
                to.write_str(itoa::Buffer::new().format(seconds))?;
                to.write_str(" seconds.")
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }
}

/// The sentence that says why a policy refuses; empty if it does not.
pub(crate) struct Complaint<'a>(pub(crate) Outcome<'a>);

impl Complaint<'_> {
    /// Whether too few units are left for any such request, which most refusals say.
    pub(super) fn is_used_up(&self) -> bool {
        self.0.reason() == Some(Reason::QuotaExceeded)
            && !(1..self.0.cost()).contains(&self.0.remaining())
    }

    pub(super) fn push_text(&self, to: &mut String) {
        // Writing into a string does not fail.
        let _ = self.write_text(to);
    }

    fn write_text(&self, to: &mut impl fmt::Write) -> fmt::Result {
        let (policy, quota, kind) = (self.0.policy(), self.0.quota(), self.0.key_kind());
        match self.0.reason() {
            None | Some(Reason::Blocked | Reason::SourceUnavailable) => Ok(()),
            Some(Reason::Penalty) => {
                let penalty = self.0.entry.labels.penalty.as_ref();
                let fails = penalty.is_some_and(|penalty| penalty.counts(Counted::Failures));
                let what = if fails { "failed" } else { "was refused" };
                write!(to, "Policy `{policy}` blocks the key for a time, as it {what} too often.")
            }
            // Some units are left, but fewer than the request costs.
            Some(Reason::QuotaExceeded) if !self.is_used_up() => {
                let (cost, left) = (self.0.cost(), self.0.remaining());
                let unit = self.0.entry.labels.unit.as_deref().unwrap_or("units");
                write!(
                    to,
                    "The request costs {cost} {unit}, and policy `{policy}` ({quota:?}) has {left} left."
                )
            }
            Some(Reason::QuotaExceeded) => {
                to.write_str("Quota of policy `")?;
                to.write_str(policy)?;
                to.write_str("` is used up (")?;
                quota.write(to)?;
                to.write_str(").")
            }
            Some(Reason::CostExceedsQuota) => {
                write!(
                    to,
                    "The request costs more than the whole quota of policy `{policy}` ({quota:?})."
                )
            }
            Some(Reason::NoQuota) => {
                write!(to, "Policy `{policy}` gives the plan of this request no units.")
            }
            Some(Reason::MissingKey) => {
                write!(to, "Policy `{policy}` counts by {kind}, which the request does not tell.")
            }
            Some(Reason::UnreadableKey) => {
                let how = why_unreadable(error_status(self.0.entry.unreadable));
                write!(to, "Policy `{policy}` counts by {kind}, which cannot be read: {how}.")
            }
            Some(Reason::StoreUnavailable) => {
                write!(to, "Quota of policy `{policy}` cannot be told at the moment.")
            }
        }
    }
}

fn why_unreadable(status: StatusCode) -> &'static str {
    match status {
        StatusCode::REQUEST_TIMEOUT => "the body that has it takes too long",
        StatusCode::PAYLOAD_TOO_LARGE => "the body that has it is too large",
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "the body that has it is of another type or encoding",
        StatusCode::SERVICE_UNAVAILABLE => "its look-up has failed",
        _ => "the request has it twice, or is malformed",
    }
}

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_text(f)
    }
}

impl std::error::Error for Rejection {}

#[cfg(feature = "axum")]
impl axum::response::IntoResponse for Rejection {
    fn into_response(self) -> axum::response::Response {
        self.to_response().map(axum::body::Body::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Policy, quota::Quota, store::Usage};

    #[test]
    fn waits_are_whole_seconds_and_at_least_one() {
        for (millis, text) in [
            (0, " Retry after 1 second."),
            (1_000, " Retry after 1 second."),
            (1_001, " Retry after 2 seconds."),
        ] {
            let wait = Duration::from_millis(millis);
            let policy = Policy::token_bucket("p", Quota::per_hour(100));
            let (usage, reason) = (Usage::new(wait, 0, wait), Reason::QuotaExceeded);
            let decision = Decision::of([(policy, Some(usage), Some(reason))]);
            let message = Rejection::of(&decision).unwrap().to_string();
            assert!(message.ends_with(text), "{message}");
        }
    }
}
