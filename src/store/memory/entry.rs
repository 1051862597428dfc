//! What a slot of a table holds: [`Entry`], one key's state in a few words. The [overview](super)
//! draws its bits.

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects, clippy::indexing_slicing))]

use super::{
    address::{Address, TAG_REST_BITS, home},
    quota_table::QuotaTable,
    seqlock::LOCKED,
};
use crate::{
    algorithm::{Algorithm, FixedWindow, InFlight, SlidingWindow, State, TokenBucket, next_step},
    clock::Now,
    quota::Quota,
    store::Charge,
};

const NUMBER_BITS: u32 = LOCKED.trailing_zeros();
/// Above the number and the bit [`LOCKED`].
const QUOTA_SHIFT: u32 = NUMBER_BITS + 1;
const QUOTA_BITS: u32 = 10;
const KIND_SHIFT: u32 = QUOTA_SHIFT + QUOTA_BITS;
const KIND_BITS: u32 = 3;
const TAG_SHIFT: u32 = KIND_SHIFT + KIND_BITS;
const _: () = assert!(TAG_SHIFT + TAG_REST_BITS == u64::BITS);

/// The words of an entry for a token bucket, a fixed window or units in flight: the key, a time and a
/// number.
pub(super) const COUNTER: usize = 3;
/// The words of an entry for the log of a sliding window: the key, and the uses of six steps.
pub(super) const LOG: usize = 8;

/// Whether a charge's key has the entry of a log.
pub(super) const fn uses_log(charge: &Charge) -> bool {
    matches!(charge.algorithm, Algorithm::SlidingWindow)
}

/// A key's state in `N` words: [`COUNTER`] or [`LOG`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry<const N: usize>(pub(super) [u64; N]);

/// What an entry holds: a time and a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Empty = 0,
    /// When the bucket is full, and the parts.
    TokenBucket = 1,
    /// When the window began, and the units used.
    FixedWindow = 2,
    /// The last use, and the units of its step. The older steps are in words of their own.
    SlidingWindow = 3,
    /// When the state expires, and where it is kept outside of the table.
    Spilled = 4,
    /// No time, and the units held.
    InFlight = 5,
    /// The last use, and the units of its step. The older steps are kept outside of the table, and
    /// summed up in the entry.
    LongLog = 6,
}

/// The older steps of a log that has no room in an entry, summed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OlderSteps {
    /// The index of the log outside of the table. There, its newest step may lack the last units.
    pub(super) index: usize,
    /// When the oldest of them leaves the window, and its units. No units if there are none.
    pub(super) first_leaves: u64,
    pub(super) first_units: u64,
    /// The units of all of them.
    pub(super) units: u64,
    /// When the step after the newest begins.
    pub(super) next_step: u64,
}

/// A state that may fit into an entry.
pub(super) trait Pack {
    /// A time and a number, and the rest in `older`; `None` if that has no room.
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

impl Pack for InFlight {
    #[inline]
    fn pack(&self, _: &Quota, _: &mut [u64]) -> Option<(u64, u64)> {
        Some((self.changed_at, self.held))
    }
}

impl Pack for SlidingWindow {
    fn pack(&self, quota: &Quota, older: &mut [u64]) -> Option<(u64, u64)> {
        let mut newest_first = self.entries().rev();
        // A log without a step, as all units were given back, is stored as no units at time 0.
        let newest = newest_first.next().unwrap_or((0, 0));
        let mut older = older.iter_mut();
        for (last_use, units) in newest_first {
            *older.next()? = pack_step(newest.0.checked_sub(last_use)?, units, quota)?;
        }
        older.for_each(|word| *word = 0);
        Some(newest)
    }
}

/// An older step of a log in one word: its units above, and below how long it was before the
/// newest. `None` if that does not fit. In a window of a day, 100,000 units do.
pub(super) fn pack_step(before: u64, units: u64, quota: &Quota) -> Option<u64> {
    let bits = bits_of_window(quota);
    let fits = before >> bits == 0 && units.leading_zeros() >= bits;
    fits.then_some(units << bits | before)
}

#[expect(clippy::arithmetic_side_effects, reason = "a window has fewer than 64 bits")]
pub(super) fn unpack_step(word: u64, quota: &Quota) -> (u64, u64) {
    let bits = bits_of_window(quota);
    (word & ((1 << bits) - 1), word >> bits)
}

/// At most 62: no quota's window is longer.
#[expect(clippy::arithmetic_side_effects, reason = "a number has no more zeros than bits")]
pub(super) const fn bits_of_window(quota: &Quota) -> u32 {
    u64::BITS - quota.window_nanos().leading_zeros()
}

impl<const N: usize> Entry<N> {
    pub(super) const EMPTY: Self = Self([0; N]);

