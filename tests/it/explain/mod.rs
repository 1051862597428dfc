//! An explanation tells what would be decided, charges nothing, and discloses no key.
#![cfg(feature = "describe")]

pub(crate) mod world;

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex},
    task::Poll,
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    BodyFieldLayer, Category, Clock, DecisionFuture, Limiter, LimiterBuilder, Matcher, Now,
    OnStoreFailure, PeekedBody, Policy, Quota, RateLimitLayer,
    explain::{ExpectedVerdict, PolicyVerdict},
    key::{self, ClientIp, PeerAddr},
    store::{Charge, Correction, MemoryStore, Mode, Store, StoreError, StoreFuture},
};

use self::world::{Random, User, layer, request, set_override};

/// The result of a future, if it is ready at once.
async fn poll_immediate<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    std::future::poll_fn(|context| match Pin::new(&mut *future).poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_time().start_paused(true).build().unwrap()
}

/// What was answered, in the form of an explanation.
async fn answer(
    layer: &RateLimitLayer,
    request: &http::request::Parts,
) -> (Option<u16>, BTreeMap<String, String>, Option<String>) {
    let inner = service_fn(async |_: Request<()>| {
        let mut response = Response::new(Full::<Bytes>::default());
        *response.status_mut() = http::StatusCode::IM_A_TEAPOT;
        Ok::<_, Infallible>(response)
    });
    let service = layer.layer(inner);
    let response = service.oneshot(Request::from_parts(request.clone(), ())).await.unwrap();
    let (head, body) = response.into_parts();
    let headers = head.headers.iter();
    let headers = headers
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect();
    let passes = head.status == http::StatusCode::IM_A_TEAPOT;
    let body = body.collect().await.unwrap().to_bytes();
    let body = (!passes).then(|| String::from_utf8(body.to_vec()).unwrap());
    ((!passes).then(|| head.status.as_u16()), headers, body)
}

/// Asks for an explanation, and then makes the request. Both have to say the same. Some requests are
/// left in the queue.
async fn compare<'a>(
    limiter: &'a Limiter,
    layer: &RateLimitLayer,
    queued: &mut Vec<DecisionFuture<'a>>,
    random: &mut Random,
) {
    let head = request(random);
    let explained = layer.explain(&head).await;
    assert_eq!(layer.explain(&head).await, explained, "the first has charged nothing");
    let verdict = &explained.explanation.verdict;
    let is_held = matches!(verdict, ExpectedVerdict::Held { .. });
    if is_held && random.below(2) == 0 {
        let mut deciding = limiter.decide(&head);
        assert!(poll_immediate(&mut deciding).await.is_none());
        return queued.push(deciding);
    }
    if is_held && !queued.is_empty() {
        // Those ahead are not polled, so that it is held for longer.
        return;
    }
    if random.below(2) == 0 {
        let (status, headers, body) = answer(layer, &head).await;
        assert_eq!(status, explained.response.status);
        if !is_held {
            assert_eq!(headers, explained.response.headers);
            assert_eq!(body, explained.response.body);
        }
        return;
    }
    let decision = limiter.decide(&head).await;
    match verdict {
        ExpectedVerdict::Admitted => {
            assert!(decision.is_allowed() && decision.held().is_zero(), "{decision:?}");
        }
        ExpectedVerdict::Held { wait } => {
            assert!(decision.is_allowed(), "{decision:?}");
            // Tokio's timers have milliseconds.
            let late = decision.held().checked_sub(*wait);
            assert!(late.is_some_and(|late| late <= Duration::from_millis(2)), "{decision:?}");
            return;
        }
        ExpectedVerdict::Refused { policy, reason, retry_after } => {
            assert_eq!(decision.reason(), Some(*reason));
            assert_eq!(decision.retry_after(), *retry_after);
            let refusing = decision.tightest().filter(|_| policy.is_some());
            assert_eq!(refusing.map(|outcome| outcome.policy()), policy.as_deref());
        }
        other => panic!("{other:?}"),
    }
    let outcomes = || decision.outcomes().chain(decision.dry_runs());
    for outcome in outcomes() {
        let policies = &explained.explanation.policies;
        let policy = policies.iter().find(|policy| policy.name == outcome.policy()).unwrap();
        let expected = match outcome.reason() {
            None => PolicyVerdict::Admitted,
            Some(reason) => PolicyVerdict::Refused { reason, retry_after: outcome.retry_after() },
        };
        assert_eq!(policy.verdict, expected);
        assert_eq!(policy.quota, outcome.quota());
        if let Some(numbers) = policy.numbers {
            let told = (numbers.cost, numbers.limit, numbers.remaining, numbers.reset);
            let expected = (outcome.cost(), outcome.limit(), outcome.remaining(), outcome.reset());
            assert_eq!(told, expected);
        }
    }
    let told = explained.explanation.policies.iter();
    let told = told.filter(|policy| {
        matches!(policy.verdict, PolicyVerdict::Admitted | PolicyVerdict::Refused { .. })
    });
    assert_eq!(told.count(), outcomes().count());
}

