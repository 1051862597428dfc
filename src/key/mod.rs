//! Whose quota a request draws on.
//!
//! A [`KeyExtractor`] reads a [`Key`] from a request's head. The limiter keeps only a fingerprint
//! of it. Extractors are made by [`ClientIp`] and the functions here; tuples of them count per
//! combination; [`from_fn`] takes a closure.
//!
//! A key is found, missing or unreadable ([`Extracted`]). A policy says what happens to a request
//! without its key. Every policy refuses a request whose key is there twice, or malformed: the handler
//! may read the key in another way. Such a request is never uncounted, exempt, or counted by another
//! key, unless the policy says so ([`unreadable_as_missing`](crate::Policy::unreadable_as_missing)).
//!
//! ```
//! use tower_quota::key::{self, ClientIp};
//!
//! let by_api_key = key::header("x-api-key");
//! let by_key_and_ip = (key::bearer(), ClientIp::new());
//! let by_user = key::extension("user", |user: &User| user.id.as_str().into());
//! # struct User { id: String }
//! # let _ = (by_api_key, by_key_and_ip, by_user);
//! ```

#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::indexing_slicing,
        clippy::string_slice
    )
)]

mod body_field;
mod caller;
mod client_ip;
mod extract;
mod extracted;
mod fingerprint;

use std::{borrow::Cow, fmt, net::IpAddr, sync::Arc};

use http::request::Parts;
use smallvec::SmallVec;

pub use self::{
    body_field::{BodyField, BodyFieldLayer, PeekedBody, body_field},
    caller::Caller,
    client_ip::{ClientIp, PeerAddr, UnixPeer},
    extract::{bearer, extension, from_fn, header, path_param, query, try_from_fn},
    extracted::Extracted,
};
pub(crate) use self::{
    client_ip::{hold_all_callers, parse_networks},
    fingerprint::{Domain, Fingerprinter},
};

/// Whose quota: the bytes that tell one caller from another.
///
/// Made from strings, bytes, integers, addresses, and tuples of these. Its `Debug` output does not
/// disclose it.
///
/// ```
/// use tower_quota::key::Key;
///
/// let tenant = Key::from("tenant-7");
/// let user_of_tenant = Key::from(("tenant-7", 42_u64));
/// assert_eq!(format!("{tenant:?} {user_of_tenant:?}"), "Key(..) Key(..)");
/// ```
#[derive(Clone)]
pub struct Key<'a> {
    bytes: Bytes<'a>,
    is_joined: bool,
}

#[derive(Clone)]
enum Bytes<'a> {
    Borrowed(&'a [u8]),
    Owned(SmallVec<[u8; 48]>),
}

impl Key<'_> {
    /// The key itself: take care where it goes. A string is its UTF-8, a number is little-endian.
    #[inline]
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Borrowed(bytes) => bytes,
            Bytes::Owned(bytes) => bytes,
        }
    }

    /// Keys side by side, each with its length before it: ("ab", "c") is not ("a", "bc").
    fn joined(keys: &[Key<'_>]) -> Key<'static> {
        let mut bytes = SmallVec::new();
        for key in keys {
            bytes.extend_from_slice(&(key.as_bytes().len() as u64).to_le_bytes());
            bytes.extend_from_slice(key.as_bytes());
        }
        Key { bytes: Bytes::Owned(bytes), is_joined: keys.len() > 1 }
    }

    /// The keys that were joined to this one; `None` where it was not joined.
    fn parts(&self) -> Option<SmallVec<[Key<'_>; 4]>> {
        let (mut parts, mut rest) = (SmallVec::new(), self.as_bytes());
        while !rest.is_empty() {
            let (length, after) = rest.split_first_chunk()?;
            let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
            let (part, after) = after.split_at_checked(length)?;
            parts.push(part.into());
            rest = after;
        }
        (parts.len() > 1).then_some(parts)
    }

    fn into_owned(self) -> Key<'static> {
        let bytes = match self.bytes {
            Bytes::Borrowed(bytes) => bytes.into(),
            Bytes::Owned(bytes) => bytes,
        };
        Key { bytes: Bytes::Owned(bytes), is_joined: self.is_joined }
    }

    /// The first of the keys that were joined to this one.
    pub(crate) fn first_part(&self) -> Option<Key<'_>> {
        let (length, rest) = self.as_bytes().split_first_chunk().filter(|_| self.is_joined)?;
        rest.get(..usize::try_from(u64::from_le_bytes(*length)).ok()?).map(Key::from)
    }
}

