//! What a key has used under one policy, by each of its last few quotas: [`StatesByQuota`].
//!
//! A key's quota changes with its plan. So that no change frees or costs units, the key has one
//! state for each of its last quotas, up to four:
//!
//! 1. Each state counts *every* use of the key, by its own quota. So an answer under one plan stays
//!    true whatever the key is charged under later, and switching away and back changes nothing.
//! 2. Only the charged quota admits or refuses. The others [record](super::QuotaState::record) the use and
//!    never owe anything for it.
//! 3. A new quota begins with the most exact of what the states know, [converted](State::convert), and
//!    never with less than any of them knows for sure. Not the newest state alone: that one may be of
//!    a quota too small, or of a window too short, to hold all uses.
//!    - A bucket begins as the emptiest of all converted ones.
//!    - A window begins with what the state counts that [looks back](super::QuotaState::looks_back)
//!      just as far as the new window, or else the next one that looks back further: it holds all uses
//!      of the new window, and the fewest uses from before it. If each looks back less far, the one
//!      that looks back furthest knows the most.
//! 4. A fifth quota removes the one that remembers for the shortest time. So a caller that chooses
//!    its plan cannot wash a long window clean by short ones.
//! 5. Units that are given back go to each window that counts their use. Of buckets, only that of the use's
//!    own quota gets them: the others cannot tell what they have recorded of it. Nor can that one, if it may
//!    have been empty since, while another quota admitted uses.
//! 6. When all units have come back under each quota, the key is as a new one.
//!
//! `conformance/changes.rs` and `conformance/promises.rs` of the store check this.

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{
    Algorithm,
    quota_state::{Charged, PastUse},
    sliding_window::SlidingWindow,
    state::State,
};
use crate::{clock::Now, quota::Quota};

/// The most quotas of a key that are kept.
const MAX_QUOTAS: usize = 4;
/// The most quotas that are kept in states that stand for several keys.
const MAX_QUOTAS_OF_SEVERAL: usize = 16;

/// The states of a key, one for each quota that it was lately charged under: the last one first,
/// and never none. Nearly all keys have one.
#[derive(Clone, Debug)]
pub(crate) struct StatesByQuota(SmallVec<[(Quota, State); 1]>);

impl StatesByQuota {
    pub(crate) fn new(quota: Quota, state: State) -> Self {
        Self(SmallVec::from_buf([(quota, state)]))
    }

    /// The only state and its quota, if there are no others.
    pub(crate) fn single(&self) -> Option<(&Quota, &State)> {
        match &self.0[..] {
            [(quota, state)] => Some((quota, state)),
            _ => None,
        }
    }

    /// The only state, if it is the log of a sliding window, and its quota.
    pub(crate) fn single_log(&self) -> Option<(&Quota, &SlidingWindow)> {
        match &self.0[..] {
            [(quota, State::SlidingWindow(log))] => Some((quota, log)),
            _ => None,
        }
    }

