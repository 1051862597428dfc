//! What a policy does while the store fails: [`OnStoreFailure`].

/// What a policy does while the store is slow or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema),
    serde(rename_all = "snake_case", deny_unknown_fields)
)]
#[non_exhaustive]
pub enum OnStoreFailure {
    /// Requests pass, and are not counted.
    Allow,
    /// Requests are refused, with 503 Service Unavailable.
    Refuse,
    /// This replica counts requests in its own memory, against its share of the quota: the units
    /// and the burst, each divided by the number of replicas and rounded down, but at least 1. (A
    /// quota of 0 stays 0.) Default: 1 replica, so that each replica admits the whole quota.
    CountLocally {
        /// How many replicas share the quota.
        replicas: u32,
    },
}

impl Default for OnStoreFailure {
    fn default() -> Self {
        Self::CountLocally { replicas: 1 }
    }
}
