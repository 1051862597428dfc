//! Records what is decided about requests: [`DecisionRecorder`].

use std::{
    fmt, mem,
    sync::{Arc, OnceLock},
};

use http::{Method, StatusCode, request::Parts};

use crate::{
    clock::Clock,
    layer::{Ended, PendingResponse, ResponseObserver},
    limiter::{Decision, Limiter, Outcome, Verdict},
    lock::Mutex,
    policy::english,
};

/// Records what layers decide about requests, in the order of arrival. Clones share the record.
///
/// Give it to a layer of your own application, such as in a test with a real server. A
/// [`TestClient`](super::TestClient) has its own.
///
/// ```
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_quota::{Limiter, Policy, Quota, RateLimitLayer, testing::DecisionRecorder};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let recorder = DecisionRecorder::new();
/// let exports = Policy::sliding_window("exports", Quota::per_hour(1)).global();
/// let limiter = Limiter::builder().policy(exports).build()?;
/// let layer = RateLimitLayer::builder(limiter).observe(recorder.clone()).build()?;
/// let service = layer.layer(service_fn(async |_: Request<String>| {
///     Ok::<_, std::convert::Infallible>(Response::new(String::new()))
/// }));
///
/// for _ in 0..2 {
///     service.clone().oneshot(Request::new(String::new())).await?;
/// }
/// let [first, second] = &recorder.take()[..] else { panic!("there were two") };
/// assert!(first.decision().is_some_and(|decision| decision.is_allowed()));
/// assert_eq!(second.status(), Some(http::StatusCode::TOO_MANY_REQUESTS));
/// println!("{second}"); // what each policy has decided
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct DecisionRecorder(Arc<Mutex<Vec<Entry>>>);

#[derive(Clone, Debug)]
struct Entry {
    method: Method,
    path: String,
    clock: Clock,
    ended: Arc<OnceLock<End>>,
}

#[derive(Clone, Debug)]
struct End {
    decision: Option<Decision>,
    category: Option<String>,
    status: Option<StatusCode>,
}

impl DecisionRecorder {
    /// An empty record.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything since the last [`take`](Self::take): one entry for each request and each layer.
    #[must_use]
    pub fn decisions(&self) -> Vec<RecordedDecision> {
        self.0.lock().iter().cloned().map(RecordedDecision).collect()
    }

    /// Returns the same entries, and removes them from the record.
    #[must_use]
    pub fn take(&self) -> Vec<RecordedDecision> {
        mem::take(&mut *self.0.lock()).into_iter().map(RecordedDecision).collect()
    }

    /// The clocks of the limiters, each as often as it was read.
    pub(super) fn clocks(&self) -> Vec<Clock> {
        self.0.lock().iter().map(|entry| entry.clock.clone()).collect()
    }
}

impl ResponseObserver for DecisionRecorder {
    fn start(&self, limiter: &Limiter, request: &Parts) -> Box<dyn PendingResponse> {
        let ended = Arc::default();
        self.0.lock().push(Entry {
            method: request.method.clone(),
            path: request.uri.path().to_owned(),
            clock: limiter.clock().clone(),
            ended: Arc::clone(&ended),
        });
        Box::new(Pending { limiter: limiter.clone(), ended })
    }
}

/// A request under way.
struct Pending {
    limiter: Limiter,
    ended: Arc<OnceLock<End>>,
}

impl PendingResponse for Pending {
    fn finish(self: Box<Self>, ended: Ended<'_>) {
        let Ended { decision, status, .. } = ended;
        let category = decision.and_then(|decision| self.limiter.category_of(decision));
        let end = End { decision: decision.cloned(), category, status };
        self.ended.get_or_init(|| end);
    }
}

/// What a layer has decided about one request. From [`DecisionRecorder`] and
/// [`TestClient::decisions`](super::TestClient::decisions).
///
/// Its text says what each policy has decided: the kind of key, what is left, how long to wait. It contains
/// the path, but no key, header or query.
#[derive(Clone, Debug)]
pub struct RecordedDecision(Entry);

impl RecordedDecision {
    /// The method of the request.
    #[must_use]
    pub fn method(&self) -> &Method {
        &self.0.method
    }

    /// The path of the request, as the layer has seen it.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.0.path
    }

    /// The decision. `None` while the request is under way, if its caller left while it was held, or if the
    /// service or the closure that answers refusals panicked.
    #[must_use]
    pub fn decision(&self) -> Option<&Decision> {
        self.0.ended.get()?.decision.as_ref()
    }

    /// The category of the request, if it is in one.
    #[must_use]
    pub fn category(&self) -> Option<&str> {
        self.0.ended.get()?.category.as_deref()
    }

    /// The status of the response, if there is one already.
    #[must_use]
    pub fn status(&self) -> Option<StatusCode> {
        self.0.ended.get()?.status
    }
}

impl fmt::Display for RecordedDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method(), self.path())?;
        let Some(decision) = self.decision() else { return f.write_str(": no decision") };
        match (decision.verdict(), decision.reason()) {
            (Verdict::Admitted, _) => f.write_str(": admitted")?,
            // The policy says why, below.
            (Verdict::Refused(outcome), _) => write!(f, ": refused by `{}`", outcome.policy())?,
            (_, Some(reason)) => write!(f, ": refused, as {reason}")?,
            (_, None) => f.write_str(": refused")?,
        }
        if !decision.held().is_zero() {
            write!(f, "; it was held for {}", english::rounded(decision.held()))?;
        }
        if let Some(category) = self.category() {
            write!(f, "\n  category `{category}`")?;
        }
        for outcome in decision.outcomes() {
            write_outcome(f, &outcome, "")?;
        }
        for outcome in decision.dry_runs() {
            write_outcome(f, &outcome, ", a dry run")?;
        }
        if decision.outcomes().len() + decision.dry_runs().len() == 0 {
            f.write_str("\n  no policy has counted it")?;
        }
        Ok(())
    }
}

fn write_outcome(f: &mut fmt::Formatter<'_>, outcome: &Outcome<'_>, dry_run: &str) -> fmt::Result {
    write!(f, "\n  policy `{}`{dry_run}, by `{}`: ", outcome.policy(), outcome.key_kind())?;
    match outcome.reason() {
        Some(reason) => write!(f, "refuses, as {reason}")?,
        None if outcome.is_drawn_on() => f.write_str("passes")?,
        None => f.write_str("is not drawn on")?,
    }
    if outcome.reason().is_none_or(|reason| reason.is_counted()) {
        let (remaining, limit) = (outcome.remaining(), outcome.limit());
        write!(f, "; {remaining} of {limit} left, the request costs {}", outcome.cost())?;
        if let Some(reset) = outcome.known_reset().filter(|reset| !reset.is_zero()) {
            write!(f, "; more in {}", english::rounded(reset))?;
        }
    }
    if let Some(wait) = outcome.retry_after() {
        write!(f, "; it passes in {}", english::rounded(wait))?;
    }
    Ok(())
}
