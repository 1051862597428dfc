//! The keys of a policy: whether a log has them, and how they are shown: [`KeyReader`].

use std::{net::IpAddr, sync::Arc};

use http::request::Parts;
use tower_quota::{
    config::{ClientIp, Key, PathParam, Prefixes},
    key::{self, KeyExtractor},
};

use crate::log::Log;

/// Reads one kind of key, to show whose requests were counted.
pub struct KeyReader {
    pub kind: String,
    /// Whether it reads no path and no query: two requests of the same address and headers have one key.
    pub is_of_sender: bool,
    extractor: Arc<dyn KeyExtractor>,
    /// How each part of the key is shown; several if it is several keys together.
    parts: Vec<Part>,
}

struct Part {
    extractor: Arc<dyn KeyExtractor>,
    /// The bits of an IPv4 and of an IPv6 address that count; `None` if the key is no address.
    prefixes: Option<(u8, u8)>,
}

impl KeyReader {
    pub fn new(key: &Key, client_ip: &ClientIp, registered: &Registered<'_>) -> Self {
        let mut parts = Vec::new();
        let extractor = extractor(key, client_ip, registered, &mut parts);
        let kind = extractor.kind().into_owned();
        Self { kind, is_of_sender: is_of_sender(key), extractor, parts }
    }

    /// Calls `then` with the bytes of the request's key; not if it has none.
    pub fn with_bytes<T>(&self, request: &Parts, then: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.extractor.extract(request).found().map(|key| then(key.as_bytes()))
    }

    /// The key of a request as text. Of a key that is no address, only its ends are shown, unless
    /// `in_full`.
    pub fn text(&self, request: &Parts, in_full: bool) -> String {
        let part = |part: &Part| {
            let key = part.extractor.extract(request).found();
            let key = key.as_ref().map_or(&[][..], |key| key.as_bytes());
            match part.prefixes {
                Some(prefixes) => address(key, prefixes),
                None if in_full => String::from_utf8_lossy(key).escape_debug().to_string(),
                None => ends(&String::from_utf8_lossy(key)),
            }
        };
        self.parts.iter().map(part).collect::<Vec<_>>().join(" + ")
    }
}

fn is_of_sender(key: &Key) -> bool {
    match key {
        Key::Together(keys) => keys.iter().all(is_of_sender),
        Key::Ip(_) | Key::Bearer | Key::Header(_) | Key::Registered(_) => true,
        _ => false,
    }
}

/// The registered extractors that the operator says how to read.
pub type Registered<'a> = dyn Fn(&str) -> Arc<dyn KeyExtractor> + 'a;

fn extractor(
    key: &Key,
    client_ip: &ClientIp,
    registered: &Registered<'_>,
    parts: &mut Vec<Part>,
) -> Arc<dyn KeyExtractor> {
    if let Key::Together(keys) = key {
        let all: Vec<_> =
            keys.iter().map(|key| extractor(key, client_ip, registered, parts)).collect();
        return match &*all {
            [a, b] => Arc::new((a.clone(), b.clone())),
            [a, b, c] => Arc::new((a.clone(), b.clone(), c.clone())),
            [a, b, c, d] => Arc::new((a.clone(), b.clone(), c.clone(), d.clone())),
            _ => unreachable!("limits that were read have two to four keys together"),
        };
    }
    let prefixes = match key {
        Key::Ip(prefixes) => Some((
            prefixes.ipv4_prefix.or(client_ip.ipv4_prefix).unwrap_or(32),
            prefixes.ipv6_prefix.or(client_ip.ipv6_prefix).unwrap_or(64),
        )),
        _ => None,
    };
    let extractor: Arc<dyn KeyExtractor> = match key {
        Key::Ip(prefixes) => Arc::new(by_address(client_ip, *prefixes)),
        Key::Bearer => Arc::new(key::bearer()),
        Key::Header(name) => Arc::new(key::header(name)),
        Key::Query(name) => Arc::new(key::query(name.clone())),
        Key::PathParam(PathParam { path, name, .. }) => {
            Arc::new(key::path_param(path, name.clone()))
        }
        Key::BodyField(name) => Arc::new(key::body_field(name.clone())),
        Key::Registered(name) => registered(name),
        _ => unreachable!("this has all kinds of keys that files have"),
    };
    parts.push(Part { extractor: Arc::clone(&extractor), prefixes });
    extractor
}

