//! All categories of a limiter, and those of a request: [`AllCategories`].

use std::{
    ops::{Deref, Range},
    time::Duration,
};

use http::request::Parts;

use super::trace::Trace;
use crate::{
    first_requests::FirstRequests,
    matcher::Matcher,
    path::{Numbers, PatternIndex, SentPath},
    warning::{Code, warn},
};

/// The categories, in their order.
pub(super) struct AllCategories {
    all: Vec<CategoryRules>,
    /// The positions of all matchers, in the order in which a request is compared with them.
    places: Vec<Place>,
    /// Which of the matchers a path may match; `None` if there are few matchers.
    index: Option<PatternIndex>,
    /// Watches whether none of the first requests is in a category.
    no_category: FirstRequests,
}

/// A category and its rules.
pub(super) struct CategoryRules {
    pub(super) name: String,
    pub(super) matchers: Vec<Matcher>,
    pub(super) hold: Duration,
    pub(super) rules: Range<u32>,
}

/// The category of a request, and others in which it counts as well.
#[derive(Default)]
#[cfg_attr(test, derive(Debug, PartialEq))]
pub(super) struct Categories {
    pub(super) first: Option<u32>,
    pub(super) others: Vec<u32>,
}

#[derive(Clone, Copy)]
struct Place {
    category: u32,
    /// The index in the category's matchers.
    matcher: u32,
}

impl AllCategories {
    pub(super) fn new(all: Vec<CategoryRules>) -> Self {
        let places = (0..).zip(&all).flat_map(|(category, CategoryRules { matchers, .. })| {
            (0..matchers.len() as u32).map(move |matcher| Place { category, matcher })
        });
        let places = places.collect();
        let matchers = all.iter().flat_map(|category| &category.matchers);
        let index = PatternIndex::new(matchers.map(Matcher::parsed));
        Self { all, places, index, no_category: FirstRequests::default() }
    }

    /// The categories of a request.
    #[inline]
    pub(super) fn of(
        &self,
        request: &Parts,
        path: &SentPath<'_>,
        trace: &mut impl Trace,
    ) -> Categories {
        let found = if trace.watches_all() { None } else { self.find(path) };
        let mut matches = |category: &CategoryRules, matcher: &Matcher| {
            let matches = matcher.matches_as_sent(request, path);
            trace.category(category, matcher, true, matches);
            matches
        };
        let first = match &found {
            None => {
                let mut has = |all: &CategoryRules| all.matchers.iter().any(|by| matches(all, by));
                self.all.iter().position(&mut has).map(|index| index as u32)
            }
            Some(numbers) => {
                let mut places = numbers.iter().map(|number| self.places[*number as usize]);
                let matching =
                    |place: &Place| matches(&self.all[place.category as usize], self.at(*place));
                places.find(matching).map(|place| place.category)
            }
        };
        self.no_category.watch(first.is_some() || self.all.is_empty(), || {
            warn(Code::NoCategory, "", || {
                format!(
                    "none of the first {} requests is in a category; compare the paths of the \
                     matchers with those of the routes, and write them whole, with the prefix under \
                     which a router is nested, unless such requests are rare",
                    FirstRequests::MANY
                )
            });
        });
        let categories = match path.is_plain() {
            true => Categories { first, others: Vec::new() },
            false => self.of_odd(request, path, first, found, trace),
        };
        trace.categories(&self.all, &categories);
        categories
    }

    /// The categories of a path that routers read in different ways. Some routers decode a path
    /// before they match it: they choose the first category that matches the decoded path. Others
    /// split it differently, or trim a trailing slash, and may choose any category: a router that
    /// axum nests at `/v1` answers `/v1/`, or leaves it to the outer router.
    #[cold]
    #[inline(never)]
    fn of_odd(
        &self,
        request: &Parts,
        path: &SentPath<'_>,
        as_sent: Option<u32>,
        found: Option<Numbers>,
        trace: &mut impl Trace,
    ) -> Categories {
        let may_be_any = path.is_ambiguous() || path.text.ends_with('/');
        let mut others = Vec::new();
        for place in self.compared(found) {
            // One matcher of a category is enough.
            if others.last() == Some(&place.category) {
                continue;
            }
            let (category, matcher) = (&self.all[place.category as usize], self.at(place));
            let matches = matcher.may_match(request, path);
            trace.category(category, matcher, false, matches);
            if matches {
                others.push(place.category);
                if !may_be_any {
                    break;
                }
            }
        }
        let first = as_sent.or(others.first().copied());
        others.retain(|index| Some(*index) != first);
        Categories { first, others }
    }

