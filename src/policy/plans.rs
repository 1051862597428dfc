//! A policy's plans by name, and which of them a request has: [`Plans`].

use std::{
    collections::HashSet,
    sync::{Arc, Once},
};

use http::request::Parts;

use crate::{
    quota::Quota,
    warning::{Code, warn},
};

type PlanOf = Arc<dyn Fn(&Parts) -> Option<&str> + Send + Sync>;

/// One table for the quotas that hold and for those that are told.
#[derive(Clone)]
pub(crate) struct Plans {
    quotas: Vec<(String, Quota)>,
    plan_of: PlanOf,
    /// A plan that is not in the table is reported once.
    unknown: Arc<Once>,
}

impl Plans {
    pub(crate) fn new<N: Into<String>>(
        quotas: impl IntoIterator<Item = (N, Quota)>,
        plan_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        let quotas = quotas.into_iter().map(|(name, quota)| (name.into(), quota)).collect();
        Self { quotas, plan_of: Arc::new(plan_of), unknown: Arc::new(Once::new()) }
    }

    /// Names and quotas, in the order in which they were given.
    pub(crate) fn quotas(&self) -> &[(String, Quota)] {
        &self.quotas
    }

    /// The quota of the plan that the request has, where it is one of these.
    pub(crate) fn quota_of(&self, policy: &str, request: &Parts) -> Option<Quota> {
        let plan = (self.plan_of)(request)?;
        let known = self.quotas.iter().find(|(name, _)| name == plan).map(|(_, quota)| *quota);
        if known.is_none() {
            self.unknown.call_once(|| self.report_unknown(policy));
        }
        known
    }

    /// The name is not told: a caller may have sent it.
    #[cold]
    fn report_unknown(&self, policy: &str) {
        warn(Code::UnknownPlan, policy, || {
            let names: Vec<_> = self.quotas.iter().map(|(name, _)| format!("`{name}`")).collect();
            format!(
                "policy `{policy}`: a request's plan is none of its {}, and the policy's own quota \
                 holds; add the plan to `.plans(…)`, or return `None` for a request without one",
                names.join(", ")
            )
        });
    }

    /// A name that two plans have.
    pub(crate) fn twice(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        self.quotas.iter().map(|(name, _)| &**name).find(|name| !seen.insert(*name))
    }
}
