//! How a client's address was found, step by step: [`AddressWalk`].

use std::{fmt, net::IpAddr};

use http::request::Parts;

#[cfg(feature = "describe")]
use super::proxies::{Proxies, Trust};
use super::{ClientIp, diagnostics::Seen, peer::Hop};

/// How a [`ClientIp`] finds the address of a request's client, step by step. From
/// [`ClientIp::walk`], and part of a [`Limiter::explain`](crate::Limiter::explain).
///
/// `Display` writes a line for each hop. It shows addresses: do not log it where addresses must not be
/// logged.
///
/// ```
/// use http::Request;
/// use tower_quota::key::{ClientIp, FoundClient, PeerAddr};
///
/// let request = Request::get("/")
///     .extension(PeerAddr(([10, 0, 0, 1], 443).into()))
///     .header("x-forwarded-for", "203.0.113.7, 10.0.0.9")
///     .body(())?;
/// let walk = ClientIp::new().trust_proxies(["10.0.0.0/8"]).walk(&request.into_parts().0);
/// assert_eq!(
///     walk.to_string(),
///     "the peer 10.0.0.1: a trusted proxy\n\
///      x-forwarded-for 10.0.0.9: a trusted proxy\n\
///      x-forwarded-for 203.0.113.7: the client, counted as 203.0.113.7/32\n",
/// );
/// assert!(matches!(walk.client, FoundClient::Address { ip, .. } if ip.is_ipv4()));
/// # Ok::<(), http::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "describe", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AddressWalk {
    /// The header that is read from trusted proxies, such as `x-forwarded-for`.
    pub header: String,
    /// The peer, and then the hops in the header from the right, as far as it was read. Empty if the
    /// peer is not known.
    pub hops: Vec<AddressHop>,
    /// The result.
    pub client: FoundClient,
    /// Which proxies are trusted.
    #[cfg(feature = "describe")]
    #[serde(skip)]
    proxies: Proxies,
}

/// One hop in an [`AddressWalk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "describe", derive(serde::Serialize))]
#[non_exhaustive]
pub struct AddressHop {
    /// Where it is.
    pub address: HopAddress,
    /// Whether it is a trusted proxy, so that the hop before it is read.
    pub trusted: bool,
}

/// The address of an [`AddressHop`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "describe", derive(serde::Serialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum HopAddress {
    /// An IP address.
    Ip(IpAddr),
    /// The other side of a Unix socket.
    UnixSocket,
    /// A trusted proxy wrote something that is no address, or sent a header with one address twice.
    /// What it wrote is not kept.
    Unreadable,
}

/// The result of an [`AddressWalk`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "describe",
    derive(serde::Serialize),
    serde(rename_all = "snake_case", tag = "found")
)]
#[non_exhaustive]
pub enum FoundClient {
    /// The client's address.
    Address {
        /// The whole address.
        ip: IpAddr,
        /// The first address of the network by which it counts.
        network: IpAddr,
        /// The length of the network's prefix, in bits.
        prefix: u8,
    },
    /// The last hop but one hides the client: all that it hides share one quota.
    Hidden,
    /// The client is on a Unix socket, without a proxy in between.
    UnixSocket,
    /// The peer's address is not in the request's extensions: the key is missing.
    Unknown,
}

impl AddressWalk {
    pub(super) fn new(client_ip: &ClientIp, request: &Parts) -> Self {
        let mut hops = Vec::new();
        let found = client_ip.find_traced(request, |hop, trusted| {
            let address = match hop {
                Some(Hop::Ip(ip)) => HopAddress::Ip(ip),
                Some(Hop::Unix) => HopAddress::UnixSocket,
                None => HopAddress::Unreadable,
            };
            hops.push(AddressHop { address, trusted });
        });
        let client = match found {
            None => FoundClient::Unknown,
            Some((_, Seen::Hidden)) => FoundClient::Hidden,
            Some((Hop::Unix, _)) => FoundClient::UnixSocket,
            Some((Hop::Ip(ip), _)) => {
                let (network, prefix) = client_ip.network(ip);
                FoundClient::Address { ip, network, prefix }
            }
        };
        Self {
            header: client_ip.proxies.header_name().to_owned(),
            hops,
            client,
            #[cfg(feature = "describe")]
            proxies: client_ip.proxies.clone(),
        }
    }

    /// Whether the settings of both are the same proxies and header, whatever the request is.
    #[cfg(feature = "describe")]
    pub(crate) fn reads_like(&self, other: &Self) -> bool {
        self.proxies == other.proxies
    }

    /// Whether the settings say by `trust_hops(0)` that the client is the peer.
    #[cfg(feature = "describe")]
    pub(crate) fn is_of_peer(&self) -> bool {
        matches!(self.proxies.trust, Trust::Hops(0))
    }
}

impl fmt::Display for AddressWalk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.hops.len().saturating_sub(1);
        for (index, hop) in self.hops.iter().enumerate() {
            match index {
                0 => f.write_str("the peer ")?,
                _ => write!(f, "{} ", self.header)?,
            }
            match hop.address {
                HopAddress::Ip(ip) => write!(f, "{ip}: ")?,
                HopAddress::UnixSocket => f.write_str("on a Unix socket: ")?,
                HopAddress::Unreadable => {
                    f.write_str("is no address: the proxy before it hides the client\n")?;
                    continue;
                }
            }
            if hop.trusted {
                f.write_str("a trusted proxy")?;
            }
            if index == last {
                match (hop.trusted, index) {
                    (false, _) => f.write_str("the client")?,
                    (true, 0) => write!(f, " that sends no {}, so the client", self.header)?,
                    (true, _) => f.write_str(" with none before it, so the client")?,
                }
                if let FoundClient::Address { network, prefix, .. } = self.client {
                    write!(f, ", counted as {network}/{prefix}")?;
                }
            }
            f.write_str("\n")?;
        }
        match self.client {
            FoundClient::Unknown => {
                f.write_str("the peer's address is not in the request's extensions\n")
            }
            _ => Ok(()),
        }
    }
}
