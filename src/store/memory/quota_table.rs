//! The quotas under which keys are counted, by number: [`QuotaTable`].

use std::sync::OnceLock;

use crate::quota::Quota;

/// How many quotas have a number.
const MAX: usize = (1 << 10) - 1;
/// How many numbers are tried for a quota.
const PROBES: usize = 16;

/// Stands for a quota that has no number.
pub(super) const NO_NUMBER: u64 = MAX as u64;

/// Interns the quotas under which keys are counted, each with its policy. So each entry names its
/// quota and its policy in a few bits. There are as many as there are plans. Beyond [`MAX`], a
/// state is kept outside of the table, with its quota.
pub(super) struct QuotaTable(Box<[OnceLock<Interned>]>);

#[derive(PartialEq, Eq)]
struct Interned {
    quota: Quota,
    policy: u64,
}

impl QuotaTable {
    pub(super) fn new() -> Self {
        Self((0..MAX).map(|_| OnceLock::new()).collect())
    }

    /// The quota with this number; `None` for [`NO_NUMBER`].
    #[inline]
    pub(super) fn get(&self, number: u64) -> Option<&Quota> {
        Some(&self.interned(number)?.quota)
    }

    /// The policy of the quota with this number. It is 0, which no policy has, for [`NO_NUMBER`].
    pub(super) fn policy(&self, number: u64) -> u64 {
        self.interned(number).map_or(0, |interned| interned.policy)
    }

    #[inline]
    fn interned(&self, number: u64) -> Option<&Interned> {
        self.0.get(usize::try_from(number).ok()?)?.get()
    }

    /// The number of a policy's `quota`; `None` if there is no room for more.
    pub(super) fn intern(&self, policy: u64, quota: &Quota) -> Option<u64> {
        let first = hash(policy, quota);
        let new = || Interned { quota: *quota, policy };
        let probed = (first..first + PROBES).map(|number| number % MAX);
        let mut found = probed.filter(|&number| *self.0[number].get_or_init(new) == new());
        found.next().map(|number| number as u64)
    }
}

fn hash(policy: u64, quota: &Quota) -> usize {
    let mixed = policy.rotate_left(17)
        ^ quota.units().rotate_left(32)
        ^ quota.time_bits()
        ^ quota.capacity();
    (mixed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 54) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_quota_has_a_number_until_there_is_no_more_room() {
        let quotas = QuotaTable::new();
        let numbered: Vec<(Quota, u64)> = (1..5_000)
            .map(Quota::per_minute)
            .filter_map(|quota| Some((quota, quotas.intern(7, &quota)?)))
            .collect();
        assert!((900..=MAX).contains(&numbered.len()), "{} have one", numbered.len());
        for (quota, number) in numbered {
            assert_eq!(quotas.intern(7, &quota), Some(number), "it stays the same");
            assert_eq!(quotas.policy(number), 7);
            assert_eq!(quotas.get(number), Some(&quota));
        }
        assert_eq!(quotas.intern(7, &Quota::per_minute(1).burst(7)), None, "another quota");
        assert_eq!(quotas.get(u64::MAX), None);
        assert_eq!((quotas.get(NO_NUMBER), quotas.policy(NO_NUMBER)), (None, 0));
    }

    #[test]
    fn policies_with_equal_quotas_have_numbers_of_their_own() {
        let (quotas, quota) = (QuotaTable::new(), Quota::per_minute(1));
        for policy in 1..=600 {
            let number = quotas.intern(policy, &quota).unwrap();
            assert_eq!(quotas.policy(number), policy);
        }
    }
}
