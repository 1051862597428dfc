//! Which requests: [`Matcher`].

use std::{collections::HashSet, fmt, sync::Arc};

use http::{Method, request::Parts};
use ipnet::IpNet;

use crate::key::{ClientIp, Fingerprinter, Key, KeyExtractor, parse_networks};

/// Tells whether a request is one of those meant: by method and path, by address, by key, or by a
/// closure.
///
/// Paths are in axum's syntax: `/users/{id}`, `/files/{*path}`. They are compared with the whole
/// path that the client sent, also under `Router::nest`.
///
/// ```
/// use tower_quota::{Matcher, key::ClientIp};
///
/// let health = Matcher::get("/health");
/// let anything_of_users = Matcher::path("/v1/users/{*rest}");
/// let inside = Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]);
/// let dry = Matcher::from_fn(|request| request.headers.contains_key("x-dry-run"));
/// # let _ = (health, anything_of_users, inside, dry);
/// ```
#[derive(Clone)]
pub struct Matcher {
    kind: Kind,
    problem: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Kind {
    Route { methods: Methods, path: Arc<str>, router: Arc<matchit::Router<()>> },
    Closure(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
    ClientIp { client_ip: ClientIp, networks: Vec<IpNet> },
    Key { extractor: Arc<dyn KeyExtractor>, known: HashSet<u128>, fingerprints: Fingerprinter },
}

#[derive(Clone)]
pub(crate) enum Methods {
    Any,
    These(Vec<Method>),
}

impl Matcher {
    /// `GET` and `HEAD` requests to a path: axum answers both from a `GET` route.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::methods([Method::GET, Method::HEAD], path)
    }

    /// `POST` requests to a path.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::methods([Method::POST], path)
    }

    /// Requests to a path with one of these methods.
    #[must_use]
    pub fn methods(methods: impl IntoIterator<Item = Method>, path: &str) -> Self {
        Self::route(Methods::These(methods.into_iter().collect()), path)
    }

    /// Requests to a path, whatever the method.
    #[must_use]
    pub fn path(path: &str) -> Self {
        Self::route(Methods::Any, path)
    }

    fn route(methods: Methods, path: &str) -> Self {
        let (router, problem) = match route(path) {
            Ok(router) => (Arc::new(router), None),
            Err(problem) => (Arc::default(), Some(problem)),
        };
        Self { kind: Kind::Route { methods, path: path.into(), router }, problem }
    }

    /// Requests of which the closure says so.
    pub fn from_fn(matches: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self::new(Kind::Closure(Arc::new(matches)))
    }

    /// Requests from these addresses or networks, such as `10.0.0.0/8`.
    #[must_use]
    pub fn client_ip<T: AsRef<str>>(
        client_ip: ClientIp,
        networks: impl IntoIterator<Item = T>,
    ) -> Self {
        let problem = client_ip.problem();
        match parse_networks(networks) {
            Ok(networks) => Self { kind: Kind::ClientIp { client_ip, networks }, problem },
            Err(problem) => {
                let networks = Vec::new();
                Self { kind: Kind::ClientIp { client_ip, networks }, problem: Some(problem) }
            }
        }
    }

    /// Requests with one of these keys. They are kept as fingerprints only.
    pub fn key<'a, K: Into<Key<'a>>>(
        extractor: impl KeyExtractor,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let problem = extractor.problem();
        let fingerprints = Fingerprinter::random();
        let known = keys.into_iter().map(|key| fingerprints.fingerprint(0, &key.into())).collect();
        Self { kind: Kind::Key { extractor: Arc::new(extractor), known, fingerprints }, problem }
    }

    fn new(kind: Kind) -> Self {
        Self { kind, problem: None }
    }

    pub(crate) fn matches(&self, request: &Parts) -> bool {
        match &self.kind {
            Kind::Route { methods, router, .. } => {
                let method_fits = match methods {
                    Methods::Any => true,
                    Methods::These(methods) => methods.contains(&request.method),
                };
                method_fits && router.at(path_of(request)).is_ok()
            }
            Kind::Closure(matches) => matches(request),
            Kind::ClientIp { client_ip, networks } => client_ip
                .resolve(request)
                .is_some_and(|ip| networks.iter().any(|network| network.contains(&ip))),
            Kind::Key { extractor, known, fingerprints } => extractor
                .extract(request)
                .found()
                .is_some_and(|key| known.contains(&fingerprints.fingerprint(0, &key))),
        }
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }

