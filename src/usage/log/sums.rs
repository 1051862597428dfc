//! The sums of the last day's minutes, in bounded memory: [`Sums`].

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry as Occupancy},
    hash::{Hash, Hasher},
    mem,
    sync::Arc,
    time::Duration,
};

use super::{Entry, Fingerprint, KeySum, Sum, tally::Tally};

/// How far back sums reach.
pub(super) const DAY: Duration = Duration::from_secs(86_400);
const MINUTE: u64 = 60;

/// The key of some requests; `None` for requests without a key.
pub(super) type Owner = Option<Fingerprint>;

/// What identifies a sum.
#[derive(PartialEq, Eq)]
pub(super) struct SumId {
    key: Owner,
    minute: u64,
    endpoint: Arc<str>,
    method: &'static str,
    status_class: u8,
    refused: bool,
}

/// Hashes less than all fields, because it runs for each request: to hash them one by one takes several
/// times as long. The fingerprint is as good as random, and a key has few sums in a minute.
impl Hash for SumId {
    #[expect(clippy::cast_possible_truncation, reason = "the half of a fingerprint is random too")]
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        let key = self.key.map_or(0, |key| key.0 as u64);
        let ending = u64::from(self.status_class) << 1 | u64::from(self.refused);
        hasher.write_u64(key ^ ending);
        hasher.write(self.endpoint.as_bytes());
    }
}

impl SumId {
    pub(super) fn new(entry: &Entry) -> Self {
        Self {
            key: entry.key.as_ref().map(|key| key.fingerprint),
            minute: minute_of(entry),
            endpoint: Arc::clone(&entry.endpoint),
            method: entry.method,
            status_class: status_class(entry),
            refused: entry.verdict.is_refused(),
        }
    }
}

impl Sum {
    /// A sum of no requests, for those that end as `entry` did.
    pub(crate) fn empty_for(entry: &Entry) -> Self {
        Self {
            key: entry.key.clone(),
            minute: Duration::from_secs(minute_of(entry) * MINUTE),
            endpoint: Arc::clone(&entry.endpoint),
            method: entry.method,
            status_class: status_class(entry),
            refused: entry.verdict.is_refused(),
            requests: 0,
            response_time: Duration::ZERO,
            longest: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        self.requests += 1;
        self.response_time = self.response_time.saturating_add(entry.response_time);
        self.longest = self.longest.max(entry.response_time);
    }
}

/// The minute of the response. So entries come in order of their minutes, except at the turn of one.
fn minute_of(entry: &Entry) -> u64 {
    entry.at.saturating_add(entry.response_time).as_secs() / MINUTE
}

fn status_class(entry: &Entry) -> u8 {
    entry.status.map_or(0, |status| u8::try_from(status / 100).unwrap_or(u8::MAX))
}

/// The sums of the last day, as far as they have room.
#[derive(Default)]
pub(super) struct Sums {
    max: usize,
    minute: u64,
    current: HashMap<SumId, Sum>,
    /// The number of sums of the current minute, by owner.
    owned: HashMap<Owner, usize>,
    /// The heaviest keys, with or without a sum.
    tally: Tally,
    past: HashMap<Owner, VecDeque<Sum>>,
    /// The owner of each sum in `past`, the oldest first.
    order: VecDeque<Owner>,
    /// The number of requests in no sum.
    pub(super) left_out: u64,
}

impl Sums {
    pub(super) fn new(max: usize) -> Self {
        Self { max, ..Self::default() }
    }

    /// The most sums of one minute. A flood of new keys fills no more, so the last hour always has room.
    fn max_per_minute(&self) -> usize {
        (self.max / 60).max(1)
    }

    pub(super) fn add(&mut self, entry: &Entry) {
        let mut id = SumId::new(entry);
        // A request of the last minute ended as the minute did. If it is older, the clock was set.
        let just_ended = id.minute + 1 == self.minute;
        if just_ended {
            id.minute = self.minute;
        } else if id.minute != self.minute {
            self.begin(id.minute);
        }
        self.tally.add(id.minute, entry);
        let free = self.max_per_minute().saturating_sub(self.current.len());
        match self.current.entry(id) {
            Occupancy::Occupied(sum) => sum.into_mut().add(entry),
            Occupancy::Vacant(vacant) => {
                // An owner has no more sums than are free, which leaves room for others.
                let owned = self.owned.entry(vacant.key().key).or_default();
                if *owned >= free {
                    self.left_out += 1;
                } else {
                    *owned += 1;
                    vacant.insert(Sum::empty_for(entry)).add(entry);
                }
            }
        }
    }

    /// Begins a new minute: the sums of the last one are past, and the oldest go that have expired or
    /// have no room.
    #[expect(clippy::expect_used, reason = "skipping an owner would let sums grow without bound")]
    fn begin(&mut self, minute: u64) {
        self.minute = minute;
        self.owned.clear();
        for sum in mem::take(&mut self.current).into_values() {
            let owner = sum.key.as_ref().map(|key| key.fingerprint);
            self.order.push_back(owner);
            self.past.entry(owner).or_default().push_back(sum);
        }
        let now = Duration::from_secs(minute * MINUTE);
        let room = self.max - self.max_per_minute().min(self.max);
        while let Some(owner) = self.order.front() {
            let sums = self.past.get_mut(owner).expect("each owner in `order` has a sum");
            let expired = sums.front().is_some_and(|sum| sum.minute.saturating_add(DAY) < now);
            if !expired && self.order.len() <= room {
                break;
            }
            sums.pop_front();
            if sums.is_empty() {
                self.past.remove(owner);
            }
            self.order.pop_front();
        }
    }

