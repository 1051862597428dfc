//! A gauge that shows the sum over all limiters of the process: [`SharedGauge`].

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use ::metrics::{Gauge, Unit, describe_gauge, gauge};

/// One limiter's share of a gauge. Dropping it takes the share off the gauge.
#[derive(Debug)]
pub(crate) struct SharedGauge {
    name: &'static str,
    help: &'static str,
    gauge: OnceLock<Gauge>,
    share: AtomicU64,
}

impl SharedGauge {
    pub(crate) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, gauge: OnceLock::new(), share: AtomicU64::new(0) }
    }

    pub(crate) fn set(&self, share: usize) {
        let share = share as u64;
        let before = self.share.swap(share, Relaxed);
        let gauge = self.gauge.get_or_init(|| {
            describe_gauge!(self.name, Unit::Count, self.help);
            gauge!(self.name)
        });
        gauge.increment(share as f64 - before as f64);
    }
}

impl Drop for SharedGauge {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge.get() {
            gauge.decrement(self.share.load(Relaxed) as f64);
        }
    }
}
