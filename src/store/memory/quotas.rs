//! The quotas that keys are counted under, by number.

use std::sync::OnceLock;

use crate::quota::Quota;

/// How many quotas a store knows by number.
const MAX: usize = (1 << 10) - 1;
/// How many places are looked at for one.
const PROBES: usize = 16;

/// The number of a quota that has none, and of its policy.
pub(super) const UNNUMBERED: u64 = MAX as u64;

/// The quotas that keys are counted under, so that each key's state can name its own, and its
/// policy, in a few bits. They are as many as there are plans; beyond [`MAX`], a state keeps its
/// quota itself.
pub(super) struct Quotas(Box<[OnceLock<Numbered>]>);

#[derive(PartialEq, Eq)]
struct Numbered {
    quota: Quota,
    policy: u64,
}

impl Quotas {
    pub(super) fn new() -> Self {
        Self((0..MAX).map(|_| OnceLock::new()).collect())
    }

    /// The quota of this number, which was given out.
    #[inline]
    pub(super) fn get(&self, number: u64) -> Option<&Quota> {
        Some(&self.numbered(number)?.quota)
    }

    /// The policy whose quota has this number; 0, which is none's, where it has none.
    pub(super) fn policy(&self, number: u64) -> u64 {
        self.numbered(number).map_or(0, |numbered| numbered.policy)
    }

    #[inline]
    fn numbered(&self, number: u64) -> Option<&Numbered> {
        self.0.get(usize::try_from(number).ok()?)?.get()
    }

    /// The number of a policy's `quota`; `None` where no more have room.
    pub(super) fn number(&self, policy: u64, quota: &Quota) -> Option<u64> {
        let start = scatter(policy, quota);
        let wanted = || Numbered { quota: *quota, policy };
        let places = (start..start + PROBES).map(|place| place % MAX);
        let mut numbers = places.filter(|&place| *self.0[place].get_or_init(wanted) == wanted());
        numbers.next().map(|number| number as u64)
    }
}

fn scatter(policy: u64, quota: &Quota) -> usize {
    let mixed = policy.rotate_left(17)
        ^ quota.units().rotate_left(32)
        ^ quota.window_nanos()
        ^ quota.capacity();
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_has_a_number_until_there_is_no_more_room() {
        let quotas = Quotas::new();
        let numbered: Vec<(Quota, u64)> = (1..5_000)
            .map(Quota::per_minute)
            .filter_map(|quota| Some((quota, quotas.number(7, &quota)?)))
            .collect();
        assert!((900..=MAX).contains(&numbered.len()), "{} have one", numbered.len());
        for (quota, number) in numbered {
            assert_eq!(quotas.number(7, &quota), Some(number), "it stays the same");
            assert_eq!(quotas.policy(number), 7);
            assert_eq!(quotas.get(number), Some(&quota));
        }
        assert_eq!(quotas.number(7, &Quota::per_minute(1).burst(7)), None, "another quota");
        assert_eq!(quotas.get(u64::MAX), None);
        assert_eq!((quotas.get(UNNUMBERED), quotas.policy(UNNUMBERED)), (None, 0));
    }
}
