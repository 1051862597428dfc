//! The hook for a request log: [`ResponseObserver`].

use std::sync::Arc;

use http::{StatusCode, request::Parts};

use super::headers::Headers;
use crate::limiter::{Decision, Limiter, Outcome};

/// Observes the requests of a [`RateLimitLayer`](crate::RateLimitLayer), and cannot change them.
/// Set it with [`RateLimitLayerBuilder::observe`](crate::RateLimitLayerBuilder::observe).
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
    /// Called for each request, before `limiter` decides about it. It must not block.
    fn start(&self, limiter: &Limiter, request: &Parts) -> Box<dyn PendingResponse>;
}

/// A request under way, from [`ResponseObserver::start`].
pub trait PendingResponse: Send + Sync {
    /// Called once for each request: when the head of the response is ready, or when there will be
    /// no response. It must not block, and must not panic: it may be called while a panic unwinds.
    fn finish(self: Box<Self>, ended: Ended<'_>);
}

/// Two observers of the same requests.
impl ResponseObserver for [Arc<dyn ResponseObserver>; 2] {
    fn start(&self, limiter: &Limiter, request: &Parts) -> Box<dyn PendingResponse> {
        Box::new(self.each_ref().map(|observer| observer.start(limiter, request)))
    }
}

impl PendingResponse for [Box<dyn PendingResponse>; 2] {
    fn finish(self: Box<Self>, ended: Ended<'_>) {
        self.into_iter().for_each(|pending| pending.finish(ended));
    }
}

/// How a request has ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Ended<'a> {
    /// The decision; `None` if the client left while its request was held, or if the closure of
    /// [`on_rejection`](crate::RateLimitLayerBuilder::on_rejection) or the call of the inner service
    /// panicked.
    pub decision: Option<&'a Decision>,
    /// The policy that headers with room for one policy show: the
    /// [tightest](Decision::tightest), unless
    /// [`header_policy`](crate::RateLimitLayerBuilder::header_policy) names another.
    pub outcome: Option<Outcome<'a>>,
    /// The status of the response; `None` if the inner service failed or the client left.
    pub status: Option<StatusCode>,
}

/// An extension of a request: the observer of this request, in each layer that the request comes through.
#[cfg(feature = "testing")]
#[derive(Clone)]
pub(crate) struct ObservedBy(pub(crate) Arc<dyn ResponseObserver>);

/// The observation of one request. If it is dropped before its end, the client has left.
#[derive(Default)]
pub(super) struct Observation(Option<Box<dyn PendingResponse>>);

impl Observation {
    #[inline]
    pub(super) fn start(
        observer: Option<&Arc<dyn ResponseObserver>>,
        limiter: &Limiter,
        request: &Parts,
    ) -> Self {
        let pending = observer.map(|observer| observer.start(limiter, request));
        #[cfg(feature = "testing")]
        if let Some(ObservedBy(own)) = request.extensions.get() {
            let own = own.start(limiter, request);
            return Self(Some(match pending {
                Some(pending) => Box::new([pending, own]),
                None => own,
            }));
        }
        Self(pending)
    }

    /// Ends the observation. A second call does nothing.
    #[inline]
    pub(super) fn finish(
        &mut self,
        headers: &Headers,
        decision: &Decision,
        status: Option<StatusCode>,
    ) {
        if let Some(pending) = self.0.take() {
            let outcome = headers.outcome_of(decision);
            pending.finish(Ended { decision: Some(decision), outcome, status });
        }
    }
}

impl Drop for Observation {
    #[inline]
    fn drop(&mut self) {
        if let Some(pending) = self.0.take() {
            pending.finish(Ended { decision: None, outcome: None, status: None });
        }
    }
}
