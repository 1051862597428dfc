//! How a decision is made at once: the charges, the answer of the store, and the verdict.
//!
//! [`Deciding`](super::Deciding) makes the same steps, and waits between them.

use std::time::Duration;

use super::{
    Core, Limiter,
    decision::{Decision, Record, Special},
    evaluation::Evaluation,
    fallback::{Fallback, decide_without_store},
    penalizing::Penalizing,
    queue::Turn,
    rules::RuleSet,
    telemetry::observe,
};
use crate::{
    clock::{Now, nanos},
    store::{Answer, StoreError, Usage},
};

/// Decides most requests: no key is missing, the store answers at once, and no request is held or
/// may be held.
#[inline(always)]
pub(super) fn decide_simply(
    core: &Core,
    rules: &RuleSet,
    evaluation: Evaluation,
    now: Now,
) -> Result<Decision, Evaluation> {
    let is_simple = evaluation.needs_store()
        && evaluation.record.special == Special::NONE
        && !core.queue.has_waiting();
    if !is_simple {
        return Err(evaluation);
    }
    let decision = evaluation.decide_at_once(&*core.store, now, count_refusals(core))?;
    observe(rules, &decision);
    Ok(decision)
}

/// Decides, but never holds. `None` if the store does not answer at once.
#[inline(always)]
pub(super) fn decide_at_once(
    limiter: &Limiter,
    rules: &RuleSet,
    evaluation: Evaluation,
) -> Option<Decision> {
    let now = limiter.core.clock.now();
    match decide_simply(&limiter.core, rules, evaluation, now) {
        Ok(decision) => Some(decision),
        Err(evaluation) => decide_at_once_in_order(limiter, rules, evaluation, now),
    }
}

/// Counts refusals towards penalties.
fn count_refusals(core: &Core) -> impl FnOnce(&mut Record) {
    |record| Penalizing::count_at_once(core, record)
}

#[cold]
fn decide_at_once_in_order(
    limiter: &Limiter,
    rules: &RuleSet,
    mut evaluation: Evaluation,
    now: Now,
) -> Option<Decision> {
    let core = &*limiter.core;
    if evaluation.awaited().is_some() {
        return None;
    }
    if evaluation.needs_store() {
        if !charge_at_once_in_order(core, &mut evaluation, None, now) {
            return None;
        }
        evaluation.record.now = now;
        Penalizing::count_at_once(core, &mut evaluation.record);
    }
    Some(finish(limiter, rules, evaluation, now, Duration::ZERO, false))
}

/// Charges behind the requests that are held, if the store answers at once.
#[inline]
pub(super) fn charge_at_once_in_order(
    core: &Core,
    evaluation: &mut Evaluation,
    turn: Option<Turn>,
    now: Now,
) -> bool {
    if core.queue.has_waiting() {
        core.queue.set_queued_ahead(evaluation.charges_mut().iter_mut(), None, turn, now);
    }
    evaluation.charge_at_once(&*core.store, now)
}

/// Makes the decision, and reports it to metrics and events.
pub(super) fn finish(
    limiter: &Limiter,
    rules: &RuleSet,
    evaluation: Evaluation,
    at: Now,
    held: Duration,
    was_queued: bool,
) -> Decision {
    let mut decision = conclude(&limiter.core, evaluation, at, held, was_queued);
    if decision.record.special.has_end() {
        decision.record.keep_until_end(limiter);
        tell_waits(rules, &mut decision);
    }
    observe(rules, &decision);
    decision
}

/// Makes the decision.
fn conclude(
    core: &Core,
    mut evaluation: Evaluation,
    at: Now,
    held: Duration,
    was_queued: bool,
) -> Decision {
    if !evaluation.needs_store() {
        return evaluation.into_uncounted_decision(at, held);
    }
    if core.queue.has_waiting() {
        lengthen_waits(core, &mut evaluation, was_queued, at);
    }
    evaluation.into_decision(at, held)
}

/// What would be decided about a request.
#[cfg(feature = "describe")]
pub(super) struct Foreseen {
    /// The decision, if the request is not held.
    pub(super) decision: Decision,
    /// How long the request would be held, until its units are expected to be free.
    pub(super) held: Option<Duration>,
}

/// What [`Deciding`](super::Deciding) would decide about this evaluation. Nothing is charged, queued or
/// reported.
#[cfg(feature = "describe")]
pub(super) async fn foresee(
    core: &Core,
    rules: &RuleSet,
    mut evaluation: Evaluation,
    turn: Option<Turn>,
    now: Now,
) -> Foreseen {
    let (mut at, mut held) = (now, None);
    if evaluation.needs_store() {
        core.queue.set_queued_ahead(evaluation.charges_mut().iter_mut(), None, turn, now);
        let answer = core.store.preview(evaluation.charges(), now).await;
        at = apply(core, rules, &mut evaluation, answer, now, Fallback::Preview);
        let has_room = || core.queue.has_room(evaluation.record.outcomes(), turn, now);
        let wait = evaluation.wait_worthwhile(super::queued::Held::default());
        held = wait.filter(|_| core.clock.may_have_timers() && has_room());
    }
    let mut decision = conclude(core, evaluation, at, Duration::ZERO, false);
    tell_waits(rules, &mut decision);
    Foreseen { decision, held }
}

/// Applies the store's answer, or decides without it. Returns the time of the decision.
pub(super) fn apply(
    core: &Core,
    rules: &RuleSet,
    evaluation: &mut Evaluation,
    answer: Result<Answer, StoreError>,
    now: Now,
    fallback: Fallback,
) -> Now {
    let error = match answer {
        Ok(Answer { usages, at }) if evaluation.set_usages(&usages) => return at,
        // A custom store has left out a charge. That counts as no answer.
        Ok(_) => StoreError::new("it has not answered for each charge"),
        Err(error) => error,
    };
    decide_without_store(core, rules, evaluation, &error, now, fallback);
    now
}

/// Replaces unknown waits by those that the policies set.
#[cold]
fn tell_waits(rules: &RuleSet, decision: &mut Decision) {
    let Record { charges, usages, .. } = &mut *decision.record;
    let is_unknown = |usage: &Usage| usage.known_wait().is_none() && !usage.is_blocked();
    let unknown = charges.iter().zip(usages).filter(|(_, usage)| is_unknown(usage));
    for (charge, usage) in unknown {
        let told = rules.of_charge(charge).and_then(|rule| rule.policy.settings.retry_after);
        *usage = told.map_or(*usage, |wait| usage.with_wait(wait));
    }
}

/// Lengthens the waits of a refusal, because held requests may charge later than they are due.
#[cold]
fn lengthen_waits(core: &Core, evaluation: &mut Evaluation, was_queued: bool, now: Now) {
    for index in 0..evaluation.record.entries.len() {
        if evaluation.record.outcome(index).retry_after().is_none() {
            continue;
        }
        let record = &mut *evaluation.record;
        let (charge, usage) = (&record.charges[index], &mut record.usages[index]);
        let longest = core.queue.longest_wait(charge, usage.wait(), was_queued, now);
        *usage = usage.later(nanos(longest.saturating_sub(usage.wait())), 0);
    }
}
