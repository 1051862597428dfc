//! The future of the layer's response: [`ResponseFuture`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{ResponseBody, observer::Observation, responder::Responder};
use crate::{
    limiter::{Correcting, Deciding, Decision, Permit, undo},
    warning::{Code, warn},
};

/// The message of the panic in a poll after the end: `Poll::Pending` would wait for ever.
const OVER: &str = "a response is not polled after it was ready";

pin_project! {
    /// The future of a response of [`RateLimit`](crate::RateLimit).
    pub struct ResponseFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        pub(super) state: State<S, B>,
    }
}

pin_project! {
    #[project = StateProjection]
    pub(super) enum State<S, B>
    where
        S: Service<Request<B>>,
    {
        // Boxed, as few requests need it: unboxed, it would enlarge all futures.
        Deciding { waiting: Option<Box<Waiting<S, B>>> },
        // The request was not decided at once: the inner service is called when it is ready again.
        Readying { readying: Box<Readying<S, B>> },
        Calling { #[pin] response: S::Future, passed: Option<Passed> },
        // The response is ready, and the store corrects its cost.
        Settling { late: Option<Box<Late<S::Response>>> },
        Refused { response: Option<Response<Bytes>> },
    }
}

/// A request that waits for its decision, and what is needed after it.
pub(super) struct Waiting<S, B> {
    pub(super) deciding: Box<Deciding>,
    pub(super) inner: S,
    pub(super) head: Parts,
    pub(super) body: B,
    pub(super) observation: Observation,
    pub(super) responder: Arc<Responder>,
}

/// What the response of an admitted request needs.
pub(super) struct Passed {
    pub(super) decision: Decision,
    pub(super) observation: Observation,
    pub(super) responder: Arc<Responder>,
}

impl Drop for Passed {
    #[inline]
    fn drop(&mut self) {
        // This does nothing if the response was observed already.
        self.finish(None);
    }
}

/// A request that has passed, and the service that is not ready yet. If it is dropped before the
/// call, its units are given back.
struct Readying<S, B> {
    inner: S,
    request: Option<Request<B>>,
    passed: Option<Passed>,
}

impl<S, B> Readying<S, B> {
    /// Gives the units back, unless the call was made. The request has its permit as well.
    fn give_back(&mut self) {
        drop(self.request.take());
        if let Some(passed) = self.passed.take() {
            undo(&passed.responder.limiter, &passed.decision);
        }
    }
}

impl<S, B> Drop for Readying<S, B> {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A response whose cost is being corrected.
struct Late<R> {
    correcting: Correcting,
    response: R,
    passed: Passed,
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    type Output = Result<Response<ResponseBody<R>>, S::Error>;

    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.state.as_mut().project() {
                StateProjection::Deciding { waiting } => {
                    let Waiting { deciding, responder, .. } = &mut **waiting.as_mut().expect(OVER);
                    let decision = ready!(deciding.poll(&responder.limiter, context));
                    let waiting = waiting.take().expect(OVER);
                    this.state.set(waiting.decided(decision));
                }
                StateProjection::Readying { readying } => {
                    let Readying { inner, request, passed } = &mut **readying;
                    if let Err(error) = ready!(inner.poll_ready(context)) {
                        readying.give_back();
                        return Poll::Ready(Err(error));
                    }
                    let request = request.take().expect(OVER);
                    let (response, passed) = (inner.call(request), passed.take());
                    this.state.set(State::Calling { response, passed });
                }
                StateProjection::Calling { response, passed } => {
                    let mut response = match ready!(response.poll(context)) {
                        Ok(response) => response,
                        Err(error) => {
                            // What it holds ends now, and not with this future.
                            drop(passed.take());
                            return Poll::Ready(Err(error));
                        }
                    };
                    let admitted = passed.as_mut().expect(OVER);
                    if admitted.decision.is_settled_later() {
                        let (response, correcting) = admitted.settle(response);
                        let Some(correcting) = correcting else {
                            return Poll::Ready(Ok(admitted.answer_lasting(response)));
                        };
                        let passed = passed.take().expect(OVER);
                        let late = Some(Box::new(Late { correcting, response, passed }));
                        this.state.set(State::Settling { late });
                        continue;
                    }
                    admitted.answer(&mut response);
                    return Poll::Ready(Ok(response.map(ResponseBody::inner)));
                }
                StateProjection::Settling { late } => {
                    if let Some(late) = late {
                        // If the store does not answer, the headers show the first charge.
                        let Late { correcting, passed, .. } = &mut **late;
                        let _ = ready!(correcting.poll(&mut passed.decision, context));
                    }
                    let mut late = *late.take().expect(OVER);
                    return Poll::Ready(Ok(late.passed.answer_lasting(late.response)));
                }
                StateProjection::Refused { response } => {
                    let response = response.take().expect(OVER);
                    return Poll::Ready(Ok(response.map(ResponseBody::rejection)));
                }
            }
        }
    }
}

