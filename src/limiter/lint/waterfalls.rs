//! Policies that others fall back on, and that no request draws on: [`find_never_drawn_on`].

use super::{Lint, LintKind};
use crate::limiter::rules::{Rule, RuleSet};

pub(super) fn find_never_drawn_on(rules: &RuleSet, lints: &mut Vec<Lint>) {
    for head in rules.policies().filter(|rule| rule.has_fallback()) {
        let is_unlimited = |rule: &&Rule| rule.has_one_quota && rule.policy.quota().is_unlimited();
        let Some(unlimited) = rules.waterfall(head).find(is_unlimited) else { continue };
        let names = rules.waterfall(head).map(|rule| rule.policy.name());
        let others: Vec<_> = names
            .filter(|name| *name != unlimited.policy.name())
            .map(|name| format!("`{name}`"))
            .collect();
        let problem = format!(
            "the quota of policy `{}` is unlimited, so that its requests pass uncounted and never \
             draw on {}; give it a quota, or leave `.or_else(…)` out",
            unlimited.policy.name(),
            others.join(" or "),
        );
        lints.push(Lint::new(
            LintKind::NeverDrawnOn,
            format!("policy `{}`", head.policy.name()),
            problem,
        ));
    }
}
