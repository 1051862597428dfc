//! The charges and corrections of one request, on the servers that have their keys: [`Shards`].

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use smallvec::{SmallVec, smallvec};
use tokio::task::JoinHandle;

use super::{
    connection_manager::ConnectionManager,
    deny_cache::DenyCache,
    leases::units_taken,
    script::{ScriptCall, stamped},
    time_budget::TimeBudget,
};
use crate::{
    algorithm::Algorithm,
    clock::Now,
    store::{
        Answer, Change, Charge, Correction, Mode, StoreError, Usage, Usages, made, pass, runs,
    },
};

/// The most corrections in one command.
const MAX_CORRECTIONS: usize = 64;

/// A single server runs a request's charges in one go, whatever their shards. In a cluster, shards are
/// asked one after the other.
pub(super) struct Shards {
    pub(super) manager: Arc<ConnectionManager>,
    pub(super) deny_cache: DenyCache,
}

/// The indices of a request's charges that belong to one shard.
type Indices = SmallVec<[usize; 4]>;

impl Shards {
    /// Makes corrections of the same keys, and then all charges or none. If a later shard refuses or
    /// fails, the charges on earlier shards are given back.
    pub(super) async fn charge(
        self: &Arc<Self>,
        before: &[Correction],
        charges: &[Charge],
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let is_one_shard = |first: &Charge| charges.iter().all(|each| each.shard == first.shard);
        if charges.first().is_none_or(is_one_shard) || !self.manager.is_cluster() {
            let call = ScriptCall::new(&self.manager.names, before, charges);
            let mut answer = self.manager.run(&call, budget).await?;
            if !before.is_empty() {
                answer.usages = answer.usages.iter().skip(before.len()).copied().collect();
            }
            return Ok(answer);
        }
        // Boxed, so that the futures of other requests stay small.
        if !before.is_empty() {
            Box::pin(self.correct(before)).await?;
        }
        let is_spread = |run: &Range<usize>| {
            let run = charges.get(run.clone()).unwrap_or_default();
            run.iter().any(|charge| run.first().is_some_and(|first| first.shard != charge.shard))
        };
        let spread: Vec<_> = runs(charges).filter(is_spread).collect();
        if spread.is_empty() {
            return Box::pin(self.charge_each_shard(charges, budget)).await;
        }
        Box::pin(self.charge_spread(charges, spread, budget)).await
    }

