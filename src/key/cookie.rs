//! A key in a cookie: [`cookie`].

use std::borrow::Cow;

use http::header::COOKIE;
use percent_encoding::percent_decode;

use super::{
    Extracted, KeyExtractor,
    closure::identified,
    request_head::{is_decoded, is_header_value},
};

/// The value of a cookie, such as a session's id.
///
/// Handlers read a cookie in different ways, so these are one key: a value in quotes or not, and a value
/// that is percent-encoded or not. Else a caller would have a quota for each way to write its cookie.
/// The key of [`Limiter::check`](crate::Limiter::check) is the value without quotes, and decoded.
///
/// The key is unreadable if a handler may read another cookie than the layer:
///
/// - The request has the cookie twice, in one line of the header or in several.
/// - Its name is percent-encoded, which some handlers decode.
/// - Its value has a percent sign that encodes nothing, or decodes to what is not UTF-8 or has a NUL.
///
/// A cookie is what the request says, true or not: callers can invent sessions. If your own middleware
/// looks them up, count by what it finds; [`LookUpLayer`](crate::LookUpLayer) is such a middleware.
///
/// ```
/// use tower_quota::{Policy, Quota, key::{self, ClientIp}};
///
/// let per_session = Policy::token_bucket("per session", Quota::per_minute(60))
///     .key(key::cookie("session"))
///     .or_key(ClientIp::new())
///     .or_refuse();
/// # let _ = per_session;
/// ```
pub fn cookie(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    // RFC 6265, section 4.1.1: a token.
    let is_token = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte));
    let problem = (!is_token).then(|| {
        let name = name.escape_debug();
        format!("`{name}` is no name of a cookie; write one like `session`")
    });
    let kind = format!("cookie {name}");
    let mut cookie = identified(kind.clone(), kind, problem, move |request| {
        let mut found = Extracted::Missing;
        for line in request.headers.get_all(COOKIE) {
            for pair in line.as_bytes().split(|byte| *byte == b';') {
                // A pair without `=` has no name.
                let Some(equals) = pair.iter().position(|byte| *byte == b'=') else { continue };
                let (sent, value) = pair.split_at(equals);
                let sent = sent.trim_ascii();
                let is_encoded = sent != name.as_bytes();
                if is_encoded && !percent_decode(sent).eq(name.bytes()) {
                    continue;
                }
                if is_encoded || !matches!(found, Extracted::Missing) {
                    return Extracted::UNREADABLE;
                }
                found = read(value.get(1..).unwrap_or_default().trim_ascii());
            }
        }
        found
    });
    // A value with a `%` is decoded. Without one, the key is the value as it was sent, and has no `;`.
    cookie.may_be = |key| {
        is_decoded(key) || is_header_value(key) && !key.iter().any(|byte| b"%;".contains(byte))
    };
    cookie
}

/// The value without quotes, decoded.
fn read(value: &[u8]) -> Extracted<'_> {
    let unquoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
    let value = unquoted.unwrap_or(value);
    if !value.contains(&b'%') {
        return Extracted::Found(value.into());
    }
    let value = str::from_utf8(value).ok().and_then(super::request_head::decoded);
    value.map_or(Extracted::UNREADABLE, |value| Extracted::Found(value.into()))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn read(name: &'static str, lines: &[&str]) -> String {
        let request = lines
            .iter()
            .fold(Request::get("/"), |request, line| request.header(COOKIE, line.as_bytes()));
        match cookie(name).extract(&request.body(()).unwrap().into_parts().0) {
            Extracted::Found(key) => format!("found {}", key.as_bytes().escape_ascii()),
            Extracted::Missing => "missing".to_owned(),
            Extracted::Unreadable(status) => format!("unreadable {}", status.as_u16()),
        }
    }

    #[test]
    fn cookies() {
        const UNREADABLE: &str = "unreadable 400";
        for (lines, expected) in [
            (&[][..], "missing"),
            (&[""], "missing"),
            (&["session=abc"], "found abc"),
            (&["a=b; session=abc; c=d"], "found abc"),
            (&["a=b;session=abc"], "found abc"),
            (&[" \tsession = abc\t"], "found abc"),
            // HTTP/2 may send a line for each cookie (RFC 9113, section 8.2.3).
            (&["a=b", "session=abc"], "found abc"),
            (&["session=a=b=="], "found a=b=="),
            (&["session=\"abc\""], "found abc"),
            (&["session=\"abc"], "found \\\"abc"),
            (&["session=\""], "found \\\""),
            (&["session=%61b%63"], "found abc"),
            (&["session=\"%61bc\""], "found abc"),
            (&["session=a+b"], "found a+b"),
            (&["session="], "found "),
            (&["session=\"\""], "found "),
            (&["session"], "missing"),
            (&["Session=abc"], "missing"),
            (&["session2=abc; xsession=abc"], "missing"),
            (&["x=session=abc"], "missing"),
            (&["session=ä"], r"found \xc3\xa4"),
            (&["session=a; session=b"], UNREADABLE),
            (&["session=a; session=a"], UNREADABLE),
            (&["session=; session=a"], UNREADABLE),
            (&["session=a", "session=b"], UNREADABLE),
            (&["session=a; %73ession=b"], UNREADABLE),
            (&["%73ession=a"], UNREADABLE),
            // One parser ends the first value at the semicolon, another at the second quote.
            (&["a=\"x; session=b\"; session=c"], UNREADABLE),
            (&["session=%"], UNREADABLE),
            (&["session=%zz"], UNREADABLE),
            (&["session=%ff"], UNREADABLE),
            (&["session=a%00"], UNREADABLE),
        ] {
            assert_eq!(read("session", lines), expected, "{lines:?}");
        }
        assert_eq!(read("__Host-id", &["__Host-id=7"]), "found 7");
    }

    #[test]
    fn a_name_that_no_cookie_has_is_a_problem() {
        for name in ["", "a b", "a=b", "a;b", "größe", "50%"] {
            let problem = cookie(name).problem().unwrap();
            assert!(problem.ends_with("is no name of a cookie; write one like `session`"));
        }
        assert_eq!(cookie("__Secure-a.b_c").problem(), None);
    }
}
