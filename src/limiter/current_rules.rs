//! The rules by which a limiter decides now: [`CurrentRules`]. An apply replaces them as a whole.

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
};

use arc_swap::{ArcSwap, Guard};

use super::rules::RuleSet;

/// The current rules.
///
/// A decision calls [`load`](Self::load) once, and uses what it got to its end: an index into one
/// rule set means nothing in another. So a decision that began before an apply ends under the rules
/// that it began with.
pub(super) struct CurrentRules {
    /// The rules from `build()`. They are kept as long as the limiter, so that they can be read by
    /// reference: a limiter whose rules are never replaced pays one atomic load for it.
    first: RuleSet,
    /// The rules that were applied last. Reading them takes no lock, and no write that threads share.
    applied: OnceLock<ArcSwap<RuleSet>>,
}

/// Rules that stay what they are while this is there.
pub(super) enum LoadedRules<'a> {
    First(&'a RuleSet),
    Applied(Guard<Arc<RuleSet>>),
}

/// Rules that a request keeps while it waits; `None` for the first ones, which the limiter keeps.
pub(super) type KeptRules = Option<Arc<RuleSet>>;

impl CurrentRules {
    pub(super) fn new(first: RuleSet) -> Self {
        Self { first, applied: OnceLock::new() }
    }

    #[inline]
    pub(super) fn load(&self) -> LoadedRules<'_> {
        match self.applied.get() {
            None => LoadedRules::First(&self.first),
            Some(applied) => LoadedRules::Applied(applied.load()),
        }
    }

    /// Whether the rules are others than the first ones.
    #[inline]
    pub(super) fn were_replaced(&self) -> bool {
        self.applied.get().is_some()
    }

    /// Replaces the rules. Returns those from before: dropping them runs code of the user, so no lock
    /// may be held then.
    pub(super) fn replace(&self, rules: RuleSet) -> Arc<RuleSet> {
        let rules = Arc::new(rules);
        let applied = self.applied.get_or_init(|| ArcSwap::new(Arc::clone(&rules)));
        applied.swap(rules)
    }

    #[inline]
    pub(super) fn of<'a>(&'a self, kept: &'a KeptRules) -> &'a RuleSet {
        kept.as_deref().unwrap_or(&self.first)
    }
}

impl LoadedRules<'_> {
    #[inline]
    pub(super) fn keep(&self) -> KeptRules {
        match self {
            Self::First(_) => None,
            Self::Applied(rules) => Some(Arc::clone(rules)),
        }
    }
}

impl Deref for LoadedRules<'_> {
    type Target = RuleSet;

    #[inline]
    fn deref(&self) -> &RuleSet {
        match self {
            Self::First(rules) => rules,
            Self::Applied(rules) => rules,
        }
    }
}