    /// Charges, where charges that stand for each other (the ranges `spread`) are on several shards:
    /// one of them is tried after the other, each time with all other charges, and the rest as peeks.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "an index is of the charges"
    )]
    async fn charge_spread(
        self: &Arc<Self>,
        charges: &[Charge],
        mut spread: Vec<Range<usize>>,
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let mut tried = charges.to_vec();
        for run in &spread {
            tried[run.clone()].iter_mut().for_each(|charge| charge.or_else = false);
            tried[run.start + 1..run.end].iter_mut().for_each(|charge| charge.mode = Mode::Peek);
        }
        // Each is refused by what it has answered, even if a later peek finds that it fits.
        let mut refused: Vec<(usize, Usage)> = Vec::new();
        loop {
            let mut answer = self.charge_each_shard(&tried, budget).await?;
            let passes = pass(&tried, fits(&answer));
            refused.iter().for_each(|(index, usage)| answer.usages[*index] = *usage);
            let mut tries_another = false;
            for run in &mut spread {
                // The rest of the request is charged, and a dry run refuses nothing of it.
                let is_alone = passes && tried[run.start].mode == Mode::DryRun;
                while !answer.usages[run.start].fits() && run.len() > 1 && (is_alone || !passes) {
                    refused.push((run.start, answer.usages[run.start]));
                    tried[run.start].mode = Mode::Peek;
                    run.start += 1;
                    tried[run.start].mode = charges[run.start].mode;
                    if !is_alone {
                        tries_another = true;
                        break;
                    }
                    let one = &tried[run.start..=run.start];
                    // Where it fails, it is only not counted.
                    if let Ok(counted) = self.charge_each_shard(one, budget).await {
                        answer.usages[run.start] = counted.usages[0];
                    }
                }
            }
            if !tries_another {
                return Ok(answer);
            }
        }
    }

    #[expect(clippy::indexing_slicing, reason = "an index is of the charges")]
    async fn charge_each_shard(
        self: &Arc<Self>,
        charges: &[Charge],
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let mut merged = not_answered(charges.len());
        let mut made_before: Vec<(usize, Correction)> = Vec::new();
        for indices in self.by_shard(charges.iter().map(|charge| charge.shard)) {
            let charges: SmallVec<[Charge; 4]> = indices.iter().map(|&at| charges[at]).collect();
            let call = ScriptCall::new(&self.manager.names, &[], &charges);
            let answer = match self.manager.run(&call, budget).await {
                Ok(answer) => answer,
                Err(error) => {
                    // In the background: the caller does not wait for it.
                    drop(self.give_back(made_before.into_iter().map(|(_, made)| made).collect()));
                    return Err(error);
                }
            };
            merge(&mut merged, &indices, &answer);
            if !pass(&charges, fits(&answer)) {
                let (indices, corrections): (Indices, Vec<_>) = made_before.into_iter().unzip();
                // A budget of its own: the caller's keeps the time of the refusal.
                let mut left = TimeBudget::new(budget.left);
                let given_back = left.wait(Duration::MAX, self.give_back(corrections)).await;
                match given_back {
                    Some(Ok(Ok(answer))) => merge(&mut merged, &indices, &answer),
                    _ => budget.is_left = true,
                }
                break;
            }
            let made = charges_made(&charges, &answer);
            let statement = self.manager.names.holder.statement.load(Relaxed);
            made_before.extend(made.map(|(index, made)| {
                let is_in_flight = made.charge.algorithm == Algorithm::InFlight;
                let made = if is_in_flight { stamped(&made, statement) } else { made };
                (indices[index], made)
            }));
        }
        Ok(merged)
    }

    /// Starts a task, which gives back even if the caller leaves.
    fn give_back(
        self: &Arc<Self>,
        corrections: Vec<Correction>,
    ) -> JoinHandle<Result<Answer, StoreError>> {
        let shards = Arc::clone(self);
        tokio::spawn(async move { shards.correct(&corrections).await })
    }

    /// Makes all corrections, also when some of them fail.
    #[expect(clippy::indexing_slicing, reason = "an index is of the corrections")]
    pub(super) async fn correct(&self, corrections: &[Correction]) -> Result<Answer, StoreError> {
        // Requests that were refused before may pass now. A second time, for refusals that were
        // remembered meanwhile. A refusal that is only counted lasts, unless it begins a block.
        let frees = |correction: &&Correction| !matches!(correction.change, Change::Penalize(_));
        let forget = |correction: &Correction| self.deny_cache.forget(&correction.charge);
        corrections.iter().filter(frees).for_each(forget);
        let mut budget = self.manager.time_budget();
        let (mut merged, mut failed) = (not_answered(corrections.len()), None);
        for indices in self.by_shard(corrections.iter().map(|correction| correction.charge.shard)) {
            let corrections: SmallVec<[Correction; 4]> =
                indices.iter().map(|&at| corrections[at]).collect();
            let call = ScriptCall::new(&self.manager.names, &corrections, &[]);
            match self.manager.run(&call, &mut budget).await {
                Ok(answer) => merge(&mut merged, &indices, &answer),
                Err(error) => failed = Some(error),
            }
        }
        for (correction, usage) in corrections.iter().zip(&*merged.usages) {
            if frees(&correction) || usage.blocked_for().is_some() {
                forget(correction);
            }
        }
        failed.map_or(Ok(merged), Err)
    }

    /// Makes any number of corrections, in several commands: the server runs others in between. In a
    /// cluster, each correction has a time budget of its own.
    pub(super) async fn correct_all(&self, corrections: &[Correction]) -> Result<(), StoreError> {
        let mut corrected = Ok(());
        for some in self.chunks(corrections) {
            corrected = corrected.and(self.correct(some).await.map(drop));
        }
        corrected
    }

    /// Divides corrections, or their keys, into those of one command each.
    pub(super) fn chunks<'a, T: Sync>(
        &self,
        corrections: &'a [T],
    ) -> impl Iterator<Item = &'a [T]> + Send + use<'a, T> {
        corrections.chunks(if self.manager.is_cluster() { 1 } else { MAX_CORRECTIONS })
    }

    /// Groups what one server can do at once, in the order of the shards. There is one group at least,
    /// perhaps of nothing: its answer still has the server's time.
    #[expect(clippy::indexing_slicing, reason = "an index is of the shards")]
    fn by_shard(&self, shards: impl Iterator<Item = u64>) -> SmallVec<[Indices; 1]> {
        let shards: SmallVec<[u64; 4]> = shards.collect();
        let mut indices: Indices = (0..shards.len()).collect();
        if indices.is_empty() || !self.manager.is_cluster() {
            return smallvec![indices];
        }
        indices.sort_by_key(|&index| shards[index]);
        indices.chunk_by(|&one, &other| shards[one] == shards[other]).map(Indices::from).collect()
    }
}

