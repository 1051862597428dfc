//! The future of a decision about a request: [`DecisionFuture`].

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use super::{
    Limiter, current_rules::LoadedRules, decide::decide_simply, deciding::Deciding,
    decision::Decision, evaluation::Evaluation, queue::Turn,
};

/// The future of a [`Decision`], such as from [`Limiter::decide`].
///
/// With a store in memory it is ready at the first poll, unless the request is held. If it is
/// dropped while the request is held, nothing is charged.
#[must_use = "nothing is decided unless it is awaited"]
pub struct DecisionFuture<'a> {
    limiter: &'a Limiter,
    /// `None` after the decision.
    state: Option<State<'a>>,
}

enum State<'a> {
    /// It has not been polled.
    New { rules: LoadedRules<'a>, evaluation: Evaluation, turn: Option<Box<Turn>> },
    /// It waits. Boxed, as few requests do.
    Waiting(Box<Deciding>),
}

impl<'a> DecisionFuture<'a> {
    #[inline]
    pub(super) fn new(
        limiter: &'a Limiter,
        rules: LoadedRules<'a>,
        evaluation: Evaluation,
        turn: Option<Turn>,
    ) -> Self {
        Self { limiter, state: Some(State::New { rules, evaluation, turn: turn.map(Box::new) }) }
    }

    /// Polls a decision that takes more than one step, and keeps it if it waits.
    #[inline(never)]
    fn poll_deciding(
        &mut self,
        mut deciding: Deciding,
        context: &mut Context<'_>,
    ) -> Poll<Decision> {
        let decided = deciding.poll(self.limiter, context);
        if decided.is_pending() {
            self.state = Some(State::Waiting(deciding.keep()));
        }
        decided
    }
}

impl Future for DecisionFuture<'_> {
    type Output = Decision;

    /// # Panics
    /// When it is polled after it was ready.
    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Decision> {
        let core = &*self.limiter.core;
        match self.state.take().expect("polled after it was ready") {
            State::New { rules, mut evaluation, turn } => {
                let arrived = self.limiter.now();
                // After an apply, `Deciding` takes over the new quotas first.
                if rules.number() == core.rules.number() {
                    match decide_simply(core, &rules, evaluation, arrived) {
                        Ok(decision) => return Poll::Ready(decision),
                        Err(undecided) => evaluation = undecided,
                    }
                }
                self.poll_deciding(Deciding::new(rules, evaluation, turn, arrived), context)
            }
            State::Waiting(mut deciding) => {
                let decided = deciding.poll(self.limiter, context);
                if decided.is_pending() {
                    self.state = Some(State::Waiting(deciding));
                }
                decided
            }
        }
    }
}

impl fmt::Debug for DecisionFuture<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecisionFuture")
            .field("waits", &matches!(self.state, Some(State::Waiting(_))))
            .finish_non_exhaustive()
    }
}
