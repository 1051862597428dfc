//! How many charges had no room for an entry, by policy: [`OverflowCounts`].

use std::collections::HashMap;

use crate::{
    lock::Mutex,
    warning::{Code, warn},
};

/// How many charges of each policy were counted in a quota that its new keys share.
#[derive(Default)]
pub(super) struct OverflowCounts(Mutex<HashMap<u64, PolicyOverflow>>);

#[derive(Default)]
struct PolicyOverflow {
    /// Empty if no limiter has announced the policy.
    name: String,
    charges: u64,
}

impl OverflowCounts {
    /// Names a policy, for its warning.
    pub(super) fn set_name(&self, policy: u64, name: &str) {
        self.0.lock().entry(policy).or_default().name = name.to_owned();
    }

    /// Counts one charge, and warns of the first one of a policy.
    #[cold]
    pub(super) fn record(&self, policy: u64) {
        let mut by_policy = self.0.lock();
        let PolicyOverflow { name, charges } = by_policy.entry(policy).or_default();
        *charges += 1;
        if *charges > 1 {
            return;
        }
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

    pub(super) fn get(&self, policy: u64) -> u64 {
        self.0.lock().get(&policy).map_or(0, |overflow| overflow.charges)
    }

    pub(super) fn total(&self) -> u64 {
        self.0.lock().values().map(|overflow| overflow.charges).sum()
    }
}
