//! What a response tells of the quota.

mod meaning;
mod number;
mod structured;
mod style;

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use self::style::{Family, POLICY, RATELIMIT, STRUCTURED, X_RATELIMIT};
pub use self::style::{HeaderStyle, ResetFormat};
use crate::{
    decision::{Decision, Outcome},
    describe::HeaderDescription,
    error::BuildError,
    limiter::Limiter,
    policy::Policy,
};

/// What a layer's responses tell.
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
    /// Fails on what cannot be told, or that no client could read.
    pub(crate) fn validate(&self, limiter: &Limiter) -> Result<(), BuildError> {
        for (index, &style) in self.styles.iter().enumerate() {
            let fail = |problem: &str| {
                Err(BuildError::new(format!("header style `{}`", style.name()), problem))
            };
            if let Some(problem) = style.problem() {
                return fail(problem);
            }
            let before = &self.styles[..index];
            if before.iter().any(|other| other.family == style.family) {
                return fail("it is given twice; write it once");
            }
            let names = style.names();
            let shares_field =
                |other: &&HeaderStyle| other.names().iter().any(|name| names.contains(name));
            if let Some(other) = before.iter().find(shares_field) {
                let other = other.name();
                return fail(&format!("`{other}` writes the same header otherwise; leave one out"));
            }
        }
        if self.styles.iter().any(|style| style.family == Family::Draft11) {
            let unfit = |policy: &&Policy| !structured::fits_string(policy.name());
            if let Some(policy) = limiter.request_policies().find(unfit) {
                let problem = "header style `draft_11` tells its name, which is not printable ASCII; rename it";
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
            return fail(format!("requests are held to no policy of this name; {remedy}"));
        }
        if !self.styles.iter().any(|style| style.tells_one()) {
            return fail(
                "no header style speaks of one policy; leave `.header_policy(…)` out".into(),
            );
        }
        Ok(())
    }

    /// The headers that responses may have.
    pub(crate) fn names(&self) -> Vec<HeaderName> {
        let quota = self.styles.iter().flat_map(|style| style.names());
        quota.chain(self.retry_after.then_some(RETRY_AFTER)).collect()
    }

    /// How many headers a refusal has with all of these: one against caches, and the type and the
    /// length of the body.
    pub(crate) fn count(&self) -> usize {
        let quota: usize = self.styles.iter().map(|style| style.names().len()).sum();
        quota + usize::from(self.retry_after) + 3
    }

    /// The same headers, each with what it tells.
    pub(crate) fn describe(&self) -> Vec<HeaderDescription> {
        let quota = self.styles.iter().flat_map(|style| style.meanings());
        let retry_after =
            "Only where a request is refused: the same request passes after this many seconds.";
        let retry_after = self.retry_after.then_some((RETRY_AFTER, retry_after));
        let all = quota.chain(retry_after);
        all.map(|(name, meaning)| HeaderDescription::new(&name, meaning)).collect()
    }

    /// Writes what `decision` says, in place of what an inner layer may have written.
    pub(crate) fn write(&self, headers: &mut HeaderMap, decision: &Decision, limiter: &Limiter) {
        let Some(outcome) = self.speaker(decision) else { return };
        for style in &self.styles {
            match style.family {
                Family::XRateLimit => write_triple(headers, X_RATELIMIT, *style, outcome, decision),
                Family::RateLimit => write_triple(headers, RATELIMIT, *style, outcome, decision),
                Family::Draft07 => set(headers, STRUCTURED, structured::draft_07(outcome)),
                Family::Draft11 => {
                    let keys_of = style.partition_key.then_some(limiter);
                    set(headers, POLICY, structured::policies(decision, keys_of));
                    set(headers, STRUCTURED, structured::limits(decision, keys_of));
                }
            }
        }
        if let Some(wait) = outcome.retry_after().filter(|_| self.retry_after) {
            headers.insert(RETRY_AFTER, number::of(whole_seconds(wait).max(1)));
        }
    }

    /// The policy of which a header tells that has room for one only.
    pub(crate) fn speaker<'a>(&self, decision: &'a Decision) -> Option<&'a Outcome> {
        let name = self.policy.as_deref().filter(|_| decision.is_allowed());
        let named = name
            .and_then(|name| decision.outcomes().iter().find(|outcome| outcome.policy() == name));
        named.or_else(|| decision.tightest())
    }
}

/// Limit, remaining and reset, in headers of their own.
fn write_triple(
    headers: &mut HeaderMap,
    [limit, remaining, reset]: [HeaderName; 3],
    style: HeaderStyle,
    outcome: &Outcome,
    decision: &Decision,
) {
    headers.insert(limit, number::limit(outcome.limit()));
    headers.insert(remaining, number::of(outcome.remaining()));
    let time = match style.reset_format() {
        ResetFormat::UnixSeconds => Some(decision.decided_at().saturating_add(outcome.reset())),
        ResetFormat::Seconds => Some(outcome.reset()),
        ResetFormat::Omitted => None,
    };
    set(headers, reset, time.map(|time| number::reset(whole_seconds(time))));
}

/// Leaves no value of an inner layer beside those of this one.
fn set(headers: &mut HeaderMap, name: HeaderName, value: Option<HeaderValue>) {
    match value {
        Some(value) => headers.insert(name, value),
        None => headers.remove(name),
    };
}

/// Rounded up: who waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    duration.as_secs().saturating_add(u64::from(duration.subsec_nanos() > 0))
}
