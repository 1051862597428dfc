//! What a limiter counts for the recorder of the `metrics` facade.
//!
//! | series | where |
//! |---|---|
//! | `tower_quota_decisions_total`, by policy, category and verdict | [`DecisionMetrics`], [`VerdictLabel`] |
//! | `tower_quota_held_duration_seconds`, by category | [`DecisionMetrics`] |
//! | `tower_quota_overflowed_total`, by policy | [`OverflowCounter`] |
//! | `tower_quota_live_keys`, `tower_quota_held_requests`, `tower_quota_overrides` | [`SharedGauge`] |
//! | `tower_quota_store_duration_seconds`, `tower_quota_store_errors_total` | [`OperationMetrics`] |
//! | `tower_quota_reloads_total`, by result | [`count_reload`] |
//! | `tower_quota_deny_cache_hits_total` | [`deny_cache_hits`] |
//!
//! The crate's documentation says what each means. Each label is a name from the settings or from
//! this module, so the number of series is known at `build()`, and after an apply. A series is
//! registered when it is first needed, and then kept: a recorder that is installed before the first
//! request gets all of them, and no request pays for a look-up.

mod operation;
mod shared_gauge;
mod verdict_label;

use std::{
    collections::BTreeMap,
    ptr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use ::metrics::{
    Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram,
};

pub(crate) use self::{
    operation::OperationMetrics, shared_gauge::SharedGauge, verdict_label::VerdictLabel,
};
use crate::lock::Mutex;

/// The series of one limiter that do not depend on its rules.
#[derive(Debug)]
pub(crate) struct Metrics {
    live_keys: SharedGauge,
    held_requests: SharedGauge,
    /// By the names of policies.
    overflowed: Mutex<BTreeMap<String, OverflowCounter>>,
    pub(crate) charge: OperationMetrics,
    pub(crate) correct: OperationMetrics,
}

/// The series of the decisions by one rule set.
#[derive(Debug)]
pub(crate) struct DecisionMetrics {
    /// For requests of no category, and for [`Limiter::check`](crate::Limiter::check).
    uncategorized: CategoryMetrics,
    categories: Vec<CategoryMetrics>,
}

/// Counts the charges of a policy for which the memory store had no room.
#[derive(Debug, Default)]
struct OverflowCounter {
    counter: OnceLock<Counter>,
    /// The number that the counter has been raised to.
    reported: AtomicU64,
}

#[derive(Debug)]
struct CategoryMetrics {
    name: String,
    policies: Vec<PolicyMetrics>,
    /// Decisions by no policy of the limiter, such as an operator's block; by [`VerdictLabel`].
    without_policy: [OnceLock<Counter>; VerdictLabel::ALL.len()],
    held: OnceLock<Histogram>,
}

/// A policy whose decisions are counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountedPolicy {
    /// The interned name: its address identifies the policy.
    pub(crate) name: &'static str,
    pub(crate) is_dry_run: bool,
}

#[derive(Debug)]
struct PolicyMetrics {
    policy: CountedPolicy,
    decisions: OnceLock<[Counter; VerdictLabel::ALL.len()]>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            live_keys: SharedGauge::new(
                "tower_quota_live_keys",
                "Keys in the store, each once per policy.",
            ),
            held_requests: SharedGauge::new("tower_quota_held_requests", "Requests that wait."),
            overflowed: Mutex::default(),
            charge: OperationMetrics::new("charge"),
            correct: OperationMetrics::new("correct"),
        }
    }
}

impl Metrics {
    /// Sets the gauges, and raises the overflow counter of each policy to the number beside its name.
    /// `live_keys` is `None`, and `overflowed` empty, where the store does not count them.
    pub(crate) fn update_gauges(
        &self,
        live_keys: Option<usize>,
        held_requests: usize,
        overflowed: &[(&str, u64)],
    ) {
        let mut counters = self.overflowed.lock();
        for (policy, charges) in overflowed {
            let counter = counters.entry((*policy).to_owned()).or_default();
            counter.raise_to(policy, *charges);
        }
        drop(counters);
        self.held_requests.set(held_requests);
        if let Some(live_keys) = live_keys {
            self.live_keys.set(live_keys);
        }
    }
}

impl DecisionMetrics {
    /// `policies` are all of the limiter's. Each of `categories` has a name, and the policies of its
    /// requests.
    pub(crate) fn new(
        policies: impl IntoIterator<Item = CountedPolicy>,
        categories: impl IntoIterator<Item = (String, Vec<CountedPolicy>)>,
    ) -> Self {
        // An empty label is the same as none.
        let uncategorized = CategoryMetrics::new(String::new(), policies);
        let named =
            categories.into_iter().map(|(name, policies)| CategoryMetrics::new(name, policies));
        Self { uncategorized, categories: named.collect() }
    }

