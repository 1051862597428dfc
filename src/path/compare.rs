//! Two patterns compared: does one match all that the other matches, and may a path match both?

use std::cmp::Ordering;

use super::pattern::Pattern;

/// Whether `all` certainly matches every path that `some` matches.
pub(crate) fn covers(all: &Pattern, some: &Pattern) -> bool {
    let depth = all.segments.len();
    let mut both = all.segments.iter().zip(&some.segments);
    let next = some.segments.get(depth).or(some.rest.as_ref());
    some.segments.len() >= depth
        && both.all(|(all, some)| all.covers(some))
        && match &all.rest {
            Some(rest) => {
                rest.is_any() || next.is_some_and(|next| next.literal.starts_with(&*rest.literal))
            }
            None => next.is_none() && (all.has_slash || !some.has_slash),
        }
}

/// Whether some plain path may match both patterns.
pub(crate) fn overlap(one: &Pattern, other: &Pattern) -> bool {
    let mut both = one.segments.iter().zip(&other.segments);
    both.all(|(one, other)| one.overlaps(other))
        && match one.segments.len().cmp(&other.segments.len()) {
            Ordering::Less => one.rest.is_some(),
            Ordering::Equal => true,
            Ordering::Greater => other.rest.is_some(),
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
            assert!(covers(&all_of, &some_of) && super::overlap(&all_of, &some_of), "{all} {some}");
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
            assert!(!covers(&all_of, &some_of), "{all} {some}");
        }
        let overlap = |one: &str, other: &str| {
            let (one, other) = parsed(one, other);
            super::overlap(&one, &other) && super::overlap(&other, &one)
        };
        assert!(!overlap("/v1/{id}", "/v2/{id}") && !overlap("/v1/{id}", "/v1/{id}/b"));
        assert!(!overlap("/v1/a{id}", "/v1/b{id}") && !overlap("/v1", "/v1/{id}"));
        assert!(overlap("/v1/{id}/", "/v1/{id}") && overlap("/{*rest}", "/v1/{id}"));
        assert!(overlap("/v1/{id}/{*rest}", "/v1/{id}") && overlap("/v1/a{id}", "/v1/{id}"));
        assert!(parsed("/{*rest}", "/").0.matches_all() && !parsed("/{a}", "/").0.matches_all());
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
        fn covers_and_overlap_hold_for_each_path(
            all in pattern(), some in pattern(), path in "(/[ab]{1,2}){0,3}/?",
        ) {
            let (all_of, some_of) = parsed(&all, &some);
            let sent = SentPath::new(&path);
            let (has_all, has_some) = (all_of.matches_as_sent(&sent), some_of.matches_as_sent(&sent));
            prop_assert!(!(covers(&all_of, &some_of) && has_some) || has_all, "{all} {some} {path}");
            prop_assert!(!(has_all && has_some) || super::overlap(&all_of, &some_of), "{all} {some} {path}");
        }
    }
}
