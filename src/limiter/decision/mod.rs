//! The decision about a request or a check: [`Decision`].

#![cfg_attr(not(test), warn(clippy::arithmetic_side_effects))]

mod outcome;
mod pooled;
mod record;
mod special;
mod verdict;

use std::{cmp::Reverse, ops::Range, time::Duration};

use smallvec::SmallVec;

use self::outcome::RETRY;
pub use self::{
    outcome::Outcome,
    verdict::{Reason, Verdict},
};
pub(crate) use self::{
    outcome::error_status,
    pooled::Pooled,
    record::{Entry, Record, Ruling, Standing},
    special::Special,
};
use super::{meter::Meter, permit::Permit};
use crate::clock::nanos;

/// The decision about a request or a check: whether it passes, and the outcome under each policy.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let limiter = Limiter::builder()
///     .check_only(Policy::sliding_window("delivery", Quota::per_hour(100)))
///     .build()?;
/// let decision = limiter.check("delivery", "sk_live_pro_tenant").await?;
/// assert!(decision.is_allowed());
/// assert_eq!(decision.remaining(), 99);
/// let outcome = decision.outcome("delivery").expect("the policy was checked");
/// assert_eq!((outcome.limit(), outcome.remaining()), (100, 99));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a refusal is not an error: look at `is_allowed`"]
pub struct Decision {
    pub(crate) record: Pooled,
}

impl Decision {
    /// Whether the request passes.
    #[must_use]
    #[inline]
    pub fn is_allowed(&self) -> bool {
        self.record.ruling == Ruling::Admitted
    }

    /// Whether the request passes, and if not, what refuses it.
    #[must_use]
    #[inline]
    pub fn verdict(&self) -> Verdict<'_> {
        match self.record.ruling {
            Ruling::Admitted => Verdict::Admitted,
            Ruling::Refused(index) => Verdict::Refused(self.record.outcome(index)),
            Ruling::Blocked { wait } => Verdict::Blocked { wait },
            Ruling::UnreadableCaller(status) => Verdict::UnreadableCaller { status },
            Ruling::SourceUnavailable => Verdict::SourceUnavailable,
        }
    }

    /// Why the request is refused; `None` if it passes.
    #[must_use]
    #[inline]
    pub fn reason(&self) -> Option<Reason> {
        match self.record.ruling {
            Ruling::Admitted => None,
            Ruling::Refused(index) => self.record.entries[index].refused(),
            Ruling::Blocked { .. } => Some(Reason::Blocked),
            Ruling::UnreadableCaller(_) => Some(Reason::UnreadableKey),
            Ruling::SourceUnavailable => Some(Reason::SourceUnavailable),
        }
    }

    /// How long to wait until the same request passes. `None` if it passes now, or if waiting does
    /// not help. One second if the override source does not answer. See [`Outcome::retry_after`].
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self.verdict() {
            Verdict::Refused(outcome) => outcome.retry_after(),
            Verdict::Blocked { wait } => Some(wait),
            Verdict::SourceUnavailable => Some(RETRY),
            Verdict::Admitted | Verdict::UnreadableCaller { .. } => None,
        }
    }

    /// How many units the [tightest](Self::tightest) policy has left. [`u64::MAX`] if nothing was
    /// counted, as under an unlimited quota; 0 if the caller is blocked.
    #[must_use]
    pub fn remaining(&self) -> u64 {
        let uncounted = if self.is_allowed() { u64::MAX } else { 0 };
        self.tightest().map_or(uncounted, |outcome| outcome.remaining())
    }

    /// The outcome of each enforced policy, in the order in which the limiter evaluates them.
    ///
    /// The list is empty if nothing was counted: the request is exempt, the caller is blocked, or
    /// no policy applies. It leaves out policies whose numbers are not known: the store did not
    /// answer, or was not called because another policy refuses without it.
    #[must_use]
    pub fn outcomes(&self) -> impl ExactSizeIterator<Item = Outcome<'_>> + Clone {
        self.range(0..self.record.enforced)
    }

    /// The outcome of the policy with this name. `None` if [`outcomes`](Self::outcomes) does not
    /// contain it.
    #[must_use]
    pub fn outcome(&self, policy: &str) -> Option<Outcome<'_>> {
        self.outcomes().find(|outcome| outcome.policy() == policy)
    }

    /// The outcomes of [dry runs](crate::Policy::dry_run). A dry run refuses no request: an
    /// [`Outcome::is_allowed`] that is `false` only shows what an enforced policy would do.
    #[must_use]
    pub fn dry_runs(&self) -> impl ExactSizeIterator<Item = Outcome<'_>> + Clone {
        self.range(self.record.enforced..self.record.entries.len())
    }

    fn range(&self, range: Range<usize>) -> impl ExactSizeIterator<Item = Outcome<'_>> + Clone {
        range.map(|index| self.record.outcome(index))
    }

    /// The policy that limits the caller first.
    ///
    /// In a refusal, this is the policy that refuses, with the longest wait; if waits are equal,
    /// the last one. Otherwise it is the policy under which the fewest such requests still fit:
    /// [`remaining`](Outcome::remaining) divided by the request's [cost](crate::Policy::cost),
    /// which counts as 1 at least. Of a [waterfall](crate::Policy::or_else), only the policy that is
    /// drawn on counts. Ties go to the smaller share of the [`limit`](Outcome::limit)
    /// left, then to the longer time until more is left, then to the first policy. `None` if
    /// nothing was counted.
    #[must_use]
    pub fn tightest(&self) -> Option<Outcome<'_>> {
        match self.record.ruling {
            Ruling::Refused(index) => Some(self.record.outcome(index)),
            _ if self.record.enforced == 1 => Some(self.record.outcome(0)),
            _ => self.outcomes().filter(Outcome::is_drawn_on).min_by(Outcome::cmp_room),
        }
    }

    /// The policies that refuse the request: that of the verdict, then the others, the longest wait
    /// first.
    pub(crate) fn refusing(&self) -> impl Iterator<Item = Outcome<'_>> {
        let record = &*self.record;
        let mut refusing: SmallVec<[usize; 4]> =
            (0..record.enforced).filter(|index| !record.outcome(*index).is_allowed()).collect();
        refusing.sort_by_key(|index| {
            let wait = record.outcome(*index).wait_or_never();
            (record.ruling != Ruling::Refused(*index), Reverse(wait))
        });
        refusing.into_iter().map(|index| record.outcome(index))
    }

    /// The units [in flight](crate::Policy::in_flight) that the request has taken; `None` if it has taken
    /// none. They come back when this decision and all clones of the permit are dropped. A clone of the
    /// decision has no permit.
    ///
    /// ```
    /// use tower_quota::{Limiter, Policy};
    ///
    /// let limiter = Limiter::builder().check_only(Policy::in_flight("exports", 1)).build()?;
    /// let permit = limiter.check("exports", "tenant-7").at_once()?.permit();
    /// assert!(permit.is_some(), "one export is under way");
    /// assert!(!limiter.check("exports", "tenant-7").at_once()?.is_allowed());
    /// drop(permit);
    /// assert!(limiter.check("exports", "tenant-7").at_once()?.is_allowed());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn permit(&self) -> Option<Permit> {
        self.record.permit.clone()
    }

    /// Counts what the request uses until it ends, under the policies that
    /// [settle at the end](crate::Policy::settle_at_end).
    ///
    /// With a layer, the handler gets it. Without one, the request ends when this decision and all clones
    /// of the meter are dropped. A clone of the decision has none: its meter counts nothing. Nor does
    /// that of a [`Reservation`](crate::Reservation), which says itself what was used.
    #[must_use]
    pub fn meter(&self) -> Meter {
        self.record.meter.clone().unwrap_or_default()
    }

    /// When the decision was made: the time since 1970 UTC, by the store's clock if it has one.
    #[must_use]
    pub fn decided_at(&self) -> Duration {
        self.record.now.unix()
    }

    /// How long the request was held before the decision; zero if it was not.
    #[must_use]
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.record.held)
    }

    /// Whether there is nothing to log: the request passes and was not held, and there is no dry
    /// run.
    #[cfg(feature = "tracing")]
    #[inline]
    pub(crate) fn is_uneventful(&self) -> bool {
        self.is_allowed()
            && self.record.enforced == self.record.entries.len()
            && self.record.held == 0
    }

    /// Whether a response may change what was charged.
    pub(crate) fn is_settled_later(&self) -> bool {
        self.record.charges.iter().any(|charge| charge.is_settled)
    }

    /// Lengthens the waits of a refusal.
    pub(crate) fn delay(&mut self, by: Duration) {
        let record = &mut *self.record;
        if let Ruling::Blocked { wait } = &mut record.ruling {
            *wait = wait.saturating_add(by);
        }
        let refusing = record.entries.iter().zip(&mut record.usages).take(record.enforced);
        for (_, usage) in refusing.filter(|(entry, _)| entry.refused().is_some()) {
            *usage = usage.later(nanos(by), 0);
        }
    }
}