    /// The entry of a state; `None` if the state needs more bits.
    pub(super) fn pack(
        address: &Address,
        policy: u64,
        state: &State,
        quota: &Quota,
        quotas: &QuotaTable,
    ) -> Option<Self> {
        let number = quotas.intern(policy, quota)?;
        let new = |kind| Self::new(address, kind, number, 0, 0);
        match state {
            State::TokenBucket(bucket) => new(Kind::TokenBucket).with(bucket, quota),
            State::FixedWindow(window) => new(Kind::FixedWindow).with(window, quota),
            State::SlidingWindow(log) => new(Kind::SlidingWindow).with(log, quota),
            State::InFlight(units) => new(Kind::InFlight).with(units, quota),
        }
    }

    /// The same key's entry with another state under the same quota; `None` if it needs more bits.
    #[inline]
    pub(super) fn with(&self, state: &impl Pack, quota: &Quota) -> Option<Self> {
        let mut entry = *self;
        let [_, _, older @ .., _] = &mut entry.0[..] else { return None };
        let (time, number) = state.pack(quota, older)?;
        entry.set(time, number)?;
        Some(entry)
    }

    /// Replaces the time and the number; `None` if the number needs more bits.
    #[inline]
    pub(super) fn set(&mut self, time: u64, number: u64) -> Option<()> {
        let [_, entry_time, .., last] = &mut self.0[..] else { return None };
        *entry_time = time;
        *last = *last >> QUOTA_SHIFT << QUOTA_SHIFT | number;
        (number >> NUMBER_BITS == 0).then_some(())
    }

