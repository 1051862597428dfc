//! Hostile headers, as a table and at random.

use std::net::SocketAddr;

use http::Request;
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;

type Line<'a> = (&'a str, &'a [u8]);

const PEER: &str = "10.0.0.9";
/// Hidden behind the peer.
const HIDDEN: &str = "hidden behind 10.0.0.9";

fn request(peer: &str, lines: &[(&str, impl AsRef<[u8]>)]) -> Parts {
    let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
    let mut request = Request::builder().extension(PeerAddr(peer));
    for (name, value) in lines {
        request = request.header(*name, value.as_ref());
    }
    request.body(()).unwrap().into_parts().0
}

fn client_of(client_ip: &ClientIp, request: &Parts) -> String {
    match client_ip.find(request) {
        Some((Hop::Ip(ip), Seen::Hidden)) => format!("hidden behind {ip}"),
        Some((Hop::Ip(ip), _)) => ip.to_string(),
        Some((Hop::Unix, seen)) => format!("unix, hidden: {}", seen == Seen::Hidden),
        None => "unknown".to_owned(),
    }
}

fn xff(value: &[u8]) -> Line<'_> {
    ("x-forwarded-for", value)
}

fn fwd(value: &str) -> Line<'_> {
    ("forwarded", value.as_bytes())
}

fn real(value: &[u8]) -> Line<'_> {
    ("x-real-ip", value)
}

