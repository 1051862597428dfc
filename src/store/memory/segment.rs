//! The parts of the store, each with a lock of its own.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    ledger::{Ledger, Room},
    quotas::Quotas,
    slot::{Address, NARROW, WIDE},
    sync::{Moving, Version},
    table::{Table, Tables, until_some},
};
use crate::clock::Now;

/// The parts of the store.
///
/// What a charge needs to know of a part, a few bytes, lies beside the same of the others: so the
/// processor has it at hand, however many keys there are. Nobody writes it as long as keys neither
/// come nor go.
pub(super) struct Segments {
    versions: Box<[Version]>,
    /// Of token buckets and fixed windows.
    pub(super) narrow: Tables<NARROW>,
    /// Of sliding windows, as their slots are larger.
    pub(super) wide: Tables<WIDE>,
    ledgers: Box<[Mutex<Ledger>]>,
}

/// A part of the store.
#[derive(Clone, Copy)]
pub(super) struct Segment<'a> {
    all: &'a Segments,
    pub(super) number: usize,
}

impl Segments {
    /// So many, each with this room: for up to `max_narrow` and `max_wide` keys.
    pub(super) fn new(segments: usize, room: Room, max_narrow: usize, max_wide: usize) -> Self {
        Self {
            versions: (0..segments).map(|_| Version::default()).collect(),
            narrow: Tables::new(segments, max_narrow),
            wide: Tables::new(segments, max_wide),
            ledgers: (0..segments).map(|_| Mutex::new(Ledger::new(room))).collect(),
        }
    }

    /// How many there are.
    #[inline]
    pub(super) fn count(&self) -> usize {
        self.versions.len()
    }

    /// The one of this number.
    #[inline]
    pub(super) fn get(&self, number: usize) -> Segment<'_> {
        Segment { all: self, number }
    }

    /// How many keys have slots, each once per policy.
    pub(super) fn keys(&self) -> usize {
        (0..self.count()).map(|number| self.get(number).ledger().keys()).sum()
    }

    /// How many of these have used any of their quota that has not come back. No one waits for more
    /// than one segment, and who charges a known key for none.
    pub(super) fn live_keys(&self, quotas: &Quotas, now: Now) -> usize {
        let live = |number| {
            let segment = self.get(number);
            let ledger = segment.ledger();
            segment.narrow().count(|slot| !ledger.is_over(slot, quotas, now))
                + segment.wide().count(|slot| !ledger.is_over(slot, quotas, now))
        };
        (0..self.count()).map(live).sum()
    }
}

impl<'a> Segment<'a> {
    #[inline]
    pub(super) fn version(self) -> &'a Version {
        &self.all.versions[self.number]
    }

    /// Of token buckets and fixed windows.
    #[inline]
    pub(super) fn narrow(self) -> Table<'a, NARROW> {
        self.all.narrow.get(self.number)
    }

    /// Of sliding windows.
    #[inline]
    pub(super) fn wide(self) -> Table<'a, WIDE> {
        self.all.wide.get(self.number)
    }

    /// Has the processor fetch what the key may have here.
    #[inline]
    pub(super) fn prefetch(self, address: &Address) {
        // The states of a few policies are in two lines of the cache, or in three; a wide slot
        // reaches from one line into the next.
        self.narrow().prefetch(address, &[0, 2, 5]);
        self.wide().prefetch(address, &[0, 1]);
    }

    /// What the segment knows beside its slots, and the right to move these.
    pub(super) fn lock(self) -> (MutexGuard<'a, Ledger>, Moving<'a>) {
        // Who waits for the ledger sleeps. Whoever has it moves slots alone, and waits only for
        // those who are writing a few words.
        let ledger = self.ledger();
        let moving = until_some(|| self.version().try_move());
        (ledger, moving)
    }

    /// A thread that panicked under the lock left a ledger that is whole.
    pub(super) fn ledger(self) -> MutexGuard<'a, Ledger> {
        self.all.ledgers[self.number].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs something with the table of a segment that is meant: they are not of the same type.
macro_rules! in_table {
    (if $wide:expr, $segment:expr, $table:ident => $run:expr) => {
        if $wide {
            let $table = $segment.wide();
            $run
        } else {
            let $table = $segment.narrow();
            $run
        }
    };
    (at $place:expr, $segment:expr, ($table:ident, $at:ident) => $run:expr) => {
        match $place.checked_sub($segment.narrow().capacity()) {
            None => {
                let ($table, $at) = ($segment.narrow(), $place);
                $run
            }
            Some($at) => {
                let $table = $segment.wide();
                $run
            }
        }
    };
}
pub(super) use in_table;
