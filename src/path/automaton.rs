//! How far a pattern has matched the segments of an odd path: [`States`].

use super::segment::Segment;

/// The most segments of a pattern. [`States`] needs one bit more.
pub(super) const MAX_SEGMENTS: usize = 127;

/// A set of states of a finite automaton, as bits. In state `i`, the first `i` segments of the
/// pattern have matched.
///
/// There may be several states at once: an empty segment of the path is either merged with its
/// neighbour or matched, and both are tried.
#[derive(Clone, Copy)]
pub(super) struct States(u128);

impl States {
    pub(super) const START: Self = Self(1);

    /// The state in which the segment at `index` has matched.
    #[expect(clippy::arithmetic_side_effects, reason = "`MAX_SEGMENTS` are fewer than the bits")]
    pub(super) fn after(index: usize) -> Self {
        Self(1 << (index + 1))
    }

    pub(super) fn contains(self, state: usize) -> bool {
        self.0 >> state & 1 == 1
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The states after one more segment of the path.
    pub(super) fn step(self, pattern: &[Segment], sent: &[u8]) -> Self {
        let mut next = if sent.is_empty() { self.0 } else { 0 };
        for (index, segment) in pattern.iter().enumerate() {
            if self.contains(index) && segment.matches(sent) {
                next |= Self::after(index).0;
            }
        }
        Self(next)
    }
}
