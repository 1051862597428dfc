//! What is changed after a charge: [`Correction`].

use std::{
    cmp,
    sync::atomic::{AtomicU64, Ordering},
};

use super::{charge::Charge, usage::Usage};
use crate::{algorithm::PastUse, clock::Now, penalty::Penalty};

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
    /// The charge as it was made; or, if none was made, as it would be for this policy and key.
    pub charge: Charge,
    /// When the charge was made, as the store [answered](super::Answer::at). `None` if that is not
    /// known: the store then assumes a charge of now.
    pub charged_at: Option<Now>,
    /// The store's answer to the charge. From it, the store computes how many units have come back
    /// by themselves since then. [`Usage::unknown`] if there is no answer.
    pub usage: Usage,
    /// What changes.
    pub change: Change,
    /// How many resets this process had made just before the charge; `None` if that is not known. It shows
    /// whether a reset at the same clock reading came before or after the charge, as in tests that move the
    /// clock by hand.
    pub(crate) resets: Option<u64>,
}

/// Counts the resets that this process makes.
static RESETS: AtomicU64 = AtomicU64::new(0);

/// How many resets this process has made so far.
pub(crate) fn resets_so_far() -> u64 {
    RESETS.load(Ordering::SeqCst)
}

/// When a key was reset. What was charged before is not counted any more, so nothing of it is given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reset {
    /// The time, in monotonic nanoseconds.
    at: u64,
    /// Counts the resets of this process, from 1.
    number: u64,
}

impl Reset {
    /// A reset that is made now.
    pub(crate) fn new(now: Now) -> Self {
        let number = RESETS.fetch_add(1, Ordering::SeqCst).saturating_add(1);
        Self { at: now.monotonic_nanos(), number }
    }

    pub(crate) fn at(&self) -> u64 {
        self.at
    }

    /// The later one of two.
    pub(crate) fn later(self, other: Self) -> Self {
        Self { at: self.at.max(other.at), number: self.number.max(other.number) }
    }
}

impl Correction {
    /// A correction of a charge whose time and answer are not known.
    #[must_use]
    pub const fn new(charge: Charge, change: Change) -> Self {
        Self { charge, charged_at: None, usage: Usage::unknown(), change, resets: None }
    }

    /// Whether its charge was made before a reset. A charge whose time is not known counts as made now.
    pub(crate) fn is_before(&self, reset: &Reset) -> bool {
        let is_earlier = |at: Now| at.monotonic_nanos() < reset.at;
        self.charged_at.is_some_and(is_earlier)
            || self.resets.is_some_and(|resets| resets < reset.number)
    }

    /// The use that it changes, as if nothing was given back since.
    pub(crate) fn past_use(&self, now: Now) -> PastUse {
        PastUse {
            given_back: 0,
            at: self.charged_at.unwrap_or(now),
            cost: self.charge.cost,
            left: self.usage.is_known().then(|| self.usage.remaining_and_reset()),
        }
    }
}

/// What a [`Correction`] changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// These units were not used after all. The store gives back only those that have not come back since the
    /// charge, by themselves or by a [reset](Self::Reset). In a window, units come back by the clock. In a
    /// token bucket, they have come back once the bucket has refilled all that was missing right after the
    /// charge, without what earlier charges have given back since.
    GiveBack(u64),
    /// These units were used as well, whether or not they fit. In a window, they were used when the
    /// charge was made, so that a window that has ended since is not charged. A token bucket owes them
    /// from now on, at most one whole capacity beyond empty; units beyond that are dropped.
    Take(u64),
    /// The key has its whole quota again, and no penalty.
    Reset,
    /// A refusal or a failure counts towards the penalty of the key. If a block begins or runs, the
    /// answer is the usage of a [blocked](Usage::blocked) charge. Only for a store that
    /// [keeps penalties](super::Store::keeps_penalties).
    Penalize(&'static Penalty),
    /// The key has no penalty any more: its block ends, and all is forgotten that counted towards the
    /// next. What was used stays used.
    Pardon,
}

impl Change {
    /// What changes a charge of `charged` units to one of `cost`. `None` if these are equal.
    pub(crate) fn of_cost(charged: u64, cost: u64) -> Option<Self> {
        let by = cost.abs_diff(charged);
        match cost.cmp(&charged) {
            cmp::Ordering::Equal => None,
            cmp::Ordering::Greater => Some(Self::Take(by)),
            cmp::Ordering::Less => Some(Self::GiveBack(by)),
        }
    }
}
