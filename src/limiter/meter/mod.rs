//! The cost of a request that is known when it has ended: [`Meter`].

mod count;
mod failure;

use std::{
    fmt,
    future::pending,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{
            AtomicBool,
            Ordering::{Acquire, Relaxed, Release},
        },
    },
};

use http::Extensions;
use smallvec::SmallVec;
use tokio::sync::Notify;

pub(super) use self::{count::Count, failure::Failure};
use super::{Limiter, release::correct_unawaited};
use crate::{
    store::{Change, Charge, Correction},
    warning::{Code, warn},
};

/// Counts what a request uses while it lasts, under the policies that
/// [settle at the end](crate::Policy::settle_at_end).
///
/// A handler takes the meter from its request: in axum as an argument, and otherwise by
/// [`from_extensions`](Self::from_extensions). Clones count together, so that one may be moved into the
/// body of the response:
///
/// ```
/// use std::{convert::Infallible, pin::Pin, task::{Context, Poll}};
///
/// use axum::{body::{Body, Bytes}, routing::post};
/// use http_body::Frame;
/// use tower_quota::{Limiter, Meter, Policy, Quota, RateLimitLayer, key};
///
/// /// As many tokens as there are, and no more than were reserved.
/// struct Tokens { meter: Meter, tokens: std::vec::IntoIter<&'static str> }
///
/// impl http_body::Body for Tokens {
///     type Data = Bytes;
///     type Error = Infallible;
///
///     fn poll_frame(
///         mut self: Pin<&mut Self>,
///         _: &mut Context<'_>,
///     ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
///         if self.meter.left() == 0 {
///             return Poll::Ready(None);
///         }
///         let token = self.tokens.next();
///         self.meter.add(u64::from(token.is_some()));
///         Poll::Ready(token.map(|token| Ok(Frame::data(token.into()))))
///     }
/// }
///
/// async fn complete(request: axum::extract::Request) -> Body {
///     let meter = Meter::from_extensions(request.extensions()); // or an argument, with the feature `axum`
///     Body::new(Tokens { meter, tokens: vec!["Hello", " ", "world"].into_iter() })
/// }
///
/// let tokens = Policy::fixed_window("tokens", Quota::per_day(10_000))
///     .key(key::bearer())
///     .or_refuse()
///     .cost(|_| 200) // reserved until the response has ended
///     .settle_at_end();
/// let limiter = Limiter::builder().policy(tokens).build()?;
/// let app: axum::Router = axum::Router::new()
///     .route("/v1/completions", post(complete))
///     .layer(RateLimitLayer::new(limiter));
/// # let _ = app;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Default)]
pub struct Meter {
    /// `None` if nothing of the request is metered.
    metered: Option<Arc<Metered>>,
    /// The only policy that it counts for; `None` for all.
    only: Option<&'static str>,
}

/// What the clones of a meter share. It settles once: when it is closed, or with the last clone.
struct Metered {
    limiter: Limiter,
    /// Whether this replica has counted the charges alone, as the store did not answer.
    counted_locally: bool,
    counts: SmallVec<[Count; 1]>,
    /// The meter of a layer around this one.
    outer: OnceLock<Meter>,
    /// Wakes tasks that wait until the reserved units are used. Only the meter of the outermost layer uses it.
    exhausted: Notify,
    /// Whether the request asks for a tunnel, so that any successful response upgrades the connection.
    asks_for_tunnel: AtomicBool,
    /// Whether there is a response, which may be a failure.
    is_answered: AtomicBool,
}

impl Meter {
    /// A meter with these counts.
    #[cold]
    pub(super) fn new(
        limiter: &Limiter,
        counts: SmallVec<[Count; 1]>,
        counted_locally: bool,
    ) -> Self {
        let metered = Metered {
            limiter: limiter.clone(),
            counted_locally,
            counts,
            outer: OnceLock::new(),
            exhausted: Notify::new(),
            asks_for_tunnel: AtomicBool::new(false),
            is_answered: AtomicBool::new(false),
        };
        Self { metered: Some(Arc::new(metered)), only: None }
    }

    /// The meter of a request, by its extensions. If nothing of the request is metered, as under an
    /// unlimited plan or without a layer, the meter counts nothing.
    #[must_use]
    pub fn from_extensions(request: &Extensions) -> Self {
        request.get().cloned().unwrap_or_default()
    }

    /// Adds units that the request has used: under each policy that settles at the end, or only under
    /// [one of them](Self::of). It takes some nanoseconds, and never waits.
    ///
    /// If nothing is ever added, the request costs what was reserved: a handler that forgets its meter
    /// makes nothing free. So where nothing was used, add 0.
    ///
    /// After the first call, only what was added is charged. So add 0 at the start only if the rest is added bit
    /// by bit: if the number is known only with the last chunk, a caller who hangs up before it pays nothing.
    ///
    /// What is added after the end of the request is charged at once.
    pub fn add(&self, units: u64) {
        if let Some(metered) = &self.metered
            && metered.add(self.only, units)
        {
            metered.outermost().exhausted.notify_waiters();
        }
    }

