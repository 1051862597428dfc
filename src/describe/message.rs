//! What responses look like: their headers, and a refusal as an example.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response};
use serde::Serialize;

use crate::limiter::Reason;

/// The headers of responses, and a refusal as an example.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ResponseDescription {
    /// The headers, in the order of the [styles](crate::RateLimitLayerBuilder::headers).
    pub headers: Vec<HeaderDescription>,
    /// The policy that headers with one policy's numbers show while requests pass; `None`: the
    /// [tightest](crate::Decision::tightest).
    pub header_policy: Option<String>,
    /// An example of a refusal; `None` if nothing is ever refused.
    pub refusal: Option<RefusalDescription>,
    /// For OpenAPI, an example of each refusal.
    #[serde(skip)]
    pub(crate) examples: Vec<ExampleRefusal>,
}

/// What a layer answers to a request of this category for this reason.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ExampleRefusal {
    /// `None`: the request is in no category.
    pub(crate) category: Option<String>,
    pub(crate) reason: Reason,
    pub(crate) refusal: RefusalDescription,
}

/// A header and its meaning.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct HeaderDescription {
    /// The name, in lower case.
    pub name: String,
    /// Its meaning, in a sentence.
    pub meaning: String,
}

impl HeaderDescription {
    pub(crate) fn new((name, meaning): (HeaderName, &str)) -> Self {
        Self { name: name.to_string(), meaning: meaning.to_owned() }
    }
}

/// A refusal as a caller gets it: the layer's response when the quota of a policy is used up. The
/// example draws on no caller's quota.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RefusalDescription {
    /// The policy that refuses.
    pub policy: String,
    /// The `X-Request-Id` of the request.
    pub request_id: String,
    /// The HTTP status.
    pub status: u16,
    /// The headers that the layer has written, by names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: String,
}

impl RefusalDescription {
    pub(crate) fn new(policy: &str, request_id: &str, response: Response<Bytes>) -> Self {
        let (head, body) = response.into_parts();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let header =
            |(name, value): (&HeaderName, &HeaderValue)| (name.to_string(), text(value.as_bytes()));
        Self {
            policy: policy.to_owned(),
            request_id: request_id.to_owned(),
            status: head.status.as_u16(),
            headers: head.headers.iter().map(header).collect(),
            body: text(&body),
        }
    }
}
