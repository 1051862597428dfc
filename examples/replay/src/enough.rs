//! Units that are surely enough for a key, from the times of its requests alone: [`enough`]. The search for a
//! quota tries no key that has enough.

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use tower_quota::{Algorithm, Quota};

use crate::log::Line;

/// A request that has ended gives its unit back at most this much later.
const RELEASE: u64 = 2_000_000;

/// A number of units (of a burst, if the quota has one) that refuses none of these requests. Each costs one
/// unit at most. They are in the order of their starts.
pub fn enough(
    algorithm: Algorithm,
    quota: Quota,
    has_burst: bool,
    requests: impl Iterator<Item = Line> + Clone,
) -> u64 {
    let units = match algorithm {
        Algorithm::InFlight => most_under_way(requests),
        _ if has_burst => largest_debt(quota, requests.map(|line| line.start)),
        // An empty bucket is full again after one window. A sliding window counts a unit for a little longer
        // than its length, and a window of a calendar may have an hour more.
        _ => most_within(quota.window() * 2, requests.map(|line| line.start)),
    };
    units.max(1)
}

/// The most requests that are under way at a time.
fn most_under_way(requests: impl Iterator<Item = Line>) -> u64 {
    let (mut ends, mut most) = (BinaryHeap::new(), 0);
    for line in requests {
        while ends.peek().is_some_and(|Reverse(end)| *end <= line.start) {
            ends.pop();
        }
        ends.push(Reverse(line.start.saturating_add(line.took).saturating_add(RELEASE)));
        most = most.max(ends.len());
    }
    most as u64
}

/// The most requests within any span of this length.
fn most_within(time: Duration, starts: impl Iterator<Item = u64> + Clone) -> u64 {
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let (mut oldest, mut within, mut most) = (starts.clone().peekable(), 0, 0);
    for start in starts {
        within += 1;
        while oldest.next_if(|oldest| start - oldest >= time).is_some() {
            within -= 1;
        }
        most = most.max(within);
    }
    most
}

/// The most units that are ever missing in a bucket that refuses no request, and one more for a part of a unit.
fn largest_debt(quota: Quota, starts: impl Iterator<Item = u64>) -> u64 {
    // In parts of a unit, of which so many come back in a nanosecond as the quota has units.
    let unit = quota.window().as_nanos();
    let (mut last, mut debt, mut largest) = (0, 0, 0_u128);
    for start in starts {
        let back = u128::from(start - last) * u128::from(quota.units());
        debt = u128::saturating_sub(debt, back) + unit;
        (last, largest) = (start, largest.max(debt));
    }
    u64::try_from(largest / unit.max(1) + 1).unwrap_or(u64::MAX)
}
