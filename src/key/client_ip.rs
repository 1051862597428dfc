use std::{
    borrow::Cow,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Once,
};

use http::{HeaderName, header::FORWARDED, request::Parts};
use ipnet::IpNet;

use super::{Extracted, KeyExtractor, forwarded};
use crate::warning::{Code, warn};

/// The peer's address, for servers other than axum's: put it into the request's extensions.
///
/// With the feature `axum`, axum's `ConnectInfo<SocketAddr>` is read as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddr(pub SocketAddr);

/// The client's address.
///
/// It is the peer's, unless proxies are trusted by address or by number: then it is read from
/// `X-Forwarded-For`, or the header named, from the right, as far as trust reaches. A hop that
/// does not parse ends the walk. IPv6 addresses count by their /64.
///
/// The peer's address comes from axum's `ConnectInfo<SocketAddr>` or from [`PeerAddr`].
///
/// ```
/// use tower_quota::key::ClientIp;
///
/// let direct = ClientIp::new();
/// let behind_a_proxy = ClientIp::new().trust_proxies(["10.0.0.0/8", "fd00::/8"]);
/// let behind_two_proxies = ClientIp::new().trust_hops(2).forwarded();
/// # let _ = (direct, behind_a_proxy, behind_two_proxies);
/// ```
#[derive(Clone, Debug)]
pub struct ClientIp {
    trust: Trust,
    source: Source,
    ipv6_prefix: u8,
    problem: Option<String>,
}

#[derive(Clone, Debug)]
enum Trust {
    Nobody,
    Proxies(Vec<IpNet>),
    Hops(usize),
}

#[derive(Clone, Debug)]
enum Source {
    XForwardedFor(HeaderName),
    Forwarded,
    Single(HeaderName),
}

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl ClientIp {
    /// The peer's address; no header is believed.
    #[must_use]
    pub fn new() -> Self {
        Self {
            trust: Trust::Nobody,
            source: Source::XForwardedFor(X_FORWARDED_FOR),
            ipv6_prefix: 64,
            problem: None,
        }
    }

    /// Believes proxies at these addresses or networks, such as `10.0.0.0/8`.
    #[must_use]
    pub fn trust_proxies<T: AsRef<str>>(mut self, networks: impl IntoIterator<Item = T>) -> Self {
        match parse_networks(networks) {
            Ok(networks) => self.set_trust(Trust::Proxies(networks)),
            Err(problem) => self.problem = Some(problem),
        }
        self
    }

    /// Believes this many proxies, the peer being the first of them. Only where nobody can reach
    /// the server but through them.
    #[must_use]
    pub fn trust_hops(mut self, proxies: usize) -> Self {
        self.set_trust(Trust::Hops(proxies));
        self
    }

    /// Reads `Forwarded` (RFC 7239) instead of `X-Forwarded-For`.
    #[must_use]
    pub fn forwarded(mut self) -> Self {
        self.source = Source::Forwarded;
        self
    }

    /// Reads a header that holds one address, such as `cf-connecting-ip`, instead of
    /// `X-Forwarded-For`. The trusted proxy must overwrite it.
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        match HeaderName::try_from(name) {
            Ok(name) if name == FORWARDED => self.source = Source::Forwarded,
            Ok(name) if name == X_FORWARDED_FOR => self.source = Source::XForwardedFor(name),
            Ok(name) => self.source = Source::Single(name),
            Err(_) => {
                self.problem =
                    Some(format!("`{name:?}` is no header name; write one like `x-real-ip`"));
            }
        }
        self
    }

    /// Counts IPv6 addresses by their first `bits` bits. Default: 64.
    #[must_use]
    pub fn ipv6_prefix(mut self, bits: u8) -> Self {
        if !(1..=128).contains(&bits) {
            self.problem = Some(format!(
                "an IPv6 prefix of {bits} bits cannot be; write 1 to 128, 64 for one subscriber"
            ));
        }
        self.ipv6_prefix = bits;
        self
    }

    /// The address of the client, whole; `None` where the peer's is not known.
    #[must_use]
    pub fn resolve(&self, request: &Parts) -> Option<IpAddr> {
        let Some(peer) = peer(request) else {
            log_missing_peer();
            return None;
        };
        let peer = peer.to_canonical();
        if matches!(self.trust, Trust::Nobody) {
            return Some(peer);
        }
        let headers = &request.headers;
        Some(match &self.source {
            Source::XForwardedFor(name) => {
                self.walk(peer, forwarded::x_forwarded_for(headers, name))
            }
            Source::Forwarded => self.walk(peer, forwarded::forwarded(headers)),
            Source::Single(name) => {
                let mut lines = headers.get_all(name).iter();
                let (value, another) = (lines.next(), lines.next());
                let told = value.and_then(|value| forwarded::node(value.to_str().ok()?));
                let believed = self.trusts(peer, 0) && another.is_none();
                told.filter(|_| believed).unwrap_or(peer)
            }
        })
    }

    /// From the nearest hop outwards, as long as each one that tells of the next is trusted.
    fn walk(&self, peer: IpAddr, mut hops: impl Iterator<Item = Option<IpAddr>>) -> IpAddr {
        let mut client = peer;
        let mut walked = 0;
        while self.trusts(client, walked)
            && let Some(Some(next)) = hops.next()
        {
            client = next;
            walked += 1;
        }
        client
    }

    fn trusts(&self, ip: IpAddr, walked: usize) -> bool {
        match &self.trust {
            Trust::Nobody => false,
            Trust::Proxies(networks) => networks.iter().any(|network| network.contains(&ip)),
            Trust::Hops(hops) => walked < *hops,
        }
    }

    fn set_trust(&mut self, trust: Trust) {
        if !matches!(self.trust, Trust::Nobody) {
            self.problem = Some(
                "proxies are trusted twice; write `trust_proxies` or `trust_hops`, once".to_owned(),
            );
        }
        self.trust = trust;
    }
}

