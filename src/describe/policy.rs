use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::{
    algorithm::Algorithm,
    policy::{Policy, WithoutKey},
    quota::Quota,
};

/// What a policy holds requests to.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyDescription {
    /// The name.
    pub name: String,
    /// How it counts.
    pub algorithm: Algorithm,
    /// The quota of requests without a plan. In JSON `units`, `window_seconds` and, where it has
    /// one, `burst`; or `"unlimited"`.
    #[serde(serialize_with = "quota")]
    pub quota: Quota,
    /// The quotas of [plans](Policy::plans).
    pub plans: Vec<PlanDescription>,
    /// Whether a function may give a request [another quota](Policy::quota_by), which nobody knows
    /// beforehand.
    pub other_quotas: bool,
    /// What its [units](Policy::unit) are; `None`: requests.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// The kinds of key by which it counts, in the order in which they are tried: `ip`.
    pub keys: Vec<String>,
    /// Whether a request with none of these is refused; else it passes uncounted.
    pub refuses_without_key: bool,
    /// Whether all requests count together.
    pub global: bool,
    /// How long a request may be held instead of being refused; zero: it is not.
    #[serde(rename = "hold_seconds", serialize_with = "seconds")]
    pub hold: Duration,
    /// Whether a function of the request tells [how many units](Policy::cost) it uses; else it is
    /// one.
    pub cost_by_request: bool,
    /// Whether the response tells what the request [has cost](Policy::settle).
    pub cost_by_response: bool,
    /// Whether it only tries out, and refuses nothing.
    pub dry_run: bool,
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

impl PolicyDescription {
    /// `hold`: what the category says of it counts too.
    pub(crate) fn new(policy: &Policy, hold: Duration) -> Self {
        let plan =
            |(name, quota): &(String, Quota)| PlanDescription { name: name.clone(), quota: *quota };
        Self {
            name: policy.name().to_owned(),
            algorithm: policy.algorithm(),
            quota: policy.quota(),
            plans: policy.settings.plan_table().iter().map(plan).collect(),
            other_quotas: policy.settings.quota_by.is_some(),
            unit: policy.settings.unit.as_deref().map(Into::into),
            keys: policy.settings.keys.kinds().map(Into::into).collect(),
            refuses_without_key: policy.settings.keys.without_key() == WithoutKey::Refuse,
            global: policy.settings.keys.is_global,
            hold,
            cost_by_request: policy.settings.cost.is_some(),
            cost_by_response: policy.settings.settle.is_some(),
            dry_run: policy.settings.dry_run,
        }
    }
}

fn quota<S: Serializer>(quota: &Quota, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Limited {
        units: u64,
        #[serde(serialize_with = "seconds")]
        window_seconds: Duration,
        #[serde(skip_serializing_if = "Option::is_none")]
        burst: Option<u64>,
    }
    if quota.is_unlimited() {
        return serializer.serialize_str("unlimited");
    }
    let burst = quota.has_burst().then_some(quota.capacity());
    Limited { units: quota.units(), window_seconds: quota.window(), burst }.serialize(serializer)
}

/// Whole where it can be.
fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    match duration.subsec_nanos() {
        0 => serializer.serialize_u64(duration.as_secs()),
        _ => serializer.serialize_f64(duration.as_secs_f64()),
    }
}
