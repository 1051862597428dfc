//! The client's address: [`ClientIp`].

mod diagnostics;
mod forwarded;
mod networks;
mod peer;
mod proxies;
#[cfg(test)]
mod tests;
mod walk;

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use http::{HeaderName, header::FORWARDED, request::Parts};
use ipnet::IpNet;

pub(crate) use self::networks::{hold_all_callers, parse_networks};
#[cfg(feature = "testing")]
pub(crate) use self::peer::has_peer;
use self::{
    diagnostics::{Seen, Watch},
    peer::Hop,
    proxies::{Proxies, Source, Trust, X_FORWARDED_FOR},
};
pub use self::{
    peer::{PeerAddr, UnixPeer},
    walk::{AddressHop, AddressWalk, FoundClient, HopAddress},
};
use super::{Extracted, Key, KeyExtractor};
use crate::{
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// The client's address.
///
/// It is the peer's address, unless proxies are trusted, by address or by number. Then it is read from
/// `X-Forwarded-For` or another header. The header is read from the right, and only as far as the
/// proxies are trusted: what a caller wrote is never read.
///
/// - If a trusted proxy does not send the header, its own address is the client's.
/// - If all addresses in the header are trusted, the leftmost one is the client's.
/// - If a trusted proxy wrote something that is not an address (`unknown`, `_hidden`, nothing after
///   a comma), or sent a [header with one address](Self::header) twice, it hides the client. All
///   clients that one proxy hides share one quota, which is not the quota of the proxy itself.
///   [`Matcher::client_ip`](crate::Matcher::client_ip) matches none of them.
///
/// # Networks
/// An IPv4 address counts by itself, and an IPv6 address by its /64. An address behind NAT64
/// (`64:ff9b::/96`, RFC 6052) counts as the IPv4 address in it. An address behind a network's own
/// translator (`64:ff9b:1::/48`, RFC 8215) counts by itself: its /64 may hold many clients, and each
/// client has only one such address.
///
/// # Where the peer's address comes from
/// From axum's `ConnectInfo<SocketAddr>`, tonic's `TcpConnectInfo`, or [`PeerAddr`] in the request's
/// extensions. A peer on a Unix socket is [`UnixPeer`].
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
    proxies: Proxies,
    ipv4_prefix: u8,
    ipv6_prefix: u8,
    problem: Option<String>,
    watch: Arc<Watch>,
}

/// A peer on a Unix socket, in `trust_proxies`.
const UNIX: &str = "unix:";

impl ClientIp {
    /// The peer's address. No header is read.
    #[must_use]
    pub fn new() -> Self {
        Self {
            proxies: Proxies { trust: Trust::NoProxy, source: Source::XForwardedFor },
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            problem: None,
            watch: Arc::default(),
        }
    }

    /// Trusts proxies with these addresses or networks, such as `10.0.0.0/8`. `unix:` is a peer on a
    /// Unix socket ([`UnixPeer`]). Default: no proxy is trusted.
    #[must_use]
    pub fn trust_proxies<T: AsRef<str>>(mut self, proxies: impl IntoIterator<Item = T>) -> Self {
        let (unix, others): (Vec<_>, Vec<_>) =
            proxies.into_iter().partition(|proxy| proxy.as_ref() == UNIX);
        let networks = parse_networks(others).unwrap_or_else(|problem| {
            self.problem = Some(problem);
            Vec::new()
        });
        if hold_all_callers(&networks) {
            self.problem = Some(
                "the trusted proxies are everybody, and any caller writes its own address; write the networks of the proxies, or their number with `trust_hops(n)`"
                    .to_owned(),
            );
        }
        self.set_trust(Trust::Proxies { networks, unix: !unix.is_empty() });
        self
    }

    /// Trusts this number of proxies; the peer is the first one. Use it only if every request comes
    /// through all of them. With 0, there is no proxy, and no header is read.
    #[must_use]
    pub fn trust_hops(mut self, proxies: usize) -> Self {
        self.set_trust(Trust::Hops(proxies));
        self
    }

    /// Reads `Forwarded` (RFC 7239) instead of `X-Forwarded-For`.
    #[must_use]
    pub fn forwarded(mut self) -> Self {
        self.set_source(Source::Forwarded);
        self
    }

