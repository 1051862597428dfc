//! The setting [`Penalty`]: a key that is refused or fails too often is blocked, each time for longer.

use std::time::Duration;

/// The most refusals that may begin a block: their times are kept for each key.
const MAX_AFTER: u32 = 100;
/// The most blocks, each with a time of its own.
const MAX_BLOCKS: usize = 16;
/// The longest of all times, that of an override too.
pub(crate) const MAX_TIME: Duration = Duration::from_secs(366 * 86_400);
const DEFAULT_FORGET_AFTER: Duration = Duration::from_secs(86_400);

/// Blocks a key that is refused, or fails, too often, and each time for longer. For
/// [`Policy::penalty`](crate::Policy::penalty).
///
/// ```
/// use std::time::{Duration, SystemTime};
///
/// use tower_quota::{Clock, Limiter, Penalty, Policy, Quota, Reason};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let minute = Duration::from_secs(60);
/// let sends = Policy::sliding_window("sends", Quota::per_minute(10)).penalty(
///     Penalty::after(5)
///         .refusals_within(minute)
///         .block(2 * minute) // the first time,
///         .then(10 * minute) // the second time,
///         .then(60 * minute) // and each further time
///         .forget_after(24 * 60 * minute),
/// );
/// # let start = SystemTime::now();
/// let limiter = Limiter::builder().clock(Clock::tokio(start)).check_only(sends).build()?;
///
/// for _ in 0..10 {
///     assert!(limiter.check("sends", "tenant-7").await?.is_allowed());
/// }
/// for _ in 0..4 {
///     let refused = limiter.check("sends", "tenant-7").await?;
///     assert_eq!(refused.reason(), Some(Reason::QuotaExceeded));
/// }
/// // The fifth refusal begins the block, and says so.
/// let blocked = limiter.check("sends", "tenant-7").await?;
/// assert_eq!(blocked.reason(), Some(Reason::Penalty));
/// assert_eq!(blocked.retry_after(), Some(2 * minute));
///
/// tokio::time::advance(2 * minute).await;
/// assert!(limiter.check("sends", "tenant-7").await?.is_allowed());
/// # Ok(())
/// # }
/// ```
///
/// # What counts
/// - Each refusal by the policy itself, of a request or of a check, because too few units were left or
///   because it costs more than the whole quota. A refusal by another policy, a missing or unreadable
///   key, an operator's block and a store that does not answer do not count. A [peek](crate::Limiter::peek)
///   and an explanation never count.
/// - A request that is [held](crate::Policy::hold) counts only if it is refused in the end. A held request
///   whose key is blocked meanwhile is refused when its turn comes.
/// - With [`failures_within`](Self::failures_within): instead of refusals, each response whose cost is not 0,
///   by [`settle`](crate::Policy::settle) or [at its end](crate::Policy::settle_at_end).
/// - Under an [unlimited](crate::Quota::unlimited) quota, nothing is refused for its units, so no refusal
///   counts. Failures count as under any other quota.
/// - What comes during a block neither counts nor makes the block longer, so a retry at `Retry-After`
///   passes. After the block, counting begins anew, and the next block is the longer one.
///
/// # What a block does
/// The policy refuses every request of the key, also one that costs nothing, with
/// [`Reason::Penalty`](crate::Reason::Penalty). `Retry-After` says when the block has ended and the quota
/// has units again; [`Outcome::blocked_for`](crate::Outcome::blocked_for) is the block alone. Nothing is
/// charged meanwhile. A new quota, by a plan or an override, does not lift the block. Under an
/// [unlimited](crate::Quota::unlimited) quota, the policy counts nothing, but still checks whether the key is
/// blocked. So it needs the key: a request without it is refused or skipped, as the policy says. If the store
/// does not answer, [`on_store_failure`](crate::Policy::on_store_failure) decides.
///
/// These lift a block: [`Limiter::reset`](crate::Limiter::reset), which leaves what is in flight;
/// [`CallerOverrides::unblock`](crate::overrides::CallerOverrides::unblock); and an
/// [apply](crate::Limiter::apply) of limits in which the policy has no penalty, as long as it has none.
/// After an apply that changes the penalty, a block ends when it would have ended, and a refusal that one
/// penalty has stopped counting counts under no later one. An apply that changes how the policy counts ends
/// all blocks, as it begins the counts anew.
///
/// While a shared store is down, its blocks are not known, and
/// [`on_store_failure`](crate::Policy::on_store_failure) decides: write
/// [`Refuse`](crate::OnStoreFailure::Refuse) where guesses must not go on. As many guesses as the quota has
/// may be under way at once, before any of them has failed.
///
/// A [dry run](crate::Policy::dry_run) counts and reports blocks, and refuses no request.
///
/// # Where it is kept
/// Beside the key's count. In memory, a key with a penalty takes about 300 bytes, and up to 800 more for
/// the times of its refusals. A key that has no room of its own in a full
/// [`MemoryStore`](crate::store::MemoryStore) gets no penalty: it shares a quota with others. No flood of
/// new keys of the policy takes the room of a key that is or was blocked. In Redis, blocks hold on all
/// replicas at once, by the server's clock; a refusal takes one more round trip, and requests that pass
/// take none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[must_use = "a penalty does nothing unless a policy has it"]
pub struct Penalty {
    pub(crate) after: u32,
    /// What is counted, and in which time. `None` if that was not set.
    pub(crate) counted: Option<(Counted, Duration)>,
    /// The first block, the second, and so on. The last one repeats.
    pub(crate) blocks: Vec<Duration>,
    pub(crate) forget_after: Duration,
    /// What was set twice, and what to write instead.
    set_twice: Option<&'static str>,
}

