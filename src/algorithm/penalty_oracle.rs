//! A penalty by a naive model, and [`PenaltyState`] beside it.

use std::time::Duration;

use proptest::prelude::*;

use super::PenaltyState;
use crate::{
    clock::{Now, nanos},
    penalty::Penalty,
};

/// Keeps each refusal as long as it counts and each block for ever, and looks through all of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct NaivePenalty {
    refusals: Vec<u64>,
    /// When each block began, and when it ended.
    blocks: Vec<(u64, u64)>,
    /// How many of these are forgotten, and when all are.
    forgotten: usize,
    forgets_all_at: u64,
}

impl NaivePenalty {
    pub(crate) fn count(&mut self, penalty: &Penalty, now: Now) {
        if self.blocked_for(now) > 0 {
            return;
        }
        let now = now.monotonic_nanos();
        let forgets_at = |(_, end): &(u64, u64)| *end + nanos(penalty.forget_after);
        if self.blocks.last().is_some_and(|last| forgets_at(last) <= now)
            || self.forgets_all_at <= now
        {
            self.forgotten = self.blocks.len();
        }
        if self.forgets_all_at <= now {
            self.refusals.clear();
        }
        self.refusals.push(now);
        let last_end = self.blocks.last().map_or(0, |(_, end)| *end);
        // What does not count any more does not count under a later penalty either.
        self.refusals.retain(|at| *at + nanos(penalty.within()) > now);
        let counts = |at: &&u64| **at >= last_end;
        if self.refusals.iter().filter(counts).count() >= penalty.after as usize {
            let before = self.blocks.len() - self.forgotten;
            let length = penalty.blocks[before.min(penalty.blocks.len() - 1)];
            self.blocks.push((now, now + nanos(length)));
        }
        self.forgets_all_at = now + nanos(penalty.within());
        if let Some(last) = self.blocks[self.forgotten..].last() {
            self.forgets_all_at = self.forgets_all_at.max(forgets_at(last));
        }
    }

    pub(crate) fn blocked_for(&self, now: Now) -> u64 {
        self.blocks.last().map_or(0, |(_, end)| end.saturating_sub(now.monotonic_nanos()))
    }
}

fn at(nanos: u64) -> Now {
    Now::new(Duration::from_nanos(nanos), Duration::ZERO)
}

/// A penalty with times of some nanoseconds.
fn penalties() -> impl Strategy<Value = Penalty> {
    let blocks = prop::collection::vec(1..60_u64, 1..4);
    (1..6_u32, 1..40_u64, blocks, 1..100_u64).prop_map(
        |(after, within, mut blocks, forget_after)| {
            blocks.sort_unstable();
            let time = Duration::from_nanos;
            let penalty = Penalty::after(after).refusals_within(time(within));
            let penalty = penalty.forget_after(time(forget_after));
            blocks.iter().fold(penalty, |penalty, block| penalty.then(time(*block)))
        },
    )
}

proptest! {
    #[test]
    fn blocks_are_those_of_a_naive_model(
        penalty in penalties(),
        pauses in prop::collection::vec(prop_oneof![0..3_u64, 0..30_u64, 0..200_u64], 1..120),
    ) {
        let (mut state, mut naive) = (PenaltyState::default(), NaivePenalty::default());
        let mut now = 1_000;
        for pause in pauses {
            now += pause;
            prop_assert_eq!(state.blocked_for(at(now)), naive.blocked_for(at(now)));
            if state.expires_in(at(now)) == 0 {
                // A store may drop it here.
                state = PenaltyState::default();
            }
            state.count(&penalty, at(now));
            naive.count(&penalty, at(now));
            prop_assert_eq!(state.blocked_for(at(now)), naive.blocked_for(at(now)), "at {}", now);
            prop_assert!(state.expires_in(at(now)) > 0);
        }
    }
}

#[test]
fn a_retry_at_the_end_of_a_block_passes_and_one_just_before_does_not() {
    let penalty = Penalty::after(1).refusals_within(Duration::from_nanos(9));
    let penalty = penalty.block(Duration::from_nanos(5));
    let mut state = PenaltyState::default();
    state.count(&penalty, at(100));
    assert_eq!([100, 104, 105].map(|now| state.blocked_for(at(now))), [5, 1, 0]);
}
