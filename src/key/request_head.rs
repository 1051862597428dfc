//! Keys from a request's head: [`header`], [`bearer`], [`query`] and [`path_param`].

use std::borrow::Cow;

use http::{HeaderName, header::AUTHORIZATION};

use super::{Extracted, KeyExtractor, closure::identified};
use crate::path::{Param, Pattern, SentPath};

/// The value of a header, without whitespace around it. The value may be any bytes.
///
/// If a request has the header twice, the key is unreadable: the handler may read either of them.
pub fn header(name: impl AsRef<str>) -> impl KeyExtractor {
    let name = name.as_ref().to_ascii_lowercase();
    let parsed = HeaderName::try_from(&name).ok();
    let problem = parsed.is_none().then(|| {
        format!("`{}` is no header name; write one like `x-api-key`", name.escape_debug())
    });
    let identity = format!("header {name}");
    let mut header = identified(identity, name, problem, move |request| match &parsed {
        Some(name) => only(request.headers.get_all(name).iter(), |value| {
            Extracted::Found(value.as_bytes().trim_ascii().into())
        }),
        None => Extracted::Missing,
    });
    header.may_be = is_header_value;
    header
}

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1).
///
/// The key is missing if the scheme is another one, or the token is empty. It is unreadable if the
/// request has the header twice, if there is whitespace in the token, or if there is no space after
/// the scheme, as in `Bearerabc`: some handlers read a token from these.
#[must_use]
pub fn bearer() -> impl KeyExtractor {
    const SCHEME: &[u8] = b"bearer";
    let mut token = identified("bearer token".to_owned(), "bearer token", None, |request| {
        let lines = request.headers.get_all(AUTHORIZATION).iter();
        only(lines, |value| match value.as_bytes().trim_ascii().split_at_checked(SCHEME.len()) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case(SCHEME) => {
                let token = rest.trim_ascii();
                let is_one = !token.iter().any(u8::is_ascii_whitespace);
                match rest.first() {
                    None | Some(b' ') if is_one => Extracted::Found(token.into()),
                    _ => Extracted::UNREADABLE,
                }
            }
            _ => Extracted::Missing,
        })
    });
    token.may_be = |key| is_header_value(key) && !key.iter().any(u8::is_ascii_whitespace);
    token
}

/// A parameter of the query string, decoded.
///
/// The key is unreadable if the parameter is there twice, or if its value does not decode to UTF-8
/// without NUL: it is not known what the handler reads.
pub fn query(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    let mut parameter = identified(format!("query {name}"), name.clone(), None, move |request| {
        let pairs = request.uri.query().unwrap_or_default().split('&');
        let named = pairs.filter_map(|pair| {
            let (key, value) = form_urlencoded::parse(pair.as_bytes()).next()?;
            (key == name).then_some((pair, value))
        });
        only(named, |(pair, value)| {
            let encoded = pair.split_once('=').map_or("", |(_, value)| value);
            match decoded(encoded) {
                Some(_) => Extracted::Found(value.into()),
                None => Extracted::UNREADABLE,
            }
        })
    });
    parameter.may_be = is_decoded;
    parameter
}

/// A segment of the path, decoded: the parameter `name` of `pattern`, in axum's syntax.
///
/// The key is missing if the path does not match the pattern. It is unreadable if the segment does not
/// decode to UTF-8 without NUL, or if routers may read different segments from the path, as from
/// `/v1/tenants//a` or `/v1/tenants/a/../b`. An encoded slash is part of its segment. The path is read
/// as [`Matcher`](crate::Matcher) reads it.
///
/// ```
/// use tower_quota::key;
///
/// let by_tenant = key::path_param("/v1/tenants/{tenant}/{*rest}", "tenant");
/// # let _ = by_tenant;
/// ```
pub fn path_param(pattern: &str, name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    let parsed = Pattern::parse(pattern);
    let problem = match &parsed {
        Err(problem) => Some(problem.clone()),
        Ok(parsed) if !parsed.has_param(&name) => {
            Some(format!("the path `{pattern}` has no parameter `{{{name}}}`; write it there"))
        }
        Ok(_) => None,
    };
    let identity = format!("path {pattern:?} {name}");
    let mut extractor = identified(identity, name.clone(), problem, move |request| {
        let Ok(pattern) = &parsed else { return Extracted::Missing };
        let sent = SentPath::from_request(request);
        match pattern.param(&sent, &name) {
            Param::AsSent(value) => match decoded(value) {
                Some(value) => Extracted::Found(value.into()),
                None => Extracted::UNREADABLE,
            },
            Param::Decoded(value) => match String::from_utf8(value) {
                Ok(value) if decoded(sent.text).is_some() => Extracted::Found(value.into()),
                _ => Extracted::UNREADABLE,
            },
            Param::Missing => Extracted::Missing,
            Param::Ambiguous => Extracted::UNREADABLE,
        }
    });
    extractor.may_be = is_decoded;
    extractor.path = Some(pattern.to_owned());
    extractor
}

