//! What every store does: the trait [`Store`].

use std::sync::Arc;

use super::{
    announcement::Announcement, charge::Charge, correction::Correction, future::StoreFuture,
    overrides::OverrideStore, preview::preview_by_peeks, usage::Usage,
};
use crate::{algorithm::Algorithm, clock::Now};

/// Where counts live. The [module](super) has an example of your own store.
///
/// A store must keep these promises:
/// - **All or nothing**: a request is charged in full or not at all, also while other requests are
///   charged.
/// - **In bounded time**: a store that asks another process answers with a
///   [`StoreError`](super::StoreError) when that process is slow or down.
///   [`Policy::on_store_failure`](crate::Policy::on_store_failure) says what is decided then.
/// - **One answer for each charge**, in their order.
/// - **True answers**: a retry after [`Usage::wait`] passes if no other request has used units
///   since then.
pub trait Store: Send + Sync + 'static {
    /// Makes all of `charges` if each [enforced](super::Mode) one fits; otherwise makes none. Of
    /// charges that [stand for each other](Charge::or_else), it makes the first that fits, and one is
    /// enough.
    ///
    /// The quota of a key may change from one charge to the next, with its plan. Earlier answers
    /// must stay true: so a use counts under each of the key's last few quotas. This includes a
    /// quota under which a charge was answered and not made.
    fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture;

    /// Whether the store counts by this algorithm: `build()` fails if it does not. By default, it counts
    /// by all but [`Algorithm::InFlight`]: a store that counts units in flight gives back exactly the
    /// units that were taken, forgets none of them while they are held, and gives back those of a process
    /// that has died.
    fn counts(&self, algorithm: Algorithm) -> bool {
        algorithm != Algorithm::InFlight
    }

    /// Does the same as [`charge`](Self::charge), if it need not wait, and writes the answer to
    /// each charge into `usages`, which is as long as `charges`. `false`, the default, means that
    /// nothing was done: the limiter then calls `charge`.
    fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
        let _ = (charges, usages, now);
        false
    }

    /// Answers what [`charge`](Self::charge) would answer now, and changes nothing. For
    /// [`Limiter::explain`](crate::Limiter::explain), which is rare: it may be slow.
    ///
    /// The default sends peeks to `charge`, and subtracts what the request would use. Where a sliding
    /// window has uses already, its [`reset`](Usage::reset) is then that of before the request.
    fn preview(&self, charges: &[Charge], now: Now) -> StoreFuture {
        preview_by_peeks(self, charges, |_| 0, now)
    }

    /// Loads the counts of a [key](Charge::key) by this algorithm into the processor's cache, as the
    /// key will be charged soon. It changes nothing. The default does nothing.
    fn prefetch(&self, key: u128, algorithm: Algorithm) {
        let _ = (key, algorithm);
    }

    /// Makes all of `corrections`, one after another, and answers with what is left after each.
    /// They are made even if the answer is not awaited.
    fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture;

    /// Whether the store keeps [penalties](crate::Penalty): it counts each
    /// [`Change::Penalize`](super::Change), and a charge of a blocked key does not fit while its policy
    /// [has a penalty](Charge::has_penalty). `false`, the default: a limiter whose policies have
    /// penalties is not built with the store.
    fn keeps_penalties(&self) -> bool {
        false
    }

    /// How many keys have used units that have not come back at `now`. A key counts once for each
    /// of its policies. `None`, the default, if the store does not know.
    fn live_keys(&self, now: Now) -> Option<usize> {
        let _ = now;
        None
    }

    /// How many charges of a policy had no room for a count of their own. `None`, the default, if
    /// the store does not know.
    fn overflowed(&self, policy: u64) -> Option<u64> {
        let _ = policy;
        None
    }

    /// Announces the policies of a limiter: when it is built, and when [others are
    /// applied](crate::Limiter::apply). The limiter keeps `policies` alive until it announces others,
    /// or its last clone is dropped. A store that several limiters share
    /// [compares](Announcement::compare) their settings. The default does nothing.
    fn announce(&self, policies: &Arc<[Announcement]>) {
        let _ = policies;
    }

    /// Where the overrides of callers are kept, if several processes share them. `None`, the default,
    /// if each process has its own.
    fn overrides(&self) -> Option<Arc<dyn OverrideStore>> {
        None
    }

    /// The secret that turns keys into fingerprints, if several processes share the counts. `None`,
    /// the default, if each process has its own counts: fingerprints are then made faster, which is
    /// safe only if no one outside of the process sees them.
    fn secret(&self) -> Option<u128> {
        None
    }
}
