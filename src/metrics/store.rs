use std::sync::{Arc, OnceLock};

use ::metrics::{Histogram, Unit, describe_histogram, histogram};
use tokio::time::Instant;

use crate::{
    clock::Now,
    store::{Charge, Correction, Store, StoreFuture},
};

/// A store whose answers are timed, where they come later.
pub(crate) struct Timed {
    store: Arc<dyn Store>,
    charge: OnceLock<Histogram>,
    correct: OnceLock<Histogram>,
}

impl Timed {
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, charge: OnceLock::new(), correct: OnceLock::new() }
    }
}

impl Store for Timed {
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
        timed(self.store.charge(charges, now), &self.charge, "charge")
    }

    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
        timed(self.store.correct(corrections, now), &self.correct, "correct")
    }

    fn live_keys(&self) -> Option<usize> {
        self.store.live_keys()
    }
}

fn timed(
    answer: StoreFuture,
    histogram: &OnceLock<Histogram>,
    operation: &'static str,
) -> StoreFuture {
    if answer.is_ready() {
        return answer;
    }
    const NAME: &str = "tower_quota_store_duration_seconds";
    let register = || {
        describe_histogram!(NAME, Unit::Seconds, "How long a store took that answers later.");
        histogram!(NAME, "operation" => operation)
    };
    let histogram = histogram.get_or_init(register).clone();
    let asked_at = Instant::now();
    StoreFuture::later(async move {
        let answer = answer.await;
        histogram.record(asked_at.elapsed());
        answer
    })
}