fn fits(answer: &Answer) -> impl Fn(usize) -> bool + Copy {
    |index| answer.usages.get(index).is_some_and(Usage::fits)
}

/// Of the charges that were made: the index of each, and the correction that gives it back.
pub(super) fn charges_made(
    charges: &[Charge],
    answer: &Answer,
) -> impl Iterator<Item = (usize, Correction)> {
    let passes = pass(charges, fits(answer));
    let made = made(charges, fits(answer)).filter(move |_| passes);
    let each =
        made.filter_map(|index| Some((index, charges.get(index)?, answer.usages.get(index)?)));
    let made = each.filter(|(_, charge, _)| charge.uses_units() || charge.lease > 0);
    made.map(|(index, charge, usage)| {
        let (taken, charged_at) = (units_taken(charge, usage), Some(answer.at));
        let (charge, change) = (Charge { cost: taken, ..*charge }, Change::GiveBack(taken));
        // The usage of a lease is from before it took its units.
        let usage = if charge.lease == 0 { *usage } else { Usage::unknown() };
        (index, Correction { charged_at, usage, ..Correction::new(charge, change) })
    })
}

/// An answer to so many charges or corrections, before any shard has answered.
fn not_answered(length: usize) -> Answer {
    Answer { usages: Usages::unknown(length), at: Now::new(Duration::MAX, Duration::MAX) }
}

/// Adds the answer of one shard. The time is the earliest of all: units that go back to a later time
/// than they were used at could be used twice.
#[expect(clippy::indexing_slicing, reason = "an index is of the usages")]
fn merge(merged: &mut Answer, indices: &[usize], answer: &Answer) {
    indices.iter().zip(&*answer.usages).for_each(|(&index, usage)| merged.usages[index] = *usage);
    if answer.at.monotonic() < merged.at.monotonic() {
        merged.at = answer.at;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_several_shards_has_the_earliest_time() {
        let at = |secs| Now::new(Duration::from_secs(secs), Duration::from_secs(secs));
        let mut merged = not_answered(3);
        for (index, remaining, secs) in [(2, 7, 5), (0, 8, 3), (1, 9, 4)] {
            let usage = Usage::new(Duration::ZERO, remaining, Duration::ZERO);
            let usages = [usage].into_iter().collect();
            merge(&mut merged, &[index], &Answer { usages, at: at(secs) });
        }
        let remaining: Vec<_> = merged.usages.iter().map(Usage::remaining).collect();
        assert_eq!((merged.at, &*remaining), (at(3), &[8, 9, 7][..]));
    }
}
