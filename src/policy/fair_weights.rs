//! The weights of tenants in a fair line, by plan: [`FairWeights`].

use std::{collections::HashSet, sync::Arc};

use http::request::Parts;

use super::plans::NameOf;
use crate::{
    first_requests::FirstRequests,
    warning::{Code, warn},
};

/// The largest weight.
const MAX_WEIGHT: u32 = 1_000;

#[derive(Clone)]
pub(crate) struct FairWeights {
    /// In the order in which they were given.
    pub(crate) table: Vec<(String, u32)>,
    plan_of: NameOf,
    /// A name that is not in the table is reported once.
    unknown: Arc<FirstRequests>,
}

impl FairWeights {
    pub(super) fn new<N: Into<String>>(
        table: impl IntoIterator<Item = (N, u32)>,
        plan_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        let table = table.into_iter().map(|(name, weight)| (name.into(), weight)).collect();
        Self { table, plan_of: Arc::new(plan_of), unknown: Arc::new(FirstRequests::one()) }
    }

    /// The weight of the request's plan: 1 if it has none, or if its plan is not in the table.
    pub(super) fn weight_of(&self, policy: &str, request: &Parts) -> u32 {
        let Some(plan) = (self.plan_of)(request) else { return 1 };
        let known = self.table.iter().find(|(name, _)| name == plan);
        if known.is_none() && self.unknown.count() {
            // The name is not part of the report: a caller may have sent it.
            warn(Code::UnknownPlan, policy, || {
                format!(
                    "policy `{policy}`: a request's plan has no weight, and its tenant has the \
                     weight 1; add the plan to `.fair_weights(…)`, or return `None` for a request \
                     without one"
                )
            });
        }
        known.map_or(1, |(_, weight)| *weight)
    }

    /// What is wrong with the table, each with the index of a plan, and what to write instead.
    pub(super) fn problems(&self) -> Vec<(Option<usize>, String)> {
        let mut problems = Vec::new();
        if self.table.is_empty() {
            let problem = "its table of weights is empty; write one there, or leave \
                           `.fair_weights(…)` out";
            problems.push((None, problem.to_owned()));
        }
        let mut seen = HashSet::new();
        for (index, (plan, weight)) in self.table.iter().enumerate() {
            if !(1..=MAX_WEIGHT).contains(weight) {
                let problem = format!(
                    "plan `{plan}` has the weight {weight}; write one from 1 to {MAX_WEIGHT}"
                );
                problems.push((Some(index), problem));
            }
            if !seen.insert(plan) {
                let problem = format!("two weights are of the plan `{plan}`; leave one out");
                problems.push((Some(index), problem));
            }
        }
        problems
    }
}
