//! What became of a charge: [`Usage`], and [`Usages`] for those of a request.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use smallvec::{SmallVec, smallvec};

use crate::{
    algorithm::{Charged, NOT_KNOWN},
    clock::nanos,
};

/// The answer to a [`Charge`](super::Charge): the state of one quota after the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    wait: u64,
    /// The units left; with the bit [`BLOCKED`], for how long the key is blocked. A field of its own
    /// would be copied for each request, and few are blocked.
    remaining: u64,
    reset: u64,
}

const BLOCKED: u64 = 1 << 63;

impl Usage {
    /// Times beyond 584 years are cut to that. A wait of [`Duration::MAX`] means that the time at
    /// which the cost fits is unknown, as with units [in flight](crate::Algorithm::InFlight).
    #[must_use]
    pub fn new(wait: Duration, remaining: u64, reset: Duration) -> Self {
        Self::from_nanos(nanos(wait), remaining.min(BLOCKED.wrapping_sub(1)), nanos(reset))
    }

    /// The key is [blocked](crate::Penalty) for this long: nothing is left for it until then. Neither
    /// `wait`, until the cost fits, nor `reset` is shorter.
    #[must_use]
    pub fn blocked(block: Duration, wait: Duration, reset: Duration) -> Self {
        Self::blocked_nanos(nanos(block), nanos(wait), nanos(reset))
    }

    pub(crate) fn blocked_nanos(block: u64, wait: u64, reset: u64) -> Self {
        // The largest number means that nothing is known.
        let block = block.min(BLOCKED.wrapping_sub(2));
        Self { wait: wait.max(block), remaining: BLOCKED | block, reset: reset.max(block) }
    }

    /// The store does not know what is left: for example, it has not read it, because another charge
    /// of the request does not fit. Such an answer appears in no header and no
    /// [`Decision`](crate::Decision).
    #[must_use]
    pub const fn unknown() -> Self {
        Self::from_nanos(0, u64::MAX, u64::MAX)
    }

    /// The answer to a charge that [only looks](super::Charge::only_looks), by how much longer its key is
    /// blocked.
    pub(crate) fn looked(blocked: u64) -> Self {
        if blocked > 0 { Self::blocked_nanos(blocked, blocked, blocked) } else { Self::unknown() }
    }

    pub(crate) const fn is_known(&self) -> bool {
        self.remaining != u64::MAX
    }

    pub(crate) const fn from_nanos(wait: u64, remaining: u64, reset: u64) -> Self {
        Self { wait, remaining, reset }
    }

    /// Whether the cost fits now. A request passes if this is so for all of its enforced charges.
    /// Only then are its charges made.
    #[must_use]
    pub const fn fits(&self) -> bool {
        self.wait == 0
    }

    /// How long until the cost fits, together with the [units ahead](super::Charge::ahead) of it.
    /// Zero if it fits now.
    #[must_use]
    pub const fn wait(&self) -> Duration {
        Duration::from_nanos(self.wait)
    }

    /// The same; `None` if that is unknown.
    pub(crate) const fn known_wait(&self) -> Option<Duration> {
        if self.wait == NOT_KNOWN { None } else { Some(self.wait()) }
    }

    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { wait: nanos(wait), ..self }
    }

    /// The units left; none while the key is blocked.
    #[must_use]
    #[inline]
    pub const fn remaining(&self) -> u64 {
        if self.is_blocked() { 0 } else { self.remaining }
    }

    /// How much longer the key is blocked by its [penalty](crate::Penalty); `None` if it is not. The
    /// [`wait`](Self::wait) is longer if the quota has too few units then.
    #[must_use]
    pub fn blocked_for(&self) -> Option<Duration> {
        self.is_blocked().then(|| Duration::from_nanos(self.remaining & !BLOCKED))
    }

    #[inline]
    pub(crate) const fn is_blocked(&self) -> bool {
        // One comparison, of signed numbers: those with the bit are below 0, and -1 is not known.
        self.remaining.cast_signed() < -1
    }

    /// How long until `remaining` grows, or until a fixed window ends. Zero if a token bucket or a
    /// sliding window has its whole quota.
    #[must_use]
    pub const fn reset(&self) -> Duration {
        Duration::from_nanos(self.reset)
    }

    pub(crate) const fn wait_nanos(&self) -> u64 {
        self.wait
    }

    /// The units left, and the nanoseconds until there are more.
    pub(super) const fn remaining_and_reset(&self) -> (u64, u64) {
        (self.remaining(), self.reset)
    }

    /// The answer to the same charge with another cost.
    pub(crate) const fn recosted(self, from: u64, to: u64) -> Self {
        if !self.is_known() || self.is_blocked() {
            return self;
        }
        let remaining = self.remaining.saturating_add(from).saturating_sub(to);
        Self { remaining, ..self }
    }

    /// The same with longer times: the wait, and the times that count from the decision. A reset of
    /// zero stays zero: nothing is to come back.
    pub(crate) const fn later(self, wait: u64, reset: u64) -> Self {
        let remaining = if self.is_blocked() {
            // A block is far shorter than half of all numbers.
            self.remaining.saturating_add(reset)
        } else {
            self.remaining
        };
        let reset = if self.reset == 0 { 0 } else { self.reset.saturating_add(reset) };
        Self { wait: self.wait.saturating_add(wait), remaining, reset }
    }
}

impl From<Charged> for Usage {
    #[inline]
    fn from(Charged { wait, remaining, reset }: Charged) -> Self {
        Self { wait, remaining, reset }
    }
}

/// The [`Usage`]s of a request, in the order of its charges. It derefs to a slice, and an iterator
/// can be collected into it. Up to four need no allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Usages(SmallVec<[Usage; 4]>);

impl Usages {
    /// As many [unknown](Usage::unknown) ones.
    pub(crate) fn unknown(count: usize) -> Self {
        Self(smallvec![Usage::unknown(); count])
    }
}

impl Deref for Usages {
    type Target = [Usage];

    #[inline]
    fn deref(&self) -> &[Usage] {
        &self.0
    }
}

impl DerefMut for Usages {
    #[inline]
    fn deref_mut(&mut self) -> &mut [Usage] {
        &mut self.0
    }
}

impl FromIterator<Usage> for Usages {
    fn from_iter<I: IntoIterator<Item = Usage>>(usages: I) -> Self {
        Self(usages.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_key_has_nothing_until_its_block_ends() {
        let seconds = Duration::from_secs;
        let usage = Usage::blocked(seconds(5), seconds(2), seconds(9));
        assert_eq!(usage.blocked_for(), Some(seconds(5)));
        assert_eq!((usage.wait(), usage.remaining(), usage.reset()), (seconds(5), 0, seconds(9)));
        assert!(!usage.fits() && usage.is_known());
        assert_eq!(usage.later(1, 0).blocked_for(), Some(seconds(5)));
        assert_eq!(Usage::blocked(Duration::MAX, seconds(1), seconds(1)).remaining(), 0);
        for none in
            [Usage::unknown(), Usage::default(), Usage::new(seconds(1), u64::MAX, seconds(1))]
        {
            assert_eq!(none.blocked_for(), None, "{none:?}");
        }
    }

    #[test]
    fn a_later_reset_is_none_if_nothing_is_to_come_back() {
        assert_eq!(Usage::from_nanos(3, 2, 5).later(10, 20), Usage::from_nanos(13, 2, 25));
        assert_eq!(Usage::from_nanos(0, 9, 0).later(10, 20), Usage::from_nanos(10, 9, 0));
    }
}
