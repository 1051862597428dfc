//! What a limiter tells the `metrics` facade.
//!
//! The crate's documentation has the table of names and labels. Each label is a name of the
//! configuration or of this module: how many series there are is known at `build()`.

#[cfg(feature = "redis")]
mod deny_cache;
mod level;
mod store;
mod verdict;

use std::{
    collections::BTreeSet,
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

#[cfg(feature = "redis")]
pub(crate) use self::deny_cache::DenyCacheHits;
pub(crate) use self::store::Watched;
use self::{level::Level, verdict::Verdict};
use crate::{
    limiter::{Decision, Outcome},
    policy::{Labels, Policy},
};

/// The series of one limiter.
///
/// Each is registered when it is first needed, and kept: a recorder that is installed before the
/// first request gets all of them, and no request pays for looking them up.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// What belongs to no category.
    uncategorized: OfCategory,
    categories: Vec<OfCategory>,
    live_keys: Level,
    held_requests: Level,
    /// By policy.
    overflowed: Vec<Overflowed>,
}

/// The charges of a policy that had no room for a count of their own.
#[derive(Debug)]
struct Overflowed {
    policy: String,
    series: OnceLock<Counter>,
    told: AtomicU64,
}

#[derive(Debug)]
struct OfCategory {
    name: String,
    policies: Vec<OfPolicy>,
    /// By verdict: of what an operator blocks, which is no policy of the limiter's.
    of_no_policy: [OnceLock<Counter>; Verdict::ALL.len()],
    held: OnceLock<Histogram>,
}

#[derive(Debug)]
struct OfPolicy {
    policy: Policy,
    labels: &'static Labels,
    decisions: OnceLock<[Counter; Verdict::ALL.len()]>,
}

impl Metrics {
    /// For decisions about requests of no category, by any of `policies`, and of each of
    /// `categories`, by name.
    pub(crate) fn new(
        policies: impl IntoIterator<Item = Policy>,
        categories: impl IntoIterator<Item = (String, Vec<Policy>)>,
    ) -> Self {
        // A label that is empty is as good as left out.
        let uncategorized = OfCategory::new(String::new(), policies);
        let names: BTreeSet<_> =
            uncategorized.policies.iter().map(|of| of.policy.name().to_owned()).collect();
        let named = categories.into_iter().map(|(name, policies)| OfCategory::new(name, policies));
        Self {
            uncategorized,
            categories: named.collect(),
            live_keys: Level::new(
                "tower_quota_live_keys",
                "Keys in the store, each once per policy.",
            ),
            held_requests: Level::new("tower_quota_held_requests", "Requests that wait."),
            overflowed: names.into_iter().map(Overflowed::new).collect(),
        }
    }

    /// Counts a decision.
    #[expect(clippy::expect_used, reason = "uncounted decisions would hide what is refused")]
    pub(crate) fn count(&self, decision: &Decision) {
        let of = decision.record.category.map_or(&self.uncategorized, |number| {
            self.categories.get(number as usize).expect("it is one of the limiter's categories")
        });
        let held = decision.held();
        for outcome in decision.all() {
            // A path that routers read differently counts in other categories as well.
            let _ = of.count(outcome, held) || self.uncategorized.count(outcome, held);
        }
        if !held.is_zero() {
            of.held().record(held);
        }
    }

    /// Counts what one policy said, asked directly.
    pub(crate) fn count_one(&self, outcome: &Outcome) {
        self.uncategorized.count(outcome, Duration::ZERO);
    }

    /// Sets the gauges, and counts what has `overflowed` of each policy; a store may not know how
    /// many keys it has.
    pub(crate) fn set_levels(
        &self,
        live_keys: Option<usize>,
        held_requests: usize,
        overflowed: impl Fn(&str) -> Option<u64>,
    ) {
        for of in &self.overflowed {
            of.set(overflowed(&of.policy));
        }
        self.held_requests.set(held_requests);
        if let Some(live_keys) = live_keys {
            self.live_keys.set(live_keys);
        }
    }
}

impl Overflowed {
    fn new(policy: String) -> Self {
        Self { policy, series: OnceLock::new(), told: AtomicU64::new(0) }
    }

    fn set(&self, charges: Option<u64>) {
        const NAME: &str = "tower_quota_overflowed_total";
        let Some(charges) = charges else { return };
        let series = self.series.get_or_init(|| {
            let help = "Charges for which the store had no room, so that keys shared a quota.";
            describe_counter!(NAME, Unit::Count, help);
            counter!(NAME, "policy" => self.policy.clone())
        });
        series.increment(charges.saturating_sub(self.told.swap(charges, Relaxed)));
    }
}

impl OfCategory {
    fn new(name: String, policies: impl IntoIterator<Item = Policy>) -> Self {
        let policy = |policy| {
            let labels = Labels::of(&policy);
            OfPolicy { policy, labels, decisions: OnceLock::new() }
        };
        let policies = policies.into_iter().map(policy).collect();
        let of_no_policy = [const { OnceLock::new() }; Verdict::ALL.len()];
        Self { name, policies, of_no_policy, held: OnceLock::new() }
    }

    /// Whether the decision is counted: its policy is one of this category's, or none.
    fn count(&self, outcome: &Outcome, held: Duration) -> bool {
        let mut policies = self.policies.iter();
        let verdict = Verdict::of(outcome, held);
        if let Some(known) = policies.find(|known| ptr::eq(known.labels, outcome.labels)) {
            known.decisions(&self.name)[verdict as usize].increment(1);
            return true;
        }
        let is_of_none = outcome.is_of_no_policy();
        if is_of_none {
            let counter = || decisions(outcome.policy(), &self.name, verdict);
            self.of_no_policy[verdict as usize].get_or_init(counter).increment(1);
        }
        is_of_none
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

impl OfPolicy {
    /// A counter for each verdict. All at once, so that the first refusal is seen to rise from 0.
    fn decisions(&self, category: &str) -> &[Counter; Verdict::ALL.len()] {
        self.decisions.get_or_init(|| {
            Verdict::ALL.map(|verdict| {
                let never = verdict.is_dry_run() != self.policy.is_dry_run();
                if never || matches!(verdict, Verdict::Blocked) {
                    return Counter::noop();
                }
                decisions(self.policy.name(), category, verdict)
            })
        })
    }
}

fn decisions(policy: &str, category: &str, verdict: Verdict) -> Counter {
    const NAME: &str = "tower_quota_decisions_total";
    describe_counter!(NAME, Unit::Count, "What policies said of requests.");
    counter!(
        NAME,
        "policy" => policy.to_owned(),
        "category" => category.to_owned(),
        "verdict" => verdict.label(),
    )
}
