//! A policy in a description: [`PolicyDescription`].

use std::time::Duration;

use serde::{Serialize, Serializer};

#[cfg(feature = "calendar")]
use crate::calendar::Hours;
use crate::{
    algorithm::Algorithm,
    penalty::{Counted, Penalty},
    policy::{FairWeights, Policy, WithoutKey, english},
    quota::Quota,
};

/// A policy, as callers need to know it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyDescription {
    /// The name.
    pub name: String,
    /// How units come back.
    pub algorithm: Algorithm,
    /// The quota of requests without a plan. In JSON: an object of `units`, and of
    /// `window_seconds`, `burst` and `calendar` what the quota has; or `"unlimited"`.
    #[serde(serialize_with = "quota")]
    pub quota: Quota,
    /// The quotas at some hours, by a [schedule](Policy::schedule): the first that includes the time
    /// holds for requests without a plan. Not in JSON if there are none.
    #[cfg(feature = "calendar")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<ScheduleDescription>,
    /// The quotas of [plans](Policy::plans).
    pub plans: Vec<PlanDescription>,
    /// Whether a function may give a request [another quota](Policy::quota_by), which is not known
    /// in advance.
    pub other_quotas: bool,
    /// The name of its [units](Policy::unit); `None`: requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The kinds of key, such as `ip`, in the order in which they are tried.
    pub keys: Vec<String>,
    /// Whether a request without any of these keys is refused; else it passes uncounted.
    pub refuses_without_key: bool,
    /// Whether all requests use one quota.
    pub global: bool,
    /// How long a request may be held instead of being refused; zero: it is not held.
    #[serde(rename = "hold_seconds", serialize_with = "seconds")]
    pub hold: Duration,
    /// How held requests take [turns](Policy::fair_by). `None`, and not in JSON: they pass in the order
    /// in which they came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fair: Option<FairDescription>,
    /// Whether the request decides [how many units](Policy::cost) it uses; else it uses one.
    pub cost_by_request: bool,
    /// Whether the response decides [how many units](Policy::settle) the request has used.
    pub cost_by_response: bool,
    /// Whether the cost is [known when the response has ended](Policy::settle_at_end); what is charged
    /// before is an estimate. Not in JSON if it is not so.
    #[serde(skip_serializing_if = "is_false")]
    pub settles_at_end: bool,
    /// Its [penalty](Policy::penalty): who is refused, or fails, too often is blocked. Not in JSON if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<PenaltyDescription>,
    /// Whether the policy is a dry run, which refuses nothing.
    pub dry_run: bool,
    /// The policies on whose quotas a request draws if this one has [too little left](Policy::or_else),
    /// in this order. Not in JSON if there are none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub or_else: Vec<String>,
}

/// A policy's penalty.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PenaltyDescription {
    /// How many refusals or failures begin a block.
    pub after: u32,
    /// Whether failures count, which [responses](Policy::settle) show; otherwise, refusals count.
    pub of_failures: bool,
    /// Within which time they count together.
    #[serde(rename = "within_seconds", serialize_with = "seconds")]
    pub within: Duration,
    /// How long the first block lasts, the second, and so on; the last one repeats.
    #[serde(rename = "block_seconds", serialize_with = "all_seconds")]
    pub blocks: Vec<Duration>,
    /// How long after the end of a block it is forgotten.
    #[serde(rename = "forget_after_seconds", serialize_with = "seconds")]
    pub forget_after: Duration,
    /// The same in words.
    #[serde(skip)]
    pub(super) words: String,
}

/// A plan's quota under a policy.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PlanDescription {
    /// The plan's name.
    pub name: String,
    /// Its quota.
    #[serde(serialize_with = "quota")]
    pub quota: Quota,
}

/// How the held requests of a policy take turns.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct FairDescription {
    /// The kind of key that tells tenants apart, such as `x-tenant`.
    pub tenant: String,
    /// The weights of plans; other tenants have the weight 1.
    pub weights: Vec<WeightDescription>,
}

/// How many units a tenant with this plan has in each turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct WeightDescription {
    /// The plan's name.
    pub plan: String,
    /// Its weight.
    pub weight: u32,
}

/// A policy's quota at some hours of the week.
#[cfg(feature = "calendar")]
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ScheduleDescription {
    /// The hours, such as `Mo-Fr 08:00-18:00`.
    pub hours: String,
    /// The time zone of these hours, such as `Europe/Berlin`.
    pub zone: String,
    /// The quota.
    #[serde(serialize_with = "quota")]
    pub quota: Quota,
}

