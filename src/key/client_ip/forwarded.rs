//! Reads the addresses that proxies write into headers. They are read as bytes and from the right, so
//! that what a caller wrote cannot change what a proxy appended to it.

use std::{
    borrow::Cow,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use http::{HeaderMap, HeaderName, header::FORWARDED};

/// The addresses in all field lines of `X-Forwarded-For`, the nearest hop first; `None` for an entry
/// that is not an address.
pub(super) fn x_forwarded_for<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<IpAddr>> + use<'a> {
    let lines = headers.get_all(name).iter().rev();
    lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(node)
}

/// The addresses of `for=` in all field lines of `Forwarded` (RFC 7239, section 4), the nearest hop
/// first; `None` for an element that is malformed or has no address.
pub(super) fn forwarded(headers: &HeaderMap) -> impl Iterator<Item = Option<IpAddr>> + '_ {
    let lines = headers.get_all(FORWARDED).iter().rev();
    lines.flat_map(|line| Elements(Some(line.as_bytes()))).map(|element| address_of(element?))
}

/// The address in a header that holds only one; `None` if it is not an address, or there are several
/// lines.
pub(super) fn single(
    headers: &HeaderMap,
    name: &HeaderName,
) -> impl Iterator<Item = Option<IpAddr>> + use<> {
    let mut lines = headers.get_all(name).iter();
    let only = lines.next().map(|line| match lines.next() {
        None => node(line.as_bytes()),
        Some(_) => None,
    });
    only.into_iter()
}

/// The elements of a line, the last one first. Commas separate them, but not inside of quoted strings.
/// After a closing quote without an opening one, the last item is `None`.
///
/// A quoted string is read from its closing quote leftwards to the first quote that is not escaped. So
/// text to the left of an element cannot change its meaning.
struct Elements<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Elements<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.0.take()?;
        let mut unread = line;
        while let Some((byte, before)) = unread.split_last() {
            unread = before;
            match byte {
                b',' => {
                    self.0 = Some(before);
                    return Some(line.get(before.len().saturating_add(1)..));
                }
                b'"' => match before_opening_quote(before) {
                    Some(before) => unread = before,
                    None => return Some(None),
                },
                _ => {}
            }
        }
        Some(Some(line))
    }
}

/// The text before a quoted string, if `text` is what is before its closing quote.
fn before_opening_quote(mut text: &[u8]) -> Option<&[u8]> {
    loop {
        let quote = text.iter().rposition(|byte| *byte == b'"')?;
        text = text.get(..quote)?;
        let escapes = text.iter().rev().take_while(|byte| **byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(text);
        }
    }
}

/// The address of an element, which consists of pairs with semicolons between them.
fn address_of(element: &[u8]) -> Option<IpAddr> {
    let (mut rest, mut found) = (element.trim_ascii(), None);
    loop {
        // A pair may be empty.
        let (name, after) = split_while(rest, is_token);
        if !name.is_empty() {
            let (value, after) = value(after.strip_prefix(b"=")?)?;
            if name.eq_ignore_ascii_case(b"for") && found.replace(value).is_some() {
                return None;
            }
            rest = after.trim_ascii_start();
        }
        match rest.split_first() {
            None => return node(&found?),
            Some((b';', after)) => rest = after.trim_ascii_start(),
            Some(_) => return None,
        }
    }
}

/// The value at the beginning of `text`, and the text after it. The value is a token, a quoted string,
/// or an IPv6 address that should be quoted and is not.
fn value(text: &[u8]) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let Some(quoted) = text.strip_prefix(b"\"") else {
        let (value, after) = split_while(text, |byte| is_token(byte) || b":[]".contains(byte));
        return (!value.is_empty()).then_some((value.into(), after));
    };
    let (plain, after) = split_while(quoted, |byte| !b"\"\\".contains(byte));
    if let Some(after) = after.strip_prefix(b"\"") {
        return Some((plain.into(), after));
    }
    let (mut value, mut rest) = (plain.to_vec(), after);
    loop {
        let (byte, after) = rest.split_first()?;
        let (byte, after) = match byte {
            b'"' => return Some((value.into(), after)),
            b'\\' => after.split_first()?,
            _ => (byte, after),
        };
        value.push(*byte);
        rest = after;
    }
}

fn split_while(text: &[u8], belongs: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|byte| !belongs(byte)).unwrap_or(text.len());
    text.split_at(end)
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}

/// Parses an address as proxies write it: `ip`, `ip:port`, `[v6]`, `[v6]:port`, with or without a
/// zone. An IPv4-mapped address becomes IPv4.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
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
    let (address, zone) = text.split_once('%').unwrap_or((text, "none"));
    let is_zone_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"%-._~".contains(&byte);
    let zone_is_right = !zone.is_empty() && zone.bytes().all(is_zone_byte);
    let address = address.parse::<Ipv6Addr>().ok().filter(|_| zone_is_right);
    address.map(|ip| ip.to_canonical())
}

