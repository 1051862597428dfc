//! Which charges are spent from a lease, how long: [`Lease`], and how units go back.

use std::time::Duration;

use smallvec::SmallVec;

use crate::{
    algorithm::Algorithm,
    clock::{NANOS_PER_SECOND, Now, nanos},
    quota::Quota,
    store::{
        Change, Charge, Correction, Mode, Usage,
        redis::clock::{RoundTrip, later},
        runs,
    },
};

/// Whether a charge is spent from a lease. One that the response may correct is not: the correction
/// asks the server anyway.
pub(crate) fn is_leased(charge: &Charge) -> bool {
    let may_be_leased = charge.mode == Mode::Enforced && charge.cost > 0 && !charge.is_settled;
    // A replica that spends leased units does not ask whether their key is blocked.
    charge.lease > 0 && may_be_leased && !charge.has_penalty
}

/// The same charge, with a lease of 0 if it is not spent from a lease.
pub(crate) fn normalize_lease(charge: &Charge) -> Charge {
    let lease = if is_leased(charge) { charge.lease } else { 0 };
    Charge { lease, ..*charge }
}

/// The same charges, without leases where charges stand for each other: only the server knows which of
/// them fits first.
#[expect(clippy::indexing_slicing, reason = "a run is of the charges")]
pub(crate) fn without_those_of_runs(charges: &[Charge]) -> SmallVec<[Charge; 4]> {
    let mut without: SmallVec<[Charge; 4]> = charges.iter().copied().collect();
    for run in runs(charges).filter(|run| run.len() > 1) {
        without[run].iter_mut().for_each(|charge| charge.lease = 0);
    }
    without
}

/// How many units the server has taken for a charge that fits. For a lease, `usage` says what remained
/// before.
pub(crate) fn units_taken(charge: &Charge, usage: &Usage) -> u64 {
    if charge.lease == 0 { charge.cost } else { usage.remaining().min(charge.lease.into()) }
}

/// How long units may be spent after a server has taken them: a second, or a tenth of a shorter
/// window.
pub(crate) fn lifetime(quota: &Quota) -> u64 {
    NANOS_PER_SECOND.min(quota.window_nanos() / 10)
}

/// When some units were taken, and when they expire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) expires_at: u64,
    /// When the server took them, by its clock.
    pub(super) taken_at: Now,
    /// When its reply came, by the caller's clock.
    received_at: u64,
}

impl Lease {
    /// The lease of no units.
    pub(super) const NONE: Self = Self { expires_at: 0, taken_at: Now::ZERO, received_at: 0 };

    /// The lease of units that a server took at `taken_at`. Its lifetime begins when the command was
    /// sent, and so never ends late. It never outlasts the fixed window in which they were taken.
    pub(super) fn new(charge: &Charge, usage: &Usage, taken_at: Now, times: RoundTrip) -> Self {
        let lasts = match charge.algorithm {
            Algorithm::FixedWindow => lifetime(&charge.quota).min(nanos(usage.reset())),
            Algorithm::TokenBucket | Algorithm::SlidingWindow | Algorithm::InFlight => {
                lifetime(&charge.quota)
            }
        };
        let expires_at = times.sent.saturating_add(lasts);
        Self { expires_at, taken_at, received_at: times.received }
    }

    pub(super) const fn has_expired(&self, now: u64) -> bool {
        self.expires_at <= now
    }

    /// The one of two that expires first.
    pub(super) fn earlier(self, other: Self) -> Self {
        if other.expires_at < self.expires_at { other } else { self }
    }

    /// What the server's clock shows now, or a little less.
    pub(super) fn server_time(&self, now: u64) -> Now {
        later(self.taken_at, Duration::from_nanos(now.saturating_sub(self.received_at)))
    }
}

/// The same correction, dated back by the lifetime of a lease, since its units may have been taken so
/// long before they were spent. Units that go back to a later time than they were taken at could be
/// used twice: in a bucket they would also come back by themselves. In a fixed window the time does
/// not matter, as no unit is spent after its window.
pub(crate) fn date_back(correction: &Correction) -> Correction {
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
