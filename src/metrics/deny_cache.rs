//! The counter `tower_quota_deny_cache_hits_total`: [`DenyCacheHits`].

use std::sync::OnceLock;

use ::metrics::{Counter, Unit, counter, describe_counter};

/// Counts requests that a remembered refusal refuses, without asking Redis.
#[derive(Default)]
pub(crate) struct DenyCacheHits(OnceLock<Counter>);

impl DenyCacheHits {
    pub(crate) fn count(&self) {
        const NAME: &str = "tower_quota_deny_cache_hits_total";
        let register = || {
            let help = "Requests refused by what is remembered, without asking the store.";
            describe_counter!(NAME, Unit::Count, help);
            counter!(NAME)
        };
        self.0.get_or_init(register).increment(1);
    }
}
