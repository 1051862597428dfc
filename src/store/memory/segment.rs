use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    ledger::Ledger,
    slot::{Address, NARROW, WIDE},
    sync::{Moving, Version},
    table::{Table, until_some},
};

/// A part of the store. Sliding windows have a table of their own, as their slots are larger.
///
/// What a charge needs to know of it fits into one line of the processor's cache, or into two for
/// sliding windows. Nobody writes these as long as keys neither come nor go.
#[repr(C, align(64))]
pub(super) struct Segment {
    pub(super) version: Version,
    /// Of token buckets and fixed windows.
    pub(super) narrow: Table<NARROW>,
    ledger: Box<Mutex<Ledger>>,
    /// Of sliding windows.
    pub(super) wide: Table<WIDE>,
}

impl Segment {
    /// For up to so many keys of each kind.
    pub(super) fn new(max_narrow: usize, max_wide: usize, ledger: Ledger) -> Self {
        Self {
            version: Version::default(),
            narrow: Table::new(max_narrow),
            ledger: Box::new(Mutex::new(ledger)),
            wide: Table::new(max_wide),
        }
    }

    /// How many keys are counted, each once per policy.
    pub(super) fn len(&self) -> usize {
        let _none_moves = self.ledger();
        self.narrow.len() + self.wide.len()
    }

    /// Has the processor fetch what the key may have here.
    #[inline]
    pub(super) fn prefetch(&self, address: &Address) {
        // The states of a few policies are in two lines of the cache, or in three; a wide slot
        // reaches from one line into the next.
        self.narrow.prefetch(address, &[0, 2, 5]);
        self.wide.prefetch(address, &[0, 1]);
    }

    /// What the segment knows beside its slots, and the right to move these.
    pub(super) fn lock(&self) -> (MutexGuard<'_, Ledger>, Moving<'_>) {
        // Who waits for the ledger sleeps. Whoever has it moves slots alone, and waits only for
        // those who are writing a few words.
        let ledger = self.ledger();
        let moving = until_some(|| self.version.try_move());
        (ledger, moving)
    }

    /// A thread that panicked under the lock left a ledger that is whole.
    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs something with the table of a segment that is meant: they are not of the same type.
macro_rules! in_table {
    (if $wide:expr, $segment:expr, $table:ident => $run:expr) => {
        if $wide {
            let $table = &$segment.wide;
            $run
        } else {
            let $table = &$segment.narrow;
            $run
        }
    };
    (at $place:expr, $segment:expr, ($table:ident, $at:ident) => $run:expr) => {
        match $place.checked_sub($segment.narrow.capacity()) {
            None => {
                let ($table, $at) = (&$segment.narrow, $place);
                $run
            }
            Some($at) => {
                let $table = &$segment.wide;
                $run
            }
        }
    };
}
pub(super) use in_table;
