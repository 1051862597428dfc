//! Selects requests by method and path, address, key, a closure, or several of these: [`Matcher`].

mod several;

use std::{collections::HashSet, fmt, sync::Arc};

use http::{
    Method,
    header::{ACCESS_CONTROL_REQUEST_METHOD, ORIGIN},
    request::Parts,
};
use ipnet::IpNet;

use self::several::{Asked, words_of};
use crate::{
    key::{ClientIp, Extracted, Fingerprinter, Key, KeyExtractor, parse_networks},
    path::{Pattern, SentPath},
};

/// Selects requests: by method and path, by address, by key, by a closure, or by several of these
/// ([`and`](Self::and), [`or`](Self::or), [`not`](Self::not)).
///
/// A path is in axum's syntax: `/users/{id}`, `/files/{*path}`. It is compared with the whole path
/// that the client sent, even inside of `Router::nest`. `/files/{*path}` also matches `/files` and
/// `/files/`, which a router nested there answers. Letter case matters.
///
/// # What reaches a handler
/// Routers read some paths in different ways: `/v1//users`, `/v1/users/`, `/v1/%75sers`,
/// `/v1/x/../users`. The limiter does not know which router routes the request. So:
/// - A [`Category`](crate::Category) counts a request if any router may read its path as one of the
///   category's: with slashes merged or not, with or without a trailing slash, percent-decoded once or
///   not, with dot segments resolved or not. If routers may split the path into different segments,
///   the request counts in each category that one of them may choose.
/// - An exemption has to be certain: the path matches as it was sent, and all routers split it in the
///   same way.
///
/// ```
/// use tower_quota::{Matcher, key::ClientIp};
///
/// let health = Matcher::get("/health");
/// let anything_of_users = Matcher::path("/v1/users/{*rest}");
/// let inside = Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]);
/// let dry = Matcher::from_fn(|request| request.headers.contains_key("x-dry-run"));
/// let health_from_inside = Matcher::get("/health").and(inside.clone());
/// # let _ = (health, anything_of_users, inside, dry, health_from_inside);
/// ```
#[derive(Clone)]
pub struct Matcher {
    pub(crate) kind: Kind,
    /// What is wrong with the settings, and what to write instead.
    pub(crate) problem: Option<String>,
}

#[derive(Clone)]
pub(crate) enum Kind {
    /// Without `methods`, any method matches. Without a pattern, the path does not parse.
    Route {
        methods: Option<Vec<Method>>,
        path: Arc<str>,
        pattern: Option<Arc<Pattern>>,
    },
    Closure(Arc<dyn Fn(&Parts) -> bool + Send + Sync>),
    ClientIp {
        client_ip: ClientIp,
        networks: Vec<IpNet>,
    },
    Key {
        extractor: Arc<dyn KeyExtractor>,
        known: HashSet<u128>,
        fingerprints: Fingerprinter,
    },
    /// All of them match.
    All(Vec<Matcher>),
    /// One of them matches.
    Any(Vec<Matcher>),
    Not(Box<Matcher>),
}

