//! Lines of the common and the combined log format.
//!
//! ```text
//! 192.0.2.7 - anna [10/Oct/2025:13:55:36 +0200] "GET /v1/users?page=2 HTTP/1.1" 200 512 "-" "curl/8" "198.51.100.1" 0.012
//! ```
//! After the status come fields that not every log has. The third quoted one is `X-Forwarded-For`, as in
//! nginx's format `main`, and a number with a fraction is how long the request took, as nginx's
//! `$request_time`.

use std::{borrow::Cow, net::IpAddr};

use super::{
    Parsed, Request,
    time::{self, Times},
};

pub fn parse<'a>(line: &'a str, times: &mut Times) -> Parsed<'a> {
    let Some(quote) = line.find('"') else { return Parsed::Broken("it has no request in quotes") };
    let (before, rest) = line.split_at(quote);
    // The name of a user, which callers choose, may have brackets too. It stands before the time.
    let Some((names, time)) = before.rsplit_once('[') else {
        return Parsed::Broken("it has no time in brackets");
    };
    let time = time.trim_end().strip_suffix(']').and_then(|time| times.read(time));
    let Some(time) = time else { return Parsed::Broken("its time cannot be read") };
    let Some((request, after)) = quoted(rest) else {
        return Parsed::Broken("the quotes around its request do not end");
    };
    let mut fields = after.trim_start();
    let status = fields.split(' ').next().unwrap_or_default();
    let Ok(status) = status.parse::<u16>() else {
        return Parsed::Broken("it has no status after its request");
    };
    let Some((method, target)) = request_line(&request) else { return Parsed::NoRequest };
    let (mut quotes, mut forwarded_for, mut took) = (0, None, None);
    while !fields.is_empty() {
        if let Some((value, rest)) = quoted(fields) {
            quotes += 1;
            if quotes == 3 {
                forwarded_for = Some(value).filter(|value| value != "-" && !value.is_empty());
            }
            fields = rest.trim_start();
            continue;
        }
        let (field, rest) = fields.split_once(' ').unwrap_or((fields, ""));
        if field.contains('.') {
            took = took.or_else(|| time::length(field));
        }
        fields = rest.trim_start();
    }
    Parsed::Request(Request {
        time,
        took,
        address: address(names),
        method: method.to_owned().into(),
        target: target.to_owned().into(),
        status,
        headers: forwarded_for.map(|value| ("x-forwarded-for".into(), value)).into_iter().collect(),
    })
}

/// The client: the first field, or the second one after the name of a virtual host.
fn address(names: &str) -> Option<IpAddr> {
    names.split(' ').take(2).find_map(|name| name.parse().ok())
}

/// Splits `GET /path HTTP/1.1`. `None` if it is no HTTP request, such as `-` or bytes of TLS: no server
/// gives these to an application.
pub(super) fn request_line(line: &str) -> Option<(&str, &str)> {
    let (method, rest) = line.split_once(' ')?;
    let (target, version) = rest.rsplit_once(' ')?;
    version.starts_with("HTTP/").then_some((method, target))
}

