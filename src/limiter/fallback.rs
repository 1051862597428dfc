//! What is decided when the store does not answer.

use smallvec::{SmallVec, smallvec};

use super::Inner;
use crate::{
    clock::Now,
    limiter::{Decision, Outcome, Reason},
    policy::OnStoreFailure,
    store::{Charge, MemoryStore, Mode, Store, StoreError, Usage},
};

impl Inner {
    /// The store in which a decision was counted.
    pub(super) fn store_of(&self, decision: &Decision) -> &dyn Store {
        if decision.record.counted_locally { self.local() } else { &*self.store }
    }

    fn store_failure(&self, outcome: &Outcome) -> OnStoreFailure {
        self.rule(outcome.place).policy.settings.on_store_failure
    }

    fn local(&self) -> &dyn Store {
        self.local.get_or_init(|| {
            let local = MemoryStore::default();
            local.announce(&self.announced);
            local
        })
    }

    /// Decides as each policy says that it is to be done without the store.
    #[cold]
    pub(super) fn decide_without_store(
        &self,
        decision: &mut Decision,
        error: &StoreError,
        now: Now,
    ) {
        log(error);
        let refuses = |outcome: &Outcome| {
            let refuses = self.store_failure(outcome) == OnStoreFailure::Refuse;
            refuses && outcome.charge.mode != Mode::DryRun
        };
        let refused = decision.all().any(refuses);
        decision.record.counted_locally = true;
        let mut locally: SmallVec<[&mut Outcome; 4]> = SmallVec::new();
        // A dry run may lack its key.
        for outcome in decision.all_mut().filter(|outcome| outcome.charge().is_some()) {
            outcome.leave_uncounted();
            match self.store_failure(outcome) {
                OnStoreFailure::Refuse if refuses(outcome) => outcome.refuse_without_store(),
                OnStoreFailure::CountLocally { replicas } if !refused => {
                    outcome.replicas = replicas;
                    locally.push(outcome);
                }
                _ => {}
            }
        }
        let charges: SmallVec<[Charge; 4]> = locally.iter().map(|one| one.made()).collect();
        let mut usages: SmallVec<[Usage; 4]> = smallvec![Usage::unknown(); charges.len()];
        // In memory the answer is there at once.
        let charged = self.local().charge_at_once(&charges, &mut usages, now);
        for (one, usage) in locally.iter_mut().zip(&usages) {
            if charged { one.answer(usage) } else { one.refuse_without_store() }
        }
    }
}

impl Decision {
    /// Nothing was changed: the store has not answered.
    pub(super) fn leave_uncorrected(&mut self, error: &StoreError) {
        log(error);
        self.all_mut().for_each(Outcome::refuse_without_store);
    }
}

impl Outcome {
    fn leave_uncounted(&mut self) {
        (self.usage, self.refused) = (Usage::unknown(), None);
    }

    fn refuse_without_store(&mut self) {
        (self.usage, self.refused) = (Usage::default(), Some(Reason::StoreUnavailable));
    }
}

fn log(error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::debug!(%error, "the store has not answered");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
