//! A log in the memory of this process: [`MemoryLog`].

use std::{
    cmp::Reverse,
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use super::{
    Entry, Fingerprint, KeySum, Page, ReadError, Reader, Sink, Sum,
    sums::{Owner, Sums},
    tally::join,
};
use crate::lock::Mutex;

const DEFAULT_MAX_ENTRIES: usize = 10_000;
const DEFAULT_MAX_SUMS: usize = 60_000;

/// The newest entries, and the sums of the last day's minutes, in the memory of this process.
///
/// Both are bounded, by default to 10,000 entries (3 to 5 MB) and 60,000 sums (about 10 MB).
///
/// If there is no room for a new entry, the key with the most entries loses its oldest one. So a
/// flood of one key pushes out its own entries, not those of others. Requests without a key count
/// together, as one key.
///
/// A sum is the number of requests of one key, endpoint, method and status class in one minute. One
/// minute may fill 1/60 of the sums, so that there is always room for the last hour. One key may
/// fill at most half of a minute. Requests without room in their minute are [left
/// out](Self::left_out) of the sums.
///
/// The busiest keys have counts of their own, so that no number of other keys hides them.
/// [`keys`](Reader::keys) always lists a key that makes more than 1/129 of the last hour's
/// requests, or of the refused ones. Its count may be too low, by less than 1/129 of all requests.
///
/// A clone is the same log.
///
/// ```
/// use tower_quota::{key, usage::{MemoryLog, RequestLog}};
///
/// let newest = MemoryLog::with_max(50_000, 200_000);
/// let log = RequestLog::builder(key::header("x-api-key")).sink(newest.clone()).build()?;
/// # let _ = log;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone)]
pub struct MemoryLog(Arc<Mutex<Kept>>);

struct Kept {
    newest: Newest,
    sums: Sums,
}

/// The entries of one key, each with its number, the oldest first.
type OwnerEntries = VecDeque<(u64, Entry)>;

/// The newest entries of all keys, up to a maximum.
#[derive(Default)]
struct Newest {
    max: usize,
    kept: usize,
    /// The number of entries recorded so far, and of the next entry.
    recorded: u64,
    by_owner: HashMap<Owner, OwnerEntries>,
    /// The owners, by their number of entries, then by their oldest entry: the last loses the next one.
    order: BTreeSet<(usize, Reverse<u64>, Owner)>,
}

impl Newest {
    /// Adds an entry. Returns the one that it pushes out: the oldest of the owner with the most entries.
    #[expect(
        clippy::expect_used,
        reason = "adding without a removal would let entries grow without bound"
    )]
    fn add(&mut self, entry: Entry) -> Option<Entry> {
        let owner = entry.key.as_ref().map(|key| key.fingerprint);
        let number = self.recorded;
        self.recorded += 1;
        self.change(owner, |entries| entries.push_back((number, entry)));
        if self.kept < self.max {
            self.kept += 1;
            return None;
        }
        let (_, _, owner) = *self.order.last().expect("an entry was just added");
        let (_, oldest) =
            self.change(owner, VecDeque::pop_front).expect("each owner in `order` has an entry");
        Some(oldest)
    }

    /// Changes the entries of an owner, and keeps its rank in `order` right.
    fn change<T>(&mut self, owner: Owner, change: impl FnOnce(&mut OwnerEntries) -> T) -> T {
        let rank = |entries: &OwnerEntries| {
            let (oldest, _) = entries.front()?;
            Some((entries.len(), Reverse(*oldest), owner))
        };
        let entries = self.by_owner.entry(owner).or_insert_with(|| VecDeque::with_capacity(1));
        if let Some(before) = rank(entries) {
            self.order.remove(&before);
        }
        let changed = change(entries);
        match rank(entries) {
            Some(after) => {
                self.order.insert(after);
                // A flood leaves an empty buffer behind: give the memory back.
                if entries.len() <= entries.capacity() / 4 {
                    entries.shrink_to(entries.len() * 2);
                }
            }
            None => {
                self.by_owner.remove(&owner);
            }
        }
        changed
    }
}

impl MemoryLog {
    /// A log with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max(DEFAULT_MAX_ENTRIES, DEFAULT_MAX_SUMS)
    }

    /// A log of at most `entries` entries and `sums` sums; of at least one of each.
    #[must_use]
    pub fn with_max(entries: usize, sums: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            newest: Newest { max: entries.max(1), ..Newest::default() },
            sums: Sums::new(sums.max(1)),
        })))
    }

    /// The number of requests that are in no sum, because their minute had no more room.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.0.lock().sums.left_out
    }
}

impl Default for MemoryLog {
    fn default() -> Self {
        Self::new()
    }
}

impl Sink for MemoryLog {
    fn record(&self, entry: &Entry) {
        let newest = entry.clone();
        let mut kept = self.0.lock();
        kept.sums.add(entry);
        let oldest = kept.newest.add(newest);
        // The old entry is freed outside of the lock.
        drop(kept);
        drop(oldest);
    }

    fn reader(&self) -> Option<Arc<dyn Reader>> {
        Some(Arc::new(self.clone()))
    }
}