/// What a [`Penalty`] counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Counted {
    Refusals,
    Failures,
}

impl Penalty {
    /// A block begins with the `count`th refusal or failure; at most the 100th.
    pub fn after(count: u32) -> Self {
        Self {
            after: count,
            counted: None,
            blocks: Vec::new(),
            forget_after: DEFAULT_FORGET_AFTER,
            set_twice: None,
        }
    }

    /// Counts requests and checks that the policy refuses: as many as [`after`](Self::after) says
    /// within this time begin a block.
    pub fn refusals_within(self, time: Duration) -> Self {
        self.count(Counted::Refusals, time)
    }

    /// Counts failures instead of refusals: responses whose cost is at least one unit, as
    /// [`settle`](crate::Policy::settle) returns it, or at their end. As many as [`after`](Self::after) says
    /// within this time begin a block, and the next request is refused.
    ///
    /// A check has no response, so it never fails.
    ///
    /// Where the cost is settled [at the end](crate::Policy::settle_at_end), the final cost decides: a
    /// response whose meter has counted nothing but 0 is no failure, and one whose meter was never used
    /// costs what was reserved, so it is one. If the head of the response settles a cost above 0, the
    /// failure counts at once, and not a second time at the end. A request that ends without a response
    /// is a failure only if its meter has counted units.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use tower_quota::{Penalty, Policy, Quota, key::ClientIp};
    ///
    /// let minute = Duration::from_secs(60);
    /// let failed_sign_ins = Policy::sliding_window("failed sign-ins", Quota::per_minute(10))
    ///     .key(ClientIp::new())
    ///     .or_refuse()
    ///     .settle(|response| Some(u64::from(response.status == 401)))
    ///     .penalty(Penalty::after(5).failures_within(10 * minute).block(15 * minute));
    /// # let _ = failed_sign_ins;
    /// ```
    pub fn failures_within(self, time: Duration) -> Self {
        self.count(Counted::Failures, time)
    }

    fn count(mut self, counted: Counted, time: Duration) -> Self {
        if self.counted.replace((counted, time)).is_some() {
            self.set_twice = Some(
                "the penalty counts twice; write `.refusals_within(…)` or `.failures_within(…)`, once",
            );
        }
        self
    }

    /// How long the first block lasts, and each further one unless [`then`](Self::then) says how long
    /// that lasts. At most 366 days.
    pub fn block(mut self, time: Duration) -> Self {
        if !self.blocks.is_empty() {
            self.set_twice =
                Some("the penalty says `.block(…)` twice; for the next block, write `.then(…)`");
        }
        self.blocks.push(time);
        self
    }

