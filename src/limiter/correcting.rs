//! Corrections of what was charged: units given back, a key reset, a response that settles the cost.

use std::{
    cmp::Ordering,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::response::Parts;
use smallvec::SmallVec;

use super::{
    Core, Limiter,
    decision::{Decision, Outcome, Record},
    evaluation::Evaluation,
    fallback,
};
use crate::{
    clock::nanos,
    store::{Answer, Change, Correction, StoreError, StoreFuture},
};

/// A correction that the store is making. The store makes it even if this is not polled.
pub(crate) struct Correcting {
    limiter: Limiter,
    answer: StoreFuture,
    corrected: SmallVec<[Corrected; 4]>,
}

/// A policy whose charge is corrected.
struct Corrected {
    /// Its index in the record.
    index: usize,
    /// What the request has cost after the correction.
    cost: u64,
}

/// Starts to correct the charges of `decision` by the cost that `response` reports. `None` if
/// nothing changes.
pub(super) fn settle(
    limiter: &Limiter,
    decision: &Decision,
    response: &Parts,
) -> Option<Correcting> {
    let core = &*limiter.core;
    let (mut corrections, mut corrected) = (SmallVec::<[Correction; 4]>::new(), SmallVec::new());
    for (index, outcome) in decision.record.outcomes().enumerate() {
        let Some((cost, change)) = settled(core, &outcome, response) else { continue };
        corrections.push(correction(&decision.record, &outcome, change));
        corrected.push(Corrected { index, cost });
    }
    if corrections.is_empty() {
        return None;
    }
    let answer = core.correct(&decision.record, &corrections, core.clock.now());
    Some(Correcting { limiter: limiter.clone(), answer, corrected })
}

/// The cost that a response reports, and the change to the charge; `None` if there is no change.
fn settled(core: &Core, outcome: &Outcome<'_>, response: &Parts) -> Option<(u64, Change)> {
    // A dry run that did not fit was not charged.
    if !outcome.is_allowed() {
        return None;
    }
    let charged = outcome.cost();
    let cost = core.rules.rule(outcome.entry.rule).policy.settings.cost_from_response(response)?;
    let by = cost.abs_diff(charged);
    match cost.cmp(&charged) {
        Ordering::Equal => None,
        Ordering::Greater => Some((cost, Change::Take(by))),
        Ordering::Less => Some((cost, Change::GiveBack(by))),
    }
}

/// Gives back all units that `decision` has charged, as the request was never served.
pub(super) fn undo(core: &Core, decision: &Decision) {
    let record = &decision.record;
    let charged = record.outcomes().filter(Outcome::is_allowed);
    let corrections: SmallVec<[Correction; 4]> = charged
        .map(|outcome| correction(record, &outcome, Change::GiveBack(outcome.cost())))
        .collect();
    let now = core.clock.now();
    drop(core.correct(record, &corrections, now));
    core.queue.on_released(corrections.iter().map(|correction| &correction.charge), now);
}

/// Starts to change what the keys of an evaluation have used. The time of the charges is not known.
pub(super) fn correct(limiter: &Limiter, evaluation: &Evaluation, change: Change) -> Correcting {
    let core = &*limiter.core;
    let charges = evaluation.charges().iter();
    let corrections: SmallVec<[Correction; 4]> =
        charges.map(|charge| Correction::new(*charge, change)).collect();
    let indices = evaluation.charges().iter().enumerate();
    let corrected = indices.map(|(index, charge)| Corrected { index, cost: charge.cost }).collect();
    let answer = core.correct(&evaluation.record, &corrections, core.clock.now());
    Correcting { limiter: limiter.clone(), answer, corrected }
}

/// The correction of one charge of a decision.
fn correction(record: &Record, outcome: &Outcome<'_>, change: Change) -> Correction {
    Correction {
        charged_at: Some(record.now),
        usage: *outcome.usage,
        ..Correction::new(outcome.effective_charge(), change)
    }
}

impl Correcting {
    /// Waits for the store, and updates in `decision` what is left.
    ///
    /// # Errors
    /// The store does not answer. Then the decision stays as it was.
    pub(crate) fn poll_settled(
        &mut self,
        decision: &mut Decision,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), StoreError>> {
        let Answer { usages, at } = ready!(Pin::new(&mut self.answer).poll(context))?;
        let record = &mut *decision.record;
        // All resets of a decision count from its time, so this one does too.
        let since = at.monotonic().saturating_sub(record.now.monotonic());
        for (&Corrected { index, cost }, usage) in self.corrected.iter().zip(&*usages) {
            record.charges[index].cost = cost;
            record.usages[index] = usage.later(0, nanos(since));
        }
        self.release(record);
        Poll::Ready(Ok(()))
    }

    /// Waits for the store, and decides by what is left. If the store does not answer, every policy
    /// refuses.
    pub(super) fn poll_corrected(
        &mut self,
        evaluation: &mut Evaluation,
        context: &mut Context<'_>,
    ) -> Poll<Decision> {
        let at = match ready!(Pin::new(&mut self.answer).poll(context)) {
            Ok(Answer { usages, at }) if evaluation.set_usages(&usages) => at,
            answer => {
                let lacking = || StoreError::new("it has not answered for each correction");
                fallback::log(&answer.err().unwrap_or_else(lacking));
                let record = &mut *evaluation.record;
                (0..record.counted).for_each(|index| record.refuse_without_store(index));
                self.limiter.core.clock.now()
            }
        };
        self.release(&evaluation.record);
        Poll::Ready(std::mem::take(evaluation).into_decision(at, std::time::Duration::ZERO))
    }

    /// Wakes requests that wait for these keys, as they may pass earlier.
    fn release(&self, record: &Record) {
        let core = &*self.limiter.core;
        let counted = record.outcomes().filter(|outcome| outcome.has_key());
        core.queue.on_released(counted.map(|outcome| outcome.charge), core.clock.now());
    }
}
