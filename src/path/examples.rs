//! Paths that stand for all that a pattern matches: [`ExamplePaths`].

use std::{collections::HashSet, ops::Bound};

use super::{
    pattern::Pattern, pattern_tree::PatternTree, request_path::SentPath, segment::Segment,
};

/// The most examples of one pattern.
const MAX: usize = 4_096;

/// The least number that may be the value of a parameter.
const FIRST_NUMBER: u32 = 7;

/// The most digits of a number that is searched for in literals.
const MAX_DIGITS: usize = 9;

/// Finds an example of each kind of path that a pattern matches. Paths are of one kind if the same patterns match
/// them.
pub(crate) struct ExamplePaths {
    tree: PatternTree,
    /// The numbers that are parts of literals.
    numbers: HashSet<u32>,
    /// The least number from `FIRST_NUMBER` on that is part of none.
    free: u32,
}

impl ExamplePaths {
    /// These patterns tell the kinds apart.
    pub(crate) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern> + Clone) -> Self {
        let literals = patterns.clone().into_iter().flat_map(Pattern::parts);
        let numbers: HashSet<_> = literals.flat_map(|part| numbers_in(&part.literal)).collect();
        let is_free = |number: &u32| !numbers.contains(number);
        let free = (FIRST_NUMBER..).find(is_free).unwrap_or(u32::MAX);
        Self { tree: PatternTree::new(patterns), numbers, free }
    }

    /// Paths that `pattern` matches. For each plain path that it matches, one of them is of the same kind.
    /// `None` if there are too many kinds.
    pub(crate) fn of(&self, pattern: &Pattern) -> Option<Vec<String>> {
        let own: HashSet<_> = pattern.parts().flat_map(|part| numbers_in(&part.literal)).collect();
        let is_free = |number: &u32| !self.numbers.contains(number) && !own.contains(number);
        let value = (self.free..).find(is_free)?.to_string();
        let mut search = Search { pattern, tree: &self.tree, value, found: Vec::new() };
        search.extend("", 0, &[PatternTree::ROOT])?;
        Some(search.found)
    }
}

/// All numbers of at most nine digits that are in the text, as parts of longer ones too.
fn numbers_in(text: &str) -> impl Iterator<Item = u32> {
    (0..text.len()).flat_map(move |start| {
        let digits = text.get(start..).unwrap_or_default().bytes();
        let digits = digits.take(MAX_DIGITS).take_while(u8::is_ascii_digit);
        digits.scan(0_u32, |number, digit| {
            let digit = u32::from(digit.saturating_sub(b'0'));
            *number = number.saturating_mul(10).saturating_add(digit);
            Some(*number)
        })
    })
}

/// The search for the examples of one pattern.
struct Search<'p> {
    pattern: &'p Pattern,
    tree: &'p PatternTree,
    /// A value of parameters that is part of no literal.
    value: String,
    found: Vec<String>,
}

