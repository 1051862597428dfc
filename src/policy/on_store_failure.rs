/// What a policy does while the store is slow or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnStoreFailure {
    /// Requests pass uncounted.
    Allow,
    /// Requests are refused, with 503 Service Unavailable.
    Refuse,
    /// Requests are counted in the memory of this replica, against its share of the quota: the
    /// units and the burst, divided by the number of replicas and rounded down, but at least 1. The
    /// default, with 1 replica: each counts against the whole quota.
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
