//! Which of many patterns a path may match: [`PatternIndex`].

use std::collections::HashMap;

use ahash::RandomState;
use smallvec::SmallVec;

use super::{
    pattern::Pattern,
    request_path::{DecodedSegment, Odd, SentPath},
    segment::Segment,
};

/// The numbers of patterns, in ascending order.
pub(crate) type Numbers = SmallVec<[u32; 8]>;

/// With this many patterns or fewer, it is quicker to compare a path with each of them.
const FEW: usize = 6;

/// Finds the patterns that a path may match, however many there are.
///
/// It is a tree of the patterns' decoded segments. It finds every pattern that some reading of the path
/// matches, and may find others: [`Pattern`] decides. So a search that compares the path with the found
/// patterns, in their order, has the same result as one that compares it with all.
///
/// axum's router, from the crate `matchit`, does not fit: it finds only the most specific route, and does not
/// accept two like `/v1/{id}` and `/v1/{*rest}`. Here the first pattern counts, whatever others there are,
/// and a path may have several readings.
#[derive(Debug)]
pub(crate) struct PatternIndex {
    /// The first one is the root.
    nodes: Vec<Node>,
    /// Patterns that may match any path.
    always: Numbers,
}

/// What may follow some segments.
#[derive(Debug, Default)]
struct Node {
    /// By segments without a parameter.
    literals: Children,
    /// By what comes before the parameter of a segment.
    params: Prefixes,
    /// By what comes before `{*rest}`.
    rests: Prefixes,
    /// The patterns that end here.
    ends: Numbers,
}

/// Nodes by a text.
#[derive(Debug)]
enum Children {
    /// Compared one after another.
    Few(Vec<(Box<[u8]>, usize)>),
    Many(HashMap<Box<[u8]>, usize, RandomState>),
}

/// Nodes by what a segment begins with.
#[derive(Debug, Default)]
struct Prefixes {
    /// The node of the empty text.
    any: Option<usize>,
    /// The others by the length of their text.
    longer: Vec<(usize, Children)>,
}

const ROOT: usize = 0;