impl PartialEq for Key<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for Key<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl<'a> From<Bytes<'a>> for Key<'a> {
    #[inline]
    fn from(bytes: Bytes<'a>) -> Self {
        Key { bytes, is_joined: false }
    }
}

impl<'a> From<&'a [u8]> for Key<'a> {
    #[inline]
    fn from(bytes: &'a [u8]) -> Self {
        Bytes::Borrowed(bytes).into()
    }
}

impl<'a> From<&'a str> for Key<'a> {
    #[inline]
    fn from(text: &'a str) -> Self {
        text.as_bytes().into()
    }
}

impl<'a> From<&'a String> for Key<'a> {
    #[inline]
    fn from(text: &'a String) -> Self {
        text.as_bytes().into()
    }
}

impl From<Vec<u8>> for Key<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::Owned(bytes.into()).into()
    }
}

impl From<String> for Key<'_> {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl<'a> From<Cow<'a, str>> for Key<'a> {
    fn from(text: Cow<'a, str>) -> Self {
        match text {
            Cow::Borrowed(text) => text.into(),
            Cow::Owned(text) => text.into(),
        }
    }
}

macro_rules! from_integer {
    ($($integer:ty),*) => {$(
        impl From<$integer> for Key<'_> {
            fn from(number: $integer) -> Self {
                Bytes::Owned(SmallVec::from_slice(&number.to_le_bytes())).into()
            }
        }
    )*};
}
from_integer!(u32, u64, u128, i32, i64);

impl From<IpAddr> for Key<'_> {
    fn from(ip: IpAddr) -> Self {
        let bytes = match ip {
            IpAddr::V4(ip) => SmallVec::from_slice(&ip.octets()),
            IpAddr::V6(ip) => SmallVec::from_slice(&ip.octets()),
        };
        Bytes::Owned(bytes).into()
    }
}

/// Reads the key from a request's head.
///
/// [`from_fn`] makes one from a closure; implement the trait where the extractor has settings of
/// its own.
pub trait KeyExtractor: Send + Sync + 'static {
    /// What kind of key this is, for messages and logs: `ip`, `x-api-key`, `user`.
    fn kind(&self) -> Cow<'_, str>;

    /// The request's key: found, missing, or unreadable.
    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a>;

    /// The key that [`extract`](Self::extract) would return for a key that does not come from a
    /// request but from [`Limiter::check`](crate::Limiter::check), say: for an address, its network.
    /// `None` where no request can have the key. Default: the key as it is.
    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        Some(key)
    }

    /// What is wrong with the settings, and what to write instead. `build()` fails with it.
    fn problem(&self) -> Option<String> {
        None
    }

    /// The only paths with a key, in axum's syntax. `build()` fails where a policy counts by this
    /// extractor in categories that have none of these paths. Default: empty, any path may have a
    /// key.
    fn paths(&self) -> Vec<String> {
        Vec::new()
    }

    /// What it reads, in words that no extractor says which may read anything else: of a request,
    /// policies by extractors that say the same read the key once. `None`, the default, where that
    /// cannot be said, as of a closure.
    ///
    /// The functions of this module say theirs, but [`from_fn`] and [`extension`]; of these, as of
    /// any other, clones of one [`Arc`] are the same. Write the name of your type and its settings,
    /// as a derived `Debug` does.
    fn identity(&self) -> Option<String> {
        None
    }
}

