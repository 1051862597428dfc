//! Each policy's share of a segment's room: a flood under one policy leaves the others theirs.

/// The policies that have keys in a segment. It changes only under the segment's lock.
pub(super) struct Shares {
    /// All the room of the segment.
    all: isize,
    /// The room that the keys of each policy take; a few policies, in any order.
    taken: Vec<(u64, isize)>,
}

impl Shares {
    pub(super) fn new(all: isize) -> Self {
        Self { all, taken: Vec::new() }
    }

    /// The keys of a policy take `more` room, or less where it is negative.
    pub(super) fn take(&mut self, policy: u64, more: isize) {
        match self.taken.iter().position(|(known, _)| *known == policy) {
            Some(index) => {
                let taken = &mut self.taken[index].1;
                *taken += more;
                if *taken <= 0 {
                    self.taken.swap_remove(index);
                }
            }
            None if more > 0 => self.taken.push((policy, more)),
            None => {}
        }
    }

    fn taken_by(&self, policy: u64) -> Option<isize> {
        self.taken.iter().find(|(known, _)| *known == policy).map(|(_, taken)| *taken)
    }

    /// The room that each policy may take while `newcomer` wants some: equal shares.
    pub(super) fn share(&self, newcomer: u64) -> isize {
        let policies = self.taken.len() + usize::from(self.taken_by(newcomer).is_none());
        self.all / policies.max(1) as isize
    }

    /// Whether a policy that takes `more` stays within `share`.
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
