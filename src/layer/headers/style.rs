//! The families of quota headers: [`HeaderStyle`].

use http::HeaderName;
use smallvec::{SmallVec, smallvec};

pub(super) const X_RATELIMIT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];
pub(super) const RATELIMIT: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];
/// The field of the drafts 07 and later.
pub(super) const STRUCTURED: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A family of headers that tell a caller its quota.
///
/// The drafts of draft-ietf-httpapi-ratelimit-headers have had three forms on the wire, and each
/// style is one of them:
///
/// | style | drafts | fields |
/// |---|---|---|
/// | [`x_ratelimit`](Self::x_ratelimit) | none: what most APIs write | `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` |
/// | [`ratelimit`](Self::ratelimit) | 00 to 06 | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` |
/// | [`ratelimit_dictionary`](Self::ratelimit_dictionary) | 07 | `RateLimit`, a dictionary |
/// | [`ratelimit_lists`](Self::ratelimit_lists) | 08 to 11 | `RateLimit` and `RateLimit-Policy`, lists |
///
/// Several families may be told side by side, as for clients that know only one of them. Within a
/// family all numbers are of one decision; times are rounded up to whole seconds.
///
/// ```
/// use tower_quota::{HeaderStyle, Limiter, RateLimitLayer, ResetFormat};
///
/// let limiter = Limiter::builder().build()?;
/// let layer = RateLimitLayer::builder(limiter)
///     .headers([
///         HeaderStyle::x_ratelimit().reset(ResetFormat::Seconds),
///         HeaderStyle::ratelimit_lists().partition_key(),
///     ])
///     .build()?;
/// # let _ = layer;
/// # Ok::<(), tower_quota::BuildError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct HeaderStyle {
    pub(super) family: Family,
    pub(super) reset: Option<ResetFormat>,
    pub(super) partition_key: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    XRateLimit,
    RateLimit,
    Dictionary,
    Lists,
}

/// How `X-RateLimit-Reset` or `RateLimit-Reset` tells when `remaining` grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ResetFormat {
    /// Seconds since 1970 UTC, as most APIs write `X-RateLimit-Reset`.
    UnixSeconds,
    /// Seconds from now, as the drafts up to 06 write `RateLimit-Reset`: right whatever the client's
    /// clock says.
    Seconds,
    /// Without the header.
    Omitted,
}

impl HeaderStyle {
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining`, and `X-RateLimit-Reset` in Unix seconds
    /// unless [told otherwise](Self::reset). They speak of one policy.
    pub const fn x_ratelimit() -> Self {
        Self::of(Family::XRateLimit)
    }

    /// `RateLimit-Limit`, `RateLimit-Remaining`, and `RateLimit-Reset` in seconds from now unless
    /// [set otherwise](Self::reset): draft-ietf-httpapi-ratelimit-headers-00 to -06. They speak of
    /// one policy.
    pub const fn ratelimit() -> Self {
        Self::of(Family::RateLimit)
    }

    /// `RateLimit: limit=100, remaining=50, reset=5`: draft-ietf-httpapi-ratelimit-headers-07.
    /// It speaks of one policy.
    pub const fn ratelimit_dictionary() -> Self {
        Self::of(Family::Dictionary)
    }

    /// `RateLimit-Policy: "burst";q=100;w=60` and `RateLimit: "burst";r=50;t=30`, with all policies
    /// of the request in each: draft-ietf-httpapi-ratelimit-headers-08 to -11, structured by
    /// RFC 9651. The four drafts have one form on the wire; `t` means what draft 11 says. The names of
    /// policies and of their [units](crate::Policy::unit) must be printable ASCII.
    ///
    /// The window `w` is in whole seconds, rounded up, so that a client which spreads `q` over it
    /// is never too fast. A token bucket's `q` is its burst, and its `w` the time in which that
    /// refills: 60 per minute with a burst of 10 is `q=10;w=10`. `qu` is the
    /// [unit](crate::Policy::unit), where it is not `requests`.
    ///
    /// The effective window `t` is the time within which the caller is to use no more than `r`
    /// (draft 11, section 4.1.2): until a fixed window ends, or as long as the quota takes to give as
    /// much, so that a client which spreads `r` over it is as fast as the quota. Where nothing is
    /// left, it is the time until something is. It is never longer than `Retry-After` of the policy
    /// that refuses, and 0 only where `r` is.
    pub const fn ratelimit_lists() -> Self {
        Self::of(Family::Lists)
    }

    const fn of(family: Family) -> Self {
        Self { family, reset: None, partition_key: false }
    }

    /// How the reset is told: of [`x_ratelimit`](Self::x_ratelimit) and
    /// [`ratelimit`](Self::ratelimit) only.
    pub const fn reset(mut self, format: ResetFormat) -> Self {
        self.reset = Some(format);
        self
    }

    /// Adds the partition key `pk`, which says whose quota it is; for
    /// [`ratelimit_lists`](Self::ratelimit_lists) only. Default: off.
    ///
    /// It is 8 bytes by which a client tells its own quotas apart: equal for equal keys of one
    /// limiter, and they disclose neither the key nor what the store knows it by. A global policy
    /// has none.
    pub const fn partition_key(mut self) -> Self {
        self.partition_key = true;
        self
    }

    /// Whether it has room for one policy only.
    pub(super) fn tells_one(self) -> bool {
        self.family != Family::Lists
    }

    /// How the reset is told, in families that leave the choice.
    pub(super) fn reset_format(self) -> ResetFormat {
        let default = match self.family {
            Family::XRateLimit => ResetFormat::UnixSeconds,
            Family::RateLimit | Family::Dictionary | Family::Lists => ResetFormat::Seconds,
        };
        self.reset.unwrap_or(default)
    }

    /// The headers it writes.
    pub(super) fn names(self) -> SmallVec<[HeaderName; 3]> {
        let mut names = match self.family {
            Family::XRateLimit => X_RATELIMIT.into(),
            Family::RateLimit => RATELIMIT.into(),
            Family::Dictionary => smallvec![STRUCTURED],
            Family::Lists => smallvec![POLICY, STRUCTURED],
        };
        if self.reset_format() == ResetFormat::Omitted {
            names.truncate(2);
        }
        names
    }

    pub(super) fn name(self) -> &'static str {
        match self.family {
            Family::XRateLimit => "x_ratelimit",
            Family::RateLimit => "ratelimit",
            Family::Dictionary => "ratelimit_dictionary",
            Family::Lists => "ratelimit_lists",
        }
    }

    /// What is wrong with it, and what to write instead.
    pub(super) fn problem(self) -> Option<&'static str> {
        let chooses_reset = matches!(self.family, Family::XRateLimit | Family::RateLimit);
        if self.reset.is_some() && !chooses_reset {
            return Some("it always tells the reset in seconds; leave `.reset(…)` out");
        }
        if self.partition_key && self.family != Family::Lists {
            return Some(
                "only `ratelimit_lists` has a partition key; leave `.partition_key()` out",
            );
        }
        None
    }
}
