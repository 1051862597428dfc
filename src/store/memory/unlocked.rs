//! Charging keys that are known, without waiting for a lock: their states are read, and written on
//! condition that nothing has changed meanwhile. A refusal writes nothing.

use smallvec::{SmallVec, smallvec};

use super::{
    MemoryStore,
    ledger::usage,
    segment::{Glance, Segment},
    slot::{Address, Slot},
};
use crate::{
    algorithm::{Count, State},
    clock::Now,
    quota::Quota,
    store::{Charge, Mode, Usage, Usages},
};

/// A charge, as it would be made.
struct Counted<'a> {
    segment: &'a Segment,
    glance: Glance,
    after: Slot,
    usage: Usage,
}

impl MemoryStore {
    /// Makes the charges. `None` where someone else writes to a segment meanwhile, or a key is new,
    /// or its state is kept aside.
    pub(super) fn charge_unlocked(&self, charges: &[Charge], now: Now) -> Option<Usages> {
        if let [charge] = charges {
            let Counted { segment, glance, after, usage } = self.count(charge, now)?;
            if !usage.fits() || !charge.uses_units() {
                return segment.still(glance.seen).then(|| smallvec![usage]);
            }
            let _writing = segment.write_if_still(glance.seen)?;
            segment.set(glance.place, after);
            return Some(smallvec![usage]);
        }
        let mut counted: SmallVec<[Counted<'_>; 4]> = SmallVec::new();
        for charge in charges {
            counted.push(self.count(charge, now)?);
        }
        let fits = |(charge, counted): (&Charge, &Counted<'_>)| {
            charge.mode != Mode::Enforced || counted.usage.fits()
        };
        if !charges.iter().zip(&counted).all(fits) {
            let left = charges.iter().zip(&counted);
            return left.map(|(charge, counted)| self.uncharged(charge, counted, now)).collect();
        }
        // Each segment once. Nobody waits here, so the order is of no consequence.
        let mut writing: SmallVec<[_; 4]> = SmallVec::new();
        for (index, one) in counted.iter().enumerate() {
            let same = |other: &&Counted<'_>| std::ptr::eq(other.segment, one.segment);
            match counted[..index].iter().find(same) {
                Some(other) if other.glance.seen != one.glance.seen => return None,
                Some(_) => {}
                None => writing.push(one.segment.write_if_still(one.glance.seen)?),
            }
        }
        counted.iter().for_each(|counted| counted.segment.set(counted.glance.place, counted.after));
        Some(counted.iter().map(|counted| counted.usage).collect())
    }

    /// What a charge makes of its key's state, if its request passes.
    fn count(&self, charge: &Charge, now: Now) -> Option<Counted<'_>> {
        let address = Address::of(charge);
        let segment = &self.segments[address.segment(self.segments.len())];
        let glance = segment.glance(&address)?;
        let (after, usage) = match glance.slot.unpack(&self.quotas)? {
            (State::TokenBucket(bucket), quota) => {
                self.count_in(bucket, quota, charge, &glance.slot, now)
            }
            (State::FixedWindow(window), quota) => {
                self.count_in(window, quota, charge, &glance.slot, now)
            }
            (State::SlidingWindow(_), _) => None,
        }?;
        Some(Counted { segment, glance, after, usage })
    }

    /// For each algorithm on its own: the compiler then works out once what each step needs.
    #[inline]
    fn count_in<S: Count + Copy + Into<State>>(
        &self,
        mut state: S,
        quota: &Quota,
        charge: &Charge,
        slot: &Slot,
        now: Now,
    ) -> Option<(Slot, Usage)> {
        state.under(quota, &charge.quota, now);
        let wait = state.wait(&charge.quota, now, charge.ahead.saturating_add(charge.cost));
        let mut after = *slot;
        if wait == 0 && charge.uses_units() {
            state.take(&charge.quota, now, charge.cost);
            after = slot.with(&state.into(), quota, &charge.quota, &self.quotas)?;
        }
        Some((after, usage(&state, &charge.quota, wait, now)))
    }

    /// What is left where the request does not pass.
    fn uncharged(&self, charge: &Charge, counted: &Counted<'_>, now: Now) -> Option<Usage> {
        let Counted { segment, glance, .. } = counted;
        let (mut state, quota) = glance.slot.unpack(&self.quotas)?;
        state.under(quota, &charge.quota, now);
        let usage = usage(&state, &charge.quota, counted.usage.wait_nanos(), now);
        segment.still(glance.seen).then_some(usage)
    }
}