fn by_address(settings: &ClientIp, prefixes: Prefixes) -> key::ClientIp {
    let mut client_ip = key::ClientIp::new();
    if let Some(proxies) = &settings.trust_proxies {
        client_ip = client_ip.trust_proxies(proxies);
    }
    if let Some(hops) = settings.trust_hops {
        client_ip = client_ip.trust_hops(hops);
    }
    if let Some(header) = &settings.header {
        client_ip = client_ip.header(header);
    }
    if let Some(bits) = prefixes.ipv4_prefix.or(settings.ipv4_prefix) {
        client_ip = client_ip.ipv4_prefix(bits);
    }
    if let Some(bits) = prefixes.ipv6_prefix.or(settings.ipv6_prefix) {
        client_ip = client_ip.ipv6_prefix(bits);
    }
    client_ip
}

fn address(bytes: &[u8], (v4, v6): (u8, u8)) -> String {
    let address = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let address = address.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from));
    match address {
        Ok(IpAddr::V4(address)) if v4 == 32 => address.to_string(),
        Ok(IpAddr::V4(address)) => format!("{address}/{v4}"),
        Ok(IpAddr::V6(address)) => format!("{address}/{v6}"),
        Err(_) => "hidden behind a proxy".to_owned(),
    }
}

/// The first and the last four characters of a text that is long enough to hide the others.
fn ends(text: &str) -> String {
    const SHOWN: usize = 4;
    let count = text.chars().count();
    if count < 4 * SHOWN {
        return format!("… ({count} characters)");
    }
    let first: String = text.chars().take(SHOWN).collect();
    let last: String = text.chars().skip(count - SHOWN).collect();
    format!("{first}…{last}").escape_debug().to_string()
}

/// Whether any line of the log may have this key. `headers_of` returns the header that a registered key is
/// read from, if any.
pub fn is_seen(key: &Key, log: &Log, header_of: &dyn Fn(&str) -> Option<String>) -> bool {
    let in_targets = |extractor: &dyn KeyExtractor| {
        log.targets().any(|request| extractor.extract(&request).found().is_some())
    };
    match key {
        Key::Ip(_) => log.has_addresses(),
        Key::Bearer => log.has_header("authorization"),
        Key::Header(name) => log.has_header(&name.to_ascii_lowercase()),
        Key::Query(name) => in_targets(&key::query(name.clone())),
        Key::PathParam(PathParam { path, name, .. }) => {
            in_targets(&key::path_param(path, name.clone()))
        }
        Key::Registered(name) => header_of(name).is_some_and(|header| log.has_header(&header)),
        Key::Together(keys) => keys.iter().all(|key| is_seen(key, log, header_of)),
        _ => false,
    }
}

/// A key in words.
pub fn name_of(key: &Key) -> String {
    match key {
        Key::Ip(_) => "ip".to_owned(),
        Key::Bearer => "bearer token".to_owned(),
        Key::Header(name) => name.to_ascii_lowercase(),
        Key::Query(name) | Key::BodyField(name) | Key::Registered(name) => name.clone(),
        Key::PathParam(PathParam { name, .. }) => name.clone(),
        Key::Together(keys) => keys.iter().map(name_of).collect::<Vec<_>>().join(" + "),
        _ => "another key".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_that_is_no_address_only_the_ends_are_shown() {
        assert_eq!(ends("sk_live_0123456789abcdef"), "sk_l…cdef");
        assert_eq!(ends("tenant-7"), "… (8 characters)");
        assert_eq!(ends("0123456789\u{1b}abcdef"), "0123…cdef");
    }

    #[test]
    fn addresses_are_shown_with_the_network_that_counts() {
        assert_eq!(address(&[192, 0, 2, 7], (32, 64)), "192.0.2.7");
        assert_eq!(address(&[192, 0, 2, 0], (24, 64)), "192.0.2.0/24");
        let v6: std::net::Ipv6Addr = "2001:db8::".parse().unwrap();
        assert_eq!(address(&v6.octets(), (32, 64)), "2001:db8::/64");
    }
}
