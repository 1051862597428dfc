//! The styles of quota headers: [`HeaderStyle`].

use http::HeaderName;
use smallvec::{SmallVec, smallvec};

const X_RATELIMIT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-limit"),
    HeaderName::from_static("x-ratelimit-remaining"),
    HeaderName::from_static("x-ratelimit-reset"),
];
const RATELIMIT: [HeaderName; 3] = [
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];
/// The field of the drafts 07 and later.
pub(super) const STRUCTURED: HeaderName = HeaderName::from_static("ratelimit");
pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// A style of quota headers.
///
/// The drafts of draft-ietf-httpapi-ratelimit-headers have had three formats, each of which is a
/// style:
///
/// | style | drafts | fields |
/// |---|---|---|
/// | [`x_ratelimit`](Self::x_ratelimit) | none: what most APIs write | `X-RateLimit-Limit`, `X-RateLimit-Remaining`, `X-RateLimit-Reset` |
/// | [`ratelimit`](Self::ratelimit) | 00 to 06 | `RateLimit-Limit`, `RateLimit-Remaining`, `RateLimit-Reset` |
/// | [`ratelimit_dictionary`](Self::ratelimit_dictionary) | 07 | `RateLimit`, a dictionary |
/// | [`ratelimit_lists`](Self::ratelimit_lists) | 08 to 11 | `RateLimit` and `RateLimit-Policy`, lists |
///
/// A layer can write several styles, for clients that know only one of them. Times are rounded up
/// to whole seconds.
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

/// The format of `X-RateLimit-Reset` or `RateLimit-Reset`: when `remaining` grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(
    feature = "config",
    derive(serde::Serialize, serde::Deserialize, schemars::JsonSchema),
    serde(rename_all = "snake_case")
)]
#[non_exhaustive]
pub enum ResetFormat {
    /// Seconds since 1970 UTC, as most APIs write `X-RateLimit-Reset`.
    UnixSeconds,
    /// Seconds from now, as the drafts up to 06 write `RateLimit-Reset`. It does not depend on the
    /// client's clock.
    Seconds,
    /// No header for the reset.
    Omitted,
}

impl HeaderStyle {
    /// `X-RateLimit-Limit`, `X-RateLimit-Remaining` and `X-RateLimit-Reset`, for one policy. The
    /// reset is in Unix seconds by default; see [`reset`](Self::reset).
    pub const fn x_ratelimit() -> Self {
        Self::new(Family::XRateLimit)
    }

    /// `RateLimit-Limit`, `RateLimit-Remaining` and `RateLimit-Reset`, for one policy:
    /// draft-ietf-httpapi-ratelimit-headers-00 to -06. The reset is in seconds from now by default;
    /// see [`reset`](Self::reset).
    pub const fn ratelimit() -> Self {
        Self::new(Family::RateLimit)
    }

    /// `RateLimit: limit=100, remaining=50, reset=5`, for one policy:
    /// draft-ietf-httpapi-ratelimit-headers-07.
    pub const fn ratelimit_dictionary() -> Self {
        Self::new(Family::Dictionary)
    }

    /// `RateLimit-Policy: "burst";q=100;w=60` and `RateLimit: "burst";r=50;t=30`, lists of all
    /// policies of the request: draft-ietf-httpapi-ratelimit-headers-08 to -11, structured by RFC
    /// 9651. The four drafts have one format; `t` has the meaning of draft 11. The names of
    /// policies and of their [units](crate::Policy::unit) must be printable ASCII.
    ///
    /// - `q` is the limit; for a token bucket, its burst.
    /// - `w` is the window in whole seconds, rounded up, so that a client which spreads `q` over it
    ///   is never too fast. For a token bucket, it is the time in which the burst refills: 60 per
    ///   minute with a burst of 10 is `q=10;w=10`.
    /// - `qu` is the [unit](crate::Policy::unit), if it is not `requests`.
    /// - `r` is what is left.
    /// - `t`, the effective window (draft 11, section 4.1.2), is the time within which the caller
    ///   may use no more than `r`: until a fixed window ends; otherwise, as long as the quota takes
    ///   to give `r` units, so that a client which spreads `r` over it is as fast as the quota. If
    ///   nothing is left, it is the time until something is. It is never longer than the
    ///   `Retry-After` of the policy that refuses, and 0 only if `r` is.
    pub const fn ratelimit_lists() -> Self {
        Self::new(Family::Lists)
    }

    const fn new(family: Family) -> Self {
        Self { family, reset: None, partition_key: false }
    }

    /// Sets the format of the reset, for [`x_ratelimit`](Self::x_ratelimit) and
    /// [`ratelimit`](Self::ratelimit) only. For other styles, `build()` fails.
    pub const fn reset(mut self, format: ResetFormat) -> Self {
        self.reset = Some(format);
        self
    }

    /// Adds the partition key `pk`, which says whose quota it is; for
    /// [`ratelimit_lists`](Self::ratelimit_lists) only. Default: off.
    ///
    /// The partition key is 8 bytes, equal for equal keys of one limiter. A client distinguishes
    /// its quotas by it. It discloses neither the key nor the store's fingerprint. A global policy
    /// has none.
    pub const fn partition_key(mut self) -> Self {
        self.partition_key = true;
        self
    }

    /// The format of the reset; by default, that of the family.
    pub(super) fn reset_format(self) -> ResetFormat {
        let default = match self.family {
            Family::XRateLimit => ResetFormat::UnixSeconds,
            Family::RateLimit | Family::Dictionary | Family::Lists => ResetFormat::Seconds,
        };
        self.reset.unwrap_or(default)
    }

    /// The headers of a family of three: limit, remaining and reset.
    #[inline]
    pub(super) fn triple(self) -> [HeaderName; 3] {
        if self.family == Family::XRateLimit { X_RATELIMIT } else { RATELIMIT }
    }

    /// The headers it writes.
    pub(super) fn names(self) -> SmallVec<[HeaderName; 3]> {
        let mut names = match self.family {
            Family::XRateLimit | Family::RateLimit => self.triple().into(),
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
        match self.family {
            Family::Dictionary | Family::Lists if self.reset.is_some() => {
                Some("it always tells the reset in seconds; leave `.reset(…)` out")
            }
            Family::XRateLimit | Family::RateLimit | Family::Dictionary if self.partition_key => {
                Some("only `ratelimit_lists` has a partition key; leave `.partition_key()` out")
            }
            _ => None,
        }
    }
}
