//! Refused gRPC calls, by a tonic client of a tonic server.
#![cfg(feature = "grpc")]

use std::{convert::Infallible, error::Error, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Status,
    service::InterceptorLayer,
    transport::{Channel, Server},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient, health_server::HealthServer},
    server::{HealthReporter, HealthService},
};
use tonic_types::{ErrorDetails, QuotaViolation, StatusExt};
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{Category, HeaderStyle, Limiter, Matcher, Policy, Quota, RateLimitLayer, key};

/// Two calls per key, by the hour and by the day.
fn layer() -> RateLimitLayer {
    let policy =
        |name, quota| Policy::sliding_window(name, quota).key(key::header("x-api-key")).or_refuse();
    let limiter = Limiter::builder()
        .policy(policy("hourly", Quota::per_hour(2)))
        .policy(
            policy("daily", Quota::per_day(2))
                .cost(|request| if request.headers.contains_key("x-heavy") { 3 } else { 1 }),
        )
        .build()
        .unwrap();
    RateLimitLayer::builder(limiter).headers([HeaderStyle::ratelimit()]).build().unwrap()
}

async fn client() -> Result<HealthClient<Channel>, Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_, health) = tonic_health::server::health_reporter();
    let server = Server::builder().layer(layer()).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    Ok(HealthClient::new(channel))
}

fn call(metadata: &[(&'static str, &'static str)]) -> tonic::Request<HealthCheckRequest> {
    let mut request = tonic::Request::new(HealthCheckRequest::default());
    for (name, value) in metadata {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    request
}

/// Subject, description, id and value.
type Violation = (String, String, String, i64);

/// The details' delay, and the violations.
fn split(details: ErrorDetails) -> (Option<Duration>, Vec<Violation>) {
    let delay = details.retry_info().and_then(|info| info.retry_delay);
    let violations = details.quota_failure().map(|failure| failure.violations.clone());
    let tell = |violation: QuotaViolation| {
        let QuotaViolation { subject, description, quota_id, quota_value, .. } = violation;
        (subject, description, quota_id, quota_value)
    };
    (delay, violations.unwrap_or_default().into_iter().map(tell).collect())
}

#[tokio::test]
async fn a_client_learns_what_is_used_up_and_when_to_retry() -> Result<(), Box<dyn Error>> {
    let mut client = client().await?;
    let key = [("x-api-key", "one")];
    for remaining in ["1", "0"] {
        let response = client.check(call(&key)).await?;
        assert_eq!(response.metadata().get("ratelimit-remaining").unwrap(), remaining);
    }
    let refused = client.check(call(&key)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let (message, seconds) = refused.message().split_once(" Retry after ").unwrap();
    assert_eq!(message, "Quota of policy `daily` is used up (2 per 86400s).");
    assert_eq!(
        refused.metadata().get("retry-after").unwrap().to_str()?,
        seconds.trim_end_matches(" seconds."),
    );

    let (delay, violations) = split(refused.check_error_details()?);
    let delay = delay.unwrap();
    assert_eq!(
        refused.metadata().get("grpc-retry-pushback-ms").unwrap().to_str()?,
        delay.as_millis().to_string(),
    );
    assert!(delay > Duration::from_secs(86_000) && delay <= Duration::from_secs(90_000));
    let violation = |name: &str, description: &str| {
        ("x-api-key".to_owned(), description.to_owned(), name.to_owned(), 2)
    };
    assert_eq!(
        violations,
        [
            violation("daily", "Quota of policy `daily` is used up (2 per 86400s)."),
            violation("hourly", "Quota of policy `hourly` is used up (2 per 3600s)."),
        ],
    );
    // Another key has its own quota.
    client.check(call(&[("x-api-key", "two")])).await?;
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_a_retry_does_not_help_forbids_it() -> Result<(), Box<dyn Error>> {
    let mut client = client().await?;
    let heavy = [("x-api-key", "one"), ("x-heavy", "1")];
    let refused = client.check(call(&heavy)).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(
        refused.message(),
        "The request costs more than the whole quota of policy `daily` (2 per 86400s).",
    );
    assert_eq!(refused.metadata().get("grpc-retry-pushback-ms").unwrap(), "-1");
    let (delay, violations) = split(refused.check_error_details()?);
    assert_eq!((delay, violations.len()), (None, 1));

    let refused = client.check(call(&[])).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert_eq!(
        refused.message(),
        "Policy `daily` counts by x-api-key, which the request does not tell.",
    );
    Ok(())
}

#[tokio::test]
async fn the_answer_is_trailers_only_and_only_to_calls() {
    let layer = layer();
    let answer = |content_type: &'static str| {
        let service = layer.layer(service_fn(async |_: Request<()>| {
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }));
        let request = Request::post("/grpc.health.v1.Health/Check")
            .header("content-type", content_type)
            .body(())
            .unwrap();
        service.oneshot(request)
    };
    let refused = answer("application/grpc").await.unwrap();
    assert_eq!(refused.status(), 200);
    assert!(refused.body().is_end_stream());
    let mut headers: Vec<_> = refused
        .headers()
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    headers.sort_unstable();
    assert_eq!(
        headers,
        [
            ("cache-control", "no-store"),
            ("content-type", "application/grpc"),
            (
                "grpc-message",
                "Policy `daily` counts by x-api-key, which the request does not tell."
            ),
            ("grpc-retry-pushback-ms", "-1"),
            ("grpc-status", "3"),
        ],
    );
    for content_type in ["application/json", "application/grpcfoo", "application/grpc-website"] {
        let refused = answer(content_type).await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.body().is_end_stream()), (400, false));
    }
    let made_up = answer("application/grpc-web+made-up").await.unwrap();
    assert_eq!(made_up.headers()["content-type"], "application/grpc-web", "no echo");
}

