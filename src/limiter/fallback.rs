//! The decision when the store does not answer.

use std::ops::Range;

use smallvec::{SmallVec, smallvec};

use super::{
    Core,
    decision::{Outcome, Record},
    evaluation::Evaluation,
    rules::RuleSet,
};
use crate::{
    clock::Now,
    policy::OnStoreFailure,
    store::{Charge, Mode, Store, StoreError, Usage, runs},
};

/// What is done with the charges that this replica counts alone.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fallback {
    Charge,
    /// Nothing is charged or logged: the request is only explained.
    #[cfg(feature = "describe")]
    Preview,
}

/// Decides by what each policy is set to do without the store ([`OnStoreFailure`]). `rules` are
/// those of the evaluation.
#[cold]
#[expect(clippy::expect_used, reason = "a policy without its setting would be another one")]
pub(super) fn decide_without_store(
    core: &Core,
    rules: &RuleSet,
    evaluation: &mut Evaluation,
    error: &StoreError,
    now: Now,
    fallback: Fallback,
) {
    if fallback == Fallback::Charge {
        log(error);
    }
    let on_failure = |outcome: &Outcome<'_>| {
        let rule = rules.of_charge(outcome.charge).expect("the rules have charged it");
        match rule.policy.settings.on_store_failure {
            // A dry run refuses no request.
            OnStoreFailure::Refuse if outcome.charge.mode == Mode::DryRun => OnStoreFailure::Allow,
            on_failure => on_failure,
        }
    };
    let record = &mut *evaluation.record;
    record.counted_locally = true;
    let counted: SmallVec<[OnStoreFailure; 4]> =
        record.outcomes().take(record.counted).map(|outcome| on_failure(&outcome)).collect();
    let all: SmallVec<[Range<usize>; 4]> = runs(&record.charges[..record.counted]).collect();
    let all_refuse = |run: &Range<usize>| {
        counted[run.clone()].iter().all(|on_failure| *on_failure == OnStoreFailure::Refuse)
    };
    let refuses = all.iter().any(all_refuse);
    let mut locally: SmallVec<[usize; 4]> = SmallVec::new();
    let mut charges: SmallVec<[Charge; 4]> = SmallVec::new();
    for run in all {
        // If one policy of a waterfall allows, those counted here refuse nothing, used up or not.
        let allows = counted[run.clone()].contains(&OnStoreFailure::Allow);
        for index in run {
            record.leave_uncounted(index);
            match counted[index] {
                OnStoreFailure::Refuse => record.refuse_without_store(index),
                OnStoreFailure::CountLocally { replicas } if !refuses => {
                    record.entries[index].replicas = replicas;
                    locally.push(index);
                    let charge = record.outcome(index).effective_charge();
                    let mode = match charge.mode {
                        Mode::Enforced if allows => Mode::DryRun,
                        mode => mode,
                    };
                    charges.push(Charge { mode, or_else: true, ..charge });
                }
                _ => {}
            }
        }
        charges.last_mut().into_iter().for_each(|last| last.or_else = false);
    }
    let mut usages: SmallVec<[Usage; 4]> = smallvec![Usage::unknown(); charges.len()];
    evaluation.note_resets();
    // The store in memory answers at once.
    let charged = match fallback {
        Fallback::Charge => core.local().charge_at_once(&charges, &mut usages, now),
        #[cfg(feature = "describe")]
        Fallback::Preview => {
            usages = core.local().preview_at_once(&charges, now).iter().copied().collect();
            true
        }
    };
    for (index, usage) in locally.into_iter().zip(usages) {
        if charged {
            evaluation.record.usages[index] = usage;
            let Record { entries, charges, usages, .. } = &mut *evaluation.record;
            entries[index].judge(&charges[index], &usages[index]);
        } else {
            evaluation.record.refuse_without_store(index);
        }
    }
    evaluation.record.judge_waterfalls();
}

pub(super) fn log(error: &StoreError) {
    #[cfg(feature = "tracing")]
    tracing::debug!(%error, "the store has not answered");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
}