/// Clones are the same extractor.
impl<K: KeyExtractor + ?Sized> KeyExtractor for Arc<K> {
    fn kind(&self) -> Cow<'_, str> {
        (**self).kind()
    }

    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        (**self).extract(request)
    }

    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        (**self).canonical(key)
    }

    fn problem(&self) -> Option<String> {
        (**self).problem()
    }

    fn paths(&self) -> Vec<String> {
        (**self).paths()
    }

    fn identity(&self) -> Option<String> {
        (**self).identity().or_else(|| Some(format!("at {:p}", Arc::as_ptr(self))))
    }
}

/// A tuple of keys is a key, and a tuple of extractors counts per combination: each must be there.
/// It is unreadable where one of them is.
macro_rules! tuples {
    ($($name:ident)+) => {
        impl<'a, $($name: Into<Key<'a>>),+> From<($($name,)+)> for Key<'_> {
            #[expect(non_snake_case)]
            fn from(($($name,)+): ($($name,)+)) -> Self {
                Key::joined(&[$($name.into()),+])
            }
        }

        #[expect(non_snake_case)]
        impl<$($name: KeyExtractor),+> KeyExtractor for ($($name,)+) {
            fn kind(&self) -> Cow<'_, str> {
                let ($($name,)+) = self;
                [$($name.kind()),+].join("+").into()
            }

            fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
                let ($($name,)+) = self;
                let mut missing = false;
                $(
                    let extracted = $name.extract(request);
                    missing |= extracted.is_missing();
                    let $name = match extracted {
                        Extracted::Found(key) => key,
                        Extracted::Missing => "".into(),
                        unreadable @ Extracted::Unreadable(_) => return unreadable,
                    };
                )+
                if missing { Extracted::Missing } else { Extracted::Found(Key::joined(&[$($name),+])) }
            }

            fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
                let ($($name,)+) = self;
                let mut parts = key.parts()?.into_iter();
                let keys = [$($name.canonical(parts.next()?)?.into_owned()),+];
                parts.next().is_none().then(|| Key::joined(&keys))
            }

            fn problem(&self) -> Option<String> {
                let ($($name,)+) = self;
                None$(.or_else(|| $name.problem()))+
            }

            fn paths(&self) -> Vec<String> {
                let ($($name,)+) = self;
                [$($name.paths()),+].concat()
            }

            fn identity(&self) -> Option<String> {
                let ($($name,)+) = self;
                Some(format!("{:?}", [$($name.identity()?),+]))
            }
        }
    };
}
tuples!(A B);
tuples!(A B C);
tuples!(A B C D);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_keys_do_not_run_together() {
        assert_ne!(Key::from(("ab", "c")).as_bytes(), Key::from(("a", "bc")).as_bytes());
        assert_ne!(Key::from(("a", "")).as_bytes(), Key::from(("", "a")).as_bytes());
    }

    #[test]
    fn a_key_from_elsewhere_is_made_what_its_extractor_reads() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let by_ip = ClientIp::new();
        let of_48 = ClientIp::new().ipv6_prefix(48);
        for (extractor, key, canonical) in [
            (&by_ip as &dyn KeyExtractor, Key::from(ip("192.0.2.7")), Some(ip("192.0.2.7").into())),
            (&by_ip, ip("2001:db8::7").into(), Some(ip("2001:db8::").into())),
            (&of_48, ip("2001:db8:0:1::7").into(), Some(ip("2001:db8::").into())),
            (&by_ip, ip("::ffff:192.0.2.7").into(), Some(ip("192.0.2.7").into())),
            (&by_ip, "192.0.2.7".into(), Some(ip("192.0.2.7").into())),
            (&by_ip, "2001:db8::7".into(), Some(ip("2001:db8::").into())),
            (&by_ip, "tenant-7".into(), None),
            (&by_ip, "".into(), None),
            (&header("x"), "tenant-7".into(), Some("tenant-7".into())),
            (
                &(header("x"), by_ip.clone()),
                ("a", ip("2001:db8::7")).into(),
                Some(("a", ip("2001:db8::")).into()),
            ),
            (
                &(header("x"), (by_ip.clone(), bearer())),
                ("a", ("192.0.2.7", "b")).into(),
                Some(("a", (ip("192.0.2.7"), "b")).into()),
            ),
            (&(header("x"), bearer()), "a".into(), None),
            (&(header("x"), bearer()), ("a", "b", "c").into(), None),
            (&(header("x"), bearer(), query("y")), ("a", "b").into(), None),
            (&(header("x"), by_ip.clone()), ("a", "b").into(), None),
            (&Arc::new(by_ip.clone()), "2001:db8::7".into(), Some(ip("2001:db8::").into())),
        ] {
            assert_eq!(extractor.canonical(key), canonical);
        }
    }

    #[test]
    fn only_joined_keys_have_a_first_part() {
        assert_eq!(Key::from(("ab", 7_u64)).first_part().unwrap(), "ab".into());
        assert_eq!(Key::from((("ab", "c"), 7_u64)).first_part().unwrap(), ("ab", "c").into());
        assert!(Key::from("\x01\0\0\0\0\0\0\0abc").first_part().is_none());
        assert!(Key::from("ab").first_part().is_none());
    }

    #[test]
    fn only_extractors_that_read_the_same_have_the_same_identity() {
        let all: [fn() -> Box<dyn KeyExtractor>; 16] = [
            || Box::new(header("x-tenant")),
            || Box::new(header("x-user")),
            || Box::new(bearer()),
            || Box::new(query("x-user")),
            || Box::new(query("user")),
            || Box::new(body_field("user")),
            || Box::new(path_param("/{user}/{tenant}", "user")),
            || Box::new(path_param("/{user}/{tenant}", "tenant")),
            || Box::new(path_param("/{tenant}/{user}", "user")),
            || Box::new(ClientIp::new()),
            || Box::new(ClientIp::new().trust_hops(1)),
            || Box::new(ClientIp::new().trust_proxies(["10.0.0.0/8"])),
            || Box::new(ClientIp::new().ipv6_prefix(48)),
            || Box::new((header("x-tenant"), header("x-user"))),
            || Box::new((header("x-user"), header("x-tenant"))),
            || Box::new((header("x-tenant"), (header("x-user"), bearer()))),
        ];
        let identities = || all.map(|make| make().identity().expect("each says its own"));
        assert_eq!(identities(), identities());
        assert_eq!(std::collections::HashSet::from(identities()).len(), all.len());
    }

    #[test]
    fn a_closure_is_the_same_where_it_is_shared() {
        let closure = || from_fn("host", |request| Some(request.uri.host()?.into()));
        let user = || extension("user", |id: &u64| (*id).into());
        assert_eq!((closure().identity(), user().identity()), (None, None));
        assert_eq!((header("x"), closure()).identity(), None);
        let shared = [Arc::new(closure()), Arc::new(closure())];
        let [first, second] = shared.each_ref().map(|closure| Arc::clone(closure).identity());
        assert_eq!(first, shared[0].identity());
        assert_ne!(first, second);
        assert_eq!(Arc::new(header("x")).identity(), header("x").identity());
    }

    #[test]
    fn a_tuple_needs_each_of_its_keys() {
        let both = (header("x-tenant"), header("x-user"));
        assert_eq!(both.kind(), "x-tenant+x-user");
        let request = |user: &str| {
            let request = http::Request::builder().header("x-tenant", "7").header("x-user", user);
            request.body(()).unwrap().into_parts().0
        };
        assert!(both.extract(&request("8")).found().is_some());
        assert_eq!(both.extract(&request("")), Extracted::Missing);
        assert!((bearer(), header("no such name\n")).problem().is_some());
    }
}
