//! The data of an evaluation and of the decision that it becomes: [`Record`].

use std::{
    cell::{Cell, RefCell},
    fmt,
    ops::{Deref, DerefMut},
    time::Duration,
};

use http::StatusCode;

use super::{Outcome, Reason};
use crate::{
    clock::Now,
    limiter::labels::Labels,
    store::{Charge, Usage},
};

/// The charge, the usage and the refusal of each policy, and the ruling over all of them.
///
/// `entries`, `charges` and `usages` have the same length: an index is the same policy in each.
/// Enforced policies come first, then dry runs with a key, then dry runs without one. So the
/// policies that the store counts are one slice.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) entries: Vec<Entry>,
    pub(crate) charges: Vec<Charge>,
    pub(crate) usages: Vec<Usage>,
    /// How many policies are enforced.
    pub(crate) enforced: usize,
    /// How many policies the store counts, unless `lacks_key`.
    pub(crate) counted: usize,
    /// Whether an enforced policy lacks its key: then the request is refused without the store.
    pub(crate) lacks_key: bool,
    /// The longest hold of all policies, in nanoseconds.
    pub(crate) longest_hold: u64,
    /// The index of the request's category.
    pub(crate) category: Option<u32>,
    /// Whether this replica counted alone, as the store did not answer.
    pub(crate) counted_locally: bool,
    pub(crate) ruling: Ruling,
    /// The time of the decision.
    pub(crate) now: Now,
    /// How long the request was held, in nanoseconds.
    pub(crate) held: u64,
}

/// The index of a rule in its limiter's [`RuleSet`](crate::limiter::rules::RuleSet).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RuleId(pub(in crate::limiter) u32);

/// One policy in a [`Record`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) labels: &'static Labels,
    pub(crate) rule: RuleId,
    /// The index of the key's kind in the policy's kinds.
    pub(crate) key_kind: u8,
    pub(crate) refused: Option<Reason>,
    /// The status for an unreadable key.
    pub(crate) unreadable: Option<StatusCode>,
    /// The quota is divided by this. It is more than 1 if this replica counts alone, with a share
    /// of the quota.
    pub(crate) replicas: u32,
    /// The longest time for which the policy holds a request, in nanoseconds.
    pub(crate) hold: u64,
}

/// The verdict as it is stored. [`Verdict`](super::Verdict) is its public view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ruling {
    #[default]
    Admitted,
    /// The policy at this index refuses.
    Refused(usize),
    Blocked {
        wait: Duration,
    },
    UnreadableCaller(StatusCode),
}

impl Record {
    const fn new() -> Self {
        Self {
            entries: Vec::new(),
            charges: Vec::new(),
            usages: Vec::new(),
            enforced: 0,
            counted: 0,
            lacks_key: false,
            longest_hold: 0,
            category: None,
            counted_locally: false,
            ruling: Ruling::Admitted,
            now: Now::ZERO,
            held: 0,
        }
    }

    /// The policy at `index`.
    #[inline]
    pub(crate) fn outcome(&self, index: usize) -> Outcome<'_> {
        Outcome {
            entry: &self.entries[index],
            charge: &self.charges[index],
            usage: &self.usages[index],
        }
    }

    /// Every policy, dry runs last.
    #[inline]
    pub(crate) fn outcomes(&self) -> impl ExactSizeIterator<Item = Outcome<'_>> + Clone {
        (0..self.entries.len()).map(|index| self.outcome(index))
    }

    /// The index of the enforced policy that refuses with the longest wait.
    #[inline]
    pub(crate) fn refusing(&self) -> Option<usize> {
        match &self.entries[..] {
            [entry] => (self.enforced == 1 && entry.refused.is_some()).then_some(0),
            _ => self.refusing_longest(),
        }
    }

    fn refusing_longest(&self) -> Option<usize> {
        let refuses = |index: &usize| self.entries[*index].refused.is_some();
        let wait = |index: &usize| self.outcome(*index).wait_or_never();
        (0..self.enforced).filter(refuses).max_by_key(wait)
    }

    /// Empties the record and keeps its allocations.
    fn clear(&mut self) {
        self.entries.clear();
        self.charges.clear();
        self.usages.clear();
        (self.enforced, self.counted, self.held) = (0, 0, 0);
        (self.lacks_key, self.counted_locally) = (false, false);
        self.longest_hold = 0;
        self.category = None;
        self.ruling = Ruling::Admitted;
        self.now = Now::ZERO;
    }
}

impl Entry {
    /// Sets whether the policy refuses, by the store's answer.
    #[inline]
    pub(crate) fn judge(&mut self, charge: &Charge, usage: &Usage) {
        let limit = || charge.algorithm.capacity(&charge.quota.share(self.replicas));
        self.refused = match usage.fits() {
            true => None,
            false if charge.cost > limit() => Some(Reason::CostExceedsQuota),
            false => Some(Reason::QuotaExceeded),
        };
    }

