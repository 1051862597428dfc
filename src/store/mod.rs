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

#[cfg(all(any(fuzzing, test), feature = "redis"))]
pub(crate) use self::redis::read_any_reply;
#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreBuilder};
pub use self::{announcement::Announcement, memory::MemoryStore};
use crate::{
    algorithm::{Algorithm, Made, wanted},
    clock::{Now, nanos},
    quota::Quota,
};

/// What one policy charges for a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Charge {
    /// Whose quota: a fingerprint of the key.
    pub key: u128,
    /// Which policy: a fingerprint of its name and its algorithm.
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
    /// Units of earlier requests that wait for this key: the charge fits only behind them.
    pub ahead: u64,
    /// What it does.
    pub mode: Mode,
    /// Whether the response may change the cost: then a store must not remember how long a refusal
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
    /// It is never made: its answer is what a request would get now.
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

    /// How many units must be there for it to fit.
    pub(crate) fn wanted(&self) -> u64 {
        wanted(self.ahead, self.cost)
    }

    /// Whether anything is used when its request passes.
    pub(crate) fn uses_units(&self) -> bool {
        self.mode != Mode::Peek && self.cost > 0
    }
}

/// A change to what a [`Charge`] has used.
///
/// ```
/// use tower_quota::{
///     Algorithm, Clock, Quota,
///     store::{Change, Charge, Correction, MemoryStore, Store, StoreError},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), StoreError> {
/// let (store, now) = (MemoryStore::new(), Clock::system().now());
/// let charge = Charge::new(1, 7, Algorithm::TokenBucket, Quota::per_hour(10));
/// let answer = store.charge(&[charge], now).await?;
/// assert_eq!(answer.usages[0].remaining(), 9);
///
/// let mut correction = Correction::new(charge, Change::GiveBack(1));
/// correction.charged_at = Some(answer.at);
/// correction.usage = answer.usages[0];
/// let answer = store.correct(&[correction], now).await?;
/// assert_eq!(answer.usages[0].remaining(), 10);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Correction {
    /// The charge as it was made, or as it would be made for its policy and key.
    pub charge: Charge,
    /// When the charge was made, as the store [answered](Answer::at). `None` where that is not
    /// known: the store takes it for a charge of now.
    pub charged_at: Option<Now>,
    /// The store's answer to the charge, by which the store knows how much has come back by itself
    /// since. [`Usage::unknown`] where there is none.
    pub usage: Usage,
    /// What changes.
    pub change: Change,
}

impl Correction {
    /// A correction of a charge of which neither the time nor the answer is known.
    #[must_use]
    pub const fn new(charge: Charge, change: Change) -> Self {
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
    /// These units were not used after all. The store gives back only those that have not come back
    /// by themselves. A window's come back by the clock. A token bucket's have come back once all
    /// units have that were missing right after the charge.
    GiveBack(u64),
    /// These units were used as well, whether or not they fit. A token bucket owes at most
    /// one whole capacity beyond empty; units beyond that are dropped.
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
    /// Times beyond 584 years are cut to that.
    #[must_use]
    pub fn new(wait: Duration, remaining: u64, reset: Duration) -> Self {
        Self::of_nanos(nanos(wait), remaining, nanos(reset))
    }

    /// The store does not know what is left, as of a charge that was not made because another one
    /// does not fit. Such an outcome appears in no header and no [`Decision`](crate::Decision).
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

    /// The same with longer times. A reset of zero stays zero: nothing is to come back.
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
    /// The quota of a key may change from one charge to the next, as its plan does. A use counts
    /// under each of the key's last few quotas, so that earlier answers stay true. An answer under a
    /// new quota holds even if the charge was not made.
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture;

    /// Does what [`charge`](Self::charge) does, where that takes no waiting, and writes what became
    /// of each charge to `usages`, of which there are as many. `false`, the default: nothing was
    /// done, and the limiter calls `charge`.
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let _ = (charges, usages, now);
        false
    }

    /// Fetches what is known of a [key](Charge::key) that is about to be charged. It changes nothing,
    /// and the default does nothing.
    fn prefetch(&self, key: u128) {
        let _ = key;
    }

    /// Makes all of `corrections`, and answers with what is left after each. They are made even if
    /// the answer is not awaited.
    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture;

    /// How many keys have used units that have not come back at `now`, each key once per policy;
    /// `None`, the default, where that is not known.
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

    /// Announces the policies of a limiter when it is built. The limiter keeps `policies` alive until
    /// its last clone is dropped. A store whose counts several limiters share
    /// [compares](Announcement::compare) their settings. The default does nothing.
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
    /// When it is polled after it was ready.
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
