//! Overrides that live elsewhere, in a database for example: [`OverrideSource`], and the
//! [`CachedSource`] that a limiter asks.

mod cache;

use std::{error::Error, fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

pub(super) use self::cache::Found;
pub(in crate::limiter) use self::cache::{Answer, Ask, SourceCache};
use crate::{error::BuildProblem, key::Key, override_record::MAX_TIME, quota::Quota};

/// A database or another service that knows the overrides of callers.
///
/// A closure that returns such a future is a source.
pub trait OverrideSource: Send + Sync + 'static {
    /// What holds for the caller with this key, which is the key of the limiter's
    /// [`caller`](crate::LimiterBuilder::caller). The future must not keep the key longer than it
    /// needs it.
    fn find(&self, caller: Key<'_>) -> SourceFuture;
}

/// What an [`OverrideSource`] answers later.
pub type SourceFuture =
    Pin<Box<dyn Future<Output = Result<SourceOverrides, Box<dyn Error + Send + Sync>>> + Send>>;

impl<F, A> OverrideSource for F
where
    F: Fn(Key<'_>) -> A + Send + Sync + 'static,
    A: Future<Output = Result<SourceOverrides, Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    fn find(&self, caller: Key<'_>) -> SourceFuture {
        Box::pin(self(caller))
    }
}

/// What a source says of one caller.
///
/// ```
/// use std::time::Duration;
/// use tower_quota::{Quota, overrides::SourceOverrides};
///
/// let nothing = SourceOverrides::new();
/// let customer = SourceOverrides::new().quota("read", Quota::per_minute(6_000));
/// let abuser = SourceOverrides::new().block(Duration::from_secs(3_600));
/// # let _ = (nothing, customer, abuser);
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct SourceOverrides {
    pub(super) block: Option<Duration>,
    pub(super) quotas: Vec<(String, Quota)>,
}

impl SourceOverrides {
    /// The caller has what its plan says.
    pub fn new() -> Self {
        Self::default()
    }

    /// All requests and checks of the caller are refused for this time from now, at most for 366
    /// days.
    pub fn block(mut self, time: Duration) -> Self {
        self.block = Some(time.min(MAX_TIME));
        self
    }

    /// The caller has this quota under a policy, instead of the policy's or its plan's. A quota that
    /// the policy cannot have refuses the caller, with the warning
    /// [`invalid_plan`](crate::warning#invalid_plan).
    pub fn quota(mut self, policy: impl Into<String>, quota: Quota) -> Self {
        self.quotas.push((policy.into(), quota));
        self
    }
}

/// What holds for a caller while its source does not answer, and nothing young enough is remembered.
///
/// With `UsePlan`, a caller that only your database blocks passes while it is down. If the source can
/// block, use `Refuse`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnSourceFailure {
    /// What its plan says, as if the source knew nothing of the caller. So a caller that only the
    /// source blocks passes.
    #[default]
    UsePlan,
    /// Its requests are refused, with 503 Service Unavailable.
    Refuse,
}

/// An [`OverrideSource`] and what a limiter remembers of it; for
/// [`LimiterBuilder::override_source`](crate::LimiterBuilder::override_source).
///
/// A request waits for the source only if nothing young enough is remembered of its caller. Requests
/// of one caller wait for one look-up, and at most [`max_look_ups`](Self::max_look_ups) run at once. An
/// answer that is no longer fresh still holds while it is looked up again.
///
/// # While the source does not answer
/// What is remembered holds until it is older than [`max_age`](Self::max_age), and then
/// [`on_failure`](Self::on_failure) decides. By default, a caller that only your database blocks passes
/// while it is down. If the source can block, use [`OnSourceFailure::Refuse`]. With the feature `tracing`,
/// the beginning and the end of an outage are logged. The event has the text of the source's error, so
/// that must name no caller; the caller's own key is left out of it.
///
/// # Precedence
/// 1. A block, whether an operator or the source has set it.
/// 2. An operator's quota ([`Overrides`](crate::overrides::Overrides)).
/// 3. The source's quota.
/// 4. The plan's quota, or the policy's.
///
/// ```
/// use std::time::Duration;
///
/// use tower_quota::{
///     Limiter, Policy, Quota,
///     key::{self, Key},
///     overrides::{CachedSource, OnSourceFailure, SourceOverrides},
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // A real one asks a database, with `tenant` as text.
/// let contracts = CachedSource::new(|tenant: Key<'_>| {
///     let is_large = tenant.as_bytes() == b"tenant-7";
///     async move {
///         Ok(match is_large {
///             true => SourceOverrides::new().quota("read", Quota::per_minute(6_000)),
///             false => SourceOverrides::new(),
///         })
///     }
/// })
/// .fresh_for(Duration::from_secs(10))
/// .max_age(Duration::from_secs(3_600))
/// .on_failure(OnSourceFailure::Refuse);
/// let reads = Policy::token_bucket("read", Quota::per_minute(60)).key(key::header("x-tenant"));
/// let limiter = Limiter::builder()
///     .policy(reads.or_refuse())
///     .caller(key::header("x-tenant"))
///     .override_source(contracts)
///     .build()?;
/// assert_eq!(limiter.check("read", "tenant-7").await?.remaining(), 5_999);
/// assert_eq!(limiter.check("read", "tenant-8").await?.remaining(), 59);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct CachedSource {
    pub(super) source: Arc<dyn OverrideSource>,
    pub(super) fresh_for: Duration,
    pub(super) max_age: Duration,
    pub(super) timeout: Duration,
    pub(super) max_callers: usize,
    pub(super) max_look_ups: usize,
    pub(in crate::limiter) on_failure: OnSourceFailure,
}

