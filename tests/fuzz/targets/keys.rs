//! Keys that callers alone write: for any bytes, a request passes uncounted only if it has no key.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::{Request, Uri, request::Parts};
use tower_quota::{
    Decision, Limiter, Matcher, Policy, Quota, Reason,
    key::{self, KeyExtractor},
};

/// Reads lines of bytes as lines of a header, of `Authorization`, and as a query and a path.
///
/// # Panics
/// Where a promise is broken.
pub fn keys(data: &[u8]) {
    let lines: Vec<&[u8]> = data.split(|byte| *byte == b'\n').collect();
    let of_header = request("/", "x-api-key", &lines);
    let empty = |value: &[u8]| value.trim_ascii().is_empty();
    check(|| key::header("x-api-key"), &of_header, empty);

    let of_bearer = request("/", "authorization", &lines);
    check(key::bearer, &of_bearer, |value| {
        // Whatever begins with the scheme, a lenient handler may take for a token.
        let value = value.trim_ascii().to_ascii_lowercase();
        value.strip_prefix(b"bearer").is_none_or(empty)
    });

    cookies(&lines);

    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(uri) = format!("/?{text}").parse::<Uri>() {
        let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let named: Vec<_> = pairs.filter(|(name, _)| name == "key").collect();
        let missing = named.is_empty() || matches!(&named[..], [(_, value)] if value.is_empty());
        let decisions = decide(key::query("key"), &request(&uri.to_string(), "x", &[]));
        assert_counted(&decisions, missing, text);
    }
    if let Ok(uri) = format!("/v1/{text}/users").parse::<Uri>() {
        let key = key::path_param("/v1/{tenant}/users", "tenant");
        let decisions = decide(key, &request(&uri.to_string(), "x", &[]));
        // Some routers merge slashes, so that no segment is empty.
        let segments: Vec<_> = uri.path().split('/').filter(|part| !part.is_empty()).collect();
        if matches!(segments[..], ["v1", _, "users"]) {
            assert_counted(&decisions, false, text);
        }
    }
}

/// Lines of `Cookie`, as two parsers of other crates would read them: one that decodes names and values,
/// and one that does not.
fn cookies(lines: &[&[u8]]) {
    let request = request("/", "cookie", lines);
    let pairs =
        request.headers.values().flat_map(|line| line.as_bytes().split(|byte| *byte == b';'));
    let named = |pair: &[u8]| {
        let mut parts = pair.splitn(2, |byte| *byte == b'=');
        let (name, value) = (parts.next()?.trim_ascii(), parts.next()?.trim_ascii().to_vec());
        let decoded: Vec<u8> = percent_encoding::percent_decode(name).collect();
        (name == b"id" || decoded == b"id").then_some(value)
    };
    let named: Vec<_> = pairs.filter_map(named).collect();
    let is_empty = |value: &Vec<u8>| value.is_empty() || value == b"\"\"";
    let missing = named.is_empty() || named.len() == 1 && is_empty(&named[0]);
    let decisions = decide(key::cookie("id"), &request);
    let sent = format!("{request:?}");
    match (missing, named.len()) {
        // An encoded name is unreadable even if the value is empty.
        (true, 1) => {
            let admitted = decisions.iter().filter(|decision| decision.is_allowed()).count();
            assert!(admitted == 0 || admitted == 4, "{sent}");
        }
        (missing, _) => assert_counted(&decisions, missing, &sent),
    }
    if named.len() > 1 {
        let mut reasons = decisions.iter().map(Decision::reason);
        assert!(reasons.all(|reason| reason == Some(Reason::UnreadableKey)), "{sent}");
    }
}

/// A request with these lines of a header; one that no header can have is left out.
fn request(uri: &str, name: &'static str, lines: &[&[u8]]) -> Parts {
    let mut request = Request::get(uri);
    for line in lines {
        if let Ok(value) = http::HeaderValue::from_bytes(line) {
            request = request.header(name, value);
        }
    }
    request.body(()).expect("all headers are right").into_parts().0
}

/// A key in a header: `is_missing` decides about a single line, and several lines are unreadable.
fn check<K: KeyExtractor>(
    key: impl Fn() -> K,
    request: &Parts,
    is_missing: impl Fn(&[u8]) -> bool,
) {
    let values: Vec<_> = request.headers.values().map(|value| value.as_bytes()).collect();
    let missing = values.iter().all(|value| is_missing(value)) && values.len() < 2;
    let decisions = decide(key(), request);
    assert_counted(&decisions, missing, &format!("{request:?}"));
    if values.len() > 1 {
        let reasons = decisions.iter().map(Decision::reason);
        assert!(reasons.into_iter().all(|reason| reason == Some(Reason::UnreadableKey)));
        let exempt = Limiter::builder()
            .exempt(Matcher::key(key(), values))
            .policy(Policy::fixed_window("all", Quota::per_hour(1)).global())
            .build()
            .expect("the settings are right");
        assert!(now(exempt.decide(request)).outcomes().len() > 0, "{request:?}");
    }
}

/// Four requests under a policy of two that lets requests without the key pass.
fn decide(key: impl KeyExtractor, request: &Parts) -> Vec<Decision> {
    let policy = Policy::fixed_window("each", Quota::per_hour(2)).key(key).or_skip();
    let limiter = Limiter::builder().policy(policy).build().expect("the settings are right");
    (0..4).map(|_| now(limiter.decide(request))).collect()
}

fn assert_counted(decisions: &[Decision], missing: bool, sent: &str) {
    let admitted = decisions.iter().filter(|decision| decision.is_allowed()).count();
    match missing {
        true => assert_eq!(admitted, 4, "{sent}"),
        false => assert!(admitted == 0 || admitted == 2, "{admitted} pass: {sent}"),
    }
}

/// What a store in memory answers at once.
fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("nothing is held"),
    }
}
