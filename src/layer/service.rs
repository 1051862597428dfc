use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use crate::{
    layer::Face, layer::body::ResponseBody, layer::future::ResponseFuture, layer::report::Report,
    limiter::Decision,
};

/// A service whose requests are held to policies; made by
/// [`RateLimitLayer`](crate::RateLimitLayer).
#[derive(Clone)]
pub struct RateLimit<S> {
    inner: S,
    face: Arc<Face>,
}

impl<S> RateLimit<S> {
    pub(crate) fn new(inner: S, face: Arc<Face>) -> Self {
        Self { inner, face }
    }
}

impl<S, B, R> Service<Request<B>> for RateLimit<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    R: Body<Data = Bytes>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S, B>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let face = Arc::clone(&self.face);
        let (mut head, body) = request.into_parts();
        let mut report = Report::of(&head, &face);
        let mut decision = Decision::new();
        match report.decide_at_once(&head, &face.limiter, &mut decision) {
            None if decision.is_allowed() => {
                face.tell_inside(&mut head, &decision);
                // `self.inner` is the instance that was polled ready.
                let response = self.inner.call(Request::from_parts(head, body));
                ResponseFuture::calling(response, decision, report, face)
            }
            None => ResponseFuture::refused(face.refuse(&head, decision, &mut report)),
            Some(deciding) => {
                // The ready instance goes: what it has reserved (a permit, say) is not to be kept
                // while waiting. Its clones become ready when they are needed.
                let inner = self.inner.clone();
                self.inner = inner.clone();
                ResponseFuture::deciding(deciding, inner, head, body, report, face)
            }
        }
    }
}

impl<S> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.face.fmt(f)
    }
}