impl PatternIndex {
    /// An index of these patterns. A pattern that is `None` may match any path. Returns `None` if there are so
    /// few patterns that an index is not quicker.
    pub(crate) fn new<'p>(
        patterns: impl Iterator<Item = Option<&'p Pattern>> + Clone,
    ) -> Option<Self> {
        (patterns.clone().flatten().nth(FEW).is_some()).then(|| Self::of(patterns))
    }

    fn of<'p>(patterns: impl Iterator<Item = Option<&'p Pattern>>) -> Self {
        let mut index = Self { nodes: vec![Node::default()], always: Numbers::new() };
        for (number, pattern) in (0..).zip(patterns) {
            match pattern.filter(|pattern| !pattern.segments.iter().chain(&pattern.rest).any(cuts))
            {
                Some(pattern) => index.insert(pattern, number),
                None => index.always.push(number),
            }
        }
        index
    }

    #[expect(clippy::indexing_slicing, reason = "each node is there before its number is given")]
    fn insert(&mut self, pattern: &Pattern, number: u32) {
        let mut at = ROOT;
        let rest = pattern.rest.iter().map(|rest| (rest, true));
        for (segment, is_rest) in pattern.segments.iter().map(|own| (own, false)).chain(rest) {
            let next = self.nodes.len();
            let Node { literals, params, rests, .. } = &mut self.nodes[at];
            at = match (&segment.param, is_rest) {
                (None, _) => literals.get_or_insert(&segment.decoded, next),
                (Some(_), false) => params.get_or_insert(&segment.decoded, next),
                (Some(_), true) => rests.get_or_insert(&segment.decoded, next),
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        self.nodes[at].ends.push(number);
    }

    /// The patterns that may match the path, as it was sent or in any of its readings.
    #[inline]
    pub(crate) fn find(&self, path: &SentPath<'_>) -> Numbers {
        let mut found = self.always.clone();
        match (&path.odd, path.text) {
            (None, "/") => self.descend(ROOT, None, &mut found),
            (None, text) => self.descend(ROOT, text.strip_prefix('/'), &mut found),
            (Some(odd), _) => self.find_odd(odd, &mut found),
        }
        if found.len() > 1 {
            found.sort_unstable();
            found.dedup();
        }
        found
    }

    /// Adds the patterns that may match the rest of a plain path, of which each segment is one of the
    /// patterns' segments. Of a tree, no node is reached twice.
    fn descend(&self, node: usize, path: Option<&str>, found: &mut Numbers) {
        let Some(node) = self.nodes.get(node) else { return };
        let Some(path) = path else { return self.end(node, found) };
        let (segment, rest) = match path.split_once('/') {
            Some((segment, rest)) => (segment.as_bytes(), Some(rest)),
            None => (path.as_bytes(), None),
        };
        node.rests.find(segment, |rest| self.add(rest, found));
        node.params.find(segment, |param| self.descend(param, rest, found));
        if let Some(literal) = node.literals.get(segment) {
            self.descend(literal, rest, found);
        }
    }

    /// Adds the patterns that may match an odd path.
    #[cold]
    #[inline(never)]
    fn find_odd(&self, odd: &Odd, found: &mut Numbers) {
        // The first reading matches where the path as it was sent does.
        for reading in &odd.readings {
            self.walk(reading, found);
        }
        // A target without a path.
        if odd.readings.is_empty() {
            self.walk(&[], found);
        }
    }

    /// Adds the patterns that may match these segments. As in [`States`](super::automaton::States), an
    /// empty segment is either merged with its neighbour or matched, and both are tried: side by side,
    /// as one after another might take for ever.
    fn walk(&self, segments: &[DecodedSegment], found: &mut Numbers) {
        let mut at = vec![ROOT];
        for segment in segments {
            let mut next = Vec::new();
            for node in at.iter().flat_map(|at| self.nodes.get(*at)) {
                node.rests.find(segment, |rest| self.add(rest, found));
                node.params.find(segment, |param| next.push(param));
                next.extend(node.literals.get(segment));
            }
            if segment.is_empty() {
                next.extend(at);
                next.sort_unstable();
                next.dedup();
            }
            if next.is_empty() {
                return;
            }
            at = next;
        }
        at.iter().flat_map(|at| self.nodes.get(*at)).for_each(|node| self.end(node, found));
    }

    /// Adds the patterns that end at this node. `{*rest}` matches the empty text too.
    fn end(&self, node: &Node, found: &mut Numbers) {
        found.extend_from_slice(&node.ends);
        node.rests.any.into_iter().for_each(|rest| self.add(rest, found));
    }

    fn add(&self, node: usize, found: &mut Numbers) {
        found.extend_from_slice(self.nodes.get(node).map_or(&[], |node| &node.ends));
    }
}

/// Whether the text before a parameter may end within an encoded byte, so that it is decoded only with
/// the text that follows.
fn cuts(segment: &Segment) -> bool {
    segment.param.is_some() && segment.literal.contains('%')
}

impl Children {
    /// More than that are quicker to find by their hash.
    const FEW: usize = 4;

    #[inline]
    fn get(&self, text: &[u8]) -> Option<usize> {
        match self {
            Self::Few(all) => all.iter().find(|(known, _)| **known == *text).map(|(_, node)| *node),
            Self::Many(all) => all.get(text).copied(),
        }
    }

    /// The node of a text, which is `next` if it has none yet.
    fn get_or_insert(&mut self, text: &[u8], next: usize) -> usize {
        let known = self.get(text);
        if let (None, Self::Few(all)) = (known, &mut *self)
            && all.len() == Self::FEW
        {
            // No caller chooses the texts, so the seeds need not be secret.
            let mut many = HashMap::with_hasher(RandomState::with_seeds(1, 2, 3, 4));
            many.extend(all.drain(..));
            *self = Self::Many(many);
        }
        match (known, self) {
            (Some(known), _) => return known,
            (None, Self::Few(all)) => all.push((text.into(), next)),
            (None, Self::Many(all)) => drop(all.insert(text.into(), next)),
        }
        next
    }
}

impl Default for Children {
    fn default() -> Self {
        Self::Few(Vec::new())
    }
}

impl Prefixes {
    /// The node of a text, which is `next` if it has none yet.
    fn get_or_insert(&mut self, text: &[u8], next: usize) -> usize {
        if text.is_empty() {
            return *self.any.get_or_insert(next);
        }
        if let Some((_, known)) = self.longer.iter_mut().find(|(length, _)| *length == text.len()) {
            return known.get_or_insert(text, next);
        }
        self.longer.push((text.len(), Children::Few(vec![(text.into(), next)])));
        next
    }

    /// The nodes by texts with which the segment begins.
    #[inline]
    fn find(&self, segment: &[u8], mut found: impl FnMut(usize)) {
        self.any.into_iter().for_each(&mut found);
        for (length, children) in &self.longer {
            let node = segment.get(..*length).and_then(|text| children.get(text));
            node.into_iter().for_each(&mut found);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prelude::*, sample::select};

    use super::*;

    fn found(patterns: &[&str], path: &str) -> Vec<u32> {
        let parsed: Vec<_> = patterns.iter().map(|text| Pattern::parse(text).unwrap()).collect();
        PatternIndex::of(parsed.iter().map(Some)).find(&SentPath::new(path)).into_vec()
    }

    #[test]
    fn what_cannot_match_is_left_out() {
        let patterns = [
            "/v1/users/{id}",
            "/v1/users/me",
            "/v1/{*rest}",
            "/v1/users/m{rest}",
            "/v2/users/{id}",
            "/{*rest}",
            "/",
            "/v1/users/{id}/posts",
            "/v1/users/",
            "/v1/us{*rest}",
        ];
        for (path, expected) in [
            ("/v1/users/me", &[0, 1, 2, 3, 5, 9][..]),
            ("/v1/users/7", &[0, 2, 5, 9]),
            ("/v1/users", &[2, 5, 8, 9]),
            ("/v1", &[2, 5]),
            ("/v3", &[5]),
            ("/", &[5, 6]),
            ("*", &[5, 6]),
            ("/v1/users/", &[2, 5, 8, 9]),
            ("/v2/%75sers//7", &[4, 5]),
            ("/v1/users/7/./posts", &[2, 5, 7, 9]),
        ] {
            assert_eq!(found(&patterns, path), expected, "{path}");
        }
    }

    #[test]
    fn a_text_before_a_parameter_may_end_within_an_encoded_byte() {
        assert_eq!(found(&["/a%2{x}", "/b{x}"], "/a%20b"), [0]);
        assert_eq!(found(&["/a%2{x}", "/b{x}"], "/b"), [0, 1], "it is found for each path");
    }

    #[test]
    fn a_flood_of_slashes_takes_no_longer_than_it_is() {
        let deep: Vec<_> = (1..60).map(|depth| "/{x}".repeat(depth)).collect();
        let patterns: Vec<_> = deep.iter().map(|pattern| &**pattern).collect();
        let path = format!("/{}a", "/".repeat(60_000));
        assert_eq!(found(&patterns, &path).len(), patterns.len());
    }

    const SEGMENTS: [&str; 24] = [
        "a", "b", "ab", "{x}", "{x}", "{x}", "{x}", "a{x}", "b{x}", "ab{x}", "%61", "%2F", "a%2fb",
        "é", "%C3%A9", "é{x}", "%2", "%2{x}", "a%2f{x}", ".", "..", ".{x}", "a%", "%{x}",
    ];
    const ENDS: [&str; 9] =
        ["", "", "", "", "/", "/{*rest}", "/{*rest}", "/a{*rest}", "/%6{*rest}"];

    fn pattern() -> impl Strategy<Value = Option<Pattern>> {
        (prop::collection::vec(select(&SEGMENTS[..]), 0..4), select(&ENDS[..])).prop_map(
            |(all, end)| {
                let segments: String = all.iter().flat_map(|segment| ["/", segment]).collect();
                Pattern::parse(&format!("{segments}{end}")).ok()
            },
        )
    }

    const PARTS: [&str; 20] = [
        "/", "/", "/", "/", "/", "a", "a", "b", "ab", "%61", "%2F", "%2", "%", ".", "..", "%2e",
        "\\", "é", "%C3%A9", "*",
    ];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        #[test]
        fn what_matches_is_found(
            patterns in prop::collection::vec(pattern(), 1..20),
            paths in prop::collection::vec(prop::collection::vec(select(&PARTS[..]), 0..10), 10),
            start in select(&["/", "/", "/", "/", "/", "/", ""][..]),
        ) {
            let index = PatternIndex::of(patterns.iter().map(Option::as_ref));
            for parts in paths {
                let path = format!("{start}{}", parts.concat());
                let path = SentPath::new(&path);
                let found = index.find(&path);
                prop_assert!(found.is_sorted_by(|one, next| one < next), "{found:?}");
                for (number, pattern) in (0..).zip(&patterns) {
                    let matches = pattern.as_ref().is_none_or(|pattern| pattern.matches(&path));
                    prop_assert!(!matches || found.contains(&number), "{path:?} {pattern:?}");
                }
            }
        }
    }
}
