use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use smallvec::SmallVec;
use tokio::time::{Instant, Sleep};

use super::{Limiter, asked::Asked};
use crate::{
    clock::Now,
    decision::Decision,
    hold::{Joined, Wanted},
    store::{Change, Charge, Correction, StoreFuture, Usages},
};

/// A [`Decision`] to come.
///
/// In memory it is there at the first poll, unless the request is held. Dropping it while the
/// request is held costs nothing.
#[must_use = "nothing is decided unless it is awaited"]
pub struct DecisionFuture {
    limiter: Limiter,
    asked: Asked,
    arrived: Now,
    step: Step,
    /// Whether it changes what was used, instead of using.
    corrects: bool,
    /// Boxed: most requests are never held.
    held: Option<Box<Held>>,
}

enum Step {
    Arrived,
    Charging { usages: StoreFuture, now: Now },
    Waiting,
}

/// A place in the line, given up when it is dropped.
struct Held {
    limiter: Limiter,
    ticket: u64,
    sleep: Pin<Box<Sleep>>,
    turn_has_come: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.limiter.inner.line.leave(self.ticket, self.turn_has_come);
    }
}

impl DecisionFuture {
    pub(super) fn new(limiter: Limiter, asked: Asked) -> Self {
        let arrived = limiter.inner.clock.now();
        Self { limiter, asked, arrived, step: Step::Arrived, corrects: false, held: None }
    }

    /// Changes what was used, instead of using.
    pub(super) fn correcting(limiter: Limiter, asked: Asked, change: Change) -> Self {
        let now = limiter.inner.clock.now();
        let correction = |charge: &Charge| Correction { charge: *charge, charged_at: now, change };
        let corrections: SmallVec<[Correction; 4]> = asked.charges.iter().map(correction).collect();
        let usages = limiter.inner.store.correct(&corrections, now);
        let step = Step::Charging { usages, now };
        Self { limiter, asked, arrived: now, step, corrects: true, held: None }
    }

    fn charge(&mut self, now: Now) {
        let inner = &self.limiter.inner;
        let ticket = self.held.as_ref().map(|held| held.ticket);
        inner.line.look(&mut self.asked.charges, ticket);
        let usages = inner.store.charge(&self.asked.charges, now);
        self.step = Step::Charging { usages, now };
    }

    /// Takes a place in the line, or keeps it, until the wait is over; or charges again, where
    /// someone else was faster. `false` where there is no room, or where the wait is longer than a
    /// policy holds a request.
    fn hold(&mut self, usages: &Usages, now: Now) -> bool {
        let held_so_far = now.monotonic().saturating_sub(self.arrived.monotonic());
        let Some(wait) = self.asked.wait_worthwhile(usages, held_so_far) else { return false };
        let line = &self.limiter.inner.line;
        let wake_at = Instant::now() + wait;
        let wanted = self.asked.charges.iter().zip(usages).zip(self.asked.holds());
        let wanted =
            wanted.map(|((charge, usage), hold)| Wanted { charge, wait: usage.wait, hold });
        match &mut self.held {
            Some(held) => {
                line.wait_again(held.ticket, wanted, now);
                held.sleep.as_mut().reset(wake_at);
            }
            None => {
                let ticket = match line.join(wanted, now) {
                    Joined::At(ticket) => ticket,
                    Joined::Refused => return false,
                    Joined::Outdated => {
                        self.charge(self.limiter.inner.clock.now());
                        return true;
                    }
                };
                let sleep = Box::pin(tokio::time::sleep_until(wake_at));
                let limiter = self.limiter.clone();
                let held = Held { limiter, ticket, sleep, turn_has_come: false };
                self.held = Some(Box::new(held));
            }
        }
        self.step = Step::Waiting;
        true
    }

    /// Waits for the turn, and charges when it has come.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(held) = &mut self.held else { return Poll::Ready(()) };
        let line = &self.limiter.inner.line;
        let woken = line.woken(held.ticket, context.waker());
        let due = held.sleep.as_mut().poll(context).is_ready();
        if !due && !woken {
            return Poll::Pending;
        }
        let now = self.limiter.inner.clock.now();
        // Those who came earlier and are due as well go first, and the last of them wakes this one;
        // but one that is never polled again must not keep it for ever.
        let waited = now.monotonic().saturating_sub(self.arrived.monotonic());
        let patience = self.asked.longest_hold().saturating_sub(waited);
        if !patience.is_zero() && line.gives_way(held.ticket, now.monotonic_nanos()) {
            held.sleep.as_mut().reset(Instant::now() + patience);
            return held.sleep.as_mut().poll(context);
        }
        self.charge(now);
        Poll::Ready(())
    }
}

impl Future for DecisionFuture {
    type Output = Decision;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let this = &mut *self;
        loop {
            let (usages, now) = match &mut this.step {
                Step::Arrived if this.asked.needs_store() => {
                    this.charge(this.arrived);
                    continue;
                }
                Step::Arrived => {
                    let decision = this.asked.uncounted(this.arrived);
                    this.limiter.observe(this.asked.category, &decision);
                    return Poll::Ready(decision);
                }
                Step::Waiting => {
                    ready!(this.poll_turn(context));
                    continue;
                }
                Step::Charging { usages, now } => (ready!(Pin::new(usages).poll(context)), *now),
            };
            if this.corrects {
                this.limiter.inner.line.freed(&this.asked.charges);
            }
            if !this.asked.passes(&usages) && this.hold(&usages, now) {
                continue;
            }
            // Whoever is behind may go on.
            if let Some(mut held) = this.held.take() {
                held.turn_has_come = true;
            }
            let held_for = now.monotonic().saturating_sub(this.arrived.monotonic());
            let decision = this.asked.decide(&usages, now, held_for);
            if !this.corrects && !this.asked.only_peeks() {
                this.limiter.observe(this.asked.category, &decision);
            }
            return Poll::Ready(decision);
        }
    }
}

impl fmt::Debug for DecisionFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionFuture").field("held", &self.held.is_some()).finish_non_exhaustive()
    }
}
