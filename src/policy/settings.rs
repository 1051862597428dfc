//! The settings of a policy, and the quota, cost and shard of a request by them: [`Settings`].

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{request::Parts, response};

use super::{
    Policy,
    fair_weights::FairWeights,
    keys::Keys,
    on_store_failure::OnStoreFailure,
    plans::{Plans, UnknownPlan, quota_problem},
};
use crate::{
    algorithm::Algorithm,
    clock::Clock,
    first_requests::FirstRequests,
    key::{Extracted, KeyExtractor},
    penalty::Penalty,
    quota::Quota,
    warning::{Code, warn},
};
#[cfg(feature = "calendar")]
use crate::{calendar::Hours, clock::Now};

/// The unit of what is in flight, as draft-ietf-httpapi-ratelimit-headers-11 registers it.
pub(super) const IN_FLIGHT_UNIT: &str = "concurrent-requests";

type QuotaBy = Arc<dyn Fn(&Parts) -> Option<Quota> + Send + Sync>;
type Cost = Arc<dyn Fn(&Parts) -> u64 + Send + Sync>;
type Settle = Arc<dyn Fn(&response::Parts) -> Option<u64> + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) name: Arc<str>,
    pub(crate) algorithm: Algorithm,
    /// The quota of requests without a plan.
    pub(crate) quota: Quota,
    pub(crate) keys: Keys,
    /// The quota at some hours, instead of the policy's own: the first that includes the time holds.
    #[cfg(feature = "calendar")]
    pub(crate) schedules: Vec<(Hours, Quota)>,
    pub(crate) quota_by: Option<QuotaBy>,
    /// An invalid quota is reported once.
    pub(super) invalid_quota: Arc<FirstRequests>,
    pub(crate) plans: Option<Plans>,
    /// `None` if each request costs 1.
    pub(crate) cost: Option<Cost>,
    /// `None` for requests.
    pub(crate) unit: Option<Arc<str>>,
    pub(crate) settle: Option<Settle>,
    /// Whether the cost is known when the request has ended, by its meter.
    pub(crate) settles_at_end: bool,
    pub(crate) penalty: Option<Penalty>,
    /// `None` if the category decides.
    pub(crate) hold: Option<Duration>,
    /// The `Retry-After` of a refusal whose wait is unknown.
    pub(crate) retry_after: Option<Duration>,
    /// The tenants that take turns where requests are held.
    pub(crate) fair_by: Option<Arc<dyn KeyExtractor>>,
    pub(crate) fair_weights: Option<FairWeights>,
    pub(crate) dry_run: bool,
    pub(crate) on_store_failure: OnStoreFailure,
    pub(crate) shard: Option<Arc<dyn KeyExtractor>>,
    /// The units that a replica takes at once; 0 for none.
    pub(crate) lease: u32,
    /// The policies on whose quotas a request draws if this one's is used up, in this order.
    pub(crate) fallbacks: Vec<Policy>,
    /// A method that was called twice, though its second value replaces the first.
    pub(super) set_twice: Option<&'static str>,
}

/// Where the quota of a request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QuotaSource<'a> {
    /// The policy has no other, or the request no plan.
    Policy,
    /// The policy has another at these hours.
    #[cfg(feature = "calendar")]
    Schedule(&'a Hours),
    /// The plan of this name.
    Plan(&'a str),
    /// The name of the request's plan is not in the table, so that the policy's own quota holds.
    UnknownPlan,
    /// The function of `quota_by`.
    Function,
    /// That function returned a quota that cannot be.
    Invalid,
}

impl QuotaSource<'_> {
    /// Whether the request itself names its quota, rightly or wrongly.
    #[inline]
    pub(crate) fn is_of_request(self) -> bool {
        matches!(self, Self::Plan(_) | Self::UnknownPlan | Self::Function | Self::Invalid)
    }
}

