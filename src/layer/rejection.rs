//! The typed reason of a refusal, and its default response: [`Rejection`].

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

use std::{cmp::Reverse, fmt, iter, ptr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};
use smallvec::SmallVec;

use crate::{
    layer::headers::{number, whole_seconds},
    layer::response::object::Object,
    limiter::{Decision, Outcome, Reason},
    quota::Quota,
};

/// Why a request was refused, for whoever writes the response.
///
/// [`RateLimitLayerBuilder::on_rejection`](crate::RateLimitLayerBuilder::on_rejection) takes a
/// closure that turns it into the house's own response; [`to_response`](Self::to_response) is the default.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota, Rejection};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .direct(Policy::sliding_window("delivery", Quota::per_hour(1)))
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
    reason: Reason,
    decision: Decision,
    /// Of the outcome that is told of.
    place: usize,
    origin: Origin,
    request_id: Option<HeaderValue>,
}

/// What answers the request with the rejection.
#[derive(Clone, Copy, Debug)]
enum Origin {
    /// A layer, which adds this many headers.
    Layer { headers: usize },
    /// A handler, so the response needs `Retry-After` of its own.
    Handler,
}

/// Marks a refusal, for the layers outside.
#[derive(Clone)]
pub(crate) struct Refused;

/// The decision of a handler's refusal, whose numbers the layer outside writes instead of its own.
#[derive(Clone)]
pub(crate) struct RefusedByHandler(pub(crate) Decision);

impl Rejection {
    /// Why the decision refuses; `None` when it does not. Of several policies that refuse, it is
    /// the one with the longest wait.
    ///
    /// It is for a handler that asks by itself ([`Limiter::check`](crate::Limiter::check)): its
    /// response has `Retry-After` and `Cache-Control: no-store`, and a
    /// [`RateLimitLayer`](crate::RateLimitLayer) around writes its quota headers, in the layer's
    /// styles, instead of numbers of the layer's own policies. The handler renders the body; the
    /// layer's `on_rejection` is not called, so give both the same format.
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
        decision.reason().and_then(|_| Self::new(decision.clone(), Origin::Handler, None))
    }

    /// A layer's rejection, without a copy of the decision.
    pub(crate) fn of_layer(
        decision: Decision,
        headers: usize,
        request_id: Option<HeaderValue>,
    ) -> Option<Self> {
        Self::new(decision, Origin::Layer { headers }, request_id)
    }

    fn new(decision: Decision, origin: Origin, request_id: Option<HeaderValue>) -> Option<Self> {
        let reason = decision.reason()?;
        let tightest = decision.tightest()?;
        let place = decision.outcomes().iter().position(|outcome| ptr::eq(outcome, tightest))?;
        Some(Self { reason, decision, place, origin, request_id })
    }

    pub(crate) fn decision(&self) -> &Decision {
        &self.decision
    }

    #[expect(clippy::indexing_slicing, reason = "it was made with the place of an outcome")]
    fn outcome(&self) -> &Outcome {
        &self.decision.outcomes()[self.place]
    }

    /// Why it was refused.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The name of the policy that refused.
    #[must_use]
    pub fn policy(&self) -> &str {
        self.outcome().policy()
    }

    /// What kind of key it counts by: `ip`, `x-api-key`.
    #[must_use]
    pub fn key_kind(&self) -> &str {
        self.outcome().key_kind()
    }

    /// The quota that held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.outcome().quota()
    }

    /// The most that `remaining` can be.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.outcome().limit()
    }

    /// The units left: more than none when the request costs more than those.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.outcome().remaining()
    }

    /// What each policy says that refuses, the longest wait first: this rejection tells of the
    /// first of them.
    pub fn refusing(&self) -> impl Iterator<Item = &Outcome> {
        let first = self.outcome();
        let refuses_too = |other: &&Outcome| !other.is_allowed() && !ptr::eq(*other, first);
        let mut others: SmallVec<[&Outcome; 4]> =
            self.decision.outcomes().iter().filter(refuses_too).collect();
        others.sort_by_key(|other| Reverse(other.wait_or_never()));
        iter::once(first).chain(others)
    }

    /// How long until `remaining` grows.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.outcome().reset()
    }

    /// When `remaining` grows, since 1970 UTC.
    #[must_use]
    pub fn resets_at(&self) -> Duration {
        self.decided_at().saturating_add(self.reset())
    }

    /// What a reset in Unix seconds says ([`ResetFormat::UnixSeconds`](crate::ResetFormat)): rounded
    /// up, so that a body tells the same moment as the header.
    #[must_use]
    pub fn resets_at_seconds(&self) -> u64 {
        whole_seconds(self.resets_at())
    }

    /// How long until the same request would pass; `None` when waiting does not help. One second when
    /// the store does not answer.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.outcome().retry_after()
    }

    /// What the header `Retry-After` says (RFC 9110, section 10.2.3): whole seconds, rounded up,
    /// at least 1.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after().map(|wait| whole_seconds(wait).max(1))
    }

    /// When it was refused, since 1970 UTC.
    #[must_use]
    pub fn decided_at(&self) -> Duration {
        self.decision.decided_at()
    }

    /// The request's `X-Request-Id`, if it had one that is text.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// 429 Too Many Requests (RFC 6585, section 4); 400 Bad Request when the key is missing; the
    /// extractor's status, 400 mostly, when the key is unreadable; 503 Service Unavailable
    /// (RFC 9110, section 15.6.4) when the store does not answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.reason {
            Reason::QuotaExceeded
            | Reason::CostExceedsQuota
            | Reason::NoQuota
            | Reason::Blocked => StatusCode::TOO_MANY_REQUESTS,
            Reason::MissingKey => StatusCode::BAD_REQUEST,
            Reason::UnreadableKey => self.outcome().unreadable_status(),
            Reason::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The default response: JSON that tells policy, quota and when to come back.
    #[must_use]
    pub fn to_response(&self) -> Response<Bytes> {
        let error = match self.reason {
            Reason::QuotaExceeded => "rate_limit_exceeded",
            Reason::CostExceedsQuota => "cost_exceeds_quota",
            Reason::NoQuota => "no_quota",
            Reason::MissingKey => "missing_key",
            Reason::UnreadableKey => "unreadable_key",
            Reason::StoreUnavailable => "rate_limit_unavailable",
            Reason::Blocked => "blocked",
        };
        let mut body = Object::new();
        body.text("error", error);
        body.text_by("message", |to| self.push_text(to));
        body.text("policy", self.policy());
        if self.reason.is_counted() {
            body.number("limit", self.limit());
            body.number("remaining", self.remaining());
        }
        if let Some(seconds) = self.retry_after_seconds() {
            body.number("retry_after", seconds);
        }
        if let Some(id) = self.request_id() {
            body.text("request_id", id);
        }
        self.respond("application/json", body.end())
    }

    /// The response with a body of this type, and with room for the headers that are to come.
    pub(crate) fn respond(
        &self,
        content_type: &'static str,
        body: impl Into<Bytes>,
    ) -> Response<Bytes> {
        let mut response = Response::new(body.into());
        *response.status_mut() = self.status();
        match self.origin {
            Origin::Layer { headers } => response.headers_mut().reserve(headers),
            Origin::Handler => self.mark(&mut response),
        }
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        response
    }

    /// Marks the response as a refusal, for the layer outside and for caches.
    #[cold]
    fn mark(&self, response: &mut Response<Bytes>) {
        self.write_retry_after(response.headers_mut());
        response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
        response.extensions_mut().insert(Refused);
        response.extensions_mut().insert(RefusedByHandler(self.decision.clone()));
    }

    pub(crate) fn write_retry_after(&self, headers: &mut HeaderMap) {
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, number::of(seconds));
        }
    }
}

