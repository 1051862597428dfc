use std::{
    cmp::Ordering,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::response::Parts;
use smallvec::SmallVec;

use super::{Inner, Limiter};
use crate::{
    clock::nanos,
    limiter::{Decision, Outcome},
    store::{Answer, Change, Correction, StoreFuture},
};

/// Corrects what a request has cost, once its response is there.
pub(crate) struct Settling {
    answer: StoreFuture,
    limiter: Limiter,
    /// Which outcomes are corrected, the dry runs last, and what each has cost after all.
    places: SmallVec<[(usize, u64); 4]>,
}

impl Limiter {
    /// What `response` changes about the charges of `decision`; `None` where nothing does.
    pub(crate) fn settle(&self, decision: &Decision, response: &Parts) -> Option<Settling> {
        let mut corrections: SmallVec<[Correction; 4]> = SmallVec::new();
        let mut places = SmallVec::new();
        for (place, outcome) in decision.all().enumerate() {
            let Some((cost, change)) = self.inner.change(outcome, response) else { continue };
            corrections.push(decision.correction(outcome, change));
            places.push((place, cost));
        }
        if corrections.is_empty() {
            return None;
        }
        let store = self.inner.store_of(decision);
        let answer = store.correct(&corrections, self.inner.clock.now());
        Some(Settling { limiter: self.clone(), answer, places })
    }

    /// Gives back all that `decision` has charged: the request was never served.
    pub(crate) fn undo(&self, decision: &Decision) {
        let made = decision.all().filter(|outcome| outcome.is_allowed());
        let give_back =
            |outcome: &Outcome| decision.correction(outcome, Change::GiveBack(outcome.charge.cost));
        let corrections: SmallVec<[Correction; 4]> = made.map(give_back).collect();
        // Made whether or not it is awaited.
        let store = self.inner.store_of(decision);
        let now = self.inner.clock.now();
        drop(store.correct(&corrections, now));
        self.inner.line.freed(corrections.iter().map(|correction| &correction.charge), now);
    }
}

impl Decision {
    /// Changes what a charge of this decision has used.
    fn correction(&self, outcome: &Outcome, change: Change) -> Correction {
        let (charge, usage) = (outcome.made(), outcome.usage);
        Correction { charge, charged_at: Some(self.record.now), usage, change }
    }
}

impl Settling {
    /// Waits for the store, and writes what is left into `decision`.
    #[expect(clippy::expect_used, reason = "the places are those of the decision's outcomes")]
    pub(crate) fn poll(&mut self, decision: &mut Decision, context: &mut Context<'_>) -> Poll<()> {
        // Where the store does not answer, what was charged is what is told.
        let Ok(Answer { usages, at }) = ready!(Pin::new(&mut self.answer).poll(context)) else {
            return Poll::Ready(());
        };
        // A reset counts from when it was decided, as all others of the decision do.
        let since = at.monotonic().saturating_sub(decision.record.now.monotonic());
        let mut outcomes = decision.all_mut().enumerate();
        for (&(place, cost), usage) in self.places.iter().zip(&usages) {
            let outcome = outcomes.find(|(at, _)| *at == place);
            let (_, outcome) = outcome.expect("the places are in order, and outcomes stay");
            outcome.charge.cost = cost;
            outcome.usage = usage.later(0, nanos(since));
        }
        drop(outcomes);
        let inner = &self.limiter.inner;
        inner.line.freed(decision.all().filter_map(Outcome::charge), inner.clock.now());
        Poll::Ready(())
    }
}

impl Inner {
    /// What a response says that its request has cost, where that is not what was charged.
    fn change(&self, outcome: &Outcome, response: &Parts) -> Option<(u64, Change)> {
        // A dry run that did not fit was not charged.
        if !outcome.is_allowed() {
            return None;
        }
        let charged = outcome.charge.cost;
        let cost = self.rule(outcome.place).policy.settings.cost_from_response(response)?;
        let by = cost.abs_diff(charged);
        match cost.cmp(&charged) {
            Ordering::Equal => None,
            Ordering::Greater => Some((cost, Change::Take(by))),
            Ordering::Less => Some((cost, Change::GiveBack(by))),
        }
    }
}
