//! Where counts live.
//!
//! A [`Store`] gets all the [`Charge`]s of a request at once, and makes all of them or none.
//! [`MemoryStore`] is the default.
//!
//! # A store of one's own
//! The [`Store`] trait has two required methods, and its docs say what each must do. This example
//! counts fixed windows only, and never forgets a key:
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
//!                 // The units of an earlier window have come back by themselves.
//!                 Change::Take(_) | Change::GiveBack(_) if charged_in < current => {}
//!                 Change::Take(units) => *used = used.saturating_add(units),
//!                 Change::GiveBack(units) => *used = used.saturating_sub(units),
//!                 Change::Reset => *used = 0,
//!                 // Only for a store that `keeps_penalties`.
//!                 Change::Penalize(_) | Change::Pardon => {}
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
//!     .check_only(Policy::fixed_window("exports", Quota::per_day(2)))
//!     .build()?;
//! assert!(limiter.check("exports", "tenant-7").cost(2).await?.is_allowed());
//! assert!(!limiter.check("exports", "tenant-7").await?.is_allowed());
//! drop(limiter.give_back("exports", "tenant-7", 1).await?);
//! assert!(limiter.check("exports", "tenant-7").await?.is_allowed());
//! # Ok(())
//! # }
//! ```

mod announcement;
mod answer;
mod charge;
#[cfg(test)]
mod conformance;
mod contract;
mod correction;
mod future;
mod memory;
mod overrides;
mod pointers;
mod preview;
#[cfg(feature = "redis")]
mod redis;
mod usage;

#[cfg(any(test, feature = "redis"))]
pub(crate) use self::charge::made;
#[cfg(all(any(fuzzing, test), feature = "redis"))]
pub(crate) use self::redis::read_any_reply;
#[cfg(feature = "redis")]
pub use self::redis::{RedisStore, RedisStoreBuilder};
pub use self::{
    announcement::Announcement,
    answer::{Answer, StoreError},
    charge::{Charge, Mode},
    contract::Store,
    correction::{Change, Correction},
    future::StoreFuture,
    memory::MemoryStore,
    overrides::{
        MAX_OVERRIDES, OverrideFuture, OverrideStore, OverrideUpdate, OverrideVersion,
        SharedOverrides,
    },
    usage::{Usage, Usages},
};
pub(crate) use self::{
    charge::{pass, runs},
    correction::{Reset, resets_so_far},
    pointers::implement_by,
};
