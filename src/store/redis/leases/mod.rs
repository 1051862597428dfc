//! Units that were taken from a server in batches, and are spent without asking it.
//!
//! Each key of a policy has a pool. A request whose units are there spends them; else it asks the
//! server for a whole batch, and those who come meanwhile wait for that. Units expire: what is not
//! spent by then is given back.
//!
//! In here nothing waits and no server is asked. Times are nanoseconds of the caller's monotonic
//! clock.

mod asking;
mod pool;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{
        BinaryHeap, HashMap,
        binary_heap::PeekMut,
        hash_map::{Entry, OccupiedEntry},
    },
    hash::{BuildHasherDefault, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use smallvec::SmallVec;
use tokio::sync::watch;

pub(super) use self::asking::Asking;
use self::{asking::Part, pool::Pool};
use crate::{
    algorithm::Algorithm,
    clock::Now,
    quota::{NANOS_PER_SECOND, Quota},
    store::{Answer, Change, Charge, Correction, Mode, Usage, Usages},
};

const SEGMENTS: usize = 64;
/// So many pools are looked at in one go.
const SWEPT: usize = 1_024;

pub(super) struct Leases {
    segments: Box<[Mutex<Segment>]>,
    pools_per_segment: usize,
    returns: Mutex<Returns>,
}

type Segment = HashMap<u128, Pool, BuildHasherDefault<SlotHasher>>;

/// What is to go back to the server by itself.
#[derive(Default)]
struct Returns {
    /// When to look at which pool.
    due: BinaryHeap<Reverse<(u64, u128)>>,
    /// Units that are of no pool any more.
    unwanted: Vec<Correction>,
    /// Whether somebody looks.
    is_swept: bool,
}

/// Changes when a whole batch has come; is closed when less has come, or nothing.
pub(super) type Filling = watch::Receiver<()>;

/// How long units may be spent after they were taken: a second, or a tenth of a shorter window.
pub(super) fn lifetime(quota: &Quota) -> u64 {
    NANOS_PER_SECOND.min(quota.window_nanos() / 10)
}

/// Whether a charge is spent from a lease. What a response corrects is no use of a lease: it asks the
/// server anyway.
pub(super) fn is_leased(charge: &Charge) -> bool {
    charge.lease > 0 && charge.mode == Mode::Enforced && charge.cost > 0 && !charge.is_settled
}

/// The same charge, with a lease only where it is spent from one.
pub(super) fn as_asked(charge: &Charge) -> Charge {
    let lease = if is_leased(charge) { charge.lease } else { 0 };
    Charge { lease, ..*charge }
}

/// How many units the server has taken for a charge that fits. Of a lease, it tells what there was
/// before.
pub(super) fn taken(charge: &Charge, usage: &Usage) -> u64 {
    if charge.lease == 0 { charge.cost } else { usage.remaining().min(charge.lease.into()) }
}

/// The same correction, of units that may have been taken some time before they were spent. Given
/// back to a later time than they were taken at, they could be used twice: in a bucket, they would
/// come back by themselves as well. A fixed window has them either way, as none is spent after it.
pub(super) fn as_taken(correction: &Correction) -> Correction {
    let Correction { charge, charged_at: Some(at), .. } = *correction else { return *correction };
    if !is_leased(&charge) || charge.algorithm == Algorithm::FixedWindow {
        return *correction;
    }
    let before = Duration::from_nanos(lifetime(&charge.quota));
    let earlier = |time: Duration| time.saturating_sub(before);
    let at = Now::new(earlier(at.monotonic()), earlier(at.unix()));
    Correction { charged_at: Some(at), ..*correction }
}

impl Leases {
    /// For so many keys; all others are charged one by one.
    pub(super) fn new(keys: usize) -> Self {
        Self {
            segments: (0..SEGMENTS).map(|_| Mutex::default()).collect(),
            pools_per_segment: keys.div_ceil(SEGMENTS),
            returns: Mutex::default(),
        }
    }

    /// Whether there are enough units for a charge.
    pub(super) fn covers(&self, charge: &Charge, now: u64) -> bool {
        let segment = self.segment(charge.id());
        segment.get(&charge.id()).is_some_and(|pool| pool.covers(charge, now))
    }

    /// Spends what a charge costs, if there are enough units.
    pub(super) fn spend(&self, charge: &Charge, now: u64) -> Option<Answer> {
        let mut segment = self.segment(charge.id());
        let pool = segment.get_mut(&charge.id()).filter(|pool| pool.covers(charge, now))?;
        pool.left -= charge.cost;
        Some(Answer {
            usages: Usages::from_iter([pool.usage(now)]),
            at: pool.lease.server_time(now),
        })
    }

    /// Reserves for a request what there is, and says what the server is to be asked for. Where a
    /// batch is on its way, the request had better wait for it, if it may, with nothing reserved.
    pub(super) fn begin(
        self: &Arc<Self>,
        charges: &[Charge],
        now: u64,
        may_wait: bool,
    ) -> Result<Asking, Filling> {
        let mut asking = Asking::new(Arc::clone(self));
        for charge in charges {
            let part = match is_leased(charge) {
                true => self.reserve(charge, now, may_wait, &mut asking.expired)?,
                false => Part::of_server(charge),
            };
            asking.parts.push(part);
        }
        Ok(asking)
    }

    fn reserve(
        &self,
        charge: &Charge,
        now: u64,
        may_wait: bool,
        expired: &mut SmallVec<[Correction; 1]>,
    ) -> Result<Part, Filling> {
        let mut segment = self.segment(charge.id());
        let has_room = segment.len() < self.pools_per_segment;
        let pool = match segment.entry(charge.id()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) if has_room => new.insert(Pool::new(charge)),
            Entry::Vacant(_) => return Ok(Part::of_server(charge)),
        };
        let is_other = pool.charge.quota != charge.quota;
        let filling = pool.filling.as_ref().filter(|_| !pool.covers(charge, now));
        match filling {
            Some(filling) if may_wait => return Err(filling.clone()),
            Some(_) if is_other => return Ok(Part::of_server(charge)),
            _ => {}
        }
        if is_other || pool.lease.has_expired(now) {
            expired.extend(pool.empty());
        }
        pool.charge = *charge;
        Ok(pool.reserve(charge, now))
    }

    /// Takes what goes back to the server: all that has expired, up to a number. `false`: there is
    /// nothing to come back for, and whoever does so now ends.
    pub(super) fn sweep(&self, now: u64) -> (Vec<Correction>, bool) {
        let mut returns = self.returns();
        let mut back = mem::take(&mut returns.unwanted);
        let mut due: SmallVec<[u128; 16]> = SmallVec::new();
        while due.len() < SWEPT
            && let Some(first) = returns.due.peek_mut()
            && first.0.0 <= now
        {
            due.push(PeekMut::pop(first).0.1);
        }
        drop(returns);
        for slot in due {
            let mut segment = self.segment(slot);
            let Entry::Occupied(mut known) = segment.entry(slot) else { continue };
            let pool = known.get_mut();
            pool.is_due = false;
            if pool.lease.has_expired(now) {
                back.extend(pool.empty());
            }
            self.keep_or_drop(slot, known);
        }
        let mut returns = self.returns();
        returns.is_swept = !returns.is_empty();
        (back, returns.is_swept)
    }

    /// Whether somebody has to begin to [`sweep`](Self::sweep).
    pub(super) fn begins_sweep(&self) -> bool {
        let mut returns = self.returns();
        let begins = !returns.is_swept && !returns.is_empty();
        returns.is_swept |= begins;
        begins
    }

    /// Whoever swept has ended before there was nothing left.
    pub(super) fn stop_sweep(&self) {
        self.returns().is_swept = false;
    }

    /// Takes all that is not spent, to be given back.
    pub(super) fn take_all(&self) -> Vec<Correction> {
        let mut back = mem::take(&mut self.returns().unwanted);
        for segment in &self.segments {
            let mut segment = segment.lock().unwrap_or_else(PoisonError::into_inner);
            back.extend(segment.values_mut().filter_map(Pool::empty));
            segment.retain(|_, pool| pool.is_needed());
        }
        back
    }

    /// The key has its whole quota again: what was taken before is nothing.
    pub(super) fn forget(&self, charge: &Charge) {
        self.segment(charge.id()).remove(&charge.id());
    }

    /// Keeps a pool as long as it is needed, and sees to it that its units go back.
    fn keep_or_drop(&self, slot: u128, mut known: OccupiedEntry<'_, u128, Pool>) {
        let pool = known.get_mut();
        if pool.left > 0 && !pool.is_due {
            pool.is_due = true;
            self.returns().due.push(Reverse((pool.lease.expires_at, slot)));
        } else if !pool.is_needed() {
            known.remove();
        }
    }

    /// Gives back units that no pool takes.
    fn return_later(&self, corrections: impl IntoIterator<Item = Correction>) {
        let mut corrections = corrections.into_iter().peekable();
        if corrections.peek().is_some() {
            self.returns().unwanted.extend(corrections);
        }
    }

    fn segment(&self, slot: u128) -> MutexGuard<'_, Segment> {
        let segment = &self.segments[slot as usize % SEGMENTS];
        segment.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn returns(&self) -> MutexGuard<'_, Returns> {
        self.returns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Returns {
    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.unwanted.is_empty()
    }
}

fn give_back(charge: &Charge, units: u64, at: Now) -> Option<Correction> {
    // They were taken at once, and not one by one.
    let charge = Charge { cost: units, ..*charge };
    let correction = Correction::new(charge, Change::GiveBack(units));
    (units > 0).then_some(Correction { charged_at: Some(at), ..correction })
}

/// Slots are fingerprints: nobody chooses them, and they are spread already.
#[derive(Default)]
struct SlotHasher(u64);

impl Hasher for SlotHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, slot: u128) {
        // The lowest bits choose the segment.
        self.0 = ((slot >> 64) as u64 ^ slot as u64).rotate_right(SEGMENTS.trailing_zeros());
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