impl Settings {
    pub(super) fn new(name: String, algorithm: Algorithm, quota: Quota) -> Self {
        Self {
            name: name.into(),
            algorithm,
            quota,
            keys: Keys::default(),
            #[cfg(feature = "calendar")]
            schedules: Vec::new(),
            quota_by: None,
            invalid_quota: Arc::new(FirstRequests::one()),
            plans: None,
            cost: None,
            unit: (algorithm == Algorithm::InFlight).then(|| IN_FLIGHT_UNIT.into()),
            settle: None,
            settles_at_end: false,
            penalty: None,
            hold: None,
            retry_after: None,
            fair_by: None,
            fair_weights: None,
            dry_run: false,
            on_store_failure: OnStoreFailure::default(),
            shard: None,
            lease: 0,
            fallbacks: Vec::new(),
            set_twice: None,
        }
    }

    /// The name of the policy's counts in a store that several processes share.
    ///
    /// The quota is not part of it: a release that changes the quota keeps what was used. The kinds of
    /// key are not part of it either: a key's fingerprint depends on its kind.
    pub(crate) fn counts_name(&self) -> String {
        format!("{}\n{:?}", self.name, self.algorithm)
    }

    /// The plans that are known beforehand.
    pub(crate) fn plan_table(&self) -> &[(String, Quota)] {
        self.plans.as_ref().map_or(&[], |plans| &plans.table)
    }

    /// Whether a request may have another quota than the policy's own.
    #[inline]
    pub(crate) fn has_plans(&self) -> bool {
        self.quota_by.is_some() || self.plans.is_some()
    }

    /// Whether each key has the policy's own quota, at all times.
    pub(crate) fn has_one_quota(&self) -> bool {
        #[cfg(feature = "calendar")]
        if !self.schedules.is_empty() {
            return false;
        }
        !self.has_plans()
    }

