//! The service of the layer: [`RateLimit`].

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{
    ResponseBody, ResponseFuture,
    future::{Passed, State, Waiting},
    observer::Observation,
    responders::Responders,
};

/// The service of a [`RateLimitLayer`](crate::RateLimitLayer): it calls the inner service only for
/// requests that pass.
pub struct RateLimit<S> {
    pub(super) inner: S,
    pub(super) responders: Responders,
}

impl<S> RateLimit<S> {
    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service, without limits.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: Clone> Clone for RateLimit<S> {
    #[inline]
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), responders: self.responders.for_request() }
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
        let responder = self.responders.of_thread();
        let (mut head, body) = request.into_parts();
        let mut observation =
            Observation::start(responder.observer.as_ref(), &responder.limiter, &head);
        let decision = match responder.limiter.try_decide(&head) {
            Ok(decision) => decision,
            Err(deciding) => {
                // The instance that was polled ready is dropped: it must not keep what it has
                // reserved (a permit, say) while the request waits. Its clone is polled ready
                // later.
                let (inner, responder) = (self.inner.clone(), Arc::clone(responder));
                self.inner = inner.clone();
                let waiting = Waiting { deciding, inner, head, body, observation, responder };
                return ResponseFuture {
                    state: State::Deciding { waiting: Some(Box::new(waiting)) },
                };
            }
        };
        match responder.admit(&mut head, decision, &mut observation) {
            Ok(decision) => {
                let responder = Arc::clone(responder);
                // `self.inner` is the instance that was polled ready.
                let response = self.inner.call(Request::from_parts(head, body));
                let passed = Some(Passed { decision, observation, responder });
                // Made where it is returned, as the inner service's future may be slow to move.
                ResponseFuture { state: State::Calling { response, passed } }
            }
            Err(response) => ResponseFuture { state: State::Refused { response: Some(response) } },
        }
    }
}

impl<S> fmt::Debug for RateLimit<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("responders", &self.responders).finish_non_exhaustive()
    }
}
