//! The peer of a tonic server, without any setting: over TCP and over a Unix socket.
#![cfg(feature = "tonic")]

use std::{error::Error, net::SocketAddr};

use http::request::Parts;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request,
    transport::{Channel, Server},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_quota::{
    Limiter, Policy, Quota, RateLimitLayer,
    key::{ClientIp, PeerAddr},
};

/// One call per client.
fn layer(client_ip: ClientIp) -> RateLimitLayer {
    let policy = Policy::token_bucket("each", Quota::per_hour(1)).key(client_ip).or_refuse();
    RateLimitLayer::new(Limiter::builder().policy(policy).build().unwrap())
}

async fn passes(client: &mut HealthClient<Channel>, forwarded_for: &'static str) -> bool {
    let mut call = Request::new(HealthCheckRequest::default());
    call.metadata_mut().insert("x-forwarded-for", forwarded_for.parse().unwrap());
    client.check(call).await.is_ok()
}

#[tokio::test]
async fn by_tcp_it_is_the_peers_address() -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let (_, health) = tonic_health::server::health_reporter();
    let layer = layer(ClientIp::new().trust_proxies(["127.0.0.0/8"]));
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = HealthClient::new(channel);
    assert!(passes(&mut client, "192.0.2.7").await, "the peer is there, and trusted");
    assert!(!passes(&mut client, "192.0.2.7").await);
    assert!(passes(&mut client, "192.0.2.8").await);
    Ok(())
}

#[cfg(unix)]
#[tokio::test]
async fn by_a_unix_socket_it_is_a_peer_that_may_be_trusted() -> Result<(), Box<dyn Error>> {
    use hyper_util::rt::TokioIo;
    use tokio::net::{UnixListener, UnixStream};
    use tokio_stream::wrappers::UnixListenerStream;
    use tonic::transport::Endpoint;

    let folder = tempfile::tempdir()?;
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let (_, health) = tonic_health::server::health_reporter();
    let layer = layer(ClientIp::new().trust_proxies(["unix:"]));
    let server = Server::builder().layer(layer).add_service(health);
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    let connect = tower::service_fn(move |_| {
        let connecting = UnixStream::connect(path.clone());
        async { connecting.await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://unix").connect_with_connector(connect).await?;
    let mut client = HealthClient::new(channel);
    assert!(passes(&mut client, "192.0.2.7").await, "the peer is trusted");
    assert!(!passes(&mut client, "6.6.6.6, 192.0.2.7").await);
    assert!(passes(&mut client, "192.0.2.8").await);
    Ok(())
}

#[test]
fn what_the_user_says_goes_before_what_tonic_leaves() {
    use tonic::transport::server::TcpConnectInfo;
    let remote_addr = Some(SocketAddr::from(([127, 0, 0, 1], 80)));
    let info = TcpConnectInfo { local_addr: None, remote_addr };
    let mut request: Parts = http::Request::new(()).into_parts().0;
    request.extensions.insert(info);
    assert_eq!(ClientIp::new().resolve(&request), Some([127, 0, 0, 1].into()));
    request.extensions.insert(PeerAddr(([192, 0, 2, 7], 80).into()));
    assert_eq!(ClientIp::new().resolve(&request), Some([192, 0, 2, 7].into()));
}