    /// The quota of a request: by `quota_by`, or else by the plans, or else that of
    /// [now](Self::quota_now). Calls `on_source` with where it comes from.
    #[inline]
    pub(crate) fn quota_of(
        &self,
        request: &Parts,
        clock: &Clock,
        on_source: impl FnOnce(QuotaSource<'_>),
    ) -> Quota {
        if self.has_plans() {
            return self.planned_quota(request, clock, on_source);
        }
        let (quota, source) = self.quota_now(clock);
        on_source(source);
        quota
    }

    /// The quota without a plan: by the schedule that holds now, or else the policy's own. The time is
    /// read only for a schedule.
    #[inline]
    pub(crate) fn quota_now(&self, clock: &Clock) -> (Quota, QuotaSource<'_>) {
        #[cfg(feature = "calendar")]
        if !self.schedules.is_empty() {
            return self.scheduled_quota(clock.now());
        }
        let _ = clock;
        (self.quota, QuotaSource::Policy)
    }

    #[cfg(feature = "calendar")]
    #[cold]
    fn scheduled_quota(&self, now: Now) -> (Quota, QuotaSource<'_>) {
        let holding = self.schedules.iter().find(|(hours, _)| hours.contains(now.unix()));
        holding.map_or((self.quota, QuotaSource::Policy), |(hours, quota)| {
            (*quota, QuotaSource::Schedule(hours))
        })
    }

    fn planned_quota(
        &self,
        request: &Parts,
        clock: &Clock,
        on_source: impl FnOnce(QuotaSource<'_>),
    ) -> Quota {
        if let Some(quota) = self.quota_by.as_ref().and_then(|quota_by| quota_by(request)) {
            let checked = self.checked(quota);
            on_source(if checked == quota { QuotaSource::Function } else { QuotaSource::Invalid });
            return checked;
        }
        let (plans, (quota, source)) = (self.plans.as_ref(), self.quota_now(clock));
        match plans.map_or(Ok(None), |plans| plans.plan_of(&self.name, request)) {
            Ok(Some((name, quota))) => {
                on_source(QuotaSource::Plan(name));
                return *quota;
            }
            Ok(None) => on_source(source),
            Err(UnknownPlan) => on_source(QuotaSource::UnknownPlan),
        }
        quota
    }

    /// What is in place of `quota`, which a key had by the settings `before`: the quota of
    /// [now](Self::quota_now), or that of the plan. A quota by a function, or an override, stays.
    pub(crate) fn quota_instead_of(&self, quota: Quota, before: &Self, clock: &Clock) -> Quota {
        #[cfg(feature = "calendar")]
        let was_scheduled = before.schedules.iter().any(|(_, known)| *known == quota);
        #[cfg(not(feature = "calendar"))]
        let was_scheduled = false;
        let own = self.quota_now(clock).0;
        if quota == before.quota || was_scheduled {
            return own;
        }
        let Some((plan, _)) = before.plan_table().iter().find(|(_, known)| *known == quota) else {
            return quota;
        };
        let same = self.plan_table().iter().find(|(name, _)| name == plan);
        same.map_or(own, |(_, quota)| *quota)
    }

    /// A quota that `build()` has not checked. An invalid one becomes a quota of 0 units.
    #[inline]
    pub(crate) fn checked(&self, quota: Quota) -> Quota {
        match quota_problem(self.algorithm, &quota) {
            Some(problem) if quota.units() > 0 => self.refuse_invalid(quota, &problem),
            _ => quota,
        }
    }

    #[cold]
    fn refuse_invalid(&self, quota: Quota, problem: &str) -> Quota {
        let name = &*self.name;
        if self.invalid_quota.count() {
            warn(Code::InvalidPlan, name, || {
                format!(
                    "policy `{name}`: a quota from a function or a source cannot be ({problem}); its \
                     requests are refused"
                )
            });
        }
        quota.nothing()
    }

    /// Reports that none of the first requests had a plan.
    #[cold]
    pub(crate) fn warn_plan_never_found(&self) {
        let name = &*self.name;
        let function = if self.plans.is_some() { "plans" } else { "quota_by" };
        warn(Code::PlanNeverFound, name, || {
            format!(
                "policy `{name}`: none of its first {} requests had a plan: `.{function}(…)` returned \
                 `None`, and the policy's own quota was used. Check the type of the extension that it \
                 reads. If another middleware sets it, add its layer after the limiter's, so that it runs \
                 first. If these callers have no plan, put one for them into `.plans(…)`, and return its \
                 name",
                FirstRequests::MANY
            )
        });
    }

    #[inline]
    pub(crate) fn cost_of(&self, request: &Parts) -> u64 {
        let Some(cost) = &self.cost else { return 1 };
        // An estimate of 0 would always fit, whatever is owed, and the caller may choose it.
        cost(request).max(u64::from(self.settles_at_end))
    }

    /// Whether what was charged is corrected when the request was served.
    pub(crate) fn is_settled(&self) -> bool {
        self.settle.is_some() || self.settles_at_end
    }

    /// What the request has cost by its response; `None` if the cost stays as charged.
    pub(crate) fn cost_from_response(&self, response: &response::Parts) -> Option<u64> {
        self.settle.as_ref().and_then(|settle| settle(response))
    }

    /// The request's key by [`Policy::shard`](super::Policy::shard).
    pub(crate) fn shard_of<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        self.shard.as_ref().map_or(Extracted::Missing, |shard| shard.extract(request))
    }

    /// The request's tenant by [`Policy::fair_by`](super::Policy::fair_by).
    pub(crate) fn tenant_of<'a>(&self, request: &'a Parts) -> Extracted<'a> {
        self.fair_by.as_ref().map_or(Extracted::Missing, |tenant| tenant.extract(request))
    }

    pub(crate) fn tenant_kind(&self) -> Cow<'_, str> {
        self.fair_by.as_ref().map_or(Cow::Borrowed(""), |tenant| tenant.kind())
    }

    /// The weight of the request's tenant in a fair line.
    pub(crate) fn weight_of(&self, request: &Parts) -> u32 {
        let weights = self.fair_weights.as_ref();
        weights.map_or(1, |weights| weights.weight_of(&self.name, request))
    }

    pub(crate) fn shard_kind(&self) -> Cow<'_, str> {
        self.shard.as_ref().map_or(Cow::Borrowed(""), |shard| shard.kind())
    }
}
