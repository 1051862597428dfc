//! Sends requests through a layer, and asserts what becomes of them: [`TestClient`].

use std::{
    convert::Infallible,
    error::Error,
    fmt::{self, Write},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, header::RETRY_AFTER};
use http_body::Body;
use tower::{Layer, Service, ServiceExt, service_fn};

use super::{
    driver::{Driver, PATIENCE},
    exchange::{Answer, Answering, Exchange, Fate},
    recorder::{DecisionRecorder, RecordedDecision},
    request::TestRequest,
};
use crate::{
    clock::Clock,
    key::{PeerAddr, has_peer},
    layer::{ObservedBy, RateLimitLayer},
};

/// Sends requests through a layer or a whole service, and asserts how many of them pass. A failed assertion
/// panics, and says what each policy has decided about the first request that is not as expected.
///
/// - Requests are sent at once, in order: each is polled until it has a response or is held. An assertion is
///   about the requests of the last [`send`](Self::send), as they stand then.
/// - It works in a `#[test]`, without a runtime, and in a `#[tokio::test]`. It runs the requests on a tokio
///   runtime of its own. The runtime of a `#[tokio::test]` stands still meanwhile, unless it has several
///   threads. So if a handler uses a connection that was opened on that runtime, write
///   `#[tokio::test(flavor = "multi_thread")]`.
/// - The time stands still if the limiters have a [`Clock::manual`], which [`advance`](Self::advance) moves.
///   Only limits and held requests go by that clock. What sleeps on tokio's time, such as a handler or a
///   time-out, really waits, for 10 seconds at most.
///
/// ```
/// use std::time::Duration;
/// use http::Request;
/// use tower_quota::{
///     Clock, Limiter, Policy, Quota, RateLimitLayer, key::header, testing::TestClient,
/// };
///
/// let per_key =
///     Policy::token_bucket("per key", Quota::per_minute(60)).key(header("x-api-key")).or_refuse();
/// let limiter = Limiter::builder().clock(Clock::manual()).policy(per_key).build()?;
/// let ana = || Request::get("/v1/things").header("x-api-key", "ana");
///
/// TestClient::new(RateLimitLayer::new(limiter))
///     .send(100, ana())
///     .expect_admitted(60)
///     .expect_refused(40)
///     .expect_retry_after(Duration::from_secs(1))
///     .advance(Duration::from_secs(1))
///     .send(2, ana())
///     .expect_admitted(1)
///     .send(1, "/v1/things")
///     .expect_status(400); // no key
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
pub struct TestClient {
    service: Box<dyn Fn(Request<String>, bool) -> Answering + Send>,
    driver: Driver,
    /// The clocks of the limiters that are known: that of [`new`](Self::new), and of those that saw a request.
    clocks: Vec<Clock>,
    peer: Option<IpAddr>,
    /// Earlier requests that are held or open, and then the requests of the last call.
    exchanges: Vec<Exchange>,
    /// The index of the first request of the last call.
    last: usize,
}

impl TestClient {
    /// Sends through a layer to a service that answers 200, with the body `ok`.
    #[must_use]
    pub fn new(layer: RateLimitLayer) -> Self {
        let clock = layer.limiter().clock().clone();
        let service = service_fn(async |_: Request<String>| {
            Ok::<_, Infallible>(Response::new("ok".to_owned()))
        });
        Self { clocks: vec![clock], ..Self::of(layer.layer(service)) }
    }

    /// Sends to a service with any number of layers in it, such as an `axum::Router`.
    ///
    /// Bodies of requests are texts. A service that takes another type of body needs
    /// `tower::ServiceExt::map_request`.
    ///
    /// ```
    /// use axum::{Router, routing::get};
    /// use tower_quota::{Quota, RateLimitLayer, testing::TestClient};
    ///
    /// let app: Router = Router::new()
    ///     .route("/", get(|| async { "hello" }))
    ///     .layer(RateLimitLayer::per_ip(Quota::per_minute(2))?);
    /// let mut client = TestClient::of(app);
    /// client.send(3, "/").expect_admitted(2);
    /// client.from_ip([192, 0, 2, 2]).send(1, "/").expect_header("x-ratelimit-remaining", "1");
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    pub fn of<S, R>(service: S) -> Self
    where
        S: Service<Request<String>, Response = Response<R>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn Error + Send + Sync>>,
        R: Body<Data = Bytes> + Send + 'static,
        R::Error: fmt::Display,
    {
        let service = move |request, leave_open| {
            let service = service.clone();
            let answering = async move {
                let response =
                    service.oneshot(request).await.map_err(|error| error.into().to_string())?;
                Answer::read(response, leave_open).await
            };
            Box::pin(answering) as Answering
        };
        Self {
            service: Box::new(service),
            driver: Driver::new(),
            clocks: Vec::new(),
            peer: Some(Ipv4Addr::new(192, 0, 2, 1).into()),
            exchanges: Vec::new(),
            last: 0,
        }
    }

