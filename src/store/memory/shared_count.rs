//! What the new keys of a policy share while they have no room: [`SharedCount`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use super::{address::Address, recent_keys::RecentKeys};
use crate::{algorithm::StatesByQuota, clock::Now, quota::Quota, store::Charge};

/// One count for all keys of a policy that have no room in a shard, and which keys these were. When such a
/// key gets room while its units still count, it begins with this count: otherwise it would have a second
/// quota, and later corrections would give it more units back than it has used.
pub(super) struct SharedCount {
    pub(super) states: StatesByQuota,
    /// The keys that were counted here, until their units have come back.
    keys: RecentKeys,
}

impl SharedCount {
    pub(super) fn new(states: StatesByQuota) -> Self {
        Self { states, keys: RecentKeys::new() }
    }

    /// Changes the states by a charge, and remembers its key until all units have come back.
    pub(super) fn change(
        &mut self,
        charge: &Charge,
        now: Now,
        change: impl FnOnce(&mut StatesByQuota),
    ) {
        self.track(&charge.quota, now);
        change(&mut self.states);
        let until = now.monotonic_nanos().saturating_add(self.states.expires_in(now));
        self.keys.add(Address::of(charge).tag, until, now);
    }

    /// Counts under another quota as well from now on. Its units may come back later than the others.
    pub(super) fn track(&mut self, quota: &Quota, now: Now) {
        let before = self.states.expires_in(now);
        self.states.track_for_several(quota, now);
        let after = self.states.expires_in(now);
        if after > before {
            self.keys.extend(now.monotonic_nanos().saturating_add(after), now);
        }
    }

    /// Whether units that the key of a charge has used here may still count.
    pub(super) fn may_count(&self, charge: &Charge, now: Now) -> bool {
        self.keys.may_have(Address::of(charge).tag, now)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{at, charge, key},
        *,
    };
    use crate::algorithm::{Algorithm, State};

    #[test]
    fn a_key_is_known_until_its_units_have_come_back() {
        let quota = Quota::per_minute(1_000_000);
        let of = |number| charge(key(number), Algorithm::SlidingWindow, quota);
        let new = || StatesByQuota::new(quota, State::new(Algorithm::SlidingWindow));
        let mut shared = SharedCount::new(new());
        // Two keys in each second, for ten windows.
        for second in 0..600 {
            for number in [2 * second, 2 * second + 1] {
                shared.change(&of(number), at(second), |states| {
                    states.consume(&quota, at(second), 1)
                });
            }
            let lately = (2 * second).saturating_sub(118)..2 * second + 2;
            assert!(lately.clone().all(|number| shared.may_count(&of(number), at(second))));
            let others =
                (5_000..6_000).filter(|number| shared.may_count(&of(*number), at(second))).count();
            assert!(others < 100, "{others} others in second {second}");
        }
        assert!((0..1_200).all(|number| !shared.may_count(&of(number), at(660))));
    }
}
