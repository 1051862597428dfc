//! The log as an observer of a layer: an entry begins with the request, and is written when the
//! response is ready.

use std::sync::Arc;

use http::request::Parts;

use super::{Entry, LoggedKey, LoggedVerdict, RequestLog, UNMATCHED, entry::method_name};
use crate::{
    clock::Now,
    layer::{Ended, PendingResponse, ResponseObserver},
    limiter::{Decision, Limiter},
};

/// What the log needs of a request before the service consumes it.
struct PendingEntry {
    log: RequestLog,
    limiter: Limiter,
    at: Now,
    endpoint: Arc<str>,
    method: &'static str,
    key: Option<LoggedKey>,
}

impl ResponseObserver for RequestLog {
    fn start(&self, limiter: &Limiter, request: &Parts) -> Box<dyn PendingResponse> {
        Box::new(PendingEntry {
            log: self.clone(),
            limiter: limiter.clone(),
            at: limiter.now(),
            endpoint: endpoint_of(request, limiter),
            method: method_name(request.method.as_str()),
            key: self.key_of(request),
        })
    }
}

impl PendingResponse for PendingEntry {
    fn finish(self: Box<Self>, ended: Ended<'_>) {
        let Self { log, limiter, at, endpoint, method, key } = *self;
        let Ended { decision, outcome, status, .. } = ended;
        let response_time = limiter.now().monotonic().saturating_sub(at.monotonic());
        let charged = outcome.filter(|outcome| outcome.is_drawn_on());
        let entry = Entry {
            at: at.unix(),
            endpoint,
            method,
            status: status.map(|status| status.as_u16()),
            response_time,
            policy: outcome.map(|outcome| outcome.policy().into()),
            verdict: match decision.map(Decision::reason) {
                None => LoggedVerdict::Undecided,
                Some(None) => LoggedVerdict::Allowed,
                Some(Some(reason)) => LoggedVerdict::Refused(reason),
            },
            units: charged.map_or(0, |outcome| outcome.cost()),
            held: decision.map_or(response_time, Decision::held),
            key,
        };
        #[cfg(feature = "axum")]
        if let (Some(known), Some(key), Some(decision)) = (log.known_keys(), &entry.key, decision) {
            known.remember(key.fingerprint, decision, &limiter);
        }
        log.record(&entry);
    }
}

fn endpoint_of(request: &Parts, limiter: &Limiter) -> Arc<str> {
    #[cfg(feature = "axum")]
    if let Some(path) = request.extensions.get::<axum::extract::MatchedPath>() {
        return path.as_str().into();
    }
    limiter.matched_pattern(request).unwrap_or_else(|| UNMATCHED.into())
}
