//! What each policy has of a segment's room, so that a flood under one leaves the others theirs.

/// The policies that have keys in a segment. Only who has the segment's lock counts here, as keys
/// come and go.
pub(super) struct Shares {
    /// All the room of the segment.
    all: isize,
    /// A few, in any order: each with the room that its keys take.
    taken: Vec<(u64, isize)>,
}

impl Shares {
    pub(super) fn new(all: isize) -> Self {
        Self { all, taken: Vec::new() }
    }

    /// The keys of a policy take so much more, or less.
    pub(super) fn take(&mut self, policy: u64, more: isize) {
        match self.taken.iter().position(|(known, _)| *known == policy) {
            Some(place) => {
                let taken = &mut self.taken[place].1;
                *taken += more;
                if *taken <= 0 {
                    self.taken.swap_remove(place);
                }
            }
            None if more > 0 => self.taken.push((policy, more)),
            None => {}
        }
    }

    fn taken_by(&self, policy: u64) -> Option<isize> {
        self.taken.iter().find(|(known, _)| *known == policy).map(|(_, taken)| *taken)
    }

    /// What each may take while `newcomer` wants some: as much as any other.
    pub(super) fn share(&self, newcomer: u64) -> isize {
        let policies = self.taken.len() + usize::from(self.taken_by(newcomer).is_none());
        self.all / policies.max(1) as isize
    }

    /// Whether a policy with so much more still has no more than `share`.
    pub(super) fn has_within(&self, share: isize, policy: u64, more: isize) -> bool {
        self.taken_by(policy).unwrap_or(0) + more <= share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_that_has_keys_may_take_as_much_as_any_other() {
        let mut shares = Shares::new(100);
        assert_eq!(shares.share(1), 100);
        shares.take(1, 90);
        assert_eq!((shares.share(1), shares.share(2)), (100, 50));
        assert!(shares.has_within(50, 2, 50) && !shares.has_within(50, 2, 51));
        assert!(!shares.has_within(50, 1, 0));
        shares.take(2, 10);
        shares.take(1, -90);
        assert_eq!(shares.share(2), 100, "who has no keys any more has no share");
    }
}
