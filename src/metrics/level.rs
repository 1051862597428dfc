use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use ::metrics::{Gauge, Unit, describe_gauge, gauge};

/// This limiter's part of a gauge, which all limiters of the process share.
#[derive(Debug)]
pub(super) struct Level {
    name: &'static str,
    help: &'static str,
    gauge: OnceLock<Gauge>,
    told: AtomicU64,
}

impl Level {
    pub(super) fn new(name: &'static str, help: &'static str) -> Self {
        Self { name, help, gauge: OnceLock::new(), told: AtomicU64::new(0) }
    }

    pub(super) fn set(&self, level: usize) {
        let level = level as u64;
        let before = self.told.swap(level, Relaxed);
        let gauge = self.gauge.get_or_init(|| {
            describe_gauge!(self.name, Unit::Count, self.help);
            gauge!(self.name)
        });
        gauge.increment(level as f64 - before as f64);
    }
}

/// What a limiter has told is gone with it.
impl Drop for Level {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge.get() {
            gauge.decrement(self.told.load(Relaxed) as f64);
        }
    }
}