impl Matcher {
    /// `GET` requests to a path; also `HEAD`, and in a category `CONNECT`: see
    /// [`methods`](Self::methods).
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::methods([Method::GET], path)
    }

    /// `HEAD` requests to a path. [`get`](Self::get) matches these too.
    #[must_use]
    pub fn head(path: &str) -> Self {
        Self::methods([Method::HEAD], path)
    }

    /// `POST` requests to a path.
    #[must_use]
    pub fn post(path: &str) -> Self {
        Self::methods([Method::POST], path)
    }

    /// `PUT` requests to a path.
    #[must_use]
    pub fn put(path: &str) -> Self {
        Self::methods([Method::PUT], path)
    }

    /// `PATCH` requests to a path.
    #[must_use]
    pub fn patch(path: &str) -> Self {
        Self::methods([Method::PATCH], path)
    }

    /// `DELETE` requests to a path.
    #[must_use]
    pub fn delete(path: &str) -> Self {
        Self::methods([Method::DELETE], path)
    }

    /// `OPTIONS` requests to a path, such as a browser's preflight requests.
    #[must_use]
    pub fn options(path: &str) -> Self {
        Self::methods([Method::OPTIONS], path)
    }

    /// A browser's preflight requests (CORS), to any path: `OPTIONS` requests with the headers `Origin` and
    /// `Access-Control-Request-Method`. A layer for CORS outside of the limiter's answers them, and the
    /// limiter sees none; inside of it, exempt them, or give them a category.
    ///
    /// ```
    /// use tower_quota::{Limiter, Matcher};
    ///
    /// let limiter = Limiter::builder().exempt(Matcher::preflight());
    /// # let _ = limiter;
    /// ```
    #[must_use]
    pub fn preflight() -> Self {
        Self::options("/{*path}").and(Self::from_fn(|request| {
            let headers = &request.headers;
            headers.contains_key(ORIGIN) && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
        }))
    }

    /// Requests to a path with one of these methods.
    ///
    /// `GET` includes `HEAD`, as axum answers both from a `GET` route. In a category, `GET` also
    /// includes `CONNECT`, by which HTTP/2 opens a WebSocket.
    #[must_use]
    pub fn methods(methods: impl IntoIterator<Item = Method>, path: &str) -> Self {
        let mut methods: Vec<_> = methods.into_iter().collect();
        if methods.contains(&Method::GET) && !methods.contains(&Method::HEAD) {
            methods.push(Method::HEAD);
        }
        let is_empty = methods.is_empty();
        let mut matcher = Self::route(Some(methods), path);
        if is_empty {
            let problem =
                format!("`{path}` has no method; write one, or `Matcher::path` for any method");
            matcher.problem.get_or_insert(problem);
        }
        matcher
    }

    /// Requests to a path, with any method.
    #[must_use]
    pub fn path(path: &str) -> Self {
        Self::route(None, path)
    }

    /// Requests to a path and all below it, with any method: `under("/v1")` is short for
    /// `path("/v1/{*rest}")`, and matches `/v1`, `/v1/` and `/v1/users`, but not `/v10`.
    #[must_use]
    pub fn under(path: &str) -> Self {
        Self::route(None, &format!("{}/{{*rest}}", path.strip_suffix('/').unwrap_or(path)))
    }

    fn route(methods: Option<Vec<Method>>, path: &str) -> Self {
        let (pattern, problem) = match Pattern::parse(path) {
            Ok(pattern) => (Some(Arc::new(pattern)), None),
            Err(problem) => (None, Some(problem)),
        };
        Self { kind: Kind::Route { methods, path: path.into(), pattern }, problem }
    }

    /// Requests for which the closure returns `true`.
    pub fn from_fn(matches: impl Fn(&Parts) -> bool + Send + Sync + 'static) -> Self {
        Self { kind: Kind::Closure(Arc::new(matches)), problem: None }
    }

    /// Requests from these addresses or networks, such as `10.0.0.0/8`. A request whose address is
    /// unknown or hidden never matches.
    ///
    /// **Pass the same [`ClientIp`] as to the policies.** Behind a proxy, `ClientIp::new()` finds the proxy's
    /// address in each request: an exemption of the proxy's network then exempts all clients. For the peer
    /// itself, such as for health checks that do not come through the proxy, write `ClientIp::new().trust_hops(0)`.
    #[must_use]
    pub fn client_ip<T: AsRef<str>>(
        client_ip: ClientIp,
        networks: impl IntoIterator<Item = T>,
    ) -> Self {
        let (networks, problem) = match parse_networks(networks) {
            Ok(networks) => (networks, client_ip.problem()),
            Err(problem) => (Vec::new(), Some(problem)),
        };
        Self { kind: Kind::ClientIp { client_ip, networks }, problem }
    }

    /// Requests with one of these keys. A request whose key is missing or unreadable never matches.
    /// The keys are kept as fingerprints only.
    pub fn key<'a, K: Into<Key<'a>>>(
        extractor: impl KeyExtractor,
        keys: impl IntoIterator<Item = K>,
    ) -> Self {
        let problem = extractor.problem();
        let fingerprints = Fingerprinter::random();
        let known = keys.into_iter().map(|key| fingerprints.fingerprint(0, &key.into())).collect();
        Self { kind: Kind::Key { extractor: Arc::new(extractor), known, fingerprints }, problem }
    }

    /// Whether a layer that is only for these requests is for this one: without a matcher, it is for all. A
    /// matcher that `build()` would refuse matches all requests, so that the layer leaves none out.
    pub(crate) fn include(only: &[Self], request: &Parts) -> bool {
        let matches = |matcher: &Self| matcher.problem.is_some() || matcher.matches(request);
        only.is_empty() || only.iter().any(matches)
    }

    /// Whether the request matches in any reading of its path.
    pub(crate) fn matches(&self, request: &Parts) -> bool {
        self.may_match(request, &SentPath::from_request(request))
    }

    /// Whether the request matches with its path as it was sent.
    #[inline]
    pub(crate) fn matches_as_sent(&self, request: &Parts, path: &SentPath<'_>) -> bool {
        match &self.kind {
            Kind::Route { methods, pattern: Some(pattern), .. } => {
                may_reach(methods, &request.method) && pattern.matches_as_sent(path)
            }
            Kind::Route { pattern: None, .. } => false,
            Kind::Closure(matches) => matches(request),
            Kind::ClientIp { .. } | Kind::Key { .. } => self.has_caller(request) == Some(true),
            Kind::All(_) | Kind::Any(_) | Kind::Not(_) => {
                self.answer(request, path, Asked::MayAsSent, false)
            }
        }
    }

    /// Whether the request comes from one of these callers; `None` if its address is unknown or hidden, or
    /// its key is unreadable, and for matchers that do not tell callers.
    fn has_caller(&self, request: &Parts) -> Option<bool> {
        match &self.kind {
            Kind::ClientIp { client_ip, networks } => {
                let ip = client_ip.resolve(request)?;
                Some(networks.iter().any(|network| network.contains(&ip)))
            }
            Kind::Key { extractor, known, fingerprints } => match extractor.extract(request) {
                Extracted::Unreadable(_) => None,
                extracted => Some(
                    extracted
                        .found()
                        .is_some_and(|key| known.contains(&fingerprints.fingerprint(0, &key))),
                ),
            },
            _ => None,
        }
    }

    /// Whether the request matches in any reading of its path.
    pub(crate) fn may_match(&self, request: &Parts, path: &SentPath<'_>) -> bool {
        match &self.kind {
            Kind::Route { methods, pattern: Some(pattern), .. } => {
                may_reach(methods, &request.method) && pattern.matches(path)
            }
            Kind::All(_) | Kind::Any(_) | Kind::Not(_) => {
                self.answer(request, path, Asked::May, false)
            }
            _ => self.matches_as_sent(request, path),
        }
    }

    /// Whether the request matches in every reading of its path.
    #[inline]
    pub(crate) fn surely_matches(&self, request: &Parts, path: &SentPath<'_>) -> bool {
        let is_sure = match &self.kind {
            Kind::Route { methods, .. } => {
                includes(methods, &request.method) && !path.is_ambiguous()
            }
            Kind::All(_) | Kind::Any(_) | Kind::Not(_) => {
                return self.answer(request, path, Asked::Surely, false);
            }
            _ => true,
        };
        is_sure && self.matches_as_sent(request, path)
    }

    /// `GET, HEAD /users/{id}`, `addresses in 10.0.0.0/8`; only the number of keys.
    pub(crate) fn in_words(&self) -> String {
        match &self.kind {
            Kind::Route { methods: None, path, .. } => path.to_string(),
            Kind::Route { methods: Some(methods), path, .. } => {
                let methods: Vec<_> = methods.iter().map(Method::as_str).collect();
                format!("{} {path}", methods.join(", "))
            }
            Kind::Closure(_) => "by a function".to_owned(),
            Kind::ClientIp { networks, .. } => {
                let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
                format!("addresses in {}", networks.join(", "))
            }
            Kind::Key { extractor, known, .. } => {
                format!("{} keys by {}", known.len(), extractor.kind())
            }
            Kind::All(parts) => words_of(parts, " and "),
            Kind::Any(parts) => words_of(parts, " or "),
            Kind::Not(part) => format!("not ({})", part.in_words()),
        }
    }

    /// The [identity](KeyExtractor::identity) of the extractor by which it matches.
    pub(crate) fn identity(&self) -> Option<String> {
        match &self.kind {
            Kind::ClientIp { client_ip, .. } => client_ip.identity(),
            Kind::Key { extractor, .. } => (**extractor).identity(),
            Kind::All(parts) | Kind::Any(parts) => {
                Some(format!("{:?}", parts.iter().map(Self::identity).collect::<Vec<_>>()))
            }
            Kind::Not(part) => part.identity(),
            Kind::Route { .. } | Kind::Closure(_) => None,
        }
    }

    /// Its pattern, if it matches by path.
    pub(crate) fn parsed(&self) -> Option<&Pattern> {
        match &self.kind {
            Kind::Route { pattern, .. } => pattern.as_deref(),
            _ => None,
        }
    }

    /// The path as it was set, if it matches by path.
    pub(crate) fn pattern(&self) -> Option<&Arc<str>> {
        match &self.kind {
            Kind::Route { path, .. } => Some(path),
            _ => None,
        }
    }
}

