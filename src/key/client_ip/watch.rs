//! What the first requests show of how a [`ClientIp`] is set up.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed},
};

use http::request::Parts;

use super::{ClientIp, Source, Trust};
use crate::{
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// The headers in which proxies write addresses.
const HEADERS: [&str; 4] = ["x-forwarded-for", "forwarded", "x-real-ip", "cf-connecting-ip"];

/// Warns of what is wrong.
#[derive(Default)]
pub(super) struct Watch {
    first: FirstRequests,
    /// What was seen in them: the sum of each [`Seen`].
    seen: AtomicU8,
    has_warned_of_hidden: AtomicBool,
}

/// How the client was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The peer is not trusted.
    Stranger = 1,
    /// As [`Stranger`](Self::Stranger), and sent a header in which proxies write addresses.
    ForwardingStranger = 2,
    /// The peer is trusted, and did not send the header that is read.
    Silence = 4,
    /// The header was read to its end, and each hop is trusted.
    OnlyTrusted = 8,
    /// The header tells of a client.
    Client = 16,
}

impl Watch {
    #[inline]
    pub(super) fn is_over(&self) -> bool {
        self.first.are_over()
    }

    /// Looks at one of the first requests.
    #[cold]
    pub(super) fn look(&self, client_ip: &ClientIp, request: &Parts, mut seen: Seen) {
        let header = HEADERS.into_iter().find(|name| request.headers.contains_key(*name));
        match (seen, header, &client_ip.trust) {
            // It is read, and somebody is not trusted: as it should be.
            (Seen::Client, ..) | (_, _, Trust::Hops(0)) => return self.first.end(),
            (Seen::Stranger, Some(header), Trust::NoProxy) => {
                self.first.end();
                return log_unread(header, || {
                    format!(
                        "`{header}` arrives, and no proxy is trusted: if a proxy writes it, all clients behind that proxy are one client. Write `ClientIp::new().trust_proxies([…])` with the addresses of the proxies, or `.trust_hops(n)`; where there is no proxy, `.trust_hops(0)`"
                    )
                });
            }
            (Seen::Stranger, Some(_), _) => seen = Seen::ForwardingStranger,
            (Seen::Silence, Some(header), _) => {
                self.first.end();
                return log_unread(client_ip.header_name(), || {
                    format!(
                        "a trusted proxy sends `{header}`, and `{}` is read: all clients behind that proxy are one client. Write `.header(\"{header}\")`, or let the proxy send what is read",
                        client_ip.header_name()
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
        let (strangers, proxies) = (
            has_seen(Seen::Stranger) || has_seen(Seen::ForwardingStranger),
            has_seen(Seen::Silence) || has_seen(Seen::OnlyTrusted),
        );
        if has_seen(Seen::OnlyTrusted) && !strangers {
            // A header with one address is the proxy's alone, so that no client chooses there.
            if !matches!(client_ip.source, Source::Single(_)) {
                log_everybody(client_ip);
            }
        } else if has_seen(Seen::ForwardingStranger) && !proxies {
            let header = client_ip.header_name();
            log_unread(header, || {
                format!(
                    "of the first {} requests, none came from a trusted proxy, and some had a header like `{header}`: if a proxy writes it, all clients behind that proxy are one client. Add its address to `trust_proxies`",
                    FirstRequests::MANY
                )
            });
        }
    }

    /// A client is hidden behind a trusted hop.
    #[cold]
    pub(super) fn log_hidden(&self, client_ip: &ClientIp) {
        if self.has_warned_of_hidden.load(Relaxed) || self.has_warned_of_hidden.swap(true, Relaxed)
        {
            return;
        }
        let header = client_ip.header_name();
        warn(Code::HiddenClient, header, || {
            format!(
                "a trusted proxy writes into `{header}` what is no address: all clients that it hides share one quota. Let it write addresses there, or count these clients by another key"
            )
        });
    }
}

fn log_unread(header: &str, sentence: impl FnOnce() -> String) {
    warn(Code::ForwardedUnread, header, sentence);
}

fn log_everybody(client_ip: &ClientIp) {
    let header = client_ip.header_name();
    warn(Code::EverybodyTrusted, header, || {
        let first = format!("in the first {} requests", FirstRequests::MANY);
        match &client_ip.trust {
            Trust::Hops(hops) => format!(
                "{first}, `{header}` never had more addresses than `trust_hops({hops})` believes: a caller may write the missing ones itself. Write the number of the proxies that there are"
            ),
            _ => format!(
                "{first}, all addresses in `{header}` were those of trusted proxies: any client among them may write its own address. Write the addresses of the proxies alone into `trust_proxies`"
            ),
        }
    });
}

/// It is no setting: extractors that differ in it alone are the same.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}
