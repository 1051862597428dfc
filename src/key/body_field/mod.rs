//! A key in the body: a field of a JSON or form document, such as an email address.

mod document;
mod peeked;

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, request::Parts};
use http_body::Body;
use tower::{Layer, Service, ServiceExt};

use self::document::Format;
pub use self::peeked::PeekedBody;
use super::{KeyExtractor, extract::identified};
use crate::matcher::Matcher;

const DEFAULT_MAX_BYTES: usize = 16 * 1024;

/// The value of a field of the body, read by a [`BodyFieldLayer`] outside of the limiter's layer.
///
/// It is trimmed and in lower case, so that `A@example.com` and ` a@example.com` are one key.
pub fn body_field(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    identified(format!("body field {name}"), name.clone(), None, move |request| {
        let found = request.extensions.get().and_then(|Fields(fields)| {
            let (_, value) = fields.iter().find(|(field, _)| **field == *name)?;
            Some(value.as_str().into())
        });
        found.into()
    })
}

/// The fields found, in a request's extensions.
#[derive(Clone)]
struct Fields(Vec<(Arc<str>, String)>);

/// Reads fields of a JSON or form body, for policies that count by [`body_field`].
///
/// The body goes on to the inner service untouched, byte for byte. A field is not found, and the
/// policy says what happens then, when the body is longer than the cap, breaks off, is not of the
/// content type it claims (`application/json`, `application/x-www-form-urlencoded`), is compressed,
/// or has the field twice or not as a text.
///
/// Add it after the limiter's layer, so that it is outside of it. It waits for bodies, so tell it
/// [which requests](Self::only) are meant.
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_quota::{
///     Category, Limiter, Matcher, Policy, Quota, RateLimitLayer,
///     key::{BodyFieldLayer, body_field},
/// };
/// # use std::time::Duration;
///
/// let forgot = || Matcher::post("/v1/auth/password/forgot");
/// let by_email = Policy::sliding_window("forgot", Quota::per_window(5, Duration::from_secs(600)))
///     .key(body_field("email"))
///     .or_refuse();
/// let limiter = Limiter::builder()
///     .category(Category::new("forgot").on(forgot()).policy(by_email))
///     .build()?;
/// let app: Router = Router::new()
///     .route("/v1/auth/password/forgot", post(|| async { "sent" }))
///     .layer(RateLimitLayer::new(limiter))
///     .layer(BodyFieldLayer::new(["email"]).only(forgot()));
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct BodyFieldLayer {
    settings: Arc<Settings>,
}

#[derive(Clone, Debug)]
struct Settings {
    fields: Vec<Arc<str>>,
    max_bytes: usize,
    only: Option<Matcher>,
}

impl BodyFieldLayer {
    /// Reads the fields with these names from the top of a document.
    pub fn new<N: Into<Arc<str>>>(fields: impl IntoIterator<Item = N>) -> Self {
        let fields = fields.into_iter().map(Into::into).collect();
        let settings = Settings { fields, max_bytes: DEFAULT_MAX_BYTES, only: None };
        Self { settings: Arc::new(settings) }
    }

    /// Longer bodies are not read: this much memory is used per request. Default: 16 KiB.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        Arc::make_mut(&mut self.settings).max_bytes = bytes;
        self
    }

    /// Reads the bodies of these requests only. Default: of all.
    pub fn only(mut self, matcher: Matcher) -> Self {
        Arc::make_mut(&mut self.settings).only = Some(matcher);
        self
    }
}

impl<S> Layer<S> for BodyFieldLayer {
    type Service = BodyField<S>;

    fn layer(&self, inner: S) -> BodyField<S> {
        BodyField { inner, settings: Arc::clone(&self.settings) }
    }
}

/// A service that reads fields of the bodies; made by [`BodyFieldLayer`].
#[derive(Clone, Debug)]
pub struct BodyField<S> {
    inner: S,
    settings: Arc<Settings>,
}

impl<S, B> Service<Request<B>> for BodyField<S>
where
    S: Service<Request<PeekedBody<B>>> + Clone + Send + 'static,
    S::Future: Send,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Send,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        let mut body = PeekedBody::new(body);
        let Some(format) = self.settings.format_of(&head, &body) else {
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        };
        // As in `RateLimit`: nothing that the ready instance has reserved is kept while waiting.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        let settings = Arc::clone(&self.settings);
        Box::pin(async move {
            if let Some(document) = body.peek(settings.max_bytes).await {
                let fields = document::read(format, &document, &settings.fields);
                head.extensions.insert(Fields(fields));
            }
            inner.oneshot(Request::from_parts(head, body)).await
        })
    }
}

impl Settings {
    /// How to read the body, if it is to be read.
    fn format_of(&self, head: &Parts, body: &impl Body) -> Option<Format> {
        let meant = self.only.as_ref().is_none_or(|matcher| matcher.matches(head));
        let fits = body.size_hint().lower() <= self.max_bytes as u64 && !body.is_end_stream();
        if meant && fits { document::format_of(&head.headers) } else { None }
    }
}
