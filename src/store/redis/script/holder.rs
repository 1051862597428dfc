//! Who holds units in flight: [`Holder`].

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use super::numbers::{EXACT, MAX_WINDOW_MICROS, Rate};
use crate::{quota::MAX_UNITS, store::Charge};

/// Who holds units in flight, as servers know this replica.
#[derive(Clone, Debug)]
pub(crate) struct Holder {
    /// No other replica has it.
    replica: u64,
    /// How long servers count its units when it says no more.
    pub(crate) lasts: Duration,
    /// The number of its last statement.
    pub(crate) statement: Arc<AtomicU64>,
}

impl Holder {
    pub(super) fn new() -> Self {
        // Seeded at random by the system.
        let replica = RandomState::new().hash_one(std::process::id()) % EXACT;
        Self { replica, lasts: Duration::from_secs(10), statement: Arc::new(AtomicU64::new(1)) }
    }

    pub(super) fn last_statement(&self) -> u64 {
        self.statement.load(Relaxed)
    }

    /// The numbers of a charge of units in flight: who holds them, for how long, and the quota.
    pub(super) fn rate(&self, charge: &Charge) -> Rate {
        let lasts = u64::try_from(self.lasts.as_micros()).unwrap_or(MAX_WINDOW_MICROS);
        let capacity = charge.quota.units().min(MAX_UNITS);
        Rate { units: self.replica, window: lasts.min(MAX_WINDOW_MICROS), capacity }
    }
}
