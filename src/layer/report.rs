//! The hook by which the request log hears of requests; nothing without the feature `usage`.

use std::sync::Arc;

use http::{StatusCode, request::Parts};

use crate::{
    layer::Face,
    limiter::Decision,
    limiter::{DecisionFuture, Limiter},
};

/// A request under way that is to be logged. Dropped before its verdict, it is logged as such.
#[derive(Default)]
pub(crate) struct Report {
    /// Nothing where there is no log, and after it was told.
    #[cfg(feature = "usage")]
    arrival: Option<Box<crate::usage::Arrival>>,
}

#[cfg_attr(not(feature = "usage"), expect(unused_variables))]
impl Report {
    pub(crate) fn of(request: &Parts, face: &Arc<Face>) -> Self {
        #[cfg(feature = "usage")]
        if let Some(log) = &face.log {
            return Self {
                arrival: Some(Box::new(crate::usage::Arrival::new(log, face, request))),
            };
        }
        Self::default()
    }

    /// Asks the limiter; what an operator has decided about the key comes first.
    pub(crate) fn decide_at_once(
        &self,
        request: &Parts,
        limiter: &Limiter,
        decision: &mut Decision,
    ) -> Option<Box<DecisionFuture>> {
        #[cfg(all(feature = "usage", feature = "axum"))]
        if let Some(arrival) = &self.arrival {
            return match arrival.fingerprint() {
                Ok(Some(key)) => limiter.decide_at_once_for(request, key, decision),
                Ok(None) => limiter.decide_at_once(request, decision),
                Err(status) => limiter.decide_at_once_unread(request, status, decision),
            };
        }
        limiter.decide_at_once(request, decision)
    }

    /// The head of the response is ready.
    pub(crate) fn answered(&mut self, decision: &Decision, status: StatusCode) {
        #[cfg(feature = "usage")]
        if let Some(arrival) = self.arrival.take() {
            arrival.tell(Some(decision), Some(status));
        }
    }

    /// No response comes after this decision, unless one was told.
    pub(crate) fn given_up(&mut self, decision: &Decision) {
        #[cfg(feature = "usage")]
        if let Some(arrival) = self.arrival.take() {
            arrival.tell(Some(decision), None);
        }
    }
}

#[cfg(feature = "usage")]
impl Drop for Report {
    fn drop(&mut self) {
        if let Some(arrival) = self.arrival.take() {
            arrival.tell(None, None);
        }
    }
}