    /// Sets the address from which the next requests come, as the peer of the server. Default: 192.0.2.1. A
    /// request that has a [`PeerAddr`] or the like in its extensions keeps it.
    pub fn from_ip(&mut self, peer: impl Into<IpAddr>) -> &mut Self {
        self.peer = Some(peer.into());
        self
    }

    /// Sends the next requests without a peer, as from a server that does not put the peer into its requests.
    pub fn without_peer(&mut self) -> &mut Self {
        self.peer = None;
        self
    }

    /// Sends a request this number of times, and reads the responses to their ends.
    ///
    /// # Panics
    /// If a request is neither answered nor held after 10 seconds of real time, or the service panics.
    #[track_caller]
    pub fn send(&mut self, times: usize, request: impl Into<TestRequest>) -> &mut Self {
        self.start(times, request.into(), false)
    }

    /// Sends as [`send`](Self::send) does, and leaves the bodies of the responses unread until
    /// [`close`](Self::close): units [in flight](crate::Policy::in_flight) stay taken.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy, RateLimitLayer, testing::TestClient};
    ///
    /// let exports = Policy::in_flight("exports", 2).global();
    /// let limiter = Limiter::builder().policy(exports).build()?;
    /// TestClient::new(RateLimitLayer::new(limiter))
    ///     .open(3, "/export")
    ///     .expect_admitted(2)
    ///     .close()
    ///     .open(1, "/export")
    ///     .expect_admitted(1);
    /// # Ok::<(), tower_quota::BuildError>(())
    /// ```
    ///
    /// # Panics
    /// As [`send`](Self::send) does.
    #[track_caller]
    pub fn open(&mut self, times: usize, request: impl Into<TestRequest>) -> &mut Self {
        self.start(times, request.into(), true)
    }

    /// Drops the bodies of all responses that are [open](Self::open).
    ///
    /// # Panics
    /// As [`send`](Self::send) does: held requests may pass now.
    #[track_caller]
    pub fn close(&mut self) -> &mut Self {
        self.exchanges.iter_mut().for_each(Exchange::close);
        self.run()
    }

    /// Moves the clocks of the layer of [`new`](Self::new), and of all limiters that have seen a request. They all
    /// have to be [`Clock::manual`]. Each held request passes at the time at which it is due.
    ///
    /// # Panics
    /// If a limiter has another clock, if no limiter is known, or as [`send`](Self::send) does.
    #[track_caller]
    pub fn advance(&mut self, by: Duration) -> &mut Self {
        assert!(
            !self.clocks.is_empty(),
            "no limiter has seen a request yet, so there is no clock to move; send a request first, or move \
             the clock itself"
        );
        let mut left = by;
        loop {
            let next = self.clocks.iter().filter_map(Clock::next_deadline).min();
            let step = next.map_or(left, |next| next.min(left));
            self.clocks.iter().for_each(|clock| clock.advance(step));
            self.run();
            left = left.saturating_sub(step);
            if left.is_zero() {
                return self;
            }
        }
    }

    /// Asserts how many of the requests of the last call have passed all limits, whatever the service has
    /// answered. Requests that no layer has seen do not count.
    ///
    /// # Panics
    /// If it is another number.
    #[track_caller]
    pub fn expect_admitted(&mut self, times: usize) -> &mut Self {
        self.expect(Fate::Admitted, times)
    }

