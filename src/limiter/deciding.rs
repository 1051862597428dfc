//! How an [`Evaluation`] becomes a [`Decision`]: at once, or by [`Deciding`], which may wait.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use http::request::Parts;

use super::{
    Core, Limiter,
    current_rules::{KeptRules, LoadedRules},
    decide::{apply, charge_at_once_in_order, decide_simply, finish},
    decision::{Decision, Record},
    evaluation::Evaluation,
    fallback::Fallback,
    penalizing::Penalizing,
    queue::{Join, Left, Turn, Wakeup},
    queued::{Held, Queued, timer},
};
use crate::{clock::Now, store::StoreFuture};

/// The steps of a decision that is not simple, and may wait. It has no reference to the limiter: the caller of
/// [`poll`](Self::poll) passes it, so that no request counts a reference.
#[must_use = "nothing is decided unless it is polled"]
pub(crate) struct Deciding {
    /// The rules that it began with.
    rules: KeptRules,
    /// The newer rules whose quotas it has taken over, if any.
    adopted: Option<KeptRules>,
    evaluation: Evaluation,
    /// Whose turn it is where tenants take turns. Boxed: most requests have none.
    turn: Option<Box<Turn>>,
    arrived: Now,
    step: Step,
    /// Boxed: most requests are never held.
    queued: Option<Box<Queued>>,
}

enum Step {
    /// The overrides of the caller may still have to be known.
    Evaluated,
    Charging {
        answer: StoreFuture,
        now: Now,
    },
    /// By the current quotas, there is nothing to charge any more.
    Uncounted {
        now: Now,
    },
    Waiting,
    /// It is decided, and the store counts the refusals. Boxed, so that the futures of requests that pass
    /// stay small.
    Counting(Box<Counting>),
}

/// A refusal that is counted.
struct Counting {
    penalizing: Penalizing,
    /// When it was decided, how long the request was held, and whether it was queued.
    decided: (Now, Duration, bool),
}

impl Counting {
    /// Waits until it is counted.
    #[inline(never)]
    fn poll(
        &mut self,
        record: &mut Record,
        context: &mut Context<'_>,
    ) -> Poll<(Now, Duration, bool)> {
        ready!(self.penalizing.poll(record, context));
        Poll::Ready(self.decided)
    }
}

/// Decides at once if no waiting is needed; otherwise returns what waits.
#[inline(always)]
pub(super) fn try_decide(
    limiter: &Limiter,
    rules: LoadedRules<'_>,
    evaluation: Evaluation,
    request: Option<&Parts>,
) -> Result<Decision, Box<Deciding>> {
    let now = limiter.core.clock.now();
    decide_simply(&limiter.core, &rules, evaluation, now)
        .or_else(|evaluation| Deciding::start(limiter, rules, evaluation, request, now))
}

impl Deciding {
    #[inline]
    pub(super) fn new(
        rules: LoadedRules<'_>,
        evaluation: Evaluation,
        turn: Option<Box<Turn>>,
        arrived: Now,
    ) -> Self {
        let rules = rules.keep();
        let (step, adopted, queued) = (Step::Evaluated, None, None);
        Self { rules, adopted, evaluation, turn, arrived, step, queued }
    }

    /// Polls once: returns the decision if it is ready, or else what waits for it.
    #[inline(never)]
    fn start(
        limiter: &Limiter,
        rules: LoadedRules<'_>,
        evaluation: Evaluation,
        request: Option<&Parts>,
        arrived: Now,
    ) -> Result<Decision, Box<Self>> {
        let turn = evaluation.turn(&limiter.core, &rules, request).map(Box::new);
        let mut deciding = Self::new(rules, evaluation, turn, arrived);
        // The waker is not used: this is polled again with the caller's.
        match deciding.poll(limiter, &mut Context::from_waker(Waker::noop())) {
            Poll::Ready(decision) => Ok(decision),
            Poll::Pending => Err(deciding.keep()),
        }
    }

    /// Keeps what waits. Its rules are counted only here, as the count is a write that threads share.
    #[cold]
    pub(super) fn keep(mut self) -> Box<Self> {
        self.rules = self.rules.for_long();
        Box::new(self)
    }

    /// Replaces the quotas of the charges by those of the current rules. Returns whether there are
    /// other rules.
    #[inline]
    fn adopt_quotas(&mut self, core: &Core) -> bool {
        let current = &core.rules;
        let known = current.of(self.adopted.as_ref().unwrap_or(&self.rules));
        known.number() != current.number() && self.adopt_applied_quotas(core)
    }

