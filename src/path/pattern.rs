//! Patterns of paths, in axum's syntax: [`Pattern`].

use super::{
    automaton::{MAX_SEGMENTS, States},
    request_path::{DecodedSegment, SentPath},
    segment::Segment,
};

/// A path in axum's syntax, such as `/users/{id}` or `/files/{*path}`.
#[derive(Debug)]
pub(crate) struct Pattern {
    /// The text before the first parameter, which is compared first as most patterns differ in it.
    /// Empty if all paths match.
    head: Box<str>,
    /// The number of segments before the one with the first parameter.
    in_head: usize,
    pub(super) segments: Vec<Segment>,
    /// `{*rest}`, at the end.
    pub(super) rest: Option<Segment>,
    /// Whether it ends with a slash.
    pub(super) has_slash: bool,
}

/// The value of a pattern's parameter in a path.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Param<'a> {
    /// The value as it was sent, percent-encoded.
    AsSent(&'a str),
    /// The decoded value, on which all readings agree.
    Decoded(Vec<u8>),
    /// The pattern does not match.
    Missing,
    /// Routers read different values.
    Ambiguous,
}

impl Pattern {
    /// # Errors
    /// What is wrong with the pattern, and what to write instead.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let Some(path) = text.strip_prefix('/') else {
            return Err(format!("the path `{text}` does not begin with a slash; write `/{text}`"));
        };
        if text.contains("//") {
            let merged = text.split('/').filter(|segment| !segment.is_empty());
            let merged = merged.collect::<Vec<_>>().join("/");
            return Err(format!(
                "the path `{text}` has an empty segment; write `/{merged}`, which matches it too"
            ));
        }
        let (path, has_slash) = match path.strip_suffix('/') {
            Some(path) => (path, true),
            None => (path, path.is_empty()),
        };
        let mut pattern =
            Self { head: "".into(), in_head: 0, segments: Vec::new(), rest: None, has_slash };
        for segment in path.split('/').filter(|segment| !segment.is_empty()) {
            if pattern.rest.is_some() {
                let problem = "`{*rest}` matches all that follows";
                return Err(format!("the path `{text}` goes on after {problem}; end it there"));
            }
            let (segment, is_rest) = Segment::parse(segment)
                .map_err(|problem| format!("the path `{text}` {problem}"))?;
            match is_rest {
                true => pattern.rest = Some(segment),
                false => pattern.segments.push(segment),
            }
        }
        if pattern.rest.is_some() && has_slash {
            let path = text.trim_end_matches('/');
            return Err(format!("the path `{text}` ends with a slash; write `{path}`"));
        }
        if pattern.segments.len() > MAX_SEGMENTS {
            let problem = format!("has more than {MAX_SEGMENTS} segments; write a shorter one");
            return Err(format!("the path `{text}` {problem}"));
        }
        pattern.set_head();
        Ok(pattern)
    }

    fn set_head(&mut self) {
        let is_literal = |segment: &&Segment| segment.param.is_none();
        self.in_head = self.segments.iter().take_while(is_literal).count();
        let after = self.segments.get(self.in_head).or(self.rest.as_ref());
        let literals = self.segments.iter().take(self.in_head).chain(after);
        let mut head: String = literals.flat_map(|segment| ["/", &*segment.literal]).collect();
        if after.is_none() && self.has_slash {
            head.push('/');
        }
        self.head = if self.matches_all() { "".into() } else { head.into() };
    }

    /// Whether it matches every path.
    pub(crate) fn matches_all(&self) -> bool {
        self.segments.is_empty() && self.rest.as_ref().is_some_and(Segment::is_any)
    }

    /// Whether a path may lack the slash that the head ends with.
    fn may_end_before_slash(&self) -> bool {
        let is_any = self.rest.as_ref().is_none_or(Segment::is_any);
        self.in_head == self.segments.len() && is_any && self.head.len() > 1
    }

    pub(crate) fn has_param(&self, name: &str) -> bool {
        self.segments.iter().chain(&self.rest).any(|segment| segment.is_param(name))
    }

    /// The segments, and then `{*rest}`.
    #[cfg(feature = "describe")]
    pub(super) fn parts(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().chain(&self.rest)
    }

    /// What matches the segment of a path at `index`.
    #[cfg(feature = "describe")]
    pub(super) fn part(&self, index: usize) -> Option<&Segment> {
        self.segments.get(index).or(self.rest.as_ref())
    }

    /// Whether it matches the path as it was sent, as axum would match it.
    #[inline]
    pub(crate) fn matches_as_sent(&self, path: &SentPath<'_>) -> bool {
        self.walk(path.text, |_, _| {})
    }

    /// Whether it matches the path in any of its readings.
    pub(crate) fn matches(&self, path: &SentPath<'_>) -> bool {
        let mut readings = path.odd.iter().flat_map(|odd| &odd.readings);
        self.matches_as_sent(path) || readings.any(|segments| self.accepts(States::START, segments))
    }

    /// The value of the parameter `name`.
    ///
    /// An encoded slash is part of its segment. If routers split the path in different ways, the value
    /// counts only if it is the same in all of them.
    pub(crate) fn param<'a>(&self, path: &SentPath<'a>, name: &str) -> Param<'a> {
        if !path.is_loose() {
            let mut value = None;
            let matches = self.walk(path.text, |segment, text| {
                if segment.is_param(name) {
                    value = Some(text);
                }
            });
            if let (true, Some(value)) = (matches, value) {
                return Param::AsSent(value);
            }
        }
        if path.is_plain() { Param::Missing } else { self.param_of_odd(path, name) }
    }

    #[cold]
    fn param_of_odd<'a>(&self, path: &SentPath<'a>, name: &str) -> Param<'a> {
        let Some(index) = self.segments.iter().position(|segment| segment.is_param(name)) else {
            // `{*rest}` or no parameter at all: the readings may differ.
            return if self.matches(path) { Param::Ambiguous } else { Param::Missing };
        };
        let readings = path.odd.iter().flat_map(|odd| &odd.readings);
        let mut values = readings.flat_map(|segments| self.values(index, segments));
        match values.next() {
            None => Param::Missing,
            Some(value) if values.all(|other| other == value) => Param::Decoded(value.to_owned()),
            Some(_) => Param::Ambiguous,
        }
    }

    /// The values that the parameter of the segment at `index` may have in one reading.
    #[expect(clippy::indexing_slicing, reason = "the parameter is one of the segments")]
    fn values<'s>(&self, index: usize, segments: &'s [DecodedSegment]) -> Vec<&'s [u8]> {
        let (mut states, mut values) = (States::START, Vec::new());
        let (param, mut left) = (&self.segments[index], segments);
        while let [segment, after @ ..] = left {
            left = after;
            let value = segment.strip_prefix(&*param.decoded);
            if let Some(value) = value.filter(|_| states.contains(index))
                && self.accepts(States::after(index), after)
            {
                values.push(value);
            }
            states = states.step(&self.segments, segment);
            if states.is_empty() {
                break;
            }
        }
        values
    }

    /// Whether the path matches as it was sent. Calls `on_param` with each parameter and its value.
    ///
    /// Unlike in axum's `route`, `{*rest}` also matches the empty text: a router nested at `/files`
    /// answers `/files` and `/files/` too. For the same reason, a path may lack the pattern's last
    /// slash: an inner router may add it.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "the head is of the first segments")]
    fn walk<'a>(&self, path: &'a str, mut on_param: impl FnMut(&Segment, &'a str)) -> bool {
        let Some(text) = path.strip_prefix(&*self.head) else {
            if path.len().saturating_add(1) != self.head.len() || !self.may_end_before_slash() {
                return false;
            }
            let ends = self.head.strip_suffix('/') == Some(path);
            if let (true, Some(rest)) = (ends, &self.rest) {
                on_param(rest, "");
            }
            return ends;
        };
        if self.in_head == self.segments.len() {
            return match &self.rest {
                None => text.is_empty(),
                Some(rest) => {
                    let is_all = self.head.is_empty();
                    on_param(rest, text.strip_prefix('/').filter(|_| is_all).unwrap_or(text));
                    true
                }
            };
        }
        let (mut left, mut is_first) = (Some(text), true);
        for segment in &self.segments[self.in_head..] {
            let literal = if is_first { "" } else { &*segment.literal };
            is_first = false;
            let Some(text) = left.and_then(|left| left.strip_prefix(literal)) else {
                return false;
            };
            let end = match segment.param {
                None => 0,
                Some(_) => text.bytes().position(|byte| byte == b'/').unwrap_or(text.len()),
            };
            let (value, after) = text.split_at(end);
            left = match after.strip_prefix('/') {
                Some(after) => Some(after),
                None if after.is_empty() => None,
                None => return false,
            };
            if segment.param.is_some() {
                if value.is_empty() && left.is_none() {
                    return false;
                }
                on_param(segment, value);
            }
        }
        match &self.rest {
            None => left.is_none_or(|left| self.has_slash && left.is_empty()),
            Some(rest) => match left.unwrap_or_default().strip_prefix(&*rest.literal) {
                Some(value) => {
                    on_param(rest, value);
                    true
                }
                None => false,
            },
        }
    }

    /// Whether `segments` lead from one of `states` to the end of the pattern.
    fn accepts(&self, mut states: States, segments: &[DecodedSegment]) -> bool {
        let all = self.segments.len();
        for segment in segments {
            if let Some(rest) = self.rest.as_ref().filter(|_| states.contains(all))
                && segment.starts_with(&rest.decoded)
            {
                return true;
            }
            if states.is_empty() {
                return false;
            }
            states = states.step(&self.segments, segment);
        }
        states.contains(all) && self.rest.as_ref().is_none_or(Segment::is_any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    #[test]
    fn plain_paths_match_as_they_were_sent() {
        for (text, matching, others) in [
            ("/", &["/"][..], &["/a"][..]),
            ("/a/b", &["/a/b"], &["/a", "/a/b/c", "/a/bc", "/A/b", "/ab", "/"]),
            ("/a/", &["/a/", "/a"], &["/a/b", "/"]),
            ("/a/{x}", &["/a/b", "/a/b.c"], &["/a", "/a/b/c", "/b/b"]),
            ("/a-{x}/b", &["/a-1/b"], &["/a-/bc", "/a/b"]),
            ("/a/{*rest}", &["/a/b", "/a/b/c", "/a"], &["/b", "/", "/ab"]),
            ("/{*rest}", &["/", "/a", "/a/b"], &[]),
            ("/{{a}}", &["/{a}"], &["/a"]),
        ] {
            for path in matching {
                assert!(pattern(text).matches_as_sent(&SentPath::new(path)), "{text} {path}");
            }
            for path in others {
                assert!(!pattern(text).matches(&SentPath::new(path)), "{text} {path}");
            }
        }
    }

    #[test]
    fn a_path_with_one_slash_more_does_not_match_as_it_was_sent() {
        for (text, path) in [("/a/{x}", "/a/b/"), ("/a/{x}/", "/a/b//"), ("/a", "/a/")] {
            assert!(!pattern(text).matches_as_sent(&SentPath::new(path)), "{text} {path}");
        }
    }

    #[test]
    fn odd_paths_match_in_any_reading() {
        for (text, path) in [
            ("/v1/auth/sign-in", "/v1/auth//sign-in"),
            ("/v1/auth/sign-in", "//v1/auth/sign-in"),
            ("/v1/auth/sign-in", "/v1/auth/sign-in/"),
            ("/v1/auth/sign-in", "/v1/%61uth/sign%2Din"),
            ("/v1/auth/sign-in", "/v1/auth%2Fsign-in"),
            ("/v1/auth/sign-in", "/v1/./auth/x/../sign-in"),
            ("/v1/auth/sign-in", "/v1/auth/x/%2e%2e/sign-in"),
            ("/v1/auth/sign-in", "/v1/auth/x%2F..%2Fsign-in"),
            ("/v1/auth/sign-in", "/v1\\auth\\sign-in"),
            ("/v1/auth/sign-in/", "/v1/auth/sign-in"),
            ("/v1/{a}/x", "/v1///x"),
            ("/v1/{a}/{b}/x", "/v1//1///x"),
            ("/v1/{*rest}", "/v1/"),
            ("/v1/{*rest}", "/v1//"),
            ("/{*rest}", "*"),
            ("/{*rest}", ""),
            ("/caf%C3%A9", "/caf%c3%a9"),
            ("/caf%C3%A9", "/café"),
        ] {
            assert!(pattern(text).matches(&SentPath::new(path)), "{text} {path}");
        }
        for (text, path) in [
            ("/v1/auth", "/v1/auth%252F"),
            ("/v1/{id}", "/v1/"),
            ("/{id}", "*"),
            ("/", ""),
            ("/v1/auth", "/V1/%41uth"),
        ] {
            assert!(!pattern(text).matches(&SentPath::new(path)), "{text} {path}");
        }
    }

    #[test]
    fn a_parameter_is_found_where_all_routers_agree() {
        let decoded = |value: &str| Param::Decoded(value.as_bytes().to_vec());
        let tenant = |path| pattern("/v1/{tenant}/{*rest}").param(&SentPath::new(path), "tenant");
        for (path, value) in [
            ("/v1/a/b", Param::AsSent("a")),
            ("/v1/a%62c/b", Param::AsSent("a%62c")),
            ("/v1/a%2Fb/c", Param::AsSent("a%2Fb")),
            ("/v1/a", Param::AsSent("a")),
            ("/v1/a/b/", Param::AsSent("a")),
            ("/v1/a/b//c", decoded("a")),
            ("/v1/a/./c", decoded("a")),
            ("/%761/a/b", decoded("a")),
            ("/v1//a/b", Param::Ambiguous),
            ("/v1/fake/../real/x", Param::Ambiguous),
            ("/v1/fake%2F..%2Freal/x", Param::Ambiguous),
            ("/v1/a%2F/b", Param::Ambiguous),
            ("/v1/%2Fa/b", Param::Ambiguous),
            ("/v2/a/b", Param::Missing),
            ("/v2//a/b", Param::Missing),
            ("*", Param::Missing),
        ] {
            assert_eq!(tenant(path), value, "{path}");
        }
        let rest = |path| pattern("/files/{*path}").param(&SentPath::new(path), "path");
        assert_eq!(rest("/files/a%20b/c"), Param::AsSent("a%20b/c"));
        assert_eq!(rest("/files/a/../c"), Param::Ambiguous);
        assert_eq!(rest("/folders/a"), Param::Missing);
    }

    #[test]
    fn errors_say_what_to_write() {
        for (text, problem) in [
            ("users", "the path `users` does not begin with a slash; write `/users`"),
            (
                "/users/:id",
                "the path `/users/:id` has `:id`, which matches only itself; write `{id}`",
            ),
            (
                "/users/*rest",
                "the path `/users/*rest` has `*rest`, which matches only itself; write `{*rest}`",
            ),
            ("/users/*", "the path `/users/*` has `*`, which matches only itself; write `{*rest}`"),
            (
                "/users/{id",
                "the path `/users/{id` has `{id`, which does not parse; write one like `{id}` or `{*path}`",
            ),
            (
                "/users/{}",
                "the path `/users/{}` has `{}`, which does not parse; write one like `{id}` or `{*path}`",
            ),
            (
                "/users/{id}.json",
                "the path `/users/{id}.json` has `{id}.json`, which does not parse; write one like `{id}` or `{*path}`",
            ),
            (
                "/users//{id}",
                "the path `/users//{id}` has an empty segment; write `/users/{id}`, which matches it too",
            ),
            (
                "/{*rest}/users",
                "the path `/{*rest}/users` goes on after `{*rest}` matches all that follows; end it there",
            ),
            ("/{*rest}/", "the path `/{*rest}/` ends with a slash; write `/{*rest}`"),
            (
                "/users?page=1",
                "the path `/users?page=1` has `?`: a path ends before it; leave it and what follows out",
            ),
        ] {
            assert_eq!(Pattern::parse(text).unwrap_err(), problem);
        }
        let long = "/a".repeat(MAX_SEGMENTS + 1);
        assert!(Pattern::parse(&long).unwrap_err().ends_with("write a shorter one"));
        assert!(Pattern::parse(&long[2..]).is_ok());
    }
}
