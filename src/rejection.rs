//! The typed reason of a refusal, and its default response: [`Rejection`].

use std::{cmp::Reverse, fmt, ptr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header::CONTENT_TYPE};
use serde::{Serialize, Serializer};
use smallvec::SmallVec;

use crate::{
    decision::{Decision, Outcome, Reason},
    headers::whole_seconds,
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
    outcome: Outcome,
    /// What else refuses.
    others: SmallVec<[Outcome; 1]>,
    decided_at: Duration,
    request_id: Option<HeaderValue>,
}

impl Rejection {
    /// Why the decision refuses; `None` when it does not. Of several policies that refuse, it is
    /// the one with the longest wait.
    #[must_use]
    pub fn of(decision: &Decision) -> Option<Self> {
        let reason = decision.reason()?;
        let outcome = decision.tightest()?;
        let refuses_too = |other: &&Outcome| !other.is_allowed() && !ptr::eq(*other, outcome);
        let mut others: SmallVec<[Outcome; 1]> =
            decision.outcomes().iter().filter(refuses_too).cloned().collect();
        others.sort_by_key(|other| Reverse(other.wait_or_never()));
        Some(Self {
            reason,
            outcome: outcome.clone(),
            others,
            decided_at: decision.decided_at(),
            request_id: None,
        })
    }

    pub(crate) fn with_request_id(self, request_id: Option<HeaderValue>) -> Self {
        Self { request_id, ..self }
    }

    /// Why it was refused.
    #[must_use]
    pub fn reason(&self) -> Reason {
        self.reason
    }

    /// The name of the policy that refused.
    #[must_use]
    pub fn policy(&self) -> &str {
        self.outcome.policy()
    }

    /// What kind of key it counts by: `ip`, `x-api-key`.
    #[must_use]
    pub fn key_kind(&self) -> &str {
        self.outcome.key_kind()
    }

    /// The quota that held.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.outcome.quota()
    }

    /// The most that `remaining` can be.
    #[must_use]
    pub fn limit(&self) -> u64 {
        self.outcome.limit()
    }

    /// The units left: more than none when the request costs more than those.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        self.outcome.remaining()
    }

    /// What each policy says that refuses, the longest wait first: this rejection tells of the
    /// first of them.
    pub fn refusing(&self) -> impl Iterator<Item = &Outcome> {
        std::iter::once(&self.outcome).chain(&self.others)
    }

    /// How long until `remaining` grows.
    #[must_use]
    pub fn reset(&self) -> Duration {
        self.outcome.reset()
    }

    /// When `remaining` grows, since 1970 UTC.
    #[must_use]
    pub fn resets_at(&self) -> Duration {
        self.decided_at.saturating_add(self.reset())
    }

    /// What a reset in Unix seconds says ([`ResetFormat::UnixSeconds`](crate::ResetFormat)): rounded
    /// up, so that a body tells the same moment as the header.
    #[must_use]
    pub fn resets_at_seconds(&self) -> u64 {
        whole_seconds(self.resets_at())
    }

    /// How long until the same request would pass; `None` when waiting does not help.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.outcome.retry_after()
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
        self.decided_at
    }

    /// The request's `X-Request-Id`, if it had one that is text.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_ref()?.to_str().ok()
    }

    /// 429 Too Many Requests (RFC 6585, section 4); 400 Bad Request when the key is missing; 503
    /// Service Unavailable when the store does not answer.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        match self.reason {
            Reason::QuotaExceeded | Reason::CostExceedsQuota => StatusCode::TOO_MANY_REQUESTS,
            Reason::MissingKey => StatusCode::BAD_REQUEST,
            Reason::StoreUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The default response: JSON that tells policy, quota and when to come back.
    #[must_use]
    pub fn to_response(&self) -> Response<Bytes> {
        let error = match self.reason {
            Reason::QuotaExceeded => "rate_limit_exceeded",
            Reason::CostExceedsQuota => "cost_exceeds_quota",
            Reason::MissingKey => "missing_key",
            Reason::StoreUnavailable => "rate_limit_unavailable",
        };
        let counted = self.reason.is_counted();
        let body = Body {
            error,
            message: self,
            policy: self.policy(),
            limit: counted.then(|| self.limit()),
            remaining: counted.then(|| self.remaining()),
            retry_after: self.retry_after_seconds(),
            request_id: self.request_id(),
        };
        let mut json = Vec::with_capacity(USUAL_LENGTH);
        // Strings and numbers only, into memory: this cannot fail.
        let _ = serde_json::to_writer(&mut json, &body);
        respond(self.status(), "application/json", json)
    }
}

/// Of a body in bytes: enough not to grow while it is written.
const USUAL_LENGTH: usize = 256;

/// A response with a body of this type.
pub(crate) fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[derive(Serialize)]
struct Body<'a> {
    error: &'static str,
    #[serde(serialize_with = "as_text")]
    message: &'a Rejection,
    policy: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remaining: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

fn as_text<S: Serializer>(rejection: &Rejection, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(rejection)
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Complaint(&self.outcome).fmt(f)?;
        match self.retry_after_seconds() {
            Some(1) => f.write_str(" Retry after 1 second."),
            Some(seconds) => write!(f, " Retry after {seconds} seconds."),
            None => Ok(()),
        }
    }
}

/// Why a policy refuses, in a sentence; empty where it does not.
pub(crate) struct Complaint<'a>(pub(crate) &'a Outcome);

impl fmt::Display for Complaint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (policy, quota) = (self.0.policy(), self.0.quota());
        match self.0.refused {
            None => Ok(()),
            Some(Reason::QuotaExceeded) => {
                write!(f, "Quota of policy `{policy}` is used up ({quota:?}).")
            }
            Some(Reason::CostExceedsQuota) => {
                write!(
                    f,
                    "The request costs more than the whole quota of policy `{policy}` ({quota:?})."
                )
            }
            Some(Reason::MissingKey) => {
                write!(
                    f,
                    "Policy `{policy}` counts by {}, which the request does not tell.",
                    self.0.key_kind()
                )
            }
            Some(Reason::StoreUnavailable) => {
                write!(f, "Quota of policy `{policy}` cannot be told at the moment.")
            }
        }
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
