use std::{
    cell::RefCell,
    fmt, mem,
    ops::{Deref, DerefMut},
    time::Duration,
};

use super::{Outcome, Reason};
use crate::clock::{Now, nanos};

/// How many boxes a thread keeps: as many as it has requests under way, mostly.
const MOST_SPARES: usize = 64;

thread_local! {
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    static SPARES: RefCell<Vec<Box<Fields>>> = const { RefCell::new(Vec::new()) };
}

/// What a decision consists of; nothing, before it is written and when it was taken away.
///
/// Decisions are moved about: out of futures, through `?`, into a response's future. To move some
/// hundred bytes each time that have just been written takes a third of a decision's time, so they
/// are in a box. To allocate that would take as long; but a thread keeps the boxes of decisions
/// that are dropped for those it makes next.
#[derive(Default)]
pub(crate) struct Record(Option<Box<Fields>>);

static NOTHING: Fields = Fields::new(Vec::new());

#[derive(Debug)]
pub(crate) struct Fields {
    pub(super) reason: Option<Reason>,
    pub(crate) all: Vec<Outcome>,
    /// How many of `all` requests feel: they come first, and then what is only tried out.
    pub(super) enforced: usize,
    pub(crate) now: Now,
    /// In nanoseconds.
    pub(super) held: u64,
    /// The number of the request's category.
    pub(crate) category: Option<u32>,
    /// Counted on this replica alone, because the store did not answer.
    pub(crate) counted_locally: bool,
}

impl Fields {
    const fn new(all: Vec<Outcome>) -> Self {
        Self {
            reason: None,
            all,
            enforced: 0,
            now: Now::ZERO,
            held: 0,
            category: None,
            counted_locally: false,
        }
    }

    #[inline]
    pub(super) fn outcomes(&self) -> &[Outcome] {
        &self.all[..self.enforced]
    }

    #[inline]
    pub(super) fn refusing(&self) -> Option<&Outcome> {
        let refusing = self.outcomes().iter().filter(|outcome| !outcome.is_allowed());
        refusing.max_by_key(|outcome| outcome.wait_or_never())
    }

    /// All is said.
    #[inline]
    pub(crate) fn close(&mut self, now: Now, held: Duration) {
        let reason = match self.outcomes() {
            [only] => only.refused,
            _ => self.refusing().and_then(|outcome| outcome.refused),
        };
        (self.reason, self.now, self.held) = (reason, now, nanos(held));
    }
}

#[inline]
fn new_box() -> Box<Fields> {
    // Where a thread ends, there may be no spares any more.
    let spare = SPARES.try_with(|spares| spares.borrow_mut().pop());
    spare.ok().flatten().unwrap_or_else(|| Box::new(Fields::new(Vec::with_capacity(1))))
}

impl Drop for Record {
    #[inline]
    fn drop(&mut self) {
        let Some(mut fields) = self.0.take() else { return };
        fields.all.clear();
        *fields = Fields::new(mem::take(&mut fields.all));
        let _ = SPARES.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < MOST_SPARES {
                spares.push(fields);
            }
        });
    }
}

impl Deref for Record {
    type Target = Fields;

    #[inline]
    fn deref(&self) -> &Fields {
        self.0.as_deref().unwrap_or(&NOTHING)
    }
}

impl DerefMut for Record {
    #[inline]
    fn deref_mut(&mut self) -> &mut Fields {
        self.0.get_or_insert_with(new_box)
    }
}

impl Clone for Record {
    fn clone(&self) -> Self {
        let mut copy = Self::default();
        let mut all = mem::take(&mut copy.all);
        all.extend_from_slice(&self.all);
        *copy = Fields { all, ..**self };
        copy
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use std::ptr;

    use super::*;
    use crate::{policy::Policy, quota::Quota};

    fn outcome() -> Outcome {
        Outcome::unused(Policy::token_bucket("p", Quota::per_minute(60)))
    }

    fn written() -> Record {
        let mut record = Record::default();
        record.enforced = 1;
        record
    }

    #[test]
    fn a_box_is_used_again_and_nothing_is_left_in_it() {
        let mut first = Record::default();
        *first = Fields {
            reason: Some(Reason::QuotaExceeded),
            enforced: 7,
            held: 8,
            category: Some(9),
            counted_locally: true,
            ..Fields::new(vec![outcome(); 5])
        };
        let copy = first.clone();
        let place = ptr::from_ref(&*first);
        drop(first);
        let mut again = Record::default();
        again.counted_locally = false;
        assert_eq!(ptr::from_ref(&*again), place);
        assert_eq!(format!("{again:?}"), format!("{:?}", Fields::new(Vec::new())));
        assert!(again.all.capacity() >= 5, "its room is kept");
        assert_eq!((copy.all.len(), copy.enforced, copy.category), (5, 7, Some(9)));
    }

    #[test]
    fn a_thread_keeps_no_more_boxes_than_it_may() {
        drop((0..2 * MOST_SPARES).map(|_| written()).collect::<Vec<_>>());
        assert_eq!(SPARES.with_borrow(Vec::len), MOST_SPARES);
    }

    #[test]
    fn a_record_outlives_its_threads_boxes() {
        thread_local! {
            static LAST: RefCell<Record> = const { RefCell::new(Record(None)) };
        }
        // Dropped when the thread's boxes are gone, or before: the order is not ours to choose.
        let of_thread = || {
            LAST.set(written());
            drop(written());
        };
        std::thread::spawn(of_thread).join().expect("no panic as the thread ends");
    }
}
