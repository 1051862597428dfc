//! What can be said of two patterns: whether one matches all that the other matches, and whether a
//! path may match both.

use std::cmp::Ordering;

use super::pattern::{Pattern, Segment};

impl Pattern {
    /// Whether it matches each path.
    pub(crate) fn is_of_all(&self) -> bool {
        self.segments.is_empty() && self.rest.as_ref().is_some_and(Segment::is_any)
    }

    /// Whether it is certain that it matches each path that `other` matches.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let all = self.segments.len();
        if other.segments.len() < all {
            return false;
        }
        if !self.segments.iter().zip(&other.segments).all(|(own, other)| own.covers(other)) {
            return false;
        }
        let next = other.segments.get(all).or(other.rest.as_ref());
        match &self.rest {
            Some(rest) => {
                rest.is_any() || next.is_some_and(|next| next.literal.starts_with(&*rest.literal))
            }
            None => next.is_none() && (self.has_slash || !other.has_slash),
        }
    }

    /// Whether there may be a plain path that both match.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        let mut both = self.segments.iter().zip(&other.segments);
        both.all(|(own, other)| own.overlaps(other))
            && match self.segments.len().cmp(&other.segments.len()) {
                Ordering::Less => self.rest.is_some(),
                Ordering::Equal => true,
                Ordering::Greater => other.rest.is_some(),
            }
    }
}

impl Segment {
    fn covers(&self, other: &Self) -> bool {
        match self.param {
            None => other.param.is_none() && self.literal == other.literal,
            // A parameter is some text.
            Some(_) => other
                .literal
                .strip_prefix(&*self.literal)
                .is_some_and(|more| other.param.is_some() || !more.is_empty()),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (&self.param, &other.param) {
            (None, None) => self.decoded == other.decoded,
            (Some(_), None) => other.decoded.starts_with(&self.decoded),
            (None, Some(_)) => self.decoded.starts_with(&other.decoded),
            (Some(_), Some(_)) => {
                self.decoded.starts_with(&other.decoded) || other.decoded.starts_with(&self.decoded)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::path::SentPath;

    fn parsed(all: &str, some: &str) -> (Pattern, Pattern) {
        (Pattern::parse(all).unwrap(), Pattern::parse(some).unwrap())
    }

    #[test]
    fn a_pattern_covers_what_is_narrower() {
        for (all, some) in [
            ("/", "/"),
            ("/v1/a", "/v1/a"),
            ("/v1/{id}", "/v1/a"),
            ("/v1/{id}", "/v1/{name}"),
            ("/v1/a-{id}", "/v1/a-b-{name}"),
            ("/v1/{*rest}", "/v1/a"),
            ("/v1/{*rest}", "/v1"),
            ("/v1/{*rest}", "/v1/"),
            ("/v1/{*rest}", "/v1/{id}/b"),
            ("/v1/{*rest}", "/v1/{*path}"),
            ("/{*rest}", "/"),
            ("/{*rest}", "/v1/{*path}"),
            ("/{a}/{*rest}", "/v1/b/{*path}"),
            ("/v1/a/", "/v1/a"),
        ] {
            let (all_of, some_of) = parsed(all, some);
            assert!(all_of.covers(&some_of) && all_of.overlaps(&some_of), "{all} {some}");
        }
        for (all, some) in [
            ("/v1/a", "/v1/b"),
            ("/v1/a", "/v1/{id}"),
            ("/v1/a", "/v1/a/"),
            ("/v1/{id}", "/v1/{*rest}"),
            ("/v1/{id}", "/v1/a/b"),
            ("/v1/{id}", "/v1/"),
            ("/v1/a-{id}", "/v1/a-"),
            ("/v1/a-{id}", "/v1/b"),
            ("/v1/{id}/{*rest}", "/v1"),
        ] {
            let (all_of, some_of) = parsed(all, some);
            assert!(!all_of.covers(&some_of), "{all} {some}");
        }
        let overlap = |one: &str, other: &str| {
            let (one, other) = parsed(one, other);
            one.overlaps(&other) && other.overlaps(&one)
        };
        assert!(!overlap("/v1/{id}", "/v2/{id}") && !overlap("/v1/{id}", "/v1/{id}/b"));
        assert!(!overlap("/v1/a{id}", "/v1/b{id}") && !overlap("/v1", "/v1/{id}"));
        assert!(overlap("/v1/{id}/", "/v1/{id}") && overlap("/{*rest}", "/v1/{id}"));
        assert!(overlap("/v1/{id}/{*rest}", "/v1/{id}") && overlap("/v1/a{id}", "/v1/{id}"));
        assert!(parsed("/{*rest}", "/").0.is_of_all() && !parsed("/{a}", "/").0.is_of_all());
    }

    fn pattern() -> impl Strategy<Value = String> {
        let segment = prop_oneof!["[ab]{1,2}", Just("{x}".to_owned()), Just("a{x}".to_owned())];
        let end = prop::option::of(prop_oneof![Just("/{*rest}"), Just("/a{*rest}"), Just("/")]);
        (prop::collection::vec(segment, 1..3), end)
            .prop_map(|(all, end)| format!("/{}{}", all.join("/"), end.unwrap_or_default()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn what_is_said_of_patterns_is_true_of_paths(
            all in pattern(), some in pattern(), path in "(/[ab]{1,2}){0,3}/?",
        ) {
            let (all_of, some_of) = parsed(&all, &some);
            let sent = SentPath::new(&path);
            let (has_all, has_some) = (all_of.matches_as_sent(&sent), some_of.matches_as_sent(&sent));
            prop_assert!(!(all_of.covers(&some_of) && has_some) || has_all, "{all} {some} {path}");
            prop_assert!(!(has_all && has_some) || all_of.overlaps(&some_of), "{all} {some} {path}");
        }
    }
}