/// A text in quotes at the beginning of `text`, without escapes, and what follows. `None` if it does not
/// begin or does not end with a quote.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let text = text.strip_prefix('"')?;
    let end = memchr::memchr2(b'"', b'\\', text.as_bytes())?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let (mut value, mut rest) = (text.as_bytes()[..end].to_vec(), &text[end..]);
    loop {
        let stop = memchr::memchr2(b'"', b'\\', rest.as_bytes())?;
        value.extend_from_slice(&rest.as_bytes()[..stop]);
        if rest.as_bytes()[stop] == b'"' {
            let value = String::from_utf8(value)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
            return Some((value.into(), &rest[stop + 1..]));
        }
        let escaped = &rest[stop + 1..];
        let (byte, length) = match escaped.as_bytes() {
            [b'x', high, low, ..] => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, 3),
                _ => (b'x', 1),
            },
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [byte @ (b'"' | b'\\'), ..] => (*byte, 1),
            // No escape: the backslash is part of the text.
            _ => (b'\\', 0),
        };
        value.push(byte);
        rest = &escaped[length..];
    }
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> String {
        match parse(line, &mut Times::default()) {
            Parsed::Request(request) => {
                let Request { address, method, target, status, took, headers, .. } = request;
                let address = address.map_or("?".to_owned(), |address| address.to_string());
                let took = took.map_or(String::new(), |took| format!(" {took}ns"));
                let headers: String =
                    headers.iter().map(|(name, value)| format!(" {name}={value}")).collect();
                format!("{address} {method} {target} {status}{took}{headers}")
            }
            Parsed::NoRequest => "no request".to_owned(),
            Parsed::Broken(reason) => reason.to_owned(),
        }
    }

    #[test]
    fn lines_of_servers() {
        const AT: &str = "[10/Oct/2025:13:55:36 +0200]";
        for (line, expected) in [
            (r#"192.0.2.7 - - AT "GET / HTTP/1.1" 200 512"#, "192.0.2.7 GET / 200"),
            (r#"192.0.2.7 - - AT "GET / HTTP/1.1" 304 -"#, "192.0.2.7 GET / 304"),
            (
                r#"2001:db8::7 - anna AT "POST /v1?a=b HTTP/2.0" 429 5 "https://a/?x=\"y\"" "a b/1.0 [c]""#,
                "2001:db8::7 POST /v1?a=b 429",
            ),
            (
                r#"10.0.0.1 - - AT "GET / HTTP/1.1" 200 5 "-" "curl/8.5" "198.51.100.1, 10.0.0.9""#,
                "10.0.0.1 GET / 200 x-forwarded-for=198.51.100.1, 10.0.0.9",
            ),
            (
                r#"10.0.0.1 - - AT "GET / HTTP/1.1" 200 5 "-" "curl/8.5" "-" 0.012"#,
                "10.0.0.1 GET / 200 12000000ns",
            ),
            (
                r#"a.example:443 192.0.2.7 - - AT "GET / HTTP/1.1" 200 5 "-" "b""#,
                "192.0.2.7 GET / 200",
            ),
            (r#"a.example - - AT "GET / HTTP/1.1" 200 5"#, "? GET / 200"),
            // A user's name that looks like a time; `AT` is the last one before the request.
            (
                r#"192.0.2.7 - [10/Oct/1999:00:00:00 +0000] AT "GET /a\x22b HTTP/1.1" 200 5"#,
                "192.0.2.7 GET /a\"b 200",
            ),
            (r#"192.0.2.7 - - AT "GET /a b HTTP/1.1" 400 5"#, "192.0.2.7 GET /a b 400"),
            (r#"192.0.2.7 - - AT "\x16\x03\x01" 400 5"#, "no request"),
            (r#"192.0.2.7 - - AT "-" 408 0"#, "no request"),
            (r#"192.0.2.7 - - AT "" 400 0"#, "no request"),
            ("", "it has no request in quotes"),
            (r#"192.0.2.7 - - "GET / HTTP/1.1" 200 5"#, "it has no time in brackets"),
            (r#"192.0.2.7 - - [now] "GET / HTTP/1.1" 200 5"#, "its time cannot be read"),
            (r#"192.0.2.7 - - AT "GET / HTTP/1.1"#, "the quotes around its request do not end"),
            (r#"192.0.2.7 - - AT "GET / HTTP/1.1" ok"#, "it has no status after its request"),
        ] {
            assert_eq!(read(&line.replace("AT", AT)), expected, "{line}");
        }
    }

    #[test]
    fn escapes() {
        for (text, value, rest) in [
            (r#""a" b"#, "a", " b"),
            (r#""a\"b""#, r#"a"b"#, ""),
            (r#""a\\" c"#, r"a\", " c"),
            (r#""\x41\xC3\xA9\x4""#, "Aéx4", ""),
            (r#""\u0041\t""#, "\\u0041\t", ""),
        ] {
            let (found, after) = quoted(text).unwrap();
            assert_eq!((&*found, after), (value, rest), "{text}");
        }
        for text in ["a", "\"a", r#""a\"#, r#""a\""#] {
            assert!(quoted(text).is_none(), "{text}");
        }
    }
}