    #[inline(never)]
    fn adopt_applied_quotas(&mut self, core: &Core) -> bool {
        let current = core.rules();
        let known = core.rules.of(self.adopted.as_ref().unwrap_or(&self.rules));
        if known.number() == current.number() {
            return false;
        }
        self.evaluation.adopt_quotas(known, &current, &core.clock);
        self.adopted = Some(current.keep().for_long());
        true
    }

    /// Charges, if the store answers at once.
    #[inline]
    fn is_charged_at_once(&mut self, core: &Core) -> bool {
        let turn = self.turn.as_deref().copied();
        charge_at_once_in_order(core, &mut self.evaluation, turn, self.arrived)
    }

    /// Sends the charges to the store, behind the requests that are held already, if any charge has a
    /// key and a quota.
    fn charge(&mut self, core: &Core, now: Now) {
        self.adopt_quotas(core);
        if !self.evaluation.needs_store() {
            self.step = Step::Uncounted { now };
            return;
        }
        let record = &mut *self.evaluation.record;
        if mem::take(&mut record.counted_locally) {
            record.entries.iter_mut().for_each(|entry| entry.replicas = 1);
        }
        let ticket = self.queued.as_ref().map(|queued| queued.ticket);
        let charges = self.evaluation.charges_mut().iter_mut();
        core.queue.set_queued_ahead(charges, ticket, self.turn.as_deref().copied(), now);
        self.evaluation.note_resets();
        let answer = core.charge(self.evaluation.charges(), now);
        self.step = Step::Charging { answer, now };
    }

