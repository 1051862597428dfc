//! Where counts live.
//!
//! A [`Store`] takes all the [`Charge`]s of a request at once and makes all of them or none.
//! [`MemoryStore`] is the default.

mod announcement;
#[cfg(test)]
mod conformance;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::{
    borrow::Cow,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use smallvec::SmallVec;

#[cfg(all(fuzzing, feature = "redis"))]
pub(crate) use self::redis::read_any_reply;
#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreBuilder};
pub use self::{announcement::Announcement, memory::MemoryStore};
use crate::{
    algorithm::{Algorithm, Made, wanted},
    clock::{Now, nanos},
    quota::Quota,
};

/// What one policy asks of a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Charge {
    /// Whose quota: a fingerprint of the key.
    pub key: u128,
    /// Of which policy: a fingerprint of its name, and of how it counts.
    pub policy: u64,
    /// Charges with the same are kept on the same server: of the key, or of its first part where it
    /// has several.
    pub shard: u64,
    /// How it is counted.
    pub algorithm: Algorithm,
    /// How much there is.
    pub quota: Quota,
    /// How many units the request uses.
    pub cost: u64,
    /// Units that those who wait for this key will use before: it fits only if they fit as well.
    pub ahead: u64,
    /// What it does.
    pub mode: Mode,
    /// Whether its response may change what it has cost: then nobody knows how long a refusal
    /// lasts.
    pub is_settled: bool,
    /// Up to so many units may be taken at once, and spent where they were taken; see
    /// [`Policy::lease`](crate::Policy::lease).
    pub lease: u32,
}

/// What a [`Charge`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The request passes only if it fits.
    Enforced,
    /// It is made if it fits and the request passes, and never keeps the request from passing.
    DryRun,
    /// It is never made: it only asks, and its answer is for a request that is made now.
    Peek,
}

impl Charge {
    /// One unit, without which the request does not pass.
    #[must_use]
    pub const fn new(policy: u64, key: u128, algorithm: Algorithm, quota: Quota) -> Self {
        let (shard, mode) = (key as u64, Mode::Enforced);
        let (cost, ahead, is_settled, lease) = (1, 0, false, 0);
        Self { key, policy, shard, algorithm, quota, cost, ahead, mode, is_settled, lease }
    }

    /// Where its count is kept: no two keys, of one policy or of two, have the same. The lower half
    /// is the key's alone, so that what it has under several policies can be kept side by side.
    #[must_use]
    pub const fn slot(&self) -> u128 {
        (self.policy as u128) << 64 ^ self.key
    }

    /// How many units have to be there for it to fit.
    pub(crate) fn wanted(&self) -> u64 {
        wanted(self.ahead, self.cost)
    }

    /// Whether anything is used when its request passes.
    pub(crate) fn uses_units(&self) -> bool {
        self.mode != Mode::Peek && self.cost > 0
    }
}

/// A change to what a [`Charge`] has used.
#[derive(Clone, Copy, Debug)]
pub struct Correction {
    /// The charge as it was made, or as it would be made for its policy and key.
    pub charge: Charge,
    /// When it was made, as the store [answered](Answer::at); `None` where that is not known: then
    /// it was just now.
    pub charged_at: Option<Now>,
    /// What the store answered to it, which tells what has come back by itself since;
    /// [`Usage::unknown`] where that is not known.
    pub usage: Usage,
    /// What changes.
    pub change: Change,
}

impl Correction {
    /// Of a charge of which nothing else is known.
    #[must_use]
    pub const fn of_now(charge: Charge, change: Change) -> Self {
        Self { charge, charged_at: None, usage: Usage::unknown(), change }
    }

    /// The use that it changes.
    pub(crate) fn made(&self, now: Now) -> Made {
        let Usage { remaining, reset, .. } = self.usage;
        Made {
            at: self.charged_at.unwrap_or(now),
            cost: self.charge.cost,
            left: self.usage.is_known().then_some((remaining, reset)),
        }
    }
}

/// What a [`Correction`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// These units were not used after all. Those that have come back by themselves stay as they
    /// are: by the clock in a window; and in a token bucket, when all has come back that was missing
    /// right after the charge.
    GiveBack(u64),
    /// These units were used as well, whether or not they fit. A token bucket owes one more whole
    /// capacity at most: beyond that, they are let go.
    Take(u64),
    /// The key has its whole quota again.
    Reset,
}

/// What became of a [`Charge`]: one snapshot of one quota, after the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    wait: u64,
    remaining: u64,
    reset: u64,
}

impl Usage {
    /// What is told of times longer than 584 years is that.
    #[must_use]
    pub fn new(wait: Duration, remaining: u64, reset: Duration) -> Self {
        Self::of_nanos(nanos(wait), remaining, nanos(reset))
    }

    /// Where the store does not know what is left: of a charge that was not made because another
    /// does not fit. Nothing is told of it.
    #[must_use]
    pub const fn unknown() -> Self {
        Self::of_nanos(0, u64::MAX, u64::MAX)
    }

    pub(crate) const fn is_known(&self) -> bool {
        self.remaining != u64::MAX
    }

    pub(crate) const fn of_nanos(wait: u64, remaining: u64, reset: u64) -> Self {
        Self { wait, remaining, reset }
    }

