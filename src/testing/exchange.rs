//! One request of a test client, and what has become of it: [`Exchange`].

use std::{
    any::Any,
    fmt,
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body::Body;

use super::recorder::{DecisionRecorder, RecordedDecision};

/// The future of a response, or of the text of the service's error.
pub(super) type Answering = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;

/// A response, whose body is read or left open.
pub(super) struct Answer {
    pub(super) response: Response<Bytes>,
    /// The body, if it is left open.
    unread: Option<Box<dyn Any + Send>>,
}

impl Answer {
    /// Reads the body, unless the response is left open.
    pub(super) async fn read<R>(response: Response<R>, leave_open: bool) -> Result<Self, String>
    where
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: fmt::Display,
    {
        let (head, body) = response.into_parts();
        if leave_open {
            let response = Response::from_parts(head, Bytes::new());
            return Ok(Self { response, unread: Some(Box::new(body)) });
        }
        let (mut body, mut bytes) = (pin!(body), BytesMut::new());
        while let Some(frame) = poll_fn(|context| body.as_mut().poll_frame(context)).await {
            let frame = frame.map_err(|error| format!("the body has failed: {error}"))?;
            bytes.extend(frame.into_data().ok());
        }
        Ok(Self { response: Response::from_parts(head, bytes.freeze()), unread: None })
    }
}

/// A request, what layers decide about it, and its response.
pub(super) struct Exchange {
    pub(super) recorder: DecisionRecorder,
    method_and_path: String,
    state: State,
}

enum State {
    UnderWay(Answering),
    Answered(Answer),
    Failed(String),
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Admitted,
    Refused,
    /// It waits for the clock.
    Held,
    /// The service has failed.
    Failed,
    /// It has a response, and no layer has decided about it, or one that began has not.
    Undecided,
}

impl Fate {
    pub(super) const ALL: [Self; 5] =
        [Self::Admitted, Self::Refused, Self::Held, Self::Failed, Self::Undecided];
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::Held => "held",
            Self::Failed => "failed",
            Self::Undecided => "answered without a decision of tower-quota",
        })
    }
}

impl Exchange {
    pub(super) fn new(
        method_and_path: String,
        recorder: DecisionRecorder,
        answering: Answering,
    ) -> Self {
        Self { recorder, method_and_path, state: State::UnderWay(answering) }
    }

    /// Polls a request that is under way.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) {
        if let State::UnderWay(answering) = &mut self.state
            && let Poll::Ready(ended) = answering.as_mut().poll(context)
        {
            self.state = match ended {
                Ok(answer) => State::Answered(answer),
                Err(error) => State::Failed(error),
            };
        }
    }

    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.state, State::UnderWay(_))
    }

    /// Whether its response is left open.
    pub(super) fn is_open(&self) -> bool {
        matches!(&self.state, State::Answered(answer) if answer.unread.is_some())
    }

    pub(super) fn close(&mut self) {
        if let State::Answered(answer) = &mut self.state {
            answer.unread = None;
        }
    }

    pub(super) fn response(&self) -> Option<&Response<Bytes>> {
        match &self.state {
            State::Answered(answer) => Some(&answer.response),
            State::UnderWay(_) | State::Failed(_) => None,
        }
    }

    pub(super) fn decisions(&self) -> Vec<RecordedDecision> {
        self.recorder.decisions()
    }

    pub(super) fn fate(&self) -> Fate {
        let refuses = |decided: &RecordedDecision| {
            decided.decision().is_some_and(|decision| !decision.is_allowed())
        };
        match &self.state {
            State::UnderWay(_) => Fate::Held,
            State::Failed(_) => Fate::Failed,
            State::Answered(_) => match &self.decisions()[..] {
                [] => Fate::Undecided,
                decisions if decisions.iter().any(refuses) => Fate::Refused,
                // Its handler may not have run: it was held, or its refusal has panicked.
                decisions if decisions.iter().any(|one| one.decision().is_none()) => {
                    Fate::Undecided
                }
                _ => Fate::Admitted,
            },
        }
    }
}

/// What has become of it, and what each policy has decided.
impl fmt::Display for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.method_and_path, self.fate())?;
        match &self.state {
            State::Answered(answer) => write!(f, ", status {}", answer.response.status())?,
            State::Failed(error) => write!(f, ", as {error}")?,
            State::UnderWay(_) => {}
        }
        for decided in self.decisions() {
            let text = decided.to_string();
            text.lines().try_for_each(|line| write!(f, "\n    {line}"))?;
        }
        Ok(())
    }
}