/// A cache must not answer the next caller with this one's refusal (RFC 9111, section 5.2.2.5).
pub(crate) const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// Of a body or a message in bytes: enough not to grow while it is written.
pub(crate) const USUAL_LENGTH: usize = 256;

impl Rejection {
    /// What it is displayed as.
    pub(crate) fn text(&self) -> String {
        let mut text = String::with_capacity(USUAL_LENGTH);
        self.push_text(&mut text);
        text
    }

    /// Adds what it is displayed as.
    pub(crate) fn push_text(&self, to: &mut String) {
        // A string takes all.
        let _ = self.write_text(to);
    }

    // Part by part, as the most frequent of the sentences before it: format strings take several
    // times as long.
    fn write_text(&self, to: &mut impl fmt::Write) -> fmt::Result {
        Complaint(self.outcome()).write_text(to)?;
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

/// Why a policy refuses, in a sentence; empty where it does not.
pub(crate) struct Complaint<'a>(pub(crate) &'a Outcome);

impl Complaint<'_> {
    fn write_text(&self, to: &mut impl fmt::Write) -> fmt::Result {
        let (policy, quota) = (self.0.policy(), self.0.quota());
        match self.0.refused {
            None => Ok(()),
            Some(Reason::QuotaExceeded) if self.0.lacks_some() => {
                let (cost, left) = (self.0.charge.cost, self.0.remaining());
                write!(
                    to,
                    "The request costs {cost} units, and policy `{policy}` ({quota:?}) has {left} left."
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
                write!(
                    to,
                    "Policy `{policy}` counts by {}, which the request does not tell.",
                    self.0.key_kind()
                )
            }
            Some(Reason::UnreadableKey) => {
                let how = match self.0.unreadable_status() {
                    StatusCode::REQUEST_TIMEOUT => "the body that has it takes too long",
                    StatusCode::PAYLOAD_TOO_LARGE => "the body that has it is too large",
                    StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                        "the body that has it is of another type or encoding"
                    }
                    _ => "the request has it twice, or is malformed",
                };
                let kind = self.0.key_kind();
                write!(to, "Policy `{policy}` counts by {kind}, which cannot be read: {how}.")
            }
            Some(Reason::Blocked) => to.write_str("An operator has blocked the key."),
            Some(Reason::StoreUnavailable) => {
                write!(to, "Quota of policy `{policy}` cannot be told at the moment.")
            }
        }
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

/// Turns a rejection into the house's own response.
pub(crate) type Renderer = Arc<dyn Fn(&Rejection) -> Response<Bytes> + Send + Sync>;
