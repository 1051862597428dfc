//! A policy in an explanation: [`PolicyExplanation`].

use std::{borrow::Cow, time::Duration};

use serde::Serialize;

use crate::{
    algorithm::Algorithm,
    describe::{is_false, optional_seconds, quota, seconds},
    key::Extracted,
    limiter::{Decision, Reason, rules::Rule},
    policy::{QuotaSource, english},
    quota::Quota,
};

/// What one policy would say of a request, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct PolicyExplanation {
    /// The name.
    pub name: String,
    /// How units come back.
    pub algorithm: Algorithm,
    /// Whether it is a dry run, which refuses nothing.
    pub dry_run: bool,
    /// Whether all requests use one quota.
    pub global: bool,
    /// The kinds of key that were tried, in order: the last one decides, unless it is missing. Empty if
    /// the policy is global, or if its quota is unlimited.
    pub keys: Vec<TriedKey>,
    /// The request's quota.
    #[serde(serialize_with = "quota")]
    pub quota: Quota,
    /// Where the quota comes from.
    pub quota_from: QuotaFrom,
    /// The name of its [units](crate::Policy::unit); `None`: requests.
    pub unit: Option<String>,
    /// The policies on whose quotas the request draws if this one has [too little
    /// left](crate::Policy::or_else).
    pub or_else: Vec<String>,
    /// How long the policy holds a request at most, instead of refusing it.
    #[serde(rename = "hold_seconds", serialize_with = "seconds")]
    pub hold: Duration,
    /// Whether the cost is [an estimate](crate::Policy::settle_at_end), which is settled when the response
    /// has ended. Not in JSON if it is not so.
    #[serde(skip_serializing_if = "is_false")]
    pub settles_at_end: bool,
    /// The policy's [penalty](crate::Penalty) in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub penalty: Option<String>,
    /// How much longer the key is blocked by the penalty; `None` if it is not.
    #[serde(
        rename = "blocked_seconds",
        serialize_with = "optional_seconds",
        skip_serializing_if = "Option::is_none"
    )]
    pub blocked: Option<Duration>,
    /// The kind of key that tells the tenants apart whose held requests take
    /// [turns](crate::Policy::fair_by). `None`, and not in JSON: there are no turns.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fair_by: Option<String>,
    /// What the policy would say.
    #[serde(flatten)]
    pub verdict: PolicyVerdict,
    /// The numbers of the quota. `None` if they are not known: the policy does not count the
    /// request, or the store does not answer, or is not asked because a key is missing.
    pub numbers: Option<Numbers>,
}

/// The numbers of a policy right after the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Numbers {
    /// How many units the request costs.
    pub cost: u64,
    /// The largest possible `remaining`.
    pub limit: u64,
    /// The units that would be left after the request if it passes, and are left now if it does not.
    pub remaining: u64,
    /// How long until `remaining` grows.
    #[serde(rename = "reset_seconds", serialize_with = "seconds")]
    pub reset: Duration,
}

/// The verdict of one policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "verdict")]
#[non_exhaustive]
pub enum PolicyVerdict {
    /// The quota is unlimited, and nothing is counted.
    Unlimited,
    /// The request has none of the keys, and such requests are [not
    /// counted](crate::Policy::or_skip).
    Skipped,
    /// The request passes.
    Admitted,
    /// Another policy of its [waterfall](crate::Policy::or_else) decides: the request draws on that
    /// one's quota, or that one refuses it with the shortest wait.
    PassedOver,
    /// The request is refused, or would be if the policy were no dry run.
    Refused {
        /// Why.
        reason: Reason,
        /// How long to wait until this policy lets the request pass; `None` if waiting does not help.
        #[serde(rename = "retry_after_seconds", serialize_with = "optional_seconds")]
        retry_after: Option<Duration>,
    },
    /// It is not known: another policy refuses without the store, or the store does not answer and
    /// this policy lets requests pass then.
    NotAsked,
}