impl<S, B> Waiting<S, B>
where
    S: Service<Request<B>>,
{
    fn decided(self, decision: Decision) -> State<S, B> {
        let Self { inner, mut head, body, mut observation, responder, .. } = self;
        match responder.admit(&mut head, decision, &mut observation) {
            Ok(decision) => {
                let request = Request::from_parts(head, body);
                let passed = Some(Passed { decision, observation, responder });
                let readying = Readying { inner, request: Some(request), passed };
                State::Readying { readying: Box::new(readying) }
            }
            Err(response) => State::Refused { response: Some(response) },
        }
    }
}

impl Passed {
    /// Settles the cost by the head of the response. Returns the correction if the response has to wait
    /// for it, so that its headers are right.
    #[cold]
    #[inline(never)]
    fn settle<R>(&self, response: Response<R>) -> (Response<R>, Option<Correcting>) {
        let Self { decision, responder, .. } = self;
        let (head, body) = response.into_parts();
        let mut correcting = Correcting::by_response(&responder.limiter, decision, &head);
        let unseen = correcting.take_if(|correcting| !responder.shows(correcting, decision));
        if let Some(unseen) = unseen {
            unseen.detach(decision);
        }
        (Response::from_parts(head, body), correcting)
    }

    /// Writes the quota headers, and ends the observation.
    fn answer<R>(&mut self, response: &mut Response<R>) {
        self.responder.write_headers(response, &self.decision);
        self.finish(Some(response.status()));
    }

    /// The same; the request then ends with the body, unless it has upgraded its connection.
    #[cold]
    fn answer_lasting<R: Body>(&mut self, mut response: Response<R>) -> Response<ResponseBody<R>> {
        self.answer(&mut response);
        let record = &mut *self.decision.record;
        let (permit, meter) = (record.permit.take(), record.meter.take());
        let status = response.status();
        let is_upgrade = |asks_for_tunnel| {
            status == StatusCode::SWITCHING_PROTOCOLS || asks_for_tunnel && status.is_success()
        };
        if let Some(permit) = &permit
            && is_upgrade(permit.asks_for_tunnel())
            && !permit.is_kept_elsewhere()
        {
            warn_upgrade_without_permit(permit);
        }
        // The meter of a connection settles with its last clone.
        let meter = meter.filter(|meter| !is_upgrade(meter.asks_for_tunnel()));
        if permit.is_none() && meter.is_none() {
            return response.map(ResponseBody::inner);
        }
        response.map(|body| ResponseBody::lasting(body, permit, meter))
    }

    #[inline]
    fn finish(&mut self, status: Option<StatusCode>) {
        self.observation.finish(&self.responder.headers, &self.decision, status);
    }
}

#[cold]
fn warn_upgrade_without_permit(permit: &Permit) {
    let policy = permit.policy().unwrap_or_default();
    warn(Code::UpgradeWithoutPermit, &policy, || {
        format!(
            "policy `{policy}`: a response has upgraded its connection, and the units in flight came \
             back at once, as no task keeps the request's `Permit`; take it from the request's \
             extensions, and move it into the task of the connection"
        )
    });
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