    /// Whether the cost fits now. The request passes when that is so for all of its enforced
    /// charges, and only then were they made.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.wait == 0
    }

    /// How long until the cost fits, after the units ahead of it; zero when it fits now.
    #[must_use]
    pub const fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// The units left.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
    }

    /// How long until `remaining` grows, or until the end of a fixed window; zero for any other of
    /// which nothing is used.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_nanos(self.reset)
    }

    pub(crate) const fn wait_nanos(&self) -> u64 {
        self.wait
    }

    /// With longer times. Where nothing is to come back, nothing comes later.
    pub(crate) const fn later(self, wait: u64, reset: u64) -> Self {
        let reset = if self.reset == 0 { 0 } else { self.reset.saturating_add(reset) };
        Self { wait: self.wait.saturating_add(wait), reset, ..self }
    }
}

/// The [`Usage`]s of a request, in the order of its charges.
pub type Usages = SmallVec<[Usage; 4]>;

/// What a [`Store`] says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// For each charge or correction, in their order.
    pub usages: Usages,
    /// When it was decided, by the store's own clock where it has one, or else the `now` that it
    /// was given. Times of one store's answers are comparable with each other only.
    pub at: Now,
}

/// Why a [`Store`] has not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreError(Cow<'static, str>);

impl StoreError {
    /// `problem` is for whoever operates the service. It names no key.
    pub fn new(problem: impl Into<Cow<'static, str>>) -> Self {
        Self(problem.into())
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for StoreError {}

/// Where counts live.
///
/// An implementation promises that a request is charged in full or not at all, also while other
/// requests are charged. One that asks another process promises to answer in bounded time: with a
/// [`StoreError`] when that is slow or down. What is decided then is said by
/// [`Policy::on_store_failure`](crate::Policy::on_store_failure).
pub trait Store: Send + Sync + 'static {
    /// Makes all of `charges` when each enforced one fits, or else none.
    ///
    /// A key may be charged under one quota and then under another, as its plan changes. What it has
    /// used counts under each of the last few, so that what was told of one stays true; and what was
    /// told of a new one holds even if the charge was not made.
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture;

    /// Does what [`charge`](Self::charge) does, where that takes no waiting, and writes what became
    /// of each charge to `usages`, of which there are as many. `false`, the default: nothing was
    /// done, and `charge` is to be asked.
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let _ = (charges, usages, now);
        false
    }

    /// Hears of the [key](Charge::key) of a charge that is about to come, so that what is known of it
    /// can be fetched meanwhile. It changes nothing, and the default does nothing.
    fn prefetch(&self, key: u128) {
        let _ = key;
    }

    /// Makes all of `corrections`, and answers with what is left after each. They are made even if
    /// the answer is not awaited.
    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture;

    /// How many keys have used some of their quota that has not come back at `now`, each once per
    /// policy; `None`, the default, where that is not known.
    fn live_keys(&self, now: Now) -> Option<usize> {
        let _ = now;
        None
    }

    /// How many charges of a policy had no room for a count of their own; `None`, the default, where
    /// that is not known.
    fn overflowed(&self, policy: u64) -> Option<u64> {
        let _ = policy;
        None
    }

    /// Takes in what a limiter counts here, when that is built; it drops them when its last clone is
    /// dropped. A store whose counts several limiters share [compares](Announcement::compare) what
    /// they say. The default does nothing.
    fn announce(&self, policies: &Arc<[Announcement]>) {
        let _ = policies;
    }

    /// The secret by which keys become fingerprints, where several processes share the counts.
    /// `None`, the default, where each process has its own: fingerprints are then made in a quicker
    /// way, which is safe only as long as no one outside of the process sees them.
    fn secret(&self) -> Option<u128> {
        None
    }
}

/// What a [`Store`] answers: at once, or later.
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture(When);

enum When {
    /// Until it is taken.
    Now(Option<Result<Answer, StoreError>>),
    Later(Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send>>),
}

impl StoreFuture {
    /// An answer that is there, without an allocation.
    pub fn ready(answer: Result<Answer, StoreError>) -> Self {
        Self(When::Now(Some(answer)))
    }

    /// Whether it is an answer, and not an error, where that is known.
    #[cfg(feature = "metrics")]
    pub(crate) fn outcome(&self) -> Option<bool> {
        match &self.0 {
            When::Now(answer) => answer.as_ref().map(Result::is_ok),
            When::Later(_) => None,
        }
    }

    /// An answer that comes later.
    pub fn later(
        answer: impl Future<Output = Result<Answer, StoreError>> + Send + 'static,
    ) -> Self {
        Self(When::Later(Box::pin(answer)))
    }
}

impl Future for StoreFuture {
    type Output = Result<Answer, StoreError>;

    /// # Panics
    /// When it is polled after it was ready: waiting would have no end.
    #[expect(clippy::expect_used, reason = "futures may panic when they are polled after the end")]
    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            When::Now(answer) => Poll::Ready(answer.take().expect("polled after it was ready")),
            When::Later(answer) => answer.as_mut().poll(context),
        }
    }
}

impl fmt::Debug for StoreFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            When::Now(_) => "StoreFuture::ready(..)",
            When::Later(_) => "StoreFuture::later(..)",
        })
    }
}
