use super::{quotas::Quotas, sync::TAKEN};
use crate::{
    algorithm::{Algorithm, FixedWindow, SlidingWindow, State, TokenBucket},
    clock::Now,
    quota::Quota,
    store::Charge,
};

const NUMBER_BITS: u32 = TAKEN.trailing_zeros();
/// Beside the number, the bit [`TAKEN`].
const QUOTA_SHIFT: u32 = NUMBER_BITS + 1;
const QUOTA_BITS: u32 = 10;
const KIND_SHIFT: u32 = QUOTA_SHIFT + QUOTA_BITS;
const KIND_BITS: u32 = 3;
const TAG_SHIFT: u32 = KIND_SHIFT + KIND_BITS;
const TAG_BITS: u32 = 64 - TAG_SHIFT;

/// A key of a policy, as 128 bits of which the lower half is the key's alone.
///
/// Part of that half chooses the segment and the home in it, so that the states of one key under
/// several policies lie side by side. The others, 76 bits, are compared: two keys of a segment of
/// 4,096 share a state once in 2^64 insertions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Address {
    segment: u32,
    /// Its lower half is the home.
    tag: u64,
    tag_rest: u64,
}

impl Address {
    pub(super) const fn of(charge: &Charge) -> Self {
        Self::new(charge.id())
    }

    /// Under no policy, the key alone has the same segment and home.
    pub(super) const fn new(slot: u128) -> Self {
        let (key, both) = (slot as u64, (slot >> 64) as u64);
        Self {
            segment: (key >> 32) as u32,
            tag: (both & !0xFFFF_FFFF) | (key & 0xFFFF_FFFF),
            tag_rest: both & ((1 << TAG_BITS) - 1),
        }
    }

    /// Which of `segments`, a power of two.
    pub(super) const fn segment(&self, segments: usize) -> usize {
        self.segment as usize & (segments - 1)
    }

    /// Where its slot would be best.
    pub(super) const fn home(&self, capacity: usize) -> usize {
        home(self.tag, capacity)
    }
}

const fn home(tag: u64, capacity: usize) -> usize {
    (((tag & 0xFFFF_FFFF) * capacity as u64) >> 32) as usize
}

/// The words of a slot for a token bucket or a fixed window.
pub(super) const NARROW: usize = 3;
/// Those for a sliding window: what was used in its last six steps.
pub(super) const WIDE: usize = 8;

/// Whether a charge's key has a wide slot.
pub(super) const fn is_wide(charge: &Charge) -> bool {
    matches!(charge.algorithm, Algorithm::SlidingWindow)
}

/// A key's state in `N` words. The first is its tag, the second a time, and the last has, from the
/// high bits to the low ones, the rest of the tag, the kind of state, the number of its quota, and a
/// number of the state. Those between are for the older entries of a log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot<const N: usize>(pub(super) [u64; N]);

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing = 0,
    /// When it is full, and the parts.
    TokenBucket = 1,
    /// When it began, and what was used.
    FixedWindow = 2,
    /// When it was used last, and the units of that step; those before it are older entries.
    SlidingWindow = 3,
    /// When it may be forgotten, and where it is kept.
    Aside = 4,
}

impl Kind {
    const fn bits(self) -> u64 {
        (self as u64) << KIND_SHIFT
    }
}

/// What a slot holds of a state.
pub(super) trait Pack {
    /// A time and a number, and the rest in `older`; `None` where that has no room.
    fn pack(&self, quota: &Quota, older: &mut [u64]) -> Option<(u64, u64)>;
}

impl Pack for TokenBucket {
    #[inline]
    fn pack(&self, _: &Quota, _: &mut [u64]) -> Option<(u64, u64)> {
        Some((self.full_at, self.parts))
    }
}

impl Pack for FixedWindow {
    #[inline]
    fn pack(&self, _: &Quota, _: &mut [u64]) -> Option<(u64, u64)> {
        Some((self.start, self.used))
    }
}

impl Pack for SlidingWindow {
    fn pack(&self, quota: &Quota, older: &mut [u64]) -> Option<(u64, u64)> {
        let mut newest_first = self.entries().rev();
        let newest = newest_first.next().unwrap_or_default();
        let mut older = older.iter_mut();
        for (last_use, units) in newest_first {
            *older.next()? = pack_older(newest.0.checked_sub(last_use)?, units, quota)?;
        }
        older.for_each(|word| *word = 0);
        Some(newest)
    }
}

impl Pack for State {
    fn pack(&self, quota: &Quota, older: &mut [u64]) -> Option<(u64, u64)> {
        match self {
            Self::TokenBucket(bucket) => bucket.pack(quota, older),
            Self::FixedWindow(window) => window.pack(quota, older),
            Self::SlidingWindow(log) => log.pack(quota, older),
        }
    }
}

