//! What one policy charges for a request: [`Charge`]; and which charges stand for each other: [`runs`].

use std::ops::Range;

use crate::{
    algorithm::{Algorithm, units_required},
    quota::Quota,
};

/// What one policy charges for a request.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Charge {
    /// A fingerprint of the key, which says whose quota it is.
    pub key: u128,
    /// A fingerprint of the policy's name and its algorithm.
    pub policy: u64,
    /// Charges with the same number are counted on the same server. It is a fingerprint of the key,
    /// or of the key's first part where it has several.
    pub shard: u64,
    /// How the quota is counted.
    pub algorithm: Algorithm,
    /// How many units there are, and in what time. If it is [unlimited](Quota::unlimited), which it is only
    /// with [`has_penalty`](Self::has_penalty), the store only checks whether the key is blocked: the charge
    /// uses no units, whatever its cost, and fits unless the key is blocked. The answer is
    /// [`Usage::unknown`](super::Usage::unknown) or [`Usage::blocked`](super::Usage::blocked).
    pub quota: Quota,
    /// How many units the request uses. A cost of 0 fits, unless the key
    /// [is blocked](super::Usage::blocked).
    pub cost: u64,
    /// Units that are reserved for earlier requests of this key, which are held. The charge fits
    /// only if these units fit as well.
    pub ahead: u64,
    /// What the charge does.
    pub mode: Mode,
    /// Whether the response may change the cost. Then a store must not remember how long a refusal
    /// lasts.
    pub is_settled: bool,
    /// A store may take up to this many units at once and spend them locally; see
    /// [`Policy::lease`](crate::Policy::lease). A store without leases ignores it.
    pub lease: u32,
    /// Whether the policy has a [penalty](crate::Penalty). Then no charge, not even of 0 units, fits while
    /// its key [is blocked](super::Usage::blocked). Without it, a block has ended.
    pub has_penalty: bool,
    /// Whether the next charge of the request stands for this one where this one does not fit: a
    /// *waterfall*, see [`Policy::or_else`](crate::Policy::or_else). Of such charges and the one
    /// behind them, the first that fits is made, and the others are answered as
    /// [peeks](Mode::Peek). They have the same [`mode`](Self::mode) and no lease. Without a charge
    /// behind it, it means nothing.
    pub or_else: bool,
}

/// What a [`Charge`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The request passes only if the charge fits.
    Enforced,
    /// The request may pass whether or not the charge fits. The charge is made if it fits and the
    /// request passes.
    DryRun,
    /// The charge is never made. Its answer is the one that a request would get now.
    Peek,
}

impl Charge {
    /// One unit, [enforced](Mode::Enforced).
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the half of a fingerprint chooses a shard"
    )]
    pub const fn new(policy: u64, key: u128, algorithm: Algorithm, quota: Quota) -> Self {
        let (shard, mode) = (key as u64, Mode::Enforced);
        let (cost, ahead, is_settled, lease) = (1, 0, false, 0);
        Self {
            key,
            policy,
            shard,
            algorithm,
            quota,
            cost,
            ahead,
            mode,
            is_settled,
            lease,
            has_penalty: false,
            or_else: false,
        }
    }

    /// Identifies the count: no two keys of one policy, and no two policies of one key, have the
    /// same. The lower half depends on the key alone, so that a store can keep the counts of one
    /// key side by side.
    #[must_use]
    pub const fn id(&self) -> u128 {
        (self.policy as u128) << 64 ^ self.key
    }

    /// How many units must be left for the charge to fit.
    pub(crate) fn units_required(&self) -> u64 {
        units_required(self.ahead, self.cost)
    }

    /// Whether the charge uses units when its request passes.
    pub(crate) fn uses_units(&self) -> bool {
        self.mode != Mode::Peek && self.cost > 0 && !self.only_looks()
    }

    /// Whether the charge only checks whether its key is blocked, because its quota is unlimited.
    pub(crate) const fn only_looks(&self) -> bool {
        self.quota.is_unlimited()
    }
}

/// The charges of a request, as ranges of those that stand for each other: of each range, one charge
/// is made at most. Most have one charge.
pub(crate) fn runs(charges: &[Charge]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    charges.chunk_by(|charge, _| charge.or_else).map(move |run| {
        end += run.len();
        end - run.len()..end
    })
}

/// Whether a request passes: in each run of enforced charges, one `fits`, by its index.
pub(crate) fn pass(charges: &[Charge], fits: impl Fn(usize) -> bool) -> bool {
    let fits =
        |run: Range<usize>| charges[run.start].mode != Mode::Enforced || run.into_iter().any(&fits);
    runs(charges).all(fits)
}

/// Of the charges of a request that passes, the indices of those that are made: the first of each run
/// that `fits`.
pub(crate) fn made(
    charges: &[Charge],
    fits: impl Fn(usize) -> bool,
) -> impl Iterator<Item = usize> {
    runs(charges).filter_map(move |mut run| run.find(|index| fits(*index)))
}
