//! What is recorded of an operation of the store: [`OperationMetrics`].

use std::sync::OnceLock;

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};
use tokio::time::Instant;

/// The series of one operation of the store: how long answers take, and how many are errors.
#[derive(Debug)]
pub(crate) struct OperationMetrics {
    name: &'static str,
    series: OnceLock<(Histogram, Counter)>,
}

impl OperationMetrics {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, series: OnceLock::new() }
    }

    /// Counts an answer that was an error at once.
    pub(crate) fn count_error(&self) {
        self.series().1.increment(1);
    }

    /// Times an answer that comes later, and counts it if it is an error.
    pub(crate) fn time<T, E, A>(&self, answer: A) -> impl Future<Output = A::Output> + use<T, E, A>
    where
        A: Future<Output = Result<T, E>>,
    {
        let (duration, errors) = self.series().clone();
        let started_at = Instant::now();
        async move {
            let answer = answer.await;
            duration.record(started_at.elapsed());
            if answer.is_err() {
                errors.increment(1);
            }
            answer
        }
    }

    /// Both are registered at once, so that the first error is a rise from 0.
    fn series(&self) -> &(Histogram, Counter) {
        const DURATION: &str = "tower_quota_store_duration_seconds";
        const ERRORS: &str = "tower_quota_store_errors_total";
        self.series.get_or_init(|| {
            let help = "How long a store took that answers later.";
            describe_histogram!(DURATION, Unit::Seconds, help);
            describe_counter!(ERRORS, Unit::Count, "How often a store has not answered.");
            let duration = histogram!(DURATION, "operation" => self.name);
            (duration, counter!(ERRORS, "operation" => self.name))
        })
    }
}