/// Reads the key from the only item. It is missing if there is none, and unreadable if there are
/// several.
#[inline]
fn only<'a, T>(
    mut items: impl Iterator<Item = T>,
    read: impl FnOnce(T) -> Extracted<'a>,
) -> Extracted<'a> {
    match (items.next(), items.next()) {
        (None, _) => Extracted::Missing,
        (Some(item), None) => read(item),
        (Some(_), Some(_)) => Extracted::UNREADABLE,
    }
}

/// Decodes a percent-encoded text. `None` if an encoding is not complete (RFC 3986, section 2.1), or
/// if the text is not UTF-8, or has a NUL, where some handlers end it.
pub(super) fn decoded(encoded: &str) -> Option<Cow<'_, str>> {
    let whole = |rest: &str| {
        let digits = rest.as_bytes().get(..2);
        digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit))
    };
    let is_whole = encoded.split('%').skip(1).all(whole);
    let text = percent_encoding::percent_decode_str(encoded).decode_utf8().ok();
    text.filter(|text| is_whole && !text.contains('\0'))
}

/// Whether a key may be [`decoded`] from a request: it is UTF-8 without NUL.
pub(super) fn is_decoded(key: &[u8]) -> bool {
    str::from_utf8(key).is_ok_and(|key| !key.contains('\0'))
}

