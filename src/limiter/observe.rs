use super::Inner;
#[cfg(feature = "metrics")]
use super::Limiter;
use crate::decision::Decision;
#[cfg(feature = "tracing")]
use crate::decision::Outcome;

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

    /// Policies, categories and kinds of key by their names; no keys. What is to be told is looked
    /// for only where someone hears it: most do not listen to each refusal.
    ///
    /// Whether anyone does is the macros' to find out: where there is no subscriber, the `log` crate's
    /// logger may listen instead.
    #[cfg(feature = "tracing")]
    #[inline(never)]
    fn log(&self, decision: &Decision) {
        if decision.only_peeks() {
            return;
        }
        let category = || {
            let category = self.categories.get(decision.record.category? as usize)?;
            Some(&*category.name)
        };
        for outcome in decision.dry_runs().iter().filter(|outcome| !outcome.is_allowed()) {
            let policy = outcome.policy();
            tracing::info!(
                policy,
                category = category(),
                "a dry run would have refused this request"
            );
        }
        if !decision.held().is_zero() {
            tracing::debug!(category = category(), held = ?decision.held(), "a request was held");
        }
        let Some(reason) = decision.reason() else { return };
        let refusing = || decision.tightest();
        tracing::debug!(
            policy = refusing().map(Outcome::policy),
            category = category(),
            ?reason,
            key_kind = refusing().map(Outcome::key_kind),
            limit = refusing().map(Outcome::limit),
            retry_after = refusing().and_then(Outcome::retry_after).map(tracing::field::debug),
            "a request was refused"
        );
    }
}

#[cfg(feature = "metrics")]
impl Limiter {
    /// Sets the gauges `tower_quota_live_keys` and `tower_quota_held_requests`: to be called when
    /// an exporter tells its numbers, or every few seconds. With the store in memory it takes a few
    /// microseconds.
    ///
    /// Of several limiters in a process, the gauges tell the sum.
    pub fn report_levels(&self) {
        let inner = &self.inner;
        inner.metrics.set_levels(inner.store.live_keys(), inner.line.waiting());
    }
}