#[cfg(test)]
impl Decision {
    /// The decision of these policies. By default, a key has used nothing.
    pub(crate) fn of(
        policies: impl IntoIterator<
            Item = (crate::policy::Policy, Option<crate::store::Usage>, Option<Reason>),
        >,
    ) -> Self {
        use crate::{limiter::evaluation::Evaluation, limiter::rules::Rule, store::Usage};

        let mut evaluation = Evaluation::default();
        for (policy, usage, refused) in policies {
            let unused = Usage::from_nanos(0, policy.algorithm().capacity(&policy.quota()), 0);
            let quota = policy.quota();
            evaluation.push(&Rule::for_test(policy), 0, (7, 7), quota, 1);
            let index = evaluation.record.entries.len() - 1;
            evaluation.record.usages[index] = usage.unwrap_or(unused);
            evaluation.record.entries[index].standing =
                refused.map_or(Standing::Passes, Standing::Refuses);
        }
        evaluation.into_decision(crate::clock::Now::ZERO, Duration::ZERO)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{policy::Policy, quota::Quota, store::Usage};

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn of_equal_numbers_left_the_smaller_share_is_the_tightest() {
        let policy = |name, units| {
            let usage = Usage::new(Duration::ZERO, 5, SECOND);
            (Policy::fixed_window(name, Quota::per_hour(units)), Some(usage), None)
        };
        for policies in [
            [policy("small", 10), policy("large", 100)],
            [policy("large", 100), policy("small", 10)],
        ] {
            let decision = Decision::of(policies);
            assert_eq!(decision.tightest().map(|outcome| outcome.policy()), Some("large"));
        }
    }

    #[test]
    fn a_delay_lengthens_the_wait_of_a_blocked_caller() {
        let mut decision = Decision::of([]);
        decision.record.ruling = Ruling::Blocked { wait: SECOND };
        decision.delay(SECOND);
        assert_eq!(decision.retry_after(), Some(2 * SECOND));
    }
}
