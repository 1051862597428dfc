//! A policy of a limiter, found once: [`PolicyHandle`].

use std::sync::Arc;

use super::{Check, Enter, Limiter, Refund, rules::RuleId, target::Target};
use crate::{key::Key, quota::Quota, store::Change};

/// A policy of a limiter, from [`Limiter::policy`]. Its checks do not look the policy up by name.
///
/// ```
/// use tower_quota::{Limiter, Policy, Quota};
///
/// let limiter = Limiter::builder()
///     .check_only(Policy::fixed_window("delivery", Quota::per_hour(100)))
///     .build()?;
/// let delivery = limiter.policy("delivery")?;
/// assert_eq!(delivery.quota(), Some(Quota::per_hour(100)));
/// assert_eq!(delivery.check("tenant-7").at_once()?.remaining(), 99);
/// assert!(limiter.policy("delivrey").is_err());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct PolicyHandle {
    pub(super) limiter: Limiter,
    pub(super) name: Arc<str>,
    /// Found by the name once.
    pub(super) rule: RuleId,
}

impl PolicyHandle {
    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The policy's own quota, by the limits that hold now: without plan and schedule. `None` if the
    /// limiter does not have the policy any more.
    #[must_use]
    pub fn quota(&self) -> Option<Quota> {
        Some(self.limiter.core.rules().by_name(&self.name)?.policy.quota())
    }

    /// Checks the policy for a key; see [`Limiter::check`]. A refusal is `Ok` too. If the policy counts by
    /// several kinds of key, name the kind with [`Check::kind`]. For units in flight, use
    /// [`enter`](Self::enter): those of a check come back when its decision is dropped.
    #[inline]
    pub fn check<'a>(&'a self, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(key))
    }

    /// Checks the policy for a key and charges nothing; see [`Limiter::peek`]. If the policy counts by several
    /// kinds of key, name the kind with [`Check::kind`].
    pub fn peek<'a>(&'a self, key: impl Into<Key<'a>>) -> Check<'a> {
        Check::new(self.target(key)).only_peek()
    }

    /// Takes a unit [in flight](crate::Policy::in_flight) of a key, for work that is no HTTP request. The
    /// unit is held as long as the permit, or a clone of it: it comes back when the last is dropped, on any
    /// thread, inside of a runtime or not. If the policy [holds](crate::Policy::hold), this waits in line.
    ///
    /// ```
    /// use tower_quota::{AcquireError, Limiter, Policy};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let limiter = Limiter::builder().check_only(Policy::in_flight("exports", 2)).build()?;
    /// let exports = limiter.policy("exports")?;
    /// let first = exports.enter("tenant-7").await?;
    /// let job = tokio::spawn({
    ///     let second = exports.enter("tenant-7").await?;
    ///     async move { drop(second) } // works, and is done
    /// });
    /// assert!(matches!(exports.enter("tenant-7").await, Err(AcquireError::Refused(_))));
    /// job.await?;
    /// let third = exports.enter("tenant-7").await?;
    /// # drop((first, third));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`AcquireError::Refused`](crate::AcquireError::Refused) if too many units are held, or for another
    /// reason of the decision in it. [`AcquireError::Check`](crate::AcquireError::Check) with the errors
    /// of [`Limiter::check`], or with [`CheckError::NotInFlight`](crate::CheckError::NotInFlight) if the
    /// policy has another algorithm.
    pub fn enter<'a>(&'a self, key: impl Into<Key<'a>>) -> Enter<'a> {
        Enter::new(self.target(key))
    }

    /// Gives units back to a key; see [`Limiter::give_back`].
    pub fn give_back<'a>(&'a self, key: impl Into<Key<'a>>, units: u64) -> Refund<'a> {
        Refund::new(self.target(key), Change::GiveBack(units))
    }

    /// Gives a key its whole quota back; see [`Limiter::reset`].
    pub fn reset<'a>(&'a self, key: impl Into<Key<'a>>) -> Refund<'a> {
        Refund::new(self.target(key), Change::Reset)
    }

    /// How many charges of this policy went to a quota that new keys share, because the store had
    /// no room for more keys. `None` if the store does not count this;
    /// [`MemoryStore`](crate::store::MemoryStore) does.
    #[must_use]
    pub fn overflowed(&self) -> Option<u64> {
        let core = &*self.limiter.core;
        let policy = core.rules().by_name(&self.name)?.charge.policy;
        core.store.overflowed(policy)
    }

    #[inline]
    fn target<'a>(&'a self, key: impl Into<Key<'a>>) -> Target<'a> {
        Target { rule: Some(&self.rule), ..Target::new(&self.limiter, &self.name, key) }
    }
}
