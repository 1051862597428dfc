use super::Inner;
#[cfg(feature = "metrics")]
use super::Limiter;
use crate::limiter::{Decision, Outcome};
#[cfg(feature = "tracing")]
use crate::{limiter::Reason, store::Mode};

impl Inner {
    /// Tells metrics and events of a decision.
    #[inline]
    pub(super) fn observe(&self, decision: &Decision) {
        #[cfg(feature = "metrics")]
        if !decision.only_peeks() {
            self.metrics.count(decision);
        }
        #[cfg(feature = "tracing")]
        if !decision.is_uneventful() {
            self.log(decision);
        }
        #[cfg(not(any(feature = "metrics", feature = "tracing")))]
        let _ = decision;
    }

    /// Tells metrics and events of what one policy said, asked directly and not only to peek.
    #[inline]
    pub(super) fn observe_one(&self, outcome: &Outcome) {
        #[cfg(feature = "metrics")]
        self.metrics.count_one(outcome);
        #[cfg(feature = "tracing")]
        match outcome.refused {
            None => {}
            Some(_) if outcome.charge.mode == Mode::DryRun => self.log_dry_run(None, outcome),
            Some(reason) => self.log_refusal(None, reason, || Some(outcome)),
        }
        #[cfg(not(any(feature = "metrics", feature = "tracing")))]
        let _ = outcome;
    }
}

/// Events tell of policies, categories and kinds of key by their names; of no keys. What is to be
/// told is looked for only where someone hears it: most do not listen to each refusal.
///
/// Whether anyone does is the macros' to find out: where there is no subscriber, the `log` crate's
/// logger may listen instead.
#[cfg(feature = "tracing")]
impl Inner {
    #[inline(never)]
    fn log(&self, decision: &Decision) {
        if decision.only_peeks() {
            return;
        }
        let category = decision.record.category;
        for outcome in decision.dry_runs().iter().filter(|outcome| !outcome.is_allowed()) {
            self.log_dry_run(category, outcome);
        }
        if !decision.held().is_zero() {
            let category = self.category_name(category);
            tracing::debug!(category, held = ?decision.held(), "a request was held");
        }
        if let Some(reason) = decision.reason() {
            self.log_refusal(category, reason, || decision.tightest());
        }
    }

    fn log_dry_run(&self, category: Option<u32>, outcome: &Outcome) {
        tracing::info!(
            policy = outcome.policy(),
            category = self.category_name(category),
            "a dry run would have refused this request"
        );
    }

    #[inline]
    fn log_refusal<'d>(
        &self,
        category: Option<u32>,
        reason: Reason,
        refusing: impl Fn() -> Option<&'d Outcome>,
    ) {
        tracing::debug!(
            policy = refusing().map(Outcome::policy),
            category = self.category_name(category),
            ?reason,
            key_kind = refusing().map(Outcome::key_kind),
            limit = refusing().map(Outcome::limit),
            retry_after = refusing().and_then(Outcome::retry_after).map(tracing::field::debug),
            "a request was refused"
        );
    }

    fn category_name(&self, number: Option<u32>) -> Option<&str> {
        self.categories.get(number? as usize).map(|category| &*category.name)
    }
}

#[cfg(feature = "metrics")]
impl Limiter {
    /// Sets the gauges `tower_quota_live_keys` and `tower_quota_held_requests`, and counts on
    /// `tower_quota_overflowed_total`: to be called when an exporter tells its numbers, or
    /// every few seconds. With the store in memory it goes over all keys, a million in a few
    /// milliseconds; no request waits for more than some 4,000 of them.
    ///
    /// Of several limiters in a process, the gauges tell the sum.
    pub fn update_gauges(&self) {
        let inner = &self.inner;
        let live_keys = inner.store.live_keys(inner.clock.now());
        let overflowed = |policy: &str| self.overflowed(policy);
        inner.metrics.update_gauges(live_keys, inner.line.waiting(), overflowed);
    }
}
