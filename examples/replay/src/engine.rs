//! Sends the requests of a log through the layer of the crate, on tokio's clock, which stands still and
//! is set to the time of each request: [`replay`].
//!
//! Nothing is counted here: this is a server whose requests come from a log, and whose handler answers
//! with the logged status after the logged time.

use std::{
    convert::Infallible,
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, request::Parts};
use tokio::{
    runtime::Builder,
    task::yield_now,
    time::{Instant, Sleep, advance, sleep, sleep_until},
};
use tower::{Layer, Service};
use tower_quota::{
    Algorithm, Clock, Decision, Ended, Limiter, PendingResponse, RateLimitLayer, ResponseObserver,
    config::{Limits, Policy, Registry},
    store::MemoryStore,
};

use crate::log::{LineNumber, Log};

/// The longest time for which an override may be set.
const MAX_OVERRIDE: Duration = Duration::from_secs(366 * 86_400);
/// A timer of tokio is not earlier than its time, and less than this later.
const TICK: Duration = Duration::from_millis(1);

/// Sees what is decided about each request.
pub trait Witness: Send + 'static {
    /// The request of a line was decided, and has ended.
    fn decided(&mut self, line: u32, decision: &Decision);

    /// Whether a request is sent. Default: each is.
    fn wants(&mut self, line: u32) -> bool {
        let _ = line;
        true
    }

    /// Whether the witness has seen enough. Default: never.
    fn has_seen_enough(&self) -> bool {
        false
    }
}

/// Sends `lines`, which are in the order of their times, through the limits, and returns the witness.
/// Calls `progress` with the number of requests that were sent, now and then.
///
/// # Errors
/// The limits cannot be built.
pub fn replay<W: Witness>(
    limits: &Limits,
    registry: &Registry,
    log: &Arc<Log>,
    lines: impl Iterator<Item = u32>,
    witness: W,
    mut progress: impl FnMut(u64),
) -> Result<W, String> {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| error.to_string())?;
    let witness = Arc::new(Mutex::new(witness));
    runtime.block_on(send(limits, registry, log, lines, &witness, &mut progress))?;
    // What is still held by a task goes with the runtime.
    drop(runtime);
    let witness = Arc::into_inner(witness).ok_or("a request has not ended")?;
    Ok(witness.into_inner().unwrap_or_else(PoisonError::into_inner))
}

async fn send<W: Witness>(
    limits: &Limits,
    registry: &Registry,
    log: &Arc<Log>,
    lines: impl Iterator<Item = u32>,
    witness: &Arc<Mutex<W>>,
    progress: &mut dyn FnMut(u64),
) -> Result<(), String> {
    let start = log.span().map_or(0, |(first, _)| first);
    let origin = Instant::now();
    let clock = Clock::tokio(UNIX_EPOCH + Duration::from_nanos(start));
    let layer = layer(limits, registry, log, clock, start, Observer(Arc::clone(witness))).await?;
    let waits = limits.policies.values().any(has_ends);
    let mut service = layer.layer(Handler { log: Arc::clone(log), waits });
    let under_way = Arc::new(AtomicUsize::new(0));
    let mut sent = 0;
    for number in lines {
        if !lock(witness).wants(number) {
            continue;
        }
        let at = origin + Duration::from_nanos(log.lines[number as usize].start - start);
        pass_until(at, &under_way).await;
        let mut response = service.call(log.request(number));
        if Pin::new(&mut response).poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            under_way.fetch_add(1, Relaxed);
            let under_way = Arc::clone(&under_way);
            tokio::spawn(async move {
                let _ = response.await;
                under_way.fetch_sub(1, Relaxed);
            });
        }
        sent += 1;
        if sent % 4_096 == 0 {
            progress(4_096);
        }
        if lock(witness).has_seen_enough() {
            return Ok(());
        }
    }
    progress(sent % 4_096);
    while under_way.load(Relaxed) > 0 {
        sleep(TICK).await;
    }
    Ok(())
}

/// Lets the time pass until `at`, and what is under way go on meanwhile.
async fn pass_until(at: Instant, under_way: &AtomicUsize) {
    if under_way.load(Relaxed) > 0 {
        // The clock is set to one timer after the other.
        if at > Instant::now() + 2 * TICK {
            sleep_until(at - 2 * TICK).await;
        }
        // What ends now has ended before the next request.
        if at > Instant::now() {
            advance(at - Instant::now()).await;
        }
        yield_now().await;
    } else if at > Instant::now() {
        // The first poll sets the clock, and the second one lets other tasks run, of which there are none.
        let advancing = pin!(advance(at - Instant::now()));
        let _ = advancing.poll(&mut Context::from_waker(Waker::noop()));
    }
}

/// Whether it matters when a request ends.
pub fn has_ends(policy: &Policy) -> bool {
    let fails = policy.penalty.as_ref().is_some_and(|penalty| penalty.failures_within.is_some());
    policy.algorithm == Algorithm::InFlight || policy.settle.is_some() || fails
}

