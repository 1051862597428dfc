//! Whose quota a request uses: [`Keys`].

use std::{borrow::Cow, sync::Arc};

use http::request::Parts;

use crate::{
    first_requests::FirstRequests,
    key::{Extracted, Key, KeyExtractor, canonical},
    warning::{Code, warn},
};

/// The extractors of a policy, and what happens to a request that has none of their keys.
#[derive(Clone, Default)]
pub(crate) struct Keys {
    /// In the order in which they are tried.
    pub(crate) extractors: Vec<Arc<dyn KeyExtractor>>,
    /// All requests share one quota; then there is no extractor.
    pub(crate) is_global: bool,
    pub(crate) unreadable_as_missing: bool,
    /// How often [`Policy::key`](super::Policy::key) was called.
    pub(super) first_keys: usize,
    /// One for each call of `or_skip` and `or_refuse`.
    pub(super) without_key: Vec<WithoutKey>,
}

/// What happens to a request that has none of a policy's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WithoutKey {
    Skip,
    Refuse,
}

impl Keys {
    /// The request's key, and the index of the extractor that has found it or could not read it. Calls
    /// `on_key` with the answer of each extractor that is tried.
    #[inline]
    pub(crate) fn find<'a>(
        &self,
        request: &'a Parts,
        mut on_key: impl FnMut(u8, &Extracted<'a>),
    ) -> (u8, Extracted<'a>) {
        if self.is_global {
            return (0, Extracted::Found("".into()));
        }
        for (kind, extractor) in (0_u8..).zip(&self.extractors) {
            let extracted = extractor.extract(request);
            on_key(kind, &extracted);
            let is_unreadable = matches!(extracted, Extracted::Unreadable(_));
            if !(extracted.is_missing() || is_unreadable && self.unreadable_as_missing) {
                return (kind, extracted);
            }
        }
        (0, Extracted::Missing)
    }

    /// `None` if it is not set: `build()` then fails, unless only checks use the policy.
    pub(crate) fn without_key(&self) -> Option<WithoutKey> {
        self.without_key.first().copied()
    }

    /// The kinds of key, in the order in which they are tried.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = Cow<'_, str>> {
        self.extractors.iter().map(|extractor| extractor.kind())
    }

    /// The only paths with a key; none if any path may have one.
    pub(crate) fn paths(&self) -> impl Iterator<Item = String> {
        self.extractors.iter().flat_map(|extractor| extractor.paths())
    }

    /// Policies with the same identity find the same key in a request, so it is read only once. `None`
    /// if an extractor has no [identity](KeyExtractor::identity).
    pub(crate) fn identity(&self) -> Option<Vec<String>> {
        let identity = |extractor: &Arc<dyn KeyExtractor>| {
            Some(format!("{:?}", (extractor.kind(), extractor.identity()?)))
        };
        let as_missing = self.unreadable_as_missing.then(|| Some("or unreadable".to_owned()));
        self.extractors.iter().map(identity).chain(as_missing).collect()
    }

    /// Whether [`canonical`](Self::canonical) returns this key unchanged, so that it need not be called.
    #[inline]
    pub(crate) fn is_canonical(&self, kind: u8, key: &Key<'_>) -> bool {
        match self.extractors.get(usize::from(kind)) {
            Some(extractor) => extractor.is_canonical(key) && !key.as_bytes().is_empty(),
            None => !self.is_global,
        }
    }

    /// A key that was not read from a request, as the extractor with this index would read it. `None`
    /// if no request can have this key.
    pub(crate) fn canonical<'a>(&self, kind: u8, key: Key<'a>) -> Option<Key<'a>> {
        match self.extractors.get(usize::from(kind)) {
            Some(extractor) => canonical(&**extractor, key),
            None if self.is_global => Some("".into()),
            None => Some(key),
        }
    }

    /// Reports that none of the first requests had the policy's first key.
    pub(crate) fn warn_never_found(&self, policy: &str) {
        let kind = self.extractors.first().map_or(Cow::Borrowed("key"), |key| key.kind());
        warn(Code::KeyNeverFound, policy, || {
            let then = match (self.extractors.len(), self.without_key()) {
                (0 | 1, Some(WithoutKey::Skip)) => "All of them passed uncounted.",
                (0 | 1, _) => "All of them were refused.",
                _ => "The policy's other keys were tried.",
            };
            format!(
                "policy `{policy}`: none of its first {} requests had its key `{kind}`. {then} Check \
                 that callers send the key under this name. If another middleware sets it, add its \
                 layer after the limiter's, so that it runs first",
                FirstRequests::MANY
            )
        });
    }
}