    /// Whether there is a key and a quota to count.
    #[inline]
    pub(crate) fn has_key(&self) -> bool {
        !self.refused.is_some_and(Reason::lacks_key)
    }
}

/// How many boxes a thread keeps: about as many as it has requests at once.
const POOL_SIZE: usize = 64;

thread_local! {
    /// One record, so that a thread with one request under way does not touch the pool.
    static SPARE: Cell<Option<Box<Record>>> = const { Cell::new(None) };
    #[expect(clippy::vec_box, reason = "the pool keeps the boxes")]
    static POOL: RefCell<Vec<Box<Record>>> = const { RefCell::new(Vec::new()) };
}

static EMPTY: Record = Record::new();

/// A [`Record`] in a box from the thread's pool; empty until it is written.
///
/// Decisions are moved: out of futures, through `?`, into a response's future. A move of some hundred
/// bytes that have just been written takes a third of a decision's time, so a record is in a box. An
/// allocation takes as long as such a move, so a thread keeps the boxes of dropped records.
#[derive(Default)]
pub(crate) struct Pooled(Option<Box<Record>>);

/// A box of the thread, or a new one. While a thread ends, its boxes may be gone already. Not inlined,
/// so that access to a record that is there costs one comparison.
#[inline(never)]
fn from_pool() -> Box<Record> {
    let spare = SPARE.try_with(Cell::take).ok().flatten();
    spare.unwrap_or_else(|| {
        let pooled = POOL.try_with(|pool| pool.borrow_mut().pop());
        pooled.ok().flatten().unwrap_or_else(|| Box::new(Record::new()))
    })
}

impl Drop for Pooled {
    #[inline]
    fn drop(&mut self) {
        let Some(mut record) = self.0.take() else { return };
        record.clear();
        let surplus = SPARE.try_with(|spare| spare.replace(Some(record)));
        if let Ok(Some(record)) = surplus {
            keep(record);
        }
    }
}

/// Keeps one more record in the pool, if there is room.
#[cold]
fn keep(record: Box<Record>) {
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        if pool.len() < POOL_SIZE {
            pool.push(record);
        }
    });
}

impl Deref for Pooled {
    type Target = Record;

    #[inline]
    fn deref(&self) -> &Record {
        self.0.as_deref().unwrap_or(&EMPTY)
    }
}

impl DerefMut for Pooled {
    #[inline]
    fn deref_mut(&mut self) -> &mut Record {
        self.0.get_or_insert_with(from_pool)
    }
}

impl Clone for Pooled {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        let record = &mut *copy;
        record.entries.extend_from_slice(&self.entries);
        record.charges.extend_from_slice(&self.charges);
        record.usages.extend_from_slice(&self.usages);
        let Record { entries: _, charges: _, usages: _, ruling, now, held, .. } = **self;
        (record.ruling, record.now, record.held) = (ruling, now, held);
        (record.enforced, record.counted, record.lacks_key) =
            (self.enforced, self.counted, self.lacks_key);
        (record.longest_hold, record.category, record.counted_locally) =
            (self.longest_hold, self.category, self.counted_locally);
        copy
    }
}

impl fmt::Debug for Pooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::{limiter::Decision, policy::Policy, quota::Quota};

    fn written() -> Pooled {
        let mut record = Pooled::default();
        record.enforced = 1;
        record
    }

    #[test]
    fn a_box_is_used_again_and_nothing_is_left_in_it() {
        let policy = || Policy::token_bucket("p", Quota::per_minute(60));
        let mut first = Decision::of((0..5).map(|_| (policy(), None, None))).record;
        first.held = 8;
        first.category = Some(9);
        (first.counted_locally, first.lacks_key) = (true, true);
        first.longest_hold = 1;
        first.ruling = Ruling::Refused(3);
        let copy = first.clone();
        assert_eq!(format!("{copy:?}"), format!("{first:?}"));
        let address = ptr::from_ref(&*first);
        drop(first);
        let mut again = Pooled::default();
        again.counted_locally = false;
        assert_eq!(ptr::from_ref(&*again), address);
        assert_eq!(format!("{again:?}"), format!("{:?}", Record::new()));
        assert!(again.entries.capacity() >= 5, "its allocations are kept");
    }

    #[test]
    fn a_thread_keeps_no_more_boxes_than_it_may() {
        drop((0..2 * POOL_SIZE).map(|_| written()).collect::<Vec<_>>());
        assert_eq!(POOL.with_borrow(Vec::len), POOL_SIZE);
        assert!(SPARE.take().is_some());
    }

    #[test]
    fn a_record_outlives_its_threads_boxes() {
        thread_local! {
            static LAST: RefCell<Pooled> = const { RefCell::new(Pooled(None)) };
        }
        // A thread may drop these two in any order.
        let of_thread = || {
            LAST.set(written());
            drop(written());
        };
        std::thread::spawn(of_thread).join().expect("no panic as the thread ends");
    }
}
