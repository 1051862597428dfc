//! Takes units in flight for work that is no HTTP request: [`Enter`].

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use super::{AcquireError, Check, CheckError, Limiter, Permit, decision::Decision, target::Target};
use crate::quota::Quota;

/// Takes units in flight of one key, from [`PolicyHandle::enter`](crate::PolicyHandle::enter). It runs when
/// it is awaited, or by [`at_once`](Self::at_once) in code that is not async.
#[derive(Debug)]
#[must_use = "nothing is taken unless it is awaited, or made `at_once`"]
pub struct Enter<'a> {
    check: Check<'a>,
}

impl<'a> Enter<'a> {
    pub(super) fn new(target: Target<'a>) -> Self {
        Self { check: Check::enter(target) }
    }

    /// Sets how many units the work takes. Default: 1.
    pub fn cost(mut self, units: u64) -> Self {
        self.check = self.check.cost(units);
        self
    }

    /// Names the kind of the key; see [`Check::kind`](crate::Check::kind).
    pub fn kind(mut self, name: &'a str) -> Self {
        self.check = self.check.kind(name);
        self
    }

    /// Names the key's plan; see [`Check::plan`](crate::Check::plan).
    pub fn plan(mut self, name: &'a str) -> Self {
        self.check = self.check.plan(name);
        self
    }

    /// Sets the quota of the key's plan; see [`Check::quota`](crate::Check::quota).
    pub fn quota(mut self, quota: Quota) -> Self {
        self.check = self.check.quota(quota);
        self
    }

    /// Takes the units in code that is not async. It never waits.
    ///
    /// # Errors
    /// Those of [`PolicyHandle::enter`](crate::PolicyHandle::enter), and [`CheckError::WouldWait`] if the
    /// store cannot answer at once, as Redis cannot.
    pub fn at_once(self) -> Result<Permit, AcquireError> {
        permit(self.check.limiter(), self.check.at_once())
    }
}

/// What was decided: a permit, or the refusal. Where nothing is counted, as under an unlimited plan, the
/// permit holds nothing.
fn permit(
    limiter: &Limiter,
    decided: Result<Decision, CheckError>,
) -> Result<Permit, AcquireError> {
    let decision = decided?;
    if !decision.is_allowed() {
        return Err(AcquireError::Refused(decision));
    }
    Ok(decision.permit().unwrap_or_else(|| Permit::of_nothing(limiter)))
}

impl Future for Enter<'_> {
    type Output = Result<Permit, AcquireError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let decided = ready!(Pin::new(&mut self.check).poll(context));
        Poll::Ready(permit(self.check.limiter(), decided))
    }
}
