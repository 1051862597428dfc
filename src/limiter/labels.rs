//! What outcomes refer to of a policy: its texts and its penalty, in [`Labels`].

use std::{borrow::Cow, collections::HashSet, ptr, sync::Arc};

use crate::{lock::Mutex, penalty::Penalty, policy::Policy};

/// The name, the unit, the kinds of key and the penalty of a policy.
///
/// Labels are kept for the life of the process, as an outcome may outlive its limiter. A reference
/// count that all threads share would take a tenth of a decision's time on one thread, and more on
/// several. Equal labels are kept once, however many limiters are built.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Labels {
    pub(crate) policy: Arc<str>,
    kinds: Vec<String>,
    /// What the policy counts, if not requests.
    pub(crate) unit: Option<Arc<str>>,
    /// Whether all requests count together.
    pub(crate) is_global: bool,
    pub(crate) penalty: Option<Penalty>,
    /// Whether its held requests take turns by tenant.
    pub(crate) is_fair: bool,
}

impl Labels {
    pub(crate) fn intern(policy: &Policy) -> &'static Self {
        static ALL: Mutex<Option<HashSet<&'static Labels>>> = Mutex::new(None);
        let labels = Self {
            policy: Arc::clone(&policy.settings.name),
            kinds: policy.settings.keys.kinds().map(Cow::into_owned).collect(),
            unit: policy.settings.unit.clone(),
            is_global: policy.settings.keys.is_global,
            penalty: policy.settings.penalty.clone(),
            is_fair: policy.settings.fair_by.is_some(),
        };
        let mut all = ALL.lock();
        let all = all.get_or_insert_default();
        if let Some(known) = all.get(&labels) {
            return known;
        }
        let kept = &*Box::leak(Box::new(labels));
        all.insert(kept);
        kept
    }

    /// Whether `fits` accepts both the name and the unit.
    pub(crate) fn fit(&self, fits: fn(&str) -> bool) -> bool {
        fits(&self.policy) && self.unit.as_deref().is_none_or(fits)
    }

    /// The names of the policy's extractors; none if it has none.
    pub(crate) fn key_kinds(&self) -> &[String] {
        &self.kinds
    }

    /// The kinds of key, at least one.
    #[expect(clippy::cast_possible_truncation, reason = "`build()` refuses more kinds")]
    pub(crate) fn kinds(&self) -> impl Iterator<Item = &str> {
        (0..self.kinds.len().max(1) as u8).map(|number| self.kind(number))
    }

    /// The index of the kind that `other` has at `number`, so that equal keys have the same
    /// fingerprint. Of several kinds with one name, each corresponds to its own.
    pub(crate) fn same_kind(&'static self, other: &'static Self, number: u8) -> Option<u8> {
        if ptr::eq(self, other) {
            return Some(number);
        }
        let name = other.kind(number);
        let nth = other.kinds().take(number.into()).filter(|kind| *kind == name).count();
        let mut same = (0..).zip(self.kinds()).filter(|(_, kind)| *kind == name);
        same.nth(nth).map(|(number, _)| number)
    }

    /// The name of the kind with this index; `all` if there is none.
    pub(crate) fn kind(&self, number: u8) -> &str {
        self.kinds.get(usize::from(number)).map_or("all", |kind| kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{key, quota::Quota};

    #[test]
    fn equal_labels_are_kept_once() {
        let policy = |name: &str| Policy::token_bucket(name, Quota::per_minute(60));
        let labels =
            |name| Labels::intern(&policy(name).key(key::bearer()).or_key(key::header("x")));
        assert!(std::ptr::eq(labels("first"), labels("first")));
        assert!(!std::ptr::eq(labels("first"), labels("second")));
        assert_eq!([0, 1, 2].map(|kind| labels("first").kind(kind)), ["bearer token", "x", "all"]);
        assert!(Labels::intern(&policy("first").global()).is_global);
        assert!(!labels("first").is_global);
        assert!(labels("first").fit(str::is_ascii));
        assert!(!Labels::intern(&policy("first").unit("Größe")).fit(str::is_ascii));
    }
}
