//! Many patterns as a tree of their segments: [`PatternTree`].

use std::collections::BTreeMap;

use super::pattern::Pattern;

/// The segments of patterns as they are written. Patterns with the same first segments share these.
///
/// Unlike [`PatternIndex`](super::PatternIndex), it does not decode segments, and finds no patterns: it says which
/// segments may come next.
pub(super) struct PatternTree {
    /// The first one is the root.
    nodes: Vec<Node>,
}

/// What may follow some segments.
#[derive(Default)]
pub(super) struct Node {
    /// By segments without a parameter.
    pub(super) literals: BTreeMap<Box<str>, usize>,
    /// By what comes before the parameter of a segment.
    pub(super) params: BTreeMap<Box<str>, usize>,
    /// What comes before `{*rest}`.
    pub(super) rests: Vec<Box<str>>,
}

impl PatternTree {
    /// The node before the first segment.
    pub(super) const ROOT: usize = 0;

    pub(super) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>) -> Self {
        let mut tree = Self { nodes: vec![Node::default()] };
        patterns.into_iter().for_each(|pattern| tree.insert(pattern));
        tree
    }

    #[expect(clippy::indexing_slicing, reason = "each node is there before its number is given")]
    fn insert(&mut self, pattern: &Pattern) {
        let mut at = Self::ROOT;
        for segment in &pattern.segments {
            let (next, node) = (self.nodes.len(), &mut self.nodes[at]);
            let children = match segment.param {
                None => &mut node.literals,
                Some(_) => &mut node.params,
            };
            at = *children.entry(segment.literal.clone()).or_insert(next);
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        if let Some(rest) = &pattern.rest
            && !self.nodes[at].rests.contains(&rest.literal)
        {
            self.nodes[at].rests.push(rest.literal.clone());
        }
    }

    /// The nodes with these numbers.
    pub(super) fn nodes(&self, numbers: &[usize]) -> impl Iterator<Item = &Node> {
        numbers.iter().filter_map(|number| self.nodes.get(*number))
    }

    /// The nodes that one more segment leads to. What `{*rest}` leads to is left out, as any segments may
    /// follow it.
    pub(super) fn step(&self, from: &[usize], segment: &str) -> Vec<usize> {
        let of_node = |node: &Node| {
            let params = node.params.iter();
            let params = params.filter(|(before, _)| segment.starts_with(&***before));
            let next = params.map(|(_, next)| *next).chain(node.literals.get(segment).copied());
            next.collect::<Vec<_>>()
        };
        self.nodes(from).flat_map(of_node).collect()
    }
}
