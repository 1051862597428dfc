//! Paths that stand for all that a pattern matches: [`examples`].

use super::{pattern::Pattern, request_path::SentPath, segment::Segment};

/// The most examples of one pattern.
const MAX: usize = 4_096;

/// Paths that `pattern` matches. For each plain path that it matches, one of them is of the same kind:
/// the same of `others` match it. `None` if there are too many kinds.
pub(crate) fn examples(pattern: &Pattern, others: &[&Pattern]) -> Option<Vec<String>> {
    let literals = || others.iter().chain([&pattern]).flat_map(|other| other.parts());
    let is_other = |text: &String| literals().all(|part| !part.literal.contains(&**text));
    let other = (7_u32..).map(|number| number.to_string()).find(is_other)?;
    let mut examples = Examples { pattern, other, found: Vec::new() };
    examples.extend("", 0, others)?;
    Some(examples.found)
}

struct Examples<'p> {
    pattern: &'p Pattern,
    /// A text that is part of no literal.
    other: String,
    found: Vec<String>,
}

impl Examples<'_> {
    /// Adds the examples that begin with `path`, which has `depth` segments. `others` match it so far.
    fn extend(&mut self, path: &str, depth: usize, others: &[&Pattern]) -> Option<()> {
        let Self { pattern, .. } = *self;
        let ends = depth >= pattern.segments.len();
        let is_whole = match &pattern.rest {
            None => ends,
            // `{*rest}` matches the empty text too.
            Some(rest) => ends && (depth > pattern.segments.len() || rest.is_any()),
        };
        if is_whole {
            self.add(path)?;
        }
        // Beyond the end of all others, deeper paths are of no other kind.
        let goes_on = |other: &&Pattern| other.segments.len() >= depth;
        let is_deeper = depth > pattern.segments.len() && !others.iter().any(goes_on);
        let Some(own) = pattern.part(depth).filter(|_| !is_deeper) else { return Some(()) };
        for text in self.texts(own, depth, others) {
            let may_match = |other: &&&Pattern| match other.part(depth) {
                Some(part) if depth > other.segments.len() => part.param.is_some(),
                Some(part) => part.may_match_text(&text),
                None => false,
            };
            let others: Vec<_> = others.iter().filter(may_match).copied().collect();
            self.extend(&format!("{path}/{text}"), depth.saturating_add(1), &others)?;
        }
        Some(())
    }

    fn add(&mut self, path: &str) -> Option<()> {
        let has_slash = self.pattern.has_slash && self.pattern.rest.is_none();
        let with_slash = (has_slash || path.is_empty()).then(|| format!("{path}/"));
        let example = (!path.is_empty()).then(|| path.to_owned());
        for example in example.into_iter().chain(with_slash) {
            // An empty parameter may match, but not at the end.
            if self.pattern.matches_as_sent(&SentPath::new(&example)) {
                self.found.push(example);
            }
        }
        (self.found.len() <= MAX).then_some(())
    }

    /// The next segments that `own` matches: one of each kind.
    fn texts(&self, own: &Segment, depth: usize, others: &[&Pattern]) -> Vec<String> {
        let is_rest_of_rest = depth > self.pattern.segments.len();
        let mut texts = Vec::new();
        let with_other = |part: &Segment| format!("{}{}", part.literal, self.other);
        let parts = others.iter().filter(|other| depth <= other.segments.len());
        for part in parts.filter_map(|other| other.part(depth)) {
            texts.push(part.literal.to_string());
            texts.extend(part.param.is_some().then(|| with_other(part)));
        }
        texts.push(if is_rest_of_rest { self.other.clone() } else { with_other(own) });
        texts.push(own.literal.to_string());
        texts.retain(|text| !text.is_empty() && (is_rest_of_rest || own.may_match_text(text)));
        texts.sort_unstable();
        texts.dedup();
        texts
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(pattern: &str, others: &[&str]) -> Vec<String> {
        let others: Vec<_> = others.iter().map(|other| Pattern::parse(other).unwrap()).collect();
        let others: Vec<_> = others.iter().collect();
        examples(&Pattern::parse(pattern).unwrap(), &others).unwrap()
    }

    #[test]
    fn there_is_an_example_of_each_kind() {
        assert_eq!(of("/a", &["/b"]), ["/a"]);
        assert_eq!(of("/", &[]), ["/"]);
        assert_eq!(of("/a/", &[]), ["/a", "/a/"]);
        assert_eq!(of("/a/{id}", &["/{x}/me", "/b/you"]), ["/a/7", "/a/me"]);
        assert_eq!(of("/a/{id}", &["/a/b7{x}"]), ["/a/8", "/a/b7", "/a/b78"]);
        assert_eq!(
            of("/a/{*rest}", &["/a/b/c"]),
            ["/a", "/a/7", "/a/b", "/a/b/7", "/a/b/c", "/a/b/c/7"]
        );
    }

    #[test]
    fn there_are_not_too_many() {
        let names: Vec<_> = (0..5_000).map(|number| format!("/{number}")).collect();
        let others: Vec<_> = names.iter().map(|name| Pattern::parse(name).unwrap()).collect();
        let all = Pattern::parse("/{*rest}").unwrap();
        assert_eq!(examples(&all, &others.iter().collect::<Vec<_>>()), None);
    }

    fn pattern() -> impl Strategy<Value = String> {
        let segment = prop_oneof!["[ab]{1,2}", Just("{x}".to_owned()), Just("a{x}".to_owned())];
        let end = prop::option::of(prop_oneof![Just("/{*rest}"), Just("/a{*rest}"), Just("/")]);
        (prop::collection::vec(segment, 1..4), end)
            .prop_map(|(all, end)| format!("/{}{}", all.join("/"), end.unwrap_or_default()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn each_plain_path_is_of_the_kind_of_an_example(
            own in pattern(),
            others in prop::collection::vec(pattern(), 0..5),
            paths in prop::collection::vec("(/[ab]{1,2}){1,5}", 20),
        ) {
            let parsed: Vec<_> = others.iter().map(|other| Pattern::parse(other).unwrap()).collect();
            let own_pattern = Pattern::parse(&own).unwrap();
            let found = examples(&own_pattern, &parsed.iter().collect::<Vec<_>>()).unwrap();
            let kind = |path: &str| -> Vec<bool> {
                let path = SentPath::new(path);
                parsed.iter().map(|other| other.matches_as_sent(&path)).collect()
            };
            let kinds: Vec<_> = found.iter().map(|path| kind(path)).collect();
            for example in &found {
                let path = SentPath::new(example);
                prop_assert!(own_pattern.matches_as_sent(&path), "{own}: {example}");
            }
            for path in paths {
                if own_pattern.matches_as_sent(&SentPath::new(&path)) {
                    prop_assert!(kinds.contains(&kind(&path)), "{own} {others:?}: {path} {found:?}");
                }
            }
        }
    }
}
