//! Layers with one policy: `per_ip` and `per_key`.

use std::{
    convert::Infallible,
    net::{IpAddr, SocketAddr},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use tower::{Layer, ServiceExt, service_fn};
use tower_quota::{Quota, RateLimitLayer, key::PeerAddr};

/// The peer of a request, and its lines of headers.
type Sent<'a> = (Option<&'a str>, &'a [(&'a str, &'a str)]);

/// The statuses of these requests.
async fn send(layer: RateLimitLayer, requests: &[Sent<'_>]) -> Vec<u16> {
    let inner = service_fn(async |_: Request<Empty<Bytes>>| {
        Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let mut statuses = Vec::new();
    for (peer, headers) in requests {
        let request =
            headers.iter().fold(Request::get("/"), |r, (name, value)| r.header(*name, *value));
        let mut request = request.body(Empty::new()).unwrap();
        if let Some(peer) = peer {
            let peer: IpAddr = peer.parse().unwrap();
            request.extensions_mut().insert(PeerAddr(SocketAddr::new(peer, 50_000)));
        }
        statuses.push(layer.layer(inner).oneshot(request).await.unwrap().status().as_u16());
    }
    statuses
}

#[tokio::test(start_paused = true)]
async fn per_ip_counts_by_the_peer_and_believes_no_header() {
    let layer = || RateLimitLayer::per_ip(Quota::per_minute(1)).unwrap();
    let (one, other) = (Some("192.0.2.1"), Some("192.0.2.2"));
    let forged: [&[_]; 2] =
        [&[("x-forwarded-for", "198.51.100.7")], &[("forwarded", "for=198.51.100.7")]];
    assert_eq!(send(layer(), &[(one, &[]), (one, &[]), (other, &[])]).await, [200, 429, 200]);
    for forged in forged {
        assert_eq!(send(layer(), &[(one, &[]), (one, forged)]).await, [200, 429], "{forged:?}");
    }
    let same_network = [(Some("2001:db8::1"), &[][..]), (Some("2001:db8::2"), &[])];
    assert_eq!(send(layer(), &same_network).await, [200, 429]);
    assert_eq!(
        send(layer(), &[(None, &[]), (None, forged[0])]).await,
        [400, 400],
        "no peer is known"
    );
}

#[tokio::test(start_paused = true)]
async fn per_key_refuses_what_has_no_key_or_two() {
    let layer = RateLimitLayer::per_key("X-API-Key", Quota::per_minute(1)).unwrap();
    let [a, b] = ["a", "b"].map(|key| ("x-api-key", key));
    let requests: [&[_]; 6] = [&[a], &[a], &[b], &[], &[("x-api-key", " ")], &[a, b]];
    let requests = requests.map(|headers| (Some("192.0.2.1"), headers));
    assert_eq!(send(layer, &requests).await, [200, 429, 200, 400, 400, 400]);
}

#[test]
fn what_cannot_be_is_an_error() {
    let error = RateLimitLayer::per_ip(Quota::per_minute(0)).unwrap_err().to_string();
    assert!(error.starts_with("policy `per ip`: "), "{error}");
    let error = RateLimitLayer::per_key("x api key", Quota::per_minute(1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "policy `per key`: `x api key` is no header name; write one like `x-api-key`",
    );
}
