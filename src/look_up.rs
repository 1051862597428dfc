//! A layer that looks callers up before the limiter, for [`key::looked_up`]: [`LookUpLayer`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, request::Parts};
use tower::{Layer, Service, ServiceExt};

use crate::{key::LookedUp, matcher::Matcher};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits for a look-up of who calls, such as of a session in a database, for policies that count by
/// [`key::looked_up`].
///
/// Add it after the limiter's layer: in axum, the layer that is added last runs first. It needs a tokio
/// runtime with time.
///
/// | the look-up | the key of [`key::looked_up`] | the extension `T` |
/// |---|---|---|
/// | finds the caller: `Ok(Some(caller))` | is found | the caller, for handlers too |
/// | finds no caller: `Ok(None)` | is missing | none |
/// | fails, or takes longer than [`timeout`](Self::timeout) | is unreadable: the request is refused with 503 | none |
/// | is not made, as there is no layer or [`only`](Self::only) does not match | the same, and the warning [`not_looked_up`](crate::warning#not_looked_up) is given once | none |
///
/// Each request is looked up before it is counted. So what a flood may do to the database is limited
/// only by another limiter outside of this layer, such as [one by address](crate::RateLimitLayer::per_ip).
///
/// [`key::looked_up`]: crate::key::looked_up
///
/// ```
/// use std::convert::Infallible;
///
/// use axum::{Router, routing::get};
/// use http::request::Parts;
/// use tower_quota::{Limiter, LookUpLayer, Policy, Quota, RateLimitLayer, key::{self, ClientIp}};
///
/// #[derive(Clone)]
/// struct User { id: u64 }
///
/// async fn user_of(session: String) -> Result<Option<User>, Infallible> {
///     Ok((session == "s3cret").then_some(User { id: 7 })) // asks a database
/// }
///
/// let look_up = LookUpLayer::new(|request: &Parts| {
///     let session = request.headers.get("x-session").and_then(|value| value.to_str().ok());
///     let session = session.map(str::to_owned);
///     async move {
///         match session {
///             Some(session) => user_of(session).await,
///             None => Ok(None),
///         }
///     }
/// });
/// let per_user = Policy::token_bucket("per user", Quota::per_minute(600))
///     .key(key::looked_up("user", |user: &User| user.id.into()))
///     .or_key(ClientIp::new())
///     .or_refuse();
/// let app: Router = Router::new()
///     .route("/", get(|| async { "hello" }))
///     .layer(RateLimitLayer::new(Limiter::builder().policy(per_user).build()?))
///     .layer(look_up)
///     .layer(RateLimitLayer::per_ip(Quota::per_minute(6_000))?);
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[must_use]
pub struct LookUpLayer<T> {
    look_up: Arc<Ask<T>>,
    timeout: Duration,
    /// All requests, if empty.
    only: Vec<Matcher>,
}

/// Asks who sends a request.
type Ask<T> = dyn Fn(&Parts) -> Answer<T> + Send + Sync;

/// Who it is, if somebody; `Err` if that is not known.
type Answer<T> = Pin<Box<dyn Future<Output = Result<Option<T>, ()>> + Send>>;

impl<T: Clone + Send + Sync + 'static> LookUpLayer<T> {
    /// Looks up with this closure. It copies what it needs out of the request's head, as the future
    /// lasts longer. What the error is, does not matter here: log it in the closure.
    pub fn new<F, A, E>(look_up: F) -> Self
    where
        F: Fn(&Parts) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Option<T>, E>> + Send + 'static,
    {
        let ask = move |request: &Parts| -> Answer<T> {
            let answer = look_up(request);
            Box::pin(async move { answer.await.map_err(drop) })
        };
        Self { look_up: Arc::new(ask), timeout: DEFAULT_TIMEOUT, only: Vec::new() }
    }

    /// How long the layer waits for a look-up; then it has failed. Default: 1 second.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Looks up only these requests. Call it again to add others. Default: all requests. An invalid
    /// matcher, which `build()` would refuse, matches all requests.
    pub fn only(mut self, matcher: Matcher) -> Self {
        self.only.push(matcher);
        self
    }
}

impl<T> Clone for LookUpLayer<T> {
    fn clone(&self) -> Self {
        let Self { look_up, timeout, only } = self;
        Self { look_up: Arc::clone(look_up), timeout: *timeout, only: only.clone() }
    }
}

impl<T> fmt::Debug for LookUpLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookUpLayer")
            .field("timeout", &self.timeout)
            .field("only", &self.only)
            .finish_non_exhaustive()
    }
}

impl<S, T> Layer<S> for LookUpLayer<T> {
    type Service = LookUp<S, T>;

    fn layer(&self, inner: S) -> LookUp<S, T> {
        LookUp { inner, settings: self.clone() }
    }
}

/// The service of a [`LookUpLayer`]: it looks the caller up, and then calls the inner service.
pub struct LookUp<S, T> {
    inner: S,
    settings: LookUpLayer<T>,
}

impl<S, B, T> Service<Request<B>> for LookUp<S, T>
where
    S: Service<Request<B>> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
    T: Clone + Send + Sync + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut head, body) = request.into_parts();
        if !Matcher::include(&self.settings.only, &head) {
            return Box::pin(self.inner.call(Request::from_parts(head, body)));
        }
        let answer = (self.settings.look_up)(&head);
        let answer = (self.settings.timeout, answer);
        // As in `RateLimit`: a waiting request keeps no permit that the ready instance has reserved.
        let inner = self.inner.clone();
        self.inner = inner.clone();
        Box::pin(async move {
            let (timeout, answer) = answer;
            let answer = tokio::time::timeout(timeout, answer).await.unwrap_or(Err(()));
            LookedUp::leave(&mut head.extensions, answer);
            inner.oneshot(Request::from_parts(head, body)).await
        })
    }
}

impl<S: Clone, T> Clone for LookUp<S, T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), settings: self.settings.clone() }
    }
}

impl<S: fmt::Debug, T> fmt::Debug for LookUp<S, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inner, settings } = self;
        f.debug_struct("LookUp").field("inner", inner).field("settings", settings).finish()
    }
}
