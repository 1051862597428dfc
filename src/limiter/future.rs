use std::{
    fmt,
    future::Future,
    mem, panic,
    pin::Pin,
    slice,
    sync::Once,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use smallvec::{SmallVec, smallvec};
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};

use super::{Inner, Limiter};
use crate::{
    clock::{Now, nanos},
    limiter::queue::{Joined, Wanted, Woken},
    limiter::{Decision, Outcome},
    store::{Answer, Change, Charge, Correction, StoreError, StoreFuture, Usage},
    warning::{Code, warn},
};

/// A [`Decision`] to come.
///
/// In memory it is there at the first poll, unless the request is held. Dropping it while the
/// request is held costs nothing.
#[must_use = "nothing is decided unless it is awaited"]
pub struct DecisionFuture {
    limiter: Limiter,
    /// While it is made.
    decision: Decision,
    arrived: Now,
    step: Step,
    /// Whether it changes what was used, instead of using.
    corrects: bool,
    /// Boxed: most requests are never held.
    held: Option<Box<Held>>,
}

enum Step {
    Arrived,
    Charging { answer: StoreFuture, now: Now },
    Waiting,
}

/// A place in the line, given up when it is dropped.
struct Held {
    limiter: Limiter,
    ticket: u64,
    /// When its units are expected to fit.
    due: Instant,
    sleep: Pin<Box<Sleep>>,
    turn_has_come: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        let inner = &self.limiter.inner;
        inner.line.leave(self.ticket, self.turn_has_come, inner.clock.now());
    }
}

impl Held {
    /// Sleeps until its units are expected to fit; or, if that is earlier, until the one ahead is
    /// late, for whom it is then not to wait.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    fn sleep_until_due_or_first(&mut self, now: Now) {
        let late_in = self.limiter.inner.line.next_late_in(self.ticket, now);
        let late_at = late_in.map(|late_in| Instant::now() + late_in);
        let wake_at = late_at.map_or(self.due, |late_at| late_at.min(self.due));
        self.sleep.as_mut().reset(wake_at);
    }
}

impl DecisionFuture {
    pub(super) fn new(limiter: Limiter, asked: Decision) -> Self {
        let arrived = limiter.inner.clock.now();
        let (step, held) = (Step::Arrived, None);
        Self { limiter, decision: asked, arrived, step, corrects: false, held }
    }

    /// Decides, if the store answers at once and the request is not held.
    #[inline]
    pub(super) fn at_once(limiter: &Limiter, decision: &mut Decision) -> Option<Box<Self>> {
        let arrived = limiter.inner.clock.now();
        let answer = limiter.inner.begin(decision, arrived)?;
        let decision = decision.take();
        let (limiter, step) = (limiter.clone(), Step::Charging { answer, now: arrived });
        Some(Box::new(Self { limiter, decision, arrived, step, corrects: false, held: None }))
    }

    /// Changes what was used, instead of using.
    pub(super) fn correcting(limiter: Limiter, asked: Decision, change: Change) -> Self {
        let now = limiter.inner.clock.now();
        let charges = asked.charges().into_iter();
        let corrections: SmallVec<[Correction; 4]> =
            charges.map(|charge| Correction::new(charge, change)).collect();
        let answer = limiter.inner.store.correct(&corrections, now);
        let step = Step::Charging { answer, now };
        Self { limiter, decision: asked, arrived: now, step, corrects: true, held: None }
    }

    fn charge(&mut self, now: Now) {
        let ticket = self.held.as_ref().map(|held| held.ticket);
        let answer = self.limiter.inner.charge(&mut self.decision, ticket, now);
        self.step = Step::Charging { answer, now };
    }

