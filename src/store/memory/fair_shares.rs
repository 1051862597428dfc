//! Each policy's share of a shard's room: [`FairShares`]. A flood under one policy leaves the other
//! policies their shares.

use std::collections::BTreeMap;

/// The room that the keys of each policy use in a shard. It changes only under the shard's lock.
pub(super) struct FairShares {
    /// All the room of the shard.
    total: isize,
    /// The room in use by each policy that has keys. They are few: a tree of them is one node, and is
    /// searched without a hash.
    used: BTreeMap<u64, isize>,
}

impl FairShares {
    pub(super) fn new(total: isize) -> Self {
        Self { total, used: BTreeMap::new() }
    }

    /// The keys of a policy use `more` room, or less if it is negative.
    pub(super) fn add(&mut self, policy: u64, more: isize) {
        let used = self.used.entry(policy).or_default();
        *used += more;
        if *used <= 0 {
            self.used.remove(&policy);
        }
    }

    /// The room that each policy may use while `newcomer` needs some: equal shares.
    pub(super) fn share(&self, newcomer: u64) -> isize {
        let policies = self.used.len() + usize::from(!self.used.contains_key(&newcomer));
        self.total / policies.max(1) as isize
    }

    /// Whether a policy that uses `more` stays within `share`.
    pub(super) fn is_within(&self, share: isize, policy: u64, more: isize) -> bool {
        self.used.get(&policy).unwrap_or(&0) + more <= share
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
