//! Counts refusals towards the penalties of their keys: [`Penalizing`].

use std::{
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use smallvec::SmallVec;

#[cfg(feature = "tracing")]
use super::telemetry::log_block;
use super::{
    Core,
    decision::{Outcome, Reason, Record},
    fallback,
};
use crate::{
    clock::nanos,
    penalty::{Counted, Penalty},
    store::{Change, Correction, Mode, StoreFuture},
};

/// The refusals of one request, while the store counts them. It does so even if this is not polled.
pub(super) struct Penalizing {
    answer: StoreFuture,
    /// The indices of the policies in the record.
    refused: SmallVec<[usize; 4]>,
}

impl Penalizing {
    /// Starts to count the refusals in `record`, which are final. `None` if no penalty counts them.
    pub(super) fn start(core: &Core, record: &Record) -> Option<Self> {
        if record.charges.iter().all(|charge| !charge.has_penalty) {
            return None;
        }
        let refusals = record.outcomes().take(record.counted).enumerate();
        let counted = refusals.filter_map(|(index, outcome)| {
            let penalty = counted_by(&outcome)?;
            let change = Change::Penalize(penalty);
            Some((index, Correction::new(outcome.effective_charge(), change)))
        });
        let (refused, corrections): (_, SmallVec<[Correction; 4]>) = counted.unzip();
        if corrections.is_empty() {
            return None;
        }
        let answer = core.correct(record.counted_locally, &corrections, core.clock.now());
        Some(Self { answer, refused })
    }

    /// Counts the refusals in `record`, without waiting. If the store does not answer at once, the
    /// decision does not tell a block that begins.
    #[cold]
    pub(super) fn count_at_once(core: &Core, record: &mut Record) {
        if let Some(mut penalizing) = Self::start(core, record) {
            let _ = penalizing.poll(record, &mut Context::from_waker(Waker::noop()));
        }
    }

    /// Waits for the store, and tells in `record` which blocks have begun.
    pub(super) fn poll(&mut self, record: &mut Record, context: &mut Context<'_>) -> Poll<()> {
        let answer = match ready!(Pin::new(&mut self.answer).poll(context)) {
            Ok(answer) => answer,
            Err(error) => {
                fallback::log(&error);
                return Poll::Ready(());
            }
        };
        // All times of a decision count from its own, so this one does too.
        let since = answer.at.monotonic().saturating_sub(record.now.monotonic());
        for (index, usage) in self.refused.drain(..).zip(&*answer.usages) {
            if usage.is_blocked() {
                record.usages[index] = usage.later(0, nanos(since));
                record.entries[index].judge(&record.charges[index], usage);
                #[cfg(feature = "tracing")]
                log_block(&record.outcome(index));
            }
        }
        Poll::Ready(())
    }
}

/// The penalty that counts this refusal.
fn counted_by(outcome: &Outcome<'_>) -> Option<&'static Penalty> {
    let is_counted = outcome.charge.has_penalty
        && outcome.charge.mode != Mode::Peek
        && matches!(outcome.reason()?, Reason::QuotaExceeded | Reason::CostExceedsQuota);
    let penalty = outcome.entry.labels.penalty.as_ref().filter(|_| is_counted)?;
    penalty.counts(Counted::Refusals).then_some(penalty)
}
