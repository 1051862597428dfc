//! Charging keys that are known, without waiting for anybody: a state is read, and written on
//! condition that it has not changed meanwhile. A refusal writes nothing. Where that does not do,
//! they are charged under a lock.
//!
//! This is what most decisions do: what stands in one line here is to be one piece for the
//! compiler as well, which would not think so of functions that have two callers.

use std::hint::spin_loop;

use smallvec::SmallVec;

use super::{
    MemoryStore,
    ledger::usage as told,
    segment::Glance,
    slot::{Address, Slot},
    sync::Taken,
};
use crate::{
    algorithm::{Count, State},
    clock::Now,
    quota::Quota,
    store::{Charge, Mode, Usage},
};

/// How often it is tried while others charge the same keys.
const TRIES: usize = 16;

/// Why a charge was not made.
enum Missed {
    /// Someone else has changed what was read.
    Outdated,
    /// The key is new, or its state is kept aside, or slots move.
    NeedsLock,
}

/// A charge, as it would be made.
struct Counted<'a> {
    glance: Glance<'a>,
    /// The words of the slot that change.
    after: (u64, u64),
}

/// Tries again, where others have changed what was read: the first try is to be straight ahead.
#[inline(never)]
fn tried_again<T>(mut attempt: impl FnMut() -> Result<T, Missed>) -> Option<T> {
    for _ in 0..TRIES {
        spin_loop();
        match attempt() {
            Err(Missed::Outdated) => {}
            made => return made.ok(),
        }
    }
    None
}

impl MemoryStore {
    /// Makes one charge, and tells what became of it.
    pub(super) fn charge_one(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        let made = match self.try_one(charge, usage, now) {
            Err(Missed::Outdated) => tried_again(|| self.try_one(charge, usage, now)),
            made => made.ok(),
        };
        if made.is_none() {
            self.charge_one_locked(charge, usage, now);
        }
    }

    #[inline(always)]
    fn try_one(&self, charge: &Charge, usage: &mut Usage, now: Now) -> Result<(), Missed> {
        let Counted { glance, after } = self.count(charge, None, usage, now)?;
        if !usage.fits() || !charge.uses_units() {
            return glance.still().then_some(()).ok_or(Missed::Outdated);
        }
        glance.take().ok_or(Missed::Outdated)?.write(after);
        Ok(())
    }

    /// Makes all the charges or none, and tells what became of each.
    #[inline(never)]
    pub(super) fn charge_all(&self, charges: &[Charge], usages: &mut [Usage], now: Now) {
        let made = match self.try_all(charges, usages, now) {
            Err(Missed::Outdated) => tried_again(|| self.try_all(charges, usages, now)),
            made => made.ok(),
        };
        if made.is_none() {
            self.charge_locked(charges, usages, now);
        }
    }

    fn try_all(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> Result<(), Missed> {
        let mut counted: SmallVec<[Counted<'_>; 8]> = SmallVec::new();
        let mut passes = true;
        let mut last = None;
        for (charge, usage) in charges.iter().zip(&mut *usages) {
            // What a key has under several policies came there together: each behind the last one.
            let behind = last.and_then(|(key, place)| (key == charge.key).then_some(place + 1));
            let made = self.count(charge, behind, usage, now)?;
            last = Some((charge.key, made.glance.place));
            counted.push(made);
            passes &= charge.mode != Mode::Enforced || usage.fits();
        }
        if passes {
            // All are taken before any is written. Nobody waits here, so the order is of no
            // consequence.
            let mut taken: SmallVec<[Taken<'_>; 8]> = SmallVec::new();
            for counted in &counted {
                taken.push(counted.glance.take().ok_or(Missed::Outdated)?);
            }
            taken.into_iter().zip(&counted).for_each(|(taken, counted)| taken.write(counted.after));
        } else {
            for ((charge, counted), usage) in charges.iter().zip(&counted).zip(usages) {
                *usage = self.uncharged(charge, counted, usage.wait_nanos(), now)?;
            }
        }
        Ok(())
    }

    /// What a charge makes of its key's state and tells in `usage`, if its request passes.
    #[inline(always)]
    fn count(
        &self,
        charge: &Charge,
        expected: Option<usize>,
        usage: &mut Usage,
        now: Now,
    ) -> Result<Counted<'_>, Missed> {
        let address = Address::of(charge);
        let segment = self.segment(&address);
        let glance = segment.glance(&address, expected).ok_or(Missed::NeedsLock)?;
        if glance.slot.is_taken() {
            return Err(Missed::Outdated);
        }
        let after = match glance.slot.token_bucket(&self.quotas) {
            Some((bucket, quota)) => self.count_in(bucket, quota, charge, &glance.slot, usage, now),
            None => self.count_window(charge, &glance.slot, usage, now),
        };
        Ok(Counted { glance, after: after.ok_or(Missed::NeedsLock)? })
    }

    /// Apart, so that token buckets do not pay for its registers.
    #[inline(never)]
    fn count_window(
        &self,
        charge: &Charge,
        slot: &Slot,
        usage: &mut Usage,
        now: Now,
    ) -> Option<(u64, u64)> {
        match slot.unpack(&self.quotas)? {
            (State::TokenBucket(_), _) => None,
            (State::FixedWindow(window), quota) => {
                self.count_in(window, quota, charge, slot, usage, now)
            }
            (State::SlidingWindow(log), quota) => {
                self.count_in(log, quota, charge, slot, usage, now)
            }
        }
    }

    /// For each algorithm on its own: the compiler then works out once what each step needs.
    #[inline(always)]
    fn count_in<S: Count + Into<State>>(
        &self,
        mut state: S,
        quota: &Quota,
        charge: &Charge,
        slot: &Slot,
        usage: &mut Usage,
        now: Now,
    ) -> Option<(u64, u64)> {
        if *quota != charge.quota || charge.mode == Mode::Peek {
            return self.count_otherwise(state.into(), quota, charge, slot, usage, now);
        }
        let (wait, remaining, reset) = state.charge(&charge.quota, now, charge.ahead, charge.cost);
        let taken = wait == 0 && charge.cost > 0;
        *usage = Usage::of_nanos(wait, remaining, reset);
        let Slot([_, time, last]) = if taken { slot.with(&state.into())? } else { *slot };
        Some((time, last))
    }

    /// What few charges need: another quota than the state was counted under, or an answer only.
    #[inline(never)]
    fn count_otherwise(
        &self,
        mut state: State,
        quota: &Quota,
        charge: &Charge,
        slot: &Slot,
        usage: &mut Usage,
        now: Now,
    ) -> Option<(u64, u64)> {
        state.under(quota, &charge.quota, now);
        let wait = state.wait(&charge.quota, now, charge.ahead.saturating_add(charge.cost));
        let mut after = *slot;
        if wait == 0 && charge.uses_units() {
            state.take(&charge.quota, now, charge.cost);
            after = slot.with(&state)?.under(&charge.quota, &self.quotas)?;
        }
        *usage = told(&state, &charge.quota, wait, now);
        let Slot([_, time, last]) = after;
        Some((time, last))
    }

    /// What is left where the request does not pass.
    fn uncharged(
        &self,
        charge: &Charge,
        Counted { glance, .. }: &Counted<'_>,
        wait: u64,
        now: Now,
    ) -> Result<Usage, Missed> {
        let (mut state, quota) = glance.slot.unpack(&self.quotas).ok_or(Missed::NeedsLock)?;
        state.under(quota, &charge.quota, now);
        let usage = told(&state, &charge.quota, wait, now);
        glance.still().then_some(usage).ok_or(Missed::Outdated)
    }
}
