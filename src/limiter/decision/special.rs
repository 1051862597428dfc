//! What few policies need beyond a charge: [`Special`].

use std::time::Duration;

use crate::clock::nanos;

/// What a policy needs beyond a charge, in one number, so that a decision compares only this with 0: how
/// long the policy holds a request, in nanoseconds, and the bits [`Special::LASTS`] and
/// [`Special::METERED`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Special(u64);

impl Special {
    pub(crate) const NONE: Self = Self(0);

    /// The charge lasts as long as its request. No hold is long enough to set this bit, or the next.
    const LASTS: u64 = 1 << 63;

    /// A meter counts what the request costs, until its end.
    const METERED: u64 = 1 << 62;

    const HOLD: u64 = Self::METERED.saturating_sub(1);

    pub(in crate::limiter) fn new(hold: Duration, lasts: bool, is_metered: bool) -> Self {
        let lasts = if lasts { Self::LASTS } else { 0 };
        let metered = if is_metered { Self::METERED } else { 0 };
        Self(nanos(hold).min(Self::HOLD) | lasts | metered)
    }

    /// The same, with the hold of another policy.
    pub(in crate::limiter) fn with_hold_of(self, other: Self) -> Self {
        Self(self.0 & !Self::HOLD | other.hold())
    }

    /// The longest time for which the policy holds a request, in nanoseconds.
    pub(crate) fn hold(self) -> u64 {
        self.0 & Self::HOLD
    }

    /// Whether the charge lasts as long as its request.
    pub(crate) fn lasts(self) -> bool {
        self.0 & Self::LASTS != 0
    }

    /// Whether a meter counts what the request costs.
    pub(crate) fn is_metered(self) -> bool {
        self.0 & Self::METERED != 0
    }

    /// Whether something is to be done when the request has ended.
    #[inline]
    pub(crate) fn has_end(self) -> bool {
        self.0 & (Self::LASTS | Self::METERED) != 0
    }

    /// Adds the bits of another policy. Of holds, this tells only whether there are any.
    #[inline]
    pub(super) fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
