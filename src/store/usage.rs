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
    remaining: u64,
    reset: u64,
}

impl Usage {
    /// Times beyond 584 years are cut to that. A wait of [`Duration::MAX`] means that nobody knows when
    /// the cost fits, as with units [in flight](crate::Algorithm::InFlight).
    #[must_use]
    pub fn new(wait: Duration, remaining: u64, reset: Duration) -> Self {
        Self::from_nanos(nanos(wait), remaining, nanos(reset))
    }

    /// The store does not know what is left: for example, it has not looked, because another charge
    /// of the request does not fit. Such an answer appears in no header and no
    /// [`Decision`](crate::Decision).
    #[must_use]
    pub const fn unknown() -> Self {
        Self::from_nanos(0, u64::MAX, u64::MAX)
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

    /// The same; `None` if nobody knows.
    pub(crate) const fn known_wait(&self) -> Option<Duration> {
        if self.wait == NOT_KNOWN { None } else { Some(self.wait()) }
    }

    pub(crate) fn with_wait(self, wait: Duration) -> Self {
        Self { wait: nanos(wait), ..self }
    }

    /// The units left.
    #[must_use]
    pub const fn remaining(&self) -> u64 {
        self.remaining
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
        (self.remaining, self.reset)
    }

    /// The same with longer times. A reset of zero stays zero: nothing is to come back.
    pub(crate) const fn later(self, wait: u64, reset: u64) -> Self {
        let reset = if self.reset == 0 { 0 } else { self.reset.saturating_add(reset) };
        Self { wait: self.wait.saturating_add(wait), reset, ..self }
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
    fn a_later_reset_is_none_if_nothing_is_to_come_back() {
        assert_eq!(Usage::from_nanos(3, 2, 5).later(10, 20), Usage::from_nanos(13, 2, 25));
        assert_eq!(Usage::from_nanos(0, 9, 0).later(10, 20), Usage::from_nanos(10, 9, 0));
    }
}
