//! What watches the requests of a layer, such as a request log: [`ResponseObserver`].

use std::sync::Arc;

use http::{StatusCode, request::Parts};

use super::headers::Headers;
use crate::limiter::{Decision, Limiter, Outcome};

/// Watches the requests of a [`RateLimitLayer`](crate::RateLimitLayer), and changes nothing.
///
/// ```
/// use std::sync::{Arc, atomic::{AtomicU64, Ordering}};
///
/// use http::request::Parts;
/// use tower_quota::{Ended, Limiter, PendingResponse, RateLimitLayer, ResponseObserver};
///
/// /// Counts refusals.
/// #[derive(Clone, Default)]
/// struct Refusals(Arc<AtomicU64>);
///
/// impl ResponseObserver for Refusals {
///     fn start(&self, _: &Limiter, _: &Parts) -> Box<dyn PendingResponse> {
///         Box::new(self.clone())
///     }
/// }
///
/// impl PendingResponse for Refusals {
///     fn finish(self: Box<Self>, ended: Ended<'_>) {
///         if ended.decision.is_some_and(|decision| !decision.is_allowed()) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let limiter = Limiter::builder().build()?;
/// let layer = RateLimitLayer::builder(limiter).observe(Refusals::default()).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub trait ResponseObserver: Send + Sync + 'static {
    /// A request has come, about which `limiter` decides now.
    fn start(&self, limiter: &Limiter, request: &Parts) -> Box<dyn PendingResponse>;
}

/// A request under way, from [`ResponseObserver::start`].
pub trait PendingResponse: Send + Sync {
    /// The head of the response is ready, or none will come. Called once for each request.
    fn finish(self: Box<Self>, ended: Ended<'_>);
}

/// How a request has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ended<'a> {
    /// What was decided; `None` where the caller left while its request was held.
    pub decision: Option<&'a Decision>,
    /// The policy whose numbers are in headers of one policy.
    pub outcome: Option<Outcome<'a>>,
    /// The status of the response; `None` where the inner service failed or the caller left.
    pub status: Option<StatusCode>,
}

/// A request that is observed. If it is dropped before it has ended, the caller has left.
#[derive(Default)]
pub(super) struct Observation(Option<Box<dyn PendingResponse>>);

impl Observation {
    #[inline]
    pub(super) fn start(
        observer: Option<&Arc<dyn ResponseObserver>>,
        limiter: &Limiter,
        request: &Parts,
    ) -> Self {
        Self(observer.map(|observer| observer.start(limiter, request)))
    }

    /// The request has ended; a second end is none.
    #[inline]
    pub(super) fn finish(
        &mut self,
        headers: &Headers,
        decision: Option<&Decision>,
        status: Option<StatusCode>,
    ) {
        if let Some(pending) = self.0.take() {
            let outcome = decision.and_then(|decision| headers.outcome_of(decision));
            pending.finish(Ended { decision, outcome, status });
        }
    }
}

impl Drop for Observation {
    fn drop(&mut self) {
        if let Some(pending) = self.0.take() {
            pending.finish(Ended { decision: None, outcome: None, status: None });
        }
    }
}