#[derive(Clone)]
struct User(String);

/// The server of the guide's chapter: users are identified outside of the limiter, and authorized inside.
#[tokio::test]
async fn a_server_counts_users_whom_an_outer_interceptor_finds() -> Result<(), Box<dyn Error>> {
    let identify = |mut call: tonic::Request<()>| {
        let user = call.metadata().get("x-user").and_then(|user| user.to_str().ok());
        if let Some(user) = user.map(str::to_owned) {
            call.extensions_mut().insert(User(user));
        }
        Ok::<_, Status>(call)
    };
    let authorize = |call: tonic::Request<()>| match call.extensions().get::<User>() {
        Some(_) => Ok(call),
        None => Err(Status::unauthenticated("send a token")),
    };
    let of_user = |policy: Policy| {
        let user = key::extension("user", |user: &User| user.0.as_str().into());
        policy.key(user).or_key(key::header("x-guess")).or_refuse()
    };
    let watch = Matcher::post("/grpc.health.v1.Health/Watch");
    let watches = of_user(Policy::in_flight("watches", 1));
    let limiter = Limiter::builder()
        .policy(of_user(Policy::token_bucket("calls", Quota::per_hour(3))))
        .category(Category::new("watch").on(watch).policy(watches))
        .build()?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let health = HealthService::from_health_reporter(HealthReporter::new());
    let server = Server::builder()
        .layer(InterceptorLayer::new(identify))
        .layer(RateLimitLayer::new(limiter.clone()))
        .add_service(HealthServer::with_interceptor(health, authorize));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);

    let stream = client.watch(call(&[("x-user", "ann")])).await?;
    let second = client.watch(call(&[("x-user", "ann")])).await.unwrap_err();
    assert_eq!(second.code(), Code::ResourceExhausted);
    client.watch(call(&[("x-user", "bob")])).await?;
    for _ in 0..2 {
        client.check(call(&[("x-user", "ann")])).await?;
    }
    let spent = client.check(call(&[("x-user", "ann")])).await.unwrap_err();
    assert_eq!(spent.code(), Code::ResourceExhausted);
    drop(stream);

    let guess = [("x-guess", "eve")];
    for code in [[Code::Unauthenticated; 3].as_slice(), &[Code::ResourceExhausted]].concat() {
        assert_eq!(client.check(call(&guess)).await.unwrap_err().code(), code);
    }
    Ok(())
}
