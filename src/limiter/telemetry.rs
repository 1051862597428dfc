//! Counts decisions in metrics, and logs refusals, dry runs and held requests.

#[cfg(feature = "metrics")]
use std::time::Duration;

#[cfg(any(feature = "metrics", feature = "tracing"))]
use super::decision::Outcome;
#[cfg(feature = "metrics")]
use super::decision::{Reason, Ruling};
use super::{decision::Decision, rules::RuleSet};
#[cfg(feature = "metrics")]
use crate::metrics::VerdictLabel;
#[cfg(any(feature = "metrics", feature = "tracing"))]
use crate::store::Mode;
#[cfg(feature = "tracing")]
use crate::store::{Charge, Usage};

/// Reports a decision by these rules to metrics and events.
#[inline]
pub(super) fn observe(rules: &RuleSet, decision: &Decision) {
    #[cfg(feature = "metrics")]
    if !is_peek(decision) {
        count(rules, decision);
    }
    #[cfg(feature = "tracing")]
    if !decision.is_uneventful() {
        log(rules, decision);
    }
    #[cfg(not(any(feature = "metrics", feature = "tracing")))]
    let _ = (rules, decision);
}

#[cfg(feature = "metrics")]
fn count(rules: &RuleSet, decision: &Decision) {
    let (record, held) = (&decision.record, decision.held());
    let verdict = |outcome: Outcome<'_>| {
        let policy: &'static str = &outcome.entry.labels.policy;
        (policy, verdict_label(outcome, held))
    };
    // In a waterfall, only the policy that speaks for it has decided.
    let decided = record.outcomes().filter(|outcome| !outcome.is_passed_over());
    rules.metrics.count(record.category, decided.map(verdict), held);
    let verdict = match record.ruling {
        Ruling::Admitted | Ruling::Refused(_) => return,
        Ruling::Blocked { .. } => VerdictLabel::Blocked,
        Ruling::UnreadableCaller(_) => VerdictLabel::UnreadableKey,
        Ruling::SourceUnavailable => VerdictLabel::Unavailable,
    };
    rules.metrics.count_without_policy(record.category, verdict);
}

#[cfg(feature = "metrics")]
fn verdict_label(outcome: Outcome<'_>, held: Duration) -> VerdictLabel {
    match (outcome.charge.mode == Mode::DryRun, outcome.reason()) {
        (true, None) => VerdictLabel::DryRunAllowed,
        (true, Some(Reason::Penalty)) => VerdictLabel::DryRunPenalty,
        (true, Some(_)) => VerdictLabel::DryRunRefused,
        (false, Some(Reason::MissingKey)) => VerdictLabel::MissingKey,
        (false, Some(Reason::UnreadableKey)) => VerdictLabel::UnreadableKey,
        (false, Some(Reason::StoreUnavailable | Reason::SourceUnavailable)) => {
            VerdictLabel::Unavailable
        }
        (false, Some(Reason::QuotaExceeded | Reason::CostExceedsQuota | Reason::NoQuota)) => {
            VerdictLabel::Refused
        }
        (false, Some(Reason::Blocked)) => VerdictLabel::Blocked,
        (false, Some(Reason::Penalty)) => VerdictLabel::Penalty,
        (false, None) if held.is_zero() => VerdictLabel::Allowed,
        (false, None) => VerdictLabel::Held,
    }
}

/// Logs that a penalty blocks a key, with the refusal that has met the block.
#[cfg(feature = "tracing")]
pub(super) fn log_block(outcome: &Outcome<'_>) {
    log_block_of(
        &outcome.entry.labels.policy,
        Some(outcome.key_kind()),
        outcome.charge,
        outcome.usage,
    );
}

/// The same with a failure. What kind of key it is may not be known any more.
#[cfg(feature = "tracing")]
pub(super) fn log_block_of(policy: &str, key_kind: Option<&str>, charge: &Charge, usage: &Usage) {
    tracing::info!(
        policy,
        key_kind,
        dry_run = charge.mode == Mode::DryRun,
        blocked_for = usage.blocked_for().map(tracing::field::debug),
        "a penalty blocks a key"
    );
}

#[cfg(any(feature = "metrics", feature = "tracing"))]
fn is_peek(decision: &Decision) -> bool {
    decision.record.charges.first().is_some_and(|charge| charge.mode == Mode::Peek)
}

/// Events contain the names of policies, categories and kinds of key, but no keys. The macros
/// compute the fields, as they find out first whether a subscriber, or the `log` crate's logger,
/// wants the event.
#[cfg(feature = "tracing")]
#[inline(never)]
fn log(rules: &RuleSet, decision: &Decision) {
    if is_peek(decision) {
        return;
    }
    let category = || rules.category_name(decision.record.category);
    for outcome in decision.dry_runs().filter(|outcome| !outcome.is_allowed()) {
        tracing::info!(
            policy = outcome.policy(),
            category = category(),
            "a dry run would have refused this request"
        );
    }
    if !decision.held().is_zero() {
        tracing::debug!(
            category = category(),
            held = ?decision.held(),
            "a request was held"
        );
    }
    if let Some(reason) = decision.reason() {
        let tightest = || decision.tightest();
        tracing::debug!(
            policy = tightest().map(|outcome| Outcome::policy(&outcome)),
            category = category(),
            ?reason,
            key_kind = tightest().map(|outcome| outcome.key_kind()),
            limit = tightest().map(|outcome| outcome.limit()),
            retry_after = decision.retry_after().map(tracing::field::debug),
            "a request was refused"
        );
    }
}