/// Whether a header may have this value: it has no control characters but tabs, and no whitespace around it.
pub(super) fn is_header_value(key: &[u8]) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    let is_control = |byte: &u8| *byte != b'\t' && byte.is_ascii_control();
    // Without an early end, which few keys need, the compiler compares many bytes at once.
    let has_control = key.iter().fold(false, |has, byte| has | is_control(byte));
    !has_control && !is_space(key.first()) && !is_space(key.last())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// What is read from a request to `uri` with these lines of headers.
    fn read(key: &impl KeyExtractor, uri: &str, headers: &[(&str, &[u8])]) -> String {
        let add = |request: http::request::Builder, (name, value): &(&str, &[u8])| {
            request.header(*name, *value)
        };
        let request = headers.iter().fold(Request::get(uri), add);
        match key.extract(&request.body(()).unwrap().into_parts().0) {
            Extracted::Found(key) => format!("found {}", key.as_bytes().escape_ascii()),
            Extracted::Missing => "missing".to_owned(),
            Extracted::Unreadable(status) => format!("unreadable {}", status.as_u16()),
        }
    }

    const UNREADABLE: &str = "unreadable 400";

    #[test]
    fn headers() {
        let api_key = header("X-API-Key");
        assert_eq!(api_key.kind(), "x-api-key");
        let one = |value: &'static [u8]| vec![("x-api-key", value)];
        for (lines, expected) in [
            (vec![], "missing"),
            (one(b"a"), "found a"),
            (one(b" \t a \t"), "found a"),
            (one(b""), "found "),
            (one(b"a, b"), "found a, b"),
            (one(b"\xff\xfe"), r"found \xff\xfe"),
            (one(b"\xc3\xa4"), r"found \xc3\xa4"),
            ([one(b"a"), one(b"b")].concat(), UNREADABLE),
            ([one(b"a"), one(b"a")].concat(), UNREADABLE),
            ([one(b""), one(b"a")].concat(), UNREADABLE),
            ([one(b"a"), one(b"\xff")].concat(), UNREADABLE),
            (vec![("x-api-key", b"a"), ("X-Api-Key", b"b")], UNREADABLE),
            (vec![("x-api-keys", b"a")], "missing"),
        ] {
            assert_eq!(read(&api_key, "/", &lines), expected, "{lines:?}");
        }
        assert_eq!(
            header("x api").problem().unwrap(),
            "`x api` is no header name; write one like `x-api-key`"
        );
        let long = "k".repeat(100 * 1024);
        assert_eq!(read(&api_key, "/", &[("x-api-key", long.as_bytes())]), format!("found {long}"));
    }

    #[test]
    fn bearer_tokens() {
        let one = |value: &'static [u8]| vec![("authorization", value)];
        for (lines, expected) in [
            (vec![], "missing"),
            (one(b"Bearer abc"), "found abc"),
            (one(b"bEARER   abc "), "found abc"),
            (one(b" Bearer abc"), "found abc"),
            (one(b"Bearer \xff"), r"found \xff"),
            (one(b"Bearer 7|abc"), "found 7|abc"),
            (one(b""), "missing"),
            (one(b"B"), "missing"),
            (one(b"Basic YTpi"), "missing"),
            (one(b"Bearer"), "found "),
            (one(b"Bearer "), "found "),
            (one(b"Bearerabc"), UNREADABLE),
            (one(b"Bearer:abc"), UNREADABLE),
            (one(b"Bearer\tabc"), UNREADABLE),
            (one(b"Bearer abc def"), UNREADABLE),
            (one(b"Bearer abc\tdef"), UNREADABLE),
            (one(b"Bearer abc, Bearer def"), UNREADABLE),
            ([one(b"Bearer abc"), one(b"Bearer abc")].concat(), UNREADABLE),
            ([one(b"Bearer abc"), one(b"Basic YTpi")].concat(), UNREADABLE),
            ([one(b"Basic YTpi"), one(b"Bearer abc")].concat(), UNREADABLE),
        ] {
            assert_eq!(read(&bearer(), "/", &lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn query_parameters() {
        for (uri, expected) in [
            ("/", "missing"),
            ("/?", "missing"),
            ("/?keys=a", "missing"),
            ("/?KEY=a", "missing"),
            ("/?a=b&key=c%20d", "found c d"),
            ("/?&&key=c+d&", "found c d"),
            ("/?k%65y=a", "found a"),
            ("/?key=a=b", "found a=b"),
            ("/?key=%C3%A4", r"found \xc3\xa4"),
            ("/?key", "found "),
            ("/?key=", "found "),
            ("/?key=a&key=b", UNREADABLE),
            ("/?key=a&key=a", UNREADABLE),
            ("/?key=a&key", UNREADABLE),
            ("/?key=a&k%65y=b", UNREADABLE),
            ("/?key=%", UNREADABLE),
            ("/?key=%z1", UNREADABLE),
            ("/?key=a%1", UNREADABLE),
            ("/?key=%ff", UNREADABLE),
            ("/?key=a%00", UNREADABLE),
            ("/?key=a%00b", UNREADABLE),
        ] {
            assert_eq!(read(&query("key"), uri, &[]), expected, "{uri}");
        }
    }

    #[test]
    fn path_parameters() {
        let tenant = path_param("/v1/{tenant}/{*rest}", "tenant");
        for (uri, expected) in [
            ("/v1/abc/users", "found abc"),
            ("/v1/a%62c/users/1", "found abc"),
            ("/v1/a%2Fb/users", "found a/b"),
            ("/v1/a+b/users", "found a+b"),
            ("/v2/abc/users", "missing"),
            ("/v1/%/users", UNREADABLE),
            ("/v1/%zz/users", UNREADABLE),
            ("/v1/%ff/users", UNREADABLE),
            ("/v1/abc%00/users", UNREADABLE),
            ("/v1/abc//users", "found abc"),
            ("/v1/a%zz//users", UNREADABLE),
            ("/v1/a%ff//users", UNREADABLE),
            ("/v1/a%00//users", UNREADABLE),
        ] {
            assert_eq!(read(&tenant, uri, &[]), expected, "{uri}");
        }
        assert_eq!(
            path_param("/v1/{user}", "tenant").problem().unwrap(),
            "the path `/v1/{user}` has no parameter `{tenant}`; write it there"
        );
        assert!(path_param("/v1/{user", "user").problem().is_some());
    }
}
