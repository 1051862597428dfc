//! A key in the body: a field of a JSON or form document, such as an email address.

mod document;
mod format;
mod peeked;
mod value;

use std::{
    borrow::Cow,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header::CONTENT_TYPE, request::Parts};
use http_body::Body;
use tower::{Layer, Service, ServiceExt};

use self::format::Format;
pub use self::peeked::PeekedBody;
use super::{Extracted, KeyExtractor, extract::identified};
use crate::{
    matcher::Matcher,
    warning::{Code, warn},
};

const DEFAULT_MAX_BYTES: usize = 16 * 1024;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// The value of a field of the body, read by a [`BodyFieldLayer`] outside of the limiter's layer:
/// a text, a number or a boolean. A dot leads into an object: `user.id`.
///
/// Values that handlers may take for the same are one key. A text is trimmed and in lower case, so
/// that `A@example.com` and ` a@example.com` are one; a number is the same with quotes or without,
/// so that `7`, `"7"`, `"007"` and `7.0` are one. Texts of different Unicode normalisation forms are
/// different keys.
///
/// - The field is missing where the whole document was read and lacks it, or has `null` there.
/// - The field is unreadable, and the request is refused, where a handler may read what the layer
///   cannot. The status is 413 where the body is too long, 408 where it takes too long, 415 where the
///   layer does not read its content type or encoding, and 400 where the document is malformed or
///   breaks off, is no object, or has the field twice or as an array or object. A name matches in any
///   letter case, as it does in some handlers.
/// - The field is unreadable as well where no layer has read the body: there is none, or
///   [`only`](BodyFieldLayer::only) leaves the request out. The warning
///   [`body_field_not_read`](crate::warning#body_field_not_read) is then given once.
pub fn body_field(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    let problem = name.split('.').any(str::is_empty).then(|| {
        format!("`{name:?}` names no field of a body; write one like `email` or `user.id`")
    });
    let is_warned = AtomicBool::new(false);
    identified(format!("body field {name}"), name.clone(), problem, move |request| {
        let fields = request.extensions.get::<Fields>();
        match fields.and_then(|Fields(fields)| fields.iter().find(|(field, _)| **field == *name)) {
            Some((_, Extracted::Found(key))) => Extracted::Found(key.as_bytes().into()),
            Some((_, Extracted::Missing)) => Extracted::Missing,
            Some((_, Extracted::Unreadable(status))) => Extracted::Unreadable(*status),
            None => {
                let has_body = request.headers.contains_key(CONTENT_TYPE);
                if has_body && !is_warned.swap(true, Ordering::Relaxed) {
                    warn_not_read(&name);
                }
                Extracted::UNREADABLE
            }
        }
    })
}

#[cold]
fn warn_not_read(name: &str) {
    warn(Code::BodyFieldNotRead, name, || {
        format!(
            "a policy counts by the body's field `{name}`, and no layer has read it, so that the \
             request is refused; write `.layer(BodyFieldLayer::new([{name:?}]))` after the limiter's \
             layer, and let its `only` match each request of the policy"
        )
    });
}

/// The fields that were read, in a request's extensions.
#[derive(Clone)]
struct Fields(Vec<(Arc<str>, Extracted<'static>)>);

/// Reads fields of a JSON or form body, for policies that count by [`body_field`].
///
/// The body goes on to the inner service byte for byte. The layer reads what axum's `Json` and `Form`
/// read: `application/json`, `application/*+json`, `application/x-www-form-urlencoded`, and the query
/// of a `GET` request, where `Form` looks. It reads no compressed body: add tower-http's
/// `RequestDecompressionLayer` outside of it where handlers take one.
///
/// Add it after the limiter's layer, so that it is outside of it. It waits for bodies, so say
/// [which requests](Self::only) have the fields. It needs a tokio runtime with time.
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
    timeout: Duration,
    json: Vec<Arc<str>>,
    /// Which requests; all, if empty.
    only: Vec<Matcher>,
}

impl BodyFieldLayer {
    /// Reads the fields with these names, each as [`body_field`] has it.
    pub fn new<N: Into<Arc<str>>>(fields: impl IntoIterator<Item = N>) -> Self {
        let settings = Settings {
            fields: fields.into_iter().map(Into::into).collect(),
            max_bytes: DEFAULT_MAX_BYTES,
            timeout: DEFAULT_TIMEOUT,
            json: Vec::new(),
            only: Vec::new(),
        };
        Self { settings: Arc::new(settings) }
    }

    /// The longest body that is read, in bytes; the fields of a longer one are unreadable (413).
    /// Default: 16 KiB. While its body is read, a request takes up to twice as much memory and one
    /// piece of the body, however many pieces there are.
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.settings_mut().max_bytes = bytes;
        self
    }

    /// How long the layer waits for a whole body; the fields of a slower one are unreadable (408).
    /// Default: 10 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.settings_mut().timeout = timeout;
        self
    }

    /// Reads bodies of this media type as JSON too, as your handlers do: a vendor's type, or
    /// `text/plain`, which browsers send by default. Called again, it adds another type.
    ///
    /// ```
    /// use tower_quota::key::BodyFieldLayer;
    ///
    /// let layer = BodyFieldLayer::new(["user.id"]).json_type("text/plain");
    /// # let _ = layer;
    /// ```
    pub fn json_type(mut self, media_type: impl Into<Arc<str>>) -> Self {
        self.settings_mut().json.push(media_type.into());
        self
    }

    /// Reads the bodies of these requests only. Called again, it adds others. Default: all requests.
    /// A matcher with a mistake, which `build()` would refuse, matches all.
    pub fn only(mut self, matcher: Matcher) -> Self {
        self.settings_mut().only.push(matcher);
        self
    }

    fn settings_mut(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.settings)
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
        if !self.settings.mean(&head) {
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        }
        let settings = Arc::clone(&self.settings);
        let format = if body.is_end_stream() {
            // An empty body has no field, whatever format the handler reads.
            settings.leave(&mut head, Ok(settings.nothing()));
            None
        } else {
            let format = Format::of(&head.headers, &settings.json);
            format.map_err(|status| settings.leave(&mut head, Err(status))).ok()
        };
        let Some(format) = format else {
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        };
        // As in `RateLimit`: nothing that the ready instance has reserved is kept while waiting.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        Box::pin(async move {
            let reading = tokio::time::timeout(settings.timeout, body.peek(settings.max_bytes));
            let read = reading.await.unwrap_or(Err(StatusCode::REQUEST_TIMEOUT));
            let fields =
                read.and_then(|()| document::read(format, body.document(), &settings.fields));
            settings.leave(&mut head, fields);
            inner.oneshot(Request::from_parts(head, body)).await
        })
    }
}

impl Settings {
    /// Whether the body of a request is to be read.
    fn mean(&self, head: &Parts) -> bool {
        let means = |matcher: &Matcher| matcher.problem().is_some() || matcher.matches(head);
        self.only.is_empty() || self.only.iter().any(means)
    }

    fn nothing(&self) -> Vec<Extracted<'static>> {
        self.fields.iter().map(|_| Extracted::Missing).collect()
    }

    /// Puts the fields that were read into the request's extensions.
    fn leave(&self, head: &mut Parts, read: Result<Vec<Extracted<'static>>, StatusCode>) {
        let mut read = read.unwrap_or_else(|status| {
            self.fields.iter().map(|_| Extracted::Unreadable(status)).collect()
        });
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
        // Another of these layers may be outside of this one.
        if let Some(Fields(others)) = head.extensions.remove() {
            fields.extend(others);
        }
        head.extensions.insert(Fields(fields));
    }
}