/// Checks a policy that is only for checks, once for each line and the number that is its key. The lines are in
/// the order of their times. No request is made, so none ends.
///
/// # Errors
/// The limits cannot be built, or have no such policy for checks.
pub fn check<W: Witness>(
    limits: &Limits,
    registry: &Registry,
    log: &Log,
    policy: &str,
    lines: impl Iterator<Item = (u32, u32)>,
    mut witness: W,
) -> Result<W, String> {
    let start = log.span().map_or(0, |(first, _)| first);
    let clock = Clock::manual_at(UNIX_EPOCH + Duration::from_nanos(start));
    let limiter = limiter(limits, registry, log, clock.clone())?;
    let policy = limiter.policy(policy).map_err(|error| error.to_string())?;
    let mut now = start;
    for (line, key) in lines {
        if !witness.wants(line) {
            continue;
        }
        let at = log.lines[line as usize].start;
        clock.advance(Duration::from_nanos(at - now));
        now = at;
        let decision = policy.check(&key.to_ne_bytes()[..]).at_once();
        witness.decided(line, &decision.map_err(|error| error.to_string())?);
        if witness.has_seen_enough() {
            break;
        }
    }
    Ok(witness)
}

/// A limiter that counts in memory, with room for all keys.
fn limiter(
    limits: &Limits,
    registry: &Registry,
    log: &Log,
    clock: Clock,
) -> Result<Limiter, String> {
    // Each line may bring a new key under each policy.
    let keys = log.lines.len().saturating_mul(limits.policies.len().max(1)).saturating_mul(2);
    let builder = limits.builder(registry).map_err(|error| error.to_string())?;
    let store = MemoryStore::with_max_keys(keys.max(1 << 14));
    builder.store(store).clock(clock).build().map_err(|error| error.to_string())
}

async fn layer(
    limits: &Limits,
    registry: &Registry,
    log: &Log,
    clock: Clock,
    start: u64,
    observer: impl ResponseObserver,
) -> Result<RateLimitLayer, String> {
    let limiter = limiter(limits, registry, log, clock)?;
    if !limits.overrides.is_empty() {
        // A file is checked by the time of today. At the time of the log, an end may be too far ahead.
        let mut limits = limits.clone();
        let latest = Duration::from_nanos(start) + MAX_OVERRIDE;
        limits.overrides.iter_mut().for_each(|one| one.until = one.until.min(latest));
        limits.apply_overrides(&limiter).await.map_err(|error| error.to_string())?;
    }
    // The replay reads only whether a request passes, so responses need no headers.
    RateLimitLayer::builder(limiter)
        .headers([])
        .retry_after(false)
        .on_rejection(|_| Response::new(Bytes::new()))
        .observe(observer)
        .build()
        .map_err(|error| error.to_string())
}

/// Answers as the log says.
#[derive(Clone)]
struct Handler {
    log: Arc<Log>,
    /// Whether it takes as long as the log says.
    waits: bool,
}

impl Service<Request<String>> for Handler {
    type Response = Response<String>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let line = number(request.extensions()).map(|number| self.log.lines[number as usize]);
        let (status, took) = line.map_or((200, 0), |line| (line.status, line.took));
        let mut response = Response::new(String::new());
        *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
        let waits = self.waits && took > 0;
        let wait = waits.then(|| Box::pin(sleep(Duration::from_nanos(took))));
        Answer { wait, response: Some(response) }
    }
}

/// A response, perhaps after a time.
struct Answer {
    wait: Option<Pin<Box<Sleep>>>,
    response: Option<Response<String>>,
}

impl Future for Answer {
    type Output = Result<Response<String>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(wait) = &mut self.wait {
            ready!(wait.as_mut().poll(context));
        }
        Poll::Ready(Ok(self.response.take().expect("it is polled until it is ready")))
    }
}

fn number(extensions: &http::Extensions) -> Option<u32> {
    extensions.get().map(|LineNumber(number)| *number)
}

/// Shows each request to the witness.
struct Observer<W>(Arc<Mutex<W>>);

impl<W: Witness> ResponseObserver for Observer<W> {
    fn start(&self, _: &Limiter, request: &Parts) -> Box<dyn PendingResponse> {
        let line = number(&request.extensions).unwrap_or_default();
        Box::new(Pending { line, witness: Arc::clone(&self.0) })
    }
}

struct Pending<W> {
    line: u32,
    witness: Arc<Mutex<W>>,
}

impl<W: Witness> PendingResponse for Pending<W> {
    fn finish(self: Box<Self>, ended: Ended<'_>) {
        if let Some(decision) = ended.decision {
            lock(&self.witness).decided(self.line, decision);
        }
    }
}

fn lock<W>(witness: &Mutex<W>) -> MutexGuard<'_, W> {
    witness.lock().unwrap_or_else(PoisonError::into_inner)
}
