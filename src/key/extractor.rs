//! How a key is read from a request: [`KeyExtractor`], for `Arc`s and tuples of extractors too.

use std::{borrow::Cow, sync::Arc};

use http::request::Parts;

use super::{AddressWalk, Extracted, Key};

/// Reads the key from a request's head.
///
/// [`from_fn`](super::from_fn) makes an extractor from a closure. Implement the trait if yours has
/// settings.
pub trait KeyExtractor: Send + Sync + 'static {
    /// The kind of key, for messages and logs: `ip`, `x-api-key`, `user`. Keys of two kinds never
    /// share a quota. So if the kind is renamed, all its keys have their whole quota again.
    fn kind(&self) -> Cow<'_, str>;

    /// The request's key: found, missing, or unreadable.
    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a>;

    /// How the key is found, step by step, if it is an address that proxies forward: for
    /// [`Limiter::explain`](crate::Limiter::explain). An extractor around a
    /// [`ClientIp`](super::ClientIp) calls that one's method. Default: `None`.
    fn address_walk(&self, request: &Parts) -> Option<AddressWalk> {
        let _ = request;
        None
    }

    /// Turns a key that was not read from a request into the one that [`extract`](Self::extract) would
    /// return: [`ClientIp`](super::ClientIp) turns an address into its network, for example.
    /// [`Limiter::check`](crate::Limiter::check) calls it. `None` if no request can have this key.
    /// Default: the key as it is.
    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        Some(key)
    }

    /// Whether [`canonical`](Self::canonical) returns this key unchanged. Then a check does not call it, which is
    /// faster. `false` is always right, and the default.
    fn is_canonical(&self, key: &Key<'_>) -> bool {
        let _ = key;
        false
    }

    /// What is wrong with the extractor's settings, and what to write instead. `build()` then fails
    /// with this text. Default: `None`, nothing is wrong.
    fn problem(&self) -> Option<String> {
        None
    }

    /// The only paths that have a key, in axum's syntax. `build()` fails if a policy counts by this
    /// extractor, and its categories have none of these paths. Default: empty, any path may have a
    /// key.
    fn paths(&self) -> Vec<String> {
        Vec::new()
    }

    /// A text that is the same for two extractors only if both read the same key from every request.
    /// If several policies have extractors with the same identity, a request's key is read only once.
    ///
    /// Return the name of your type and all of its settings, as a derived `Debug` writes them.
    /// Default: `None`, the key is read for each policy. A closure has no identity. An [`Arc`] of
    /// an extractor without an identity uses its own address, so all clones of the `Arc` have the
    /// same identity.
    fn identity(&self) -> Option<String> {
        None
    }
}

/// Clones of an `Arc` are the same extractor.
impl<K: KeyExtractor + ?Sized> KeyExtractor for Arc<K> {
    fn kind(&self) -> Cow<'_, str> {
        (**self).kind()
    }

    fn extract<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        (**self).extract(request)
    }

    fn address_walk(&self, request: &Parts) -> Option<AddressWalk> {
        (**self).address_walk(request)
    }

    fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
        (**self).canonical(key)
    }

    fn is_canonical(&self, key: &Key<'_>) -> bool {
        (**self).is_canonical(key)
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

/// A key that was not read from a request, as the extractor would read it. `None` if no request can
/// have this key. Whatever the extractor is, an empty key is no key.
pub(crate) fn canonical<'a>(extractor: &dyn KeyExtractor, key: Key<'a>) -> Option<Key<'a>> {
    extractor.canonical(key).filter(|key| !key.as_bytes().is_empty())
}

/// A tuple of keys is a key, and a tuple of extractors is an extractor. It counts each combination of
/// keys separately. The tuple's key is unreadable if one of its keys is, and missing if one is missing.
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

            fn address_walk(&self, request: &Parts) -> Option<AddressWalk> {
                let ($($name,)+) = self;
                None$(.or_else(|| $name.address_walk(request)))+
            }

            fn canonical<'a>(&self, key: Key<'a>) -> Option<Key<'a>> {
                let ($($name,)+) = self;
                let mut parts = key.parts()?.into_iter();
                let keys = [$(canonical($name, parts.next()?)?.into_owned()),+];
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
    use std::net::IpAddr;

    use super::*;
    use crate::key::{
        ClientIp, bearer, body_field, cookie, extension, from_fn, header, path_param, query,
    };

    #[test]
    fn a_key_from_elsewhere_becomes_what_its_extractor_reads() {
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
            (&header("x"), "".into(), None),
            (&header("x"), " tenant-7".into(), None),
            (&header("x"), ("tenant", 7_u64).into(), None),
            (&bearer(), "token\t".into(), None),
            (&cookie("y"), "tenant-7".into(), Some("tenant-7".into())),
            (&cookie("y"), "".into(), None),
            (&cookie("y"), ("a", "b").into(), None),
            (&query("y"), " tenant 7 ".into(), Some(" tenant 7 ".into())),
            (&query("y"), "".into(), None),
            (&body_field("y"), ("a", "b").into(), None),
            (&from_fn("f", |_| None), ("a", "").into(), Some(("a", "").into())),
            (&from_fn("f", |_| None), "".into(), None),
            (&(from_fn("f", |_| None), query("y")), ("", "b").into(), None),
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
            if extractor.is_canonical(&key) && !key.as_bytes().is_empty() {
                assert_eq!(canonical.as_ref(), Some(&key));
            }
            assert_eq!(super::canonical(extractor, key), canonical);
        }
        assert!(
            Arc::new(header("x")).is_canonical(&"tenant-7".into()),
            "no copy for the usual key"
        );
    }

    #[test]
    fn only_extractors_that_read_the_same_have_the_same_identity() {
        let all: [fn() -> Box<dyn KeyExtractor>; 18] = [
            || Box::new(header("x-tenant")),
            || Box::new(header("x-user")),
            || Box::new(bearer()),
            || Box::new(cookie("x-user")),
            || Box::new(cookie("user")),
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
        let identities = || all.map(|make| make().identity().expect("each has one"));
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
        let request = |tenant: &str, user: &str| {
            let request = http::Request::builder().header("x-tenant", tenant);
            request.header("x-user", user).body(()).unwrap().into_parts().0
        };
        assert!(both.extract(&request("7", "8")).found().is_some());
        assert_eq!(both.extract(&request("7", "")), Extracted::Missing);
        assert_eq!(both.extract(&request("", "8")), Extracted::Missing);
        assert!((bearer(), header("no such name\n")).problem().is_some());
    }
}
