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
    slot::{Address, Pack, Slot, is_wide},
    sync::Taken,
    table::{Glance, Tables},
};
use crate::{
    algorithm::{QuotaState, State},
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
struct Counted<'a, const N: usize> {
    /// Which of the request's.
    index: usize,
    glance: Glance<'a, N>,
    taken: Option<Taken<'a, N>>,
    after: Slot<N>,
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

/// The charges of a request that are made in tables of one kind.
type Counts<'a, const N: usize> = SmallVec<[Counted<'a, N>; 8]>;

impl MemoryStore {
    /// Makes one charge, and tells what became of it.
    pub(super) fn charge_one(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        if is_wide(charge) {
            self.charge_one_wide(charge, usage, now);
        } else {
            self.charge_one_in(&self.segments.narrow, charge, usage, now);
        }
    }

    /// Apart, so that the others do not pay for its frame.
    #[inline(never)]
    fn charge_one_wide(&self, charge: &Charge, usage: &mut Usage, now: Now) {
        self.charge_one_in(&self.segments.wide, charge, usage, now);
    }

    #[inline(always)]
    fn charge_one_in<const N: usize>(
        &self,
        tables: &Tables<N>,
        charge: &Charge,
        usage: &mut Usage,
        now: Now,
    ) {
        let made = match self.try_one(tables, charge, usage, now) {
            Err(Missed::Outdated) => tried_again(|| self.try_one(tables, charge, usage, now)),
            made => made.ok(),
        };
        if made.is_none() {
            self.charge_one_locked(charge, usage, now);
        }
    }

    #[inline(always)]
    fn try_one<const N: usize>(
        &self,
        tables: &Tables<N>,
        charge: &Charge,
        usage: &mut Usage,
        now: Now,
    ) -> Result<(), Missed> {
        let (glance, after) = self.count(tables, charge, None, usage, now)?;
        if !usage.fits() || !charge.uses_units() {
            return glance.still().then_some(()).ok_or(Missed::Outdated);
        }
        glance.take().ok_or(Missed::Outdated)?.write(after.0);
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
        let (mut narrow, mut wide) = (Counts::new(), Counts::new());
        let is_narrow = |charge: &Charge| !is_wide(charge);
        self.count_those(is_narrow, &self.segments.narrow, charges, usages, now, &mut narrow)?;
        self.count_those(is_wide, &self.segments.wide, charges, usages, now, &mut wide)?;
        let fits =
            |(charge, usage): (&Charge, &Usage)| charge.mode != Mode::Enforced || usage.fits();
        if charges.iter().zip(&*usages).all(fits) {
            // All are taken before any is written. Nobody waits here, so the order is of no
            // consequence.
            take(&mut narrow)?;
            take(&mut wide)?;
            write(&mut narrow);
            write(&mut wide);
        } else {
            self.uncharged(&narrow, charges, usages, now)?;
            self.uncharged(&wide, charges, usages, now)?;
        }
        Ok(())
    }

