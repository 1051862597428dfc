//! Each policy's share of a shard's room: [`FairShares`]. A flood under one policy leaves the other
//! policies their shares.

/// The room that the keys of each policy use in a shard. It changes only under the shard's lock.
pub(super) struct FairShares {
    /// All the room of the shard.
    total: isize,
    /// The room in use by each policy that has keys: a few, in any order.
    used: Vec<(u64, isize)>,
}

impl FairShares {
    pub(super) fn new(total: isize) -> Self {
        Self { total, used: Vec::new() }
    }

    /// The keys of a policy use `more` room, or less if it is negative.
    pub(super) fn add(&mut self, policy: u64, more: isize) {
        match self.used.iter().position(|(known, _)| *known == policy) {
            Some(index) => {
                let used = &mut self.used[index].1;
                *used += more;
                if *used <= 0 {
                    self.used.swap_remove(index);
                }
            }
            None if more > 0 => self.used.push((policy, more)),
            None => {}
        }
    }

    fn used_by(&self, policy: u64) -> Option<isize> {
        self.used.iter().find(|(known, _)| *known == policy).map(|(_, used)| *used)
    }

    /// The room that each policy may use while `newcomer` needs some: equal shares.
    pub(super) fn share(&self, newcomer: u64) -> isize {
        let policies = self.used.len() + usize::from(self.used_by(newcomer).is_none());
        self.total / policies.max(1) as isize
    }

    /// Whether a policy that uses `more` stays within `share`.
    pub(super) fn is_within(&self, share: isize, policy: u64, more: isize) -> bool {
        self.used_by(policy).unwrap_or(0) + more <= share
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_policy_that_has_keys_may_take_as_much_as_any_other() {
        let mut shares = FairShares::new(100);
        assert_eq!(shares.share(1), 100);
        shares.add(1, 90);
        assert_eq!((shares.share(1), shares.share(2)), (100, 50));
        assert!(shares.is_within(50, 2, 50) && !shares.is_within(50, 2, 51));
        assert!(!shares.is_within(50, 1, 0));
        shares.add(2, 10);
        shares.add(1, -90);
        assert_eq!(shares.share(2), 100, "a policy without keys has no share");
    }
}
