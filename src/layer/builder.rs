//! The settings of a layer: [`RateLimitLayerBuilder`].

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{Response, request::Parts};
use http_body::Body;

use super::{
    HeaderStyle, RateLimitLayer, Rejection, ResponseObserver, jitter::Jitter, responder::Responder,
    responders::Responders,
};
use crate::{
    error::BuildError,
    warning::{Code, warn},
};
#[cfg(feature = "config")]
use crate::{error::BuildProblem, policy::Policy};

/// The settings of a [`RateLimitLayer`], from [`RateLimitLayer::builder`].
///
/// ```
/// use tower_quota::{HeaderStyle, Limiter, Policy, Quota, RateLimitLayer};
///
/// let hourly = Policy::sliding_window("hourly", Quota::per_hour(1_000)).global();
/// let burst = Policy::sliding_window("burst", Quota::per_minute(100)).global();
/// let limiter = Limiter::builder().policy(hourly).policy(burst).build()?;
/// let layer = RateLimitLayer::builder(limiter)
///     .headers([HeaderStyle::x_ratelimit()])
///     .header_policy("hourly")
///     .retry_after(false)
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Debug)]
#[must_use]
pub struct RateLimitLayerBuilder {
    pub(super) responder: Responder,
}

impl RateLimitLayerBuilder {
    /// Sets the styles of quota headers; an empty list means no headers. Default:
    /// [`HeaderStyle::x_ratelimit`]. Every response to a counted request has them.
    ///
    /// An inner layer or the handler may have written the same headers. Then:
    ///
    /// - Headers with room for one policy show the one with the smaller share left (`remaining` of
    ///   `limit`), with all of its numbers.
    /// - Lists contain the policies of both layers. So give nested layers the same styles.
    /// - The refusal of an inner layer stays as it is.
    /// - A [`Rejection`] from the handler gets the quota headers of its own decision.
    pub fn headers(mut self, styles: impl IntoIterator<Item = HeaderStyle>) -> Self {
        self.responder.headers.styles = styles.into_iter().collect();
        self
    }

    /// Sets the policy that headers with room for one policy show, such as `X-RateLimit-*`. They
    /// then replace those of inner layers. Default, and if the policy does not apply to the
    /// request: the [tightest](crate::Decision::tightest). A refusal always shows the policy that
    /// refuses, with the longest wait.
    pub fn header_policy(mut self, name: impl Into<String>) -> Self {
        self.responder.headers.policy = Some(name.into());
        self
    }

    /// Sets whether refusals have `Retry-After` (RFC 9110, section 10.2.3): the seconds after which
    /// the same request would pass, or after which the store may answer again. Default: true.
    pub fn retry_after(mut self, has_header: bool) -> Self {
        self.responder.headers.retry_after = has_header;
        self
    }

    /// Lengthens the wait of each refusal by up to `at_most`, so that callers that are refused
    /// together do not come back together. The extra time depends on the key only: for one key it
    /// is always the same. Default: zero, for exact waits. More than a day is an error of
    /// [`build`](Self::build).
    ///
    /// The extra time is part of `Retry-After`, the body and gRPC's retry delay; resets stay exact.
    /// Under a [global](crate::Policy::global) policy, it depends on the request's key under
    /// another policy; if there is none, no time is added.
    pub fn jitter_retry_after(mut self, at_most: Duration) -> Self {
        self.responder.jitter = Jitter(at_most);
        self
    }

    /// Sets the response to a refused request. Default: [`Rejection::to_response`]. The module
    /// [`response`](crate::layer::response) has other formats.
    ///
    /// The layer adds the quota headers, `Retry-After`, and `Cache-Control: no-store` (RFC 9111,
    /// section 5.2.2.5) unless the response has a `Cache-Control`. To an HTTP/1 request with a
    /// body, it also adds `Connection: close` (RFC 9112, section 9.6): it does not read the body,
    /// so the server cannot find the next request behind it.
    ///
    /// ```
    /// use http::Response;
    /// use tower_quota::{Limiter, RateLimitLayer};
    ///
    /// let limiter = Limiter::builder().build()?;
    /// let layer = RateLimitLayer::builder(limiter)
    ///     .on_rejection(|rejection| {
    ///         let mut response = Response::new(format!("slow down: {rejection}"));
    ///         *response.status_mut() = rejection.status();
    ///         response
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn on_rejection<F, B>(mut self, respond: F) -> Self
    where
        F: Fn(&Rejection) -> Response<B> + Send + Sync + 'static,
        B: Into<Bytes>,
    {
        self.responder.render =
            Some(Arc::new(move |_, rejection| respond(rejection).map(Into::into)));
        self
    }