    /// The matcher that puts a request into its category.
    pub(super) fn matcher_of(&self, request: &Parts) -> Option<&Matcher> {
        let path = SentPath::from_request(request);
        let compared: Vec<_> =
            self.compared(self.find(&path)).map(|place| self.at(place)).collect();
        let as_sent = compared.iter().find(|matcher| matcher.matches_as_sent(request, &path));
        let any = || compared.iter().find(|matcher| matcher.may_match(request, &path));
        as_sent.or_else(any).copied()
    }

    /// The numbers of the matchers that may match a path; `None` if it is to be compared with all.
    #[inline]
    fn find(&self, path: &SentPath<'_>) -> Option<Numbers> {
        self.index.as_ref().map(|index| index.find(path))
    }

    /// The matchers of these numbers, or all.
    fn compared(&self, found: Option<Numbers>) -> impl Iterator<Item = Place> {
        let numbers = found.unwrap_or_else(|| (0..self.places.len() as u32).collect());
        numbers.into_iter().map(|number| self.places[number as usize])
    }

    #[inline]
    fn at(&self, place: Place) -> &Matcher {
        &self.all[place.category as usize].matchers[place.matcher as usize]
    }
}

impl Deref for AllCategories {
    type Target = [CategoryRules];

    #[inline]
    fn deref(&self) -> &[CategoryRules] {
        &self.all
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request};
    use proptest::{prelude::*, sample::select};

    use super::*;
    use crate::key::{self, ClientIp, PeerAddr};

    /// Watches all comparisons, as an explanation does.
    struct Watching;

    impl Trace for Watching {
        fn watches_all(&self) -> bool {
            true
        }
    }

    /// The numbers of the closures that were called, in their order.
    type Calls = Arc<Mutex<Vec<usize>>>;