    /// Takes a place in the line, or keeps it, until the wait is over; or charges again, where
    /// someone else was faster. `false` where there is no room, or where the wait is longer than a
    /// policy holds a request.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    fn hold(&mut self, now: Now) -> bool {
        let held_so_far = now.monotonic().saturating_sub(self.arrived.monotonic());
        let inner = &self.limiter.inner;
        let wait = self.decision.wait_worthwhile(inner, held_so_far);
        let Some(wait) = wait else { return false };
        let line = &inner.line;
        let due = Instant::now() + wait;
        let wanted =
            self.decision.all().map(|Outcome { charge, usage, place, labels, .. }| Wanted {
                charge,
                wait: usage.wait(),
                hold: inner.rule(*place).hold,
                is_global: labels.is_global,
            });
        match &mut self.held {
            Some(held) => {
                line.wait_again(held.ticket, wanted, now);
                held.due = due;
                held.sleep_until_due_or_first(now);
            }
            None => {
                // Before there is anything to give back.
                let Some(sleep) = timer(due) else { return false };
                let ticket = match line.join(self.decision.callers(), wanted, now) {
                    Joined::At(ticket) => ticket,
                    Joined::Refused => return false,
                    Joined::Outdated => {
                        self.charge(self.limiter.inner.clock.now());
                        return true;
                    }
                };
                let sleep = Box::pin(sleep);
                let limiter = self.limiter.clone();
                let mut held = Held { limiter, ticket, due, sleep, turn_has_come: false };
                held.sleep_until_due_or_first(now);
                self.held = Some(Box::new(held));
            }
        }
        self.step = Step::Waiting;
        true
    }

    /// Waits for the turn, and charges when it has come.
    #[expect(clippy::expect_used, reason = "who waits is held: both begin together")]
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a wait of 584 years, the longest, leads to a moment"
    )]
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let held = self.held.as_mut().expect("who waits is held");
        let inner = &self.limiter.inner;
        let woken = inner.line.woken(held.ticket, context.waker());
        let sleeps = held.sleep.as_mut().poll(context).is_pending();
        let now = match woken {
            Woken::No if sleeps => return Poll::Pending,
            Woken::Nudged if sleeps => {
                held.sleep_until_due_or_first(inner.clock.now());
                return held.sleep.as_mut().poll(context);
            }
            _ => inner.clock.now(),
        };
        // Those who came earlier and are due as well go first, and the last of them wakes this one;
        // but one that is not polled again keeps it for a short time only.
        let waited = now.monotonic().saturating_sub(self.arrived.monotonic());
        let patience = self.decision.longest_hold(inner).saturating_sub(waited);
        let gives_way = inner.line.gives_way(held.ticket, now).filter(|_| !patience.is_zero());
        if let Some(gives_way) = gives_way {
            held.sleep.as_mut().reset(Instant::now() + gives_way.min(patience));
            return held.sleep.as_mut().poll(context);
        }
        self.charge(now);
        Poll::Ready(())
    }
}

/// A timer; `None` where no runtime has one.
fn timer(wake_at: Instant) -> Option<Sleep> {
    // Whether a runtime's time is enabled, tokio tells only by its panic.
    let timer = || panic::catch_unwind(|| tokio::time::sleep_until(wake_at)).ok();
    let timer = Handle::try_current().ok().and_then(|_| timer());
    if timer.is_none() {
        report_no_timer();
    }
    timer
}

#[cold]
fn report_no_timer() {
    static REPORTED: Once = Once::new();
    REPORTED.call_once(|| {
        warn(Code::NoTimer, "", || {
            "a request could not be held and was refused, as there is no tokio runtime with time \
             here; call `enable_time` on the runtime's builder, or ask inside of the runtime"
                .to_owned()
        });
    });
}

impl Inner {
    /// Charges for a request that holds `ticket`, or has just arrived.
    fn charge(&self, decision: &mut Decision, ticket: Option<u64>, now: Now) -> StoreFuture {
        if mem::take(&mut decision.record.counted_locally) {
            decision.all_mut().for_each(|outcome| outcome.replicas = 1);
        }
        self.line.look(decision.charges_mut(), ticket, now);
        self.store.charge(&decision.charges(), now)
    }

    /// Decides by what the store has answered, or without; when it was decided.
    #[inline]
    fn take(&self, answer: &Result<Answer, StoreError>, decision: &mut Decision, now: Now) -> Now {
        match answer {
            Ok(Answer { usages, at }) if decision.answer(usages) => *at,
            Ok(_) => {
                // Of a store that is not ours: what it has left out has not fitted.
                let error = StoreError::new("it has not answered for each charge");
                self.decide_without_store(decision, &error, now);
                now
            }
            Err(error) => {
                self.decide_without_store(decision, error, now);
                now
            }
        }
    }

    /// What a refusal says of the time when the request would pass holds as well where those who
    /// wait use their units later than they are due.
    fn refuse_beside_line(&self, decision: &mut Decision, was_held: bool, now: Now) {
        if self.line.is_waited_in() {
            let refused = decision.all_mut().filter(|outcome| outcome.retry_after().is_some());
            refused.for_each(|outcome| self.lengthen_wait(outcome, was_held, now));
        }
    }

    /// The same of one policy.
    #[cold]
    pub(super) fn lengthen_wait(&self, outcome: &mut Outcome, was_held: bool, now: Now) {
        let (known, longest) =
            (outcome.usage.wait(), self.line.longest_wait(&outcome.charge, was_held, now));
        outcome.usage = outcome.usage.later(nanos(longest.saturating_sub(known)), 0);
    }

