//! A layer that reads fields of a body before the limiter, for [`key::body_field`]: [`BodyFieldLayer`].
//!
//! It reads the beginning of the body ahead ([`PeekedBody`]), parses it as JSON or as a form, and leaves
//! the fields in the request's extensions.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

mod document;
mod format;
mod peeked;
mod value;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, request::Parts};
use http_body::Body;
use tower::{Layer, Service, ServiceExt};

use self::format::Format;
pub use self::peeked::PeekedBody;
use crate::{
    key::{Extracted, Fields},
    matcher::Matcher,
};

const DEFAULT_MAX_BYTES: usize = 16 * 1024;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads fields of a JSON or form body, for policies that count by [`key::body_field`].
///
/// Add it after the limiter's layer: in axum, the layer that is added last runs first. It waits for
/// whole bodies, so say with [`only`](Self::only) which requests have the fields. It needs a tokio
/// runtime with time.
///
/// The inner service gets the same body, byte for byte. The layer reads what axum's `Json` and `Form`
/// read: `application/json`, `application/*+json`, `application/x-www-form-urlencoded`, and the query
/// of a `GET` request. It does not read compressed bodies: if handlers accept them, add tower-http's
/// `RequestDecompressionLayer` outside of this layer.
///
/// [`key::body_field`]: crate::key::body_field
///
/// ```
/// use axum::{Router, routing::post};
/// use tower_quota::{
///     BodyFieldLayer, Category, Limiter, Matcher, Policy, Quota, RateLimitLayer, key::body_field,
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
    fields: Vec<Arc<str>>,
    max_bytes: usize,
    timeout: Duration,
    json: Vec<Arc<str>>,
    /// All requests, if empty.
    only: Vec<Matcher>,
}

impl BodyFieldLayer {
    /// Reads the fields with these names. A name is written as for [`key::body_field`].
    ///
    /// [`key::body_field`]: crate::key::body_field
    pub fn new<N: Into<Arc<str>>>(fields: impl IntoIterator<Item = N>) -> Self {
        Self {
            fields: fields.into_iter().map(Into::into).collect(),
            max_bytes: DEFAULT_MAX_BYTES,
            timeout: DEFAULT_TIMEOUT,
            json: Vec::new(),
            only: Vec::new(),
        }
    }

    /// The longest body that is read, in bytes. The fields of a longer one are unreadable (413).
    /// Default: 16 KiB. While its body is read, a request takes up to twice this memory, and one frame
    /// of the body.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// How long the layer waits for a whole body. The fields of a slower one are unreadable (408).
    /// Default: 10 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Reads bodies of this media type as JSON, if your handlers do: a vendor's type, or
    /// `text/plain`, which browsers send by default. Call it again to add another type.
    ///
    /// ```
    /// use tower_quota::BodyFieldLayer;
    ///
    /// let layer = BodyFieldLayer::new(["user.id"]).json_type("text/plain");
    /// # let _ = layer;
    /// ```
    pub fn json_type(mut self, media_type: impl Into<Arc<str>>) -> Self {
        self.json.push(media_type.into());
        self
    }

    /// Reads only the bodies of these requests. Call it again to add others. Default: all requests.
    /// An invalid matcher, which `build()` would refuse, matches all requests.
    pub fn only(mut self, matcher: Matcher) -> Self {
        self.only.push(matcher);
        self
    }

    /// Puts the fields into the request's extensions. Those of a `GET` request may be in its query too.
    fn insert_fields(&self, head: &mut Parts, mut read: Vec<Extracted<'static>>) {
        if head.method == Method::GET {
            let query = head.uri.query().unwrap_or_default();
            for (read, in_query) in read.iter_mut().zip(document::read_query(query, &self.fields)) {
                match (&*read, in_query) {
                    (_, Extracted::Missing) | (Extracted::Unreadable(_), _) => {}
                    (Extracted::Missing, in_query) => *read = in_query,
                    (in_body, in_query) if *in_body == in_query => {}
                    _ => *read = Extracted::UNREADABLE,
                }
            }
        }
        let mut fields: Vec<_> = self.fields.iter().cloned().zip(read).collect();
        // Another such layer outside of this one may have read other fields.
        if let Some(Fields(others)) = head.extensions.remove() {
            fields.extend(others);
        }
        head.extensions.insert(Fields(fields));
    }
}

impl<S> Layer<S> for BodyFieldLayer {
    type Service = BodyField<S>;

    fn layer(&self, inner: S) -> BodyField<S> {
        BodyField { inner, settings: Arc::new(self.clone()) }
    }
}

/// The service of a [`BodyFieldLayer`]: it reads fields of a body, and then calls the inner
/// service.
#[derive(Clone, Debug)]
pub struct BodyField<S> {
    inner: S,
    settings: Arc<BodyFieldLayer>,
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
        if !Matcher::include(&self.settings.only, &head) {
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        }
        let settings = Arc::clone(&self.settings);
        let format = match Format::from_headers(&head.headers, &settings.json) {
            // An empty body has no field in any format.
            _ if body.is_end_stream() => Err(Extracted::Missing),
            format => format.map_err(Extracted::Unreadable),
        };
        let format = match format {
            Ok(format) => format,
            Err(each) => {
                settings.insert_fields(&mut head, vec![each; settings.fields.len()]);
                return Box::pin(self.inner.call(Request::from_parts(head, body)));
            }
        };
        // As in `RateLimit`: a waiting request keeps no permit that the ready instance has reserved.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        Box::pin(async move {
            let reading = tokio::time::timeout(settings.timeout, body.peek(settings.max_bytes));
            let read = reading.await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT));
            let fields = read
                .and_then(|()| document::read(format, &body.read, &settings.fields))
                .unwrap_or_else(|status| {
                    vec![Extracted::Unreadable(status); settings.fields.len()]
                });
            settings.insert_fields(&mut head, fields);
            inner.oneshot(Request::from_parts(head, body)).await
        })
    }
}
