//! Which client is found behind each proxy of the guide's chapter: by the headers that the proxies write.
//! nginx 1.22, HAProxy 2.6 and Caddy 2.6 have written theirs so when a caller sent false ones, `6.6.6.6`.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use tower_quota::key::{ClientIp, PeerAddr};

const FORGED: &str = "6.6.6.6";
const CLIENT: &str = "203.0.113.7";

fn find(client_ip: &ClientIp, peer: &str, headers: &[(&'static str, &str)]) -> IpAddr {
    let mut all = HeaderMap::new();
    for (name, value) in headers {
        all.append(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
    let (mut head, ()) = Request::new(()).into_parts();
    head.headers = all;
    head.extensions.insert(PeerAddr(SocketAddr::new(peer.parse().unwrap(), 4711)));
    client_ip.resolve(&head).unwrap()
}

#[test]
fn the_client_is_the_address_that_the_proxies_write() {
    let one = || ClientIp::new().trust_proxies(["10.0.0.9"]);
    let both = || ClientIp::new().trust_proxies(["10.0.0.9", "173.245.48.0/20"]);
    let cloudflare = || ClientIp::new().trust_proxies(["173.245.48.0/20"]);
    for (proxy, client_ip, peer, headers) in [
        (
            "nginx, `$proxy_add_x_forwarded_for`",
            one(),
            "10.0.0.9",
            &[("x-forwarded-for", "6.6.6.6, 203.0.113.7"), ("x-real-ip", FORGED)][..],
        ),
        ("nginx, `$remote_addr`", one(), "10.0.0.9", &[("x-forwarded-for", CLIENT)]),
        (
            "nginx, `X-Real-IP $remote_addr`",
            one().header("x-real-ip"),
            "10.0.0.9",
            &[("x-real-ip", CLIENT), ("x-forwarded-for", FORGED)],
        ),
        (
            "HAProxy, `option forwardfor`",
            one(),
            "10.0.0.9",
            &[("x-forwarded-for", FORGED), ("x-real-ip", FORGED), ("x-forwarded-for", CLIENT)],
        ),
        (
            "Caddy",
            one(),
            "10.0.0.9",
            &[("x-forwarded-for", CLIENT), ("x-real-ip", FORGED), ("forwarded", "for=6.6.6.6")],
        ),
        (
            "HAProxy, `option forwarded`",
            one().forwarded(),
            "10.0.0.9",
            &[("forwarded", "for=6.6.6.6"), ("forwarded", "proto=http;for=203.0.113.7")],
        ),
        (
            "Cloudflare, by its own header",
            cloudflare().header("cf-connecting-ip"),
            "173.245.48.7",
            &[("cf-connecting-ip", CLIENT), ("x-forwarded-for", "6.6.6.6,203.0.113.7")],
        ),
        ("Cloudflare", cloudflare(), "173.245.48.7", &[("x-forwarded-for", "6.6.6.6,203.0.113.7")]),
        (
            "Cloudflare, then a load balancer",
            both(),
            "10.0.0.9",
            &[("x-forwarded-for", "6.6.6.6,203.0.113.7, 173.245.48.7")],
        ),
        (
            "a load balancer that adds ports",
            one(),
            "10.0.0.9",
            &[("x-forwarded-for", "6.6.6.6, 203.0.113.7:50123")],
        ),
        (
            "by number",
            ClientIp::new().trust_hops(1),
            "10.0.0.9",
            &[("x-forwarded-for", "6.6.6.6, 203.0.113.7")],
        ),
        ("past the proxies", both(), CLIENT, &[("x-forwarded-for", FORGED)]),
        (
            "past Cloudflare",
            cloudflare().header("cf-connecting-ip"),
            CLIENT,
            &[("cf-connecting-ip", FORGED)],
        ),
    ] {
        assert_eq!(find(&client_ip, peer, headers).to_string(), CLIENT, "{proxy}");
    }
}

/// The chapter warns of these: requests look as if the proxy had written the header.
#[test]
fn a_proxy_that_passes_on_the_header_lets_callers_choose() {
    let one = || ClientIp::new().trust_proxies(["10.0.0.9"]);
    for (proxy, client_ip, headers) in [
        ("nginx without `proxy_set_header`", one(), [("x-forwarded-for", FORGED)]),
        (
            "HAProxy without `option forwardfor`, or with `if-none`",
            one(),
            [("x-forwarded-for", FORGED)],
        ),
        ("HAProxy and Caddy", one().header("x-real-ip"), [("x-real-ip", FORGED)]),
    ] {
        assert_eq!(find(&client_ip, "10.0.0.9", &headers).to_string(), FORGED, "{proxy}");
    }
    let two = ClientIp::new().trust_hops(2);
    let through_one = [("x-forwarded-for", "6.6.6.6, 203.0.113.7")];
    assert_eq!(find(&two, "10.0.0.9", &through_one).to_string(), FORGED);
}
