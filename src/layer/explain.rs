//! What a layer would answer to a request, and why: [`LayerExplanation`].

use std::{collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, request::Parts};
use serde::Serialize;

use super::responder::Responder;
use crate::limiter::{
    Decision,
    explain::{ExpectedVerdict, Explanation, explain},
};

/// What a layer would answer to a request now, and why. From
/// [`RateLimitLayer::explain`](crate::RateLimitLayer::explain).
///
/// It shows no key, as an [`Explanation`] does not; the body of a refusal is what the closure of
/// [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection) writes.
///
/// ```
/// use http::Request;
/// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .policy(Policy::sliding_window("each hour", Quota::per_hour(1)).global())
///     .build()?;
/// let layer = RateLimitLayer::new(limiter.clone());
/// let head = Request::get("/").body(())?.into_parts().0;
/// let passes = layer.explain(&head).await;
/// assert_eq!(passes.response.headers["x-ratelimit-remaining"], "0");
///
/// limiter.decide(&head).await;
/// let refused = layer.explain(&head).await;
/// assert_eq!(refused.response.status, Some(429));
/// assert_eq!(refused.response.headers["retry-after"], "3600");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LayerExplanation {
    /// What the limiter would decide, and why. Its waits are exact: they do not have the extra time of
    /// [`jitter_retry_after`](crate::RateLimitLayerBuilder::jitter_retry_after).
    #[serde(flatten)]
    pub explanation: Explanation,
    /// What the layer would answer, or add to the answer.
    pub response: ExpectedResponse,
}

/// The response in a [`LayerExplanation`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ExpectedResponse {
    /// The status of a refusal. `None` if the request passes, so that the inner service answers.
    pub status: Option<u16>,
    /// The headers of a refusal, or those that the layer would add to the inner service's response. By
    /// names in lower case. Empty if the request would be held, as they are not known before it passes.
    pub headers: BTreeMap<String, String>,
    /// The body of a refusal. The `X-Request-Id` of the request is left out of it.
    pub body: Option<String>,
}

impl LayerExplanation {
    /// What the layer of this responder would answer to a request now.
    pub(super) fn new(
        responder: &Arc<Responder>,
        request: &Parts,
    ) -> impl Future<Output = Self> + Send + use<> {
        let explained = explain(&responder.limiter, request);
        let (responder, request) = (Arc::clone(responder), request.clone());
        async move {
            let (explanation, decision) = explained.await;
            let response = match explanation.verdict {
                ExpectedVerdict::Held { .. } => ExpectedResponse::passed(&HeaderMap::new()),
                _ => ExpectedResponse::new(&responder, &request, decision),
            };
            Self { explanation, response }
        }
    }
}

impl ExpectedResponse {
    fn new(responder: &Responder, request: &Parts, decision: Decision) -> Self {
        match responder.refusal(request, decision, false) {
            Ok(decision) => {
                let mut response = Response::new(());
                responder.write_headers(&mut response, &decision);
                Self::passed(response.headers())
            }
            Err((response, _)) => Self::refused(&response),
        }
    }

    fn passed(headers: &HeaderMap) -> Self {
        Self { status: None, headers: texts(headers), body: None }
    }

    fn refused(response: &Response<Bytes>) -> Self {
        Self {
            status: Some(response.status().as_u16()),
            headers: texts(response.headers()),
            body: Some(String::from_utf8_lossy(response.body()).into_owned()),
        }
    }
}

fn texts(headers: &HeaderMap) -> BTreeMap<String, String> {
    let text = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    headers.iter().map(text).collect()
}

/// Several lines of plain text, for a terminal: the explanation, and then the response.
impl fmt::Display for LayerExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ExpectedResponse { status, headers, body } = &self.response;
        write!(f, "{}", self.explanation)?;
        match status {
            Some(status) => writeln!(f, "\nThe response: {status}")?,
            None if headers.is_empty() => {}
            None => f.write_str("\nThe layer adds to the response:\n")?,
        }
        for (name, value) in headers {
            writeln!(f, "  {name}: {value}")?;
        }
        match body {
            Some(body) => writeln!(f, "\n{body}"),
            None => Ok(()),
        }
    }
}
