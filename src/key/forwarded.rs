//! Reading the addresses that proxies write into headers.

use std::net::{IpAddr, Ipv4Addr};

use http::{HeaderMap, HeaderName};

/// The elements of a list header over all its field lines, the last first; `None` for one that is
/// no text.
fn elements<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<&'a str>> {
    headers.get_all(name).iter().rev().flat_map(|line| {
        let text = line.to_str().ok();
        // Text that is no ASCII becomes one element that does not parse.
        text.unwrap_or("\u{fffd}").rsplit(',').map(move |element| text.map(|_| element))
    })
}

/// `X-Forwarded-For` and its like: addresses, the nearest first.
pub(super) fn x_forwarded_for<'a>(
    headers: &'a HeaderMap,
    name: &'a HeaderName,
) -> impl Iterator<Item = Option<IpAddr>> + 'a {
    elements(headers, name).map(|element| node(element?))
}

/// `Forwarded` (RFC 7239): the addresses of `for=`, the nearest first.
pub(super) fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    elements(headers, &http::header::FORWARDED).map(|element| {
        let mut found = None;
        for pair in element?.split(';').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=')?;
            if name.eq_ignore_ascii_case("for") && found.replace(value).is_some() {
                return None;
            }
        }
        let value = found?;
        node(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
    })
}

/// An address as proxies write it: `ip`, `ip:port`, `[v6]`, `[v6]:port`, with or without a zone.
/// An IPv4 address in IPv6 clothes comes out as IPv4.
pub(super) fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let (ip, port) = rest.split_once(']')?;
        let port_is_right = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
        return ipv6(ip).filter(|_| port_is_right);
    }
    if let Some((ip, port)) = text.split_once(':')
        && let Ok(ip) = ip.parse::<Ipv4Addr>()
    {
        return is_port(port).then_some(ip.into());
    }
    text.parse::<Ipv4Addr>().map(IpAddr::from).ok().or_else(|| ipv6(text))
}

fn ipv6(text: &str) -> Option<IpAddr> {
    let address = text.split_once('%').map_or(text, |(address, _zone)| address);
    address.parse::<std::net::Ipv6Addr>().ok().map(|ip| ip.to_canonical())
}

fn is_port(text: &str) -> bool {
    text.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_proxies_write_them() {
        for (text, read) in [
            ("192.0.2.1", Some("192.0.2.1")),
            (" 192.0.2.1 ", Some("192.0.2.1")),
            ("192.0.2.1:8080", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:80", Some("fe80::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("[::ffff:192.0.2.1]:80", Some("192.0.2.1")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("192.0.2", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:port", None),
            ("192.0.2.1:99999", None),
            ("192.0.2.256", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]443", None),
            ("[192.0.2.1]", None),
            ("2001:db8::1::", None),
            ("192.0.2.1, 192.0.2.2", None),
        ] {
            assert_eq!(node(text), read.map(|read| read.parse().unwrap()), "{text:?}");
        }
    }
}