async fn compare_many(seed: u64) {
    let mut random = Random(seed);
    let (limiter, layer) = layer(&mut random);
    let mut queued = Vec::new();
    for _ in 0..20 {
        if random.below(8) == 0 {
            set_override(&limiter, &mut random);
        }
        if random.below(4) == 0 {
            tokio::time::advance(Duration::from_millis(random.below(20_000))).await;
        }
        compare(&limiter, &layer, &mut queued, &mut random).await;
    }
}

/// 5,000 limiters, and 20 requests to each.
#[test]
fn the_verdict_is_that_of_the_decision() {
    let compare = |first: u64| {
        for seed in (first..5_000).step_by(4) {
            let compared = std::panic::catch_unwind(|| runtime().block_on(compare_many(seed)));
            assert!(compared.is_ok(), "seed {seed}");
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|first| drop(scope.spawn(move || compare(first)))));
}

/// A text that no setting has, in each place where a request may have a key.
const SECRET: &str = "sk-live-7f3c";

async fn secret_request(random: &mut Random) -> http::request::Parts {
    let mut head = request(random);
    let value = || http::HeaderValue::from_static(SECRET);
    head.uri = format!("/a/{SECRET}?user={SECRET}&{SECRET}={SECRET}").parse().unwrap();
    let names = ["x-key", "x-plan", "x-units", "x-flag", "x-forwarded-for", "x-request-id", SECRET];
    for name in names.into_iter().chain(["cookie", "forwarded", "x-real-ip"]) {
        head.headers.insert(http::HeaderName::from_static(name), value());
    }
    head.headers.insert("authorization", format!("Bearer {SECRET}").parse().unwrap());
    head.method = http::Method::from_bytes(SECRET.as_bytes()).unwrap();
    if random.below(2) == 0 {
        head.method = http::Method::GET;
    }
    head.extensions.insert(User(SECRET.to_owned()));
    with_body_field(head).await
}