    /// A meter for one policy alone, for requests with several whose units differ. The first policy of a
    /// [waterfall](crate::Policy::or_else) stands for the one that is drawn on. If the policy does not
    /// count this request, the meter counts nothing. If no policy of this name settles at the end,
    /// the warning [`unknown_meter`](crate::warning#unknown_meter) is given too.
    ///
    /// ```
    /// use http::Request;
    /// use tower_quota::{Limiter, Policy, Quota, key};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let of_org = |name| Policy::fixed_window(name, Quota::per_day(1_000)).key(key::bearer());
    /// let limiter = Limiter::builder()
    ///     .policy(of_org("tokens").or_refuse().cost(|_| 200).settle_at_end())
    ///     .policy(of_org("bytes").or_refuse().cost(|_| 900).settle_at_end())
    ///     .build()?;
    /// let request = Request::get("/").header("authorization", "Bearer acme").body(())?;
    /// let decision = limiter.decide(&request.into_parts().0).await;
    /// let meter = decision.meter();
    /// meter.of("tokens").add(3);
    /// meter.of("bytes").add(17);
    /// drop((decision, meter)); // without a layer, this is the end of the request
    /// let acme = |policy| limiter.peek(policy, "acme");
    /// assert_eq!((acme("tokens").await?.remaining(), acme("bytes").await?.remaining()), (997, 983));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn of(&self, policy: &str) -> Self {
        let Some(metered) = &self.metered else { return Self::default() };
        if let Some(only) = metered.name_of(policy) {
            return Self { metered: Some(Arc::clone(metered)), only: Some(only) };
        }
        let rules = metered.limiter.core.rules();
        let rule = rules.by_name(policy);
        let drawn_on = rule.and_then(|head| {
            rules.waterfall(head).find_map(|rule| metered.name_of(rule.policy.name()))
        });
        if let Some(only) = drawn_on {
            return Self { metered: Some(Arc::clone(metered)), only: Some(only) };
        }
        if !rule.is_some_and(|rule| rule.policy.settings.settles_at_end) {
            warn_unknown(policy);
        }
        Self::default()
    }

    /// The units that the request may still use until those that were reserved for it are used up: under
    /// the policy that has the fewest. [`u64::MAX`] if nothing is counted; 0 if more were used. Dry runs
    /// are left out.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.metered.as_ref().map_or(u64::MAX, |metered| metered.left(self.only))
    }

    /// Waits until the units that were reserved for the request are used up under one of the policies:
    /// [`left`](Self::left) is 0 then. It never ends if nothing is counted.
    ///
    /// These units are the request's own: what other requests of the key use changes nothing, and no store
    /// is asked. A stream that goes on is charged for more, even if the key has nothing left.
    ///
    /// ```
    /// # use tower_quota::Meter;
    /// # async fn next_token() -> Option<String> { None }
    /// # async fn send(_: String) {}
    /// async fn stream(meter: Meter) {
    ///     loop {
    ///         let token = tokio::select! {
    ///             biased;
    ///             () = meter.exhausted() => break,
    ///             token = next_token() => token,
    ///         };
    ///         let Some(token) = token else { break };
    ///         meter.add(1);
    ///         send(token).await;
    ///     }
    /// }
    /// ```
    pub async fn exhausted(&self) {
        let Some(metered) = &self.metered else { return pending().await };
        let notify = &metered.outermost().exhausted;
        loop {
            let mut notified = pin!(notify.notified());
            notified.as_mut().enable();
            if self.left() == 0 {
                return;
            }
            notified.await;
        }
    }

    /// Counts for the policies of an outer layer as well.
    pub(crate) fn keep(&self, outer: Self) {
        if let Some(metered) = &self.metered {
            // A request passes a layer once.
            let _ = metered.outer.set(outer);
        }
    }

    pub(crate) fn set_asks_for_tunnel(&self) {
        self.metered.iter().for_each(|metered| metered.asks_for_tunnel.store(true, Relaxed));
    }

    pub(crate) fn asks_for_tunnel(&self) -> bool {
        self.metered.as_ref().is_some_and(|metered| metered.asks_for_tunnel.load(Relaxed))
    }

    /// Notes that there is a response.
    pub(super) fn set_answered(&self) {
        self.metered.iter().for_each(|metered| metered.is_answered.store(true, Release));
    }

    /// Notes that all units go back, because nothing was done for them: then the request is no failure either.
    pub(super) fn set_undone(&self) {
        let counts = self.metered.iter().flat_map(|metered| &metered.counts);
        counts.for_each(|count| count.failure.set_counted());
    }

    /// The failure of the request under the policy of this charge; `None` if the meter does not count it.
    pub(super) fn failure_of(&self, charge: &Charge) -> Option<&Failure> {
        let mut counts = self.metered.iter().flat_map(|metered| &metered.counts);
        let count = counts.find(|count| count.charged.charge.id() == charge.id())?;
        Some(&count.failure)
    }

    /// Sets what is charged, as the head of the response has settled it.
    pub(super) fn set_charged(&self, charge: &Charge, cost: u64) {
        let Some(metered) = &self.metered else { return };
        for count in metered.counts.iter().filter(|count| count.charged.charge.id() == charge.id())
        {
            if count.set_charged(cost) {
                metered.outermost().exhausted.notify_waiters();
            }
        }
    }

    /// Settles now, as the response has ended. Clones may still be there.
    pub(crate) fn end(&self) {
        if let Some(metered) = &self.metered {
            metered.end();
        }
    }
}

