//! Where counts live.
//!
//! A [`Store`] takes all the [`Charge`]s of a request at once and makes all of them or none.
//! [`MemoryStore`] is the default.
//!
//! # A store of one's own
//! The [`Store`] trait has two required methods, and what each must do. This store counts fixed windows
//! only, and never forgets a key:
//!
//! ```
//! use std::{collections::HashMap, sync::Mutex, time::Duration};
//!
//! use tower_quota::{
//!     Limiter, Now, Policy, Quota,
//!     store::{Answer, Change, Charge, Correction, Mode, Store, StoreFuture, Usage},
//! };
//!
//! /// The units used, by window and by count.
//! #[derive(Default)]
//! struct Windows(Mutex<HashMap<(u128, u128), u64>>);
//!
//! /// Which window it is, and how long until it ends.
//! fn window(quota: &Quota, now: Now) -> (u128, Duration) {
//!     let (length, time) = (quota.window().as_nanos(), now.unix().as_nanos());
//!     (time / length, Duration::from_nanos((length - time % length) as u64))
//! }
//!
//! /// What is left of the window when so much is used.
//! fn usage(charge: &Charge, used: u64, now: Now) -> Usage {
//!     let remaining = charge.quota.units().saturating_sub(used);
//!     let (_, reset) = window(&charge.quota, now);
//!     let required = charge.ahead.saturating_add(charge.cost);
//!     let fits = charge.cost == 0 || required <= remaining;
//!     Usage::new(if fits { Duration::ZERO } else { reset }, remaining, reset)
//! }
//!
//! impl Store for Windows {
//!     fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
//!         // One lock for the whole request: others see all of its charges or none.
//!         let mut counts = self.0.lock().expect("no thread has panicked");
//!         let id = |charge: &Charge| (charge.id(), window(&charge.quota, now).0);
//!         let before: Vec<Usage> = charges
//!             .iter()
//!             .map(|charge| usage(charge, counts.get(&id(charge)).copied().unwrap_or(0), now))
//!             .collect();
//!         let passes = charges
//!             .iter()
//!             .zip(&before)
//!             .all(|(charge, usage)| charge.mode != Mode::Enforced || usage.fits());
//!         let make = |(charge, before): (&Charge, Usage)| {
//!             let used = counts.entry(id(charge)).or_default();
//!             if passes && before.fits() && charge.mode != Mode::Peek {
//!                 *used += charge.cost;
//!             }
//!             // The wait is that of before, and what is left is that of after.
//!             let after = usage(charge, *used, now);
//!             Usage::new(before.wait(), after.remaining(), after.reset())
//!         };
//!         let usages = charges.iter().zip(before).map(make).collect();
//!         StoreFuture::ready(Ok(Answer { usages, at: now }))
//!     }
//!
//!     fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
//!         let mut counts = self.0.lock().expect("no thread has panicked");
//!         let correct = |Correction { charge, charged_at, change, .. }: &Correction| {
//!             let current = window(&charge.quota, now).0;
//!             let used = counts.entry((charge.id(), current)).or_default();
//!             let charged_in = window(&charge.quota, charged_at.unwrap_or(now)).0;
//!             match *change {
//!                 Change::Take(units) => *used = used.saturating_add(units),
//!                 // The units of an earlier window have come back by themselves.
//!                 Change::GiveBack(_) if charged_in < current => {}
//!                 Change::GiveBack(units) => *used = used.saturating_sub(units),
//!                 Change::Reset => *used = 0,
//!             }
//!             let mut free = *charge;
//!             free.cost = 0;
//!             usage(&free, *used, now)
//!         };
//!         let usages = corrections.iter().map(correct).collect();
//!         StoreFuture::ready(Ok(Answer { usages, at: now }))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let limiter = Limiter::builder()
//!     .store(Windows::default())
//!     .direct(Policy::fixed_window("exports", Quota::per_day(2)))
//!     .build()?;
//! assert!(limiter.check("exports", "tenant-7").cost(2).await?.is_allowed());
//! assert!(!limiter.check("exports", "tenant-7").await?.is_allowed());
//! limiter.give_back("exports", "tenant-7").await?;
//! assert!(limiter.check("exports", "tenant-7").await?.is_allowed());
//! # Ok(())
//! # }
//! ```

mod announcement;
mod answer;
mod charge;
#[cfg(test)]
mod conformance;
mod correction;
mod future;
mod memory;
#[cfg(feature = "metrics")]
mod metered;
#[cfg(feature = "redis")]
mod redis;
mod usage;

use std::sync::Arc;

#[cfg(feature = "metrics")]
pub(crate) use self::metered::MeteredStore;
#[cfg(all(any(fuzzing, test), feature = "redis"))]
pub(crate) use self::redis::read_any_reply;
#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreBuilder};
pub use self::{
    announcement::Announcement,
    answer::{Answer, StoreError},
    charge::{Charge, Mode},
    correction::{Change, Correction},
    future::StoreFuture,
    memory::MemoryStore,
    usage::{Usage, Usages},
};
use crate::clock::Now;

/// Where counts live. The [module](self) has an example of a store of one's own.
///
/// A store must keep these promises:
/// - **All or nothing**: a request is charged in full or not at all, also while other requests are
///   charged.
/// - **In bounded time**: a store that asks another process answers with a [`StoreError`] when that
///   process is slow or down. [`Policy::on_store_failure`](crate::Policy::on_store_failure) says what
///   is decided then.
/// - **One answer for each charge**, in their order.
/// - **True answers**: a retry after [`Usage::wait`] passes if nobody else has used units since then.
pub trait Store: Send + Sync + 'static {
    /// Makes all of `charges` if each enforced one fits, or else none.
    ///
    /// The quota of a key may change from one charge to the next, as its plan does. A use counts
    /// under each of the key's last few quotas, so that earlier answers stay true. An answer under a
    /// new quota holds even if the charge was not made.
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture;

    /// Does the same as [`charge`](Self::charge) if it can without waiting, and writes what became of
    /// each charge to `usages`, which is as long as `charges`. `false`, the default, means that nothing
    /// was done: the limiter then calls `charge`.
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let _ = (charges, usages, now);
        false
    }

    /// Fetches the counts of a [key](Charge::key) that is about to be charged into a cache. It changes
    /// nothing. The default does nothing.
    fn prefetch(&self, key: u128) {
        let _ = key;
    }

    /// Makes all of `corrections`, one after another, and answers with what is left after each. They
    /// are made even if the answer is not awaited.
    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture;

    /// How many keys have used units that have not come back at `now`. A key counts once for each of
    /// its policies. `None`, the default, if that is not known.
    fn live_keys(&self, now: Now) -> Option<usize> {
        let _ = now;
        None
    }

    /// How many charges of a policy had no room for a count of their own. `None`, the default, if that
    /// is not known.
    fn overflowed(&self, policy: u64) -> Option<u64> {
        let _ = policy;
        None
    }

    /// Announces the policies of a limiter when it is built. The limiter keeps `policies` alive until
    /// its last clone is dropped. A store that several limiters share
    /// [compares](Announcement::compare) their settings. The default does nothing.
    fn announce(&self, policies: &Arc<[Announcement]>) {
        let _ = policies;
    }

    /// The secret by which keys become fingerprints, if several processes share the counts. `None`,
    /// the default, if each process has its own counts: fingerprints are then made in a quicker way,
    /// which is safe only as long as no one outside of the process sees them.
    fn secret(&self) -> Option<u128> {
        None
    }
}
