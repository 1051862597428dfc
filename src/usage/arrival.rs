use std::sync::Arc;

use http::{StatusCode, request::Parts};

use super::{Entry, LoggedKey, RequestLog, UNMATCHED, Verdict, log::method_name};
use crate::{clock::Now, layer::Face, limiter::Decision, limiter::Limiter};

/// What the log has to know of a request before the service gets it.
pub(crate) struct Arrival {
    face: Arc<Face>,
    at: Now,
    endpoint: Arc<str>,
    method: &'static str,
    /// Or the status with which it is refused where it has to be read.
    key: Result<Option<LoggedKey>, StatusCode>,
}

impl Arrival {
    pub(crate) fn new(log: &RequestLog, face: &Arc<Face>, request: &Parts) -> Self {
        Self {
            face: Arc::clone(face),
            at: face.limiter.now(),
            endpoint: endpoint_of(request, &face.limiter),
            method: method_name(request.method.as_str()),
            key: log.key_of(request),
        }
    }

    #[cfg(feature = "axum")]
    pub(crate) fn fingerprint(&self) -> Result<Option<u128>, StatusCode> {
        let key = self.key.as_ref().map_err(|status| *status)?;
        Ok(key.as_ref().map(|key| key.fingerprint.0))
    }

    /// Tells the log how the request has ended.
    pub(crate) fn tell(self, decision: Option<&Decision>, status: Option<StatusCode>) {
        let Self { face, at, endpoint, method, key } = self;
        let response_time = face.limiter.now().monotonic().saturating_sub(at.monotonic());
        let speaker = decision.and_then(|decision| face.headers.speaker(decision));
        let units = speaker.filter(|outcome| outcome.is_allowed());
        let entry = Entry {
            at: at.unix(),
            endpoint,
            method,
            status: status.map(|status| status.as_u16()),
            response_time,
            policy: speaker.map(|outcome| Arc::clone(&outcome.labels.policy)),
            verdict: match decision.map(Decision::reason) {
                None => Verdict::Undecided,
                Some(None) => Verdict::Allowed,
                Some(Some(reason)) => Verdict::Refused(reason),
            },
            units: units.map_or(0, |outcome| outcome.charge.cost),
            held: decision.map_or(response_time, Decision::held),
            key: key.ok().flatten(),
        };
        if let Some(log) = &face.log {
            #[cfg(feature = "axum")]
            log.remember(&entry, decision, &face.limiter);
            log.record(&entry);
        }
    }
}

fn endpoint_of(request: &Parts, limiter: &Limiter) -> Arc<str> {
    #[cfg(feature = "axum")]
    if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
        return path.as_str().into();
    }
    limiter.pattern_of(request).unwrap_or_else(|| UNMATCHED.into())
}