/// Where the quota of a request comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "from")]
#[non_exhaustive]
pub enum QuotaFrom {
    /// It is the policy's own.
    Policy,
    /// It is the policy's at these [hours](crate::Policy::schedule).
    #[cfg(feature = "calendar")]
    Schedule {
        /// The hours and their time zone, such as `Mo-Fr 08:00-18:00 in Europe/Berlin`.
        hours: String,
    },
    /// The plan of the request, from the policy's [table](crate::Policy::plans).
    Plan {
        /// The plan's name.
        name: String,
    },
    /// The request's plan is not in the table, so that the policy's own quota holds.
    UnknownPlan,
    /// The function of [`quota_by`](crate::Policy::quota_by).
    Function,
    /// That function returned a quota that cannot be, so that the request has no units.
    Invalid,
    /// An operator's override for the caller.
    Override {
        /// How long it still lasts.
        #[serde(rename = "left_seconds", serialize_with = "seconds")]
        left: Duration,
        /// Who has set it.
        author: Option<String>,
        /// Why.
        reason: Option<String>,
    },
    /// The [`OverrideSource`](crate::overrides::OverrideSource).
    OverrideSource,
}

/// A kind of key that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "read")]
#[non_exhaustive]
pub enum TriedKey {
    /// The request has it.
    Found {
        /// The kind of key, such as `x-api-key`.
        kind: String,
    },
    /// The request does not have it.
    Missing {
        /// The kind of key.
        kind: String,
    },
    /// It is there and cannot be read.
    Unreadable {
        /// The kind of key.
        kind: String,
        /// The status of a refusal.
        status: u16,
    },
}

impl PolicyExplanation {
    /// The explanation of a policy whose evaluation begins.
    pub(super) fn new(rule: &Rule) -> Self {
        let settings = &rule.policy.settings;
        Self {
            name: rule.policy.name().to_owned(),
            algorithm: rule.policy.algorithm(),
            dry_run: settings.dry_run,
            global: settings.keys.is_global,
            keys: Vec::new(),
            quota: settings.quota,
            quota_from: QuotaFrom::Policy,
            unit: settings.unit.as_deref().map(Into::into),
            or_else: settings.fallbacks.iter().map(|other| other.name().to_owned()).collect(),
            hold: Duration::from_nanos(rule.entry.special.hold()),
            settles_at_end: settings.settles_at_end,
            penalty: settings.penalty.as_ref().map(english::penalty),
            blocked: None,
            fair_by: settings.fair_by.as_ref().map(|tenant| tenant.kind().into_owned()),
            verdict: PolicyVerdict::NotAsked,
            numbers: None,
        }
    }

    /// Adds the decision's outcome for this policy, found by the number under which it is counted.
    pub(super) fn decided(&mut self, decision: &Decision, counted_as: u64) {
        let mut outcomes = decision.outcomes().chain(decision.dry_runs());
        let Some(outcome) = outcomes.find(|outcome| outcome.charge.policy == counted_as) else {
            return;
        };
        self.blocked = outcome.blocked_for();
        self.hold = Duration::from_nanos(outcome.entry.special.hold());
        self.verdict = match outcome.reason() {
            None if outcome.is_passed_over() => PolicyVerdict::PassedOver,
            None => PolicyVerdict::Admitted,
            Some(reason) => PolicyVerdict::Refused { reason, retry_after: outcome.retry_after() },
        };
        self.numbers = outcome.reason().is_none_or(Reason::is_counted).then(|| Numbers {
            cost: outcome.cost(),
            limit: outcome.limit(),
            remaining: outcome.remaining(),
            reset: outcome.reset(),
        });
    }
}

impl TriedKey {
    pub(super) fn new(kind: Cow<'_, str>, extracted: &Extracted<'_>) -> Self {
        let kind = kind.into_owned();
        match extracted {
            Extracted::Unreadable(status) => Self::Unreadable { kind, status: status.as_u16() },
            extracted if extracted.is_missing() => Self::Missing { kind },
            _ => Self::Found { kind },
        }
    }

    /// The kind of key, such as `x-api-key`.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Found { kind } | Self::Missing { kind } | Self::Unreadable { kind, .. } => kind,
        }
    }
}

impl From<QuotaSource<'_>> for QuotaFrom {
    fn from(source: QuotaSource<'_>) -> Self {
        match source {
            QuotaSource::Policy => Self::Policy,
            #[cfg(feature = "calendar")]
            QuotaSource::Schedule(hours) => Self::Schedule { hours: hours.to_string() },
            QuotaSource::Plan(name) => Self::Plan { name: name.to_owned() },
            QuotaSource::UnknownPlan => Self::UnknownPlan,
            QuotaSource::Function => Self::Function,
            QuotaSource::Invalid => Self::Invalid,
        }
    }
}
