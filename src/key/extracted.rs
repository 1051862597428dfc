//! The answer of an extractor: [`Extracted`].

use http::StatusCode;

use super::Key;

/// The answer of a [`KeyExtractor`](super::KeyExtractor) for a request: found, missing or unreadable.
///
/// `Option<Key>` converts into it: `None` is [`Missing`](Self::Missing).
///
/// ```
/// use http::request::Parts;
/// use tower_quota::key::Extracted;
///
/// fn tenant(request: &Parts) -> Extracted<'_> {
///     let mut lines = request.headers.get_all("x-tenant").iter();
///     match (lines.next(), lines.next()) {
///         (None, _) => Extracted::Missing,
///         (Some(line), None) => Extracted::Found(line.as_bytes().into()),
///         (Some(_), Some(_)) => Extracted::UNREADABLE,
///     }
/// }
/// # let _ = tenant;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use]
pub enum Extracted<'a> {
    /// The request's key. An empty key counts as missing.
    Found(Key<'a>),
    /// The request has no key. The policy says what happens then.
    Missing,
    /// The request has a key that cannot be read with certainty: it is sent twice, for example, or is
    /// malformed. The handler may read it in another way. So the policy refuses the request with this
    /// status, unless it counts the key [as missing](crate::Policy::unreadable_as_missing). A status
    /// that is not an error counts as 400 Bad Request.
    Unreadable(StatusCode),
}

impl<'a> Extracted<'a> {
    /// An unreadable key; the request is refused with 400 Bad Request.
    pub const UNREADABLE: Self = Self::Unreadable(StatusCode::BAD_REQUEST);

    /// The key, if it is found and not empty.
    #[inline]
    #[must_use]
    pub fn found(self) -> Option<Key<'a>> {
        match self {
            Self::Found(key) if !key.as_bytes().is_empty() => Some(key),
            Self::Found(_) | Self::Missing | Self::Unreadable(_) => None,
        }
    }

    /// Whether the request has no key, or an empty one.
    #[inline]
    pub(crate) fn is_missing(&self) -> bool {
        match self {
            Self::Found(key) => key.as_bytes().is_empty(),
            Self::Missing => true,
            Self::Unreadable(_) => false,
        }
    }
}

impl<'a> From<Option<Key<'a>>> for Extracted<'a> {
    #[inline]
    fn from(key: Option<Key<'a>>) -> Self {
        key.map_or(Self::Missing, Self::Found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_key_counts_as_missing() {
        for (extracted, is_found, is_missing) in [
            (Extracted::Found("a".into()), true, false),
            (Extracted::Found("".into()), false, true),
            (Extracted::Missing, false, true),
            (Extracted::UNREADABLE, false, false),
        ] {
            assert_eq!(extracted.is_missing(), is_missing, "{extracted:?}");
            assert_eq!(extracted.found().is_some(), is_found);
        }
    }
}
