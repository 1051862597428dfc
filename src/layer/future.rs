//! The future of the layer's response: [`ResponseFuture`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, request::Parts};
use pin_project_lite::pin_project;
use tower::Service;

use super::{ResponseBody, observer::Observation, responder::Responder};
use crate::limiter::{Correcting, Decision, DecisionFuture, undo};

/// The message of the panic in a poll after the end: `Poll::Pending` would wait for ever.
const OVER: &str = "a response is not polled after it was ready";

pin_project! {
    /// The future of a response of [`RateLimit`](crate::RateLimit).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        // Boxed, as few requests need it: all other futures would have to be as large.
        Deciding { deciding: Box<DecisionFuture>, waiting: Option<Box<Waiting<S, B>>> },
        // The request was not decided at once: the inner service is called when it is ready again.
        Readying { readying: Box<Readying<S, B>> },
        Calling { #[pin] response: S::Future, passed: Option<Passed> },
        // The response is ready, and the store corrects its cost.
        Settling { late: Option<Box<Late<S::Response>>> },
        Refused { response: Option<Response<Bytes>> },
    }
}

/// What is needed after the decision.
struct Waiting<S, B> {
    inner: S,
    head: Parts,
    body: B,
    observation: Observation,
    responder: Arc<Responder>,
}

/// A request that has passed, and the service that is not ready yet.
struct Readying<S, B> {
    inner: S,
    request: Option<Request<B>>,
    uncalled: Uncalled,
}

/// What the response of an admitted request needs.
struct Passed {
    decision: Decision,
    observation: Observation,
    responder: Arc<Responder>,
}

impl Drop for Passed {
    #[inline]
    fn drop(&mut self) {
        // This does nothing if the response was observed already.
        self.observation.finish(&self.responder.headers, Some(&self.decision), None);
    }
}

/// A request that has passed and waits for the inner service. If it is dropped before the call, its
/// units are given back.
struct Uncalled(Option<Passed>);

impl Drop for Uncalled {
    fn drop(&mut self) {
        if let Some(passed) = &self.0 {
            undo(&passed.responder.limiter, &passed.decision);
        }
    }
}

/// A response whose cost is being corrected.
struct Late<R> {
    correcting: Correcting,
    response: R,
    passed: Passed,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn calling(
        response: S::Future,
        decision: Decision,
        observation: Observation,
        responder: Arc<Responder>,
    ) -> Self {
        let passed = Some(Passed { decision, observation, responder });
        Self { state: State::Calling { response, passed } }
    }

    pub(super) fn refused(response: Response<Bytes>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    pub(super) fn deciding(
        deciding: Box<DecisionFuture>,
        inner: S,
        head: Parts,
        body: B,
        observation: Observation,
        responder: Arc<Responder>,
    ) -> Self {
        let waiting = Box::new(Waiting { inner, head, body, observation, responder });
        Self { state: State::Deciding { deciding, waiting: Some(waiting) } }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let late = match this.state.as_mut().project() {
                StateProjection::Deciding { deciding, waiting } => {
                    let decision = ready!(Pin::new(deciding).poll(context));
                    let waiting = waiting.take().expect(OVER);
                    this.state.set(waiting.decided(decision));
                    continue;
                }
                StateProjection::Readying { readying } => {
                    let Readying { inner, request, uncalled } = &mut **readying;
                    ready!(inner.poll_ready(context))?;
                    let request = request.take().expect(OVER);
                    let (response, passed) = (inner.call(request), uncalled.0.take());
                    this.state.set(State::Calling { response, passed });
                    continue;
                }
                StateProjection::Calling { response, passed } => {
                    let mut response = ready!(response.poll(context))?;
                    match passed {
                        Some(known) if !known.decision.is_settled_later() => {
                            known.answer(&mut response);
                            return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                        }
                        _ => {}
                    }
                    let passed = passed.take().expect(OVER);
                    match passed.settle(response) {
                        Ok(response) => {
                            return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                        }
                        Err(late) => late,
                    }
                }
                StateProjection::Settling { late } => {
                    if let Some(late) = late {
                        // If the store does not answer, the headers show the first charge.
                        let Late { correcting, passed, .. } = &mut **late;
                        let _ = ready!(correcting.poll(&mut passed.decision, context));
                    }
                    let mut late = late.take().expect(OVER);
                    late.passed.answer(&mut late.response);
                    return Poll::Ready(Ok(late.response.map(ResponseBody::inner)));
                }
                StateProjection::Refused { response } => {
                    let response = response.take().expect(OVER);
                    return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                }
            };
            this.state.set(State::Settling { late: Some(late) });
        }
    }
}

impl<S, B> Waiting<S, B>
where
    S: Service<Request<B>>,
{
    fn decided(self, decision: Decision) -> State<S, B> {
        let Self { inner, mut head, body, mut observation, responder } = self;
        match responder.admit(&mut head, decision, &mut observation) {
            Ok(decision) => {
                let request = Request::from_parts(head, body);
                let uncalled = Uncalled(Some(Passed { decision, observation, responder }));
                let readying = Readying { inner, request: Some(request), uncalled };
                State::Readying { readying: Box::new(readying) }
            }
            Err(response) => State::Refused { response: Some(response) },
        }
    }
}

impl Passed {
    /// Returns the response, or else a [`Late`] one, whose cost the store has to correct first.
    fn settle<R>(mut self, response: Response<R>) -> Result<Response<R>, Box<Late<Response<R>>>> {
        let (head, body) = response.into_parts();
        let correcting = Correcting::start(&self.responder.limiter, &self.decision, &head);
        let mut response = Response::from_parts(head, body);
        match correcting {
            None => {
                self.answer(&mut response);
                Ok(response)
            }
            Some(correcting) => Err(Box::new(Late { correcting, response, passed: self })),
        }
    }

    /// Writes the quota headers, and ends the observation.
    fn answer<R>(&mut self, response: &mut Response<R>) {
        self.responder.write_headers(response, &self.decision);
        self.observation.finish(
            &self.responder.headers,
            Some(&self.decision),
            Some(response.status()),
        );
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
