//! Matchers of several parts: [`Matcher::and`], [`or`](Matcher::or), [`not`](Matcher::not), and what they
//! answer where it is not certain what a request is.

use http::request::Parts;

use super::{Kind, Matcher, includes, may_reach};
use crate::path::SentPath;

/// What is asked of a matcher. Where the answer is not certain, a category says yes and an exemption no.
#[derive(Clone, Copy)]
pub(super) enum Asked {
    /// Whether a handler of these requests may get the request, by its path as it was sent.
    MayAsSent,
    /// Whether only such a handler gets it, by its path as it was sent.
    SurelyAsSent,
    /// The same in any reading of its path.
    May,
    /// The same in every reading of its path.
    Surely,
}

impl Asked {
    /// What is asked of a matcher if this is asked of its opposite.
    fn of_opposite(self) -> Self {
        match self {
            Self::MayAsSent => Self::SurelyAsSent,
            Self::SurelyAsSent => Self::MayAsSent,
            Self::May => Self::Surely,
            Self::Surely => Self::May,
        }
    }

    fn is_certain(self) -> bool {
        matches!(self, Self::SurelyAsSent | Self::Surely)
    }
}

impl Matcher {
    /// Requests that both match.
    ///
    /// ```
    /// use tower_quota::{Matcher, key::ClientIp};
    ///
    /// let metrics = Matcher::get("/metrics").and(Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]));
    /// # let _ = metrics;
    /// ```
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let problem = self.problem.clone().or_else(|| other.problem.clone());
        let mut all = match self.kind {
            Kind::All(all) => all,
            kind => vec![Self { kind, problem: None }],
        };
        all.push(other);
        Self { kind: Kind::All(all), problem }
    }

    /// Requests that one of them, or both, match. In a category, [`Category::on`](crate::Category::on)
    /// adds requests in the same way.
    ///
    /// ```
    /// use tower_quota::Matcher;
    ///
    /// let free = Matcher::get("/health").or(Matcher::get("/ready"));
    /// # let _ = free;
    /// ```
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        let problem = self.problem.clone().or_else(|| other.problem.clone());
        let mut any = match self.kind {
            Kind::Any(any) => any,
            kind => vec![Self { kind, problem: None }],
        };
        any.push(other);
        Self { kind: Kind::Any(any), problem }
    }

    /// All other requests.
    ///
    /// Where it is not certain that a request is another one, a category counts it, and an exemption does
    /// not exempt it: its path can be read in different ways, its address is unknown or hidden, or its key
    /// is unreadable. A request without the key is another one.
    ///
    /// ```
    /// use tower_quota::{Category, Matcher};
    ///
    /// let rest = Category::new("rest").on(Matcher::under("/v1").and(Matcher::under("/v1/admin").not()));
    /// # let _ = rest;
    /// ```
    #[expect(clippy::should_implement_trait, reason = "`!` would be a second way to write it")]
    #[must_use]
    pub fn not(self) -> Self {
        let problem = self.problem.clone();
        Self { kind: Kind::Not(Box::new(self)), problem }
    }

    /// The answer of a matcher of several parts, which pass the question on. `is_opposite` says that what
    /// is asked is the opposite of this matcher's answer.
    pub(super) fn answer(
        &self,
        request: &Parts,
        path: &SentPath<'_>,
        asked: Asked,
        is_opposite: bool,
    ) -> bool {
        let of = |part: &Self| part.answer(request, path, asked, is_opposite);
        match &self.kind {
            Kind::All(parts) => parts.iter().all(of),
            Kind::Any(parts) => parts.iter().any(of),
            Kind::Not(part) => !part.answer(request, path, asked.of_opposite(), !is_opposite),
            Kind::ClientIp { .. } | Kind::Key { .. } => {
                // Neither such callers nor all others are exempt then, and others are counted.
                let unknown = is_opposite && !asked.is_certain();
                self.has_caller(request).unwrap_or(unknown)
            }
            Kind::Closure(matches) => matches(request),
            Kind::Route { pattern: None, .. } => false,
            Kind::Route { methods, pattern: Some(pattern), .. } => {
                let has_method = match asked.is_certain() {
                    true => includes(methods, &request.method),
                    false => may_reach(methods, &request.method),
                };
                has_method
                    && match asked {
                        Asked::MayAsSent | Asked::SurelyAsSent => pattern.matches_as_sent(path),
                        Asked::May => pattern.matches(path),
                        Asked::Surely => !path.is_ambiguous() && pattern.matches_as_sent(path),
                    }
            }
        }
    }
}

