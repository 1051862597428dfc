//! One limit: [`Policy`], its keys and its [`Plans`].

use std::{borrow::Cow, collections::BTreeMap, fmt, time::Duration};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, Visitor},
};

use super::{
    is_default,
    key::Key,
    text::{self, Time},
};
use crate::{algorithm::Algorithm, policy::OnStoreFailure, quota::Quota};

/// One limit; as [`crate::Policy`], whose methods have the same names and say more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Policy {
    /// How requests are counted.
    pub algorithm: Algorithm,
    /// The quota of requests without a plan.
    pub quota: Quota,
    /// Whose quota it is: keys in the order in which they are tried.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<Key>,
    /// What happens to a request with none of the keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without_key: Option<WithoutKey>,
    /// Whether all callers share the quota; then there are no keys.
    #[serde(default, skip_serializing_if = "is_default")]
    pub global: bool,
    /// Whether an unreadable key counts as missing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unreadable_as_missing: bool,
    /// The registered function that names the plan of a request, for `plans` and `fair_weights`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<String>,
    /// The quota of each plan, by its name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub plans: Plans,
    /// Other quotas at some hours of the week: the first that includes the time of a request holds. They
    /// are not for requests with a plan, nor for policies with `quota_by`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// The registered function that returns a request's quota.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota_by: Option<String>,
    /// The registered function that returns what a request costs. Default: 1 unit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<String>,
    /// The registered function that corrects the cost by the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settle: Option<String>,
    /// Whether the cost is known when the response has ended, by the meter of the request. What is charged
    /// before is an estimate.
    #[serde(default, skip_serializing_if = "is_default")]
    pub settle_at_end: bool,
    /// A key that is refused, or fails, too often is blocked. Default: none is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub penalty: Option<Penalty>,
    /// The name of its units. Default: `requests`, or `concurrent-requests` if they are in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<String>,
    /// How long a request is held instead of being refused. Default: as the category says.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::optional_duration")]
    #[schemars(with = "Option<Time>")]
    pub hold: Option<Duration>,
    /// The `Retry-After` of a refusal for units in flight. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::optional_duration")]
    #[schemars(with = "Option<Time>")]
    pub retry_after: Option<Duration>,
    /// The tenants that take turns where requests are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fair_by: Option<Key>,
    /// How many units a tenant has in each turn, by its `plan`: `{ free = 1, pro = 5 }`. Default: 1.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fair_weights: BTreeMap<String, u32>,
    /// Whether it counts and reports, but never refuses.
    #[serde(default, skip_serializing_if = "is_default")]
    pub dry_run: bool,
    /// What happens while the store is slow or down: `"allow"`, `"refuse"`, or
    /// `{ count_locally = { replicas = 3 } }`. Default: one replica, which counts locally.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_store_failure: OnStoreFailure,
    /// How many units of a key a replica leases from Redis at once. Default: 0, none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease: u32,
    /// The key that chooses a server of a Redis cluster. Default: the policy's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Key>,
    /// The policies on whose quotas a request draws if this one has too little left, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub or_else: Vec<String>,
}

impl Policy {
    /// A policy of which only these are set.
    #[must_use]
    pub fn new(algorithm: Algorithm, quota: Quota) -> Self {
        Self {
            algorithm,
            quota,
            keys: Vec::new(),
            without_key: None,
            global: false,
            unreadable_as_missing: false,
            plan: None,
            plans: Plans::default(),
            schedules: Vec::new(),
            quota_by: None,
            cost: None,
            settle: None,
            settle_at_end: false,
            penalty: None,
            unit: None,
            hold: None,
            retry_after: None,
            fair_by: None,
            fair_weights: BTreeMap::new(),
            dry_run: false,
            on_store_failure: OnStoreFailure::default(),
            lease: 0,
            shard: None,
            or_else: Vec::new(),
        }
    }
}

