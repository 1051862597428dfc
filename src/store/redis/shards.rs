//! The charges and corrections of one request, shard by shard.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::task::JoinHandle;

use super::{Shared, leases::taken, time_budget::TimeBudget, wire::Request};
use crate::{
    clock::Now,
    store::{Answer, Change, Charge, Correction, Mode, StoreError, Usage, Usages},
};

/// Which charges of a request belong to one shard.
type Places = SmallVec<[usize; 4]>;

impl Shared {
    /// Makes some corrections of the same keys, and then all charges or none. What is on several
    /// shards is charged on one after the other, in their order; when a later one refuses or fails,
    /// the charges before are given back.
    pub(super) async fn charge(
        self: &Arc<Self>,
        before: &[Correction],
        charges: &[Charge],
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let is_one = charges.windows(2).all(|two| two[0].shard == two[1].shard);
        if is_one || !self.manager.is_cluster() {
            let request = Request::correct_and_charge(&self.names, before, charges);
            let mut answer = self.manager.run(&request, budget).await?;
            answer.usages = answer.usages[before.len()..].iter().copied().collect();
            return Ok(answer);
        }
        if !before.is_empty() {
            self.correct(before).await?;
        }
        // Boxed: others would be moved about with room for it.
        Box::pin(self.charge_each_shard(charges, budget)).await
    }

    async fn charge_each_shard(
        self: &Arc<Self>,
        charges: &[Charge],
        budget: &mut TimeBudget,
    ) -> Result<Answer, StoreError> {
        let mut all = Collected::new(charges.len());
        let mut before: Vec<(usize, Correction)> = Vec::new();
        for places in self.shards(charges.iter().map(|charge| charge.shard)) {
            let charges: SmallVec<[Charge; 4]> = places.iter().map(|&at| charges[at]).collect();
            let answer = self.manager.run(&Request::charge(&self.names, &charges), budget).await;
            let answer = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    // Nobody has to wait for that.
                    drop(self.give_back(before.into_iter().map(|(_, made)| made).collect()));
                    return Err(error);
                }
            };
            all.add(&places, &answer);
            if refuses(&charges, &answer) {
                let (places, corrections): (Places, Vec<_>) = before.into_iter().unzip();
                // The time of the refusal stays known.
                let mut left = TimeBudget::new(budget.left());
                let given_back = left.wait(Duration::MAX, self.give_back(corrections)).await;
                if let Some(Ok(Ok(answer))) = given_back {
                    all.add(&places, &answer);
                }
                break;
            }
            let made = made(&charges, &answer);
            before.extend(made.map(|(index, correction)| (places[index], correction)));
        }
        Ok(all.answer())
    }

    /// Gives back even if nobody waits for it.
    fn give_back(
        self: &Arc<Self>,
        corrections: Vec<Correction>,
    ) -> JoinHandle<Result<Answer, StoreError>> {
        let shared = Arc::clone(self);
        tokio::spawn(async move { shared.correct(&corrections).await })
    }

    /// Makes all corrections, also when some of them fail.
    pub(super) async fn correct(
        self: &Arc<Self>,
        corrections: &[Correction],
    ) -> Result<Answer, StoreError> {
        // What was refused before may pass now; and again, for what was asked meanwhile.
        let forget = || {
            for Correction { charge, change, .. } in corrections {
                if *change == Change::Reset {
                    self.leases.forget(charge);
                }
                self.deny_cache.forget(charge);
            }
        };
        forget();
        let mut budget = self.manager.time_budget();
        let (mut all, mut failed) = (Collected::new(corrections.len()), None);
        for places in self.shards(corrections.iter().map(|correction| correction.charge.shard)) {
            let corrections: SmallVec<[Correction; 4]> =
                places.iter().map(|&at| corrections[at]).collect();
            let request = Request::correct(&self.names, &corrections);
            match self.manager.run(&request, &mut budget).await {
                Ok(answer) => all.add(&places, &answer),
                Err(error) => failed = Some(error),
            }
        }
        forget();
        match failed {
            Some(error) => Err(error),
            None => Ok(all.answer()),
        }
    }

    /// What can go to one server at once, in the order of the shards. It is one server at least: the
    /// answer has its time, even if nothing else.
    fn shards(&self, shards: impl Iterator<Item = u64>) -> SmallVec<[Places; 1]> {
        let shards: SmallVec<[u64; 4]> = shards.collect();
        let mut places: Places = (0..shards.len()).collect();
        if places.is_empty() || !self.manager.is_cluster() {
            return SmallVec::from_iter([places]);
        }
        places.sort_by_key(|&place| shards[place]);
        places.chunk_by(|&one, &other| shards[one] == shards[other]).map(Places::from).collect()
    }
}

fn refuses(charges: &[Charge], answer: &Answer) -> bool {
    let mut each = charges.iter().zip(&answer.usages);
    each.any(|(charge, usage)| charge.mode == Mode::Enforced && !usage.fits())
}

/// The charges that were made, by their places, and what gives them back.
pub(super) fn made(
    charges: &[Charge],
    answer: &Answer,
) -> impl Iterator<Item = (usize, Correction)> {
    let passes = !refuses(charges, answer);
    let each = charges.iter().zip(&answer.usages).enumerate();
    let made = each.filter(move |(_, (charge, usage))| {
        let uses_units = charge.uses_units() || charge.lease > 0;
        passes && uses_units && usage.fits()
    });
    made.map(|(place, (charge, usage))| {
        let (taken, charged_at) = (taken(charge, usage), Some(answer.at));
        let (charge, change) = (Charge { cost: taken, ..*charge }, Change::GiveBack(taken));
        // What remains to a lease has its own units in it.
        let usage = if charge.lease == 0 { *usage } else { Usage::unknown() };
        (place, Correction { charge, charged_at, usage, change })
    })
}

/// The answers of several shards.
struct Collected {
    usages: Usages,
    at: Option<Now>,
}

impl Collected {
    fn new(length: usize) -> Self {
        Self { usages: Usages::unknown(length), at: None }
    }

    fn add(&mut self, places: &[usize], answer: &Answer) {
        places.iter().zip(&answer.usages).for_each(|(&place, usage)| self.usages[place] = *usage);
        // The earliest: what is given back to a later time than it was used could be used twice.
        let earlier = self.at.filter(|at| at.monotonic() <= answer.at.monotonic());
        self.at = Some(earlier.unwrap_or(answer.at));
    }

    #[expect(clippy::expect_used, reason = "who asks for it has added an answer")]
    fn answer(self) -> Answer {
        Answer { usages: self.usages, at: self.at.expect("a shard has answered") }
    }
}