    /// Reads a header that holds one address, such as `cf-connecting-ip`, instead of
    /// `X-Forwarded-For`. The trusted proxy must overwrite this header. The names `forwarded` and
    /// `x-forwarded-for` mean the same as [`forwarded`](Self::forwarded) and the default.
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        match HeaderName::try_from(name) {
            Ok(name) if name == FORWARDED => self.set_source(Source::Forwarded),
            Ok(name) if name == X_FORWARDED_FOR => self.set_source(Source::XForwardedFor),
            Ok(name) => self.set_source(Source::Single(name)),
            Err(_) => {
                let name = name.escape_debug();
                self.problem =
                    Some(format!("`{name}` is no header name; write one like `x-real-ip`"));
            }
        }
        self
    }

    /// Counts IPv4 addresses by their first `bits` bits. Default: 32, the whole address.
    #[must_use]
    pub fn ipv4_prefix(mut self, bits: u8) -> Self {
        if !(1..=32).contains(&bits) {
            self.problem = Some(format!(
                "an IPv4 prefix of {bits} bits cannot be; write 1 to 32, 32 for one address"
            ));
        }
        self.ipv4_prefix = bits;
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

    /// The whole address of the client, not its network. `None` if it is not known: the server does not
    /// put the peer's address into the extensions, a trusted proxy hides the client, or the client is
    /// on a Unix socket.
    #[must_use]
    pub fn resolve(&self, request: &Parts) -> Option<IpAddr> {
        match self.find(request)? {
            (_, Seen::Hidden) | (Hop::Unix, _) => None,
            (Hop::Ip(ip), _) => Some(ip),
        }
    }

    /// How the client's address is found, step by step. It gives no [warning](crate::warning).
    #[must_use]
    pub fn walk(&self, request: &Parts) -> AddressWalk {
        AddressWalk::new(self, request)
    }

    /// The client, or the hop that hides it; `None` if the peer is not known.
    fn find(&self, request: &Parts) -> Option<(Hop, Seen)> {
        let Some((client, seen)) = self.find_traced(request, |_, _| {}) else {
            log_missing_peer();
            return None;
        };
        if !self.watch.first.are_over() {
            self.watch.look(&self.proxies, request, seen);
        }
        if seen == Seen::Hidden {
            self.watch.log_hidden(&self.proxies);
        }
        Some((client, seen))
    }

    /// Calls `on_hop` with each hop and whether it is trusted; with none for one that is no address.
    #[inline]
    fn find_traced(
        &self,
        request: &Parts,
        mut on_hop: impl FnMut(Option<Hop>, bool),
    ) -> Option<(Hop, Seen)> {
        let peer = Hop::peer(request)?;
        let is_trusted = self.proxies.trusts(peer, 0);
        on_hop(Some(peer), is_trusted);
        if !is_trusted {
            return Some((peer, Seen::UntrustedPeer));
        }
        let headers = &request.headers;
        Some(match &self.proxies.source {
            Source::XForwardedFor => {
                self.go(peer, forwarded::x_forwarded_for(headers, &X_FORWARDED_FOR), on_hop)
            }
            Source::Forwarded => self.go(peer, forwarded::forwarded(headers), on_hop),
            Source::Single(name) => self.go(peer, forwarded::single(headers, name), on_hop),
        })
    }

    /// Goes from the peer, which is trusted, to the next hop as long as the hop is trusted.
    fn go(
        &self,
        peer: Hop,
        mut hops: impl Iterator<Item = Option<IpAddr>>,
        mut on_hop: impl FnMut(Option<Hop>, bool),
    ) -> (Hop, Seen) {
        let (mut hop, mut walked) = (peer, 0_usize);
        loop {
            match hops.next() {
                Some(Some(next)) => (hop, walked) = (Hop::Ip(next), walked.saturating_add(1)),
                Some(None) => {
                    on_hop(None, false);
                    return (hop, Seen::Hidden);
                }
                None if walked == 0 => return (hop, Seen::NoHeader),
                None => return (hop, Seen::OnlyTrusted),
            }
            let is_trusted = self.proxies.trusts(hop, walked);
            on_hop(Some(hop), is_trusted);
            if !is_trusted {
                return (hop, Seen::Client);
            }
        }
    }

    /// The network by which an address counts: its first address, and the length of its prefix.
    fn network(&self, ip: IpAddr) -> (IpAddr, u8) {
        let (ip, prefix) = match ip {
            IpAddr::V4(_) => (ip, self.ipv4_prefix),
            IpAddr::V6(v6) => match v6.segments() {
                [0x64, 0xff9b, 0, 0, 0, 0, ..] => {
                    let [.., a, b, c, d] = v6.octets();
                    (Ipv4Addr::new(a, b, c, d).into(), self.ipv4_prefix)
                }
                [0x64, 0xff9b, 1, ..] => (ip, 128),
                _ => (ip, self.ipv6_prefix),
            },
        };
        // `build()` refuses a prefix that is too long.
        (IpNet::new(ip, prefix).map_or(ip, |network| network.network()), prefix)
    }

    /// The address, or the network that it counts by.
    fn counted(&self, ip: IpAddr) -> IpAddr {
        self.network(ip).0
    }

    /// The key of all clients that this hop hides. It is longer than any address, and so equals none.
    #[cold]
    fn hidden_behind(&self, hop: Hop) -> Key<'static> {
        let mut key = b"hidden behind ".to_vec();
        match hop {
            Hop::Ip(ip) => key.extend_from_slice(Key::from(self.counted(ip)).as_bytes()),
            Hop::Unix => key.extend_from_slice(UNIX.as_bytes()),
        }
        key.into()
    }

    fn set_source(&mut self, source: Source) {
        self.proxies.source = source;
        self.watch = Arc::default();
    }

    fn set_trust(&mut self, trust: Trust) {
        if !matches!(self.proxies.trust, Trust::NoProxy) {
            self.problem = Some(
                "proxies are trusted twice; write `trust_proxies` or `trust_hops`, once".to_owned(),
            );
        }
        self.proxies.trust = trust;
        self.watch = Arc::default();
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
        match self.find(request) {
            None => Extracted::Missing,
            Some((hop, Seen::Hidden) | (hop @ Hop::Unix, _)) => {
                Extracted::Found(self.hidden_behind(hop))
            }
            Some((Hop::Ip(ip), _)) => Extracted::Found(self.counted(ip).into()),
        }
    }

    fn address_walk(&self, request: &Parts) -> Option<AddressWalk> {
        Some(self.walk(request))
    }

    /// The key may be an address, or the text of one.
    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        Some(self.counted(address(key.as_bytes())?.to_canonical()).into())
    }

    fn problem(&self) -> Option<String> {
        let reads_a_header = !matches!(self.proxies.source, Source::XForwardedFor);
        let untrusted = (reads_a_header && matches!(self.proxies.trust, Trust::NoProxy)).then(|| {
            "a header is named but no proxy is trusted to write it; add `trust_proxies([…])` or `trust_hops(n)`"
                .to_owned()
        });
        self.problem.clone().or(untrusted)
    }

    fn identity(&self) -> Option<String> {
        Some(format!("{self:?}"))
    }
}

/// Parses a key as text or as the bytes of an address. No address in use has bytes that are the text of
/// another.
fn address(key: &[u8]) -> Option<IpAddr> {
    let as_text = || str::from_utf8(key).ok()?.parse().ok();
    let as_octets = || match key.len() {
        4 => Some(IpAddr::from(*key.first_chunk::<4>()?)),
        16 => Some(IpAddr::from(*key.first_chunk::<16>()?)),
        _ => None,
    };
    as_text().or_else(as_octets)
}

fn log_missing_peer() {
    static REPORTED: FirstRequests = FirstRequests::one();
    if REPORTED.count() {
        warn(Code::NoPeerAddress, "", || {
            "no client address: the peer's is not in the request's extensions. With axum, serve \
             `app.into_make_service_with_connect_info::<SocketAddr>()`; elsewhere insert \
             `tower_quota::key::PeerAddr`. Until then, policies that count by IP do what they say of a \
             missing key"
                .to_owned()
        });
    }
}