    /// Decides; or else this is what the store answers first.
    #[inline]
    fn begin(&self, decision: &mut Decision, now: Now) -> Option<StoreFuture> {
        if self.decide_at_once(decision, now) { None } else { self.begin_slowly(decision, now) }
    }

    /// Decides, if all keys are known, the store answers at once, and nobody is or is to be held: as
    /// it is with most requests.
    fn decide_at_once(&self, decision: &mut Decision, now: Now) -> bool {
        let record = &mut *decision.record;
        let charged = match &mut record.all[..] {
            [outcome] => self.decide_one_at_once(outcome, now),
            _ if self.line.is_waited_in() => false,
            all => {
                let is_plain = |outcome: &Outcome| self.is_plain(outcome);
                !all.is_empty() && all.iter().all(is_plain) && self.charge_at_once(all, now)
            }
        };
        if charged {
            record.close(now, Duration::ZERO);
            self.observe(decision);
        }
        charged
    }

    /// Whether its key is known and nobody is to be held for it.
    #[inline]
    fn is_plain(&self, outcome: &Outcome) -> bool {
        outcome.has_key() && self.rule(outcome.place).hold.is_zero()
    }

    #[inline]
    fn decide_one_at_once(&self, outcome: &mut Outcome, now: Now) -> bool {
        !self.line.is_waited_in() && self.is_plain(outcome) && self.charge_one_at_once(outcome, now)
    }

    /// Charges for a policy, if the store answers at once.
    #[inline]
    pub(super) fn charge_one_at_once(&self, outcome: &mut Outcome, now: Now) -> bool {
        let charge = slice::from_ref(&outcome.charge);
        let usage = slice::from_mut(&mut outcome.usage);
        let charged = self.store.charge_at_once(charge, usage, now);
        if charged {
            outcome.judge();
        }
        charged
    }

    fn charge_at_once(&self, all: &mut [Outcome], now: Now) -> bool {
        let charges: SmallVec<[Charge; 8]> = all.iter().map(|outcome| outcome.charge).collect();
        let mut usages: SmallVec<[Usage; 8]> = smallvec![Usage::default(); charges.len()];
        let charged = self.store.charge_at_once(&charges, &mut usages, now);
        if charged {
            all.iter_mut().zip(&usages).for_each(|(outcome, usage)| outcome.answer(usage));
        }
        charged
    }

    fn begin_slowly(&self, decision: &mut Decision, now: Now) -> Option<StoreFuture> {
        if decision.needs_store() {
            let mut charging = self.charge(decision, None, now);
            let noop = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(answer) = Pin::new(&mut charging).poll(noop) else {
                return Some(charging);
            };
            let at = self.take(&answer, decision, now);
            if decision.wait_worthwhile(self, Duration::ZERO).is_some() {
                return Some(StoreFuture::ready(answer));
            }
            self.refuse_beside_line(decision, false, now);
            decision.finish(at, Duration::ZERO);
        } else {
            decision.finish_uncounted(now);
        }
        self.observe(decision);
        None
    }
}

impl Future for DecisionFuture {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let this = &mut *self;
        loop {
            let (answer, now) = match &mut this.step {
                Step::Arrived => {
                    let Some(answer) = this.limiter.inner.begin(&mut this.decision, this.arrived)
                    else {
                        break;
                    };
                    this.step = Step::Charging { answer, now: this.arrived };
                    continue;
                }
                Step::Waiting => {
                    ready!(this.poll_turn(context));
                    continue;
                }
                Step::Charging { answer, now } => (ready!(Pin::new(answer).poll(context)), *now),
            };
            let at = match &answer {
                Err(error) if this.corrects => {
                    this.decision.leave_uncorrected(error);
                    now
                }
                _ => this.limiter.inner.take(&answer, &mut this.decision, now),
            };
            if this.corrects {
                let charges = this.decision.charges_mut().map(|charge| &*charge);
                this.limiter.inner.line.freed(charges, now);
            } else if this.hold(now) {
                continue;
            }
            // Whoever is behind may go on.
            let was_held = this.held.take().map(|mut held| held.turn_has_come = true).is_some();
            if !this.corrects {
                this.limiter.inner.refuse_beside_line(&mut this.decision, was_held, now);
            }
            let held_for = now.monotonic().saturating_sub(this.arrived.monotonic());
            this.decision.finish(at, held_for);
            if !this.corrects {
                this.limiter.inner.observe(&this.decision);
            }
            break;
        }
        Poll::Ready(this.decision.take())
    }
}

impl fmt::Debug for DecisionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionFuture").field("held", &self.held.is_some()).finish_non_exhaustive()
    }
}
