use std::sync::{Arc, OnceLock};

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};
use tokio::time::Instant;

use crate::{
    clock::Now,
    store::{Announcement, Charge, Correction, Store, StoreFuture, Usage},
};

/// A store that may be slow or down: its answers are timed, where they come later, and its errors
/// are counted.
pub(crate) struct Watched {
    store: Arc<dyn Store>,
    charge: Operation,
    correct: Operation,
}

/// The series of one kind of question.
struct Operation {
    name: &'static str,
    series: OnceLock<(Histogram, Counter)>,
}

impl Watched {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, charge: Operation::new("charge"), correct: Operation::new("correct") }
    }
}

impl Store for Watched {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        self.charge.watch(self.store.charge(charges, now))
    }

    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        self.store.charge_at_once(charges, usages, now)
    }

    fn prefetch(&self, key: u128) {
        self.store.prefetch(key);
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        self.correct.watch(self.store.correct(corrections, now))
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

    fn watch(&self, answer: StoreFuture) -> StoreFuture {
        match answer.outcome() {
            Some(true) => return answer,
            Some(false) => {
                self.series().1.increment(1);
                return answer;
            }
            None => {}
        }
        let (duration, errors) = self.series().clone();
        let asked_at = Instant::now();
        StoreFuture::later(async move {
            let answer = answer.await;
            duration.record(asked_at.elapsed());
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
