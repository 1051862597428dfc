//! The request that an operator wants explained: [`Asked`].

use std::{fmt, net::IpAddr, sync::Arc};

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, request::Parts};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{key::PeerAddr, layer::RateLimitLayer, limiter::Limiter};

/// The most lines of headers.
const MAX_HEADERS: usize = 100;

/// A request as the operator writes it. It may have keys: it is neither kept, nor logged, nor part of
/// any answer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    method: String,
    /// With the query.
    path: String,
    /// Names and values.
    #[serde(default)]
    headers: Vec<(String, String)>,
    /// The address of the peer.
    #[serde(default)]
    peer: Option<IpAddr>,
}

type Complete = dyn Fn(&mut Parts) + Send + Sync;

/// What explains requests: the limiter, or its layer too.
#[derive(Clone)]
pub(super) struct Explainer {
    pub(super) limiter: Limiter,
    pub(super) layer: Option<RateLimitLayer>,
    /// Adds what middlewares leave in a request.
    pub(super) complete: Option<Arc<Complete>>,
}

impl Explainer {
    /// The explanation as text, and as data.
    ///
    /// # Errors
    /// A sentence that says what is wrong with the request, without any of its parts.
    pub(super) async fn explain(&self, asked: Asked) -> Result<Value, String> {
        let mut head = asked.head()?;
        if let Some(complete) = &self.complete {
            complete(&mut head);
        }
        Ok(match &self.layer {
            Some(layer) => {
                let explained = layer.explain(&head).await;
                json!({ "text": explained.to_string(), "explanation": explained })
            }
            None => {
                let explained = self.limiter.explain(&head).await;
                json!({ "text": explained.to_string(), "explanation": explained })
            }
        })
    }

    /// What the settings show that is probably not meant.
    pub(super) fn lints(&self) -> Vec<String> {
        self.limiter.lint().iter().map(ToString::to_string).collect()
    }
}

impl Asked {
    /// Reads a body of JSON.
    ///
    /// # Errors
    /// A sentence that says what is wrong, without any part of the body.
    pub(super) fn parse(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| {
            format!(
                "The body is no object of `method`, `path`, `headers` (pairs of a name and a value) \
                 and `peer` (an address): see line {}, column {}.",
                error.line(),
                error.column()
            )
        })
    }

    fn head(self) -> Result<Parts, String> {
        let method = Method::from_bytes(self.method.as_bytes());
        let method = method.map_err(|_| "The method is one like `GET`.".to_owned())?;
        let head = Some(Request::builder().method(method)).filter(|_| self.path.starts_with('/'));
        let head = head.and_then(|head| head.uri(self.path).body(()).ok());
        let head = head.ok_or("The path is one like `/v1/users/7?page=2`, percent-encoded.")?;
        let mut head = head.into_parts().0;
        head.headers = headers(&self.headers)?;
        if let Some(peer) = self.peer {
            head.extensions.insert(PeerAddr((peer, 0).into()));
        }
        Ok(head)
    }
}

fn headers(lines: &[(String, String)]) -> Result<HeaderMap, String> {
    if lines.len() > MAX_HEADERS {
        return Err(format!("There are more than {MAX_HEADERS} headers."));
    }
    let mut headers = HeaderMap::new();
    for (index, (name, value)) in (1_usize..).zip(lines) {
        let (name, value) = (HeaderName::try_from(name), HeaderValue::try_from(value));
        let (Ok(name), Ok(mut value)) = (name, value) else {
            return Err(format!("Header {index} is no header; write one like `x-api-key: …`."));
        };
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

impl fmt::Debug for Explainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Explainer")
            .field("limiter", &self.limiter)
            .field("layer", &self.layer)
            .field("complete", &self.complete.is_some())
            .finish()
    }
}