impl Reader for MemoryLog {
    fn entries(
        &self,
        key: Fingerprint,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let kept = self.0.lock();
        let Some(own) = kept.newest.by_owner.get(&Some(key)) else { return Ok(Page::default()) };
        let end = before.map_or(own.len(), |before| own.partition_point(|(nth, _)| *nth < before));
        let start = end.saturating_sub(limit);
        let entries = own.range(start..end).rev().map(|(_, entry)| entry.clone()).collect();
        // The next page ends before the oldest entry of this one.
        let next = own.get(start).filter(|_| start > 0).map(|(number, _)| *number);
        Ok(Page::new(entries, next))
    }

    fn sums(&self, key: Fingerprint, since: Duration) -> Result<Vec<Sum>, ReadError> {
        Ok(self.0.lock().sums.of_key(key, since))
    }

    fn keys(&self, since: Duration) -> Result<Vec<KeySum>, ReadError> {
        let (owners, mut keys) = {
            let kept = self.0.lock();
            (kept.sums.owners(), kept.sums.heaviest(since))
        };
        // Requests wait for the lock, so each key takes it anew.
        for owner in owners {
            let sums = self.0.lock().sums.of_key(owner, since);
            let Some(key) = sums.last().and_then(|sum| sum.key.clone()) else { continue };
            let refused = sums.iter().filter(|sum| sum.refused);
            let refused = refused.map(|sum| sum.requests).sum();
            let requests = sums.iter().map(|sum| sum.requests).sum();
            // Neither counts too many: the sums lack requests that had no room, and `heaviest` covers
            // one hour only. So the higher number is the better one.
            join(&mut keys, KeySum::new(key, requests, refused), u64::max);
        }
        Ok(keys.into_values().collect())
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("entries", &self.0.lock().newest.kept)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::log::tests::entry;

    /// A log whose entries have their number as their units.
    fn log(max: usize, keys: impl IntoIterator<Item = u128>) -> MemoryLog {
        let log = MemoryLog::with_max(max, 100);
        for (nth, key) in (0..).zip(keys) {
            log.record(&Entry { units: nth, ..entry(key) });
        }
        log
    }

    fn page(
        log: &MemoryLog,
        key: u128,
        before: Option<u64>,
        limit: usize,
    ) -> (Vec<u64>, Option<u64>) {
        let page = log.entries(Fingerprint(key), before, limit).unwrap();
        (page.entries.iter().map(|entry| entry.units).collect(), page.next)
    }

    #[test]
    fn a_flood_of_one_key_pushes_out_none_of_others() {
        // Of 2 and 3 one each, 1,000 of 1, and 1,000 whose key cannot be read.
        let log = log(10, [2, 3].into_iter().chain([1; 1_000]));
        let unread = Entry { key: None, ..entry(1) };
        (0..1_000).for_each(|_| log.record(&unread));
        assert_eq!(page(&log, 2, None, 10), (vec![0], None));
        assert_eq!(page(&log, 3, None, 10), (vec![1], None));
        assert_eq!(page(&log, 1, None, 10).0, [1_001, 1_000, 999, 998], "the others are unread");
        for nth in 0..10 {
            log.record(&Entry { units: nth, ..entry(2) });
        }
        assert_eq!(page(&log, 2, None, 10).0, [9, 8, 7], "no more than the others");
        assert_eq!(page(&log, 3, None, 10).0, [1]);
    }

    #[test]
    fn among_keys_with_equal_counts_the_oldest_entry_goes() {
        let log = log(3, [9, 1, 5, 7, 3]);
        let kept = |key| page(&log, key, None, 10).0;
        assert_eq!([9, 1, 5, 7, 3].map(kept), [vec![], vec![], vec![2], vec![3], vec![4]]);
        let kept = log.0.lock();
        assert_eq!((kept.newest.by_owner.len(), kept.newest.order.len()), (3, 3));
    }

    #[test]
    fn a_key_sees_its_own_entries_the_newest_first() {
        let log = log(100, [1, 2, 1, 1, 2]);
        assert_eq!(page(&log, 1, None, 10), (vec![3, 2, 0], None));
        assert_eq!(page(&log, 2, None, 10), (vec![4, 1], None));
        assert_eq!(page(&log, 3, None, 10), (vec![], None));
        let without_key = Entry { key: None, ..entry(1) };
        log.record(&without_key);
        assert_eq!(page(&log, 1, None, 1).0, [3]);
    }

    #[test]
    fn pages_follow_each_other_while_entries_come_and_go() {
        let log = log(5_000, (0..7_000).map(|nth| nth % 2));
        let mut cursor = None;
        let mut seen = Vec::new();
        loop {
            let (units, next) = page(&log, 0, cursor, 300);
            seen.extend(units);
            log.record(&Entry { units: 10_000, ..entry(0) });
            match next {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        // 2,000 were gone at first, and one more of this key for each page read.
        let expected: Vec<u64> = (2_016..7_000).rev().filter(|nth| nth % 2 == 0).collect();
        assert_eq!(seen, expected);
        assert_eq!(page(&log, 0, Some(0), 300), (vec![], None));
        assert_eq!(page(&log, 0, Some(u64::MAX), 1).0, [10_000]);
    }

    #[test]
    fn a_page_that_ends_with_the_last_entry_has_no_next() {
        let log = log(10, [1, 1, 1]);
        assert_eq!(page(&log, 1, None, 3), (vec![2, 1, 0], None));
        assert_eq!(page(&log, 1, None, 2), (vec![2, 1], Some(1)));
        assert_eq!(page(&log, 1, Some(1), 2), (vec![0], None));
    }
}
