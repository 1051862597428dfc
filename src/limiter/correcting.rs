//! Corrections of what was charged: units given back, a key reset, a response that settles the cost.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::response::Parts;
use smallvec::SmallVec;

#[cfg(feature = "tracing")]
use super::telemetry::log_block_of;
use super::{
    Core, Limiter, Meter,
    decision::{Decision, Outcome, Record, Ruling},
    evaluation::Evaluation,
    fallback,
    release::{release, release_later},
};
use crate::{
    clock::nanos,
    penalty::{Counted, Penalty},
    store::{Answer, Change, Charge, Correction, StoreError, StoreFuture},
};

/// The correction of a decision's charges by the cost that the response reports. The store makes it
/// even if this is not polled.
pub(crate) struct Correcting {
    limiter: Limiter,
    answer: StoreFuture,
    corrected: SmallVec<[Corrected; 4]>,
}

/// A policy whose charge is corrected, or whose penalty counts a failure.
struct Corrected {
    /// The index of its charge in the record.
    index: usize,
    /// What the request has cost after the correction; `None` for a failure that is counted.
    cost: Option<u64>,
}

impl Correcting {
    /// Starts to correct the charges of `decision` by the cost that `response` reports. `None` if
    /// nothing changes.
    pub(crate) fn by_response(
        limiter: &Limiter,
        decision: &Decision,
        response: &Parts,
    ) -> Option<Self> {
        let rules = limiter.core.rules();
        let cost =
            |charge: &Charge| rules.of_charge(charge)?.policy.settings.cost_from_response(response);
        let meter = decision.record.meter.as_ref();
        meter.into_iter().for_each(Meter::set_answered);
        // Without the policy, it is unknown whether the response is a failure.
        let failure = |charge: &Charge, settled: Option<u64>| {
            let penalty = rules.of_charge(charge)?.entry.labels.penalty.as_ref()?;
            let fails = match meter.and_then(|meter| meter.failure_of(charge)) {
                // The meter counts the failure at the end, unless the head of the response shows it.
                Some(failure) => settled.is_some_and(|cost| cost > 0) && failure.count_once(),
                None => settled.unwrap_or(charge.cost) > 0,
            };
            (fails && penalty.counts(Counted::Failures)).then_some(penalty)
        };
        let of_outcome = |outcome: &Outcome<'_>| cost(outcome.charge);
        let looked = |charge: &Charge| {
            let settled = cost(charge);
            if let (Some(meter), Some(cost)) = (meter, settled) {
                meter.set_charged(charge, cost);
            }
            failure(charge, settled)
        };
        let started = Self::start_with_failures(limiter, decision, of_outcome, failure, looked);
        // The meter goes on from what is charged now.
        if let (Some(meter), Some(started)) = (&decision.record.meter, &started) {
            for &Corrected { index, cost } in &started.corrected {
                if let Some(cost) = cost {
                    meter.set_charged(&decision.record.charges[index], cost);
                }
            }
        }
        started
    }

