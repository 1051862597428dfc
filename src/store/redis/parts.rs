//! An open connection, and which servers behind it work: [`Opened`].

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64},
};

use super::{connection::Connection, pauses::Pauses, turns::Turns};

/// The most commands on their way to one server at once: enough to keep it busy, and few enough that
/// the last is answered long before its time is over.
pub(super) const AT_ONCE: usize = 256;
/// The same for a part of a cluster.
const AT_ONCE_IN_PART: usize = 64;
/// The number of parts of a cluster's slots. Each part is down or not; a server has some of them.
const PARTS: usize = 64;
const SLOTS: usize = 16_384;

pub(super) struct Opened {
    pub(super) connection: Connection,
    /// The parts of a cluster, or one for a single server.
    parts: Box<[Part]>,
}

/// The servers of some slots.
pub(super) struct Part {
    pub(super) turns: Turns,
    /// How often it has answered, errors included.
    pub(super) answered: AtomicU64,
    /// Errors without an answer between them.
    pub(super) failures: AtomicU32,
    /// A probe is on its way that shows whether the server still answers.
    pub(super) is_doubted: AtomicBool,
    pub(super) is_down: AtomicBool,
    pauses: Mutex<Pauses>,
}

impl Part {
    fn new(at_once: usize) -> Self {
        Self {
            turns: Turns::new(at_once),
            answered: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            is_doubted: AtomicBool::new(false),
            is_down: AtomicBool::new(false),
            pauses: Mutex::default(),
        }
    }

    pub(super) fn pauses(&self) -> MutexGuard<'_, Pauses> {
        self.pauses.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Opened {
    pub(super) fn new(connection: Connection) -> Self {
        let (parts, at_once) =
            if connection.is_cluster() { (PARTS, AT_ONCE_IN_PART) } else { (1, AT_ONCE) };
        Self { connection, parts: (0..parts).map(|_| Part::new(at_once)).collect() }
    }

    pub(super) fn part(&self, slot: impl FnOnce() -> u16) -> &Part {
        match &*self.parts {
            [all] => all,
            parts => &parts[usize::from(slot()) * parts.len() / SLOTS],
        }
    }
}