    /// Asserts how many of the requests of the last call were refused by a layer. With 0, it also asserts that a
    /// layer has decided about each of them. For requests that no layer decides about, use
    /// [`expect_admitted(0)`](Self::expect_admitted).
    ///
    /// # Panics
    /// If it is another number; or with 0, if a request was answered without a decision.
    #[track_caller]
    #[expect(clippy::panic, reason = "the assertion fails")]
    pub fn expect_refused(&mut self, times: usize) -> &mut Self {
        self.expect(Fate::Refused, times);
        let undecided = |exchange: &&Exchange| exchange.fate() == Fate::Undecided;
        match self.last().iter().find(undecided).filter(|_| times == 0) {
            Some(first) => panic!(
                "expected no request to be refused; but no layer has decided about\n  {first}"
            ),
            None => self,
        }
    }

    /// Asserts how many of the requests of the last call are held now: they have no response yet, as they
    /// wait for a clock.
    ///
    /// # Panics
    /// If it is another number.
    #[track_caller]
    pub fn expect_held(&mut self, times: usize) -> &mut Self {
        self.expect(Fate::Held, times)
    }

    /// Asserts for how many requests of the last call the service has failed: it returned an error instead of a
    /// response, or the body failed.
    ///
    /// # Panics
    /// If it is another number.
    #[track_caller]
    pub fn expect_failed(&mut self, times: usize) -> &mut Self {
        self.expect(Fate::Failed, times)
    }

    /// Asserts that a policy has counted each request of the last call, or has refused it for its key. A policy
    /// that is not reached, that skips requests without its key, or whose quota is unlimited, has counted
    /// none, though all requests pass.
    ///
    /// ```
    /// use tower_quota::{Clock, Limiter, Policy, Quota, RateLimitLayer, key, testing::TestClient};
    ///
    /// let per_user = Policy::token_bucket("per user", Quota::per_minute(60)).key(key::bearer()).or_skip();
    /// let limiter = Limiter::builder().clock(Clock::manual()).policy(per_user).build()?;
    /// let mut client = TestClient::new(RateLimitLayer::new(limiter));
    /// let request = http::Request::get("/").header("authorization", "Bearer sk_1").body("")?;
    /// client.send(1, request).expect_counted_by("per user");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Panics
    /// If it has not counted one of them, or if there is none.
    #[track_caller]
    #[expect(clippy::panic, reason = "the assertion fails")]
    pub fn expect_counted_by(&mut self, policy: &str) -> &mut Self {
        self.run();
        let is_counted = |exchange: &Exchange| {
            let decisions = exchange.decisions();
            let mut decided = decisions.iter().filter_map(RecordedDecision::decision);
            decided.any(|decision| {
                let mut all = decision.outcomes().chain(decision.dry_runs());
                all.any(|outcome| outcome.policy() == policy)
            })
        };
        assert!(!self.last().is_empty(), "expected requests, but none was sent");
        let mut numbered = self.last().iter().zip(1..);
        if let Some((exchange, number)) = numbered.find(|(exchange, _)| !is_counted(exchange)) {
            panic!(
                "expected policy `{policy}` to count each request; the first that it has not counted is \
                 request {number}:\n  {exchange}"
            );
        }
        self
    }

    /// Asserts the status of the last response.
    ///
    /// # Panics
    /// If it is another one, or if the last request has no response.
    #[track_caller]
    pub fn expect_status(&mut self, status: u16) -> &mut Self {
        self.expect_last(&format_args!("the status {status}"), |response| {
            response.status().as_u16() == status
        })
    }

    /// Asserts that the last response has this header once, with this value.
    ///
    /// # Panics
    /// If it has not, or if the last request has no response.
    #[track_caller]
    pub fn expect_header(&mut self, name: &str, value: &str) -> &mut Self {
        self.expect_last(&format_args!("the header `{name}: {value}`"), |response| {
            let mut values = response.headers().get_all(name).iter();
            values.next().is_some_and(|found| found == value) && values.next().is_none()
        })
    }

    /// Asserts the `Retry-After` of the last response, which is in whole seconds.
    ///
    /// # Panics
    /// If it is another one or none, if the last request has no response, or if `wait` has a fraction of a
    /// second.
    #[track_caller]
    pub fn expect_retry_after(&mut self, wait: Duration) -> &mut Self {
        assert!(
            wait.subsec_nanos() == 0,
            "`Retry-After` has whole seconds, and no response has one of {wait:?}; limits round up"
        );
        self.expect_header(RETRY_AFTER.as_str(), &wait.as_secs().to_string())
    }

