//! Who a request comes from: [`Caller`].

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{Fingerprinter, Key, KeyExtractor};

/// Who a request comes from: a [`KeyExtractor`], and a secret.
///
/// Each policy has its own key, which says whose quota a request uses. The caller does not depend
/// on the policy: an operator's [overrides](crate::overrides::Overrides) and the request log know requests by
/// it. Its key is kept only as a fingerprint, which depends on the secret.
///
/// An extractor converts into a `Caller` with a random secret. A clone is the same caller.
///
/// ```
/// use tower_quota::key::{self, Caller};
///
/// let caller = Caller::new(key::extension("user", |user: &User| user.id.as_str().into()));
/// # struct User { id: String }
/// # let _ = caller;
/// ```
#[derive(Clone)]
#[must_use]
pub struct Caller {
    pub(crate) extractor: Arc<dyn KeyExtractor>,
    /// Empty until the secret is known. Clones share it.
    fingerprints: Arc<OnceLock<Fingerprinter>>,
    /// Whether the secret is set, so that the fingerprints outlive the process.
    pub(crate) has_secret: bool,
}

impl Caller {
    /// A caller by this extractor: requests with the same key come from the same caller.
    pub fn new(extractor: impl KeyExtractor) -> Self {
        Self { extractor: Arc::new(extractor), fingerprints: Arc::default(), has_secret: false }
    }

    /// Sets the secret that makes fingerprints of keys. Fingerprints in a file are of use only to
    /// processes with the same secret. Default: that of the limiter's store, or else a random one for
    /// each process.
    ///
    /// `openssl rand -hex 16` makes one, and `u128::from_str_radix(hex, 16)` reads it.
    ///
    /// ```
    /// use tower_quota::key::{self, Caller};
    ///
    /// let hex = "8c1e6a0f5d2b49739e04c7d1a6b8f352"; // from a secret store, not from the source
    /// let caller = Caller::new(key::bearer()).secret(u128::from_str_radix(hex, 16)?);
    /// # let _ = caller;
    /// # Ok::<(), std::num::ParseIntError>(())
    /// ```
    pub fn secret(mut self, secret: u128) -> Self {
        self.fingerprints = Arc::new(Fingerprinter::with_secret(secret).into());
        self.has_secret = true;
        self
    }

    /// Takes the secret of a store, unless it has one of its own. `false` if it has a random one
    /// already, or that of another store.
    #[must_use]
    pub(crate) fn adopt(&self, secret: u128) -> bool {
        let of_store = Fingerprinter::with_secret(secret);
        self.has_secret
            || self.fingerprints.get_or_init(|| of_store.clone()).secret == of_store.secret
    }

    pub(crate) fn fingerprints(&self) -> &Fingerprinter {
        self.fingerprints.get_or_init(Fingerprinter::random)
    }

    #[inline]
    pub(crate) fn fingerprint(&self, key: &Key<'_>) -> u128 {
        self.fingerprints().fingerprint(0, key)
    }

    /// Whether a limiter with this caller goes on as before if its settings name `new`: by the same
    /// extractor, and with the same secret or none of its own.
    pub(crate) fn may_become(&self, new: &Self) -> bool {
        self.extractor.identity() == new.extractor.identity()
            && (!new.has_secret || self.fingerprints().secret == new.fingerprints().secret)
    }

    /// Whether both give each request the same fingerprint.
    #[cfg(any(test, all(feature = "usage", feature = "axum")))]
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        // An `Arc` always has an identity: its extractor's, or its address.
        self.fingerprints().secret == other.fingerprints().secret
            && self.extractor.identity() == other.extractor.identity()
    }
}

/// Without a secret of its own.
impl<E: KeyExtractor> From<E> for Caller {
    fn from(extractor: E) -> Self {
        Self::new(extractor)
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("kind", &self.extractor.kind())
            .field("has_secret", &self.has_secret)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::{from_fn, header};

    #[test]
    fn the_same_secret_and_extractor_are_the_same_caller() {
        let caller = |name, secret| Caller::new(header(name)).secret(secret);
        let first = caller("x-api-key", 7);
        assert!(first.is_same(&caller("X-Api-Key", 7)));
        assert!(!first.is_same(&caller("x-user", 7)));
        assert!(!first.is_same(&caller("x-api-key", 8)));
        let by_closure =
            || Caller::new(from_fn("host", |request| Some(request.uri.host()?.into())));
        let random = by_closure();
        assert!(random.is_same(&random.clone()));
        assert!(!random.is_same(&by_closure()));
        assert!(!random.clone().secret(7).is_same(&by_closure().secret(7)), "other closures");
        assert!(!Caller::new(header("x")).is_same(&Caller::new(header("x"))), "other secrets");
    }

    #[test]
    fn a_key_has_one_fingerprint_for_each_secret() {
        let key = Key::from("sk_live_pro_tenant");
        let caller = |secret| Caller::new(header("x-api-key")).secret(secret);
        assert_eq!(caller(7).fingerprint(&key), Fingerprinter::with_secret(7).fingerprint(0, &key));
        assert_ne!(caller(7).fingerprint(&key), caller(8).fingerprint(&key));
        let random = Caller::from(header("x-api-key"));
        assert_eq!(random.fingerprint(&key), random.clone().fingerprint(&key));
        assert_ne!(random.fingerprint(&key), Caller::from(header("x-api-key")).fingerprint(&key));
        assert!(caller(7).has_secret && !random.has_secret);
    }

    #[test]
    fn a_caller_without_a_secret_takes_that_of_the_first_store() {
        let key = Key::from("sk_live_pro_tenant");
        let caller = Caller::new(header("x-user"));
        let clone = caller.clone();
        assert!(caller.adopt(7) && clone.adopt(7) && !clone.adopt(8));
        assert_eq!(clone.fingerprint(&key), Fingerprinter::with_secret(7).fingerprint(0, &key));
        let own = Caller::new(header("x-user")).secret(9);
        assert!(own.adopt(7));
        assert_eq!(own.fingerprint(&key), Fingerprinter::with_secret(9).fingerprint(0, &key));
        let used = Caller::new(header("x-user"));
        let _ = used.fingerprint(&key);
        assert!(!used.adopt(7), "its random secret is in use");
    }

    #[test]
    fn the_secret_is_not_shown() {
        let caller = Caller::new(header("x-user")).secret(0xdead_beef);
        assert_eq!(format!("{caller:?}"), r#"Caller { kind: "x-user", has_secret: true, .. }"#);
    }
}
