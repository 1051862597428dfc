//! The rules by which a limiter decides now: [`CurrentRules`]. An apply replaces them as a whole.

use std::{
    ops::Deref,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
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
    /// The number of the current rules. An apply writes it last.
    number: AtomicU64,
}

/// Rules that stay what they are while this is there.
pub(super) enum LoadedRules<'a> {
    First(&'a RuleSet),
    Applied(Guard<Arc<RuleSet>>),
}

/// Rules that a request keeps; `None` for the first ones, which the limiter keeps.
#[derive(Default)]
pub(super) struct KeptRules(Option<Guard<Arc<RuleSet>>>);

impl CurrentRules {
    pub(super) fn new(first: RuleSet) -> Self {
        let number = AtomicU64::new(first.number());
        Self { first, applied: OnceLock::new(), number }
    }

    #[inline]
    pub(super) fn load(&self) -> LoadedRules<'_> {
        match self.applied.get() {
            None => LoadedRules::First(&self.first),
            Some(applied) => LoadedRules::Applied(applied.load()),
        }
    }

    /// The number of the current rules, or of those before while an apply replaces them.
    #[inline]
    pub(super) fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Replaces the rules. Returns those from before: dropping them runs code of the user, so no lock
    /// may be held then. No two threads may call this at once.
    pub(super) fn replace(&self, rules: RuleSet) -> Arc<RuleSet> {
        let rules = Arc::new(rules);
        let applied = self.applied.get_or_init(|| ArcSwap::new(Arc::clone(&rules)));
        let number = rules.number();
        let before = applied.swap(rules);
        self.number.store(number, Ordering::Release);
        before
    }

    #[inline]
    pub(super) fn of<'a>(&'a self, kept: &'a KeptRules) -> &'a RuleSet {
        kept.0.as_deref().map_or(&self.first, |rules| rules)
    }
}

impl LoadedRules<'_> {
    /// Keeps the rules until a future is polled. A future that waits keeps them
    /// [for long](KeptRules::for_long).
    #[inline]
    pub(super) fn keep(self) -> KeptRules {
        KeptRules(match self {
            Self::First(_) => None,
            Self::Applied(rules) => Some(rules),
        })
    }
}

impl KeptRules {
    /// The same rules, counted by a write that threads share. Without it, each thread has only a few
    /// guards that are fast.
    #[must_use]
    pub(super) fn for_long(self) -> Self {
        Self(self.0.map(|rules| Guard::from_inner(Guard::into_inner(rules))))
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
