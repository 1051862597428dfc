//! The quota headers of responses: [`Headers`].

#[cfg(feature = "describe")]
mod descriptions;
mod inner;
pub(crate) mod number;
mod structured;
mod style;

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

pub use self::style::{HeaderStyle, ResetFormat};
use self::{
    inner::Numbers,
    style::{Family, POLICY, RATELIMIT, STRUCTURED, X_RATELIMIT},
};
use crate::{
    error::BuildError,
    limiter::Limiter,
    limiter::{Decision, Outcome, Reason},
    policy::Policy,
};

/// The settings of a layer's quota headers.
#[derive(Debug)]
pub(crate) struct Headers {
    pub(crate) styles: Vec<HeaderStyle>,
    pub(crate) policy: Option<String>,
    pub(crate) retry_after: bool,
}

impl Default for Headers {
    fn default() -> Self {
        Self { styles: vec![HeaderStyle::x_ratelimit()], policy: None, retry_after: true }
    }
}

impl Headers {
    /// Fails if the headers cannot be written, or if no client could read them.
    pub(crate) fn validate(&self, limiter: &Limiter) -> Result<(), BuildError> {
        for (index, &style) in self.styles.iter().enumerate() {
            let fail = |problem: &str| {
                Err(BuildError::new(format!("header style `{}`", style.name()), problem))
            };
            if let Some(problem) = style.problem() {
                return fail(problem);
            }
            let mut before = self.styles.iter().take(index);
            if before.clone().any(|other| other.family == style.family) {
                return fail("it is given twice; write it once");
            }
            let names = style.names();
            let shares_field =
                |other: &&HeaderStyle| other.names().iter().any(|name| names.contains(name));
            if let Some(other) = before.find(shares_field) {
                let other = other.name();
                return fail(&format!("`{other}` writes the same header otherwise; leave one out"));
            }
        }
        if self.styles.iter().any(|style| style.family == Family::Lists) {
            let is_unfit = |text: &str| !structured::fits_string(text);
            for policy in limiter.request_policies() {
                let what = if is_unfit(policy.name()) {
                    "name"
                } else if policy.settings.unit.as_deref().is_some_and(is_unfit) {
                    "unit"
                } else {
                    continue;
                };
                let problem = format!(
                    "header style `ratelimit_lists` tells its {what}, which is not printable ASCII; rename it"
                );
                return Err(BuildError::new(format!("policy `{}`", policy.name()), problem));
            }
        }
        self.policy.as_ref().map_or(Ok(()), |policy| self.validate_policy(policy, limiter))
    }

    fn validate_policy(&self, policy: &str, limiter: &Limiter) -> Result<(), BuildError> {
        let fail = |problem| Err(BuildError::new(format!("header policy `{policy}`"), problem));
        let names: BTreeSet<&str> = limiter.request_policies().map(Policy::name).collect();
        if !names.contains(policy) {
            let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
            let remedy = match &*names {
                [] => "leave `.header_policy(…)` out".to_owned(),
                names => format!("write one of {}", names.join(", ")),
            };
            return fail(format!("no policy for requests has this name; {remedy}"));
        }
        if !self.styles.iter().any(|style| style.tells_one()) {
            return fail(
                "no header style shows a single policy; leave `.header_policy(…)` out".into(),
            );
        }
        Ok(())
    }

    /// The headers that responses may have.
    pub(crate) fn names(&self) -> Vec<HeaderName> {
        let quota = self.styles.iter().flat_map(|style| style.names());
        quota.chain(self.retry_after.then_some(RETRY_AFTER)).collect()
    }

    /// How many headers a refusal has: these, and `Cache-Control`, `Content-Type`, `Content-Length`
    /// and `Connection`.
    #[expect(clippy::arithmetic_side_effects, reason = "the names of a few styles")]
    pub(crate) fn count(&self) -> usize {
        let quota: usize = self.styles.iter().map(|style| style.names().len()).sum();
        quota + usize::from(self.retry_after) + 4
    }

    /// The same headers, each with its meaning.
    #[cfg(feature = "describe")]
    pub(crate) fn describe(&self) -> impl Iterator<Item = (HeaderName, &'static str)> {
        let quota = self.styles.iter().flat_map(|style| style.meanings());
        let retry_after =
            "Only where a request is refused: the same request passes after this many seconds.";
        let retry_after = self.retry_after.then_some((RETRY_AFTER, retry_after));
        quota.chain(retry_after)
    }

    /// Writes the numbers of `decision`. A header with room for one policy keeps the numbers of an
    /// inner layer if they are tighter.
    pub(crate) fn write(&self, headers: &mut HeaderMap, decision: &Decision, limiter: &Limiter) {
        self.write_of(headers, decision, Some(limiter));
    }

    /// Writes the numbers of this layer's refusal, and `Retry-After`.
    pub(crate) fn write_refusal(
        &self,
        headers: &mut HeaderMap,
        decision: &Decision,
        limiter: &Limiter,
    ) {
        if decision.reason().is_some_and(Reason::is_counted) {
            self.write_of(headers, decision, Some(limiter));
        }
        if self.retry_after {
            write_retry_after(headers, decision);
        }
    }

    /// Writes the numbers of a decision that may be another limiter's.
    pub(crate) fn write_foreign(&self, headers: &mut HeaderMap, decision: &Decision) {
        if decision.reason().is_none_or(Reason::is_counted) {
            self.write_of(headers, decision, None);
        }
    }