impl Search<'_> {
    /// Adds the examples that begin with `path`, which has `depth` segments and leads to these nodes.
    fn extend(&mut self, path: &str, depth: usize, nodes: &[usize]) -> Option<()> {
        let Self { pattern, tree, .. } = *self;
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
        let is_deeper = depth > pattern.segments.len() && nodes.is_empty();
        let Some(own) = pattern.part(depth).filter(|_| !is_deeper) else { return Some(()) };
        for text in self.texts(own, depth, nodes) {
            let next = tree.step(nodes, &text);
            self.extend(&format!("{path}/{text}"), depth.saturating_add(1), &next)?;
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
    fn texts(&self, own: &Segment, depth: usize, nodes: &[usize]) -> Vec<String> {
        if own.param.is_none() {
            return vec![own.literal.to_string()];
        }
        // All that follows the first segment of `{*rest}` matches.
        let is_after_rest = depth > self.pattern.segments.len();
        let prefix = if is_after_rest { "" } else { &*own.literal };
        let mut texts = vec![own.literal.to_string(), format!("{prefix}{}", self.value)];
        for node in self.tree.nodes(nodes) {
            let literals =
                node.literals.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
            let literals = literals.map(|(literal, _)| literal.to_string());
            texts.extend(literals.take_while(|literal| literal.starts_with(prefix)));
            for before in node.params.keys().chain(&node.rests) {
                texts.extend([before.to_string(), format!("{before}{}", self.value)]);
            }
        }
        texts.retain(|text| !text.is_empty() && text.starts_with(prefix));
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
        ExamplePaths::new(&others).of(&Pattern::parse(pattern).unwrap()).unwrap()
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
        assert_eq!(ExamplePaths::new(&others).of(&all), None);
    }

    /// The same search, which compares each step with each of the other patterns.
    struct Naive<'p> {
        pattern: &'p Pattern,
        value: String,
        found: Vec<String>,
    }

    impl Naive<'_> {
        fn search(pattern: &Pattern, others: &[&Pattern]) -> Vec<String> {
            let literals = || others.iter().chain([&pattern]).flat_map(|other| other.parts());
            let is_free = |text: &String| literals().all(|part| !part.literal.contains(&**text));
            let value = (7_u32..).map(|number| number.to_string()).find(is_free).unwrap();
            let mut naive = Naive { pattern, value, found: Vec::new() };
            naive.extend("", 0, others);
            naive.found
        }

        fn extend(&mut self, path: &str, depth: usize, others: &[&Pattern]) {
            let Self { pattern, .. } = *self;
            let own_depth = pattern.segments.len();
            let may_end = |rest: &Segment| depth > own_depth || rest.is_any();
            if depth >= own_depth && pattern.rest.as_ref().is_none_or(may_end) {
                let ends_with_slash =
                    path.is_empty() || pattern.has_slash && pattern.rest.is_none();
                let slashes =
                    ["", "/"].into_iter().filter(|slash| slash.is_empty() || ends_with_slash);
                let found = slashes.map(|slash| format!("{path}{slash}"));
                let is_one = |path: &String| {
                    !path.is_empty() && pattern.matches_as_sent(&SentPath::new(path))
                };
                self.found.extend(found.filter(is_one));
            }
            let mut beyond = others.iter().filter(|other| other.segments.len() >= depth);
            let Some(own) = pattern.part(depth) else { return };
            if depth > own_depth && beyond.next().is_none() {
                return;
            }
            for text in self.texts(own, depth, others) {
                let may_match = |other: &&&Pattern| match other.part(depth) {
                    Some(_) if depth > other.segments.len() => true,
                    Some(part) => fits(part, &text),
                    None => false,
                };
                let others: Vec<_> = others.iter().filter(may_match).copied().collect();
                self.extend(&format!("{path}/{text}"), depth + 1, &others);
            }
        }

        fn texts(&self, own: &Segment, depth: usize, others: &[&Pattern]) -> Vec<String> {
            let is_after_rest = depth > self.pattern.segments.len();
            let others = others.iter().filter(|other| depth <= other.segments.len());
            let parts: Vec<_> = others.filter_map(|other| other.part(depth)).collect();
            let with_params = parts.iter().copied().filter(|part| part.param.is_some());
            let with_value = |part: &Segment| format!("{}{}", part.literal, self.value);
            let mut texts: Vec<_> = with_params.map(with_value).collect();
            texts.extend(parts.iter().chain([&own]).map(|part| part.literal.to_string()));
            texts.push(if is_after_rest { self.value.clone() } else { with_value(own) });
            texts.retain(|text| !text.is_empty() && (is_after_rest || fits(own, text)));
            texts.sort_unstable();
            texts.dedup();
            texts
        }
    }

    fn fits(part: &Segment, text: &str) -> bool {
        match part.param {
            None => *text == *part.literal,
            Some(_) => text.starts_with(&*part.literal),
        }
    }

    fn pattern() -> impl Strategy<Value = String> {
        let segment = prop_oneof![
            "[ab7]{1,2}",
            Just("{x}".to_owned()),
            Just("a{x}".to_owned()),
            Just("ab{x}".to_owned()),
        ];
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
            let found = ExamplePaths::new(&parsed).of(&own_pattern).unwrap();
            prop_assert_eq!(&found, &Naive::search(&own_pattern, &parsed.iter().collect::<Vec<_>>()));
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
