use super::Limiter;
use crate::decision::Decision;

impl Limiter {
    /// Tells metrics and events of a decision about a request of the category with this number.
    pub(super) fn observe(&self, category: Option<usize>, decision: &Decision) {
        #[cfg(feature = "metrics")]
        self.inner.metrics.count(category, decision);
        #[cfg(feature = "tracing")]
        self.log(category, decision);
        #[cfg(not(any(feature = "metrics", feature = "tracing")))]
        let _ = (category, decision);
    }

    /// Policies, categories and kinds of key by their names; no keys.
    #[cfg(feature = "tracing")]
    fn log(&self, category: Option<usize>, decision: &Decision) {
        let category = category.and_then(|number| self.inner.categories.get(number));
        let category = category.map(|category| &*category.name);
        for outcome in decision.dry_runs.iter().filter(|outcome| !outcome.is_allowed()) {
            let policy = outcome.policy();
            tracing::info!(policy, category, "a dry run would have refused this request");
        }
        let held = decision.held();
        if !held.is_zero() {
            tracing::debug!(category, ?held, "a request was held");
        }
        let Some((reason, outcome)) = decision.reason().zip(decision.tightest()) else { return };
        tracing::debug!(
            policy = outcome.policy(),
            category,
            ?reason,
            key_kind = &*outcome.key_kind(),
            limit = outcome.limit(),
            retry_after = outcome.retry_after().map(tracing::field::debug),
            "a request was refused"
        );
    }

    /// Sets the gauges `tower_quota_live_keys` and `tower_quota_held_requests`: to be called when
    /// an exporter tells its numbers, or every few seconds. With the store in memory it takes a few
    /// microseconds.
    ///
    /// Of several limiters in a process, the gauges tell the sum.
    #[cfg(feature = "metrics")]
    pub fn report_levels(&self) {
        let inner = &self.inner;
        inner.metrics.set_levels(inner.store.live_keys(), inner.line.waiting());
    }
}