    fn write_of(&self, headers: &mut HeaderMap, decision: &Decision, limiter: Option<&Limiter>) {
        let Some(outcome) = &self.outcome_of(decision) else { return };
        for style in &self.styles {
            match style.family {
                Family::XRateLimit => {
                    self.write_triple(headers, X_RATELIMIT, *style, outcome, decision)
                }
                Family::RateLimit => {
                    self.write_triple(headers, RATELIMIT, *style, outcome, decision)
                }
                Family::Dictionary => self.write_dictionary(headers, outcome, decision),
                Family::Lists => self.write_lists(headers, *style, decision, limiter),
            }
        }
    }

    /// Writes limit, remaining and reset, each into its own header.
    #[inline]
    fn write_triple(
        &self,
        headers: &mut HeaderMap,
        [limit, remaining, reset]: [HeaderName; 3],
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) {
        if let Some(inner) = headers.insert(limit, number::limit(outcome.limit()))
            && self.leaves_triple(headers, inner, style, outcome, decision)
        {
            return;
        }
        headers.insert(remaining, number::of(outcome.remaining()));
        set(headers, reset, reset_in(style, outcome, decision).map(number::reset));
    }

    /// Whether an inner layer's numbers stay. `limit` is the inner layer's, and is put back if they
    /// do.
    #[cold]
    fn leaves_triple(
        &self,
        headers: &mut HeaderMap,
        limit: HeaderValue,
        style: HeaderStyle,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) -> bool {
        let names = if style.family == Family::XRateLimit { X_RATELIMIT } else { RATELIMIT };
        let reset = reset_in(style, outcome, decision).unwrap_or(0);
        let leaves = self.weighs(outcome, decision)
            && Numbers::in_triple(headers, &limit, &names)
                .is_some_and(|inner| inner.is_tighter_than(&numbers(outcome, reset)));
        if leaves {
            let [name, ..] = names;
            headers.insert(name, limit);
        }
        leaves
    }

    fn write_dictionary(
        &self,
        headers: &mut HeaderMap,
        outcome: &Outcome<'_>,
        decision: &Decision,
    ) {
        if headers.contains_key(STRUCTURED) {
            let own = numbers(outcome, whole_seconds(outcome.reset()));
            let inner = Numbers::in_field(headers).filter(|_| self.weighs(outcome, decision));
            if inner.is_some_and(|inner| inner.is_tighter_than(&own)) {
                return;
            }
            // An inner layer's lists may have written it. It does not belong to a dictionary.
            headers.remove(POLICY);
        }
        headers.insert(STRUCTURED, structured::dictionary(outcome));
    }

    fn write_lists(
        &self,
        headers: &mut HeaderMap,
        style: HeaderStyle,
        decision: &Decision,
        limiter: Option<&Limiter>,
    ) {
        let policies = structured::policies(decision, style, limiter);
        let limits = structured::limits(decision, style, limiter);
        let Some((policies, limits)) = policies.zip(limits) else { return };
        if headers.contains_key(STRUCTURED)
            && decision.is_allowed()
            && leaves_field(headers, decision, &policies, &limits)
        {
            return;
        }
        headers.insert(POLICY, policies);
        headers.insert(STRUCTURED, limits);
    }

    /// Whether an inner layer's numbers may stay. They may not in a refusal, nor if the settings
    /// name this policy.
    fn weighs(&self, outcome: &Outcome<'_>, decision: &Decision) -> bool {
        decision.is_allowed()
            && self.policy.as_deref().is_none_or(|named| named != outcome.policy())
    }

    /// The policy that headers with room for one policy show.
    pub(crate) fn outcome_of<'a>(&self, decision: &'a Decision) -> Option<Outcome<'a>> {
        let name = self.policy.as_deref().filter(|_| decision.is_allowed());
        name.and_then(|name| decision.outcome(name)).or_else(|| decision.tightest())
    }
}

/// The value of `Retry-After` (RFC 9110, section 10.2.3): whole seconds, rounded up, at least 1.
pub(super) fn retry_after_seconds(decision: &Decision) -> Option<u64> {
    decision.retry_after().map(|wait| whole_seconds(wait).max(1))
}

pub(super) fn write_retry_after(headers: &mut HeaderMap, decision: &Decision) {
    if let Some(seconds) = retry_after_seconds(decision) {
        headers.insert(RETRY_AFTER, number::of(seconds));
    }
}

/// Whether an inner layer's field stays: our lists are now a part of it, or it is a tighter
/// dictionary.
#[cold]
fn leaves_field(
    headers: &mut HeaderMap,
    decision: &Decision,
    policies: &HeaderValue,
    limits: &HeaderValue,
) -> bool {
    if inner::join_lists(headers, policies, limits) {
        return true;
    }
    let own = decision.tightest().map(|own| numbers(&own, whole_seconds(own.reset())));
    let is_tighter = |(inner, own): (Numbers, Numbers)| inner.is_tighter_than(&own);
    Numbers::in_field(headers).zip(own).is_some_and(is_tighter)
}

fn numbers(outcome: &Outcome<'_>, reset: u64) -> Numbers {
    Numbers { limit: outcome.limit(), remaining: outcome.remaining(), reset }
}

/// When more units come back, in the format of the style.
#[inline]
fn reset_in(style: HeaderStyle, outcome: &Outcome<'_>, decision: &Decision) -> Option<u64> {
    let time = match style.reset_format() {
        // All units are there now, not only at the end of this second: so this is not rounded up.
        ResetFormat::UnixSeconds if outcome.reset().is_zero() => {
            return Some(decision.decided_at().as_secs());
        }
        ResetFormat::UnixSeconds => decision.decided_at().saturating_add(outcome.reset()),
        ResetFormat::Seconds => outcome.reset(),
        ResetFormat::Omitted => return None,
    };
    Some(whole_seconds(time))
}

/// Sets the header, or removes it if an inner layer has written it.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// Whole seconds, rounded up: a caller who waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}