    /// What a matcher of a test is made of. A closure has a number, and says what it is to say.
    #[derive(Clone, Debug)]
    enum Made {
        Path(&'static str),
        Route(Vec<Method>, &'static str),
        Closure(usize, bool),
        Inside,
        Key,
    }

    const PATTERNS: [&str; 40] = [
        "/",
        "/a",
        "/a/",
        "/b",
        "/{x}",
        "/{x}/",
        "/a/b",
        "/a/b/",
        "/a/{x}",
        "/a/{x}/",
        "/a/{y}",
        "/b/{x}",
        "/{x}/b",
        "/{x}/{y}",
        "/a/{x}/b",
        "/a/b/{x}",
        "/{x}/b/{y}",
        "/{x}/{y}/{z}",
        "/a/a{x}",
        "/a/ab{x}",
        "/a{x}",
        "/a{x}/b",
        "/a/{x}/{*rest}",
        "/a/{*rest}",
        "/a/b/{*rest}",
        "/a/b{*rest}",
        "/a{*rest}",
        "/{*rest}",
        "/{x}/{*rest}",
        "/{x}/b/{*rest}",
        "/%61",
        "/%61/b",
        "/a%2Fb",
        "/a%2fb/{x}",
        "/é",
        "/%C3%A9",
        "/a%2{x}",
        "/a/%6{*rest}",
        "/.",
        "/a/../b",
    ];
    const PARTS: [&str; 24] = [
        "/", "/", "/", "/", "/", "//", "/./", "/../", "a", "a", "a", "b", "b", "ab", "%61", "%62",
        "%2F", "%2f", "%2", "%", "%2e", "\\", "é", "*",
    ];
    const METHODS: [Method; 5] =
        [Method::GET, Method::POST, Method::HEAD, Method::CONNECT, Method::PUT];

    fn made() -> impl Strategy<Value = Made> {
        let methods = || prop::collection::vec(select(&METHODS[..]), 1..3);
        prop_oneof![
            4 => select(&PATTERNS[..]).prop_map(Made::Path),
            8 => (methods(), select(&PATTERNS[..])).prop_map(|(methods, path)| Made::Route(methods, path)),
            1 => (0_usize..1_000, prop::bool::weighted(0.2)).prop_map(|(number, says)| Made::Closure(number, says)),
            1 => prop_oneof![Just(Made::Inside), Just(Made::Key)],
        ]
    }

    fn matcher(made: &Made, calls: &Calls) -> Matcher {
        match made.clone() {
            Made::Path(path) => Matcher::path(path),
            Made::Route(methods, path) => Matcher::methods(methods, path),
            Made::Closure(number, says) => {
                let calls = Arc::clone(calls);
                Matcher::from_fn(move |_| {
                    calls.lock().unwrap().push(number);
                    says
                })
            }
            Made::Inside => Matcher::client_ip(ClientIp::new(), ["10.0.0.0/8"]),
            Made::Key => Matcher::key(key::header("x-key"), ["internal"]),
        }
    }

    /// Each category compared with the request, one after another.
    fn linear(all: &AllCategories, request: &Parts) -> (Categories, Option<Arc<str>>) {
        let path = SentPath::from_request(request);
        let as_sent = |matcher: &Matcher| matcher.matches_as_sent(request, &path);
        let in_any = |matcher: &Matcher| matcher.may_match(request, &path);
        let first = all.iter().position(|category| category.matchers.iter().any(as_sent));
        let first = first.map(|index| index as u32);
        let mut categories = Categories { first, others: Vec::new() };
        if !path.is_plain() {
            let any = (0..).zip(all.iter());
            let mut any = any.filter(|(_, category)| category.matchers.iter().any(in_any));
            let others: Vec<u32> = match path.is_ambiguous() || path.text.ends_with('/') {
                true => any.map(|(index, _)| index).collect(),
                false => any.next().map(|(index, _)| index).into_iter().collect(),
            };
            categories.first = first.or(others.first().copied());
            categories.others = others;
            categories.others.retain(|index| Some(*index) != categories.first);
        }
        let mut matchers = all.iter().flat_map(|category| &category.matchers);
        let again = matchers.clone();
        let found = matchers.find(|matcher| as_sent(matcher));
        let found = found.or_else(|| again.into_iter().find(|matcher| in_any(matcher)));
        (categories, found.map(Matcher::in_words).map(Into::into))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// The index finds the same as each category one after another, and calls the same closures.
        #[test]
        fn the_index_changes_no_category(
            made in prop::collection::vec(prop::collection::vec(made(), 0..3), 0..40),
            paths in prop::collection::vec(prop::collection::vec(select(&PARTS[..]), 0..8), 20),
            methods in prop::collection::vec(select(&METHODS[..]), 20),
            seed: u64,
        ) {
            let calls = Calls::default();
            let category = |made: &Vec<Made>| CategoryRules {
                name: "c".to_owned(),
                matchers: made.iter().map(|made| matcher(made, &calls)).collect(),
                hold: Duration::ZERO,
                rules: 0..0,
            };
            let all = AllCategories::new(made.iter().map(category).collect());
            for (bit, (parts, method)) in paths.iter().zip(&methods).enumerate() {
                let path = format!("/{}", parts.concat());
                let mut request = Request::builder().method(method).uri(&path);
                if path == "/*" && seed & 1 == 1 {
                    request = request.uri("*");
                }
                if seed >> bit & 3 == 0 {
                    request = request.extension(PeerAddr(([10, 0, 0, 1], 80).into()));
                }
                if seed >> bit & 6 == 0 {
                    request = request.header("x-key", "internal");
                }
                let Ok(request) = request.body(()) else { continue };
                let request = request.into_parts().0;
                let path = SentPath::from_request(&request);
                let (expected, matched) = linear(&all, &request);
                let called = std::mem::take(&mut *calls.lock().unwrap());
                let by_index = all.of(&request, &path, &mut ());
                let found = all.matcher_of(&request).map(|matcher| matcher.in_words().into());
                prop_assert_eq!(&by_index, &expected, "{:?} {:?}", path, made);
                prop_assert_eq!(&found, &matched, "{:?} {:?}", path, made);
                prop_assert_eq!(std::mem::take(&mut *calls.lock().unwrap()), called);
                let explained = all.of(&request, &path, &mut Watching);
                prop_assert_eq!(&explained, &expected, "{:?} {:?}", path, made);
                calls.lock().unwrap().clear();
            }
        }
    }
}