#[test]
fn x_forwarded_for() {
    let direct = ClientIp::new();
    let by_network = ClientIp::new().trust_proxies(["10.0.0.0/8", "2001:db8:1::/48"]);
    let by_hops = ClientIp::new().trust_hops(2);
    let rows: &[(&ClientIp, &str, &[Line<'_>], &str, &str)] = &[
        (&direct, PEER, &[xff(b"6.6.6.6")], PEER, "no proxy is trusted"),
        (&direct, PEER, &[xff(b"\xff")], PEER, "nothing is read"),
        (&by_network, "192.0.2.7", &[xff(b"6.6.6.6")], "192.0.2.7", "the peer is no proxy"),
        (&by_network, "192.0.2.7", &[xff(b"unknown")], "192.0.2.7", "and cannot hide"),
        (&by_network, PEER, &[], PEER, "without a header, the proxy is the client"),
        (&by_network, PEER, &[xff(b"192.0.2.7")], "192.0.2.7", "one hop"),
        (&by_network, PEER, &[xff(b" \t192.0.2.7 ")], "192.0.2.7", "whitespace"),
        (&by_network, PEER, &[xff(b"6.6.6.6, 192.0.2.7")], "192.0.2.7", "the leftmost is forged"),
        (&by_network, PEER, &[xff(b"6.6.6.6,192.0.2.7")], "192.0.2.7", "without whitespace"),
        (&by_network, PEER, &[xff(b"192.0.2.7, 10.1.1.1")], "192.0.2.7", "two proxies"),
        (&by_network, PEER, &[xff(b"10.2.2.2, 10.1.1.1")], "10.2.2.2", "proxies all the way"),
        (&by_network, PEER, &[xff(b"6.6.6.6"), xff(b"192.0.2.7")], "192.0.2.7", "two lines"),
        (&by_network, PEER, &[xff(b"192.0.2.7"), xff(b"10.1.1.1")], "192.0.2.7", "one hop a line"),
        (&by_network, PEER, &[xff(b"6.6.6.6, 192.0.2.7"), xff(b"10.1.1.1")], "192.0.2.7", "both"),
        // What a caller wrote does not touch what a proxy wrote.
        (&by_network, PEER, &[xff(b"\xff, 192.0.2.7")], "192.0.2.7", "no text before it"),
        (
            &by_network,
            PEER,
            &[xff(b"\xff"), xff(b"192.0.2.7")],
            "192.0.2.7",
            "nor a line before it",
        ),
        (&by_network, PEER, &[xff(b"\"6.6.6.6, 192.0.2.7")], "192.0.2.7", "quotes are no quotes"),
        (&by_network, PEER, &[xff(b"junk,,\t,192.0.2.7")], "192.0.2.7", "junk before it"),
        (&by_network, PEER, &[xff(b""), xff(b"192.0.2.7")], "192.0.2.7", "an empty line before it"),
        (&by_network, PEER, &[xff(b"for=6.6.6.6, 192.0.2.7")], "192.0.2.7", "another syntax"),
        // A trusted hop hides the client.
        (&by_network, PEER, &[xff(b"unknown")], HIDDEN, "unknown"),
        (&by_network, PEER, &[xff(b"6.6.6.6, unknown")], HIDDEN, "what is before it is forged"),
        (&by_network, PEER, &[xff(b"6.6.6.6, _x")], HIDDEN, "an obfuscated name"),
        (&by_network, PEER, &[xff(b"6.6.6.6, 300.1.1.1")], HIDDEN, "no address"),
        (&by_network, PEER, &[xff(b"6.6.6.6,")], HIDDEN, "a trailing comma"),
        (&by_network, PEER, &[xff(b",")], HIDDEN, "a comma"),
        (&by_network, PEER, &[xff(b"")], HIDDEN, "an empty header"),
        (&by_network, PEER, &[xff(b"192.0.2.7"), xff(b"")], HIDDEN, "an empty line after it"),
        (&by_network, PEER, &[xff(b"6.6.6.6, \xff")], HIDDEN, "bytes that are no text"),
        (&by_network, PEER, &[xff(b"6.6.6.6"), xff(b"\xff")], HIDDEN, "nor on the last line"),
        (&by_network, PEER, &[xff(b"6.6.6.6 192.0.2.7")], HIDDEN, "no comma"),
        (&by_network, PEER, &[xff(b"6.6.6.6; 192.0.2.7")], HIDDEN, "a semicolon"),
        (&by_network, PEER, &[xff(b"192.0.2.7/32")], HIDDEN, "a network"),
        (&by_network, PEER, &[xff(b"localhost")], HIDDEN, "a name"),
        (&by_network, PEER, &[xff(b"192.0.2.7:99999")], HIDDEN, "no port"),
        (&by_network, PEER, &[xff(b"[2001:db8::7")], HIDDEN, "a bracket that is not closed"),
        (&by_network, PEER, &[xff(b"junk, 10.1.1.1")], "hidden behind 10.1.1.1", "a hop behind"),
        (&by_network, PEER, &[xff(b"6.6.6.6,,10.1.1.1")], "hidden behind 10.1.1.1", "an empty one"),
        (
            &by_network,
            PEER,
            &[xff(b"\xff"), xff(b"10.1.1.1")],
            "hidden behind 10.1.1.1",
            "by a line",
        ),
        // Addresses as proxies write them.
        (&by_network, PEER, &[xff(b"192.0.2.7:5555")], "192.0.2.7", "with a port"),
        (&by_network, PEER, &[xff(b"2001:db8::7")], "2001:db8::7", "v6"),
        (&by_network, PEER, &[xff(b"[2001:db8::7]:443")], "2001:db8::7", "v6 with a port"),
        (&by_network, PEER, &[xff(b"fe80::7%eth0")], "fe80::7", "with a zone"),
        (&by_network, PEER, &[xff(b"::ffff:192.0.2.7")], "192.0.2.7", "mapped"),
        (&by_network, PEER, &[xff(b"192.0.2.7, ::ffff:10.1.1.1")], "192.0.2.7", "mapped proxy"),
        (&by_network, PEER, &[xff(b"6.6.6.6, 64:ff9b::a01:101")], "64:ff9b::a01:101", "NAT64"),
        (&by_network, "::ffff:10.0.0.9", &[xff(b"192.0.2.7")], "192.0.2.7", "mapped peer"),
        (&by_network, "2001:db8:1::1", &[xff(b"192.0.2.7")], "192.0.2.7", "v6 proxy"),
        (&by_network, PEER, &[fwd("for=6.6.6.6")], PEER, "another header"),
        (&by_network, PEER, &[real(b"6.6.6.6")], PEER, "and another"),
        // By number.
        (&by_hops, PEER, &[xff(b"6.6.6.6, 192.0.2.7, 10.1.1.1")], "192.0.2.7", "two hops"),
        (&by_hops, PEER, &[xff(b"\xff, 192.0.2.7, 10.1.1.1")], "192.0.2.7", "bytes before them"),
        (&by_hops, PEER, &[xff(b"192.0.2.7")], "192.0.2.7", "fewer addresses than proxies"),
        (&by_hops, PEER, &[], PEER, "without a header, the proxy is the client"),
        (&by_hops, PEER, &[xff(b"6.6.6.6, junk, 10.1.1.1")], "hidden behind 10.1.1.1", "junk"),
        (&by_hops, PEER, &[xff(b"6.6.6.6, junk")], HIDDEN, "junk first"),
    ];
    for (client_ip, peer, lines, client, why) in rows {
        assert_eq!(client_of(client_ip, &request(peer, lines)), *client, "{why}");
    }
}

#[test]
fn the_forwarded_header() {
    let client_ip = ClientIp::new().trust_proxies(["10.0.0.0/8"]).forwarded();
    let rows: &[(&[&str], &str)] = &[
        (&[], PEER),
        (&["for=192.0.2.7"], "192.0.2.7"),
        (&["for=192.0.2.7;"], "192.0.2.7"),
        (&["For=192.0.2.7;proto=https;by=10.0.0.1"], "192.0.2.7"),
        (&["for=6.6.6.6, for=192.0.2.7"], "192.0.2.7"),
        (&["for=6.6.6.6", "for=192.0.2.7"], "192.0.2.7"),
        (&["for=192.0.2.7, for=10.1.1.1"], "192.0.2.7"),
        (&["for=192.0.2.7", "for=10.1.1.1"], "192.0.2.7"),
        (&[r#"for="192.0.2.7:80""#], "192.0.2.7"),
        (&[r#"for="[2001:db8::7]:4711""#], "2001:db8::7"),
        (&[r#"for="[2001:db8::7]:_web""#], "2001:db8::7"),
        (&["for=[2001:db8::7]"], "2001:db8::7"),
        // A quoted string is one value, whatever is in it.
        (&[r#"for=192.0.2.7;host="a,for=6.6.6.1;x=""#], "192.0.2.7"),
        (&[r#"for=192.0.2.7;host="a;for=6.6.6.1""#], "192.0.2.7"),
        (&[r#"host="a,for=6.6.6.1;x=";for=192.0.2.7"#], "192.0.2.7"),
        (&[r#"for=192.0.2.7;host="a\",for=6.6.6.1;x=""#], "192.0.2.7"),
        (&[r#"for=192.0.2.7;host="a\\""#], "192.0.2.7"),
        // What a caller wrote does not touch what a proxy wrote.
        (&[r#"for="6.6.6.6, for=192.0.2.7"#], "192.0.2.7"),
        (&[r#"for=6.6.6.6;host="a, for=192.0.2.7"#], "192.0.2.7"),
        (&[r#"for=6.6.6.6;host="a"#, "for=192.0.2.7"], "192.0.2.7"),
        (&[r#"host="a\, for=192.0.2.7;host="b""#], "192.0.2.7"),
        (&["\u{fffd}, for=192.0.2.7"], "192.0.2.7"),
        (&["junk;;,=,, for=192.0.2.7"], "192.0.2.7"),
        // A trusted hop hides the client.
        (&["for=6.6.6.6, for=unknown"], HIDDEN),
        (&["for=6.6.6.6, for=_hidden"], HIDDEN),
        (&[r#"for=6.6.6.6, for="_hidden:80""#], HIDDEN),
        (&["for=6.6.6.6, proto=https"], HIDDEN),
        (&["for=6.6.6.6;for=6.6.6.7"], HIDDEN),
        (&[r#"for=6.6.6.6, for="192.0.2.7"#], HIDDEN),
        (&[r#"for=6.6.6.6, for=192.0.2.7""#], HIDDEN),
        (&["for=192.0.2.7,"], HIDDEN),
        (&["for=192.0.2.7", ""], HIDDEN),
        (&[""], HIDDEN),
        (&["garbage"], HIDDEN),
        (&["192.0.2.7"], HIDDEN),
        (&["for: 192.0.2.7"], HIDDEN),
        (&["for = 192.0.2.7"], HIDDEN),
        (&["for=300.1.1.1"], HIDDEN),
        (&["for=junk, for=10.1.1.1"], "hidden behind 10.1.1.1"),
    ];
    for (values, client) in rows {
        let lines: Vec<_> = values.iter().map(|value| fwd(value)).collect();
        assert_eq!(client_of(&client_ip, &request(PEER, &lines)), *client, "{values:?}");
    }
    let stranger = request("192.0.2.9", &[fwd("for=6.6.6.6")]);
    assert_eq!(client_of(&client_ip, &stranger), "192.0.2.9");
}

#[test]
fn a_header_with_one_address() {
    let client_ip = ClientIp::new().trust_proxies([PEER]).header("x-real-ip");
    let rows: &[(&str, &[Line<'_>], &str)] = &[
        (PEER, &[], PEER),
        (PEER, &[real(b"192.0.2.7")], "192.0.2.7"),
        (PEER, &[real(b"[2001:db8::7]:80")], "2001:db8::7"),
        ("10.0.0.8", &[real(b"192.0.2.7")], "10.0.0.8"),
        (PEER, &[real(b"6.6.6.6"), real(b"192.0.2.7")], HIDDEN),
        (PEER, &[real(b"192.0.2.7"), real(b"192.0.2.7")], HIDDEN),
        (PEER, &[real(b"192.0.2.7, 6.6.6.6")], HIDDEN),
        (PEER, &[real(b"")], HIDDEN),
        (PEER, &[real(b"unknown")], HIDDEN),
        (PEER, &[real(b"\xff")], HIDDEN),
        (PEER, &[xff(b"6.6.6.6")], PEER),
    ];
    for (peer, lines, client) in rows {
        assert_eq!(client_of(&client_ip, &request(peer, lines)), *client, "{lines:?}");
    }
}

#[test]
fn the_peer_of_a_unix_socket() {
    let request = |lines: &[Line<'_>]| {
        let mut request = request(PEER, lines);
        request.extensions.clear();
        request.extensions.insert(UnixPeer);
        request
    };
    let trusted = ClientIp::new().trust_proxies(["unix:"]);
    let chain = ClientIp::new().trust_proxies(["unix:", "10.0.0.0/8"]);
    let by_hops = ClientIp::new().trust_hops(1);
    let others = ClientIp::new().trust_proxies(["10.0.0.0/8"]);
    let line = [xff(b"6.6.6.6, 192.0.2.7")];
    for client_ip in [&trusted, &chain, &by_hops] {
        assert_eq!(client_of(client_ip, &request(&line)), "192.0.2.7");
        assert_eq!(client_of(client_ip, &request(&[])), "unix, hidden: false");
        assert_eq!(client_of(client_ip, &request(&[xff(b"unknown")])), "unix, hidden: true");
    }
    assert_eq!(client_of(&chain, &request(&[xff(b"192.0.2.7, 10.1.1.1")])), "192.0.2.7");
    for client_ip in [&ClientIp::new(), &others] {
        assert_eq!(client_of(client_ip, &request(&line)), "unix, hidden: false");
        assert_eq!(client_ip.resolve(&request(&line)), None, "it has no address");
        assert_ne!(client_ip.extract(&request(&line)), Extracted::Missing, "but a quota");
    }
}

fn key_of(client_ip: &ClientIp, peer: &str, lines: &[Line<'_>]) -> Vec<u8> {
    client_ip.extract(&request(peer, lines)).found().unwrap().as_bytes().to_vec()
}

#[test]
fn all_that_are_hidden_behind_a_hop_share_a_quota_of_their_own() {
    let client_ip = ClientIp::new().trust_proxies(["10.0.0.0/8", "2001:db8:1::/48"]);
    let key = |peer, value: &'static [u8]| key_of(&client_ip, peer, &[xff(value)]);
    let hidden = key(PEER, b"unknown");
    assert_eq!(hidden, key(PEER, b"_x"));
    assert_eq!(hidden, key(PEER, b"junk"));
    assert_eq!(hidden, key("10.1.1.1", b"junk, 10.0.0.9"), "whatever the way to the hop");
    assert_ne!(hidden, key("10.0.0.8", b"unknown"));
    assert_ne!(hidden, key_of(&client_ip, PEER, &[]));
    let v6 = |peer| key(peer, b"unknown");
    assert_eq!(v6("2001:db8:1::1"), v6("2001:db8:1::2"), "of a network, as its addresses");
}

#[test]
fn addresses_count_by_their_networks() {
    let key = |client_ip: &ClientIp, peer: &str| key_of(client_ip, peer, &[]);
    let by_default = ClientIp::new();
    let by_128 = ClientIp::new().ipv6_prefix(128);
    let by_24 = ClientIp::new().ipv4_prefix(24);
    for (client_ip, one, other, same) in [
        (&by_default, "2001:db8::1", "2001:db8::ffff:2", true),
        (&by_default, "2001:db8::1", "2001:db8:0:1::1", false),
        (&by_128, "2001:db8::1", "2001:db8::2", false),
        (&by_default, "192.0.2.1", "192.0.2.2", false),
        (&by_24, "192.0.2.1", "192.0.2.255", true),
        (&by_24, "192.0.2.1", "192.0.3.1", false),
        (&by_default, "::ffff:192.0.2.1", "::ffff:192.0.2.2", false),
        (&by_default, "::ffff:192.0.2.1", "192.0.2.1", true),
        (&by_24, "::ffff:192.0.2.1", "192.0.2.2", true),
        // Behind NAT64.
        (&by_default, "64:ff9b::192.0.2.1", "64:ff9b::192.0.2.2", false),
        (&by_default, "64:ff9b::192.0.2.1", "192.0.2.1", true),
        (&by_24, "64:ff9b::192.0.2.1", "192.0.2.2", true),
        (&by_default, "64:ff9b:1::192.0.2.1", "64:ff9b:1::192.0.2.2", false),
        (&by_default, "64:ff9b:1:c000:2:100::", "64:ff9b:1:c000:2:200::", false),
        (&by_default, "64:ff9b::1:0:0", "64:ff9b::2:0:0", true),
        (&by_default, "64:ff9b:2::1", "64:ff9b:2::2", true),
    ] {
        assert_eq!(key(client_ip, one) == key(client_ip, other), same, "{one} {other}");
    }
}

#[test]
fn settings_that_cannot_be_right() {
    const EVERYBODY: &str = "the trusted proxies are everybody, and any caller writes its own address; write the networks of the proxies, or their number with `trust_hops(n)`";
    for (client_ip, problem) in [
        (
            ClientIp::new().trust_proxies(["10.0.0.0/33"]),
            "`10.0.0.0/33` is no address or network; write one like `10.0.0.0/8` or `192.0.2.1`",
        ),
        (
            ClientIp::new().trust_proxies(["::ffff:10.0.0.0/8"]),
            "`::ffff:10.0.0.0/8` reaches beyond the IPv4-mapped addresses; write an IPv4 network like `10.0.0.0/8`",
        ),
        (ClientIp::new().trust_proxies(["0.0.0.0/0"]), EVERYBODY),
        (ClientIp::new().trust_proxies(["10.0.0.0/8", "::/0"]), EVERYBODY),
        (ClientIp::new().trust_proxies(["::ffff:0.0.0.0/96"]), EVERYBODY),
        (ClientIp::new().trust_proxies(["0.0.0.0/1", "128.0.0.0/1"]), EVERYBODY),
        (
            ClientIp::new().trust_proxies(["10.0.0.1"]).trust_hops(1),
            "proxies are trusted twice; write `trust_proxies` or `trust_hops`, once",
        ),
        (
            ClientIp::new().forwarded(),
            "a header is named but no proxy is trusted to write it; add `trust_proxies([…])` or `trust_hops(n)`",
        ),
        (
            ClientIp::new().trust_hops(1).header("x real ip"),
            "`x real ip` is no header name; write one like `x-real-ip`",
        ),
        (
            ClientIp::new().ipv4_prefix(33),
            "an IPv4 prefix of 33 bits cannot be; write 1 to 32, 32 for one address",
        ),
        (
            ClientIp::new().ipv6_prefix(0),
            "an IPv6 prefix of 0 bits cannot be; write 1 to 128, 64 for one subscriber",
        ),
    ] {
        assert_eq!(client_ip.problem().as_deref(), Some(problem));
    }
    assert_eq!(ClientIp::new().trust_hops(1).forwarded().problem(), None);
    assert_eq!(ClientIp::new().trust_proxies(["::ffff:10.0.0.0/104", "unix:"]).problem(), None);
}

#[test]
fn a_network_of_mapped_addresses_is_the_one_of_ipv4() {
    let mapped = ClientIp::new().trust_proxies(["::ffff:10.0.0.0/104"]);
    assert_eq!(client_of(&mapped, &request(PEER, &[xff(b"192.0.2.7")])), "192.0.2.7");
    assert_eq!(client_of(&mapped, &request("11.0.0.9", &[xff(b"192.0.2.7")])), "11.0.0.9");
    let one = ClientIp::new().trust_proxies(["::ffff:10.0.0.9"]);
    assert_eq!(client_of(&one, &request(PEER, &[xff(b"192.0.2.7")])), "192.0.2.7");
}

/// What a caller may send: any bytes that a header can have, and often those that mean something.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => select(vec![
            &b","[..], b";", b"=", b"\"", b"\\", b"for", b"for=", b"host=\"", b" ", b"\t", b"\xff",
            b"unknown", b"_x", b"6.6.6.6", b"10.0.0.9", b"10.1.1.1", b"[::1]:80", b"::ffff:10.0.0.9",
        ]).prop_map(<[u8]>::to_vec),
        1 => vec(prop_oneof![Just(b'\t'), 32..=126_u8, 128..=255_u8], 1..4),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn what_a_caller_wrote_does_not_touch_what_a_proxy_appended(
        lines in vec(line(), 0..4),
        same_line in any::<bool>(),
        hops in 1..3_usize,
        quoted in any::<bool>(),
    ) {
        let xff = ["192.0.2.7", "192.0.2.7, 10.1.1.1"][hops - 1];
        let forwarded = match (hops, quoted) {
            (1, false) => "for=192.0.2.7",
            (1, true) => r#"host="a\",for=6.6.6.6\\";For="192.0.2.7:80";proto=http"#,
            (_, false) => "for=192.0.2.7, for=10.1.1.1",
            (_, true) => r#"for="192.0.2.7";by="x,y", for="10.1.1.1:_x""#,
        };
        for (name, appended) in [("x-forwarded-for", xff), ("forwarded", forwarded)] {
            let mut lines: Vec<_> = lines.iter().map(|line| (name, line.clone())).collect();
            match lines.last_mut().filter(|_| same_line) {
                Some((_, last)) => last.extend_from_slice(format!(", {appended}").as_bytes()),
                None => lines.push((name, appended.into())),
            }
            let request = request(PEER, &lines);
            let by_network = ClientIp::new().trust_proxies(["10.0.0.0/8"]).header(name);
            let by_hops = ClientIp::new().trust_hops(hops).header(name);
            for client_ip in [by_network, by_hops] {
                prop_assert_eq!(client_of(&client_ip, &request), "192.0.2.7", "{:?}", lines);
            }
        }
    }

    #[test]
    fn a_trusted_proxy_that_sends_the_header_is_never_the_client(lines in vec(line(), 1..4)) {
        for name in ["x-forwarded-for", "forwarded", "x-real-ip"] {
            let lines: Vec<_> = lines.iter().map(|line| (name, line.clone())).collect();
            let (peer, ip) = ("10.99.98.97", IpAddr::from([10, 99, 98, 97]));
            let client_ip = ClientIp::new().trust_proxies([peer]).header(name);
            prop_assert_ne!(client_ip.resolve(&request(peer, &lines)), Some(ip), "{:?}", lines);
        }
    }
}
