use super::{quotas::Quotas, sync::TAKEN};
use crate::{
    algorithm::{FixedWindow, SlidingWindow, State, TokenBucket},
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
        Self::new(charge.slot())
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

/// A key's state in three words: its tag, a time, and from the high bits to the low ones the rest
/// of the tag, the kind of state, the number of its quota, and a number of the state.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Slot(pub(super) [u64; 3]);

/// What a slot holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Nothing = 0,
    /// When it is full, and the parts.
    TokenBucket = 1,
    /// When it began, and what was used.
    FixedWindow = 2,
    /// When it was used last, and the units: a log of one step.
    SlidingWindow = 3,
    /// When it may be forgotten, and where it is kept.
    Aside = 4,
}

impl Kind {
    const fn bits(self) -> u64 {
        (self as u64) << KIND_SHIFT
    }
}

/// The time and the number of a state, if they are all there is to it.
#[inline]
fn words(state: &State) -> Option<(Kind, u64, u64)> {
    let (kind, time, number) = match *state {
        State::TokenBucket(TokenBucket { full_at, parts }) => (Kind::TokenBucket, full_at, parts),
        State::FixedWindow(FixedWindow { start, used }) => (Kind::FixedWindow, start, used),
        State::SlidingWindow(ref log) => {
            let (last_use, units) = log.as_step()?;
            (Kind::SlidingWindow, last_use, units)
        }
    };
    (number >> NUMBER_BITS == 0).then_some((kind, time, number))
}

impl Slot {
    /// A state in few bits; `None` where it needs more.
    pub(super) fn pack(
        address: &Address,
        state: &State,
        quota: &Quota,
        quotas: &Quotas,
    ) -> Option<Self> {
        let (kind, time, number) = words(state)?;
        Some(Self::new(address, kind, quotas.number(quota)?, time, number))
    }

    /// The same key's, with another state; `None` where it needs more.
    #[inline]
    pub(super) fn with(&self, state: &State) -> Option<Self> {
        let (_, time, number) = words(state)?;
        Some(Self([self.0[0], time, self.0[2] >> QUOTA_SHIFT << QUOTA_SHIFT | number]))
    }

    /// The same, counted under another quota; `None` where that has no number.
    pub(super) fn under(&self, quota: &Quota, quotas: &Quotas) -> Option<Self> {
        let number = quotas.number(quota)?;
        let others = !(((1 << QUOTA_BITS) - 1) << QUOTA_SHIFT);
        Some(Self([self.0[0], self.0[1], self.0[2] & others | number << QUOTA_SHIFT]))
    }

    /// A state that is kept aside, at `index`.
    pub(super) fn aside(address: &Address, forgotten_at: u64, index: usize) -> Self {
        Self::new(address, Kind::Aside, 0, forgotten_at, index as u64)
    }

    fn new(address: &Address, kind: Kind, quota: u64, time: u64, number: u64) -> Self {
        let tag_rest = address.tag_rest << TAG_SHIFT;
        Self([address.tag, time, tag_rest | kind.bits() | quota << QUOTA_SHIFT | number])
    }

    /// The token bucket, if it is one, and the quota it was counted under.
    #[inline]
    pub(super) fn token_bucket<'a>(&self, quotas: &'a Quotas) -> Option<(TokenBucket, &'a Quota)> {
        if self.kind() != Kind::TokenBucket {
            return None;
        }
        let bucket = TokenBucket { full_at: self.0[1], parts: self.number() };
        Some((bucket, quotas.get(self.quota())?))
    }

    /// The state and the quota it was counted under; `None` where it is kept aside.
    #[inline]
    pub(super) fn unpack<'a>(&self, quotas: &'a Quotas) -> Option<(State, &'a Quota)> {
        let Self([_, time, _]) = *self;
        let state = match self.kind() {
            Kind::TokenBucket => {
                return self.token_bucket(quotas).map(|(bucket, quota)| (bucket.into(), quota));
            }
            Kind::FixedWindow => {
                State::FixedWindow(FixedWindow { start: time, used: self.number() })
            }
            Kind::SlidingWindow => {
                State::SlidingWindow(SlidingWindow::of_step(time, self.number()))
            }
            Kind::Nothing | Kind::Aside => return None,
        };
        Some((state, quotas.get(self.quota())?))
    }

    #[inline]
    pub(super) fn is_taken(&self) -> bool {
        self.0[2] & TAKEN != 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.kind() == Kind::Nothing
    }

    #[inline]
    pub(super) fn is_of(&self, address: &Address) -> bool {
        let Self([tag, _, rest]) = *self;
        tag == address.tag && rest >> TAG_SHIFT == address.tag_rest && !self.is_empty()
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
        let Self([_, time, _]) = *self;
        match self.kind() {
            Kind::Nothing => false,
            Kind::TokenBucket => time < now.monotonic_nanos(),
            Kind::FixedWindow => quotas
                .get(self.quota())
                .is_some_and(|quota| time.saturating_add(quota.window_nanos()) <= now.unix_nanos()),
            Kind::SlidingWindow => quotas.get(self.quota()).is_some_and(|quota| {
                time.saturating_add(quota.window_nanos()) <= now.monotonic_nanos()
            }),
            Kind::Aside => time <= now.monotonic_nanos(),
        }
    }

    #[inline]
    fn kind(&self) -> Kind {
        match (self.0[2] >> KIND_SHIFT) & ((1 << KIND_BITS) - 1) {
            0 => Kind::Nothing,
            1 => Kind::TokenBucket,
            2 => Kind::FixedWindow,
            3 => Kind::SlidingWindow,
            _ => Kind::Aside,
        }
    }

    #[inline]
    fn quota(&self) -> u64 {
        (self.0[2] >> QUOTA_SHIFT) & ((1 << QUOTA_BITS) - 1)
    }

    #[inline]
    fn number(&self) -> u64 {
        self.0[2] & ((1 << NUMBER_BITS) - 1)
    }
}
