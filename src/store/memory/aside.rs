//! Charging keys whose states are kept aside, as those of sliding windows are that were used in more
//! than six steps: under the lock of their segment's ledger, without which no slot moves.

use super::{MemoryStore, slot::Address};
use crate::{
    algorithm::Count,
    clock::Now,
    store::{Charge, Mode, Usage},
};

impl MemoryStore {
    /// Makes one charge; `None` where the key is new, or was counted under another quota, or is only
    /// asked about.
    #[inline(never)]
    pub(super) fn charge_one_aside(&self, charge: &Charge, now: Now) -> Option<Usage> {
        if charge.mode == Mode::Peek {
            return None;
        }
        let address = Address::of(charge);
        let segment = self.segment(&address);
        let mut ledger = segment.ledger();
        let glance = segment.wide().glance(segment.version(), &address, None)?;
        let counted = ledger.aside.get_mut(glance.slot.index_aside()?)?;
        if counted.quota != charge.quota {
            return None;
        }
        let quota = &charge.quota;
        let (wait, remaining, reset) = counted.state.charge(quota, now, charge.ahead, charge.cost);
        if wait == 0 && charge.cost > 0 {
            glance.forget_aside_at(counted.forgotten_at(now));
        }
        Some(Usage::of_nanos(wait, remaining, reset))
    }
}
