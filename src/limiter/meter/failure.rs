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
pub(in crate::limiter) struct Failure {
    /// The penalty that counts failures.
    pub(super) penalty: Option<&'static Penalty>,
    pub(super) is_counted: AtomicBool,
}

impl Failure {
    pub(super) fn new(labels: &'static Labels) -> Self {
        let penalty = labels.penalty.as_ref().filter(|penalty| penalty.counts(Counted::Failures));
        Self { penalty, is_counted: AtomicBool::new(false) }
    }

    /// Marks the failure as counted. Returns whether it was not counted before.
    pub(in crate::limiter) fn is_first(&self) -> bool {
        !self.is_counted.swap(true, AcqRel)
    }

    /// Marks it as counted, so that it never counts.
    pub(super) fn set_counted(&self) {
        self.is_counted.store(true, Release);
    }
}
