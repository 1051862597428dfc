//! Costs that are known when a request has ended: what its meter has counted.

use std::{
    collections::BTreeMap,
    future::{Future, pending, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full};
use proptest::{collection::vec, option, prelude::*, sample::select};
use tokio::{sync::mpsc, time::advance};
use tower::{Layer, Service, ServiceExt, service_fn, util::BoxCloneService};
use tower_quota::{
    Algorithm, Clock, HeaderStyle, Limiter, LimiterBuilder, Meter, Now, Policy, Quota, RateLimit,
    RateLimitLayer, ResponseBody,
    store::{Charge, Correction, MemoryStore, Store, StoreError, StoreFuture},
};

use crate::by_key::policy;

type Error = Box<dyn std::error::Error + Send + Sync>;
type Request_ = Request<()>;

const DAY: Duration = Duration::from_secs(86_400);
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

/// A day that has just begun.
fn builder() -> LimiterBuilder {
    Limiter::builder().clock(Clock::tokio(UNIX_EPOCH + DAY))
}

/// Reserves what the header `x-estimate` says.
fn metered(name: &str, algorithm: Algorithm, quota: Quota) -> Policy {
    let cost = |request: &http::request::Parts| {
        request.headers["x-estimate"].to_str().unwrap().parse().unwrap()
    };
    policy(name, algorithm, quota).cost(cost).settle_at_end()
}

fn limiter(policies: impl IntoIterator<Item = Policy>) -> Limiter {
    policies.into_iter().fold(builder(), LimiterBuilder::policy).build().unwrap()
}

fn request(estimate: u64) -> Request_ {
    Request::get("/").header("x-key", "k").header("x-estimate", estimate).body(()).unwrap()
}

fn left(limiter: &Limiter, policy: &str) -> u64 {
    let peeked = limiter.peek(policy, "k").at_once().unwrap();
    peeked.outcomes().chain(peeked.dry_runs()).next().unwrap().remaining()
}

/// A body that gives what it is sent.
struct Stream {
    frames: mpsc::UnboundedReceiver<Result<Bytes, Error>>,
    knows_its_end: bool,
}

impl http_body::Body for Stream {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let frame = std::task::ready!(self.frames.poll_recv(context));
        assert!(!matches!(&frame, Some(Ok(frame)) if frame == "panic"), "on purpose");
        Poll::Ready(frame.map(|frame| frame.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.knows_its_end && self.frames.is_closed() && self.frames.is_empty()
    }
}

/// A response under way: its body, what sends to it, and the handler's meter.
struct Streaming {
    body: Pin<Box<ResponseBody<Stream>>>,
    sender: mpsc::UnboundedSender<Result<Bytes, Error>>,
    meter: Meter,
    status: StatusCode,
    headers: http::HeaderMap,
}

impl Streaming {
    /// `None` if the request is refused.
    async fn begin(layer: &RateLimitLayer, request: Request_, knows_its_end: bool) -> Option<Self> {
        let taken = Arc::new(Mutex::new(None));
        let handler = {
            let taken = Arc::clone(&taken);
            service_fn(move |request: Request_| {
                let (sender, frames) = mpsc::unbounded_channel();
                let meter = Meter::from_extensions(request.extensions());
                *taken.lock().unwrap() = Some((sender, meter));
                async move { Ok::<_, Error>(Response::new(Stream { frames, knows_its_end })) }
            })
        };
        let response = layer.layer(handler).oneshot(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let (sender, meter) = taken.lock().unwrap().take()?;
        Some(Self { body: Box::pin(response.into_body()), sender, meter, status, headers })
    }

    async fn of(limiter: &Limiter, estimate: u64) -> Self {
        let layer = RateLimitLayer::new(limiter.clone());
        let streaming = Self::begin(&layer, request(estimate), false).await;
        streaming.expect("it passes")
    }

    async fn frame(&mut self) -> Option<Result<Bytes, Error>> {
        let frame = poll_fn(|context| self.body.as_mut().poll_frame(context)).await;
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    /// Reads to the end, which the last sender makes.
    async fn end(self) {
        let Self { body, sender, meter, .. } = self;
        drop(sender);
        body.collect().await.unwrap();
        drop(meter);
    }
}

type Handler = BoxCloneService<Request_, Response<Full<Bytes>>, Error>;

fn handler<F>(answer: impl Fn(Meter) -> F + Clone + Send + 'static) -> Handler
where
    F: Future<Output = Result<Response<Full<Bytes>>, Error>> + Send + 'static,
{
    BoxCloneService::new(service_fn(move |request: Request_| {
        answer(Meter::from_extensions(request.extensions()))
    }))
}

fn layered(limiter: &Limiter, handler: Handler) -> RateLimit<Handler> {
    RateLimitLayer::new(limiter.clone()).layer(handler)
}

/// The ways in which a request ends, each after the units were added.
#[derive(Clone, Copy, Debug)]
enum Way {
    BodyRead,
    LastFrameOfKnownLength,
    BodyFails,
    BodyPanics,
    BodyDropped,
    BodyNeverRead,
    HandlerFails,
    HandlerPanics,
    CallerLeavesBeforeTheHead,
    NoBody,
    TaskAborted,
}

async fn end(limiter: &Limiter, way: Way, units: Option<u64>) {
    use Way::*;
    let add = move |meter: &Meter| units.into_iter().for_each(|units| meter.add(units));
    let known_length = matches!(way, LastFrameOfKnownLength);
    let layer = RateLimitLayer::new(limiter.clone());
    let begin = async || {
        let streaming = Streaming::begin(&layer, request(300), known_length).await.unwrap();
        assert_eq!(left(limiter, "p"), 700, "{way:?}: the estimate is reserved");
        add(&streaming.meter);
        streaming.sender.send(Ok("one".into())).unwrap();
        assert_eq!(left(limiter, "p"), 700, "{way:?}");
        streaming
    };
    // The meter of each stream is kept, so that only the end of the body can settle.
    match way {
        BodyRead => {
            let Streaming { mut body, sender, meter, .. } = begin().await;
            assert!(body.frame().await.is_some());
            assert_eq!(left(limiter, "p"), 700);
            drop(sender);
            assert!(body.frame().await.is_none());
            assert_ne!((left(limiter, "p"), units.is_some()), (700, true), "it has ended");
            drop((body, meter));
        }
        LastFrameOfKnownLength => {
            let Streaming { mut body, sender, meter, .. } = begin().await;
            drop(sender);
            assert!(body.frame().await.is_some() && body.is_end_stream());
            assert_ne!((left(limiter, "p"), units.is_some()), (700, true), "it has ended");
            drop((body, meter));
        }
        BodyFails => {
            let mut streaming = begin().await;
            streaming.sender.send(Err("broken".into())).unwrap();
            assert!(streaming.frame().await.unwrap().is_ok());
            assert!(streaming.frame().await.unwrap().is_err());
            assert_ne!((left(limiter, "p"), units.is_some()), (700, true), "it has ended");
        }
        BodyPanics => {
            let mut streaming = begin().await;
            streaming.sender.send(Ok("panic".into())).unwrap();
            let reads = async move { while streaming.frame().await.is_some() {} };
            assert!(tokio::spawn(reads).await.unwrap_err().is_panic());
        }
        BodyDropped => {
            let mut streaming = begin().await;
            assert!(streaming.frame().await.is_some());
            let Streaming { body, meter, .. } = streaming;
            drop(body);
            assert_ne!((left(limiter, "p"), units.is_some()), (700, true), "it has ended");
            drop(meter);
        }
        BodyNeverRead => drop(begin().await),
        HandlerFails => {
            let fails = handler(move |meter| {
                add(&meter);
                async { Err("broken".into()) }
            });
            layered(limiter, fails).oneshot(request(300)).await.unwrap_err();
        }
        HandlerPanics => {
            let panics = handler(move |meter| async move {
                add(&meter);
                panic!("on purpose")
            });
            let response = layered(limiter, panics).oneshot(request(300));
            assert!(tokio::spawn(response).await.unwrap_err().is_panic());
        }
        CallerLeavesBeforeTheHead => {
            let never = handler(move |meter| async move {
                add(&meter);
                pending().await
            });
            let mut response = Box::pin(layered(limiter, never).oneshot(request(300)));
            let mut context = Context::from_waker(Waker::noop());
            assert!(response.as_mut().poll(&mut context).is_pending());
            assert_eq!(left(limiter, "p"), 700);
        }
        NoBody => {
            let empty = handler(move |meter| async move {
                add(&meter);
                Ok(Response::default())
            });
            drop(layered(limiter, empty).oneshot(request(300)).await.unwrap());
        }
        TaskAborted => {
            let mut streaming = begin().await;
            let task = tokio::spawn(async move { while streaming.frame().await.is_some() {} });
            tokio::task::yield_now().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_way_a_request_ends_it_costs_what_its_meter_has_counted() {
    use Way::*;
    for algorithm in ALGORITHMS {
        for way in [
            BodyRead,
            LastFrameOfKnownLength,
            BodyFails,
            BodyPanics,
            BodyDropped,
            BodyNeverRead,
            HandlerFails,
            HandlerPanics,
            CallerLeavesBeforeTheHead,
            NoBody,
            TaskAborted,
        ] {
            // What nobody has counted costs what was reserved.
            for (units, cost) in [(None, 300), (Some(0), 0), (Some(120), 120), (Some(800), 800)] {
                let limiter = limiter([metered("p", algorithm, Quota::per_day(1_000))]);
                end(&limiter, way, units).await;
                let context = format!("{algorithm:?}, {way:?}, {units:?}");
                assert_eq!(left(&limiter, "p"), 1_000 - cost, "{context}");
            }
        }
    }
}

/// A naive model of one key: each request with its time in seconds, and what it has used.
enum Model {
    /// Windows of a minute, or of the last minute: the units of each second.
    Windows { fixed: bool, units: u64, used: BTreeMap<u64, u64> },
    /// One unit comes back each second.
    Bucket { capacity: u64, missing: u64, at: u64 },
}

/// A request of the model: when it began, what is charged, and what was missing then.
#[derive(Clone, Copy)]
struct Modelled {
    at: u64,
    charged: u64,
    missing: u64,
}

impl Model {
    fn new(algorithm: Algorithm, units: u64) -> Self {
        match algorithm {
            Algorithm::TokenBucket => Self::Bucket { capacity: units, missing: 0, at: 0 },
            _ => {
                let fixed = algorithm == Algorithm::FixedWindow;
                Self::Windows { fixed, units, used: BTreeMap::new() }
            }
        }
    }

    fn used(&mut self, now: u64) -> u64 {
        match self {
            Self::Windows { fixed, used, .. } => {
                let counts = |at: u64| if *fixed { at / 60 == now / 60 } else { at + 60 > now };
                used.iter().filter(|(at, _)| counts(**at)).map(|(_, units)| units).sum()
            }
            Self::Bucket { missing, at, .. } => {
                *missing = missing.saturating_sub(now - *at);
                *at = now;
                *missing
            }
        }
    }

    fn capacity(&self) -> u64 {
        match self {
            Self::Windows { units, .. } => *units,
            Self::Bucket { capacity, .. } => *capacity,
        }
    }

    fn left(&mut self, now: u64) -> u64 {
        self.capacity().saturating_sub(self.used(now))
    }

    fn begin(&mut self, now: u64, estimate: u64) -> Option<Modelled> {
        let missing = self.used(now) + estimate;
        if missing > self.capacity() {
            return None;
        }
        match self {
            Self::Windows { used, .. } => *used.entry(now).or_default() += estimate,
            Self::Bucket { missing, .. } => *missing += estimate,
        }
        Some(Modelled { at: now, charged: estimate, missing })
    }

    fn end(&mut self, now: u64, request: Modelled, cost: u64) {
        let before = self.used(now);
        let Modelled { at, charged, missing: then } = request;
        match self {
            Self::Windows { used, .. } => {
                let units = used.get_mut(&at).unwrap();
                *units = *units + cost - charged;
            }
            // A debt is at most one capacity. What has come back by itself is not given back.
            Self::Bucket { capacity, missing, .. } if cost > charged => {
                *missing = (before + cost - charged).min(before.max(2 * *capacity));
            }
            Self::Bucket { missing, .. } => {
                let back = (charged - cost).min(then.saturating_sub(now - at));
                *missing = before.saturating_sub(back);
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Event {
    /// A request that is admitted lasts until another event ends it.
    Begin {
        estimate: u64,
    },
    Add {
        which: usize,
        units: u64,
    },
    End {
        which: usize,
        dropped: bool,
    },
    Later {
        seconds: u64,
    },
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        4 => (1_u64..12).prop_map(|estimate| Event::Begin { estimate }),
        5 => (0_usize..6, 0_u64..9).prop_map(|(which, units)| Event::Add { which, units }),
        3 => (0_usize..6, any::<bool>()).prop_map(|(which, dropped)| Event::End { which, dropped }),
        3 => select(&[1_u64, 7, 20, 59, 60, 61, 130]).prop_map(|seconds| Event::Later { seconds }),
    ];
    vec(event, 1..60)
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Requests at once, of which each ends some time, perhaps in another window.
    #[test]
    fn a_naive_model_of_all_requests_agrees(algorithm in select(&ALGORITHMS), events in events()) {
        const UNITS: u64 = 20;
        paused(async {
            let quota = match algorithm {
                Algorithm::TokenBucket => Quota::per_minute(60).burst(UNITS),
                _ => Quota::per_minute(UNITS),
            };
            let limiter = limiter([metered("p", algorithm, quota)]);
            let layer = RateLimitLayer::new(limiter.clone());
            let (mut model, mut now) = (Model::new(algorithm, UNITS), 0);
            let mut under_way: Vec<(Streaming, Modelled, Option<u64>)> = Vec::new();
            for event in events {
                match event {
                    Event::Begin { estimate } => {
                        let streaming = Streaming::begin(&layer, request(estimate), false).await;
                        let modelled = model.begin(now, estimate);
                        prop_assert_eq!(streaming.is_some(), modelled.is_some());
                        let both = streaming.zip(modelled);
                        under_way.extend(both.map(|(streaming, modelled)| (streaming, modelled, None)));
                    }
                    Event::Add { which, units } => {
                        if let Some((streaming, _, used)) = under_way.get_mut(which) {
                            streaming.meter.add(units);
                            *used = Some(used.unwrap_or(0) + units);
                        }
                    }
                    Event::End { which, dropped } if which < under_way.len() => {
                        let (streaming, modelled, used) = under_way.remove(which);
                        model.end(now, modelled, used.unwrap_or(modelled.charged));
                        match dropped {
                            true => drop(streaming),
                            false => streaming.end().await,
                        }
                    }
                    Event::End { .. } => {}
                    Event::Later { seconds } => {
                        now += seconds;
                        advance(Duration::from_secs(seconds)).await;
                    }
                }
                prop_assert_eq!(left(&limiter, "p"), model.left(now));
            }
            // Whatever is owed is paid, and the key is as a new one.
            drop(under_way);
            advance(Duration::from_secs(120)).await;
            prop_assert_eq!(left(&limiter, "p"), UNITS);
            Ok(())
        })?;
    }

    /// Several policies at once, each with a meter of its own or all together.
    #[test]
    fn each_policy_counts_what_is_added_for_it(
        adds in vec((option::of(select(&["a", "b"])), 0_u64..50), 0..12),
    ) {
        paused(async {
            let both = ["a", "b"].map(|name| metered(name, Algorithm::FixedWindow, Quota::per_day(1_000)));
            let limiter = limiter(both);
            let streaming = Streaming::of(&limiter, 100).await;
            let mut used = BTreeMap::from([("a", None), ("b", None)]);
            for (policy, units) in &adds {
                match policy {
                    Some(policy) => streaming.meter.of(policy).add(*units),
                    None => streaming.meter.add(*units),
                }
                let counted = used.iter_mut().filter(|(name, _)| policy.is_none_or(|only| only == **name));
                counted.for_each(|(_, used)| *used = Some(used.unwrap_or(0) + units));
            }
            streaming.end().await;
            for (policy, used) in used {
                prop_assert_eq!(left(&limiter, policy), 1_000 - used.unwrap_or(100));
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_day_that_has_ended_gets_its_units_back_and_is_charged_and_today_is_not() {
    for used in [0, 10, 900] {
        let limiter = limiter([metered("p", Algorithm::FixedWindow, Quota::per_day(1_000))]);
        advance(DAY - Duration::from_secs(5)).await;
        let streaming = Streaming::of(&limiter, 400).await;
        streaming.meter.add(used);
        advance(Duration::from_secs(10)).await;
        assert_eq!(left(&limiter, "p"), 1_000);
        let today = Streaming::of(&limiter, 300).await;
        streaming.end().await;
        assert_eq!(left(&limiter, "p"), 700, "{used} of yesterday");
        today.meter.add(50);
        today.end().await;
        assert_eq!(left(&limiter, "p"), 950);
    }
}

/// The caller may choose the estimate: one of nothing would pass whatever is owed.
#[tokio::test(start_paused = true)]
async fn an_estimate_of_nothing_counts_as_one() {
    for algorithm in ALGORITHMS {
        let limiter = limiter([metered("tokens", algorithm, Quota::per_day(10))]);
        let decision = limiter.decide(&request(0).into_parts().0).await;
        assert_eq!(decision.outcome("tokens").unwrap().cost(), 1);
        decision.meter().add(25);
        drop(decision);
        let refused = limiter.decide(&request(0).into_parts().0).await;
        assert!(!refused.is_allowed(), "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_debt_is_told_bounded_and_paid_before_anything_passes() {
    let hour = Duration::from_secs(3_600);
    // A bucket of 100 units gets one each 36 seconds. It owes at most as many as it holds.
    for (algorithm, used, wait) in [
        (Algorithm::FixedWindow, 5_000, hour - Duration::from_secs(60)),
        (Algorithm::SlidingWindow, 5_000, hour - Duration::from_secs(60)),
        (Algorithm::TokenBucket, 150, Duration::from_secs(51 * 36 - 60)),
        (Algorithm::TokenBucket, 5_000, Duration::from_secs(101 * 36)),
    ] {
        let limiter = limiter([metered("p", algorithm, Quota::per_hour(100))]);
        let streaming = Streaming::of(&limiter, 80).await;
        streaming.meter.add(used);
        advance(Duration::from_secs(60)).await;
        streaming.end().await;
        let peeked = limiter.peek("p", "k").at_once().unwrap();
        assert_eq!((peeked.remaining(), peeked.retry_after()), (0, Some(wait)), "{algorithm:?}");
        let layer = RateLimitLayer::builder(limiter.clone()).headers([HeaderStyle::x_ratelimit()]);
        let refuses = handler(|_| async { unreachable!("nothing passes") });
        let refused = layer.build().unwrap().layer(refuses).oneshot(request(1)).await.unwrap();
        assert_eq!(refused.status(), 429);
        assert_eq!(refused.headers()["x-ratelimit-remaining"], "0");
        let told: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert_eq!(Duration::from_secs(told), wait);
        advance(wait - Duration::from_secs(1)).await;
        assert!(!limiter.check("p", "k").at_once().unwrap().is_allowed(), "{algorithm:?}");
        advance(Duration::from_secs(1)).await;
        assert!(limiter.check("p", "k").at_once().unwrap().is_allowed(), "{algorithm:?}");
    }
}

fn poll_now<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

#[tokio::test(start_paused = true)]
async fn a_stream_may_stop_when_what_was_reserved_for_it_is_used_up() {
    let limiter = limiter([
        metered("p", Algorithm::FixedWindow, Quota::per_day(1_000)),
        metered("dry", Algorithm::FixedWindow, Quota::per_day(10)).dry_run(),
        metered("tried", Algorithm::FixedWindow, Quota::per_day(1_000)).dry_run(),
    ]);
    let streaming = Streaming::of(&limiter, 5).await;
    let meter = streaming.meter.clone();
    let waiting = meter.clone();
    let mut waits = pin!(waiting.exhausted());
    assert!(poll_now(waits.as_mut()).is_pending());
    assert_eq!(meter.left(), 5);
    // What others use or owe is no matter of this request.
    let other = Streaming::of(&limiter, 900).await;
    other.meter.add(5_000);
    assert!(poll_now(pin!(other.meter.exhausted())).is_ready());
    other.end().await;
    let woken = tokio::spawn({
        let meter = meter.clone();
        async move { meter.exhausted().await }
    });
    tokio::task::yield_now().await;
    meter.of("tried").add(100);
    meter.add(4);
    assert_eq!(meter.left(), 1, "a dry run stops no stream");
    assert!(poll_now(waits.as_mut()).is_pending());
    meter.add(1);
    woken.await.unwrap();
    assert!(poll_now(waits.as_mut()).is_ready());
    assert_eq!(meter.left(), 0);
    drop(streaming);

    // Nothing that is not counted is ever used up.
    let nothing = Meter::default();
    nothing.add(9);
    assert_eq!((nothing.left(), nothing.of("p").left()), (u64::MAX, u64::MAX));
    assert!(poll_now(pin!(nothing.exhausted())).is_pending());
    assert_eq!(meter.of("tried").left(), u64::MAX);
}

#[tokio::test(start_paused = true)]
async fn what_is_added_after_the_end_is_charged_at_once() {
    let limiter = limiter([metered("p", Algorithm::FixedWindow, Quota::per_day(1_000))]);
    let Streaming { body, meter, .. } = Streaming::of(&limiter, 300).await;
    meter.add(10);
    drop(body);
    assert_eq!(left(&limiter, "p"), 990);
    meter.add(5);
    assert_eq!(left(&limiter, "p"), 985);
    meter.clone().add(0);
    drop(meter);
    assert_eq!(left(&limiter, "p"), 985, "it has settled once");

    // The estimate stays, until more was used.
    let Streaming { body, meter, .. } = Streaming::of(&limiter, 300).await;
    drop(body);
    assert_eq!(left(&limiter, "p"), 685);
    meter.add(299);
    assert_eq!(left(&limiter, "p"), 685);
    meter.add(11);
    drop(meter);
    assert_eq!(left(&limiter, "p"), 675);
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_settles_what_it_has_charged_and_nothing_else() {
    let limiter = limiter([metered("p", Algorithm::SlidingWindow, Quota::per_day(100)).dry_run()]);
    let first = Streaming::of(&limiter, 80).await;
    let refused = Streaming::of(&limiter, 80).await;
    refused.meter.add(1_000);
    refused.end().await;
    assert_eq!(left(&limiter, "p"), 20, "it was not charged");
    first.meter.add(30);
    first.end().await;
    assert_eq!(left(&limiter, "p"), 70);
    let more = Streaming::of(&limiter, 10).await;
    more.meter.add(500);
    more.end().await;
    assert_eq!(left(&limiter, "p"), 0);
    assert_eq!(Streaming::of(&limiter, 1).await.status, 200, "it refuses nobody");
}

#[tokio::test(start_paused = true)]
async fn an_unlimited_plan_and_a_request_that_is_not_counted_have_a_meter_of_nothing() {
    let planned = metered("p", Algorithm::FixedWindow, Quota::per_day(1_000));
    let limiter =
        limiter([planned
            .quota_by(|request| (request.headers["x-estimate"] == "7").then(Quota::unlimited))]);
    let free = Streaming::of(&limiter, 7).await;
    free.meter.add(5_000);
    assert_eq!(free.meter.left(), u64::MAX);
    free.end().await;
    assert_eq!(left_of_plan(&limiter), 1_000);
    let counted = Streaming::of(&limiter, 8).await;
    counted.meter.of("of nobody").add(100);
    counted.end().await;
    assert_eq!(left_of_plan(&limiter), 992);
}

fn left_of_plan(limiter: &Limiter) -> u64 {
    limiter.peek("p", "k").quota(Quota::per_day(1_000)).at_once().unwrap().remaining()
}

#[cfg(feature = "axum")]
#[tokio::test(start_paused = true)]
async fn in_axum_the_meter_is_an_argument_that_is_always_there() {
    let limiter = limiter([metered("p", Algorithm::FixedWindow, Quota::per_day(1_000))]);
    let app = axum::Router::new().route(
        "/",
        axum::routing::get(|meter: Meter| async move {
            meter.add(3);
            format!("{meter:?}")
        }),
    );
    let request = || request(8).map(|()| axum::body::Body::empty());
    let without = app.clone().oneshot(request()).await.unwrap();
    assert_eq!(without.into_body().collect().await.unwrap().to_bytes(), "{}");
    let app = app.layer(RateLimitLayer::new(limiter.clone()));
    let with = app.oneshot(request()).await.unwrap();
    assert_eq!(with.into_body().collect().await.unwrap().to_bytes(), r#"{"p": 3}"#);
    assert_eq!(left(&limiter, "p"), 997);
}

#[tokio::test(start_paused = true)]
async fn a_held_request_passes_when_another_ends_below_its_estimate() {
    let policy = metered("p", Algorithm::FixedWindow, Quota::per_day(100));
    let limiter = limiter([policy.hold(2 * DAY)]);
    let first = Streaming::of(&limiter, 90).await;
    let layer = RateLimitLayer::new(limiter.clone());
    let held = tokio::spawn(async move { Streaming::begin(&layer, request(50), false).await });
    tokio::task::yield_now().await;
    assert!(!held.is_finished());
    first.meter.add(40);
    first.end().await;
    let second = held.await.unwrap().unwrap();
    assert_eq!(left(&limiter, "p"), 10);
    second.meter.add(1);
    second.end().await;
    assert_eq!(left(&limiter, "p"), 59);
}

#[tokio::test(start_paused = true)]
async fn a_reset_and_other_limits_meanwhile_leave_it_its_cost() {
    let limits = |policy: Policy| Limiter::builder().policy(policy);
    for algorithm in ALGORITHMS {
        let policy = |units| metered("p", algorithm, Quota::per_day(units));
        let limiter = limiter([policy(1_000)]);
        let streaming = Streaming::of(&limiter, 600).await;
        let _ = limiter.reset("p", "k").at_once().unwrap();
        streaming.meter.add(100);
        streaming.end().await;
        assert_eq!(left(&limiter, "p"), 1_000, "{algorithm:?}: never more than the quota");
        let streaming = Streaming::of(&limiter, 600).await;
        let _ = limiter.reset("p", "k").at_once().unwrap();
        streaming.meter.add(650);
        streaming.end().await;
        assert_eq!(left(&limiter, "p"), 950, "{algorithm:?}: what is more than was reserved");
        let _ = limiter.reset("p", "k").at_once().unwrap();

        // Another quota, a policy that settles no more, and one that is gone and comes back.
        let streamings = [Streaming::of(&limiter, 200).await, Streaming::of(&limiter, 200).await];
        let third = Streaming::of(&limiter, 200).await;
        limiter.apply(limits(policy(2_000))).unwrap();
        assert_eq!(left(&limiter, "p"), 1_400, "{algorithm:?}");
        for streaming in streamings {
            streaming.meter.add(50);
            streaming.end().await;
            let plain = crate::by_key::policy("p", algorithm, Quota::per_day(2_000));
            limiter.apply(limits(plain)).unwrap();
        }
        assert_eq!(left(&limiter, "p"), 1_700, "{algorithm:?}");
        let other = crate::by_key::policy("other", algorithm, Quota::per_day(9));
        limiter.apply(limits(other)).unwrap();
        third.meter.add(300);
        third.end().await;
        limiter.apply(limits(policy(2_000))).unwrap();
        assert_eq!(left(&limiter, "p"), 1_600, "{algorithm:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_head_settles_first_and_the_meter_goes_on_from_there() {
    for algorithm in ALGORITHMS {
        for (head, units, cost) in [
            (None, None, 300),
            (Some(0), None, 0),
            (Some(500), None, 500),
            (Some(0), Some(20), 20),
            (Some(500), Some(20), 20),
            (Some(100), Some(700), 700),
            (Some(500), Some(500), 500),
        ] {
            let policy = metered("p", algorithm, Quota::per_day(1_000));
            let limiter = limiter([policy.settle(move |_| head)]);
            let Streaming { body, meter, headers, .. } = Streaming::of(&limiter, 300).await;
            let told = (1_000 - head.unwrap_or(300)).to_string();
            assert_eq!(headers["x-ratelimit-remaining"], *told, "{algorithm:?}");
            units.into_iter().for_each(|units| meter.add(units));
            assert_eq!(
                meter.left(),
                head.unwrap_or(300) - units.unwrap_or(0).min(head.unwrap_or(300))
            );
            drop(body);
            assert_eq!(left(&limiter, "p"), 1_000 - cost, "{algorithm:?} {head:?} {units:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_that_settles_less_than_was_used_wakes_who_waits_for_the_end() {
    let policy = metered("p", ALGORITHMS[0], Quota::per_day(1_000)).settle(|_| Some(50));
    let limiter = limiter([policy]);
    let woken = Arc::new(AtomicBool::new(false));
    let handler = {
        let woken = Arc::clone(&woken);
        service_fn(move |request: Request_| {
            let woken = Arc::clone(&woken);
            async move {
                let meter = Meter::from_extensions(request.extensions());
                meter.add(60);
                tokio::spawn(async move {
                    meter.exhausted().await;
                    woken.store(true, SeqCst);
                });
                tokio::task::yield_now().await;
                Ok::<_, Error>(Response::new(Full::new(Bytes::from("x"))))
            }
        })
    };
    let response = RateLimitLayer::new(limiter).layer(handler).oneshot(request(100)).await.unwrap();
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    assert!(woken.load(SeqCst), "nothing is left");
    drop(response);
}

#[test]
fn the_meter_of_a_reservation_counts_nothing() {
    for commits in [true, false] {
        let limiter = builder()
            .check_only(Policy::fixed_window("p", Quota::per_day(1_000)).settle_at_end())
            .build()
            .unwrap();
        let _ = limiter.check("p", "k").cost(500).at_once().unwrap();
        let reservation = limiter.reserve(["p"], "k").cost("p", 100).at_once().unwrap();
        let meter = reservation.decision().meter();
        meter.add(60);
        match commits {
            true => drop(reservation.commit([("p", 60)])),
            false => drop(reservation),
        }
        drop(meter);
        assert_eq!(left(&limiter, "p"), if commits { 440 } else { 500 });
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_policy_of_a_waterfall_has_the_meter_of_the_one_that_is_drawn_on() {
    let credits = metered("credits", ALGORITHMS[1], Quota::per_day(1_000));
    let tokens = metered("tokens", ALGORITHMS[1], Quota::per_day(50)).or_else(credits);
    let limiter = limiter([tokens]);
    for (estimate, left_of_credits, left_of_tokens) in [(100, 300, 50), (40, 300, 0)] {
        let decision = limiter.decide(&request(estimate).into_parts().0).await;
        let meter = decision.meter().of("tokens");
        assert_eq!(meter.left(), estimate);
        meter.add(700);
        drop((decision, meter));
        assert_eq!(left(&limiter, "credits"), left_of_credits);
        assert_eq!(left(&limiter, "tokens"), left_of_tokens);
    }
}

#[tokio::test(start_paused = true)]
async fn a_meter_counts_for_the_layers_around_as_well() {
    let outer = limiter([metered("outer", Algorithm::FixedWindow, Quota::per_day(1_000))]);
    let inner = limiter([metered("inner", Algorithm::FixedWindow, Quota::per_day(1_000))]);
    let answers = handler(|meter| async move {
        assert_eq!(meter.left(), 30);
        meter.add(25);
        meter.of("outer").add(5);
        assert_eq!((meter.left(), meter.of("inner").left()), (0, 5));
        meter.exhausted().await;
        Ok(Response::default())
    });
    let inside = RateLimitLayer::new(inner.clone()).layer(answers);
    let response = RateLimitLayer::new(outer.clone()).layer(inside).oneshot(request(30)).await;
    drop(response.unwrap());
    assert_eq!((left(&outer, "outer"), left(&inner, "inner")), (970, 975));
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_settles_with_the_last_clone_of_its_meter() {
    for (method, status) in [("GET", 101), ("CONNECT", 200)] {
        let limiter = limiter([metered("p", Algorithm::FixedWindow, Quota::per_day(1_000))]);
        let kept = Arc::new(Mutex::new(None));
        let upgrades = {
            let kept = Arc::clone(&kept);
            handler(move |meter| {
                *kept.lock().unwrap() = Some(meter);
                async move { Ok(Response::builder().status(status).body(Full::default())?) }
            })
        };
        let mut request = request(300);
        *request.method_mut() = method.parse().unwrap();
        drop(layered(&limiter, upgrades).oneshot(request).await.unwrap());
        let meter = kept.lock().unwrap().take().unwrap();
        meter.add(70);
        assert_eq!(left(&limiter, "p"), 700, "{method}: the connection is open");
        drop(meter);
        assert_eq!(left(&limiter, "p"), 930, "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_layer_it_ends_with_the_decision_and_its_meter() {
    let limiter = limiter([metered("p", Algorithm::FixedWindow, Quota::per_day(1_000))]);
    let decide = async || limiter.decide(&request(300).into_parts().0).await;
    assert!(decide().await.is_allowed());
    assert_eq!(left(&limiter, "p"), 700, "nobody has counted anything");
    let decision = decide().await;
    let meter = decision.meter();
    let copy = decision.clone();
    drop(decision);
    meter.add(10);
    assert_eq!(left(&limiter, "p"), 400);
    copy.meter().add(99);
    drop(meter);
    assert_eq!(left(&limiter, "p"), 690);
    let check = limiter.check("p", "k").cost(50).at_once().unwrap();
    check.meter().add(7);
    drop(check);
    assert_eq!(left(&limiter, "p"), 683);
    drop(copy);
    let reservation = limiter.reserve(["p"], "k").cost("p", 83).at_once().unwrap();
    assert_eq!(reservation.commit([("p", 80)]).at_once().unwrap().remaining(), 603);
    assert_eq!(left(&limiter, "p"), 603);
    assert_eq!(limiter.peek("p", "k").at_once().unwrap().meter().left(), u64::MAX);
}

/// A store in memory that corrects when it is told to.
#[derive(Clone, Default)]
struct SlowToCorrect {
    memory: Arc<MemoryStore>,
    answers: Arc<AtomicBool>,
}

impl Store for SlowToCorrect {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.memory.charge(charges, now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        let (this, answer) = (self.clone(), self.memory.correct(corrections, now));
        StoreFuture::later(async move {
            match this.answers.load(SeqCst) {
                true => answer.await,
                false => pending().await,
            }
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_head_waits_for_the_store_only_where_somebody_sees_its_numbers() {
    let settled =
        |name| policy(name, Algorithm::FixedWindow, Quota::per_day(9)).settle(|_| Some(0));
    let plain = |name| policy(name, Algorithm::FixedWindow, Quota::per_day(9));
    let lists = HeaderStyle::ratelimit_lists();
    let triple = HeaderStyle::x_ratelimit();
    for (policies, styles, header_policy, waits) in [
        (vec![settled("p")], vec![triple], None, true),
        (vec![settled("p")], vec![], None, false),
        (vec![settled("p").dry_run(), plain("q")], vec![triple, lists], None, false),
        (vec![settled("p"), plain("q")], vec![triple], Some("q"), false),
        (vec![settled("p"), plain("q")], vec![triple], Some("p"), true),
        (vec![settled("p"), plain("q")], vec![triple, lists], Some("q"), true),
        (vec![settled("p"), plain("q")], vec![triple], None, true),
    ] {
        let store = SlowToCorrect::default();
        let builder = policies.iter().cloned().fold(builder(), LimiterBuilder::policy);
        let limiter = builder.store(store.clone()).build().unwrap();
        let layer = RateLimitLayer::builder(limiter.clone()).headers(styles.clone());
        let layer = header_policy.into_iter().fold(layer, |layer, name| layer.header_policy(name));
        let answers = handler(|_| async { Ok(Response::default()) });
        let mut response = Box::pin(layer.build().unwrap().layer(answers).oneshot(request(1)));
        let context = format!("{policies:?} {styles:?} {header_policy:?}");
        assert_eq!(poll_now(response.as_mut()).is_pending(), waits, "{context}");
        let peeked = limiter.peek("p", "k").await.unwrap();
        let left = peeked.outcomes().chain(peeked.dry_runs()).next().unwrap().remaining();
        assert_eq!(left, 9, "it is corrected anyway: {context}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_correction_that_nobody_waits_for_wakes_who_is_held() {
    let store = SlowToCorrect::default();
    store.answers.store(true, SeqCst);
    let settled = policy("p", Algorithm::FixedWindow, Quota::per_day(1)).settle(|_| Some(0));
    let metered = metered("q", Algorithm::FixedWindow, Quota::per_day(1));
    for (policy, units) in [(settled, None), (metered, Some(0))] {
        let builder = builder().policy(policy.hold(2 * DAY)).store(store.clone());
        let layer = RateLimitLayer::builder(builder.build().unwrap()).headers([]).build().unwrap();
        let under_way = Streaming::begin(&layer, request(1), false).await.unwrap();
        let next = layer.clone();
        let held = async move { Streaming::begin(&next, request(1), false).await };
        match units {
            // Settled by its head: nothing is used.
            None => assert!(held.await.is_some()),
            Some(units) => {
                let held = tokio::spawn(held);
                tokio::task::yield_now().await;
                assert!(!held.is_finished());
                under_way.meter.add(units);
                under_way.end().await;
                assert!(held.await.unwrap().is_some());
            }
        }
    }
}

/// A store that is down when the request ends.
#[derive(Clone, Default)]
struct Fails(Arc<MemoryStore>, Arc<AtomicBool>);

impl Store for Fails {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        match self.1.load(SeqCst) {
            true => StoreFuture::ready(Err(StoreError::new("it is down"))),
            false => self.0.charge(charges, now),
        }
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        match self.1.load(SeqCst) {
            true => StoreFuture::ready(Err(StoreError::new("it is down"))),
            false => self.0.correct(corrections, now),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_this_replica_has_counted_alone_it_settles_alone() {
    let store = Fails::default();
    let policy = metered("p", Algorithm::FixedWindow, Quota::per_day(1_000));
    let limiter = builder().policy(policy).store(store.clone()).build().unwrap();
    let left = async || limiter.peek("p", "k").await.unwrap().remaining();
    let by_store = Streaming::of(&limiter, 100).await;
    store.1.store(true, SeqCst);
    let alone = Streaming::of(&limiter, 300).await;
    let begun_alone = Streaming::of(&limiter, 300).await;
    alone.meter.add(20);
    alone.end().await;
    assert_eq!(left().await, 1_000 - 20 - 300);
    // The store does not hear of this one: its estimate stays.
    by_store.meter.add(1);
    by_store.end().await;
    store.1.store(false, SeqCst);
    assert_eq!(left().await, 900);
    begun_alone.meter.add(0);
    begun_alone.end().await;
    assert_eq!(left().await, 900, "the store has not counted it");
}

/// The bytes and allocations of streams under way, for each.
fn memory_of(policy: Policy, streams: u64) -> (f64, f64) {
    let limiter = limiter([policy]);
    let layer = RateLimitLayer::builder(limiter).headers([]).build().unwrap();
    let mut service = layer.layer(handler(|_| async { Ok(Response::default()) }));
    let requests: Vec<_> = (0..streams).map(|_| request(1)).collect();
    let mut bodies = Vec::with_capacity(streams as usize);
    let counted = allocation_counter::measure(|| {
        for request in requests {
            let mut response = pin!(service.call(request));
            let Poll::Ready(Ok(response)) = poll_now(response.as_mut()) else { panic!() };
            bodies.push(response.into_body());
        }
    });
    assert_eq!(bodies.len() as u64, streams);
    let of_each = |number: i64| number as f64 / streams as f64;
    (of_each(counted.bytes_current), of_each(counted.count_current))
}

#[test]
fn ten_thousand_streams_with_a_meter_take_less_than_half_a_kilobyte_each() {
    let quota = Quota::per_day(1_000_000);
    let plain = memory_of(policy("p", Algorithm::FixedWindow, quota), 10_000);
    let metered = memory_of(metered("p", Algorithm::FixedWindow, quota), 10_000);
    // The requests are freed meanwhile: only the difference is of the meter.
    let (bytes, allocations) = (metered.0 - plain.0, metered.1 - plain.1);
    println!("a meter takes {bytes} bytes in {allocations} allocations");
    assert!(bytes < 512.0 && allocations < 2.1, "{plain:?} {metered:?}");
}

/// How many tokens four streams at once of 90 seconds use in an hour, under 10,000 per minute.
async fn streamed(algorithm: Algorithm, estimate: u64, cost: u64) -> u64 {
    let limiter = limiter([metered("tokens", algorithm, Quota::per_minute(10_000))]);
    let head = request(estimate).into_parts().0;
    let mut used = 0;
    for _ in 0..40 {
        let mut under_way = Vec::new();
        for _ in 0..4 {
            let decision = limiter.decide(&head).await;
            under_way.extend(decision.is_allowed().then_some(decision));
        }
        advance(Duration::from_secs(90)).await;
        for decision in under_way {
            decision.meter().add(cost);
            used += cost;
        }
    }
    used
}

/// The advice in the docs of `settle_at_end`.
#[tokio::test(start_paused = true)]
async fn only_an_estimate_of_the_most_limits_streams() {
    let all = 40 * 4 * 50_000;
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow] {
        assert_eq!(streamed(algorithm, 500, 50_000).await, all, "{algorithm:?}");
    }
    let by_bucket = streamed(Algorithm::TokenBucket, 500, 50_000).await;
    assert!(by_bucket > 610_000 && by_bucket < all, "{by_bucket} of {all}");
    for algorithm in ALGORITHMS {
        let used = streamed(algorithm, 4_000, 4_000).await;
        assert!(used > 300_000 && used <= 610_000, "{algorithm:?}: {used}");
    }
}