    /// What the charges make of their keys' states, of those that are `meant`.
    #[inline(always)]
    fn count_those<'a, const N: usize>(
        &'a self,
        meant: impl Fn(&Charge) -> bool,
        tables: &'a Tables<N>,
        charges: &[Charge],
        usages: &mut [Usage],
        now: Now,
        counts: &mut Counts<'a, N>,
    ) -> Result<(), Missed> {
        let mut last = None;
        for (index, (charge, usage)) in charges.iter().zip(usages).enumerate() {
            if meant(charge) {
                // What a key has under several policies came there together: each behind the last.
                let behind = last.and_then(|(key, place)| (key == charge.key).then_some(place + 1));
                let (glance, after) = self.count(tables, charge, behind, usage, now)?;
                last = Some((charge.key, glance.place));
                counts.push(Counted { index, glance, taken: None, after });
            }
        }
        Ok(())
    }

    /// What a charge makes of its key's state and tells in `usage`, if its request passes.
    #[inline(always)]
    fn count<'a, const N: usize>(
        &'a self,
        tables: &'a Tables<N>,
        charge: &Charge,
        expected: Option<usize>,
        usage: &mut Usage,
        now: Now,
    ) -> Result<(Glance<'a, N>, Slot<N>), Missed> {
        let address = Address::of(charge);
        let segment = self.segment(&address);
        let glance = tables.get(segment.number).glance(segment.version(), &address, expected);
        let glance = glance.ok_or(Missed::NeedsLock)?;
        if glance.slot.is_taken() {
            return Err(Missed::Outdated);
        }
        let after = match glance.slot.token_bucket() {
            Some(bucket) => self.count_in(bucket, charge, &glance.slot, usage, now),
            // Half of a write is not to be made sense of.
            None if !glance.still() => return Err(Missed::Outdated),
            None => self.count_window(charge, &glance.slot, usage, now),
        };
        Ok((glance, after.ok_or(Missed::NeedsLock)?))
    }

    /// Apart, so that token buckets do not pay for its registers.
    #[inline(never)]
    fn count_window<const N: usize>(
        &self,
        charge: &Charge,
        slot: &Slot<N>,
        usage: &mut Usage,
        now: Now,
    ) -> Option<Slot<N>> {
        match slot.fixed_window() {
            Some(window) if window.is_ahead(now) && charge.mode != Mode::Peek => None,
            Some(window) => self.count_in(window, charge, slot, usage, now),
            None => self.count_in(slot.sliding_window(&self.quotas)?, charge, slot, usage, now),
        }
    }

    /// For each algorithm on its own: the compiler then works out once what each step needs.
    #[inline(always)]
    fn count_in<S: QuotaState + Pack + Into<State>, const N: usize>(
        &self,
        mut state: S,
        charge: &Charge,
        slot: &Slot<N>,
        usage: &mut Usage,
        now: Now,
    ) -> Option<Slot<N>> {
        let quota = slot.quota(&self.quotas)?;
        if *quota != charge.quota || charge.mode == Mode::Peek {
            return Self::peek(&state.into(), quota, charge, slot, usage, now);
        }
        let (wait, remaining, reset) = state.charge(&charge.quota, now, charge.ahead, charge.cost);
        let taken = wait == 0 && charge.cost > 0;
        *usage = Usage::from_nanos(wait, remaining, reset);
        if taken { slot.with(&state, quota) } else { Some(*slot) }
    }

    /// What few charges need: an answer only. One under another quota than the state was counted
    /// under has that one kept in mind, for which its slot has no room.
    #[inline(never)]
    fn peek<const N: usize>(
        state: &State,
        quota: &Quota,
        charge: &Charge,
        slot: &Slot<N>,
        usage: &mut Usage,
        now: Now,
    ) -> Option<Slot<N>> {
        if charge.mode != Mode::Peek {
            return None;
        }
        let state = state.convert(quota, &charge.quota, now);
        let wait = state.wait(&charge.quota, now, charge.units_required());
        *usage = told(&state, &charge.quota, wait, now);
        Some(*slot)
    }

    /// What is left where the request does not pass.
    fn uncharged<const N: usize>(
        &self,
        counts: &Counts<'_, N>,
        charges: &[Charge],
        usages: &mut [Usage],
        now: Now,
    ) -> Result<(), Missed> {
        for Counted { index, glance, .. } in counts {
            let (quota, usage) = (&charges[*index].quota, &mut usages[*index]);
            let (state, before) = glance.slot.unpack(&self.quotas).ok_or(Missed::NeedsLock)?;
            *usage = told(&state.convert(before, quota, now), quota, usage.wait_nanos(), now);
            glance.still().then_some(()).ok_or(Missed::Outdated)?;
        }
        Ok(())
    }
}

#[inline(always)]
fn take<const N: usize>(counts: &mut Counts<'_, N>) -> Result<(), Missed> {
    for counted in counts {
        counted.taken = Some(counted.glance.take().ok_or(Missed::Outdated)?);
    }
    Ok(())
}

#[inline(always)]
fn write<const N: usize>(counts: &mut Counts<'_, N>) {
    for counted in counts {
        if let Some(taken) = counted.taken.take() {
            taken.write(counted.after.0);
        }
    }
}