impl CachedSource {
    /// A source with the default settings.
    pub fn new(source: impl OverrideSource) -> Self {
        Self {
            source: Arc::new(source),
            fresh_for: Duration::from_secs(30),
            max_age: Duration::from_secs(3_600),
            timeout: Duration::from_secs(1),
            max_callers: 100_000,
            max_look_ups: 32,
            on_failure: OnSourceFailure::UsePlan,
        }
    }

    /// Sets how long an answer holds before the source is asked again, in the background. Default: 30
    /// seconds.
    pub fn fresh_for(mut self, time: Duration) -> Self {
        self.fresh_for = time;
        self
    }

    /// Sets how long an answer holds at most, if the source does not answer again. Default: 1 hour.
    pub fn max_age(mut self, time: Duration) -> Self {
        self.max_age = time;
        self
    }

    /// Sets how long a look-up may take, and how long a request waits for it. Default: 1 second.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = time;
        self
    }

    /// Sets how many callers' answers are remembered. Default: 100,000. Callers that come again stay
    /// longer than those that came once.
    pub fn max_callers(mut self, callers: usize) -> Self {
        self.max_callers = callers;
        self
    }

    /// Sets how many look-ups there are at once. Further ones wait, within their time-out. Default: 32.
    pub fn max_look_ups(mut self, look_ups: usize) -> Self {
        self.max_look_ups = look_ups;
        self
    }

    /// Sets what holds for a caller while the source does not answer, and nothing younger than
    /// [`max_age`](Self::max_age) is remembered. Default: [`OnSourceFailure::UsePlan`].
    pub fn on_failure(mut self, on_failure: OnSourceFailure) -> Self {
        self.on_failure = on_failure;
        self
    }

    /// What is wrong with the settings.
    pub(in crate::limiter) fn problems(&self) -> impl Iterator<Item = BuildProblem> {
        let problem = |is_wrong: bool, problem: &'static str| {
            is_wrong.then(|| BuildProblem::new("override source", problem))
        };
        [
            problem(
                self.timeout.is_zero(),
                "a time-out of 0 is over before it begins; write at least 1 ms",
            ),
            problem(
                self.max_age < self.fresh_for,
                "an answer is fresh for longer than it holds; write a longer `max_age`",
            ),
            problem(self.max_age.is_zero(), "no answer ever holds; write a longer `max_age`"),
            problem(
                self.max_callers == 0,
                "it remembers no caller; write at least 1 in `max_callers`",
            ),
            problem(self.max_look_ups == 0, "it never asks; write at least 1 in `max_look_ups`"),
        ]
        .into_iter()
        .flatten()
    }
}

impl fmt::Debug for CachedSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CachedSource")
            .field("fresh_for", &self.fresh_for)
            .field("max_age", &self.max_age)
            .field("timeout", &self.timeout)
            .field("max_callers", &self.max_callers)
            .field("max_look_ups", &self.max_look_ups)
            .field("on_failure", &self.on_failure)
            .finish_non_exhaustive()
    }
}
