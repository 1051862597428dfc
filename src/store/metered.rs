//! A store whose answers are timed and whose errors are counted, for the recorder of the `metrics`
//! facade.

use std::sync::{Arc, OnceLock};

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};
use tokio::time::Instant;

use super::{Announcement, Charge, Correction, Store, StoreFuture, Usage};
use crate::clock::Now;

/// A store that may be slow or down. Answers that come later are timed, and errors are counted.
pub(crate) struct MeteredStore {
    store: Arc<dyn Store>,
    charge: Operation,
    correct: Operation,
}

/// The series of one operation. They are registered at the first answer that needs them.
struct Operation {
    name: &'static str,
    series: OnceLock<(Histogram, Counter)>,
}

impl MeteredStore {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, charge: Operation::new("charge"), correct: Operation::new("correct") }
    }
}

impl Store for MeteredStore {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.charge.measure(self.store.charge(charges, now))
    }

    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        self.store.charge_at_once(charges, usages, now)
    }

    fn prefetch(&self, key: u128) {
        self.store.prefetch(key);
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.correct.measure(self.store.correct(corrections, now))
    }

    fn live_keys(&self, now: Now) -> Option<usize> {
        self.store.live_keys(now)
    }

    fn overflowed(&self, policy: u64) -> Option<u64> {
        self.store.overflowed(policy)
    }

    fn announce(&self, policies: &Arc<[Announcement]>) {
        self.store.announce(policies);
    }

    fn secret(&self) -> Option<u128> {
        self.store.secret()
    }
}

impl Operation {
    fn new(name: &'static str) -> Self {
        Self { name, series: OnceLock::new() }
    }

    fn measure(&self, answer: StoreFuture) -> StoreFuture {
        match answer.is_ok_at_once() {
            Some(true) => return answer,
            Some(false) => {
                self.series().1.increment(1);
                return answer;
            }
            None => {}
        }
        let (duration, errors) = self.series().clone();
        let started_at = Instant::now();
        StoreFuture::later(async move {
            let answer = answer.await;
            duration.record(started_at.elapsed());
            if answer.is_err() {
                errors.increment(1);
            }
            answer
        })
    }

    /// Both at once, so that the first error is seen to rise from 0.
    fn series(&self) -> &(Histogram, Counter) {
        const DURATION: &str = "tower_quota_store_duration_seconds";
        const ERRORS: &str = "tower_quota_store_errors_total";
        self.series.get_or_init(|| {
            let help = "How long a store took that answers later.";
            describe_histogram!(DURATION, Unit::Seconds, help);
            describe_counter!(ERRORS, Unit::Count, "How often a store has not answered.");
            let operation = self.name;
            (
                histogram!(DURATION, "operation" => operation),
                counter!(ERRORS, "operation" => operation),
            )
        })
    }
}
