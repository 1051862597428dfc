//! What Rust clients do by themselves with a refusal. The guide's chapter about responses has the results.
#![cfg(feature = "axum")]

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, routing::get};
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, header::RETRY_AFTER};
use http_body_util::BodyExt;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use reqwest_retry::{Jitter, RetryTransientMiddleware, policies::ExponentialBackoff};
use tokio::{net::TcpListener, time::Instant};
use tower::{ServiceExt, util::MapRequestLayer};
use tower_quota::{Clock, Limiter, Policy, Quota, RateLimitLayer};

/// One request passes in each window.
fn layer(window: Duration) -> RateLimitLayer {
    let policy = Policy::token_bucket("all", Quota::per_window(1, window)).global();
    let limiter = Limiter::builder().clock(Clock::tokio(std::time::UNIX_EPOCH)).policy(policy);
    RateLimitLayer::new(limiter.build().unwrap())
}

fn app(window: Duration) -> Router {
    Router::new().route("/", get(|| async {}).post(|| async {})).layer(layer(window))
}

/// Counts requests before the limiter sees them.
fn count(
    requests: &Arc<AtomicUsize>,
) -> MapRequestLayer<impl Fn(Request<Body>) -> Request<Body> + Clone + use<>> {
    let requests = Arc::clone(requests);
    MapRequestLayer::new(move |request| {
        requests.fetch_add(1, Relaxed);
        request
    })
}

/// The address of a server whose quota is used up for a day.
async fn used_up(requests: &Arc<AtomicUsize>) -> Result<String, Box<dyn Error>> {
    let app = app(Duration::from_secs(86_400));
    let response = app.clone().oneshot(Request::new(Body::empty())).await?;
    assert_eq!(response.status(), StatusCode::OK);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/", listener.local_addr()?);
    let app = app.layer(count(requests));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(url)
}

#[tokio::test]
async fn reqwest_returns_the_429_and_its_own_retries_do_not_wait() -> Result<(), Box<dyn Error>> {
    let retries = |retry: reqwest::retry::Builder| {
        retry.no_budget().classify_fn(|answer| match answer.status() {
            Some(StatusCode::TOO_MANY_REQUESTS) => answer.retryable(),
            _ => answer.success(),
        })
    };
    let retrying = reqwest::Client::builder().retry(retries(reqwest::retry::for_host("127.0.0.1")));
    for (client, expected) in [(reqwest::Client::new(), 1), (retrying.build()?, 3)] {
        for method in [Method::GET, Method::POST] {
            let requests = Arc::default();
            let url = used_up(&requests).await?;
            let response = client.request(method.clone(), url).send().await?;
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            let seconds: u64 = response.headers()[RETRY_AFTER].to_str()?.parse()?;
            assert!(seconds > 86_000, "{seconds}");
            assert_eq!(requests.load(Relaxed), expected, "{method}");
        }
    }
    Ok(())
}

type Answer = BoxFuture<'static, reqwest_middleware::Result<reqwest::Response>>;

/// Answers requests without a network.
fn middleware(
    answer: impl Fn(reqwest::Request) -> Answer + Send + Sync + 'static,
) -> impl Middleware {
    fn of_any_lifetime<F>(middleware: F) -> F
    where
        F: for<'a> Fn(
            reqwest::Request,
            &'a mut http::Extensions,
            Next<'a>,
        ) -> BoxFuture<'a, reqwest_middleware::Result<reqwest::Response>>,
    {
        middleware
    }
    of_any_lifetime(move |request, _, _| answer(request))
}

#[tokio::test(start_paused = true)]
async fn reqwest_retry_waits_as_its_policy_says_and_not_as_the_refusal_does() {
    for method in [Method::GET, Method::POST] {
        let app = app(Duration::from_secs(2));
        let response = app.clone().oneshot(Request::new(Body::empty())).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);

        // In place of the network, so that only the retries wait.
        let start = Instant::now();
        let (sent, mut received) = tokio::sync::mpsc::unbounded_channel();
        let server = middleware(move |request| {
            let (app, sent) = (app.clone(), sent.clone());
            Box::pin(async move {
                let request = http::Request::try_from(request).unwrap().map(|_| Body::empty());
                let response = app.oneshot(request).await.unwrap();
                let waits = response.headers().get(RETRY_AFTER).cloned();
                let waits = waits.map(|seconds| seconds.to_str().unwrap().parse::<u64>().unwrap());
                sent.send((start.elapsed().as_secs_f64().round() as u64, waits)).unwrap();
                let (head, body) = response.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                Ok(http::Response::from_parts(head, body).into())
            })
        });
        let policy = ExponentialBackoff::builder()
            .retry_bounds(Duration::from_secs(1), Duration::from_secs(60))
            .jitter(Jitter::None)
            .build_with_max_retries(3);
        let client = ClientBuilder::new(reqwest::Client::new())
            .with(RetryTransientMiddleware::new_with_policy(policy))
            .with(server)
            .build();
        let response = client.request(method, "http://api.test/").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        drop(client);
        let mut calls = Vec::new();
        while let Some(call) = received.recv().await {
            calls.push(call);
        }
        // The second comes a second too early.
        assert_eq!(calls, [(0, Some(2)), (1, Some(1)), (3, None)]);
    }
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn tonic_returns_resource_exhausted_with_the_wait_and_does_not_retry()
-> Result<(), Box<dyn Error>> {
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{
        Code,
        transport::{Channel, Server},
    };
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_types::StatusExt;

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let count = tower::layer::layer_fn(move |service| {
        let calls = Arc::clone(&counted);
        tower::util::MapRequest::new(service, move |call: Request<tonic::body::Body>| {
            calls.fetch_add(1, Relaxed);
            call
        })
    });
    let (_, health) = tonic_health::server::health_reporter();
    let mut server = Server::builder().layer(count).layer(layer(Duration::from_secs(7_200)));
    let incoming = TcpListenerStream::new(listener);
    tokio::spawn(server.add_service(health).serve_with_incoming(incoming));
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);
    client.check(HealthCheckRequest::default()).await?;

    let refused = client.check(HealthCheckRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let info = refused.get_details_retry_info().unwrap();
    assert!(info.retry_delay.unwrap() > Duration::from_secs(7_000));
    assert_eq!(
        calls.load(Relaxed),
        2,
        "it has pushback metadata, which tonic leaves to the program"
    );
    Ok(())
}
