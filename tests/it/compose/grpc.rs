//! Under tonic: admitted calls.

use std::error::Error;

use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code,
    transport::{Channel, Server, server::TcpConnectInfo},
};
use tonic_health::{
    ServingStatus::{NotServing, Serving},
    pb::{HealthCheckRequest, health_client::HealthClient},
};
use tower::ServiceBuilder;
use tower_quota::{
    Limiter, Policy, Quota, RateLimitLayer,
    key::{self, ClientIp, PeerAddr},
};

fn layer(key: impl key::KeyExtractor) -> RateLimitLayer {
    let policy = Policy::sliding_window("p", Quota::per_hour(3)).key(key).or_refuse();
    RateLimitLayer::new(Limiter::builder().policy(policy).build().unwrap())
}

fn service(name: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: name.to_owned() }
}

#[tokio::test]
async fn an_admitted_calls_stream_and_status_pass_and_its_key_is_the_peers_address()
-> Result<(), Box<dyn Error>> {
    // tonic's extension, which the policy reads, or a layer before it hands to `ClientIp`.
    let by_closure = key::from_fn("ip", |request| {
        let connection = request.extensions.get::<TcpConnectInfo>()?;
        Some(connection.remote_addr()?.ip().into())
    });
    let tell_peer = tower::util::MapRequestLayer::new(|mut request: http::Request<_>| {
        let connection = request.extensions().get::<TcpConnectInfo>();
        if let Some(peer) = connection.and_then(TcpConnectInfo::remote_addr) {
            request.extensions_mut().insert(PeerAddr(peer));
        }
        request
    });
    for (layer, by) in
        [(layer(by_closure), "by closure"), (layer(ClientIp::new()), "by `PeerAddr`")]
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (reporter, health) = tonic_health::server::health_reporter();
        let layers = ServiceBuilder::new().layer(tell_peer.clone()).layer(layer).into_inner();
        let server = Server::builder().layer(layers).add_service(health);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        let endpoint = Channel::from_shared(format!("http://{address}"))?;
        let mut client = HealthClient::new(endpoint.connect().await?);

        let watched = client.watch(service("")).await?;
        assert_eq!(watched.metadata().get("x-ratelimit-remaining").unwrap(), "2", "{by}");
        let mut watched = watched.into_inner();
        assert_eq!(watched.message().await?.unwrap().status, Serving as i32, "{by}");
        // The stream stays open, and goes on long after it was admitted.
        reporter.set_service_status("", NotServing).await;
        assert_eq!(watched.message().await?.unwrap().status, NotServing as i32, "{by}");

        let mut checked = client.check(service("")).await?;
        assert_eq!(checked.metadata_mut().remove("grpc-status").unwrap(), "0", "{by}: a trailer");

        // The handler's own refusal is unchanged, and the quota headers are added.
        let unknown = client.check(service("unknown")).await.unwrap_err();
        assert_eq!(unknown.code(), Code::NotFound, "{by}");
        assert_eq!(unknown.metadata().get("x-ratelimit-remaining").unwrap(), "0", "{by}");

        // Another connection of the same address has the same quota.
        let refused =
            HealthClient::new(endpoint.connect().await?).check(service("")).await.unwrap_err();
        assert_ne!(refused.code(), Code::Ok, "{by}");
        assert_eq!(refused.metadata().get("x-ratelimit-remaining").unwrap(), "0", "{by}");
        assert!(refused.metadata().contains_key("retry-after"), "{by}");
    }
    Ok(())
}
