//! What a key has used under one policy, by each of its last few quotas: [`Counts`].

use std::borrow::Cow;

use smallvec::SmallVec;

use super::{Count, Made, State};
use crate::{clock::Now, quota::Quota};

/// The most quotas of a key that are kept.
const MOST: usize = 4;

/// The states of a key, one for each quota ("plan") that it was lately charged under, the last one
/// first. Nearly all keys have one.
///
/// Each state counts *every* use of the key, by its own quota. So an answer under one plan stays true
/// whatever else the key is charged under, and a switch to another plan and back changes nothing. A
/// new quota begins with what the newest state has used. Where there are too many, the quota that
/// remembers for the shortest time makes room: a caller that chooses its plan cannot wash a long
/// window clean by short ones.
#[derive(Clone, Debug)]
pub(crate) struct Counts(SmallVec<[(Quota, State); 1]>);

impl Counts {
    pub(crate) fn new(quota: Quota, state: State) -> Self {
        Self(SmallVec::from_buf([(quota, state)]))
    }

    /// The only state and its quota, where there are no others.
    pub(crate) fn only(&self) -> Option<(&Quota, &State)> {
        match &self.0[..] {
            [(quota, state)] => Some((quota, state)),
            _ => None,
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&Quota, &State)> {
        self.0.iter().map(|(quota, state)| (quota, state))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn place(&self, quota: &Quota) -> Option<usize> {
        self.0.iter().position(|(listed, _)| listed == quota)
    }

    /// The state under `quota`.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and a place that was found")]
    pub(crate) fn under(&self, quota: &Quota, now: Now) -> Cow<'_, State> {
        match self.place(quota) {
            Some(place) => Cow::Borrowed(&self.0[place].1),
            None => {
                let under = |(before, state): &(Quota, State)| state.under(before, quota, now);
                let first = under(&self.0[0]);
                // Where one has to go, the first may be a bucket that was too small to count all.
                let others = if self.len() < MOST { &[] } else { &self.0[1..] };
                Cow::Owned(others.iter().map(under).fold(first, State::or_emptier))
            }
        }
    }

    /// Counts under `quota` as well from now on, and moves windows that are ahead of the clock to now.
    /// Returns whether that has changed anything. A refusal does this too: its answer under a new
    /// quota stays true only if the quota is kept.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and a place that was found")]
    pub(crate) fn adopt(&mut self, quota: &Quota, now: Now) -> bool {
        let mut changed = false;
        for (quota, state) in &mut self.0 {
            changed |= state.anchor(quota, now);
        }
        let place = self.place(quota);
        if self.is_over(now) && (place.is_none() || self.len() > 1) {
            // Whether it was swept already is of no consequence.
            *self = Self::new(*quota, State::new(self.0[0].1.algorithm()));
            changed = true;
        } else if place.is_none() {
            let state = self.under(quota, now).into_owned();
            if self.len() >= MOST {
                self.drop_one(now);
            }
            self.0.insert(0, (*quota, state));
            changed = true;
        }
        changed
    }

    /// Forgets a quota that is over, or else the one that remembers for the shortest time; of several,
    /// the smallest, and of these the one that was used longest ago.
    #[expect(clippy::indexing_slicing, reason = "each place is below the length")]
    fn drop_one(&mut self, now: Now) {
        let remembers = |(quota, state): &(Quota, State)| match state.forgotten_in(quota, now) {
            0 => (0, 0),
            _ => (state.algorithm().longest(quota), state.algorithm().capacity(quota)),
        };
        let place = (0..self.len()).rev().min_by_key(|place| remembers(&self.0[*place]));
        place.map(|place| self.0.remove(place));
    }

    /// Whether all units have come back under each quota: then the key may be forgotten.
    pub(crate) fn is_over(&self, now: Now) -> bool {
        self.iter().all(|(quota, state)| state.forgotten_in(quota, now) == 0)
    }

    /// The place of `quota`, under which this counts from now on.
    #[expect(clippy::expect_used, reason = "the place of another quota has other counts")]
    fn adopted(&mut self, quota: &Quota, now: Now) -> usize {
        self.adopt(quota, now);
        self.place(quota).expect("it is counted under what was adopted")
    }

    /// Makes the state of `quota` the newest, and returns it and the others.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and a place that was found")]
    fn own(&mut self, quota: &Quota, now: Now) -> (&mut State, &mut [(Quota, State)]) {
        let place = self.adopted(quota, now);
        self.0[..=place].rotate_right(1);
        let (first, others) = self.0.split_at_mut(1);
        (&mut first[0].1, others)
    }

    /// Charges as [`Count::charge`] does, under `quota` and, where the charge fits, under the others.
    #[expect(clippy::indexing_slicing, reason = "there is a first, and a place that was found")]
    pub(crate) fn charge(
        &mut self,
        quota: &Quota,
        now: Now,
        ahead: u64,
        cost: u64,
    ) -> (u64, u64, u64) {
        let place = self.adopted(quota, now);
        let told = self.0[place].1.charge(quota, now, ahead, cost);
        if told.0 == 0 && cost > 0 {
            self.0[..=place].rotate_right(1);
            for (quota, state) in &mut self.0[1..] {
                state.take_elsewhere(quota, now, cost);
            }
        }
        told
    }

    /// Uses `units` under `quota`, whether or not they fit.
    pub(crate) fn take(&mut self, quota: &Quota, now: Now, units: u64) {
        let (own, others) = self.own(quota, now);
        own.take(quota, now, units);
        for (quota, state) in others {
            state.take_elsewhere(quota, now, units);
        }
    }

    /// Takes back `units` of a use that was made under `quota`.
    pub(crate) fn give_back(&mut self, quota: &Quota, now: Now, units: u64, made: &Made) {
        let (own, others) = self.own(quota, now);
        own.give_back(quota, now, units, made);
        for (quota, state) in others {
            state.give_back_elsewhere(quota, now, units, made);
        }
    }

    /// How long until it [is over](Self::is_over).
    pub(crate) fn forgotten_in(&self, now: Now) -> u64 {
        self.iter().map(|(quota, state)| state.forgotten_in(quota, now)).max().unwrap_or(0)
    }
}
