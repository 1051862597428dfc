//! How large a key's next batch is, and when it is asked for: [`Demand`].

use std::mem;

/// How fast a key's units are used. A batch is to last for half of a lease's lifetime: then few units go
/// back, and a busy key asks the server about twice in that time, or as often as its lease demands.
#[derive(Debug)]
pub(super) struct Demand {
    /// The units of a batch, 1 at least. One batch is at most twice as large as the one before, and at
    /// least half as large.
    size: u64,
    /// The next batch is asked for when fewer units are left: what two round trips need, but no more than
    /// half of a batch.
    low: u64,
    /// The units that were used since the last batch was asked for, and when that was.
    used: u64,
    asked_at: Option<u64>,
    /// How long the last reply took.
    round_trip: u64,
}

impl Demand {
    pub(super) const fn new() -> Self {
        Self { size: 1, low: 0, used: 0, asked_at: None, round_trip: 0 }
    }

    #[inline]
    pub(super) fn use_units(&mut self, units: u64) {
        self.used = self.used.saturating_add(units);
    }

    /// Notes that units which counted as used come back.
    pub(super) fn return_units(&mut self, units: u64) {
        self.used = self.used.saturating_sub(units);
    }

    /// Whether it is time for the next batch.
    #[inline]
    pub(super) const fn is_low(&self, available: u64) -> bool {
        available < self.low
    }

    /// The units of the batch that is asked for now, `largest` at most.
    pub(super) fn next_batch(&mut self, now: u64, lifetime: u64, largest: u64) -> u64 {
        let used = mem::take(&mut self.used);
        if let Some(asked_at) = self.asked_at.replace(now) {
            let elapsed = now.saturating_sub(asked_at);
            let wanted = used_within(lifetime / 2, used, elapsed);
            self.size = wanted.clamp(self.size.div_ceil(2), self.size.saturating_mul(2));
            self.low = used_within(self.round_trip.saturating_mul(2), used, elapsed);
        }
        self.size = self.size.clamp(1, largest.max(1));
        self.low = self.low.min(self.size / 2);
        self.size
    }

    pub(super) fn record_reply(&mut self, round_trip: u64) {
        self.round_trip = round_trip;
    }

    /// Notes that a batch came in part or not at all: only requests that need units ask for more.
    pub(super) fn record_shortage(&mut self) {
        self.low = 0;
    }
}

/// How many units are used in a time, if so many were used in another.
#[expect(clippy::arithmetic_side_effects, reason = "no product of two u64 is too large; not by 0")]
fn used_within(time: u64, used: u64, elapsed: u64) -> u64 {
    let units = u128::from(time) * u128::from(used) / u128::from(elapsed.max(1));
    u64::try_from(units).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    impl Demand {
        /// A demand for batches of this size.
        pub(in crate::store::redis::leases) const fn of_size(size: u64) -> Self {
            Self { size, ..Self::new() }
        }
    }

    /// The batches that are asked for, if `rate` units a second are used evenly.
    fn batches_at(demand: &mut Demand, rate: u64, largest: u64, from: &mut u64) -> Vec<u64> {
        let batch = |_| {
            let size = demand.next_batch(*from, SECOND, largest);
            demand.use_units(size);
            *from += size * SECOND / rate;
            size
        };
        (0..20).map(batch).collect()
    }

    #[test]
    fn a_batch_grows_to_what_half_a_lifetime_needs_and_falls_again() {
        let (mut demand, mut now) = (Demand::new(), 7 * SECOND);
        let grown = batches_at(&mut demand, 120, 100, &mut now);
        assert_eq!(grown[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(grown[19], 60);
        let full = batches_at(&mut demand, 100_000, 100, &mut now);
        assert_eq!(full[1..4], [100, 100, 100]);
        let fallen = batches_at(&mut demand, 2, 100, &mut now);
        assert_eq!(fallen[1..8], [50, 25, 13, 7, 4, 2, 1]);
        assert_eq!(fallen[19], 1);
    }

    #[test]
    fn the_next_batch_is_asked_for_when_two_round_trips_need_what_is_left() {
        let (mut demand, mut now) = (Demand::new(), 7 * SECOND);
        demand.record_reply(SECOND / 100);
        batches_at(&mut demand, 1_000, 200, &mut now);
        assert!(!demand.is_low(20));
        assert!(demand.is_low(19), "2 x 10 ms");
        demand.record_reply(SECOND / 5);
        batches_at(&mut demand, 1_000, 200, &mut now);
        assert!(!demand.is_low(100), "half of a batch at most");
        assert!(demand.is_low(99));
        demand.record_shortage();
        assert!(!demand.is_low(0));
        demand.record_reply(SECOND / 1_000);
        batches_at(&mut demand, 100, 200, &mut now);
        assert!(!demand.is_low(0), "too few are used for that");
    }

    proptest! {
        /// Beside a computation in floating point.
        #[test]
        fn a_batch_follows_what_was_used(
            largest in 1..1_000_u64,
            lifetime in 1_000_000..SECOND,
            steps in vec((0..2_000_u64, 0..3 * SECOND), 1..50),
        ) {
            let (mut demand, mut now) = (Demand::new(), 0);
            let mut last = demand.next_batch(now, lifetime, largest) as f64;
            prop_assert_eq!(last, 1.0);
            for (used, elapsed) in steps {
                demand.use_units(used + 5);
                demand.return_units(5);
                now += elapsed;
                let size = demand.next_batch(now, lifetime, largest) as f64;
                let wanted = used as f64 * lifetime as f64 / 2.0 / (elapsed as f64).max(1.0);
                let most = (2.0 * last).min(largest as f64);
                let expected = wanted.clamp((last / 2.0).ceil().min(most), most).max(1.0);
                prop_assert!((size - expected).abs() <= 1.0, "{size} instead of {expected}");
                prop_assert!(size <= most);
                last = size;
            }
        }
    }
}
