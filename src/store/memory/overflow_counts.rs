//! How many charges had no room for an entry, by policy: [`OverflowCounts`].

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use crate::warning::{Code, warn};

/// How many charges of each policy were counted in a quota that its new keys share.
#[derive(Default)]
pub(super) struct OverflowCounts {
    by_policy: RwLock<HashMap<u64, PolicyOverflow>>,
}

#[derive(Default)]
struct PolicyOverflow {
    /// Empty if no limiter has announced the policy.
    name: String,
    charges: AtomicU64,
    is_reported: AtomicBool,
}

impl OverflowCounts {
    /// Names a policy, for its warning.
    pub(super) fn set_name(&self, policy: u64, name: &str) {
        let mut by_policy = self.by_policy.write().unwrap_or_else(PoisonError::into_inner);
        by_policy.entry(policy).or_default().name = name.to_owned();
    }

    /// Counts one charge, and warns of the first one of a policy.
    #[cold]
    pub(super) fn record(&self, policy: u64) {
        if !self.record_known(policy) {
            let mut by_policy = self.by_policy.write().unwrap_or_else(PoisonError::into_inner);
            by_policy.entry(policy).or_default();
            drop(by_policy);
            self.record_known(policy);
        }
    }

    fn record_known(&self, policy: u64) -> bool {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        let Some(PolicyOverflow { name, charges, is_reported }) = by_policy.get(&policy) else {
            return false;
        };
        charges.fetch_add(1, Relaxed);
        if !is_reported.swap(true, Relaxed) {
            let name = name.clone();
            drop(by_policy);
            // Without the lock, as this may log, and a subscriber may charge the store.
            warn(Code::StoreFull, &name, || {
                format!(
                    "policy `{name}`: the memory store has no room for more of its keys, and new \
                     ones share a quota until others expire. If these are honest callers, raise \
                     `MemoryStore::with_max_keys`"
                )
            });
        }
        true
    }

    pub(super) fn get(&self, policy: u64) -> u64 {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        by_policy.get(&policy).map_or(0, |overflow| overflow.charges.load(Relaxed))
    }

    pub(super) fn total(&self) -> u64 {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        by_policy.values().map(|overflow| overflow.charges.load(Relaxed)).sum()
    }
}
