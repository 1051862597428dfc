//! Pointers to a store are stores: [`Arc`] and `&'static`.

use std::sync::Arc;

use super::{
    announcement::Announcement, charge::Charge, contract::Store, correction::Correction,
    future::StoreFuture, overrides::OverrideStore, usage::Usage,
};
use crate::{algorithm::Algorithm, clock::Now};

/// Implements [`Store`] by another store, method by method: a default of the trait would forget what the
/// other store says.
macro_rules! implement_by {
    ([$($generics:tt)*] $pointer:ty, |$this:ident| $store:expr) => {
        impl $($generics)* Store for $pointer {
            fn charge(&self, charges: &[Charge], now: Now) -> StoreFuture {
                let $this = self;
                $store.charge(charges, now)
            }

            fn counts(&self, algorithm: Algorithm) -> bool {
                let $this = self;
                $store.counts(algorithm)
            }

            fn charge_at_once(&self, charges: &[Charge], usages: &mut [Usage], now: Now) -> bool {
                let $this = self;
                $store.charge_at_once(charges, usages, now)
            }

            fn preview(&self, charges: &[Charge], now: Now) -> StoreFuture {
                let $this = self;
                $store.preview(charges, now)
            }

            fn prefetch(&self, key: u128, algorithm: Algorithm) {
                let $this = self;
                $store.prefetch(key, algorithm);
            }

            fn correct(&self, corrections: &[Correction], now: Now) -> StoreFuture {
                let $this = self;
                $store.correct(corrections, now)
            }

            fn keeps_penalties(&self) -> bool {
                let $this = self;
                $store.keeps_penalties()
            }

            fn live_keys(&self, now: Now) -> Option<usize> {
                let $this = self;
                $store.live_keys(now)
            }

            fn overflowed(&self, policy: u64) -> Option<u64> {
                let $this = self;
                $store.overflowed(policy)
            }

            fn announce(&self, policies: &Arc<[Announcement]>) {
                let $this = self;
                $store.announce(policies);
            }

            fn overrides(&self) -> Option<Arc<dyn OverrideStore>> {
                let $this = self;
                $store.overrides()
            }

            fn secret(&self) -> Option<u128> {
                let $this = self;
                $store.secret()
            }
        }
    };
}
pub(crate) use implement_by;

// Several limiters may have the same store, and share its room. Only limiters with the same secret
// count together.
implement_by!([<S: Store + ?Sized>] Arc<S>, |this| (**this));
implement_by!([<S: Store + ?Sized>] &'static S, |this| (**this));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{lock::Mutex, store::StoreError};

    /// A store that notes which of its methods are called.
    #[derive(Default)]
    struct Called(Mutex<Vec<&'static str>>);

    impl Called {
        fn note(&self, method: &'static str) {
            self.0.lock().push(method);
        }

        fn later(&self, method: &'static str) -> StoreFuture {
            self.note(method);
            StoreFuture::ready(Err(StoreError::new(method)))
        }
    }

    impl Store for Called {
        fn charge(&self, _: &[Charge], _: Now) -> StoreFuture {
            self.later("charge")
        }

        fn counts(&self, _: Algorithm) -> bool {
            self.note("counts");
            true
        }

        fn charge_at_once(&self, _: &[Charge], _: &mut [Usage], _: Now) -> bool {
            self.note("charge_at_once");
            true
        }

        fn preview(&self, _: &[Charge], _: Now) -> StoreFuture {
            self.later("preview")
        }

        fn prefetch(&self, _: u128, _: Algorithm) {
            self.note("prefetch");
        }

        fn correct(&self, _: &[Correction], _: Now) -> StoreFuture {
            self.later("correct")
        }

        fn keeps_penalties(&self) -> bool {
            self.note("keeps_penalties");
            true
        }

        fn live_keys(&self, _: Now) -> Option<usize> {
            self.note("live_keys");
            Some(1)
        }

        fn overflowed(&self, _: u64) -> Option<u64> {
            self.note("overflowed");
            Some(1)
        }

        fn announce(&self, _: &Arc<[Announcement]>) {
            self.note("announce");
        }

        fn overrides(&self) -> Option<Arc<dyn OverrideStore>> {
            self.note("overrides");
            None
        }

        fn secret(&self) -> Option<u128> {
            self.note("secret");
            Some(1)
        }
    }

    fn call_all(store: &dyn Store) {
        let (now, algorithm) = (Now::ZERO, Algorithm::InFlight);
        drop(store.charge(&[], now));
        assert!(store.counts(algorithm));
        assert!(store.charge_at_once(&[], &mut [], now));
        drop(store.preview(&[], now));
        store.prefetch(0, algorithm);
        drop(store.correct(&[], now));
        assert!(store.keeps_penalties());
        assert_eq!((store.live_keys(now), store.overflowed(0)), (Some(1), Some(1)));
        let none: Arc<[Announcement]> = Arc::new([]);
        store.announce(&none);
        assert!(store.overrides().is_none());
        assert_eq!(store.secret(), Some(1));
    }

    #[test]
    fn a_pointer_passes_each_method_on() {
        let methods = include_str!("contract.rs").lines().filter_map(|line| {
            line.strip_prefix("    fn ")?.split_once('(').map(|(method, _)| method)
        });
        let methods: Vec<_> = methods.collect();
        let shared = Arc::new(Called::default());
        call_all(&Arc::clone(&shared));
        assert_eq!(*shared.0.lock(), methods);

        let kept: &'static Called = Box::leak(Box::default());
        call_all(&kept);
        assert_eq!(*kept.0.lock(), methods);

        #[cfg(feature = "testing")]
        {
            let store = Arc::new(Called::default());
            call_all(&crate::testing::FaultyStore::new(Arc::clone(&store)));
            assert_eq!(*store.0.lock(), methods);
        }
    }
}