    /// How long the next block lasts, no shorter than the one before. The last one repeats.
    pub fn then(mut self, time: Duration) -> Self {
        self.blocks.push(time);
        self
    }

    /// How long after the end of a block it is forgotten, so that the next block is the first one
    /// again. Default: a day.
    pub fn forget_after(mut self, time: Duration) -> Self {
        self.forget_after = time;
        self
    }

    /// Whether it counts these.
    pub(crate) fn counts(&self, what: Counted) -> bool {
        self.counted.is_some_and(|(counted, _)| counted == what)
    }

    /// In which time refusals or failures count together.
    pub(crate) fn within(&self) -> Duration {
        self.counted.map_or(Duration::ZERO, |(_, within)| within)
    }

    /// How long the next block lasts after so many.
    pub(crate) fn next_block(&self, blocks_before: usize) -> Duration {
        let next = self.blocks.get(blocks_before).or(self.blocks.last());
        next.copied().unwrap_or(Duration::ZERO)
    }

    /// What is wrong with it, and what to write instead.
    pub(crate) fn problem(&self) -> Option<String> {
        if let Some(problem) = self.set_twice {
            return Some(problem.to_owned());
        }
        if !(1..=MAX_AFTER).contains(&self.after) {
            return Some(format!(
                "the penalty begins after {} refusals or failures; write from 1 to {MAX_AFTER}",
                self.after
            ));
        }
        let Some((_, within)) = self.counted else {
            return Some("the penalty does not say what it counts; add `.refusals_within(…)` or `.failures_within(…)`".into());
        };
        if self.blocks.is_empty() {
            return Some("the penalty has no block; add `.block(…)`".into());
        }
        if self.blocks.len() > MAX_BLOCKS {
            let count = self.blocks.len();
            return Some(format!("the penalty has {count} blocks; write at most {MAX_BLOCKS}"));
        }
        let fits = |time: Duration| (Duration::from_micros(1)..=MAX_TIME).contains(&time);
        let times = [within, self.forget_after].into_iter().chain(self.blocks.iter().copied());
        if let Some(unfit) = times.into_iter().find(|time| !fits(*time)) {
            return Some(format!(
                "the penalty has a time of {unfit:?}; write from a microsecond to 366 days"
            ));
        }
        let mut pairs = self.blocks.iter().zip(self.blocks.iter().skip(1));
        let shorter = pairs.find(|(before, next)| next < before);
        shorter.map(|(before, next)| {
            format!("after a block of {before:?} the penalty has one of {next:?}; write them in the order of their times")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn each_mistake_is_told_with_what_to_write_instead() {
        let whole = || Penalty::after(5).refusals_within(MINUTE).block(2 * MINUTE);
        let too_many = (0..17)
            .fold(Penalty::after(1).refusals_within(MINUTE), |penalty, _| penalty.then(MINUTE));
        for (penalty, problem) in [
            (Penalty::after(0).refusals_within(MINUTE).block(MINUTE), "write from 1 to 100"),
            (Penalty::after(101).refusals_within(MINUTE).block(MINUTE), "write from 1 to 100"),
            (Penalty::after(5).block(MINUTE), "add `.refusals_within(…)` or `.failures_within(…)`"),
            (Penalty::after(5).refusals_within(MINUTE), "add `.block(…)`"),
            (whole().failures_within(MINUTE), "counts twice; write"),
            (whole().block(MINUTE), "write `.then(…)`"),
            (whole().then(MINUTE), "in the order of their times"),
            (whole().then(Duration::MAX), "from a microsecond to 366 days"),
            (whole().forget_after(Duration::ZERO), "from a microsecond to 366 days"),
            (Penalty::after(5).refusals_within(Duration::ZERO).block(MINUTE), "a time of 0ns"),
            (too_many, "17 blocks; write at most 16"),
        ] {
            let found = penalty.problem().unwrap_or_default();
            assert!(found.contains(problem), "{penalty:?}: {found}");
        }
        assert_eq!(whole().then(2 * MINUTE).then(MAX_TIME).forget_after(MINUTE).problem(), None);
    }
}