/// Whether a request with this method may reach a handler for these methods. A WebSocket is opened by
/// `GET` over HTTP/1.1, and by `CONNECT` over HTTP/2 (RFC 8441, section 4).
#[inline]
fn may_reach(methods: &Option<Vec<Method>>, method: &Method) -> bool {
    includes(methods, method) || *method == Method::CONNECT && includes(methods, &Method::GET)
}

#[inline]
fn includes(methods: &Option<Vec<Method>>, method: &Method) -> bool {
    methods.as_ref().is_none_or(|methods| methods.contains(method))
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Route { path, .. } => path,
            Kind::Closure(_) => "closure",
            Kind::ClientIp { .. } => "client ip",
            Kind::Key { .. } => "key",
            Kind::All(_) | Kind::Any(_) | Kind::Not(_) => "several",
        };
        write!(f, "Matcher({kind})")
    }
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
        assert!(Matcher::path("/{*rest}").matches(&star), "a fallback answers it");
        assert!(!Matcher::path("/{id}").matches(&star), "a request target without a path");
    }

    #[test]
    fn each_method_has_a_matcher() {
        let all = [
            (Method::GET, Matcher::get as fn(&str) -> Matcher),
            (Method::POST, Matcher::post),
            (Method::PUT, Matcher::put),
            (Method::PATCH, Matcher::patch),
            (Method::DELETE, Matcher::delete),
            (Method::OPTIONS, Matcher::options),
            (Method::HEAD, Matcher::head),
        ];
        for (method, matcher) in &all {
            for (other, _) in &all {
                let matches = matcher("/v1").matches(&request(other.clone(), "/v1"));
                let is_head_of_get = *method == Method::GET && *other == Method::HEAD;
                assert_eq!(matches, method == other || is_head_of_get, "{method} {other}");
            }
        }
    }

    #[test]
    fn a_matcher_includes_the_methods_that_reach_its_handler() {
        let (get, post) = (Matcher::methods([Method::GET], "/ws"), Matcher::post("/ws"));
        for method in [Method::GET, Method::HEAD, Method::CONNECT] {
            assert!(get.matches(&request(method.clone(), "/ws")), "{method}");
            assert!(!post.matches(&request(method, "/ws")));
        }
        assert!(!get.matches(&request(Method::POST, "/ws")));
        let sure = |method| {
            let request = request(method, "/ws");
            get.surely_matches(&request, &SentPath::from_request(&request))
        };
        assert!(sure(Method::GET) && sure(Method::HEAD));
        assert!(!sure(Method::CONNECT), "another handler may answer it");
    }

    #[test]
    fn an_exemption_is_sure_of_the_path() {
        let assets = Matcher::get("/assets/{*path}");
        let exempts = |path| {
            let request = request(Method::GET, path);
            assets.surely_matches(&request, &SentPath::from_request(&request))
        };
        for path in ["/assets/a", "/assets/a%20b.png", "/assets", "/assets/a/"] {
            assert!(exempts(path), "{path}");
        }
        for path in ["/assets/../v1/a", "//assets/a", "/assets//a", "/assets/..%2Fv1/a"] {
            assert!(!exempts(path), "{path}");
        }
        assert!(Matcher::from_fn(|_| true).surely_matches(
            &request(Method::GET, "/a//b"),
            &SentPath::from_request(&request(Method::GET, "/a//b"))
        ));
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
        let problem = |path| Matcher::path(path).problem;
        assert_eq!(
            problem("users").unwrap(),
            "the path `users` does not begin with a slash; write `/users`"
        );
        assert_eq!(
            Matcher::methods([], "/users").problem.unwrap(),
            "`/users` has no method; write one, or `Matcher::path` for any method"
        );
        let network = Matcher::client_ip(ClientIp::new(), ["10.0.0.0.0"]);
        assert!(network.problem.unwrap().contains("`10.0.0.0.0`"));
    }
}
