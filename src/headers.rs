//! What a response tells of the quota: [`HeaderStyle`].

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header::RETRY_AFTER};

use crate::{decision::Decision, quota::NANOS_PER_SECOND};

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
/// let layer = RateLimitLayer::new(limiter).headers([HeaderStyle::x_ratelimit()]);
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

/// Writes what `decision` says, in place of what an inner layer may have written.
pub(crate) fn write(headers: &mut HeaderMap, decision: &Decision, styles: &[HeaderStyle]) {
    let Some(outcome) = decision.tightest() else { return };
    for HeaderStyle(style) in styles {
        match style {
            Style::XRateLimit => {
                let resets_at = decision.decided_at().saturating_add(outcome.reset());
                headers.insert(LIMIT, outcome.limit().into());
                headers.insert(REMAINING, outcome.remaining().into());
                headers.insert(RESET, whole_seconds(resets_at).into());
            }
        }
    }
    if let Some(wait) = outcome.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait).max(1)));
    }
}

/// Rounded up: who waits this long has waited long enough.
pub(crate) fn whole_seconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(u128::from(NANOS_PER_SECOND))).unwrap_or(u64::MAX)
}