#[cfg(feature = "calendar")]
impl ScheduleDescription {
    fn new((hours, quota): &(Hours, Quota)) -> Self {
        Self { hours: hours.text().to_owned(), zone: hours.zone().to_owned(), quota: *quota }
    }
}

impl PolicyDescription {
    /// `hold` is the longest wait, by the policy's own setting or its category's.
    pub(crate) fn new(policy: &Policy, hold: Duration) -> Self {
        let weight = |(plan, weight): &(String, u32)| WeightDescription {
            plan: plan.clone(),
            weight: *weight,
        };
        let weights = |weights: &FairWeights| weights.table.iter().map(weight).collect::<Vec<_>>();
        let plan =
            |(name, quota): &(String, Quota)| PlanDescription { name: name.clone(), quota: *quota };
        Self {
            name: policy.name().to_owned(),
            algorithm: policy.algorithm(),
            quota: policy.quota(),
            #[cfg(feature = "calendar")]
            schedules: policy.settings.schedules.iter().map(ScheduleDescription::new).collect(),
            plans: policy.settings.plan_table().iter().map(plan).collect(),
            other_quotas: policy.settings.quota_by.is_some(),
            unit: policy.settings.unit.as_deref().map(Into::into),
            keys: policy.settings.keys.kinds().map(Into::into).collect(),
            refuses_without_key: policy.settings.keys.without_key() == Some(WithoutKey::Refuse),
            global: policy.settings.keys.is_global,
            hold,
            fair: policy.settings.fair_by.as_ref().map(|tenant| FairDescription {
                tenant: tenant.kind().into_owned(),
                weights: policy.settings.fair_weights.iter().flat_map(weights).collect(),
            }),
            cost_by_request: policy.settings.cost.is_some(),
            cost_by_response: policy.settings.settle.is_some(),
            settles_at_end: policy.settings.settles_at_end,
            penalty: policy.settings.penalty.as_ref().map(PenaltyDescription::new),
            dry_run: policy.settings.dry_run,
            or_else: policy
                .settings
                .fallbacks
                .iter()
                .map(|other| other.name().to_owned())
                .collect(),
        }
    }
}

impl PenaltyDescription {
    fn new(penalty: &Penalty) -> Self {
        Self {
            after: penalty.after,
            of_failures: penalty.counts(Counted::Failures),
            within: penalty.within(),
            blocks: penalty.blocks.clone(),
            forget_after: penalty.forget_after,
            words: english::penalty(penalty),
        }
    }
}

impl PolicyDescription {
    /// Whether any of its quotas is by the calendar.
    pub(super) fn counts_by_calendar(&self) -> bool {
        let quotas = self.plans.iter().map(|plan| plan.quota).chain([self.quota]);
        #[cfg(feature = "calendar")]
        let quotas = quotas.chain(self.schedules.iter().map(|schedule| schedule.quota));
        quotas.into_iter().any(|quota| quota.is_by_calendar())
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
pub(crate) fn is_false(flag: &bool) -> bool {
    !flag
}

pub(crate) fn quota<S: Serializer>(quota: &Quota, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Limited {
        units: u64,
        #[serde(serialize_with = "optional_seconds", skip_serializing_if = "Option::is_none")]
        window_seconds: Option<Duration>,
        #[serde(skip_serializing_if = "Option::is_none")]
        burst: Option<u64>,
        #[cfg(feature = "calendar")]
        #[serde(skip_serializing_if = "Option::is_none")]
        calendar: Option<crate::calendar::Calendar>,
    }
    if quota.is_unlimited() {
        return serializer.serialize_str("unlimited");
    }
    let burst = quota.has_burst().then_some(quota.capacity());
    let limited = Limited {
        units: quota.units(),
        window_seconds: (!quota.is_in_flight()).then(|| quota.window()),
        burst,
        #[cfg(feature = "calendar")]
        calendar: quota.calendar(),
    };
    limited.serialize(serializer)
}

/// Seconds as a whole number where possible.
pub(crate) fn seconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration.subsec_nanos() {
        0 => serializer.serialize_u64(duration.as_secs()),
        _ => serializer.serialize_f64(duration.as_secs_f64()),
    }
}

/// The same for each of some times.
fn all_seconds<S: Serializer>(times: &[Duration], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Seconds(#[serde(serialize_with = "seconds")] Duration);
    serializer.collect_seq(times.iter().map(|time| Seconds(*time)))
}

/// The same, or null.
pub(crate) fn optional_seconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match duration {
        Some(duration) => seconds(duration, serializer),
        None => serializer.serialize_none(),
    }
}
