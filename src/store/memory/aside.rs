//! Charging keys whose states are kept aside, as those of sliding windows are that were used in more
//! than six steps, and those of several quotas: under the lock of their segment's ledger, without
//! which no slot moves.

use super::{
    MemoryStore,
    ledger::forgotten_at,
    slot::{Address, is_wide},
    table::Tables,
};
use crate::{
    clock::Now,
    store::{Charge, Mode, Usage},
};

impl MemoryStore {
    /// Makes one charge; `None` where the key is new, or has all in its slot or may have it there
    /// again, or is only asked about.
    #[inline(never)]
    pub(super) fn charge_one_aside(&self, charge: &Charge, now: Now) -> Option<Usage> {
        if charge.mode == Mode::Peek {
            return None;
        }
        if is_wide(charge) {
            self.charge_one_aside_in(&self.segments.wide, charge, now)
        } else {
            self.charge_one_aside_in(&self.segments.narrow, charge, now)
        }
    }

    fn charge_one_aside_in<const N: usize>(
        &self,
        tables: &Tables<N>,
        charge: &Charge,
        now: Now,
    ) -> Option<Usage> {
        let address = Address::of(charge);
        let segment = self.segment(&address);
        let mut ledger = segment.ledger();
        let table = tables.get(segment.number);
        let glance = table.glance(segment.version(), &address, None)?;
        let needed = ledger.needs(&glance.slot);
        let counts = ledger.aside.get_mut(glance.slot.index_aside()?)?;
        if counts.single().is_none() && counts.is_expired(now) {
            return None;
        }
        let (quota, cost) = (&charge.quota, charge.cost);
        let adopted = counts.track(quota, now);
        let (wait, remaining, reset) = counts.charge(quota, now, charge.ahead, cost);
        if adopted || (wait == 0 && cost > 0) {
            glance.forget_aside_at(forgotten_at(counts, now));
        }
        if adopted {
            let needs = ledger.needs(&glance.slot);
            ledger.take(self.quotas.policy(glance.slot.quota_number()), needs - needed);
        }
        Some(Usage::from_nanos(wait, remaining, reset))
    }
}