impl Metered {
    /// Returns whether the reserved units were used up by this.
    fn add(&self, only: Option<&str>, units: u64) -> bool {
        let mut late: SmallVec<[Correction; 1]> = SmallVec::new();
        let mut is_exhausted = false;
        for count in self.counts_of(only) {
            let (taken, uses_up) = count.add(units);
            if taken > 0 {
                late.push(count.correction(Change::Take(taken)));
                late.extend(count.fail());
            }
            is_exhausted |= uses_up;
        }
        if !late.is_empty() {
            correct_unawaited(&self.limiter, self.counted_locally, &late);
        }
        if let Some(outer) = self.outer.get().and_then(|outer| outer.metered.as_ref()) {
            is_exhausted |= outer.add(only, units);
        }
        is_exhausted
    }

    fn left(&self, only: Option<&str>) -> u64 {
        let enforced = self.counts_of(only).filter(|count| count.is_enforced());
        let own = enforced.map(Count::left).min().unwrap_or(u64::MAX);
        let outer = self.outer.get().and_then(|outer| outer.metered.as_ref());
        outer.map_or(u64::MAX, |outer| outer.left(only)).min(own)
    }

    fn counts_of<'a>(&'a self, only: Option<&'a str>) -> impl Iterator<Item = &'a Count> {
        self.counts.iter().filter(move |count| only.is_none_or(|only| count.policy == only))
    }

    fn name_of(&self, policy: &str) -> Option<&'static str> {
        let own = self.counts_of(Some(policy)).next().map(|count| count.policy);
        own.or_else(|| self.outer.get()?.metered.as_ref()?.name_of(policy))
    }

    fn outermost(&self) -> &Self {
        let outer = self.outer.get().and_then(|outer| outer.metered.as_ref());
        outer.map_or(self, |outer| outer.outermost())
    }

    fn end(&self) {
        let is_answered = self.is_answered.load(Acquire);
        self.counts.iter().for_each(|count| self.watch(count));
        let corrections: SmallVec<[Correction; 1]> =
            self.counts.iter().flat_map(|count| count.end(is_answered)).collect();
        if !corrections.is_empty() {
            correct_unawaited(&self.limiter, self.counted_locally, &corrections);
        }
    }

    /// Watches whether handlers meter anything. If the head of the response has settled the cost to 0, there is
    /// nothing to meter, so the request is not watched.
    fn watch(&self, count: &Count) {
        if let Some(is_metered) = count.is_metered()
            && let Some(rule) = self.limiter.core.rules().of_charge(&count.charged.charge)
        {
            rule.watch_meter(is_metered);
        }
    }
}

/// The end of a request that has no response: its handler has panicked or failed, or its caller has left.
impl Drop for Metered {
    fn drop(&mut self) {
        self.end();
    }
}

#[cold]
fn warn_unknown(policy: &str) {
    warn(Code::UnknownMeter, policy, || {
        format!(
            "a handler meters a policy `{policy}`, and no policy of this name settles at the end, so that \
             nothing is counted; write the name of one that does, or add `.settle_at_end()` to it"
        )
    });
}

/// The meter of the request; one that counts nothing if nothing of the request is metered, or if the route is
/// outside of the layer.
#[cfg(feature = "axum")]
impl<S: Sync> axum::extract::FromRequestParts<S> for Meter {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(
        parts: &mut http::request::Parts,
        _: &S,
    ) -> Result<Self, Self::Rejection> {
        Ok(Self::from_extensions(&parts.extensions))
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = self.metered.iter().flat_map(|metered| metered.counts_of(self.only));
        let used = counts.map(|count| (count.policy, count.used()));
        f.debug_map().entries(used).finish()
    }
}
