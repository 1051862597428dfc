//! Which charges are spent from a lease, how many units a batch takes, and how units go back.

use std::time::Duration;

use super::lease::lifetime;
use crate::{
    algorithm::Algorithm,
    clock::Now,
    store::{Change, Charge, Correction, Mode, Usage},
};

/// Whether a charge is spent from a lease. One that the response may correct is not: the correction
/// asks the server anyway.
pub(in crate::store::redis) fn is_leased(charge: &Charge) -> bool {
    charge.lease > 0 && charge.mode == Mode::Enforced && charge.cost > 0 && !charge.is_settled
}

/// The same charge, with a lease of 0 if it is not spent from a lease.
pub(in crate::store::redis) fn normalize_lease(charge: &Charge) -> Charge {
    let lease = if is_leased(charge) { charge.lease } else { 0 };
    Charge { lease, ..*charge }
}

/// How many units the server has taken for a charge that fits. For a lease, `usage` says what remained
/// before.
pub(in crate::store::redis) fn units_taken(charge: &Charge, usage: &Usage) -> u64 {
    if charge.lease == 0 { charge.cost } else { usage.remaining().min(charge.lease.into()) }
}

/// The same correction, dated back by the lifetime of a lease, since its units may have been taken so
/// long before they were spent. Units that go back to a later time than they were taken at could be
/// used twice: in a bucket they would also come back by themselves. In a fixed window the time does
/// not matter, as no unit is spent after its window.
pub(in crate::store::redis) fn date_back(correction: &Correction) -> Correction {
    let Correction { charge, charged_at: Some(at), .. } = *correction else { return *correction };
    if !is_leased(&charge) || charge.algorithm == Algorithm::FixedWindow {
        return *correction;
    }
    let lifetime = Duration::from_nanos(lifetime(&charge.quota));
    let [monotonic, unix] = [at.monotonic(), at.unix()].map(|time| time.saturating_sub(lifetime));
    Correction { charged_at: Some(Now::new(monotonic, unix)), ..*correction }
}

/// The correction that gives units back which were taken in one batch.
pub(super) fn give_back(charge: &Charge, units: u64, taken_at: Now) -> Option<Correction> {
    let charge = Charge { cost: units, ..*charge };
    let correction = Correction::new(charge, Change::GiveBack(units));
    (units > 0).then_some(Correction { charged_at: Some(taken_at), ..correction })
}