    pub(super) fn of_key(&self, key: Fingerprint, since: Duration) -> Vec<Sum> {
        let past = self.past.get(&Some(key)).into_iter().flatten();
        let is_of_key = |sum: &&Sum| sum.key.as_ref().is_some_and(|known| known.fingerprint == key);
        let current = self.current.values().filter(is_of_key);
        past.chain(current).filter(|sum| sum.minute >= since).cloned().collect()
    }

    /// The counts of the heaviest keys, with or without sums.
    pub(super) fn heaviest(&self, since: Duration) -> HashMap<Fingerprint, KeySum> {
        self.tally.keys(since.as_secs().div_ceil(MINUTE))
    }

    /// The keys that have sums.
    pub(super) fn owners(&self) -> HashSet<Fingerprint> {
        let current = self.current.keys().map(|id| id.key);
        self.past.keys().copied().chain(current).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::log::tests::entry;

    const KEY: u128 = 7;

    fn at(seconds: u64, key: u128) -> Entry {
        Entry { at: Duration::from_secs(seconds), ..entry(key) }
    }

    fn requests(sums: &Sums, key: u128, since: u64) -> Vec<(u64, u64)> {
        let sums = sums.of_key(Fingerprint(key), Duration::from_secs(since));
        sums.iter().map(|sum| (sum.minute.as_secs(), sum.requests)).collect()
    }

    #[test]
    fn requests_that_end_alike_in_a_minute_are_one_sum() {
        let mut sums = Sums::new(1_000);
        for second in [60, 61, 119, 120] {
            sums.add(&at(second, KEY));
        }
        assert_eq!(requests(&sums, KEY, 0), [(60, 3), (120, 1)]);
        assert_eq!(requests(&sums, KEY, 61), [(120, 1)]);
        assert_eq!(requests(&sums, KEY + 1, 0), []);
        sums.add(&Entry { status: Some(404), ..at(121, KEY) });
        sums.add(&Entry { endpoint: "/other".into(), ..at(121, KEY) });
        assert_eq!(requests(&sums, KEY, 120), [(120, 1); 3]);
    }

    #[test]
    fn times_are_added_and_the_longest_is_kept() {
        let mut sums = Sums::new(1_000);
        for millis in [5, 20, 10] {
            let response_time = Duration::from_millis(millis);
            sums.add(&Entry { response_time, ..at(60, KEY) });
        }
        let sum = &sums.of_key(Fingerprint(KEY), Duration::ZERO)[0];
        assert_eq!(sum.response_time, Duration::from_millis(35));
        assert_eq!(sum.longest, Duration::from_millis(20));
    }

    #[test]
    fn a_request_of_the_last_minute_counts_in_the_new_one_and_a_clock_step_begins_another() {
        let mut sums = Sums::new(1_000);
        sums.add(&at(120, KEY));
        sums.add(&at(119, KEY));
        assert_eq!(requests(&sums, KEY, 0), [(120, 2)]);
        sums.add(&at(7_200, KEY));
        sums.add(&at(3_600, KEY));
        assert_eq!(requests(&sums, KEY, 0), [(120, 2), (7_200, 1), (3_600, 1)]);
    }

    #[test]
    fn sums_older_than_a_day_are_removed() {
        let mut sums = Sums::new(1_000);
        sums.add(&at(60, KEY));
        sums.add(&at(86_400 + 60, KEY));
        assert_eq!(requests(&sums, KEY, 0).len(), 2);
        sums.add(&at(86_400 + 120, KEY));
        assert_eq!(requests(&sums, KEY, 0), [(86_460, 1), (86_520, 1)]);
        assert_eq!(sums.order.len(), 1);
    }

    #[test]
    fn one_key_leaves_room_for_others_in_a_minute() {
        let mut sums = Sums::new(600);
        for number in 0..100 {
            sums.add(&Entry { endpoint: format!("/{number}").into(), ..at(60, KEY) });
        }
        assert_eq!(requests(&sums, KEY, 0).len(), 5, "half of the room for ten");
        sums.add(&at(60, KEY + 1));
        assert_eq!(requests(&sums, KEY + 1, 0), [(60, 1)]);
        sums.add(&at(120, KEY));
        assert_eq!(requests(&sums, KEY, 120), [(120, 1)], "each minute anew");
    }

    #[test]
    fn a_flood_of_keys_stays_bounded_and_leaves_the_last_hour_to_those_before() {
        let mut sums = Sums::new(600);
        sums.add(&at(60, KEY));
        for minute in 2..60 {
            for key in 1_000..2_000 {
                sums.add(&at(minute * 60, key + u128::from(minute) * 1_000));
            }
            assert!(sums.current.len() + sums.order.len() <= 600);
        }
        assert_eq!(requests(&sums, KEY, 0), [(60, 1)]);
        assert_eq!(sums.left_out, 58 * (1_000 - 10));
        for minute in 60..200 {
            for key in 0..10 {
                sums.add(&at(minute * 60, key));
            }
        }
        assert!(sums.current.len() + sums.order.len() <= 600);
        assert_eq!(sums.past.values().map(VecDeque::len).sum::<usize>(), sums.order.len());
        assert!(sums.past.len() <= 10, "keys without sums are forgotten");
    }
}