/// A number, or an obfuscated port (RFC 7239, section 6.3).
fn is_port(text: &str) -> bool {
    match text.strip_prefix('_') {
        Some(name) => {
            let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !name.is_empty() && name.bytes().all(is_name_byte)
        }
        None => text.bytes().all(|byte| byte.is_ascii_digit()) && text.parse::<u16>().is_ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_as_proxies_write_them() {
        for (text, read) in [
            ("192.0.2.1", Some("192.0.2.1")),
            (" 192.0.2.1\t", Some("192.0.2.1")),
            ("192.0.2.1:8080", Some("192.0.2.1")),
            ("192.0.2.1:_web", Some("192.0.2.1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("2001:DB8::A", Some("2001:db8::a")),
            ("[2001:db8::1]", Some("2001:db8::1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("fe80::1%eth0", Some("fe80::1")),
            ("[fe80::1%25eth0]:80", Some("fe80::1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("::ffff:c000:201", Some("192.0.2.1")),
            ("[::ffff:192.0.2.1]:80", Some("192.0.2.1")),
            ("", None),
            ("unknown", None),
            ("_hidden", None),
            ("192.0.2", None),
            ("3221225985", None),
            ("0xc0.0.2.1", None),
            ("192.0.2.01", None),
            ("192.0.2.1:", None),
            ("192.0.2.1:port", None),
            ("192.0.2.1:+80", None),
            ("192.0.2.1:99999", None),
            ("192.0.2.1:_", None),
            ("192.0.2.1:80:80", None),
            ("192.0.2.256", None),
            ("300.1.1.1", None),
            ("192.0.2.1 192.0.2.2", None),
            ("192.0.2.1/32", None),
            ("\"192.0.2.1\"", None),
            ("[2001:db8::1", None),
            ("[2001:db8::1]443", None),
            ("[2001:db8::1]:", None),
            ("[192.0.2.1]", None),
            ("fe80::1%", None),
            ("fe80::1%eth 0", None),
            ("2001:db8::1::", None),
            ("192.0.2.1, 192.0.2.2", None),
        ] {
            assert_eq!(node(text.as_bytes()), read.map(|read| read.parse().unwrap()), "{text:?}");
        }
        assert_eq!(node(b"192.0.2.1\xff"), None);
    }

    #[test]
    fn elements_are_between_commas_outside_of_strings() {
        let elements = |line: &'static str| -> Vec<_> {
            Elements(Some(line.as_bytes()))
                .map(|element| element.map(|element| std::str::from_utf8(element).unwrap()))
                .collect()
        };
        assert_eq!(elements(""), [Some("")]);
        assert_eq!(elements("a,b"), [Some("b"), Some("a")]);
        assert_eq!(elements("a,b,"), [Some(""), Some("b"), Some("a")]);
        assert_eq!(elements(r#"a="b,c",d"#), [Some("d"), Some(r#"a="b,c""#)]);
        assert_eq!(elements(r#"a="b\",c",d"#), [Some("d"), Some(r#"a="b\",c""#)]);
        assert_eq!(elements(r#"a="b\\",c"#), [Some("c"), Some(r#"a="b\\""#)]);
        assert_eq!(elements(r#"a\\"b,c""#), [Some(r#"a\\"b,c""#)]);
        assert_eq!(elements(r#"a="b,c"#), [Some("c"), None]);
        assert_eq!(elements(r#"a,b\"c"#), [None]);
    }

    #[test]
    fn pairs_of_an_element() {
        for (element, read) in [
            ("for=192.0.2.1", true),
            ("FOR=192.0.2.1", true),
            (r#"for="192.0.2.1""#, true),
            (r#"for="192\.0.2.\1""#, true),
            (r#"for="192.0.2.1:80""#, true),
            ("for=192.0.2.1:80", true),
            ("for=[::ffff:192.0.2.1]:80", true),
            ("proto=https;for=192.0.2.1", true),
            (r#"for=192.0.2.1;host="a;for=6.6.6.6""#, true),
            (r#"for=192.0.2.1;host="a\";for=6.6.6.6""#, true),
            ("for=192.0.2.1 ; proto=https", true),
            (";;for=192.0.2.1;", true),
            (" for=192.0.2.1\t", true),
            ("", false),
            (";", false),
            ("for", false),
            ("for=", false),
            ("for=;proto=https", false),
            ("for =192.0.2.1", false),
            ("for= 192.0.2.1", false),
            ("=192.0.2.1", false),
            ("for=192.0.2.1 proto=https", false),
            ("for=192.0.2.1;proto", false),
            ("for=192.0.2.1;for=192.0.2.1", false),
            ("for=192.0.2.1;For=6.6.6.6", false),
            (r#"for="192.0.2.1"#, false),
            (r#"for=192.0.2.1""#, false),
            (r#"for="192.0.2.1"x"#, false),
            (r#"for="192.0.2.1\"#, false),
            (r#"for="192.0.2.1\""#, false),
            (r#"for=192.0.2.1;host="a\""#, false),
            ("for=unknown", false),
            ("for=_hidden", false),
            ("by=192.0.2.1", false),
            ("xfor=192.0.2.1", false),
            ("for=192.0.2.1/32", false),
        ] {
            let expected = read.then_some(IpAddr::from([192, 0, 2, 1]));
            assert_eq!(address_of(element.as_bytes()), expected, "{element}");
        }
    }
}
