//! A policy's plans by name, and which of them a request has: [`Plans`].

use std::{collections::HashSet, sync::Arc};

use http::request::Parts;

use crate::quota::Quota;

type PlanOf = Arc<dyn Fn(&Parts) -> Option<&str> + Send + Sync>;

/// One table for the quotas that hold and for those that are told.
#[derive(Clone)]
pub(crate) struct Plans {
    quotas: Vec<(String, Quota)>,
    plan_of: PlanOf,
}

impl Plans {
    pub(crate) fn new<N: Into<String>>(
        quotas: impl IntoIterator<Item = (N, Quota)>,
        plan_of: impl Fn(&Parts) -> Option<&str> + Send + Sync + 'static,
    ) -> Self {
        let quotas = quotas.into_iter().map(|(name, quota)| (name.into(), quota)).collect();
        Self { quotas, plan_of: Arc::new(plan_of) }
    }

    /// Names and quotas, in the order in which they were given.
    pub(crate) fn quotas(&self) -> &[(String, Quota)] {
        &self.quotas
    }

    /// The quota of the plan that the request has, where it is one of these.
    pub(crate) fn quota_of(&self, request: &Parts) -> Option<Quota> {
        let plan = (self.plan_of)(request)?;
        self.quotas.iter().find(|(name, _)| name == plan).map(|(_, quota)| *quota)
    }

    /// A name that two plans have.
    pub(crate) fn twice(&self) -> Option<&str> {
        let mut seen = HashSet::new();
        self.quotas.iter().map(|(name, _)| &**name).find(|name| !seen.insert(*name))
    }
}
