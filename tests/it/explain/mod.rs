//! An explanation tells what would be decided, charges nothing, and discloses no key.

mod world;

use std::{collections::BTreeMap, convert::Infallible, pin::Pin, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    DecisionFuture, Limiter, RateLimitLayer,
    explain::{ExpectedVerdict, PolicyVerdict},
};

use self::world::{Random, layer, request, set_override};

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
async fn compare(
    limiter: &Limiter,
    layer: &RateLimitLayer,
    queued: &mut Vec<DecisionFuture>,
    random: &mut Random,
) {
    let head = request(random);
    let explained = layer.explain(&head).await;
    assert_eq!(layer.explain(&head).await, explained, "the first has charged nothing");
    let verdict = &explained.request.verdict;
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
        let policies = &explained.request.policies;
        let policy = policies.iter().find(|policy| policy.name == outcome.policy()).unwrap();
        let expected = match outcome.reason() {
            None => PolicyVerdict::Passes,
            Some(reason) => PolicyVerdict::Refuses { reason, retry_after: outcome.retry_after() },
        };
        assert_eq!(policy.verdict, expected);
        assert_eq!(policy.quota, outcome.quota());
        if let Some(numbers) = policy.numbers {
            let told = (numbers.cost, numbers.limit, numbers.remaining, numbers.reset);
            let expected = (outcome.cost(), outcome.limit(), outcome.remaining(), outcome.reset());
            assert_eq!(told, expected);
        }
    }
    let told = explained.request.policies.iter();
    let told = told.filter(|policy| {
        matches!(policy.verdict, PolicyVerdict::Passes | PolicyVerdict::Refuses { .. })
    });
    assert_eq!(told.count(), outcomes().count());
}

/// 5,000 limiters, and 20 requests to each.
#[test]
fn the_verdict_is_that_of_the_decision() {
    for seed in 0..5_000 {
        let compared = std::panic::catch_unwind(|| {
            runtime().block_on(async {
                let mut random = Random(seed);
                let (limiter, layer) = layer(&mut random);
                let mut queued = Vec::new();
                for _ in 0..20 {
                    if random.below(8) == 0 {
                        set_override(&limiter, &mut random);
                    }
                    if random.below(4) == 0 {
                        let millis = random.below(20_000);
                        tokio::time::advance(Duration::from_millis(millis)).await;
                    }
                    compare(&limiter, &layer, &mut queued, &mut random).await;
                }
            });
        });
        assert!(compared.is_ok(), "seed {seed}");
    }
}
