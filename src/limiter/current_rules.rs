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
    first: Arc<RuleSet>,
    /// The rules that were applied last. Reading them takes no lock, and no write that threads share.
    applied: OnceLock<ArcSwap<RuleSet>>,
}

/// Rules that stay what they are while this is there.
pub(super) enum LoadedRules<'a> {
    First(&'a Arc<RuleSet>),
    Applied(Guard<Arc<RuleSet>>),
}

impl CurrentRules {
    pub(super) fn new(first: RuleSet) -> Self {
        Self { first: Arc::new(first), applied: OnceLock::new() }
    }

    #[inline]
    pub(super) fn load(&self) -> LoadedRules<'_> {
        match self.applied.get() {
            None => LoadedRules::First(&self.first),
            Some(applied) => LoadedRules::Applied(applied.load()),
        }
    }
}

impl Deref for LoadedRules<'_> {
    type Target = Arc<RuleSet>;

    #[inline]
    fn deref(&self) -> &Arc<RuleSet> {
        match self {
            Self::First(rules) => rules,
            Self::Applied(rules) => rules,
        }
    }
}