    /// Counts a decision about a request of this category, by what each policy says, and the time that
    /// the request was held.
    pub(crate) fn count<'n>(
        &self,
        category: Option<u32>,
        verdicts: impl Iterator<Item = (&'n str, VerdictLabel)>,
        held: Duration,
    ) {
        let category = self.category(category);
        for (policy, verdict) in verdicts {
            // Where routers may read a path differently, policies of other categories decide as well.
            let _ = category.count(policy, verdict) || self.uncategorized.count(policy, verdict);
        }
        if !held.is_zero() {
            category.held().record(held);
        }
    }

    /// Counts a decision that no policy has made.
    #[cold]
    pub(crate) fn count_without_policy(&self, category: Option<u32>, verdict: VerdictLabel) {
        let CategoryMetrics { name, without_policy, .. } = self.category(category);
        let counter = || decisions("", name, verdict);
        without_policy[verdict as usize].get_or_init(counter).increment(1);
    }

    #[expect(clippy::expect_used, reason = "uncounted decisions would hide what is refused")]
    fn category(&self, number: Option<u32>) -> &CategoryMetrics {
        number.map_or(&self.uncategorized, |number| {
            self.categories.get(number as usize).expect("the same rules found the category")
        })
    }
}

impl OverflowCounter {
    fn raise_to(&self, policy: &str, charges: u64) {
        const NAME: &str = "tower_quota_overflowed_total";
        let counter = self.counter.get_or_init(|| {
            let help = "Charges for which the store had no room, so that keys shared a quota.";
            describe_counter!(NAME, Unit::Count, help);
            counter!(NAME, "policy" => policy.to_owned())
        });
        counter.increment(charges.saturating_sub(self.reported.swap(charges, Relaxed)));
    }
}

impl CategoryMetrics {
    fn new(name: String, policies: impl IntoIterator<Item = CountedPolicy>) -> Self {
        let policy = |policy| PolicyMetrics { policy, decisions: OnceLock::new() };
        let policies = policies.into_iter().map(policy).collect();
        let without_policy = [const { OnceLock::new() }; VerdictLabel::ALL.len()];
        Self { name, policies, without_policy, held: OnceLock::new() }
    }

    /// Counts a decision. `false` if its policy is another category's: then nothing is counted.
    fn count(&self, policy: &str, verdict: VerdictLabel) -> bool {
        let mut policies = self.policies.iter();
        let known = policies.find(|known| ptr::eq(known.policy.name, policy));
        if let Some(known) = known {
            known.decisions(&self.name)[verdict as usize].increment(1);
        }
        known.is_some()
    }

    fn held(&self) -> &Histogram {
        const NAME: &str = "tower_quota_held_duration_seconds";
        self.held.get_or_init(|| {
            let help = "How long requests waited for their units, whether or not they passed.";
            describe_histogram!(NAME, Unit::Seconds, help);
            histogram!(NAME, "category" => self.name.clone())
        })
    }
}

impl PolicyMetrics {
    /// A counter for each verdict. All are registered at once, so that the first refusal is a rise from 0.
    fn decisions(&self, category: &str) -> &[Counter; VerdictLabel::ALL.len()] {
        self.decisions.get_or_init(|| {
            VerdictLabel::ALL.map(|(verdict, _)| {
                let never = verdict.is_dry_run() != self.policy.is_dry_run;
                if never || matches!(verdict, VerdictLabel::Blocked) {
                    return Counter::noop();
                }
                decisions(self.policy.name, category, verdict)
            })
        })
    }
}

fn decisions(policy: &str, category: &str, verdict: VerdictLabel) -> Counter {
    const NAME: &str = "tower_quota_decisions_total";
    describe_counter!(NAME, Unit::Count, "What policies said of requests.");
    counter!(
        NAME,
        "policy" => policy.to_owned(),
        "category" => category.to_owned(),
        "verdict" => VerdictLabel::ALL[verdict as usize].1,
    )
}

/// Counts limits that were applied, or could not be. Both series are registered at once, so that the
/// first failure is a rise from 0.
pub(crate) fn count_reload(is_applied: bool) {
    const NAME: &str = "tower_quota_reloads_total";
    describe_counter!(NAME, Unit::Count, "How often the limits were to be replaced.");
    for (result, is_result) in [("applied", is_applied), ("failed", !is_applied)] {
        counter!(NAME, "result" => result).increment(u64::from(is_result));
    }
}

/// The counter of requests that a remembered refusal refuses.
#[cfg(feature = "redis")]
pub(crate) fn deny_cache_hits() -> Counter {
    const NAME: &str = "tower_quota_deny_cache_hits_total";
    let help = "Requests refused by what is remembered, without asking the store.";
    describe_counter!(NAME, Unit::Count, help);
    counter!(NAME)
}
