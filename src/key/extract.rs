//! Keys from the parts of a request's head.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, header::AUTHORIZATION, request::Parts};

use super::{Key, KeyExtractor};
use crate::matcher::{path_of, route};

/// A key read by a closure; `None` when the request has none.
///
/// `kind` names the kind of key in messages and logs.
///
/// ```
/// use tower_quota::key;
///
/// let by_tenant = key::from_fn("tenant", |request| {
///     let tenant = request.headers.get("host")?.to_str().ok()?.split('.').next()?;
///     Some(tenant.into())
/// });
/// # let _ = by_tenant;
/// ```
pub fn from_fn<F>(kind: impl Into<Cow<'static, str>>, extract: F) -> impl KeyExtractor
where
    F: for<'a> Fn(&'a Parts) -> Option<Key<'a>> + Send + Sync + 'static,
{
    Extract { kind: kind.into(), extract, problem: None, identity: None }
}

/// The value of a header.
///
/// A header sent twice is no key: which one the handler reads is unknown.
pub fn header(name: impl AsRef<str>) -> impl KeyExtractor {
    let name = name.as_ref().to_ascii_lowercase();
    let parsed = HeaderName::try_from(&name).ok();
    let problem = parsed
        .is_none()
        .then(|| format!("`{name:?}` is no header name; write one like `x-api-key`"));
    let identity = format!("header {name}");
    identified(identity, name, problem, move |request| {
        Some(single(&request.headers, parsed.as_ref()?)?.into())
    })
}

/// The token of `Authorization: Bearer …` (RFC 6750, section 2.1).
#[must_use]
pub fn bearer() -> impl KeyExtractor {
    identified("bearer token".to_owned(), "bearer token", None, |request| {
        let value = single(&request.headers, &AUTHORIZATION)?;
        let (scheme, token) = value.split_at_checked("bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii().into())
    })
}

/// A parameter of the query string, decoded.
///
/// A parameter given twice is no key: which one the handler reads is unknown.
pub fn query(name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    identified(format!("query {name}"), name.clone(), None, move |request| {
        let query = request.uri.query()?;
        let pairs = form_urlencoded::parse(query.as_bytes());
        Some(only(pairs.filter(|(key, _)| *key == name))?.1.into())
    })
}

/// A segment of the path, decoded: the parameter `name` of `pattern`, in axum's syntax.
///
/// ```
/// use tower_quota::key;
///
/// let by_tenant = key::path_param("/v1/tenants/{tenant}/{*rest}", "tenant");
/// # let _ = by_tenant;
/// ```
pub fn path_param(pattern: &str, name: impl Into<Cow<'static, str>>) -> impl KeyExtractor {
    let name = name.into();
    let router = route(pattern);
    let problem = match &router {
        Err(problem) => Some(problem.clone()),
        Ok(_) if !has_param(pattern, &name) => {
            Some(format!("the path `{pattern}` has no parameter `{{{name}}}`; write it there"))
        }
        Ok(_) => None,
    };
    let identity = format!("path {pattern:?} {name}");
    identified(identity, name.clone(), problem, move |request| {
        let matched = router.as_ref().ok()?.at(path_of(request)).ok()?;
        let value = percent_encoding::percent_decode_str(matched.params.get(&*name)?);
        Some(value.collect::<Vec<u8>>().into())
    })
}

/// What an earlier middleware found out: a user, a tenant, a session.
///
/// ```
/// use tower_quota::key;
///
/// #[derive(Clone)]
/// struct User { id: u64 }
///
/// let by_user = key::extension("user", |user: &User| user.id.into());
/// # let _ = by_user;
/// ```
pub fn extension<T, F>(kind: impl Into<Cow<'static, str>>, key: F) -> impl KeyExtractor
where
    T: Send + Sync + 'static,
    F: for<'a> Fn(&'a T) -> Key<'a> + Send + Sync + 'static,
{
    from_fn(kind, move |request| request.extensions.get().map(&key))
}

/// A key read by a closure of which the [identity](KeyExtractor::identity) says all.
pub(super) fn identified<F>(
    identity: String,
    kind: impl Into<Cow<'static, str>>,
    problem: Option<String>,
    extract: F,
) -> impl KeyExtractor
where
    F: for<'a> Fn(&'a Parts) -> Option<Key<'a>> + Send + Sync + 'static,
{
    Extract { kind: kind.into(), extract, problem, identity: Some(identity) }
}

