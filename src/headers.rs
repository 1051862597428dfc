//! What a response tells of the quota: [`HeaderStyle`].

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use crate::{
    decision::{Decision, Outcome},
    error::BuildError,
    limiter::Limiter,
    policy::Policy,
    quota::NANOS_PER_SECOND,
};

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// A family of headers that tell a caller its quota.
///
/// All numbers of a response are of one policy at one moment: the policy that refused, or else the
/// one with the least left.
///
/// ```
/// use tower_quota::{HeaderStyle, Limiter, RateLimitLayer};
///
/// let limiter = Limiter::builder().build()?;
/// let layer = RateLimitLayer::builder(limiter).headers([HeaderStyle::x_ratelimit()]).build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeaderStyle(Style);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    XRateLimit,
}

impl HeaderStyle {
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, and `X-RateLimit-Reset` in Unix seconds,
    /// rounded up.
    #[must_use]
    pub const fn x_ratelimit() -> Self {
        Self(Style::XRateLimit)
    }
}

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
        let Some(policy) = &self.policy else { return Ok(()) };
        let names: BTreeSet<&str> = limiter.request_policies().map(Policy::name).collect();
        if names.contains(&**policy) {
            return Ok(());
        }
        let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
        let remedy = match &*names {
            [] => "leave `.header_policy(…)` out".to_owned(),
            names => format!("write one of {}", names.join(", ")),
        };
        let problem = format!("requests are held to no policy of this name; {remedy}");
        Err(BuildError::new(format!("header policy `{policy}`"), problem))
    }

    /// Writes what `decision` says, in place of what an inner layer may have written.
    pub(crate) fn write(&self, headers: &mut HeaderMap, decision: &Decision) {
        let Some(outcome) = self.speaker(decision) else { return };
        for HeaderStyle(style) in &self.styles {
            match style {
                Style::XRateLimit => {
                    let resets_at = decision.decided_at().saturating_add(outcome.reset());
                    headers.insert(LIMIT, outcome.limit().into());
                    headers.insert(REMAINING, outcome.remaining().into());
                    headers.insert(RESET, whole_seconds(resets_at).into());
                }
            }
        }
        if let Some(wait) = outcome.retry_after().filter(|_| self.retry_after) {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
        }
    }

    /// The policy of which a header tells that has room for one only.
    fn speaker<'a>(&self, decision: &'a Decision) -> Option<&'a Outcome> {
        let name = self.policy.as_deref().filter(|_| decision.is_allowed());
        let named = name
            .and_then(|name| decision.outcomes().iter().find(|outcome| outcome.policy() == name));
        named.or_else(|| decision.tightest())
    }
}

/// Rounded up: who waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(u128::from(NANOS_PER_SECOND))).unwrap_or(u64::MAX)
}