/// A quota at some hours of the week; as `Policy::schedule`, which needs the feature `calendar`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Schedule {
    /// The hours, such as `Mo-Fr 08:00-18:00`.
    pub hours: String,
    /// Their time zone, such as `Europe/Berlin`.
    pub zone: String,
    /// The quota at these hours.
    pub quota: Quota,
}

impl Schedule {
    /// A quota at some hours of the week in a time zone.
    #[must_use]
    pub fn new(hours: impl Into<String>, zone: impl Into<String>, quota: Quota) -> Self {
        Self { hours: hours.into(), zone: zone.into(), quota }
    }
}

/// Blocks for keys that are refused, or fail, too often; as [`crate::Penalty`], which says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Penalty {
    /// How many refusals or failures begin a block.
    pub after: u32,
    /// Within which time refusals count together.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::optional_duration")]
    #[schemars(with = "Option<Time>")]
    pub refusals_within: Option<Duration>,
    /// Within which time failures count together, instead of refusals.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::optional_duration")]
    #[schemars(with = "Option<Time>")]
    pub failures_within: Option<Duration>,
    /// How long the first block lasts, the second, and so on. The last one repeats.
    #[serde(with = "text::durations")]
    #[schemars(with = "Vec<Time>")]
    pub blocks: Vec<Duration>,
    /// How long after the end of a block it is forgotten. Default: a day.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "text::optional_duration")]
    #[schemars(with = "Option<Time>")]
    pub forget_after: Option<Duration>,
}

impl Penalty {
    /// A penalty that counts nothing yet: set what it counts.
    #[must_use]
    pub fn new(after: u32, blocks: impl IntoIterator<Item = Duration>) -> Self {
        let (refusals_within, failures_within, forget_after) = (None, None, None);
        let blocks = blocks.into_iter().collect();
        Self { after, refusals_within, failures_within, blocks, forget_after }
    }

    pub(super) fn build(&self) -> crate::Penalty {
        let mut built = crate::Penalty::after(self.after);
        if let Some(within) = self.refusals_within {
            built = built.refusals_within(within);
        }
        if let Some(within) = self.failures_within {
            built = built.failures_within(within);
        }
        built = self.blocks.iter().fold(built, |built, block| built.then(*block));
        self.forget_after.map_or(built.clone(), |time| built.forget_after(time))
    }
}

/// What happens to a request that has none of a policy's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum WithoutKey {
    /// It passes, and is not counted: [`or_skip`](crate::Policy::or_skip).
    Skip,
    /// It is refused: [`or_refuse`](crate::Policy::or_refuse).
    Refuse,
}

/// The quotas of plans by their names, in the order in which they are described. In a file, a table:
/// `{ free = "100 per minute", pro = "1000 per minute" }`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plans(Vec<(String, Quota)>);

impl Plans {
    /// The plans and their quotas. Two plans of one name are an error of
    /// [`Limits::builder`](super::Limits::builder).
    pub fn new(plans: impl IntoIterator<Item = (impl Into<String>, Quota)>) -> Self {
        Self(plans.into_iter().map(|(name, quota)| (name.into(), quota)).collect())
    }

    /// The plans and their quotas, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[(String, Quota)] {
        &self.0
    }
}

impl Serialize for Plans {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, quota)| (name, quota)))
    }
}

impl<'de> Deserialize<'de> for Plans {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PlansVisitor;

        impl<'de> Visitor<'de> for PlansVisitor {
            type Value = Plans;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table like `{ free = \"100 per minute\" }`")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Plans, A::Error> {
                let mut plans = Vec::new();
                while let Some(plan) = map.next_entry()? {
                    plans.push(plan);
                }
                Ok(Plans(plans))
            }
        }

        deserializer.deserialize_map(PlansVisitor)
    }
}

impl JsonSchema for Plans {
    fn schema_name() -> Cow<'static, str> {
        "Plans".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let quota = generator.subschema_for::<Quota>();
        json_schema!({ "type": "object", "additionalProperties": quota })
    }
}