    /// The pattern of the path, where it matches by path.
    #[cfg(feature = "usage")]
    pub(crate) fn pattern(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Route { path, .. } => Some(path),
            _ => None,
        }
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Route { path, .. } => path,
            Kind::Closure(_) => "closure",
            Kind::ClientIp { .. } => "client ip",
            Kind::Key { .. } => "key",
        };
        write!(f, "Matcher({kind})")
    }
}

/// The path that the client sent, also where axum has stripped the prefix of a nested router.
pub(crate) fn path_of(request: &Parts) -> &str {
    #[cfg(feature = "axum")]
    if let Some(axum::extract::OriginalUri(uri)) = request.extensions.get() {
        return uri.path();
    }
    request.uri.path()
}

/// A router with one path, or what is wrong with that path.
pub(crate) fn route(path: &str) -> Result<matchit::Router<()>, String> {
    if !path.starts_with('/') {
        return Err(format!("the path `{path}` does not begin with a slash; write `/{path}`"));
    }
    let mut router = matchit::Router::new();
    router.insert(path, ()).map_err(|error| {
        format!("the path `{path}` does not parse ({error}); write one like `/users/{{id}}` or `/files/{{*path}}`")
    })?;
    Ok(router)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::key;

    fn request(method: Method, uri: &str) -> Parts {
        Request::builder().method(method).uri(uri).body(()).unwrap().into_parts().0
    }

    #[test]
    fn methods_and_paths() {
        let user = Matcher::get("/v1/users/{id}");
        assert!(user.matches(&request(Method::GET, "/v1/users/7?page=2")));
        assert!(user.matches(&request(Method::HEAD, "/v1/users/7")), "axum answers HEAD as GET");
        assert!(!user.matches(&request(Method::POST, "/v1/users/7")));
        assert!(!user.matches(&request(Method::GET, "/v1/users/7/posts")));
        assert!(!user.matches(&request(Method::GET, "/v1/users")));
        assert!(Matcher::path("/v1/{*rest}").matches(&request(Method::DELETE, "/v1/a/b")));
        let star = request(Method::OPTIONS, "*");
        assert!(!Matcher::path("/{*rest}").matches(&star), "a request target without a path");
    }

    #[test]
    fn keys_and_closures() {
        let internal = Matcher::key(key::header("x-api-key"), ["internal"]);
        let mut sent = request(Method::GET, "/");
        assert!(!internal.matches(&sent));
        sent.headers.insert("x-api-key", "internal".parse().unwrap());
        assert!(internal.matches(&sent));
        assert!(!format!("{internal:?}").contains("internal"));
        assert!(Matcher::from_fn(|request| request.method == Method::GET).matches(&sent));
    }

    #[test]
    fn addresses() {
        let inside = Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8", "::1"]);
        let mut sent = request(Method::GET, "/");
        assert!(!inside.matches(&sent), "no address is no inside address");
        sent.extensions.insert(key::PeerAddr(([10, 1, 2, 3], 80).into()));
        assert!(inside.matches(&sent));
    }

    #[test]
    fn problems_say_what_to_write() {
        let problem = |path| Matcher::path(path).problem().map(str::to_owned);
        assert_eq!(
            problem("users").unwrap(),
            "the path `users` does not begin with a slash; write `/users`"
        );
        let unclosed = problem("/users/{id").unwrap();
        assert!(unclosed.starts_with("the path `/users/{id` does not parse ("), "{unclosed}");
        assert!(
            unclosed.ends_with("write one like `/users/{id}` or `/files/{*path}`"),
            "{unclosed}"
        );
        let network = Matcher::client_ip(ClientIp::new(), ["10.0.0.0.0"]);
        assert!(network.problem().unwrap().contains("`10.0.0.0.0`"));
    }
}