/// An older entry of a log, in one word: the units above, and below how long before the last one it
/// was. `None` where that does not fit; in a window of a day, 100,000 units do.
fn pack_older(before: u64, units: u64, quota: &Quota) -> Option<u64> {
    let bits = bits_of_window(quota);
    let fits = before >> bits == 0 && units.leading_zeros() >= bits;
    fits.then_some(units << bits | before)
}

fn unpack_older(word: u64, quota: &Quota) -> (u64, u64) {
    let bits = bits_of_window(quota);
    (word & ((1 << bits) - 1), word >> bits)
}

/// At most 63: no quota's window is longer.
const fn bits_of_window(quota: &Quota) -> u32 {
    u64::BITS - quota.window_nanos().leading_zeros()
}

impl<const N: usize> Slot<N> {
    pub(super) const EMPTY: Self = Self([0; N]);

    /// A state in few bits; `None` where it needs more.
    pub(super) fn pack(
        address: &Address,
        policy: u64,
        state: &State,
        quota: &Quota,
        quotas: &Quotas,
    ) -> Option<Self> {
        let kind = match state {
            State::TokenBucket(_) => Kind::TokenBucket,
            State::FixedWindow(_) => Kind::FixedWindow,
            State::SlidingWindow(_) => Kind::SlidingWindow,
        };
        Self::new(address, kind, quotas.number(policy, quota)?, 0, 0).with(state, quota)
    }

    /// The same key's, with another state under the same quota; `None` where it needs more.
    #[inline]
    pub(super) fn with(&self, state: &impl Pack, quota: &Quota) -> Option<Self> {
        let mut slot = *self;
        let [_, time, older @ .., last] = &mut slot.0[..] else { return None };
        let number;
        (*time, number) = state.pack(quota, older)?;
        *last = *last >> QUOTA_SHIFT << QUOTA_SHIFT | number;
        (number >> NUMBER_BITS == 0).then_some(slot)
    }

    /// A state that is kept aside, at `index`; the number of one of its quotas tells its policy.
    pub(super) fn aside(address: &Address, quota: u64, forgotten_at: u64, index: usize) -> Self {
        Self::new(address, Kind::Aside, quota, forgotten_at, index as u64)
    }

    fn new(address: &Address, kind: Kind, quota: u64, time: u64, number: u64) -> Self {
        let mut slot = Self::EMPTY;
        slot.0[0] = address.tag;
        slot.0[1] = time;
        slot.0[N - 1] = address.tag_rest << TAG_SHIFT | kind.bits() | quota << QUOTA_SHIFT | number;
        slot
    }

