//! Random input from callers keeps the promises of the fuzz targets.

use http::Request;
use proptest::{collection::vec, prelude::*, sample::select};
use tower_quota::{
    Limiter, Matcher, Policy, Quota,
    key::{ClientIp, PeerAddr},
};

use crate::fuzz_targets::{forwarded, keys};

/// Any bytes, and often those that mean something.
fn data() -> impl Strategy<Value = Vec<u8>> {
    const PIECES: &[&str] = &[
        "\n",
        ",",
        ";",
        "=",
        "\"",
        "\\",
        " ",
        "&",
        "%",
        "%00",
        "%ff",
        "%41",
        "+",
        "/",
        "for",
        "for=",
        "host=\"",
        "unknown",
        "_x",
        "6.6.6.6",
        "10.83.66.19",
        "::ffff:10.83.66.19",
        "[::1]:80",
        "Bearer",
        "bearer ",
        "Basic ",
        "key",
        "key=",
        "k%65y=",
        "a",
    ];
    let piece = prop_oneof![
        6 => select(PIECES).prop_map(|piece| piece.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 1..4),
    ];
    vec(piece, 0..16).prop_map(|pieces| pieces.concat())
}

/// A trusted proxy is in an exempt network; the clients behind it are not exempt.
#[tokio::test]
async fn behind_a_proxy_in_an_exempt_network_each_client_is_counted() {
    for (name, values, why) in [
        ("x-forwarded-for", &[&b"192.0.2.7"[..]][..], "as it should be"),
        ("x-forwarded-for", &[b"\xff, 192.0.2.7"], "no text before it"),
        ("x-forwarded-for", &[b"\xff", b"192.0.2.7"], "no text on a line before it"),
        ("x-forwarded-for", &[b"10.9.9.9, 192.0.2.7"], "an inner address before it"),
        ("x-forwarded-for", &[b"unknown"], "hidden"),
        ("x-forwarded-for", &[b"10.9.9.9, _x"], "hidden, an inner address before it"),
        ("x-forwarded-for", &[b"300.1.1.1"], "no address"),
        ("x-forwarded-for", &[b"192.0.2.7,"], "a trailing comma"),
        ("forwarded", &[br#"for=192.0.2.7;host="a,for=10.9.9.9;x=""#], "in a quoted string"),
        ("forwarded", &[br#"for=10.9.9.9;host="a, for=192.0.2.7"#], "a quote that is not closed"),
        ("forwarded", &[b"for=10.9.9.9, for=unknown"], "hidden"),
        ("x-real-ip", &[b"10.9.9.9", b"192.0.2.7"], "twice"),
    ] {
        let client_ip = ClientIp::new().trust_proxies(["10.0.0.0/8"]).header(name);
        let policy = Policy::fixed_window("each", Quota::per_hour(2)).key(client_ip.clone());
        let limiter = Limiter::builder()
            .exempt(Matcher::client_ip(client_ip, ["10.0.0.0/8"]))
            .policy(policy.or_skip())
            .build()
            .unwrap();
        let request = Request::builder().extension(PeerAddr(([10, 0, 0, 9], 80).into()));
        let request = values.iter().fold(request, |request, value| request.header(name, *value));
        let request = request.body(()).unwrap().into_parts().0;
        let mut admitted = 0;
        for _ in 0..8 {
            admitted += usize::from(limiter.decide(&request).await.is_allowed());
        }
        assert_eq!(admitted, 2, "{name}: {why}");
    }
}

proptest! {
    #[test]
    fn a_client_is_who_a_trusted_proxy_says(data in data()) {
        forwarded::forwarded(&data);
    }

    #[test]
    fn a_key_that_is_there_does_not_pass_uncounted(data in data()) {
        keys::keys(&data);
    }
}