    /// The entry of a state that is kept outside of the table, at `index`. The number of one of its
    /// quotas identifies its policy.
    pub(super) fn spilled(address: &Address, quota: u64, expires_at: u64, index: usize) -> Self {
        Self::new(address, Kind::Spilled, quota, expires_at, index as u64)
    }

    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "an entry has a last word"
    )]
    fn new(address: &Address, kind: Kind, quota: u64, time: u64, number: u64) -> Self {
        let mut entry = Self::EMPTY;
        entry.0[0] = address.tag;
        entry.0[1] = time;
        entry.0[N - 1] = address.tag_rest << TAG_SHIFT
            | (kind as u64) << KIND_SHIFT
            | quota << QUOTA_SHIFT
            | number;
        entry
    }

    /// The entry of a log that is kept outside of the table, at `index`. `None` if the newest step has
    /// more units than there is room for, or the quota has no number.
    pub(super) fn long_log(
        address: &Address,
        policy: u64,
        (quota, log): (&Quota, &SlidingWindow),
        quotas: &QuotaTable,
        index: usize,
    ) -> Option<Self> {
        let number = quotas.intern(policy, quota)?;
        Self::new(address, Kind::LongLog, number, 0, 0).with_long_log(log, quota, index)
    }

    /// The same key's entry with another long log under the same quota; `None` if it has no room.
    pub(super) fn with_long_log(
        &self,
        log: &SlidingWindow,
        quota: &Quota,
        index: usize,
    ) -> Option<Self> {
        let mut newest_first = log.entries().rev();
        let (last_use, units) = newest_first.next()?;
        let mut older = OlderSteps {
            index,
            first_leaves: 0,
            first_units: 0,
            units: 0,
            next_step: next_step(last_use, quota.window_nanos())?,
        };
        for (last_use, units) in newest_first {
            older.first_leaves = SlidingWindow::leaves(last_use, quota);
            older.first_units = units;
            older.units = older.units.checked_add(units)?;
        }
        let mut entry = *self;
        entry.set(last_use, units)?;
        let words = [
            older.index as u64,
            older.first_leaves,
            older.first_units,
            older.units,
            older.next_step,
        ];
        entry.0.get_mut(2..N.checked_sub(1)?)?.first_chunk_mut().map(|old| *old = words)?;
        Some(entry)
    }

    /// The older steps of a long log, summed up.
    #[expect(clippy::cast_possible_truncation, reason = "the index was a usize")]
    #[inline]
    pub(super) fn older_steps(&self) -> Option<OlderSteps> {
        let Kind::LongLog = self.kind() else { return None };
        let [index, first_leaves, first_units, units, next_step] =
            *self.0.get(2..)?.first_chunk()?;
        Some(OlderSteps { index: index as usize, first_leaves, first_units, units, next_step })
    }

    /// The last use of a long log, and the units of its step: newer than those that are kept outside of
    /// the table.
    pub(super) fn newest_of_long_log(&self) -> Option<(u64, u64)> {
        (self.kind() == Kind::LongLog).then(|| (self.time(), self.number()))
    }

    /// The state, and the quota under which it was counted; `None` if it is spilled.
    pub(super) fn unpack<'a>(&self, quotas: &'a QuotaTable) -> Option<(State, &'a Quota)> {
        let state = match self.kind() {
            Kind::TokenBucket => self.token_bucket()?.into(),
            Kind::FixedWindow => self.fixed_window()?.into(),
            Kind::SlidingWindow => self.sliding_window(quotas)?.into(),
            Kind::InFlight => self.in_flight()?.into(),
            Kind::Empty | Kind::Spilled | Kind::LongLog => return None,
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

    /// Whether it holds the log of a sliding window.
    #[inline]
    pub(super) fn is_log(&self) -> bool {
        matches!(self.kind(), Kind::SlidingWindow | Kind::LongLog)
    }

    pub(super) fn in_flight(&self) -> Option<InFlight> {
        let Kind::InFlight = self.kind() else { return None };
        Some(InFlight { held: self.number(), changed_at: self.time() })
    }

    #[expect(
        clippy::arithmetic_side_effects,
        reason = "a log has two words at least, and each older step was before the newest"
    )]
    pub(super) fn sliding_window(&self, quotas: &QuotaTable) -> Option<SlidingWindow> {
        let Kind::SlidingWindow = self.kind() else { return None };
        let quota = self.quota(quotas)?;
        let older = self.0[2..N - 1].iter().rev().filter(|&&word| word != 0);
        let older = older.map(|&word| {
            let (before, units) = unpack_step(word, quota);
            (self.time() - before, units)
        });
        let newest = Some((self.time(), self.number())).filter(|&(_, units)| units > 0);
        Some(older.chain(newest).collect())
    }

    /// The quota under which its state was counted; `None` if a spilled state's quotas have no
    /// number.
    #[inline]
    pub(super) fn quota<'a>(&self, quotas: &'a QuotaTable) -> Option<&'a Quota> {
        quotas.get(self.quota_number())
    }

    /// The number of its quota, or of one of the quotas of a spilled state.
    #[inline]
    pub(super) fn quota_number(&self) -> u64 {
        (self.last() >> QUOTA_SHIFT) & ((1 << QUOTA_BITS) - 1)
    }

    #[inline]
    pub(super) fn is_locked(&self) -> bool {
        self.last() & LOCKED != 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.kind() == Kind::Empty
    }

    /// Whether it is the entry of this key.
    #[inline]
    pub(super) fn is_at(&self, address: &Address) -> bool {
        self.0[0] == address.tag && self.last() >> TAG_SHIFT == address.tag_rest && !self.is_empty()
    }

    /// The [tag](Address::tag) of its key.
    pub(super) fn tag(&self) -> u64 {
        self.0[0]
    }

    pub(super) fn home(&self, capacity: usize) -> usize {
        home(self.0[0], capacity)
    }

    /// Where a spilled state is kept.
    #[expect(clippy::cast_possible_truncation, reason = "the index was a usize")]
    pub(super) fn spilled_index(&self) -> Option<usize> {
        match self.kind() {
            Kind::Spilled => Some(self.number() as usize),
            _ => Some(self.older_steps()?.index),
        }
    }

    /// Whether its state is spilled, or may be spilled later.
    pub(super) fn may_spill(&self) -> bool {
        matches!(self.kind(), Kind::SlidingWindow | Kind::Spilled | Kind::LongLog)
    }

    /// Whether the state answers as a new one does.
    pub(super) fn is_expired(&self, quotas: &QuotaTable, now: Now) -> bool {
        let time = self.time();
        let is_over = |now: u64, end: fn(&Quota, u64) -> u64| {
            self.quota(quotas).is_some_and(|quota| end(quota, time) <= now)
        };
        match self.kind() {
            Kind::Empty => false,
            Kind::TokenBucket => time < now.monotonic_nanos(),
            Kind::FixedWindow => {
                is_over(now.unix_nanos(), |quota, start| quota.windows_end(start, 1))
            }
            Kind::SlidingWindow | Kind::LongLog => {
                is_over(now.monotonic_nanos(), |quota, last_use| {
                    last_use.saturating_add(quota.window_nanos())
                })
            }
            Kind::Spilled => time <= now.monotonic_nanos(),
            Kind::InFlight => self.number() == 0 && time <= now.monotonic_nanos(),
        }
    }

    #[inline]
    pub(super) const fn time(&self) -> u64 {
        self.0[1]
    }

    #[inline]
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "an entry has a last word"
    )]
    const fn last(&self) -> u64 {
        self.0[N - 1]
    }

    #[inline]
    fn kind(&self) -> Kind {
        match (self.last() >> KIND_SHIFT) & ((1 << KIND_BITS) - 1) {
            0 => Kind::Empty,
            1 => Kind::TokenBucket,
            2 => Kind::FixedWindow,
            3 => Kind::SlidingWindow,
            5 => Kind::InFlight,
            6 => Kind::LongLog,
            _ => Kind::Spilled,
        }
    }

    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.last() & ((1 << NUMBER_BITS) - 1)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::algorithm::PastUse;

    fn at(seconds: u64) -> Now {
        Now::new(Duration::from_secs(seconds), Duration::from_secs(seconds))
    }

    fn packed(state: &State, quota: &Quota, quotas: &QuotaTable) -> Option<Entry<LOG>> {
        Entry::pack(&Address::new(1), 7, state, quota, quotas)
    }

    #[test]
    fn a_log_of_six_steps_needs_no_more_than_its_entry() {
        let (quotas, quota) = (QuotaTable::new(), Quota::per_minute(100));
        let mut state = State::new(Algorithm::SlidingWindow);
        for second in 60..66 {
            state.consume(&quota, at(second), second);
            let kept = packed(&state, &quota, &quotas).expect("it fits");
            let (read, _) = kept.unpack(&quotas).expect("not spilled");
            for later in [0, 30, 60, 62, 65] {
                let now = at(second + later);
                let answers = |state: &State| {
                    (
                        state.wait(&quota, now, 1),
                        state.remaining(&quota, now),
                        state.reset(&quota, now),
                    )
                };
                assert_eq!(answers(&read), answers(&state), "{later} s after {second}");
            }
            let is_expired = [59, 60].map(|later| kept.is_expired(&quotas, at(second + later)));
            assert_eq!(is_expired, [false, true]);
        }
        state.consume(&quota, at(66), 1);
        assert!(packed(&state, &quota, &quotas).is_none(), "seven steps do not fit");
        state.give_back(
            &quota,
            at(66),
            1,
            &PastUse { at: at(66), cost: 1, left: None, given_back: 0 },
        );
        assert!(packed(&state, &quota, &quotas).is_some(), "six are left");
    }

    #[test]
    fn a_number_without_room_in_a_word_is_not_packed() {
        let quotas = QuotaTable::new();
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
        // No policy has such a window, but a caller of the store may pass it.
        let vast = Quota::per_window(1_000, Duration::from_nanos(u64::MAX));
        let ten_years = 10 * 365 * 86_400;
        assert!(fits(1, vast, ten_years).is_some());
        assert!(fits(3, vast, ten_years).is_some());
        assert!(fits(4, vast, ten_years).is_none());
    }
}