struct Extract<F> {
    kind: Cow<'static, str>,
    extract: F,
    problem: Option<String>,
    identity: Option<String>,
}

impl<F> KeyExtractor for Extract<F>
where
    F: for<'a> Fn(&'a Parts) -> Option<Key<'a>> + Send + Sync + 'static,
{
    fn kind(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.kind)
    }

    fn extract<'a>(&self, request: &'a Parts) -> Option<Key<'a>> {
        (self.extract)(request)
    }

    fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }
}

fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    let first = items.next()?;
    items.next().is_none().then_some(first)
}

fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    only(headers.get_all(name).iter()).map(|value| value.as_bytes().trim_ascii())
}

fn has_param(pattern: &str, name: &str) -> bool {
    let named = |segment: &str| {
        let param = segment.strip_prefix('{').and_then(|segment| segment.strip_suffix('}'));
        param.is_some_and(|param| param.trim_start_matches('*') == name)
    };
    pattern.split('/').any(named)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn key(extractor: &impl KeyExtractor, request: http::request::Builder) -> Option<String> {
        let parts = request.body(()).unwrap().into_parts().0;
        let key = extractor.extract(&parts)?;
        Some(String::from_utf8_lossy(key.as_bytes()).into_owned())
    }

    fn get(uri: &str) -> http::request::Builder {
        Request::get(uri)
    }

    #[test]
    fn headers() {
        let api_key = header("X-API-Key");
        assert_eq!(api_key.kind(), "x-api-key");
        assert_eq!(key(&api_key, get("/").header("x-api-key", " a ")), Some("a".into()));
        assert_eq!(key(&api_key, get("/")), None);
        let twice = get("/").header("x-api-key", "a").header("x-api-key", "b");
        assert_eq!(key(&api_key, twice), None, "which of two is unknown");
        assert_eq!(
            header("x api").problem().unwrap(),
            "`\"x api\"` is no header name; write one like `x-api-key`"
        );
    }

    #[test]
    fn hostile_header_values_are_keys_like_any_other() {
        let api_key = header("x-api-key");
        let not_utf8 = http::HeaderValue::from_bytes(b"\xff\xfe").unwrap();
        assert!(key(&api_key, get("/").header("x-api-key", not_utf8)).is_some());
        let long = "k".repeat(100 * 1024);
        assert_eq!(key(&api_key, get("/").header("x-api-key", &long)), Some(long));
    }

    #[test]
    fn bearer_tokens() {
        let sent = |value: &str| key(&bearer(), get("/").header("authorization", value));
        assert_eq!(sent("Bearer abc"), Some("abc".into()));
        assert_eq!(sent("bearer   abc"), Some("abc".into()));
        assert_eq!(sent("Basic abc"), None);
        assert_eq!(sent("Bearerabc"), None);
        assert_eq!(sent("B"), None);
        assert_eq!(sent("Bearer"), None);
    }

    #[test]
    fn query_parameters() {
        let api_key = query("key");
        assert_eq!(key(&api_key, get("/?a=b&key=c%20d")), Some("c d".into()));
        assert_eq!(key(&api_key, get("/?key=a&key=b")), None, "which of two is unknown");
        assert_eq!(key(&api_key, get("/?keys=a")), None);
        assert_eq!(key(&api_key, get("/")), None);
    }

    #[test]
    fn path_parameters() {
        let tenant = path_param("/v1/{tenant}/{*rest}", "tenant");
        assert_eq!(key(&tenant, get("/v1/a%62c/users/1")), Some("abc".into()));
        assert_eq!(key(&tenant, get("/v2/abc/users")), None);
        assert_eq!(
            path_param("/v1/{user}", "tenant").problem().unwrap(),
            "the path `/v1/{user}` has no parameter `{tenant}`; write it there"
        );
        assert!(path_param("/v1/{user", "user").problem().is_some());
    }

    #[test]
    fn extensions() {
        let user = extension("user", |id: &u64| (*id).into());
        assert!(key(&user, get("/").extension(7_u64)).is_some());
        assert!(key(&user, get("/").extension(7_u32)).is_none());
    }
}
