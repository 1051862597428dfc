//! A plain `Service<http::Request<B>>`, without any server.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{
    Limiter, Policy, Quota, RateLimitLayer,
    key::{ClientIp, PeerAddr},
};

#[tokio::test]
async fn a_plain_service_counts_by_the_peers_address() {
    let per_address =
        Policy::sliding_window("p", Quota::per_hour(2)).key(ClientIp::new()).or_refuse();
    let limiter = Limiter::builder().policy(per_address).build().unwrap();
    // The request's body may be anything: here, it is no body at all.
    let service = RateLimitLayer::new(limiter).layer(service_fn(async |_: Request<&str>| {
        Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
    }));
    let send = async |peer: Option<[u8; 4]>| {
        let mut request = Request::new("anything");
        if let Some(ip) = peer {
            request.extensions_mut().insert(PeerAddr((ip, 80).into()));
        }
        service.clone().oneshot(request).await.unwrap().status().as_u16()
    };
    for status in [200, 200, 429] {
        assert_eq!(send(Some([1, 1, 1, 1])).await, status);
    }
    assert_eq!(send(Some([2, 2, 2, 2])).await, 200, "another address");
    assert_eq!(send(None).await, 400, "no address, which the policy refuses");
}
