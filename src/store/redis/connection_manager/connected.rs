//! An open connection, and which servers behind it work: [`Connected`].

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::{backoff::Backoff, send_queue::SendQueue};
use crate::{
    lock::Mutex,
    store::redis::connection::{Connection, MAX_IN_FLIGHT},
};

/// The most commands on their way to one slot range of a cluster.
const MAX_IN_FLIGHT_PER_RANGE: usize = 64;
/// The number of ranges into which a cluster's slots are cut. A server has some of them.
const RANGES: usize = 64;
const SLOTS: usize = 16_384;

pub(super) struct Connected {
    pub(super) connection: Connection,
    /// One for a single server.
    ranges: Box<[SlotRange]>,
}

/// The state of the servers of some slots: a range is up or down as a whole.
pub(super) struct SlotRange {
    pub(super) send_queue: SendQueue,
    /// The number of answers, errors included.
    pub(super) answers: AtomicU64,
    /// The number of errors since the last answer that was none.
    pub(super) errors: AtomicU32,
    /// Whether a probe is on its way, which shows if the server still answers.
    pub(super) is_probed: AtomicBool,
    pub(super) is_down: AtomicBool,
    pub(super) backoff: Mutex<Backoff>,
}

impl SlotRange {
    fn new(max_in_flight: usize) -> Self {
        Self {
            send_queue: SendQueue::new(max_in_flight),
            answers: AtomicU64::new(0),
            errors: AtomicU32::new(0),
            is_probed: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            backoff: Mutex::default(),
        }
    }
}

impl Connected {
    pub(super) fn new(connection: Connection) -> Self {
        let (ranges, max_in_flight) = match connection {
            Connection::One(_) => (1, MAX_IN_FLIGHT),
            Connection::Cluster(_) => (RANGES, MAX_IN_FLIGHT_PER_RANGE),
        };
        Self { connection, ranges: (0..ranges).map(|_| SlotRange::new(max_in_flight)).collect() }
    }

    pub(super) fn any_is_down(&self) -> bool {
        self.ranges.iter().any(|range| range.is_down.load(Relaxed))
    }

    /// The range of a slot. A single server does not need to know the slot.
    #[expect(
        clippy::arithmetic_side_effects,
        clippy::indexing_slicing,
        reason = "a slot is below the number of slots, and so is its part of the ranges"
    )]
    pub(super) fn range(&self, slot: impl FnOnce() -> u16) -> &SlotRange {
        match &*self.ranges {
            [all] => all,
            ranges => &ranges[usize::from(slot()) * ranges.len() / SLOTS],
        }
    }
}
