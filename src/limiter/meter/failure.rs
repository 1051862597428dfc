//! Whether a request is a failure under one policy: [`Failure`].

use std::sync::atomic::{
    AtomicBool,
    Ordering::{AcqRel, Release},
};

use crate::{
    limiter::Labels,
    penalty::{Counted, Penalty},
};

/// Whether the request is a failure under one policy, and whether that was counted.
#[derive(Default)]
pub(in crate::limiter) struct Failure {
    /// The penalty that counts failures.
    pub(super) penalty: Option<&'static Penalty>,
    is_counted: AtomicBool,
}

impl Failure {
    pub(super) fn new(labels: &'static Labels) -> Self {
        let penalty = labels.penalty.as_ref().filter(|penalty| penalty.counts(Counted::Failures));
        Self { penalty, ..Self::default() }
    }

    /// Marks the failure as counted. Returns whether it was not counted before.
    pub(in crate::limiter) fn count_once(&self) -> bool {
        !self.is_counted.swap(true, AcqRel)
    }

    /// Marks it as counted, although it was not: then it is never counted.
    pub(super) fn set_counted(&self) {
        self.is_counted.store(true, Release);
    }
}