    /// The same, to be changed.
    pub(crate) fn single_log_mut(&mut self) -> Option<(&Quota, &mut SlidingWindow)> {
        match &mut self.0[..] {
            [(quota, State::SlidingWindow(log))] => Some((quota, log)),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Quota, &State)> {
        self.0.iter().map(|(quota, state)| (quota, state))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn index_of(&self, quota: &Quota) -> Option<usize> {
        self.0.iter().position(|(tracked, _)| tracked == quota)
    }

    /// The state under `quota`, tracked or not.
    #[expect(clippy::indexing_slicing, reason = "the index was found")]
    pub(crate) fn under(&self, quota: &Quota, now: Now) -> Cow<'_, State> {
        match self.index_of(quota) {
            Some(index) => Cow::Borrowed(&self.0[index].1),
            None => Cow::Owned(self.begin(quota, now)),
        }
    }

    /// What a new quota begins with: rule 3.
    #[expect(clippy::indexing_slicing, reason = "there is a first")]
    fn begin(&self, quota: &Quota, now: Now) -> State {
        let convert = |(from, state): &(Quota, State)| state.convert(from, quota, now);
        let first = &self.0[0];
        if let State::TokenBucket(_) = first.1 {
            let mut emptiest = convert(first);
            self.0[1..].iter().for_each(|state| emptiest.merge(&convert(state), quota, now));
            return emptiest;
        }
        let new = State::new(first.1.algorithm()).looks_back(quota, now);
        let from_new = |(from, state): &&(Quota, State)| {
            let looks_back = state.looks_back(from, now);
            (looks_back < new, looks_back.abs_diff(new))
        };
        convert(self.0.iter().min_by_key(from_new).unwrap_or(first))
    }

    /// Counts under `quota` as well from now on, and realigns windows that are ahead of the clock.
    /// Returns the index of `quota`.
    /// A refusal does this too: its answer under a new quota stays true only if the quota is tracked.
    pub(crate) fn track(&mut self, quota: &Quota, now: Now) -> usize {
        self.track_up_to(MAX_QUOTAS, quota, now)
    }

    /// [Tracks](Self::track) a quota in states that stand for several keys. Together, these keys have more
    /// quotas than one key.
    pub(crate) fn track_for_several(&mut self, quota: &Quota, now: Now) {
        self.track_up_to(MAX_QUOTAS_OF_SEVERAL, quota, now);
    }

    /// Realigns windows that are ahead of the clock.
    fn realign(&mut self, now: Now) {
        for (quota, state) in self.0.iter_mut().filter(|(_, state)| state.is_ahead(now)) {
            state.realign(quota, now);
        }
    }

    fn track_up_to(&mut self, most: usize, quota: &Quota, now: Now) -> usize {
        self.realign(now);
        let index = self.index_of(quota);
        if self.is_expired(now) && (index.is_none() || self.len() > 1) {
            // The store may have swept the key already: the result is the same.
            *self = Self::new(*quota, State::new(self.algorithm()));
        } else if let Some(index) = index {
            return index;
        } else {
            let state = self.under(quota, now).into_owned();
            if self.len() >= most {
                self.remove_shortest(now);
            }
            self.0.insert(0, (*quota, state));
        }
        0
    }

    /// [Merges](super::QuotaState::merge) the states of another key, under each quota of either. Nothing that
    /// either has used is lost if they [can be merged](Self::can_merge).
    pub(crate) fn merge(&mut self, other: &Self, now: Now) {
        if self.is_expired(now) {
            *self = other.clone();
            return;
        }
        self.realign(now);
        let is_more = |(quota, _): &(&Quota, &State)| self.index_of(quota).is_none();
        let begin = |(quota, state): (&Quota, &State)| {
            let mut merged = self.under(quota, now).into_owned();
            merged.merge(state, quota, now);
            (*quota, merged)
        };
        let more: SmallVec<[_; MAX_QUOTAS]> = other.used(now).filter(is_more).map(begin).collect();
        for (quota, state) in &mut self.0 {
            state.merge(&other.under(quota, now), quota, now);
        }
        // After the merge, `remove_shortest` sees which of the own quotas are used.
        for used in more {
            if self.len() >= MAX_QUOTAS_OF_SEVERAL {
                self.remove_shortest(now);
            }
            self.0.insert(0, used);
        }
    }

    /// Whether [`merge`](Self::merge) has room for each quota under which either has used anything, and both count
    /// by the same algorithm, as those of one policy do.
    pub(crate) fn can_merge(&self, other: &Self, now: Now) -> bool {
        let is_used = |quota: &Quota| self.used(now).any(|(used, _)| used == quota);
        let more = other.used(now).filter(|(quota, _)| !is_used(quota)).count();
        let is_same = self.algorithm() == other.algorithm();
        (is_same || self.is_expired(now))
            && self.used(now).count().saturating_add(more) <= MAX_QUOTAS_OF_SEVERAL
    }

    /// The states under which anything is used.
    fn used(&self, now: Now) -> impl Iterator<Item = (&Quota, &State)> {
        self.iter().filter(move |(quota, state)| state.expires_in(quota, now) > 0)
    }

    #[expect(clippy::indexing_slicing, reason = "there is a first")]
    fn algorithm(&self) -> Algorithm {
        self.0[0].1.algorithm()
    }

    /// The states of a new key under `quota`, which begins with what several keys have used.
    pub(crate) fn for_new_key(&self, quota: &Quota, now: Now) -> Self {
        let first = (*quota, self.under(quota, now).into_owned());
        let mut states = self.clone();
        states.0.retain(|(other, state)| other != quota && state.expires_in(other, now) > 0);
        while states.len() >= MAX_QUOTAS {
            states.remove_shortest(now);
        }
        states.0.insert(0, first);
        states
    }

    /// Removes a quota that has expired, or else the one that remembers for the shortest time: of
    /// several the smallest, and of these the one that was used longest ago.
    #[expect(clippy::indexing_slicing, reason = "each index is below the length")]
    fn remove_shortest(&mut self, now: Now) {
        let remembers = |(quota, state): &(Quota, State)| match state.expires_in(quota, now) {
            0 => (0, 0),
            _ => (state.algorithm().longest(quota), state.algorithm().capacity(quota)),
        };
        let shortest = (0..self.len()).rev().min_by_key(|index| remembers(&self.0[*index]));
        shortest.map(|index| self.0.remove(index));
    }

    /// Whether all units have come back under each quota: then the key may be forgotten.
    pub(crate) fn is_expired(&self, now: Now) -> bool {
        self.iter().all(|(quota, state)| state.expires_in(quota, now) == 0)
    }

    /// Makes the state of `quota` the newest, and returns it and the others.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and the index was found")]
    fn newest_and_others(
        &mut self,
        quota: &Quota,
        now: Now,
    ) -> (&mut State, &mut [(Quota, State)]) {
        let index = self.track(quota, now);
        self.0[..=index].rotate_right(1);
        let (newest, others) = self.0.split_at_mut(1);
        (&mut newest[0].1, others)
    }

    /// Charges `quota` as [`QuotaState::charge`](super::QuotaState::charge) does. The others record what fits.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and the index was found")]
    pub(crate) fn charge(&mut self, quota: &Quota, now: Now, ahead: u64, cost: u64) -> Charged {
        let index = self.track(quota, now);
        let charged = self.0[index].1.charge(quota, now, ahead, cost);
        if charged.wait == 0 && cost > 0 {
            self.0[..=index].rotate_right(1);
            for (quota, state) in &mut self.0[1..] {
                state.record(quota, now, cost);
            }
        }
        charged
    }

    /// Uses `units` under `quota`, whether or not they fit.
    pub(crate) fn consume(&mut self, quota: &Quota, now: Now, units: u64) {
        let (newest, others) = self.newest_and_others(quota, now);
        newest.consume(quota, now, units);
        for (quota, state) in others {
            state.record(quota, now, units);
        }
    }

    /// Uses `units` more for a use that was made at `at` under `quota`, whether or not they fit.
    pub(crate) fn consume_late(&mut self, quota: &Quota, now: Now, units: u64, at: Now) {
        let (newest, others) = self.newest_and_others(quota, now);
        newest.consume_late(quota, now, units, at);
        for (quota, state) in others {
            state.record_late(quota, now, units, at);
        }
    }

    /// Takes back `units` of a use that was made under `quota`. Returns the most that any quota gets back,
    /// rounded up to units.
    pub(crate) fn give_back(
        &mut self,
        quota: &Quota,
        now: Now,
        units: u64,
        past_use: &PastUse,
    ) -> u64 {
        let is_tracked = self.index_of(quota).is_some();
        let (newest, others) = self.newest_and_others(quota, now);
        if let State::TokenBucket(bucket) = newest {
            let has_counted_all =
                others.is_empty() || !bucket.may_have_been_empty(quota, now, past_use);
            let gives_back = is_tracked && has_counted_all;
            return if gives_back { newest.give_back(quota, now, units, past_use) } else { 0 };
        }
        let given = newest.give_back(quota, now, units, past_use);
        let others = others.iter_mut();
        others
            .map(|(quota, state)| state.give_back(quota, now, units, past_use))
            .fold(given, u64::max)
    }

    /// Whether the key has one bucket with one quota, and nothing that counts was used after a use.
    pub(crate) fn is_last_use(&self, quota: &Quota, now: Now, past_use: &PastUse) -> bool {
        let single = self.single().filter(|(tracked, _)| *tracked == quota);
        matches!(single, Some((_, State::TokenBucket(bucket))) if bucket.is_last_use(quota, now, past_use))
    }

    /// For how many nanoseconds a use counts at most, if nothing is owed.
    pub(crate) fn longest(&self) -> u64 {
        let longest = self.iter().map(|(quota, state)| state.algorithm().longest(quota)).max();
        longest.and_then(|longest| longest.try_into().ok()).unwrap_or(u64::MAX)
    }

    /// How long until it [is expired](Self::is_expired).
    pub(crate) fn expires_in(&self, now: Now) -> u64 {
        self.iter().map(|(quota, state)| state.expires_in(quota, now)).max().unwrap_or(0)
    }
}
