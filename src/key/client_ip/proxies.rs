//! Which proxies are trusted, and which header they write: [`Proxies`].

use http::HeaderName;
use ipnet::IpNet;

use super::peer::Hop;

pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Proxies {
    pub(super) trust: Trust,
    pub(super) source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    NoProxy,
    Proxies { networks: Vec<IpNet>, unix: bool },
    Hops(usize),
}

/// The header that addresses are read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    XForwardedFor,
    Forwarded,
    /// A header with one address.
    Single(HeaderName),
}

impl Proxies {
    /// Whether a hop is trusted. `walked` is the number of hops before it.
    #[inline]
    pub(super) fn trusts(&self, hop: Hop, walked: usize) -> bool {
        match (&self.trust, hop) {
            (Trust::NoProxy, _) => false,
            (Trust::Hops(hops), _) => walked < *hops,
            (Trust::Proxies { networks, .. }, Hop::Ip(ip)) => {
                networks.iter().any(|network| network.contains(&ip))
            }
            (Trust::Proxies { unix, .. }, Hop::Unix) => *unix,
        }
    }

    pub(super) fn header_name(&self) -> &str {
        match &self.source {
            Source::XForwardedFor => "x-forwarded-for",
            Source::Forwarded => "forwarded",
            Source::Single(name) => name.as_str(),
        }
    }
}