    /// Sets the response as [`on_rejection`](Self::on_rejection) does, by a closure that also sees the
    /// head of the request, and that may return any body, such as axum's. The last one that is set holds.
    ///
    /// The layer sends the body as a whole. So all of it has to be there at once, without trailers, and
    /// no more than a mebibyte; else the response is [`Rejection::to_response`], and the warning
    /// [`refusal_body`](crate::warning#refusal_body) is given once.
    ///
    /// The example of a refusal in `RateLimitLayer::describe` is one of `GET /`.
    ///
    /// ```
    /// use axum::{Json, response::{Html, IntoResponse}};
    /// use http::header::ACCEPT;
    /// use tower_quota::{Limiter, RateLimitLayer};
    ///
    /// let limiter = Limiter::builder().build()?;
    /// let layer = RateLimitLayer::builder(limiter)
    ///     .on_rejection_of(|request, rejection| {
    ///         let accept = request.headers.get(ACCEPT).map_or(&b""[..], |accept| accept.as_bytes());
    ///         if accept.starts_with(b"text/html") {
    ///             return (rejection.status(), Html("<h1>One moment, please</h1>")).into_response();
    ///         }
    ///         let body = serde_json::json!({ "path": request.uri.path(), "why": rejection.to_string() });
    ///         (rejection.status(), Json(body)).into_response()
    ///     })
    ///     .build()?;
    /// # let _ = layer;
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn on_rejection_of<F, B>(mut self, respond: F) -> Self
    where
        F: Fn(&Parts, &Rejection) -> Response<B> + Send + Sync + 'static,
        B: Body<Data = Bytes>,
    {
        self.responder.render = Some(Arc::new(move |request, rejection| {
            let (head, body) = respond(request, rejection).into_parts();
            match whole(body) {
                Some(body) => Response::from_parts(head, body),
                None => {
                    warn_unsent();
                    rejection.to_response()
                }
            }
        }));
        self
    }

    /// Puts the [`Decision`](crate::Decision) into the extensions of requests that pass. In axum,
    /// handlers read it as `Extension<Decision>`. Off by default: it allocates.
    pub fn expose_decision(mut self) -> Self {
        self.responder.expose_decision = true;
        self
    }

    /// Adds an observer of all requests, also of refused and exempt ones. Several observers are
    /// called one after another, in this order. Default: none.
    pub fn observe(mut self, observer: impl ResponseObserver) -> Self {
        let before = self.responder.observer.take();
        self.responder.observer = Some(match before {
            Some(before) => Arc::new([before, Arc::new(observer)]),
            None => Arc::new(observer),
        });
        self
    }

    /// Builds the layer.
    ///
    /// # Errors
    /// Settings that cannot work. The error names each of them, and says what to write instead.
    pub fn build(self) -> Result<RateLimitLayer, BuildError> {
        let responder = Arc::new(self.responder);
        responder.limiter.register_dependent(&responder)?;
        Ok(RateLimitLayer { responders: Responders::new(responder) })
    }

    /// What is wrong with the settings, for a limiter with these policies for requests.
    #[cfg(feature = "config")]
    pub(crate) fn problems<'a>(
        &self,
        policies: impl IntoIterator<Item = &'a Policy>,
    ) -> Vec<BuildProblem> {
        self.responder.all_problems(policies)
    }
}

/// The longest body of a refusal, in bytes.
const MAX_BODY: usize = 1024 * 1024;

/// All of the body; `None` if it is not there at once, fails, has trailers or is too long.
fn whole(body: impl Body<Data = Bytes>) -> Option<Bytes> {
    let mut body = pin!(body);
    let mut context = Context::from_waker(Waker::noop());
    let (mut first, mut all) = (None::<Bytes>, Vec::new());
    loop {
        match body.as_mut().poll_frame(&mut context) {
            Poll::Ready(None) => break,
            Poll::Ready(Some(Ok(frame))) => {
                let data = frame.into_data().ok()?;
                let before = first.as_ref().map_or(all.len(), Bytes::len);
                if before.saturating_add(data.len()) > MAX_BODY {
                    return None;
                }
                match first.take() {
                    None if all.is_empty() => first = Some(data),
                    first => {
                        all.extend(first.into_iter().flatten());
                        all.extend(data);
                    }
                }
            }
            Poll::Ready(Some(Err(_))) | Poll::Pending => return None,
        }
        // Most bodies are one frame, and say so.
        if body.is_end_stream() {
            break;
        }
    }
    Some(first.unwrap_or_else(|| all.into()))
}

#[cold]
fn warn_unsent() {
    warn(Code::RefusalBody, "on_rejection_of", || {
        format!(
            "the closure of `.on_rejection_of(…)` has returned a body that is not there at once, fails, \
             has trailers, or is longer than {MAX_BODY} bytes, so that the default response is sent; \
             return a whole body, such as a text"
        )
    });
}

#[cfg(all(test, feature = "config"))]
mod tests {
    use crate::{
        config::{Limits, Registry},
        limiter::Limiter,
    };

    #[test]
    fn the_default_refusal_of_a_file_is_the_prepared_one() {
        let (registry, limiter) = (Registry::new(), Limiter::builder().build().unwrap());
        let renders = |layer: &str| {
            let limits = Limits::from_toml(&format!("no_limits = true\n{layer}"), &registry);
            let builder = limits.unwrap().layer(limiter.clone(), &registry).unwrap();
            builder.responder.render.is_some()
        };
        assert!(!renders(""));
        assert!(!renders("[layer]\non_rejection = \"json\""));
        assert!(renders("[layer]\non_rejection = \"plain_text\""));
    }
}