    /// The state and the quota it was counted under; `None` where it is kept aside.
    pub(super) fn unpack<'a>(&self, quotas: &'a Quotas) -> Option<(State, &'a Quota)> {
        let state = match self.kind() {
            Kind::TokenBucket => self.token_bucket()?.into(),
            Kind::FixedWindow => self.fixed_window()?.into(),
            Kind::SlidingWindow => self.sliding_window(quotas)?.into(),
            Kind::Nothing | Kind::Aside => return None,
        };
        Some((state, self.quota(quotas)?))
    }

    #[inline]
    pub(super) fn token_bucket(&self) -> Option<TokenBucket> {
        let Kind::TokenBucket = self.kind() else { return None };
        Some(TokenBucket { full_at: self.time(), parts: self.number() })
    }

    pub(super) fn fixed_window(&self) -> Option<FixedWindow> {
        let Kind::FixedWindow = self.kind() else { return None };
        Some(FixedWindow { start: self.time(), used: self.number() })
    }

    pub(super) fn sliding_window(&self, quotas: &Quotas) -> Option<SlidingWindow> {
        let Kind::SlidingWindow = self.kind() else { return None };
        let quota = self.quota(quotas)?;
        let older = self.0[2..N - 1].iter().rev().filter(|&&word| word != 0);
        let older = older.map(|&word| {
            let (before, units) = unpack_older(word, quota);
            (self.time() - before, units)
        });
        let newest = Some((self.time(), self.number())).filter(|&(_, units)| units > 0);
        Some(older.chain(newest).collect())
    }

    /// Under which its state was counted; `None` where it is kept aside.
    #[inline]
    pub(super) fn quota<'a>(&self, quotas: &'a Quotas) -> Option<&'a Quota> {
        quotas.get(self.quota_number())
    }

    /// The number of its quota, or of one of those whose states are kept aside.
    #[inline]
    pub(super) fn quota_number(&self) -> u64 {
        (self.last() >> QUOTA_SHIFT) & ((1 << QUOTA_BITS) - 1)
    }

    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.last() & TAKEN != 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.kind() == Kind::Nothing
    }

    #[inline]
    pub(super) fn is_of(&self, address: &Address) -> bool {
        self.0[0] == address.tag && self.last() >> TAG_SHIFT == address.tag_rest && !self.is_empty()
    }

    pub(super) fn home(&self, capacity: usize) -> usize {
        home(self.0[0], capacity)
    }

    /// Where a state is kept aside.
    pub(super) fn index_aside(&self) -> Option<usize> {
        (self.kind() == Kind::Aside).then(|| self.number() as usize)
    }

    /// Whether its state is kept aside, or may come to be.
    pub(super) fn may_be_aside(&self) -> bool {
        matches!(self.kind(), Kind::SlidingWindow | Kind::Aside)
    }

    /// Whether the state says no more than a new one.
    pub(super) fn is_expired(&self, quotas: &Quotas, now: Now) -> bool {
        let time = self.time();
        match self.kind() {
            Kind::Nothing => false,
            Kind::TokenBucket => time < now.monotonic_nanos(),
            Kind::FixedWindow => self
                .quota(quotas)
                .is_some_and(|quota| time.saturating_add(quota.window_nanos()) <= now.unix_nanos()),
            Kind::SlidingWindow => self.quota(quotas).is_some_and(|quota| {
                time.saturating_add(quota.window_nanos()) <= now.monotonic_nanos()
            }),
            Kind::Aside => time <= now.monotonic_nanos(),
        }
    }

    #[inline]
    const fn time(&self) -> u64 {
        self.0[1]
    }

    #[inline]
    const fn last(&self) -> u64 {
        self.0[N - 1]
    }

    #[inline]
    fn kind(&self) -> Kind {
        match (self.last() >> KIND_SHIFT) & ((1 << KIND_BITS) - 1) {
            0 => Kind::Nothing,
            1 => Kind::TokenBucket,
            2 => Kind::FixedWindow,
            3 => Kind::SlidingWindow,
            _ => Kind::Aside,
        }
    }

    #[inline]
    fn number(&self) -> u64 {
        self.last() & ((1 << NUMBER_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::algorithm::{PastUse, QuotaState};

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    fn packed(state: &State, quota: &Quota, quotas: &Quotas) -> Option<Slot<WIDE>> {
        Slot::pack(&Address::new(1), 7, state, quota, quotas)
    }

    #[test]
    fn a_log_of_six_steps_needs_no_more_than_its_slot() {
        let (quotas, quota) = (Quotas::new(), Quota::per_minute(100));
        let mut state = State::new(Algorithm::SlidingWindow);
        for second in 60..66 {
            state.consume(&quota, at(second), second);
            let kept = packed(&state, &quota, &quotas).expect("it fits");
            let (read, _) = kept.unpack(&quotas).expect("not aside");
            for later in [0, 30, 60, 62, 65] {
                let now = at(second + later);
                let say = |state: &State| {
                    (
                        state.wait(&quota, now, 1),
                        state.remaining(&quota, now),
                        state.reset(&quota, now),
                    )
                };
                assert_eq!(say(&read), say(&state), "{later} s after {second}");
            }
            let is_expired = [59, 60].map(|later| kept.is_expired(&quotas, at(second + later)));
            assert_eq!(is_expired, [false, true]);
        }
        state.consume(&quota, at(66), 1);
        assert!(packed(&state, &quota, &quotas).is_none(), "seven steps do not fit");
        state.give_back(&quota, at(66), 1, &PastUse { at: at(66), cost: 1, left: None });
        assert!(packed(&state, &quota, &quotas).is_some(), "six are left");
    }

    #[test]
    fn what_a_word_has_no_room_for_does_not_get_into_a_slot() {
        let quotas = Quotas::new();
        let fits = |units: u64, quota: Quota, later: u64| {
            let mut state = State::new(Algorithm::SlidingWindow);
            state.consume(&quota, at(60), units);
            state.consume(&quota, at(60 + later), 1);
            let kept = packed(&state, &quota, &quotas)?;
            assert_eq!(
                kept.unpack(&quotas)?.0.remaining(&quota, at(60)),
                quota.units() - units - 1
            );
            Some(())
        };
        // A day has 47 bits of nanoseconds, which leaves 17.
        let day = Quota::per_day(1_000_000);
        assert!(fits((1 << 17) - 1, day, 3_600).is_some());
        assert!(fits(1 << 17, day, 3_600).is_none());
        assert!(fits(1 << 17, day, 1).is_some(), "in one step");
        // No policy has such a window, but a store may be asked about it.
        let vast = Quota::per_window(1_000, Duration::from_nanos(u64::MAX));
        let ten_years = 10 * 365 * 86_400;
        assert!(fits(1, vast, ten_years).is_some());
        assert!(fits(2, vast, ten_years).is_none());
    }
}
