//! Lifts the penalties of a caller: [`Penalties`].

use smallvec::SmallVec;

use super::super::Limiter;
use crate::{
    key::Key,
    store::{Change, Charge, Correction, Store, StoreFuture},
};

/// The penalties that a caller may have, under policies that count by its key.
pub(super) struct Penalties {
    limiter: Limiter,
    lifted: SmallVec<[Correction; 4]>,
}

impl Penalties {
    /// Those of the caller with this key, as the limiter counts it.
    pub(super) fn of(limiter: &Limiter, key: &Key<'_>) -> Self {
        let core = &*limiter.core;
        let caller_kind = core.caller.as_ref().map(|caller| caller.extractor.kind());
        let mut lifted = SmallVec::new();
        for rule in core.rules().policies() {
            let settings = &rule.policy.settings;
            let is_sharded = core.is_shared && settings.shard.is_some();
            if settings.penalty.is_none() || is_sharded {
                continue;
            }
            for (kind, name) in (0..=u8::MAX).zip(rule.entry.labels.kinds()) {
                let is_same = caller_kind.as_ref().is_none_or(|caller| **caller == *name);
                let key = settings.keys.canonical(kind, key.clone());
                let counts = is_same || settings.keys.extractors.is_empty();
                let Some(key) = key.filter(|_| counts) else { continue };
                let (key, shard) = core.key_of(rule, kind, &key);
                let charge = Charge { key, shard, ..rule.charge };
                lifted.push(Correction::new(charge, Change::Pardon));
            }
        }
        Self { limiter: limiter.clone(), lifted }
    }

    /// Lifts them; `None` if there are none. The store does so even if this is not awaited.
    pub(super) fn lift(&self) -> Option<StoreFuture> {
        let core = &*self.limiter.core;
        if self.lifted.is_empty() {
            return None;
        }
        let now = core.clock.now();
        if let Some(local) = core.local.get() {
            // What this process has counted while the store did not answer.
            drop(local.correct(&self.lifted, now));
        }
        Some(core.store.correct(&self.lifted, now))
    }
}
