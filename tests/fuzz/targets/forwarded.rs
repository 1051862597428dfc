//! Forwarded headers and the client's address: promises that hold for any bytes.

use std::{
    future::Future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{Request, request::Parts};
use tower_quota::{
    Limiter, Matcher, Policy, Quota,
    key::{ClientIp, PeerAddr},
};

/// The trusted proxy that sends all requests, and how it may be written.
const PROXY: [u8; 4] = [10, 83, 66, 19];
const WRITTEN: [&str; 2] = ["10.83.66.19", "a53:4213"];

/// Reads lines of bytes as field lines that callers, and then a trusted proxy, have written.
///
/// # Panics
/// Where a promise is broken.
pub fn forwarded(data: &[u8]) {
    for (name, appended) in [
        ("x-forwarded-for", "192.0.2.7"),
        ("forwarded", r#"for="192.0.2.7:80";host="a,\";for=6.6.6.6""#),
        ("x-real-ip", ""),
    ] {
        let client_ip = ClientIp::new().trust_proxies(["10.83.66.19"]).header(name);
        let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
        let sent = request(name, lines.iter().map(|line| line.to_vec()));
        check_counted(&client_ip, &sent);

        // The proxy's own address is the client's only where the proxy says nothing else.
        let proxy = Some(IpAddr::from(PROXY));
        if sent.headers.contains_key(name) && client_ip.resolve(&sent) == proxy {
            let text = String::from_utf8_lossy(data).to_ascii_lowercase();
            assert!(WRITTEN.iter().any(|written| text.contains(written)), "{name}: {data:?}");
        }
        if appended.is_empty() {
            continue;
        }
        // What the proxy appends is believed, whatever is before it: on a line of its own, or on the
        // last one.
        let client = Some(IpAddr::from([192, 0, 2, 7]));
        let own_line = lines.iter().map(|line| line.to_vec()).chain([appended.into()]);
        assert_eq!(client_ip.resolve(&request(name, own_line)), client, "{name}: {data:?}");
        let last_line = lines.iter().map(|line| [line, &b", "[..], appended.as_bytes()].concat());
        let last_line = request(name, last_line);
        if sent.headers.get_all(name).iter().count() == lines.len() {
            assert_eq!(client_ip.resolve(&last_line), client, "{name}: {data:?}");
        }
    }
}

/// A request over the proxy; a line that no header can have is left out.
fn request(name: &'static str, lines: impl Iterator<Item = Vec<u8>>) -> Parts {
    let mut request = Request::builder().extension(PeerAddr((PROXY, 80).into()));
    for line in lines {
        if let Ok(value) = http::HeaderValue::from_bytes(&line) {
            request = request.header(name, value);
        }
    }
    request.body(()).expect("all headers are right").into_parts().0
}

/// A client whose address is not known is counted, and exempt nowhere.
fn check_counted(client_ip: &ClientIp, request: &Parts) {
    let policy = Policy::fixed_window("each", Quota::per_hour(2)).key(client_ip.clone()).or_skip();
    let limiter = Limiter::builder()
        .exempt(Matcher::client_ip(client_ip.clone(), all_but_counted()))
        .policy(policy)
        .build()
        .expect("the settings are right");
    let admitted = (0..4).filter(|_| now(limiter.decide(request)).is_allowed()).count();
    let is_exempt = client_ip.resolve(request).is_some_and(|ip| !COUNTED.contains(&ip));
    assert_eq!(admitted, if is_exempt { 4 } else { 2 }, "{request:?}");
}

/// One address of each kind that callers can have: an exemption of all of them is an error.
const COUNTED: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0))];

/// All addresses but those counted: the networks that differ from these in one bit and share all the
/// bits before it.
fn all_but_counted() -> impl Iterator<Item = String> {
    let [IpAddr::V4(v4), IpAddr::V6(v6)] = COUNTED else { unreachable!("one of each kind") };
    let v4 = (1..=32).map(move |bits| {
        let from_bit = 32 - bits;
        let network = (v4.to_bits() >> from_bit ^ 1) << from_bit;
        format!("{}/{bits}", Ipv4Addr::from_bits(network))
    });
    let v6 = (1..=128).map(move |bits| {
        let from_bit = 128 - bits;
        let network = (v6.to_bits() >> from_bit ^ 1) << from_bit;
        format!("{}/{bits}", Ipv6Addr::from_bits(network))
    });
    v4.chain(v6)
}

/// What a store in memory answers at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is held"),
    }
}
