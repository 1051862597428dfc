//! Records in boxes that a thread uses again: [`Pooled`].

use std::{
    cell::{Cell, RefCell},
    mem,
    ops::{Deref, DerefMut},
};

use super::record::Record;

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
#[derive(Debug, Default)]
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
        let Record { mut entries, mut charges, mut usages, .. } =
            mem::replace(&mut *copy, Record::new());
        entries.extend_from_slice(&self.entries);
        charges.extend_from_slice(&self.charges);
        usages.extend_from_slice(&self.usages);
        // Neither the permit nor the meter: a copy, as of a log, must not keep the request from ending.
        *copy = Record { entries, charges, usages, permit: None, meter: None, ..**self };
        copy
    }
}

#[cfg(test)]
mod tests {
    use std::{ptr, time::Duration};

    use super::super::{Ruling, Special};
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
        (first.counted_locally, first.skips_store) = (true, true);
        first.special = Special::new(Duration::MAX, true, true);
        first.ruling = Ruling::Refused(3);
        let copy = first.clone();
        assert_eq!(format!("{copy:?}"), format!("{first:?}"));
        let address = ptr::from_ref(&*first);
        drop(first);
        let mut again = Pooled::default();
        again.counted_locally = false;
        assert_eq!(ptr::from_ref(&*again), address);
        assert_eq!(format!("{:?}", *again), format!("{:?}", Record::new()));
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
