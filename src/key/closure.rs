//! Extractors from closures: [`from_fn`], [`try_from_fn`] and [`extension`].

use std::borrow::Cow;

use http::request::Parts;

use super::{Extracted, Key, KeyExtractor};

/// A key that a closure reads; `None` if the request has no key.
///
/// `kind` is the kind of key in messages and logs. If a key can be unreadable, use
/// [`try_from_fn`].
///
/// ```
/// use tower_quota::key;
///
/// let by_host = key::from_fn("host", |request| Some(request.uri.host()?.into()));
/// # let _ = by_host;
/// ```
pub fn from_fn<F>(kind: impl Into<Cow<'static, str>>, extract: F) -> impl KeyExtractor
where
    F: for<'a> Fn(&'a Parts) -> Option<Key<'a>> + Send + Sync + 'static,
{
    try_from_fn(kind, move |request| extract(request).into())
}

/// A key that a closure reads, which distinguishes between missing and unreadable keys.
///
/// ```
/// use tower_quota::key::{self, Extracted};
///
/// let by_tenant = key::try_from_fn("tenant", |request| {
///     let mut lines = request.headers.get_all("host").iter();
///     let (Some(host), None) = (lines.next(), lines.next()) else {
///         return Extracted::UNREADABLE;
///     };
///     match host.to_str() {
///         Ok(host) => Extracted::Found(host.split('.').next().unwrap_or_default().into()),
///         Err(_) => Extracted::UNREADABLE,
///     }
/// });
/// # let _ = by_tenant;
/// ```
pub fn try_from_fn<F>(kind: impl Into<Cow<'static, str>>, extract: F) -> impl KeyExtractor
where
    F: for<'a> Fn(&'a Parts) -> Extracted<'a> + Send + Sync + 'static,
{
    let kind = kind.into();
    Extract {
        kind,
        extract,
        problem: None,
        identity: None,
        path: None,
        may_be: |_| true,
        canonical: None,
    }
}

/// A key from a request's extensions, where an earlier middleware has put it: a user, a tenant, a
/// session. The key is missing if there is no extension of this type.
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

/// An extractor with an [identity](KeyExtractor::identity), which must name all that `extract` uses.
pub(super) fn identified<F>(
    identity: String,
    kind: impl Into<Cow<'static, str>>,
    problem: Option<String>,
    extract: F,
) -> Extract<F>
where
    F: for<'a> Fn(&'a Parts) -> Extracted<'a> + Send + Sync + 'static,
{
    let (kind, identity) = (kind.into(), Some(identity));
    Extract { kind, extract, problem, identity, path: None, may_be: |_| true, canonical: None }
}

pub(super) struct Extract<F> {
    kind: Cow<'static, str>,
    extract: F,
    problem: Option<String>,
    identity: Option<String>,
    /// The only path with a key; `None` if any path may have one.
    pub(super) path: Option<String>,
    /// Whether the key of a request may be these bytes.
    pub(super) may_be: fn(&[u8]) -> bool,
    /// The text that requests have for this one, or `None` if none has it; for an extractor that does not
    /// take each text as it is.
    pub(super) canonical: Option<fn(&str) -> Option<String>>,
}

impl<F> KeyExtractor for Extract<F>
where
    F: for<'a> Fn(&'a Parts) -> Extracted<'a> + Send + Sync + 'static,
{
    fn kind(&self) -> Cow<'_, str> {
        Cow::Borrowed(&self.kind)
    }

    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        (self.extract)(request)
    }

    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        if let Some(canonical) = self.canonical {
            let text = Some(key.as_bytes()).filter(|_| key.first_part().is_none());
            return canonical(str::from_utf8(text?).ok()?).map(Key::from);
        }
        self.is_canonical(&key).then_some(key)
    }

    fn is_canonical(&self, key: &Key<'_>) -> bool {
        // A part of a request is one text. Of a closure's keys nothing is known.
        let is_as_sent = || {
            let is_text = self.canonical.is_none() && key.first_part().is_none();
            is_text && (self.may_be)(key.as_bytes())
        };
        self.identity.is_none() || is_as_sent()
    }

    fn problem(&self) -> Option<String> {
        self.problem.clone()
    }

    fn identity(&self) -> Option<String> {
        self.identity.clone()
    }

    fn paths(&self) -> Vec<String> {
        self.path.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn extensions() {
        let user = extension("user", |id: &u64| (*id).into());
        let with = |extensions| {
            let mut parts = Request::get("/").body(()).unwrap().into_parts().0;
            parts.extensions = extensions;
            user.extract(&parts).found().is_some()
        };
        let mut extensions = http::Extensions::new();
        extensions.insert(7_u32);
        assert!(!with(extensions.clone()));
        extensions.insert(7_u64);
        assert!(with(extensions));
    }
}
