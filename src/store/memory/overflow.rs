//! Policies that had no room for new keys: counted, and each reported once.

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
pub(super) struct Overflow {
    by_policy: RwLock<HashMap<u64, OfPolicy>>,
}

#[derive(Default)]
struct OfPolicy {
    /// Empty where no limiter has announced it.
    name: String,
    charges: AtomicU64,
    is_reported: AtomicBool,
}

impl Overflow {
    pub(super) fn name(&self, policy: u64, name: &str) {
        let mut by_policy = self.by_policy.write().unwrap_or_else(PoisonError::into_inner);
        by_policy.entry(policy).or_default().name = name.to_owned();
    }

    /// Counts one charge, and reports the first of a policy.
    #[cold]
    pub(super) fn count(&self, policy: u64) {
        if !self.count_known(policy) {
            let mut by_policy = self.by_policy.write().unwrap_or_else(PoisonError::into_inner);
            by_policy.entry(policy).or_default();
            drop(by_policy);
            self.count_known(policy);
        }
    }

    fn count_known(&self, policy: u64) -> bool {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        let Some(OfPolicy { name, charges, is_reported }) = by_policy.get(&policy) else {
            return false;
        };
        charges.fetch_add(1, Relaxed);
        if !is_reported.swap(true, Relaxed) {
            warn(Code::StoreFull, name, || {
                format!(
                    "policy `{name}`: the memory store has no room for more of its keys, and new \
                     ones share a quota until others expire. If these are honest callers, raise \
                     `MemoryStore::with_max_keys`"
                )
            });
        }
        true
    }

    pub(super) fn of(&self, policy: u64) -> u64 {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        by_policy.get(&policy).map_or(0, |of| of.charges.load(Relaxed))
    }

    pub(super) fn all(&self) -> u64 {
        let by_policy = self.by_policy.read().unwrap_or_else(PoisonError::into_inner);
        by_policy.values().map(|of| of.charges.load(Relaxed)).sum()
    }
}
