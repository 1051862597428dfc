//! A key that is read from a request: [`KeyRead`].

use http::{StatusCode, request::Parts};

use crate::{
    key::Extracted,
    limiter::{Core, rules::Rule, trace::Trace},
};

/// A key that was read from a request. Policies that count by the same key read it once.
pub(super) struct KeyRead {
    /// The [`Rule::key_source`].
    pub(super) source: u32,
    pub(super) kind: u8,
    /// The key's fingerprint and shard; or the status for an unreadable key, and none for a missing
    /// one.
    pub(super) found: Result<(u128, u64), Option<StatusCode>>,
}

impl KeyRead {
    #[inline(always)]
    pub(super) fn new(core: &Core, rule: &Rule, request: &Parts, trace: &mut impl Trace) -> Self {
        trace.key_search();
        let keys = &rule.policy.settings.keys;
        let (kind, key) = keys.find(request, |kind, found| trace.key(rule, kind, found));
        let found = match &key {
            Extracted::Found(key) => Ok(core.key_of(rule, kind, key)),
            Extracted::Missing => Err(None),
            Extracted::Unreadable(status) => Err(Some(*status)),
        };
        Self { source: rule.key_source, kind, found }
    }
}