    /// Whether it corrects an enforced policy that `accepts` accepts.
    pub(crate) fn corrects(
        &self,
        decision: &Decision,
        accepts: impl Fn(&Outcome<'_>) -> bool,
    ) -> bool {
        let enforced =
            self.corrected.iter().filter(|corrected| corrected.index < decision.record.enforced);
        enforced.map(|corrected| decision.record.outcome(corrected.index)).any(|one| accepts(&one))
    }

    /// Lets the store make the corrections, without waiting for them.
    pub(crate) fn detach(self, decision: &Decision) {
        let Self { limiter, answer, corrected } = self;
        let charges = corrected.iter().map(|corrected| &decision.record.charges[corrected.index]);
        release_later(&limiter, answer, charges);
    }

    /// Starts to correct the charges of `decision` by what each has really cost; `None` for a charge
    /// that stays. `None` if nothing changes.
    pub(super) fn start(
        limiter: &Limiter,
        decision: &Decision,
        cost: impl Fn(&Outcome<'_>) -> Option<u64>,
    ) -> Option<Self> {
        Self::start_with_failures(limiter, decision, cost, |_, _| None, |_| None)
    }

    /// The same. `failure` returns the penalty that counts the response as a failure, by its cost, or else by
    /// the cost that was charged. `looked` does the same for a charge under an unlimited
    /// quota.
    fn start_with_failures(
        limiter: &Limiter,
        decision: &Decision,
        cost: impl Fn(&Outcome<'_>) -> Option<u64>,
        failure: impl Fn(&Charge, Option<u64>) -> Option<&'static Penalty>,
        looked: impl Fn(&Charge) -> Option<&'static Penalty>,
    ) -> Option<Self> {
        let (core, record) = (&*limiter.core, &decision.record);
        // A dry run that did not fit was not charged, nor was a quota that another was drawn on for. What
        // lasts comes back by itself.
        let is_over =
            |outcome: &Outcome<'_>| outcome.is_drawn_on() && !outcome.entry.special.lasts();
        let charged = record.outcomes().enumerate().filter(|(_, outcome)| is_over(outcome));
        let (mut corrections, mut corrected) =
            (SmallVec::<[Correction; 4]>::new(), SmallVec::new());
        for (index, outcome) in charged {
            let mut add = |change, cost| {
                corrections.push(record.correction(&outcome, change));
                corrected.push(Corrected { index, cost });
            };
            let cost = cost(&outcome);
            if let Some(change) = cost.and_then(|cost| Change::of_cost(outcome.cost(), cost)) {
                add(change, cost);
            }
            if let Some(penalty) = failure(outcome.charge, cost) {
                add(Change::Penalize(penalty), None);
            }
        }
        for (index, charge) in record.looked() {
            if let Some(penalty) = looked(charge) {
                corrections.push(Correction::new(*charge, Change::Penalize(penalty)));
                corrected.push(Corrected { index, cost: None });
            }
        }
        if corrections.is_empty() {
            return None;
        }
        let answer = core.correct(record.counted_locally, &corrections, core.clock.now());
        Some(Self { limiter: limiter.clone(), answer, corrected })
    }

    /// Waits for the store, and updates in `decision` what is left.
    ///
    /// # Errors
    /// The store does not answer. Then the decision stays as it was.
    pub(crate) fn poll(
        &mut self,
        decision: &mut Decision,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), StoreError>> {
        let Answer { usages, at } = ready!(Pin::new(&mut self.answer).poll(context))?;
        let record = &mut *decision.record;
        // All resets of a decision count from its time, so this one does too.
        let since = at.monotonic().saturating_sub(record.now.monotonic());
        for (&Corrected { index, cost }, usage) in self.corrected.iter().zip(&*usages) {
            match cost {
                Some(cost) => record.charges[index].cost = cost,
                // Only a block changes what is left.
                None if !usage.is_blocked() => continue,
                None => {}
            }
            // An unlimited quota is not shown, blocked or not.
            if let Some(shown) = record.usages.get_mut(index) {
                *shown = usage.later(0, nanos(since));
            }
            #[cfg(feature = "tracing")]
            if cost.is_none() {
                let charge = &record.charges[index];
                let entry = record.entries.get(index);
                let kind = entry.map(|entry| entry.labels.kind(entry.key_kind));
                let rules = self.limiter.core.rules();
                let policy = rules.of_charge(charge).map_or("", |rule| rule.policy.name());
                log_block_of(policy, kind, charge, usage);
            }
        }
        release_all(&self.limiter.core, record);
        Poll::Ready(Ok(()))
    }

    /// The same; but if the store does not answer, the policies of the corrected charges refuse.
    pub(super) fn poll_or_refuse(
        &mut self,
        decision: &mut Decision,
        context: &mut Context<'_>,
    ) -> Poll<()> {
        if let Err(error) = ready!(self.poll(decision, context)) {
            fallback::log(&error);
            let record = &mut *decision.record;
            for &Corrected { index, .. } in &self.corrected {
                record.refuse_without_store(index);
            }
            record.ruling = record.refusing().map_or(Ruling::Admitted, Ruling::Refused);
        }
        Poll::Ready(())
    }
}

/// Changes what the keys of an evaluation have used, and decides by what is left. The time of the
/// charges is not known. If the store does not answer, every policy refuses.
pub(super) async fn correct(core: &Core, mut evaluation: Evaluation, change: Change) -> Decision {
    let charges = evaluation.charges().iter();
    let corrections: SmallVec<[Correction; 4]> =
        charges.map(|charge| Correction::new(*charge, change)).collect();
    let at =
        match core.correct(evaluation.record.counted_locally, &corrections, core.clock.now()).await
        {
            Ok(Answer { usages, at }) if evaluation.set_usages(&usages) => at,
            answer => {
                let lacking = || StoreError::new("it has not answered for each correction");
                fallback::log(&answer.err().unwrap_or_else(lacking));
                let record = &mut *evaluation.record;
                (0..record.counted).for_each(|index| record.refuse_without_store(index));
                core.clock.now()
            }
        };
    release_all(core, &evaluation.record);
    evaluation.into_decision(at, Duration::ZERO)
}

/// Gives back all units that `decision` has charged, as what they were charged for is not done. Units in
/// flight come back by their [`Permit`](super::Permit).
pub(crate) fn undo(limiter: &Limiter, decision: &Decision) {
    let meter = decision.record.meter.as_ref();
    meter.into_iter().for_each(Meter::set_undone);
    if let Some(correcting) = Correcting::start(limiter, decision, |_| Some(0)) {
        correcting.detach(decision);
    }
}

/// Wakes requests that wait for the keys of `record`, as they may pass earlier.
fn release_all(core: &Core, record: &Record) {
    let counted = record.outcomes().filter(|outcome| outcome.entry.has_key());
    release(core, counted.map(|outcome| outcome.charge));
}
