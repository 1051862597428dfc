//! Where counts live.
//!
//! A [`Store`] takes all the [`Charge`]s of a request at once and makes all of them or none.
//! [`MemoryStore`] is the default.

mod memory;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use smallvec::SmallVec;

pub use self::memory::MemoryStore;
use crate::{
    algorithm::Algorithm,
    clock::{Now, nanos},
    quota::Quota,
};

/// What one policy asks of a request.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    /// Whose quota: a fingerprint of the key.
    pub key: u128,
    /// Of which policy: a fingerprint of its name.
    pub policy: u64,
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
}

/// What a [`Charge`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The request passes only if it fits.
    Enforced,
    /// It is made if it fits and the request passes, and never keeps the request from passing.
    DryRun,
    /// It is never made: it only asks.
    Peek,
}

impl Charge {
    /// Where its count is kept: no two keys, of one policy or of two, have the same. The lower half
    /// is the key's alone, so that what it has under several policies can be kept side by side.
    #[must_use]
    pub const fn slot(&self) -> u128 {
        (self.policy as u128) << 64 ^ self.key
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
    /// When it was made.
    pub charged_at: Now,
    /// What changes.
    pub change: Change,
}

/// What a [`Correction`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// These units were not used after all. Those that have come back by themselves stay as they
    /// are.
    GiveBack(u64),
    /// These units were used as well, whether or not they fit.
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

    /// With longer times.
    pub(crate) const fn later(self, wait: u64, reset: u64) -> Self {
        let (wait, reset) = (self.wait.saturating_add(wait), self.reset.saturating_add(reset));
        Self { wait, reset, ..self }
    }
}

/// The [`Usage`]s of a request, in the order of its charges.
pub type Usages = SmallVec<[Usage; 4]>;

/// Where counts live.
///
/// An implementation promises that a request is charged in full or not at all, also while other
/// requests are charged.
pub trait Store: Send + Sync + 'static {
    /// Makes all of `charges` when each enforced one fits, or else none.
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture;

    /// Makes all of `corrections`, and answers with what is left after each. They are made even if
    /// the answer is not awaited.
    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture;

    /// How many keys have a count now, each once per policy; `None`, the default, where that is not
    /// known.
    fn live_keys(&self) -> Option<usize> {
        None
    }
}

/// What a [`Store`] answers: at once, or later.
#[must_use = "futures do nothing unless polled"]
pub struct StoreFuture(Answer);

enum Answer {
    Ready(Usages),
    Later(Pin<Box<dyn Future<Output = Usages> + Send>>),
}

impl StoreFuture {
    /// An answer that is there, without an allocation.
    pub fn ready(usages: Usages) -> Self {
        Self(Answer::Ready(usages))
    }

    /// Whether the answer is there.
    #[cfg(feature = "metrics")]
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.0, Answer::Ready(_))
    }

    /// An answer that comes later.
    pub fn later(usages: impl Future<Output = Usages> + Send + 'static) -> Self {
        Self(Answer::Later(Box::pin(usages)))
    }
}

impl Future for StoreFuture {
    type Output = Usages;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Usages> {
        match &mut self.0 {
            Answer::Ready(usages) => Poll::Ready(std::mem::take(usages)),
            Answer::Later(usages) => usages.as_mut().poll(context),
        }
    }
}

impl fmt::Debug for StoreFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Answer::Ready(_) => "StoreFuture::ready(..)",
            Answer::Later(_) => "StoreFuture::later(..)",
        })
    }
}
