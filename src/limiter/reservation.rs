//! Units that are reserved, until it is known how many were used: [`Reservation`] and [`Commit`].

use std::{
    fmt,
    future::Future,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
};

use smallvec::SmallVec;

use super::{
    CheckError, Limiter,
    correcting::{Correcting, undo},
    decision::{Decision, Outcome},
};

/// Units of several policies that are reserved, from [`Limiter::reserve`].
///
/// If it is dropped, all of them are given back: also when the future that owns it is dropped, or when
/// a panic unwinds. [`Reserve::keep_if_dropped`](crate::Reserve::keep_if_dropped) keeps them instead.
///
/// A correction is of the moment at which the units were reserved: a window that has ended meanwhile
/// gets its units back, and the current one gets none. The units count under the quota that they were
/// reserved under, also if other limits are [applied](Limiter::apply) meanwhile. A key that is
/// [reset](Limiter::reset) meanwhile has its units back already, so nothing is given back later.
///
/// Units [in flight](crate::Policy::in_flight) come back when it is committed or dropped.
///
/// Redis is asked in a task of the tokio runtime in which the reservation is dropped or committed. So
/// nothing has to be awaited; but without a runtime, or if the process ends first, the units stay
/// charged.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("tokens", Quota::per_day(10_000)))
///     .build()?;
/// let reservation = limiter.reserve(["tokens"], "acme").cost("tokens", 4_000).at_once()?;
/// assert_eq!(reservation.reserved("tokens"), 4_000);
/// // More than was reserved may be used. It is charged whether or not it is left.
/// let decision = reservation.commit([("tokens", 4_100)]).at_once()?;
/// assert_eq!(decision.remaining(), 5_900);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[must_use = "a reservation that is dropped gives its units back"]
pub struct Reservation {
    limiter: Limiter,
    /// What was decided when it was made; empty after a commit.
    decision: Decision,
    /// All policies of the reservation, also those that have counted nothing. Each has a list: its name,
    /// and then those that it falls back on.
    policies: SmallVec<[Box<[Box<str>]>; 4]>,
    keeps: bool,
}

impl Reservation {
    pub(super) fn new(
        limiter: Limiter,
        mut decision: Decision,
        policies: SmallVec<[Box<[Box<str>]>; 4]>,
        keeps: bool,
    ) -> Self {
        // Only one of them may say what was used.
        decision.record.meter = None;
        Self { limiter, decision, policies, keeps }
    }

    /// The decision that let it pass: what was left under each policy then. Its
    /// [meter](Decision::meter) counts nothing, as [`commit`](Self::commit) says what was used.
    pub fn decision(&self) -> &Decision {
        &self.decision
    }

    /// How many units of a policy, or of one that it [falls back on](crate::Policy::or_else), are
    /// reserved; 0 if the policy counts nothing here, as under an unlimited quota, or if a
    /// [dry run](crate::Policy::dry_run) would have refused them.
    #[must_use]
    pub fn reserved(&self, policy: &str) -> u64 {
        let mut outcomes = self.decision.record.outcomes();
        let is_of_policy = |outcome: &Outcome<'_>| self.listed(outcome) == Some(policy);
        let charged = outcomes.find(|outcome| outcome.is_drawn_on() && is_of_policy(outcome));
        charged.map_or(0, |outcome| outcome.cost())
    }

    /// Sets how many units were really used under each of these policies; under the others, as many as
    /// were reserved. So `commit([])` keeps all of them.
    ///
    /// More than was reserved is charged as well, whether or not it is left. A token bucket then owes at
    /// most one whole capacity; a window admits nothing until it has passed. A dry run that would have
    /// refused the reservation has charged nothing, and stays so.
    ///
    /// The correction is on its way when this returns. Await the [`Commit`] to learn what is left, or
    /// drop it: `drop(reservation.commit([]));`. What was used is charged in any case, so do not refuse
    /// anything by the decision of a commit.
    pub fn commit<'p>(mut self, used: impl IntoIterator<Item = (&'p str, u64)>) -> Commit {
        let used: SmallVec<[(&str, u64); 4]> = used.into_iter().collect();
        let mut names = used.iter().map(|(policy, _)| *policy).enumerate();
        let mistake = names.find_map(|(index, policy)| {
            if !self.policies.iter().filter_map(|all| all.first()).any(|listed| **listed == *policy)
            {
                return Some(CheckError::NotListed(policy.to_owned()));
            }
            let is_first = used.iter().position(|(name, _)| *name == policy) == Some(index);
            (!is_first).then(|| CheckError::ListedTwice(policy.to_owned()))
        });
        self.settle(mistake, |policy| {
            used.iter().find(|(name, _)| *name == policy).map(|(_, units)| *units)
        })
    }

    /// Gives all units back, as dropping does. Await the [`Commit`] to learn what is left.
    #[must_use = "await it to learn what is left, or `drop` the reservation"]
    pub fn give_back(mut self) -> Commit {
        self.settle(None, |_| Some(0))
    }

    /// The policy in the list of the reservation that has this outcome: its own, or that of one which it
    /// falls back on.
    fn listed(&self, outcome: &Outcome<'_>) -> Option<&str> {
        let mut all = self.policies.iter();
        let its = all.find(|policies| policies.iter().any(|name| **name == *outcome.policy()));
        Some(its?.first()?)
    }

    fn settle(
        &mut self,
        mistake: Option<CheckError>,
        used: impl Fn(&str) -> Option<u64>,
    ) -> Commit {
        let mut decision = Decision { record: mem::take(&mut self.decision.record) };
        decision.record.permit = None;
        let correcting = match mistake {
            Some(_) => None,
            None => Correcting::start(&self.limiter, &decision, |outcome| {
                self.listed(outcome).and_then(&used)
            }),
        };
        Commit { mistake, decision: Some(decision), correcting }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if !self.keeps {
            undo(&self.limiter, &self.decision);
        }
    }
}

impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("policies", &self.policies)
            .field("keeps", &self.keeps)
            .finish_non_exhaustive()
    }
}

/// What is left after a [`Reservation::commit`]. The units are corrected even if this is dropped.
///
/// The [`Decision`] shows what is left afterwards. If the store does not answer, it is a refusal with
/// [`Reason::StoreUnavailable`](crate::Reason::StoreUnavailable).
///
/// # Errors
/// [`CheckError::NotListed`] and [`CheckError::ListedTwice`] for a list that cannot be meant. All units
/// then stay charged as they were reserved.
pub struct Commit {
    mistake: Option<CheckError>,
    /// `None` once it was ready.
    decision: Option<Decision>,
    correcting: Option<Correcting>,
}

impl Commit {
    /// What is left, in code that is not async. It needs no runtime.
    ///
    /// # Errors
    /// Those of the commit, and [`CheckError::WouldWait`] if the store cannot answer at once, as Redis
    /// cannot. Even then, the units will be corrected.
    pub fn at_once(self) -> Result<Decision, CheckError> {
        match pin!(self).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(decision) => decision,
            Poll::Pending => Err(CheckError::WouldWait),
        }
    }
}

impl Future for Commit {
    type Output = Result<Decision, CheckError>;

    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { mistake, decision, correcting } = &mut *self;
        if let Some(mistake) = mistake {
            return Poll::Ready(Err(mistake.clone()));
        }
        if let (Some(correcting), Some(decision)) = (correcting, decision.as_mut()) {
            ready!(correcting.poll_or_refuse(decision, context));
        }
        Poll::Ready(Ok(decision.take().expect("a commit is not polled after it was ready")))
    }
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("mistake", &self.mistake).finish_non_exhaustive()
    }
}
