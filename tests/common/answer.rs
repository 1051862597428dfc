//! A response of an example server, for the tests of their routers.

use std::collections::BTreeMap;

use axum::{body::Body, http::Response};
use http_body_util::BodyExt;
use serde_json::Value;

/// A whole response. A body that is no JSON is a text. Only `content-length` is left out, after it was
/// compared with the body.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Value,
}

/// A JSON response without quota headers.
pub fn answer(status: u16, body: Value) -> Answer {
    let headers = BTreeMap::from([("content-type".to_owned(), "application/json".to_owned())]);
    Answer { status, headers, body }
}

impl Answer {
    pub async fn of(response: Response<Body>) -> Self {
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let mut headers: BTreeMap<_, _> = head
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        assert_eq!(headers.len(), head.headers.len(), "no header is sent twice");
        // A response to HEAD has the length of the body that it leaves out.
        if let Some(length) = headers.remove("content-length").filter(|_| !body.is_empty()) {
            assert_eq!(length, body.len().to_string());
        }
        let body = match &*body {
            [] => Value::Null,
            body => serde_json::from_slice(body)
                .unwrap_or_else(|_| Value::String(String::from_utf8(body.to_vec()).unwrap())),
        };
        Self { status: head.status.as_u16(), headers, body }
    }

    /// With the headers `X-RateLimit-*`.
    pub fn quota(self, limit: u64, remaining: u64, reset: u64) -> Self {
        self.header("x-ratelimit-limit", &limit.to_string())
            .header("x-ratelimit-remaining", &remaining.to_string())
            .header("x-ratelimit-reset", &reset.to_string())
    }

    /// With the headers `RateLimit-*`.
    pub fn ratelimit(self, limit: u64, remaining: u64, reset: u64) -> Self {
        self.header("ratelimit-limit", &limit.to_string())
            .header("ratelimit-remaining", &remaining.to_string())
            .header("ratelimit-reset", &reset.to_string())
    }

    pub fn without_body(self) -> Self {
        Self { body: Value::Null, ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The whole number in a header, or `otherwise` if it is missing, as the page's callers read it.
    pub fn number(&self, header: &str, otherwise: u64) -> u64 {
        self.headers.get(header).map_or(otherwise, |value| value.parse().unwrap())
    }
}
