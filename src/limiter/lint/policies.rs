//! What the settings of one policy show: its quota and its plans, and a cost that is known at the end.

use std::{ptr, time::Duration};

use super::{Lint, LintKind};
use crate::{
    algorithm::Algorithm,
    limiter::rules::{Rule, RuleSet},
    penalty::Counted,
    quota::Quota,
};

/// A request may last longer than a window that is shorter than this.
const SHORT: Duration = Duration::from_secs(3_600);

/// Finds policies whose own quota is larger than one of their plans: a request whose plan is not found gets more.
pub(super) fn find_larger_than_plans(rules: &RuleSet, lints: &mut Vec<Lint>) {
    for rule in rules.policies() {
        let (own, plans) = (rule.policy.quota(), rule.policy.settings.plan_table());
        if let Some((plan, _)) = plans.iter().find(|(_, quota)| is_larger(own, *quota)) {
            let problem = format!(
                "its own quota is larger than that of its plan `{plan}`, and holds for each request whose \
                 plan is not found; make it the smallest, and put larger ones into `.plans(…)`"
            );
            lints.push(lint_of(rule, LintKind::OwnQuotaLarger, problem));
        }
    }
}

/// Whether `one` lets more pass than `other` in the long run.
fn is_larger(one: Quota, other: Quota) -> bool {
    if one.is_unlimited() || other.is_unlimited() {
        return !other.is_unlimited();
    }
    if one.is_in_flight() {
        return one.units() > other.units();
    }
    let by_window_of = |quota: Quota, other: Quota| {
        u128::from(quota.units()).saturating_mul(other.window().as_nanos())
    };
    by_window_of(one, other) > by_window_of(other, one)
}

/// Finds policies that settle at the end, and hardly limit how much a stream uses.
pub(super) fn find_settled_at_end(rules: &RuleSet, lints: &mut Vec<Lint>) {
    for rule in rules.policies().filter(|rule| rule.policy.settings.settles_at_end) {
        let settings = &rule.policy.settings;
        let is_for_checks = rules.check_only().iter().any(|only| ptr::eq(only, rule));
        // Where failures are penalized, a request is one failure at most.
        let counts_failures =
            settings.penalty.as_ref().is_some_and(|penalty| penalty.counts(Counted::Failures));
        if settings.cost.is_none() && !is_for_checks && !counts_failures {
            let problem = "it settles at the end and has no estimate: each request reserves one unit, and \
                           many at once use more than is left; write `.cost(…)`, with the most that a \
                           request can use";
            lints.push(lint_of(rule, LintKind::NoEstimate, problem.to_owned()));
        }
        let plans = settings.plan_table().iter().map(|(_, quota)| *quota);
        let mut quotas = [rule.policy.quota()].into_iter().chain(plans);
        let is_short = |quota: Quota| !quota.is_unlimited() && quota.window() < SHORT;
        if rule.policy.algorithm() != Algorithm::TokenBucket && quotas.any(is_short) {
            let problem = "it settles at the end, in a window that may have passed by then: what a request \
                           uses beyond its estimate is not paid in the next window; write \
                           `Policy::token_bucket`, and reserve the most that a request can use";
            lints.push(lint_of(rule, LintKind::SettlesInShortWindow, problem.to_owned()));
        }
    }
}

fn lint_of(rule: &Rule, kind: LintKind, problem: String) -> Lint {
    Lint::new(kind, format!("policy `{}`", rule.policy.name()), problem)
}