    /// Queues the request until its units fit. `false` if the queue has no room, or if the wait is
    /// longer than a policy holds a request.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    fn queue_up(&mut self, limiter: &Limiter, now: Now) -> bool {
        let core = &*limiter.core;
        let (at, arrived) = (now.monotonic(), self.arrived.monotonic());
        let known_until = self.queued.as_ref().map_or(arrived, |queued| queued.known_until);
        let (in_all, for_unknown) = (at.saturating_sub(arrived), at.saturating_sub(known_until));
        let held = Held { in_all, for_unknown, is_queued: self.queued.is_some() };
        let Some(wait) = self.evaluation.wait_worthwhile(held) else { return false };
        let known_until = known_until.max(at.saturating_add(self.evaluation.known_wait()));
        let due = core.clock.instant() + wait;
        let asks_again = core.is_shared && self.evaluation.waits_for_others();
        let queue = &core.queue;
        let outcomes = self.evaluation.record.outcomes();
        match &mut self.queued {
            Some(queued) => {
                if !queue.wait_again(queued.ticket, outcomes, now) {
                    return false;
                }
                (queued.due, queued.asks_again) = (due, asks_again);
                queued.known_until = known_until;
                queued.sleep_until_due_or_first(now);
            }
            None => {
                // The timer comes first: if there is none, no ticket has to leave the queue.
                let Some(timer) = timer(&core.clock, due) else { return false };
                let turn = self.turn.as_deref().copied();
                let ticket = match queue.join(outcomes, turn, now) {
                    Join::Queued(ticket) => ticket,
                    Join::Full => return false,
                    Join::Outdated => {
                        self.charge(core, core.clock.now());
                        return true;
                    }
                };
                let (limiter, left) = (limiter.clone(), Left::Early);
                let mut queued =
                    Queued { limiter, ticket, due, known_until, asks_again, timer, left };
                queued.sleep_until_due_or_first(now);
                self.queued = Some(Box::new(queued));
            }
        }
        self.step = Step::Waiting;
        if self.adopt_quotas(core) {
            // They were applied after the charge, and perhaps too early to wake the ticket.
            self.charge(core, core.clock.now());
        }
        true
    }

    /// Makes the decision; `None` if the store first has to count refusals. Not inlined, so that requests
    /// which are decided at the first poll do not pay for its registers.
    #[inline(never)]
    fn conclude(
        &mut self,
        limiter: &Limiter,
        at: Now,
        held: Duration,
        was_queued: bool,
    ) -> Option<Decision> {
        let (core, needs_store) = (&*limiter.core, self.evaluation.needs_store());
        let record = &mut *self.evaluation.record;
        record.now = at;
        if needs_store && record.refusing().is_none() {
            // A request that passes does not wait until a dry run has counted.
            Penalizing::count_at_once(core, record);
        } else if needs_store && let Some(penalizing) = Penalizing::start(core, record) {
            let decided = (at, held, was_queued);
            self.step = Step::Counting(Box::new(Counting { penalizing, decided }));
            return None;
        }
        Some(self.finish(limiter, at, held, was_queued))
    }

    fn finish(&mut self, limiter: &Limiter, at: Now, held: Duration, was_queued: bool) -> Decision {
        let evaluation = mem::take(&mut self.evaluation);
        let rules = limiter.core.rules.of(&self.rules);
        finish(limiter, rules, evaluation, at, held, was_queued)
    }

    /// Counts the turn of a request that was never queued.
    #[inline]
    fn pass_at_once(&self, core: &Core, now: Now) {
        let turn = self.turn.as_deref().copied();
        if let Some(turn) = turn.filter(|_| core.queue.has_waiting()) {
            core.queue.pass_at_once(self.evaluation.record.outcomes(), turn, now);
        }
    }

    /// Waits for the request's turn, and charges when it has come.
    #[expect(clippy::expect_used, reason = "the step `Waiting` begins with a ticket")]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    fn poll_turn(&mut self, core: &Core, context: &mut Context<'_>) -> Poll<()> {
        let queued = self.queued.as_mut().expect("a request that waits has a ticket");
        let wakeup = core.queue.take_wakeup(queued.ticket, context.waker());
        let sleeps = Pin::new(&mut queued.timer).poll(context).is_pending();
        let now = match wakeup {
            Wakeup::No if sleeps => return Poll::Pending,
            Wakeup::Nudged if sleeps => {
                queued.sleep_until_due_or_first(core.clock.now());
                return Pin::new(&mut queued.timer).poll(context);
            }
            _ => core.clock.now(),
        };
        // Requests that came earlier and are due as well go first, and the last of them wakes this
        // one. They lose that right if they are not polled for a short time.
        let waited = now.monotonic().saturating_sub(self.arrived.monotonic());
        let longest_hold = Duration::from_nanos(self.evaluation.record.longest_hold());
        let patience = longest_hold.saturating_sub(waited);
        let yields = core.queue.yields_turn(queued.ticket, now).filter(|_| !patience.is_zero());
        if let Some(yields) = yields {
            queued.timer.reset(core.clock.instant() + yields.min(patience));
            return Pin::new(&mut queued.timer).poll(context);
        }
        self.charge(core, now);
        Poll::Ready(())
    }

    /// Goes on as far as it can without waiting. `limiter` is the same in each call.
    pub(crate) fn poll(&mut self, limiter: &Limiter, context: &mut Context<'_>) -> Poll<Decision> {
        let core = &*limiter.core;
        loop {
            let (answer, now) = match &mut self.step {
                Step::Evaluated => {
                    self.adopt_quotas(core);
                    if let Some(awaited) = self.evaluation.awaited() {
                        ready!(Pin::new(awaited).poll(context));
                        self.evaluation.apply_overrides(core, core.rules.of(&self.rules));
                        self.arrived = core.clock.now();
                        continue;
                    }
                    let needs_store = self.evaluation.needs_store();
                    if needs_store && !self.is_charged_at_once(core) {
                        self.charge(core, self.arrived);
                    } else if !self.queue_up(limiter, self.arrived) {
                        if self.evaluation.is_charged() {
                            self.pass_at_once(core, self.arrived);
                        }
                        let decision = self.conclude(limiter, self.arrived, Duration::ZERO, false);
                        if let Some(decision) = decision {
                            return Poll::Ready(decision);
                        }
                    }
                    continue;
                }
                Step::Counting(counting) => {
                    let record = &mut self.evaluation.record;
                    let (at, held, was_queued) = ready!(counting.poll(record, context));
                    return Poll::Ready(self.finish(limiter, at, held, was_queued));
                }
                Step::Waiting => {
                    ready!(self.poll_turn(core, context));
                    continue;
                }
                Step::Charging { answer, now } => {
                    (Some(ready!(Pin::new(answer).poll(context))), *now)
                }
                Step::Uncounted { now } => (None, *now),
            };
            let rules = core.rules.of(&self.rules);
            let charged = &mut self.evaluation;
            let at = answer
                .map_or(now, |answer| apply(core, rules, charged, answer, now, Fallback::Charge));
            if self.evaluation.needs_store() && self.queue_up(limiter, now) {
                continue;
            }
            // The ticket leaves, so that the tickets behind move up.
            let is_charged = self.evaluation.is_charged();
            let left = if is_charged { Left::Charged } else { Left::Refused };
            let was_queued = self.queued.take().map(|mut queued| queued.left = left).is_some();
            if is_charged && !was_queued {
                self.pass_at_once(core, now);
            }
            let held = now.monotonic().saturating_sub(self.arrived.monotonic());
            if let Some(decision) = self.conclude(limiter, at, held, was_queued) {
                return Poll::Ready(decision);
            }
        }
    }
}

impl fmt::Debug for Deciding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deciding").field("held", &self.queued.is_some()).finish_non_exhaustive()
    }
}