/// `(GET /a) and (addresses in 10.0.0.0/8)`
pub(super) fn words_of(parts: &[Matcher], between: &str) -> String {
    let words: Vec<_> = parts.iter().map(|part| format!("({})", part.in_words())).collect();
    words.join(between)
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Method, Request};
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::key::{self, ClientIp, PeerAddr};

    fn request(method: Method, uri: &str, headers: &[(&'static str, &'static str)]) -> Parts {
        let request = Request::builder().method(method).uri(uri);
        let request = headers.iter().fold(request, |r, (name, value)| r.header(*name, *value));
        request.body(()).unwrap().into_parts().0
    }

    /// Whether a category counts the request, and whether an exemption exempts it.
    fn asked(matcher: &Matcher, request: &Parts) -> (bool, bool) {
        let path = SentPath::from_request(request);
        let as_sent = matcher.matches_as_sent(request, &path);
        let counts = as_sent || !path.is_plain() && matcher.may_match(request, &path);
        (counts, matcher.surely_matches(request, &path))
    }

    const YES: (bool, bool) = (true, true);
    const NO: (bool, bool) = (false, false);
    /// It is not certain: a category counts the request, and an exemption does not exempt it.
    const MAYBE: (bool, bool) = (true, false);

    #[test]
    fn and_or_and_not_mean_what_they_say() {
        let [yes, no] = [true, false].map(|answer| move || Matcher::from_fn(move |_| answer));
        let sent = request(Method::GET, "/", &[]);
        for (matcher, expected) in [
            (yes().and(yes()), YES),
            (yes().and(no()), NO),
            (no().and(yes()), NO),
            (yes().and(yes()).and(no()), NO),
            (no().or(yes()), YES),
            (no().or(no()), NO),
            (no().or(no()).or(yes()), YES),
            (no().not(), YES),
            (yes().not(), NO),
            (yes().not().not(), YES),
            // The words bind as they are called.
            (yes().or(yes()).and(no()), NO),
            (no().and(no()).or(yes()), YES),
            (yes().and(no()).not(), YES),
        ] {
            assert_eq!(asked(&matcher, &sent), expected, "{}", matcher.in_words());
        }
    }

    #[test]
    fn where_it_is_not_certain_a_category_counts_and_nothing_is_exempt() {
        let but_admin = Matcher::under("/v1").and(Matcher::under("/v1/admin").not());
        let but_socket = Matcher::get("/ws").not();
        let partner = || Matcher::key(key::header("x-key"), ["p"]);
        let inside = || Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]);
        let get = |path: &str| request(Method::GET, path, &[]);
        let with_key = |keys: &[(&'static str, &'static str)]| request(Method::GET, "/", keys);
        let from = |ip: [u8; 4]| {
            let mut request = get("/");
            request.extensions.insert(PeerAddr((ip, 80).into()));
            request
        };
        let (p, other) = (("x-key", "p"), ("x-key", "q"));
        for (matcher, request, expected) in [
            (&but_admin, get("/v1/users"), YES),
            (&but_admin, get("/v1"), YES),
            (&but_admin, get("/v10"), NO),
            (&but_admin, get("/v1/admin"), NO),
            (&but_admin, get("/v1/admin/users"), NO),
            (&but_admin, get("/v1/users/../admin"), MAYBE),
            (&but_admin, get("/v1/admin/../users"), MAYBE),
            (&but_admin, get("/v1//admin"), MAYBE),
            (&but_socket, get("/ws"), NO),
            (&but_socket, request(Method::POST, "/ws", &[]), YES),
            (&but_socket, request(Method::CONNECT, "/ws", &[]), MAYBE),
            (&but_socket.clone().not(), request(Method::CONNECT, "/ws", &[]), MAYBE),
            (&partner(), with_key(&[p]), YES),
            (&partner(), with_key(&[other]), NO),
            (&partner(), with_key(&[p, p]), NO),
            (&partner().not(), with_key(&[p]), NO),
            (&partner().not(), with_key(&[other]), YES),
            (&partner().not(), with_key(&[]), YES),
            (&partner().not(), with_key(&[p, p]), MAYBE),
            (&partner().not().not(), with_key(&[p, p]), NO),
            (&partner().not().and(Matcher::get("/")), with_key(&[p, other]), MAYBE),
            (&partner().or(inside()).not(), with_key(&[other]), MAYBE),
            (&inside(), from([10, 0, 0, 1]), YES),
            (&inside().not(), from([10, 0, 0, 1]), NO),
            (&inside().not(), from([192, 0, 2, 1]), YES),
            (&inside(), get("/"), NO),
            (&inside().not(), get("/"), MAYBE),
        ] {
            assert_eq!(asked(matcher, &request), expected, "{} {request:?}", matcher.in_words());
        }
    }

    #[test]
    fn preflights_and_what_is_under_a_path() {
        let (origin, asks) =
            (("origin", "https://a.test"), ("access-control-request-method", "PUT"));
        let options = |path, headers| request(Method::OPTIONS, path, headers);
        for (request, expected) in [
            (options("/v1/users", &[origin, asks]), YES),
            (options("/", &[origin, asks]), YES),
            (options("*", &[origin, asks]), YES),
            (options("/v1/users", &[origin]), NO),
            (options("/v1/users", &[asks]), NO),
            (request(Method::GET, "/v1/users", &[origin, asks]), NO),
            (request(Method::PUT, "/v1/users", &[origin, asks]), NO),
        ] {
            assert_eq!(asked(&Matcher::preflight(), &request), expected, "{request:?}");
        }
        let get = |path: &str| request(Method::GET, path, &[]);
        for under in ["/v1", "/v1/"] {
            for path in ["/v1", "/v1/", "/v1/users", "/v1/users/7"] {
                assert!(Matcher::under(under).matches(&get(path)), "{under} {path}");
            }
            assert!(!Matcher::under(under).matches(&get("/v10")));
        }
        assert!(
            Matcher::under("/").matches(&get("/")) && Matcher::under("/").matches(&get("/a/b"))
        );
        for path in ["", "v1", "/v1/{*rest}", "/v1//a"] {
            assert_eq!(Matcher::under(path).problem.is_some(), !path.is_empty(), "{path}");
        }
    }

    #[test]
    fn the_problem_of_a_part_is_one_of_the_whole() {
        let (good, bad) = (|| Matcher::get("/a"), || Matcher::get("a"));
        for matcher in [good().and(bad()), bad().and(good()), good().or(bad()), bad().not()] {
            assert_eq!(
                matcher.problem.unwrap(),
                "the path `a` does not begin with a slash; write `/a`"
            );
        }
        assert_eq!(good().or(good()).and(good().not()).problem, None);
        let words = good().or(Matcher::from_fn(|_| true)).and(good().not()).in_words();
        assert_eq!(words, "((GET, HEAD /a) or (by a function)) and (not (GET, HEAD /a))");
    }

    fn matcher() -> impl Strategy<Value = Matcher> {
        let paths = select(vec!["/a", "/a/{x}", "/{x}/b", "/a/{*rest}", "/{*rest}", "/b/"]);
        let methods = select(vec![vec![Method::GET], vec![Method::POST, Method::PUT]]);
        let leaf = prop_oneof![
            paths.clone().prop_map(Matcher::path),
            (methods, paths).prop_map(|(methods, path)| Matcher::methods(methods, path)),
            Just(Matcher::key(key::header("x-key"), ["p"])),
        ];
        leaf.prop_recursive(3, 12, 2, |part| {
            prop_oneof![
                (part.clone(), part.clone()).prop_map(|(one, other)| one.and(other)),
                (part.clone(), part.clone()).prop_map(|(one, other)| one.or(other)),
                part.prop_map(Matcher::not),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn what_is_exempt_is_counted_by_no_opposite(
            matcher in matcher(),
            method in select(vec![Method::GET, Method::HEAD, Method::POST, Method::CONNECT]),
            path in "(/(a|b|\\.\\.|%61|)){1,3}/?",
            keys in prop::collection::vec(select(vec!["p", "q", ""]), 0..3),
        ) {
            let mut request = request(method, &path, &[]);
            for key in keys {
                request.headers.append("x-key", HeaderValue::from_static(key));
            }
            let sent = SentPath::from_request(&request);
            let words = matcher.in_words();
            let [may, surely] = [
                matcher.may_match(&request, &sent),
                matcher.surely_matches(&request, &sent),
            ];
            let as_sent = matcher.matches_as_sent(&request, &sent);
            prop_assert!(!surely || as_sent, "{words}");
            prop_assert!(!as_sent || may, "{words}");
            // Each request is counted by a matcher or by its opposite, and is exempt by one at most.
            let opposite = matcher.not();
            prop_assert!(as_sent || opposite.matches_as_sent(&request, &sent), "{words}");
            prop_assert!(may || opposite.may_match(&request, &sent), "{words}");
            prop_assert!(!(may && opposite.surely_matches(&request, &sent)), "{words}");
            prop_assert!(!(surely && opposite.may_match(&request, &sent)), "{words}");
        }
    }
}