    /// The responses to the requests of the last call that have one, with their whole bodies. The body of an
    /// [open](Self::open) response is left out.
    pub fn responses(&self) -> impl DoubleEndedIterator<Item = &Response<Bytes>> {
        self.last().iter().filter_map(Exchange::response)
    }

    /// What layers have decided about the requests of the last call, in order.
    #[must_use]
    pub fn decisions(&self) -> Vec<RecordedDecision> {
        self.last().iter().flat_map(Exchange::decisions).collect()
    }

    fn last(&self) -> &[Exchange] {
        self.exchanges.get(self.last..).unwrap_or_default()
    }

    #[track_caller]
    fn start(&mut self, times: usize, request: TestRequest, leave_open: bool) -> &mut Self {
        self.exchanges.retain(|exchange| exchange.is_under_way() || exchange.is_open());
        self.last = self.exchanges.len();
        for _ in 0..times {
            let recorder = DecisionRecorder::new();
            let (mut head, body) = request.0.clone().into_parts();
            if let Some(peer) = self.peer.filter(|_| !has_peer(&head)) {
                head.extensions.insert(PeerAddr((peer, 50_000).into()));
            }
            let description = format!("{} {}", head.method, head.uri.path());
            head.extensions.insert(ObservedBy(Arc::new(recorder.clone())));
            let answering = (self.service)(Request::from_parts(head, body), leave_open);
            self.exchanges.push(Exchange::new(description, recorder, answering));
        }
        self.run()
    }

    /// Runs the requests until each is answered or held.
    #[track_caller]
    #[expect(clippy::panic, reason = "a test whose requests hang fails")]
    fn run(&mut self) -> &mut Self {
        if !self.driver.run(&mut self.exchanges, &mut self.clocks) {
            let hanging: Vec<_> =
                self.exchanges.iter().filter(|exchange| exchange.is_under_way()).collect();
            let first = hanging.first().map_or_else(String::new, ToString::to_string);
            panic!(
                "{} requests are neither answered nor held after {PATIENCE:?}; the first is {first}\n\
                 A handler may wait for the runtime of a `#[tokio::test]`, which stands still meanwhile: write \
                 `#[tokio::test(flavor = \"multi_thread\")]`. If the response has no end, send the request \
                 with `open`.",
                hanging.len(),
            );
        }
        self
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "the assertion fails")]
    fn expect(&mut self, fate: Fate, times: usize) -> &mut Self {
        // Since the last call, the test may have moved a clock or changed the store's fault.
        self.run();
        let count = |fate| self.last().iter().filter(|exchange| exchange.fate() == fate).count();
        let found = count(fate);
        if found == times {
            return self;
        }
        let all = self.last().len();
        let mut message = format!("expected {times} of {all} requests to be {fate}; of them,");
        for fate in Fate::ALL.into_iter().filter(|fate| count(*fate) > 0) {
            let _ = write!(message, " {} were {fate},", count(fate));
        }
        let mut message = message.trim_end_matches(',').to_owned();
        let mut numbered = self.last().iter().zip(1..);
        let differing = match found < times {
            true => numbered.find(|(exchange, _)| exchange.fate() != fate),
            false => numbered.filter(|(exchange, _)| exchange.fate() == fate).nth(times),
        };
        if let Some((exchange, number)) = differing {
            let _ = write!(
                message,
                "\nthe first that is not as expected is request {number}:\n  {exchange}"
            );
        }
        panic!("{message}")
    }

    #[track_caller]
    #[expect(clippy::panic, reason = "the assertion fails")]
    fn expect_last(
        &mut self,
        what: &fmt::Arguments<'_>,
        holds: impl FnOnce(&Response<Bytes>) -> bool,
    ) -> &mut Self {
        self.run();
        let Some(last) = self.last().last() else {
            panic!("expected {what}, but no request was sent")
        };
        if last.response().is_some_and(holds) {
            return self;
        }
        let mut message = format!("expected {what} of the last response:\n  {last}");
        if let Some(response) = last.response() {
            for (name, value) in response.headers() {
                let _ = write!(message, "\n    {name}: {}", value.as_bytes().escape_ascii());
            }
            let _ = write!(message, "\n    {}", String::from_utf8_lossy(response.body()));
        }
        panic!("{}", message.trim_end())
    }
}

impl fmt::Debug for TestClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestClient")
            .field("peer", &self.peer)
            .field("requests", &self.last().len())
            .finish_non_exhaustive()
    }
}
