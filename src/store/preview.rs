//! What a store that can only peek answers to a preview: [`preview_by_peeks`].

use smallvec::SmallVec;

use super::{
    answer::Answer,
    charge::{Charge, Mode, made, pass},
    contract::Store,
    future::StoreFuture,
    usage::Usage,
};
use crate::{algorithm::Algorithm, clock::Now, quota::Quota};

/// The default of [`Store::preview`]: asks with peeks, which the store answers as of before the
/// request, and subtracts what the request would use. `held` are the units for a charge that need not be
/// asked for, as they were taken before.
pub(super) fn preview_by_peeks(
    store: &(impl Store + ?Sized),
    charges: &[Charge],
    held: impl Fn(&Charge) -> u64,
    now: Now,
) -> StoreFuture {
    let charges: Vec<_> = charges.iter().map(|charge| (*charge, held(charge))).collect();
    let peek = |(charge, held): &(Charge, u64)| {
        let cost = charge.cost.saturating_sub(*held);
        Charge { mode: Mode::Peek, cost, ..*charge }
    };
    let answer = store.charge(&charges.iter().map(peek).collect::<Vec<_>>(), now);
    StoreFuture::later(async move {
        let mut answer = answer.await?;
        for ((_, held), usage) in charges.iter().zip(&mut *answer.usages) {
            if usage.is_known() && usage.blocked_for().is_none() {
                let remaining = usage.remaining().saturating_add(*held);
                *usage = Usage::new(usage.wait(), remaining, usage.reset());
            }
        }
        let charges: Vec<_> = charges.into_iter().map(|(charge, _)| charge).collect();
        use_units(&charges, &mut answer);
        Ok(answer)
    })
}

/// Turns what is left before a request into what is left after it, if it passes.
fn use_units(charges: &[Charge], answer: &mut Answer) {
    let fits = |index: usize| answer.usages.get(index).is_none_or(Usage::fits);
    if !pass(charges, fits) {
        return;
    }
    let made: SmallVec<[usize; 4]> = made(charges, fits).collect();
    for index in made {
        let (charge, usage) = (&charges[index], &mut answer.usages[index]);
        if usage.is_known() && charge.uses_units() {
            let remaining = usage.remaining().saturating_sub(charge.cost);
            let reset = match usage.remaining_and_reset() {
                (_, 0) => first_reset(charge.algorithm, &charge.quota),
                (_, reset) => reset,
            };
            *usage = Usage::from_nanos(0, remaining, reset);
        }
    }
}

/// How long until more is left, right after the first use of a whole quota, in nanoseconds.
fn first_reset(algorithm: Algorithm, quota: &Quota) -> u64 {
    match algorithm {
        Algorithm::TokenBucket => algorithm.longest_wait(quota, 1),
        Algorithm::FixedWindow | Algorithm::SlidingWindow => quota.window_nanos(),
        Algorithm::InFlight => 0,
    }
}