impl Default for ClientIp {
    fn default() -> Self {
        Self::new()
    }
}

impl KeyExtractor for ClientIp {
    fn kind(&self) -> Cow<'_, str> {
        "ip".into()
    }

    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        let counted = self.resolve(request).map(|ip| match ip {
            IpAddr::V4(ip) => IpAddr::V4(ip).into(),
            IpAddr::V6(ip) => {
                let mask = u128::MAX.unbounded_shl(128 - u32::from(self.ipv6_prefix.min(128)));
                IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() & mask)).into()
            }
        });
        counted.into()
    }

    fn problem(&self) -> Option<String> {
        let reads_a_header = !matches!(self.source, Source::XForwardedFor(_));
        let unbelieved = (reads_a_header && matches!(self.trust, Trust::Nobody)).then(|| {
            "a header is named but no proxy is trusted to write it; add `trust_proxies([…])` or `trust_hops(n)`"
                .to_owned()
        });
        self.problem.clone().or(unbelieved)
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

/// Networks as text; an address alone is a network of its own.
pub(crate) fn parse_networks<T: AsRef<str>>(
    networks: impl IntoIterator<Item = T>,
) -> Result<Vec<IpNet>, String> {
    let parse =
        |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let each = networks.into_iter().map(|text| {
        let text = text.as_ref();
        parse(text).ok_or_else(|| {
            format!("`{text}` is no address or network; write one like `10.0.0.0/8` or `192.0.2.1`")
        })
    });
    each.collect()
}

fn peer(request: &Parts) -> Option<IpAddr> {
    if let Some(PeerAddr(peer)) = request.extensions.get() {
        return Some(peer.ip());
    }
    #[cfg(feature = "axum")]
    {
        use axum::extract::connect_info::{ConnectInfo, MockConnectInfo};
        if let Some(ConnectInfo(peer)) = request.extensions.get::<ConnectInfo<SocketAddr>>() {
            return Some(peer.ip());
        }
        if let Some(MockConnectInfo(peer)) = request.extensions.get::<MockConnectInfo<SocketAddr>>()
        {
            return Some(peer.ip());
        }
    }
    None
}

fn log_missing_peer() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        warn(Code::NoPeerAddress, "", || {
            "no client address: the peer's is not in the request's extensions. With axum, serve \
             `app.into_make_service_with_connect_info::<SocketAddr>()`; elsewhere insert \
             `tower_quota::key::PeerAddr`. Until then, policies that count by IP do what they say of a \
             missing key"
                .to_owned()
        });
    });
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    type Headers<'a> = &'a [(&'a str, &'a [u8])];

    const PEER: &str = "10.0.0.9";

    fn request(peer: &str, headers: Headers<'_>) -> Parts {
        let peer = SocketAddr::new(peer.parse().unwrap(), 4711);
        let mut request = Request::builder().extension(PeerAddr(peer));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn resolve(client_ip: &ClientIp, peer: &str, headers: Headers<'_>) -> String {
        client_ip.resolve(&request(peer, headers)).unwrap().to_string()
    }

    #[test]
    fn hostile_forwarded_headers() {
        let direct = ClientIp::new();
        let by_network = ClientIp::new().trust_proxies(["10.0.0.0/8", "2001:db8:1::/48"]);
        let by_hops = ClientIp::new().trust_hops(2);
        let xff = |value: &'static [u8]| ("x-forwarded-for", value);
        let rows: &[(&ClientIp, &str, Headers<'_>, &str, &str)] = &[
            (&direct, PEER, &[xff(b"6.6.6.6")], PEER, "no proxy is trusted"),
            (&by_network, "192.0.2.7", &[xff(b"6.6.6.6")], "192.0.2.7", "the peer is no proxy"),
            (&by_network, PEER, &[], PEER, "the proxy says nothing"),
            (&by_network, PEER, &[xff(b"192.0.2.7")], "192.0.2.7", "one hop"),
            (&by_network, PEER, &[xff(b"6.6.6.6, 192.0.2.7")], "192.0.2.7", "leftmost is forged"),
            (&by_network, PEER, &[xff(b"192.0.2.7, 10.1.1.1")], "192.0.2.7", "two proxies"),
            (&by_network, PEER, &[xff(b"10.2.2.2, 10.1.1.1")], "10.2.2.2", "proxies all the way"),
            (&by_network, PEER, &[xff(b"6.6.6.6"), xff(b"192.0.2.7")], "192.0.2.7", "two lines"),
            (&by_network, PEER, &[xff(b"6.6.6.6, junk, 10.1.1.1")], "10.1.1.1", "junk ends it"),
            (&by_network, PEER, &[xff(b"6.6.6.6,,10.1.1.1")], "10.1.1.1", "an empty hop ends it"),
            (&by_network, PEER, &[xff(b"6.6.6.6, \xff")], PEER, "bytes that are no text"),
            (&by_network, PEER, &[xff(b"6.6.6.6"), xff(b"\xff")], PEER, "nor on a line before"),
            (&by_network, PEER, &[xff(b"")], PEER, "an empty header"),
            (&by_network, PEER, &[xff(b"192.0.2.7:5555")], "192.0.2.7", "with a port"),
            (&by_network, PEER, &[xff(b"[2001:db8::7]:443")], "2001:db8::7", "v6 with a port"),
            (&by_network, PEER, &[xff(b"fe80::7%eth0")], "fe80::7", "with a zone"),
            (&by_network, PEER, &[xff(b"::ffff:192.0.2.7")], "192.0.2.7", "mapped"),
            (&by_network, PEER, &[xff(b"192.0.2.7, ::ffff:10.1.1.1")], "192.0.2.7", "mapped proxy"),
            (&by_network, "::ffff:10.0.0.9", &[xff(b"192.0.2.7")], "192.0.2.7", "mapped peer"),
            (&by_network, "2001:db8:1::1", &[xff(b"192.0.2.7")], "192.0.2.7", "v6 proxy"),
            (&by_network, PEER, &[("forwarded", b"for=6.6.6.6")], PEER, "another header"),
            (&by_hops, PEER, &[xff(b"6.6.6.6, 192.0.2.7, 10.1.1.1")], "192.0.2.7", "two hops"),
            (&by_hops, PEER, &[xff(b"192.0.2.7")], "192.0.2.7", "fewer hops than proxies"),
            (&by_hops, PEER, &[xff(b"6.6.6.6, junk, 10.1.1.1")], "10.1.1.1", "junk ends it"),
        ];
        for (client_ip, peer, headers, client, why) in rows {
            assert_eq!(resolve(client_ip, peer, headers), *client, "{why}");
        }
    }

    #[test]
    fn the_forwarded_header() {
        let client_ip = ClientIp::new().trust_proxies(["10.0.0.0/8"]).forwarded();
        for (value, client) in [
            ("for=192.0.2.7", "192.0.2.7"),
            ("for=192.0.2.7;", "192.0.2.7"),
            ("For=192.0.2.7;proto=https;by=10.0.0.1", "192.0.2.7"),
            ("for=6.6.6.6, for=192.0.2.7", "192.0.2.7"),
            ("for=192.0.2.7, for=10.1.1.1", "192.0.2.7"),
            ("for=\"192.0.2.7:80\"", "192.0.2.7"),
            ("for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
            ("for=6.6.6.6, for=unknown", PEER),
            ("for=6.6.6.6, for=_hidden", PEER),
            ("for=6.6.6.6, proto=https", PEER),
            ("for=6.6.6.6;for=6.6.6.7", PEER),
            ("for=\"6.6.6.6, for=192.0.2.7", "192.0.2.7"),
            ("for=6.6.6.6, for=\"192.0.2.7", PEER),
            ("garbage", PEER),
        ] {
            let read = resolve(&client_ip, PEER, &[("forwarded", value.as_bytes())]);
            assert_eq!(read, client, "{value}");
        }
    }

    #[test]
    fn a_header_with_one_address() {
        let client_ip = ClientIp::new().trust_proxies([PEER]).header("x-real-ip");
        let real = |value: &'static [u8]| ("x-real-ip", value);
        assert_eq!(resolve(&client_ip, PEER, &[real(b"192.0.2.7")]), "192.0.2.7");
        assert_eq!(resolve(&client_ip, "10.0.0.8", &[real(b"192.0.2.7")]), "10.0.0.8");
        assert_eq!(resolve(&client_ip, PEER, &[real(b"6.6.6.6"), real(b"192.0.2.7")]), PEER);
        assert_eq!(resolve(&client_ip, PEER, &[real(b"192.0.2.7, 6.6.6.6")]), PEER);
    }

    #[test]
    fn ipv6_counts_by_its_network_and_ipv4_by_itself() {
        let key = |client_ip: &ClientIp, peer: &str| {
            client_ip.extract(&request(peer, &[])).found().unwrap().as_bytes().to_vec()
        };
        let by_64 = ClientIp::new();
        assert_eq!(key(&by_64, "2001:db8::1"), key(&by_64, "2001:db8::ffff:2"));
        assert_ne!(key(&by_64, "2001:db8::1"), key(&by_64, "2001:db8:0:1::1"));
        let by_128 = ClientIp::new().ipv6_prefix(128);
        assert_ne!(key(&by_128, "2001:db8::1"), key(&by_128, "2001:db8::2"));
        assert_ne!(key(&by_64, "::ffff:192.0.2.1"), key(&by_64, "::ffff:192.0.2.2"));
        assert_eq!(key(&by_64, "::ffff:192.0.2.1"), key(&by_64, "192.0.2.1"));
    }

    #[test]
    fn settings_that_cannot_be_right() {
        for (client_ip, problem) in [
            (
                ClientIp::new().trust_proxies(["10.0.0.0/33"]),
                "`10.0.0.0/33` is no address or network; write one like `10.0.0.0/8` or `192.0.2.1`",
            ),
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
                "`\"x real ip\"` is no header name; write one like `x-real-ip`",
            ),
            (
                ClientIp::new().ipv6_prefix(0),
                "an IPv6 prefix of 0 bits cannot be; write 1 to 128, 64 for one subscriber",
            ),
        ] {
            assert_eq!(client_ip.problem().as_deref(), Some(problem));
        }
        assert_eq!(ClientIp::new().trust_hops(1).forwarded().problem(), None);
    }
}
