//! Finds mistakes in the settings of a [`ClientIp`](super::ClientIp) by the first requests: [`Watch`].

use std::{
    fmt,
    sync::atomic::{AtomicU8, Ordering::Relaxed},
};

use http::request::Parts;

use super::proxies::{Proxies, Source, Trust};
use crate::{
    first_requests::{self, FirstRequests},
    warning::{Code, warn},
};

/// The headers in which proxies write addresses.
const HEADERS: [&str; 4] = ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"];

pub(super) struct Watch {
    pub(super) first: FirstRequests,
    /// Each [`Seen`] of these requests, as bits.
    seen: AtomicU8,
    /// A hidden client is reported once.
    hidden: FirstRequests,
}

impl Default for Watch {
    fn default() -> Self {
        let first = FirstRequests::default();
        Self { first, seen: AtomicU8::new(0), hidden: FirstRequests::one() }
    }
}

/// How the client of a request was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The peer is not trusted.
    UntrustedPeer = 1,
    /// The peer is not trusted, and sent a header in which proxies write addresses.
    UntrustedPeerWithHeader = 2,
    /// The peer is trusted, and did not send the header that is read.
    NoHeader = 4,
    /// Each address in the header is trusted.
    OnlyTrusted = 8,
    /// The header has the address of a client.
    Client = 16,
    /// A trusted hop wrote something that is no address.
    Hidden = 32,
}

impl Watch {
    /// Checks one of the first requests.
    #[cold]
    pub(super) fn look(&self, proxies: &Proxies, request: &Parts, mut seen: Seen) {
        if !first_requests::is_counting() {
            return;
        }
        let header = HEADERS.into_iter().find(|name| request.headers.contains_key(*name));
        match (seen, header, &proxies.trust) {
            // The settings are right: a header was read up to a client, or there is no proxy.
            (Seen::Client | Seen::Hidden, ..) | (_, _, Trust::Hops(0)) => return self.first.end(),
            (Seen::UntrustedPeer, Some(header), Trust::NoProxy) => {
                self.first.end();
                return warn(Code::ForwardedUnread, header, || {
                    format!(
                        "`{header}` arrives, and no proxy is trusted: if a proxy writes it, all clients behind that proxy are one client. Write `ClientIp::new().trust_proxies([…])` with the addresses of the proxies, or `.trust_hops(n)`; where there is no proxy, `.trust_hops(0)`"
                    )
                });
            }
            (Seen::UntrustedPeer, Some(_), _) => seen = Seen::UntrustedPeerWithHeader,
            (Seen::NoHeader, Some(header), _) => {
                self.first.end();
                return warn(Code::ForwardedUnread, proxies.header_name(), || {
                    format!(
                        "a trusted proxy sends `{header}`, and `{}` is read: all clients behind that proxy are one client. Write `.header(\"{header}\")`, or let the proxy send what is read",
                        proxies.header_name()
                    )
                });
            }
            _ => {}
        }
        let all = self.seen.fetch_or(seen as u8, Relaxed) | seen as u8;
        if !self.first.count() {
            return;
        }
        let has_seen = |seen: Seen| all & seen as u8 != 0;
        let (untrusted, trusted) = (
            has_seen(Seen::UntrustedPeer) || has_seen(Seen::UntrustedPeerWithHeader),
            has_seen(Seen::NoHeader) || has_seen(Seen::OnlyTrusted),
        );
        if has_seen(Seen::OnlyTrusted) && !untrusted {
            // The proxy overwrites a header with one address, so no client can choose it.
            if !matches!(proxies.source, Source::Single(_)) {
                log_everybody(proxies);
            }
        } else if has_seen(Seen::UntrustedPeerWithHeader) && !trusted {
            let header = proxies.header_name();
            warn(Code::ForwardedUnread, header, || {
                format!(
                    "of the first {} requests, none came from a trusted proxy, and some had a header like `{header}`: if a proxy writes it, all clients behind that proxy are one client. Add its address to `trust_proxies`",
                    FirstRequests::MANY
                )
            });
        }
    }

    /// Reports that a trusted hop hides a client.
    #[cold]
    pub(super) fn log_hidden(&self, proxies: &Proxies) {
        if !self.hidden.count() {
            return;
        }
        let header = proxies.header_name();
        warn(Code::HiddenClient, header, || {
            format!(
                "a trusted proxy writes into `{header}` what is no address: all clients that it hides share one quota. Let it write addresses there, or count these clients by another key"
            )
        });
    }
}

fn log_everybody(proxies: &Proxies) {
    let header = proxies.header_name();
    warn(Code::EverybodyTrusted, header, || {
        let first = format!("in the first {} requests", FirstRequests::MANY);
        match &proxies.trust {
            Trust::Hops(hops) => format!(
                "{first}, `{header}` never had more addresses than `trust_hops({hops})` believes: a caller may write the missing ones itself. Write the number of the proxies that there are"
            ),
            _ => format!(
                "{first}, all addresses in `{header}` were those of trusted proxies: any client among them may write its own address. Write the addresses of the proxies alone into `trust_proxies`"
            ),
        }
    });
}

/// Always the same text: a `ClientIp`'s identity is its `Debug` output, and this is not a setting.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