/// The head with the field `email` of its body, as a `BodyFieldLayer` leaves it.
async fn with_body_field(mut head: http::request::Parts) -> http::request::Parts {
    head.headers.insert("content-type", "application/json".parse().unwrap());
    let body = Full::from(format!(r#"{{"email": "{SECRET}"}}"#));
    let inner = service_fn(async |request: Request<PeekedBody<Full<Bytes>>>| {
        Ok::<_, Infallible>(request.into_parts().0)
    });
    let service = BodyFieldLayer::new(["email"]).layer(inner);
    service.oneshot(Request::from_parts(head, body)).await.unwrap()
}

/// Each form of a text in which it could be found again.
fn forms(text: &str) -> Vec<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let bytes = text.as_bytes();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![text.to_owned(), hex, STANDARD.encode(text), format!("{bytes:?}")]
}

#[test]
fn no_key_is_shown_in_any_form() {
    for seed in 0..2_000 {
        runtime().block_on(async {
            let mut random = Random(seed);
            let (limiter, layer) = layer(&mut random);
            if let Ok(caller) = limiter.overrides().caller(SECRET) {
                caller.block(Duration::from_secs(60)).at_once().unwrap();
                if random.below(2) == 0 {
                    drop(caller.unblock().at_once());
                    let (quota, time) = (Quota::per_minute(1), Duration::from_secs(60));
                    drop(caller.set_quota("every 0", quota, time).at_once());
                }
            }
            for _ in 0..3 {
                let head = secret_request(&mut random).await;
                let explained = layer.explain(&head).await;
                let json = serde_json::to_string(&explained).unwrap();
                for printed in [format!("{explained:?}"), explained.to_string(), json] {
                    let lower = printed.to_lowercase();
                    for form in forms(SECRET) {
                        assert!(!lower.contains(&form.to_lowercase()), "seed {seed}: {printed}");
                    }
                }
                let _ = limiter.decide(&head).await;
            }
        });
    }
}

/// A store that can only charge and peek, and keeps the modes in which it was charged.
#[derive(Clone, Default)]
struct OnlyPeeks {
    memory: Arc<MemoryStore>,
    modes: Arc<Mutex<Vec<Mode>>>,
}

impl Store for OnlyPeeks {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.modes.lock().unwrap().extend(charges.iter().map(|charge| charge.mode));
        self.memory.charge(charges, now)
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.memory.correct(corrections, now)
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_without_previews_is_asked_by_peeks() {
    let store = OnlyPeeks::default();
    let policies = [
        Policy::token_bucket("bucket", Quota::per_minute(3)),
        Policy::fixed_window("fixed", Quota::per_minute(3)),
        Policy::sliding_window("sliding", Quota::per_minute(4)),
        Policy::fixed_window("dry", Quota::per_minute(1)).dry_run(),
    ];
    let builder = Limiter::builder().store(store.clone()).clock(Clock::tokio(UNIX_EPOCH));
    let limiter = policies.map(Policy::global).into_iter().fold(builder, LimiterBuilder::policy);
    let limiter = limiter.build().unwrap();
    let head = Request::new(()).into_parts().0;
    for _ in 0..5 {
        store.modes.lock().unwrap().clear();
        let explained = limiter.explain(&head).await;
        assert_eq!(*store.modes.lock().unwrap(), [Mode::Peek; 4]);
        let decision = limiter.decide(&head).await;
        assert_eq!(explained.verdict == ExpectedVerdict::Admitted, decision.is_allowed());
        for outcome in decision.outcomes().chain(decision.dry_runs()) {
            let of = explained.policies.iter().find(|policy| policy.name == outcome.policy());
            let numbers = of.unwrap().numbers.unwrap();
            assert_eq!(numbers.remaining, outcome.remaining(), "{}", outcome.policy());
            assert_eq!(numbers.reset, outcome.reset(), "{}", outcome.policy());
        }
    }
}

/// A store that does not answer.
struct Down;

impl Store for Down {
    fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
        StoreFuture::ready(Err(StoreError::new("it is down")))
    }

    fn correct(&self, _: &[Correction], _: Now) -> StoreFuture {
        StoreFuture::ready(Err(StoreError::new("it is down")))
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_it_tells_what_each_policy_does_then() {
    let policy = |name, units| Policy::fixed_window(name, Quota::per_minute(units)).global();
    let locally = OnStoreFailure::CountLocally { replicas: 2 };
    let limiter = Limiter::builder()
        .policy(policy("local", 4).on_store_failure(locally))
        .policy(policy("free", 4).on_store_failure(OnStoreFailure::Allow))
        .store(Down)
        .clock(Clock::tokio(UNIX_EPOCH))
        .build()
        .unwrap();
    let head = Request::new(()).into_parts().0;
    for left in [Some(1), Some(0), None] {
        let explained = limiter.explain(&head).await;
        assert_eq!(limiter.explain(&head).await, explained);
        assert!(explained.without_store);
        assert_eq!(explained.policies[1].verdict, PolicyVerdict::NotAsked);
        let numbers = explained.policies[0].numbers.unwrap();
        assert_eq!((numbers.limit, numbers.remaining), (2, left.unwrap_or(0)));
        let passes = explained.verdict == ExpectedVerdict::Admitted;
        assert_eq!(passes, left.is_some());
        assert_eq!(limiter.decide(&head).await.is_allowed(), passes);
    }
    let refusing = policy("strict", 4).on_store_failure(OnStoreFailure::Refuse);
    let limiter = Limiter::builder().policy(refusing).store(Down).build().unwrap();
    let explained = limiter.explain(&head).await;
    assert!(
        explained.to_string().starts_with(
            "The request is refused by policy `strict`: the store does not answer. It passes in 1 \
             second.\nThe store does not answer: each policy does what it is set to do then.\n"
        ),
        "{explained}"
    );
}

/// What an operator reads in a terminal.
#[tokio::test(start_paused = true)]
async fn it_is_a_text_for_operators() {
    let plans = [("free", Quota::per_minute(1)), ("pro", Quota::per_minute(100))];
    let reads = Policy::fixed_window("read", Quota::per_minute(5))
        .key(key::header("x-key"))
        .or_key(ClientIp::new().trust_proxies(["10.0.0.0/8"]))
        .or_refuse()
        .unit("tokens")
        .plans(plans, |request| request.headers.get("x-plan")?.to_str().ok());
    let trial = Policy::token_bucket("trial", Quota::per_second(1)).global().dry_run();
    let limiter = Limiter::builder()
        .exempt(Matcher::get("/health"))
        .exempt(Matcher::key(key::header("x-partner"), ["friend"]))
        .policy(trial.clone())
        .category(Category::new("bulk").on(Matcher::post("/v1/{any}/bulk")).policy(reads.clone()))
        .category(Category::new("read").on(Matcher::get("/v1/{*rest}")).policy(reads))
        .caller(key::header("x-key"))
        .clock(Clock::tokio(UNIX_EPOCH + Duration::from_secs(90)))
        .build()
        .unwrap();
    let head = Request::get("/v1/users/7")
        .header("x-forwarded-for", "spoofed, 2001:db8::7, 10.0.0.2")
        .header("x-plan", "free")
        .extension(PeerAddr(([10, 0, 0, 1], 443).into()))
        .body(())
        .unwrap()
        .into_parts()
        .0;
    let _ = limiter.decide(&head).await;
    let layer = RateLimitLayer::new(limiter.clone());
    assert_eq!(
        layer.explain(&head).await.to_string(),
        "The request is refused by policy `read`: too few units are left. It passes in 30 seconds.
exemption: GET, HEAD /health: does not match
exemption: requests with certain keys (x-partner): does not match
category `bulk`: POST /v1/{any}/bulk: does not match
category `read`: GET, HEAD /v1/{*rest}: matches

The client's address:
  the peer 10.0.0.1: a trusted proxy
  x-forwarded-for 10.0.0.2: a trusted proxy
  x-forwarded-for 2001:db8::7: the client, counted as 2001:db8::/64

Policy `trial`, a dry run: refuses for 1 second: too few units are left
  quota: 1 per second, 1 at once
  key: none, all requests count together
  cost: 1
  left: 0 of 1, more in 1 second

Policy `read`: refuses for 30 seconds: too few units are left
  quota: 1 tokens per minute (plan `free`)
  key: x-key (missing), then ip
  cost: 1
  left: 0 of 1, more in 30 seconds

The response: 429
  cache-control: no-store
  content-type: application/json
  retry-after: 30
  x-ratelimit-limit: 1
  x-ratelimit-remaining: 0
  x-ratelimit-reset: 120

{\"error\":\"rate_limit_exceeded\",\"message\":\"Quota of policy `read` is used up (1 per 60s). Retry after 30 seconds.\",\"policy\":\"read\",\"limit\":1,\"remaining\":0,\"retry_after\":30}
"
    );
    let mut head = head;
    head.headers.insert("x-key", "7".parse().unwrap());
    head.uri = "/v1/a/%62ulk".parse().unwrap();
    head.method = http::Method::POST;
    limiter
        .overrides()
        .caller("7")
        .unwrap()
        .set_quota("read", Quota::per_hour(2), Duration::from_secs(60))
        .author("nora")
        .reason("a migration")
        .at_once()
        .unwrap();
    let explained = limiter.explain(&head).await;
    assert_eq!(
        explained.to_string(),
        "The request passes.
exemption: GET, HEAD /health: does not match
exemption: requests with certain keys (x-partner): does not match
category `bulk`: POST /v1/{any}/bulk: does not match
category `read`: GET, HEAD /v1/{*rest}: does not match
category `bulk`: POST /v1/{any}/bulk, in any reading of the path: matches
The caller: x-key

Policy `trial`, a dry run: refuses for 1 second: too few units are left
  quota: 1 per second, 1 at once
  key: none, all requests count together
  cost: 1
  left: 0 of 1, more in 1 second

Policy `read`: passes
  quota: 2 tokens per hour (set by nora, for 1 minute more: a migration)
  key: x-key
  cost: 1
  left: 1 of 2 after the request, more in 3,510 seconds
"
    );
    limiter
        .overrides()
        .caller("7")
        .unwrap()
        .block(Duration::from_secs(5))
        .reason("scraping")
        .at_once()
        .unwrap();
    let explained = limiter.explain(&head).await.to_string();
    let first = "The request is refused: the caller is blocked. It passes in 5 seconds.\n";
    assert!(explained.starts_with(first), "{explained}");
    assert!(
        explained.contains("The caller: x-key, blocked by an operator for 5 seconds: scraping\n")
    );
}

#[tokio::test(start_paused = true)]
async fn it_tells_whether_the_override_source_blocks_and_that_it_does_not_answer() {
    use tower_quota::{
        key::Key,
        overrides::{CachedSource, SourceOverrides},
    };

    let source = CachedSource::new(|key: Key<'_>| {
        let is_known = key.as_bytes() == b"known";
        async move {
            match is_known {
                true => Ok(SourceOverrides::new().block(Duration::from_secs(60))),
                false => Err("it is down".into()),
            }
        }
    });
    let limiter = Limiter::builder()
        .clock(Clock::tokio(UNIX_EPOCH))
        .caller(key::header("x-key"))
        .override_source(source)
        .build()
        .unwrap();
    let explain = async |key| {
        let head = Request::get("/").header("x-key", key).body(()).unwrap().into_parts().0;
        limiter.explain(&head).await
    };
    let silent = explain("unknown").await;
    assert!(silent.caller.as_ref().is_some_and(|caller| caller.source_unavailable));
    let text = "x-key, of whom the override source does not tell: it does not answer\n";
    assert!(silent.to_string().contains(text), "{silent}");
    let blocked = |by| format!("x-key, blocked by {by}\n");
    let operator = limiter.overrides().caller("known").unwrap();
    for (seconds, by) in [
        (0, "the override source for 1 minute"),
        (30, "the override source for 1 minute"),
        (90, "nora for 90 seconds: scraping"),
    ] {
        if seconds > 0 {
            let block = operator.block(Duration::from_secs(seconds));
            block.author("nora").reason("scraping").at_once().unwrap();
        }
        let explained = explain("known").await;
        assert!(explained.to_string().contains(&blocked(by)), "{explained}");
        assert!(!explained.caller.unwrap().source_unavailable);
    }
}

/// Neither metrics nor the log hear of it.
#[cfg(all(feature = "metrics", feature = "tracing"))]
#[test]
fn it_is_neither_counted_nor_logged() {
    use tracing_subscriber::{Layer, layer::SubscriberExt};

    #[derive(Clone, Default)]
    struct Events(Arc<Mutex<Vec<String>>>);
    impl<S: tracing::Subscriber> Layer<S> for Events {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }
    let policy = |name| Policy::fixed_window(name, Quota::per_minute(1)).global();
    let builder = || Limiter::builder().policy(policy("p")).policy(policy("dry").dry_run());
    let (recorder, events) = (metrics_util::debugging::DebuggingRecorder::new(), Events::default());
    let subscriber = tracing_subscriber::registry().with(events.clone());
    let head = Request::new(()).into_parts().0;
    tracing::subscriber::with_default(subscriber, || {
        metrics::with_local_recorder(&recorder, || {
            let limiter = builder().build().unwrap();
            let down = builder().store(Down).build().unwrap();
            let explain = || {
                runtime().block_on(limiter.explain(&head));
                runtime().block_on(down.explain(&head));
            };
            explain();
            events.0.lock().unwrap().clear();
            let counted = || format!("{:?}", recorder.snapshotter().snapshot().into_vec());
            let _ = counted();
            explain();
            assert_eq!(counted(), "[]");
            assert_eq!(*events.0.lock().unwrap(), [""; 0]);
            // Another test may have switched the events off, as it had no subscriber.
            tracing::callsite::rebuild_interest_cache();
            (0..2).for_each(|_| drop(runtime().block_on(limiter.decide(&head))));
            assert_ne!(counted(), "[]");
            assert_ne!(*events.0.lock().unwrap(), [""; 0]);
        });
    });
}
