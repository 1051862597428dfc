//! The plans of a policy: a table of quotas by name, and the function that names a request's plan.

use std::{collections::HashSet, sync::Arc};

use http::request::Parts;

use crate::{
    algorithm::Algorithm,
    first_requests::FirstRequests,
    quota::{MAX_WINDOW, Quota},
    warning::{Code, warn},
};

/// The name of a request's plan.
pub(super) type NameOf = Arc<dyn Fn(&Parts) -> Option<&str> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Plans {
    /// In the order in which they were given.
    pub(super) table: Vec<(String, Quota)>,
    name_of: NameOf,
    /// A name that is not in the table is reported once.
    unknown: Arc<FirstRequests>,
}

/// The name of a request's plan is not in the table.
pub(super) struct UnknownPlan;

impl Plans {
    pub(super) fn new<N: Into<String>>(
        table: impl IntoIterator<Item = (N, Quota)>,
        name_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        let table = table.into_iter().map(|(name, quota)| (name.into(), quota)).collect();
        Self { table, name_of: Arc::new(name_of), unknown: Arc::new(FirstRequests::one()) }
    }

    /// The plan of the request and its quota: `None` if it has no plan, and an error if its plan is not
    /// in the table.
    pub(super) fn plan_of(
        &self,
        policy: &str,
        request: &Parts,
    ) -> Result<Option<&(String, Quota)>, UnknownPlan> {
        let Some(plan) = (self.name_of)(request) else { return Ok(None) };
        let known = self.table.iter().find(|(name, _)| name == plan);
        if known.is_none() && self.unknown.count() {
            self.report_unknown(policy);
        }
        known.map(Some).ok_or(UnknownPlan)
    }

    /// The name is not part of the report: a caller may have sent it.
    #[cold]
    fn report_unknown(&self, policy: &str) {
        warn(Code::UnknownPlan, policy, || {
            let names: Vec<_> = self.table.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!(
                "policy `{policy}`: a request's plan is none of its {}, and the policy's own quota \
                 holds; add the plan to `.plans(…)`, or return `None` for a request without one",
                names.join(", ")
            )
        });
    }

    /// A name that two plans have.
    pub(super) fn duplicate(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        self.table.iter().map(|(name, _)| &**name).find(|name| !seen.insert(*name))
    }
}

/// What is wrong with a quota under this algorithm, and what to write instead.
#[inline]
pub(crate) fn quota_problem(algorithm: Algorithm, quota: &Quota) -> Option<String> {
    if quota.is_by_calendar() && algorithm != Algorithm::FixedWindow {
        return Some(calendar_problem());
    }
    if quota.is_in_flight() != (algorithm == Algorithm::InFlight) && !quota.is_unlimited() {
        return Some(in_flight_problem(quota));
    }
    quota.problem().or_else(|| quota.has_burst().then(|| burst_problem(algorithm, quota))?)
}

#[cold]
fn calendar_problem() -> String {
    "only a fixed window counts by the calendar; write `Policy::fixed_window`, or a quota such as `Quota::per_day(…)`".to_owned()
}

#[cold]
fn in_flight_problem(quota: &Quota) -> String {
    match quota.is_in_flight() {
        true => "only units in flight have no window; write `Policy::in_flight`, or a quota such as `Quota::per_minute(…)`",
        false => "units in flight have no window, as they come back when their requests end; write `Quota::in_flight(…)`",
    }
    .to_owned()
}

fn burst_problem(algorithm: Algorithm, quota: &Quota) -> Option<String> {
    let problem = if algorithm != Algorithm::TokenBucket {
        "only a token bucket has a burst; write `Policy::token_bucket`, or leave `burst` out"
    } else if quota.time_to_fill().is_none_or(|time| time > u128::from(MAX_WINDOW)) {
        "the burst takes more than a hundred years to come back; write a smaller one, or more units in a window"
    } else {
        return None;
    };
    Some(problem.to_owned())
}
