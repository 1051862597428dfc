//! What is kept of a key's penalty: [`PenaltyState`].

use crate::{
    clock::{Now, nanos},
    penalty::Penalty,
};

/// A key's refusals that count, its blocks, and when the last one ends. Times are nanoseconds of the
/// monotonic clock, so no step of the wall clock changes a block.
#[derive(Clone, Debug, Default)]
pub(crate) struct PenaltyState {
    /// When each refusal was that counts towards the next block, in order of time.
    refusals: Vec<u64>,
    /// How many blocks there were that are not forgotten.
    blocks: usize,
    blocked_until: u64,
    /// When nothing of it matters any more.
    matters_until: u64,
}

impl PenaltyState {
    /// Counts a refusal, or a failure. One during a block does not count.
    #[expect(clippy::arithmetic_side_effects, reason = "there are fewer blocks than 2^63")]
    pub(crate) fn count(&mut self, penalty: &Penalty, now: Now) {
        let now = now.monotonic_nanos();
        if self.blocked_until > now {
            return;
        }
        if self.matters_until <= now {
            // The store may have dropped it already: the result is the same.
            *self = Self::default();
        }
        if self.blocked_until.saturating_add(nanos(penalty.forget_after)) <= now {
            self.blocks = 0;
        }
        let within = nanos(penalty.within());
        self.refusals.retain(|at| at.saturating_add(within) > now);
        // A thread that read the clock earlier may come later.
        let at = self.refusals.last().map_or(now, |last| now.max(*last));
        self.refusals.push(at);
        self.matters_until = at.saturating_add(within);
        if self.refusals.len() >= penalty.after as usize {
            // The room goes as well: a blocked key needs none.
            self.refusals = Vec::new();
            self.blocked_until = now.saturating_add(nanos(penalty.next_block(self.blocks)));
            self.blocks += 1;
        }
        if self.blocks > 0 {
            let forgotten_at = self.blocked_until.saturating_add(nanos(penalty.forget_after));
            self.matters_until = self.matters_until.max(forgotten_at);
        }
    }

    /// How much longer the key is blocked; 0 if it is not.
    pub(crate) fn blocked_for(&self, now: Now) -> u64 {
        self.blocked_until.saturating_sub(now.monotonic_nanos())
    }

    /// How long until it is as a new one.
    pub(crate) fn expires_in(&self, now: Now) -> u64 {
        self.matters_until.saturating_sub(now.monotonic_nanos())
    }

    /// Whether the key was blocked lately, so that the next block is a longer one.
    pub(crate) fn was_blocked(&self) -> bool {
        self.blocks > 0
    }
}
