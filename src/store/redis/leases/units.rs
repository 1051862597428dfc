//! The units of a pool, and until when each may be spent: [`Units`].

use smallvec::SmallVec;

use super::lease::Lease;

/// Units of one or two leases: the next batch comes before the last one is used up. The units that expire
/// first are spent first.
#[derive(Debug)]
pub(super) struct Units {
    available: u64,
    /// Until when the first units may be spent.
    lease: Lease,
    /// How many of the units have the other, later lease.
    later: u64,
    later_lease: Lease,
}

impl Units {
    pub(super) const NONE: Self =
        Self { available: 0, lease: Lease::NONE, later: 0, later_lease: Lease::NONE };

    #[inline]
    pub(super) const fn available(&self) -> u64 {
        self.available
    }

    /// The lease of the units that are spent next; of no units, the last one.
    #[inline]
    pub(super) const fn lease(&self) -> Lease {
        self.lease
    }

    /// Adds units. Those of a third lease end with the one of two that expires first.
    pub(super) fn put(&mut self, units: u64, lease: Lease) {
        if self.available == 0 {
            (self.lease, self.later) = (lease, 0);
        } else if units == 0 {
            return;
        } else if lease.expires_at <= self.lease.expires_at {
            self.lease = lease;
        } else {
            let is_second = self.later == 0;
            self.later_lease = if is_second { lease } else { self.later_lease.earlier(lease) };
            self.later = self.later.saturating_add(units);
        }
        self.available = self.available.saturating_add(units);
    }

    /// Takes units, of which there must be so many.
    #[inline]
    pub(super) fn take(&mut self, units: u64) {
        self.available = self.available.saturating_sub(units);
        if self.later > 0 && self.available <= self.later {
            (self.lease, self.later) = (self.later_lease, 0);
        }
    }

    /// Takes units, and says which lease they had.
    pub(super) fn remove(&mut self, mut units: u64) -> SmallVec<[(u64, Lease); 2]> {
        let mut removed = SmallVec::new();
        while units > 0 && self.available > 0 {
            let (first, lease) = (self.first().min(units), self.lease);
            self.take(first);
            units = units.saturating_sub(first);
            removed.push((first, lease));
        }
        removed
    }

    /// Removes the units that have expired.
    pub(super) fn remove_expired(&mut self, now: u64) -> SmallVec<[(u64, Lease); 2]> {
        let mut removed = SmallVec::new();
        while self.lease.has_expired(now) && self.available > 0 {
            removed.extend(self.remove(self.first()));
        }
        if self.lease.has_expired(now) {
            self.lease = Lease::NONE;
        }
        removed
    }

    /// How many units are of the first lease.
    const fn first(&self) -> u64 {
        self.available.saturating_sub(self.later)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::store::redis::leases::tests::lease_until;

    #[derive(Clone, Debug)]
    enum Step {
        Put(u64, u64),
        Take(u64),
        Remove(u64),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..9_u64, 1..20_u64).prop_map(|(units, lasts)| Step::Put(units, lasts)),
            (0..9_u64).prop_map(Step::Take),
            (0..9_u64).prop_map(Step::Remove),
            (0..9_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Beside a list of single units, of which the first to expire is taken.
        #[test]
        fn no_unit_lasts_longer_than_its_lease(steps in vec(step(), 1..60)) {
            let (mut units, mut naive, mut now) = (Units::NONE, Vec::<u64>::new(), 0);
            for step in steps {
                match step {
                    Step::Put(count, lasts) => {
                        units.put(count, lease_until(now + lasts));
                        naive.extend((0..count).map(|_| now + lasts));
                        naive.sort_unstable();
                    }
                    Step::Take(count) => {
                        let count = count.min(units.available());
                        units.take(count);
                        naive.drain(..count as usize);
                    }
                    Step::Remove(count) => {
                        let removed = units.remove(count);
                        let count = count.min(naive.len() as u64);
                        prop_assert_eq!(removed.iter().map(|(units, _)| units).sum::<u64>(), count);
                        for (at_least, (_, lease)) in naive.drain(..count as usize).zip(
                            removed.iter().flat_map(|&(units, lease)| (0..units).map(move |_| (units, lease))),
                        ) {
                            prop_assert!(lease.expires_at <= at_least);
                        }
                    }
                    Step::Pass(time) => {
                        now += time;
                        let removed = units.remove_expired(now);
                        let removed: u64 = removed.iter().map(|(units, _)| units).sum();
                        prop_assert!(removed >= naive.iter().filter(|end| **end <= now).count() as u64);
                        naive.drain(..removed as usize);
                    }
                }
                prop_assert_eq!(units.available(), naive.len() as u64);
                if let Some(first) = naive.first() {
                    prop_assert!(units.lease().expires_at <= *first);
                }
            }
        }
    }

    #[test]
    fn two_leases_end_each_at_its_own_time() {
        let mut units = Units::NONE;
        units.put(5, lease_until(10));
        units.put(7, lease_until(20));
        assert_eq!(units.lease().expires_at, 10);
        units.take(5);
        assert_eq!((units.available(), units.lease().expires_at), (7, 20));
        units.put(3, lease_until(30));
        units.put(1, lease_until(25));
        assert_eq!(units.remove_expired(20).len(), 1);
        assert_eq!((units.available(), units.lease().expires_at), (4, 25), "of three, two");
        assert_eq!(units.remove_expired(25).iter().map(|(units, _)| units).sum::<u64>(), 4);
    }
}
