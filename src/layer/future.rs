use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, Request, Response, Version,
    header::{CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
    request::Parts,
};
use pin_project_lite::pin_project;
use tower::Service;

#[cfg(feature = "grpc")]
use crate::layer::response::grpc;
use crate::{
    layer::Face,
    layer::body::ResponseBody,
    layer::rejection::{NO_STORE, Refused, RefusedByHandler, Rejection},
    layer::report::Report,
    limiter::Decision,
    limiter::{DecisionFuture, Settling},
};

/// Waiting would have no end.
const OVER: &str = "a response is not polled after it was ready";

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pin_project! {
    /// The response to come of a [`RateLimit`](crate::RateLimit).
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
        // Boxed, like all that few requests see: the others would be moved about with room for it.
        Deciding { deciding: Box<DecisionFuture>, waiting: Option<Box<Waiting<S, B>>> },
        // The verdict came late: the inner service is called when it is ready again.
        Readying { readying: Box<Readying<S, B>> },
        Calling { #[pin] response: S::Future, passed: Option<Passed> },
        // The response is there, and what it has cost is being corrected.
        Settling { late: Option<Box<Late<S::Response>>> },
        Refused { response: Option<Response<Bytes>> },
    }
}

/// What is needed once the verdict is there.
struct Waiting<S, B> {
    inner: S,
    head: Parts,
    body: B,
    report: Report,
    face: Arc<Face>,
}

/// A request that has passed, and the service that is not ready yet.
struct Readying<S, B> {
    inner: S,
    request: Option<Request<B>>,
    uncalled: Uncalled,
}

/// What the response of an admitted request has to tell.
struct Passed {
    decision: Decision,
    report: Report,
    face: Arc<Face>,
}

impl Drop for Passed {
    fn drop(&mut self) {
        self.report.given_up(&self.decision);
    }
}

/// A request that has passed and waits for the inner service. If its caller leaves before that is
/// called, it gives back what it was charged.
struct Uncalled(Option<Passed>);

impl Drop for Uncalled {
    fn drop(&mut self) {
        if let Some(passed) = &self.0 {
            passed.face.limiter.undo(&passed.decision);
        }
    }
}

/// A response whose cost is being corrected.
struct Late<R> {
    settling: Settling,
    response: R,
    passed: Passed,
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(crate) fn calling(
        response: S::Future,
        decision: Decision,
        report: Report,
        face: Arc<Face>,
    ) -> Self {
        let passed = Some(Passed { decision, report, face });
        Self { state: State::Calling { response, passed } }
    }

    pub(crate) fn refused(response: Response<Bytes>) -> Self {
        Self { state: State::Refused { response: Some(response) } }
    }

    pub(crate) fn deciding(
        deciding: Box<DecisionFuture>,
        inner: S,
        head: Parts,
        body: B,
        report: Report,
        face: Arc<Face>,
    ) -> Self {
        let waiting = Box::new(Waiting { inner, head, body, report, face });
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
                            known.tell(&mut response);
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
                        ready!(late.settling.poll(&mut late.passed.decision, context));
                    }
                    let mut late = late.take().expect(OVER);
                    late.passed.tell(&mut late.response);
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
        let Self { inner, mut head, body, mut report, face } = self;
        if !decision.is_allowed() {
            let response = face.refuse(&head, decision, &mut report);
            return State::Refused { response: Some(response) };
        }
        face.tell_inside(&mut head, &decision);
        let request = Request::from_parts(head, body);
        let uncalled = Uncalled(Some(Passed { decision, report, face }));
        let readying = Readying { inner, request: Some(request), uncalled };
        State::Readying { readying: Box::new(readying) }
    }
}

impl Passed {
    /// The response to send, unless its cost is to be corrected first.
    fn settle<R>(mut self, response: Response<R>) -> Result<Response<R>, Box<Late<Response<R>>>> {
        let (head, body) = response.into_parts();
        let settling = self.face.limiter.settle(&self.decision, &head);
        let mut response = Response::from_parts(head, body);
        match settling {
            None => {
                self.tell(&mut response);
                Ok(response)
            }
            Some(settling) => Err(Box::new(Late { settling, response, passed: self })),
        }
    }

    /// Writes into the response what there is to tell.
    fn tell<R>(&mut self, response: &mut Response<R>) {
        // What a limiter further inside says of its refusal is what the caller has to know.
        if response.extensions().get::<Refused>().is_some() {
            self.leave_refusal(response);
        } else {
            let Face { headers, limiter, .. } = &*self.face;
            headers.write(response.headers_mut(), &self.decision, limiter);
        }
        self.report.answered(&self.decision, response.status());
    }

    /// Leaves a refusal as it is, but for the quota headers of a handler's, which has none.
    #[cold]
    fn leave_refusal<R>(&self, response: &mut Response<R>) {
        if let Some(RefusedByHandler(decision)) = response.extensions_mut().remove() {
            self.face.headers.write_foreign(response.headers_mut(), &decision);
        }
    }
}

impl Face {
    /// Tells the handlers of a request that passes, if they are to know.
    pub(crate) fn tell_inside(&self, head: &mut Parts, decision: &Decision) {
        if self.expose_decision {
            head.extensions.insert(decision.clone());
        }
    }

    /// The response to a request that does not pass.
    #[expect(clippy::expect_used, reason = "a refusal must not become a success")]
    pub(crate) fn refuse(
        &self,
        head: &Parts,
        mut decision: Decision,
        report: &mut Report,
    ) -> Response<Bytes> {
        self.spread.apply(&mut decision, &self.limiter);
        let request_id = head.headers.get(X_REQUEST_ID).cloned();
        let rejection = Rejection::of_layer(decision, self.headers.count(), request_id);
        let rejection = rejection.expect("a decision that refuses has a policy that does");
        let response = self.refusal(head, &rejection);
        report.answered(rejection.decision(), response.status());
        response
    }

    fn refusal(&self, head: &Parts, rejection: &Rejection) -> Response<Bytes> {
        let mut response = self.render(head, rejection);
        let headers = response.headers_mut();
        self.headers.write_refusal(headers, rejection, &self.limiter);
        headers.entry(CACHE_CONTROL).or_insert(NO_STORE);
        if leaves_body(head) {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response.extensions_mut().insert(Refused);
        response
    }

    #[cfg_attr(not(feature = "grpc"), expect(unused_variables))]
    fn render(&self, request: &Parts, rejection: &Rejection) -> Response<Bytes> {
        #[cfg(feature = "grpc")]
        if grpc::is_call(request) {
            return grpc::respond(request, rejection);
        }
        (self.renderer)(rejection)
    }
}

/// Whether a body may be left on the connection, which then ends: the layer reads none, as it takes
/// bodies of any type. Only HTTP/1 says so (RFC 9112, section 9.6); later versions end the request's
/// stream, and must not have the header (RFC 9113, section 8.2.2).
fn leaves_body(request: &Parts) -> bool {
    if !matches!(request.version, Version::HTTP_10 | Version::HTTP_11) {
        return false;
    }
    // One pass takes less than two look-ups, as most requests have few headers.
    request.headers.iter().any(|(name, value)| {
        *name == TRANSFER_ENCODING || (*name == CONTENT_LENGTH && value != "0")
    })
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
