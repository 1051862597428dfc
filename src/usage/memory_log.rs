use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use super::{Entry, Fingerprint, KeySum, Page, ReadError, Reader, Sink, Sum, sums::Sums};

const DEFAULT_MAX_ENTRIES: usize = 10_000;
const DEFAULT_MAX_SUMS: usize = 60_000;
/// How many entries are looked at under one lock, for which requests wait.
const LOOK: usize = 1_024;

/// The newest entries, and the sums of the last day's minutes, in this process's memory.
///
/// Both are bounded: 10,000 entries (about 3 MB) and 60,000 sums (about 10 MB), unless told
/// otherwise. A newer entry takes the place of the oldest, whosever that is. A sum is of one key,
/// endpoint, method and status class; no minute takes more than a sixtieth of their number, so the
/// last hour is always there, and no key has more in a minute than are free. What finds no room in
/// its minute is [left out](Self::left_out).
///
/// The keys that ask most are counted apart, so that no number of others hides them: a key that
/// makes more than 1/129 of the last hour's requests, or of those that are refused, is always among
/// those that [`keys`](Reader::keys) lists, and less than 1/129 of all is missing from its count.
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
    entries: VecDeque<Entry>,
    max_entries: usize,
    /// How many entries there were before those kept: the number of the oldest.
    gone: u64,
    sums: Sums,
}

impl MemoryLog {
    /// A log with the default bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::with_max(DEFAULT_MAX_ENTRIES, DEFAULT_MAX_SUMS)
    }

    /// A log of up to `entries` entries and `sums` sums; at least one of each.
    #[must_use]
    pub fn with_max(entries: usize, sums: usize) -> Self {
        Self(Arc::new(Mutex::new(Kept {
            entries: VecDeque::new(),
            max_entries: entries.max(1),
            gone: 0,
            sums: Sums::new(sums.max(1)),
        })))
    }

    /// How many requests are in no sum, because those of their minute had no room.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.lock().sums.left_out()
    }

    /// A thread that panicked under the lock left a log that is whole but for its entry.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut kept = self.lock();
        kept.sums.add(entry);
        let is_full = kept.entries.len() == kept.max_entries;
        let oldest = is_full.then(|| kept.entries.pop_front());
        kept.gone += u64::from(is_full);
        kept.entries.push_back(newest);
        // What is not kept any more is freed when nobody waits for it.
        drop(kept);
        drop(oldest);
    }
}

impl Reader for MemoryLog {
    fn entries(
        &self,
        key: Fingerprint,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Page, ReadError> {
        let mut found = Vec::new();
        let mut next = None;
        let mut before = before.unwrap_or(u64::MAX);
        while found.len() <= limit {
            let kept = self.lock();
            let end = usize::try_from(before.saturating_sub(kept.gone)).unwrap_or(usize::MAX);
            let end = end.min(kept.entries.len());
            if end == 0 {
                return Ok(Page::new(found, None));
            }
            let look = end.saturating_sub(LOOK)..end;
            before = kept.gone + look.start as u64;
            for (place, entry) in kept.entries.range(look.clone()).enumerate().rev() {
                if entry.key.as_ref().is_none_or(|own| own.fingerprint != key) {
                    continue;
                }
                if found.len() == limit {
                    // There is an older one: it is before the one found last.
                    return Ok(Page::new(found, next));
                }
                next = Some(kept.gone + (look.start + place) as u64);
                found.push(entry.clone());
            }
        }
        Ok(Page::new(found, next))
    }

    fn sums(&self, key: Fingerprint, since: Duration) -> Result<Vec<Sum>, ReadError> {
        Ok(self.lock().sums.of_key(key, since))
    }

    fn keys(&self, since: Duration) -> Result<Vec<KeySum>, ReadError> {
        let (owners, mut keys) = {
            let kept = self.lock();
            (kept.sums.owners(), kept.sums.heaviest(since))
        };
        // Under a lock for each, as requests wait for it.
        for owner in owners {
            let sums = self.lock().sums.of_key(owner, since);
            let Some(key) = sums.last().and_then(|sum| sum.key.clone()) else { continue };
            let refused = sums.iter().filter(|sum| sum.refused);
            let refused = refused.map(|sum| sum.requests).sum();
            let requests = sums.iter().map(|sum| sum.requests).sum();
            // Each counts no more than there were: the sums some that found no room, the others
            // those of an hour.
            let known = keys.entry(owner).or_insert_with(|| KeySum::new(key.clone(), 0, 0));
            *known = KeySum::new(key, known.requests.max(requests), known.refused.max(refused));
        }
        Ok(keys.into_values().collect())
    }
}

impl fmt::Debug for MemoryLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLog")
            .field("entries", &self.lock().entries.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::entry::tests::entry;

    /// A log of entries that tell, as their cost, which of them they are.
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
    fn a_key_sees_its_own_entries_the_newest_first() {
        let log = log(100, [1, 2, 1, 1, 2]);
        assert_eq!(page(&log, 1, None, 10), (vec![3, 2, 0], None));
        assert_eq!(page(&log, 2, None, 10), (vec![4, 1], None));
        assert_eq!(page(&log, 3, None, 10), (vec![], None));
        let nobodys = Entry { key: None, ..entry(1) };
        log.record(&nobodys);
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
        // 2,000 were gone at first, and one more for each page read.
        let expected: Vec<u64> = (2_008..7_000).rev().filter(|nth| nth % 2 == 0).collect();
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
