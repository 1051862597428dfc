//! Tests: a flood of new keys under one policy of a full store, and what it does to other policies.

use std::sync::atomic::Ordering::SeqCst;

use super::{
    tests::{admits, at, charge, key, usages},
    *,
};
use crate::{
    algorithm::Algorithm,
    quota::Quota,
    store::Change,
    warning::{Code, warnings},
};

const EMAILS: u64 = 1 << 40;
const CALLERS: u64 = 2 << 40;
const MAX_KEYS: usize = 8_192;

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

/// A sign-in with an email address, of which five an hour are allowed.
fn email(number: u64, algorithm: Algorithm) -> Charge {
    Charge { policy: EMAILS, ..charge(key(number), algorithm, Quota::per_hour(5)) }
}

/// A request of a caller with an ample quota.
fn request(number: u64, algorithm: Algorithm) -> Charge {
    let charge = charge(key(1_000_000 + number), algorithm, Quota::per_minute(100));
    Charge { policy: CALLERS, ..charge }
}

/// The share of `requests` that is refused.
fn lost(store: &MemoryStore, requests: impl Iterator<Item = Charge>, now: Now) -> f64 {
    let admitted: Vec<bool> = requests.map(|request| admits(store, request, now)).collect();
    let lost = admitted.iter().filter(|admitted| !**admitted).count();
    lost as f64 / admitted.len() as f64
}

/// Spends a tenth more addresses than there is room for.
fn flood(store: &MemoryStore, algorithm: Algorithm, now: Now) {
    for number in 0..MAX_KEYS as u64 * 11 / 10 {
        while admits(store, email(number, algorithm), now) {}
    }
}

#[test]
fn a_flood_under_one_policy_costs_the_callers_of_another_nothing() {
    for algorithm in ALGORITHMS {
        let store = MemoryStore::with_max_keys(MAX_KEYS);
        let requests_of = |callers: std::ops::Range<u64>| {
            callers.flat_map(move |number| (0..3).map(move |_| request(number, algorithm)))
        };
        assert_eq!(lost(&store, requests_of(0..500), at(0)), 0.0);
        flood(&store, algorithm, at(90));
        let regulars = lost(&store, requests_of(0..500), at(200));
        let new = lost(&store, requests_of(500..2_500), at(201));
        assert_eq!((regulars, new), (0.0, 0.0), "{algorithm:?}: idle regulars, and new callers");
        assert!(store.len() <= MAX_KEYS, "{} keys", store.len());
        assert_eq!(store.shards.overflow.get(CALLERS), 0);
    }
}

#[test]
fn no_spent_key_has_its_quota_back_when_another_policy_takes_its_room() {
    for algorithm in ALGORITHMS {
        let store = MemoryStore::with_max_keys(MAX_KEYS);
        flood(&store, algorithm, at(0));
        (0..3_000).for_each(|number| assert!(admits(&store, request(number, algorithm), at(1))));
        // The callers are idle by then, and their room is free again.
        let again = |now| {
            (0..MAX_KEYS as u64)
                .filter(move |&number| admits(&store, email(number, algorithm), now))
        };
        assert_eq!(again(at(600)).count(), 0, "{algorithm:?}: a unit comes back after 720 s");
    }
    // Keys that are not spent lose no more than was used.
    let store = MemoryStore::with_max_keys(MAX_KEYS);
    let tried = |number| email(number, Algorithm::FixedWindow);
    (0..MAX_KEYS as u64).for_each(|number| {
        for _ in 0..2 {
            admits(&store, tried(number), at(0));
        }
    });
    (0..3_000).for_each(|number| {
        assert!(admits(&store, request(number, Algorithm::FixedWindow), at(1)));
    });
    let later = |number| (0..5).filter(|_| admits(&store, tried(number), at(30))).count();
    let later: Vec<usize> = (0..7_000).map(later).collect();
    // Five units in all, and those that keys shared while there was no room, in each of two
    // shards.
    let more: usize = later.iter().map(|admitted| admitted.saturating_sub(3)).sum();
    assert!(more <= 2 * 5, "{more} more");
    assert!(later.iter().filter(|&&admitted| admitted == 3).count() > 5_000);
}

#[test]
fn no_spent_key_is_admitted_by_the_quota_that_keys_without_room_share() {
    let store = MemoryStore::with_max_keys(100);
    let email = |number| email(number, Algorithm::FixedWindow);
    (0..100).for_each(|number| assert!(admits(&store, Charge { cost: 5, ..email(number) }, at(0))));
    assert!(admits(&store, email(100), at(0)), "it has no room, and the shared quota has units");
    let request = |number| request(number, Algorithm::FixedWindow);
    assert!(
        (0..30).all(|number| admits(&store, request(number), at(1))),
        "30 of the 100 make room"
    );
    assert_eq!((0..100).filter(|&number| admits(&store, email(number), at(2))).count(), 0);
}

#[test]
fn a_policy_that_has_its_share_takes_no_more_from_others() {
    let store = MemoryStore::with_max_keys(MAX_KEYS);
    let request = |number| Charge { cost: 100, ..request(number, Algorithm::FixedWindow) };
    assert!((0..3_000).all(|number| admits(&store, request(number), at(0))));
    flood(&store, Algorithm::FixedWindow, at(1));
    assert!((0..3_000).all(|number| !admits(&store, request(number), at(2))), "all are there");
    // It takes the rest of its share, and no more.
    let new = (3_000..20_000).filter(|&number| admits(&store, request(number), at(3))).count();
    assert!((1_000..1_200).contains(&new), "{new}");
    assert!(store.shards.overflow.get(EMAILS) > 0);
}

#[test]
fn a_shared_quota_still_counts_during_a_flood_of_new_keys() {
    let store = MemoryStore::with_max_keys(100);
    let all = Charge { policy: CALLERS, ..charge(7, Algorithm::TokenBucket, Quota::per_hour(500)) };
    let both = |number| [email(number, Algorithm::TokenBucket), all];
    let new = |number| {
        let mut usages = [Usage::default(); 2];
        store.charge_at_once(&both(number), &mut usages, at(0));
        usages.iter().all(Usage::fits)
    };
    let admitted = (0..100_000).filter(|&number| new(number)).count();
    assert!(admitted <= 104, "as many as have room, and what others share: {admitted}");
    let left = usages(store.charge(&[Charge { cost: 0, ..all }], at(0)))[0].remaining();
    assert_eq!(left, 500 - admitted as u64);
}

#[test]
fn what_had_no_room_is_reported_once_per_policy() {
    let store = MemoryStore::with_max_keys(100);
    let announce = |policy, name: &str| {
        let (name, settings) = (name.to_owned(), String::new());
        store.announce(&[Announcement { name, policy, settings, before: None }].into());
    };
    announce(EMAILS, "sign-in attempts in a full store");
    announce(CALLERS, "callers of a full store");
    for number in 0..1_000 {
        admits(&store, email(number, Algorithm::FixedWindow), at(0));
        admits(&store, request(number % 10, Algorithm::FixedWindow), at(0));
    }
    // A shared quota of five, in each of the parts.
    assert_eq!(Store::overflowed(&store, EMAILS), Some(5));
    assert_eq!(Store::overflowed(&store, CALLERS), Some(0));
    assert_eq!(store.overflowed(), 5);
    let reported = |culprit: &str| {
        let all = warnings().into_iter();
        let mut all = all.filter(|given| given.code() == Code::StoreFull);
        all.clone().count().min(1) * all.by_ref().filter(|given| given.culprit() == culprit).count()
    };
    assert_eq!(reported("sign-in attempts in a full store"), 1);
    assert_eq!(reported("callers of a full store"), 0);
}

/// Charges the store at each event.
#[cfg(feature = "tracing")]
struct ChargingSubscriber(Arc<MemoryStore>);

#[cfg(feature = "tracing")]
impl tracing::Subscriber for ChargingSubscriber {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, _: &tracing::Event<'_>) {
        admits(&self.0, email(1_000_000, Algorithm::FixedWindow), at(0));
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_that_logs_a_full_store_may_charge_it() {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let store = Arc::new(MemoryStore::with_max_keys(100));
        let (name, settings) = ("logged by a subscriber that charges".into(), String::new());
        store.announce(&[Announcement { name, policy: EMAILS, settings, before: None }].into());
        tracing::subscriber::with_default(ChargingSubscriber(store.clone()), || {
            (0..200).for_each(|number| {
                admits(&store, email(number, Algorithm::FixedWindow), at(0));
            });
        });
        let full = warnings().iter().any(|given| given.culprit().ends_with("that charges"));
        let _ = done.send((full, MemoryStore::overflowed(&store)));
    });
    let (full, overflowed) = is_done.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert!(full && overflowed > 0);
}

#[test]
fn keys_that_have_their_quota_again_are_not_live_though_no_new_one_comes() {
    let store = MemoryStore::with_max_keys(MAX_KEYS);
    for (policy, algorithm) in (1..).zip(ALGORITHMS) {
        for number in 0..500 {
            let charge = request(number, algorithm);
            assert!(admits(&store, Charge { policy: policy << 40, ..charge }, at(0)));
        }
    }
    // A log of seven steps, which has no room in an entry.
    (0..7).for_each(|second| {
        admits(&store, request(1_000, Algorithm::SlidingWindow), at(second));
    });
    let live = |second| store.live_keys(at(second)).unwrap();
    assert_eq!(live(0), 1_501);
    assert_eq!(live(1), 1_001, "a bucket has a unit back after 600 ms");
    assert_eq!((live(60), live(65), live(66)), (1, 1, 0));
    assert_eq!(store.len(), 1_501, "they were not dropped");
}

#[test]
fn live_keys_are_counted_while_others_come_and_go() {
    let store = MemoryStore::with_max_keys(4_000);
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in 0..50_000 {
                admits(&store, email(number, Algorithm::FixedWindow), at(number / 10));
            }
            done.store(true, SeqCst);
        });
        while !done.load(SeqCst) {
            assert!(store.live_keys(at(0)).unwrap() <= 4_000);
        }
    });
}

#[test]
fn a_full_store_drops_no_key_that_holds_units_and_gives_no_unit_without_room() {
    const STREAMS: u64 = 3 << 40;
    let stream = |number| {
        let charge = charge(key(number), Algorithm::InFlight, Quota::in_flight(8));
        Charge { policy: STREAMS, ..charge }
    };
    let give_back = |store: &MemoryStore, number| {
        let correction = Correction::new(stream(number), Change::GiveBack(1));
        usages(store.correct(&[correction], at(300)))[0].remaining()
    };
    let store = MemoryStore::with_max_keys(100);
    // Each has seven eighths left, so that any other count would go.
    assert!((0..100).all(|number| admits(&store, stream(number), at(0))));
    (0..1_000)
        .for_each(|number| _ = admits(&store, request(number, Algorithm::TokenBucket), at(1)));
    assert!(!admits(&store, stream(100), at(2)), "no key may go");
    let preview = store.preview_at_once(&[stream(100)], at(2));
    assert_eq!((preview[0].fits(), preview[0].remaining()), (false, 0));
    assert_eq!(store.shards.overflow.get(STREAMS), 1);
    for number in 0..100 {
        assert!(admits(&store, stream(number), at(3)), "{number} holds one of eight");
        assert_eq!([give_back(&store, number), give_back(&store, number)], [7, 8]);
    }
    assert!(admits(&store, stream(100), at(400)), "all have ended");
}

/// A key is reset, and makes its whole quota of uses after that. Then an earlier charge is given back.
#[test]
fn a_reset_is_remembered_whatever_room_others_need() {
    for algorithm in ALGORITHMS {
        // A policy evicts keys of its own, or those of another one that has more than its share.
        for other in [email as fn(u64, Algorithm) -> Charge, request] {
            let store = MemoryStore::with_max_keys(100);
            let correct = |change, charge, charged_at| {
                let correction = Correction { charged_at, ..Correction::new(charge, change) };
                usages(store.correct(&[correction], at(2)))[0].remaining()
            };
            let all_units = |number| Charge { cost: 5, ..email(number, algorithm) };
            (0..100).for_each(|number| assert!(admits(&store, all_units(number), at(0))));
            (0..100).for_each(|number| _ = correct(Change::Reset, all_units(number), None));
            let mut came = 0;
            (1_000..1_400).for_each(|number| {
                came += u64::from(admits(&store, other(number, algorithm), at(3)))
            });
            assert!(came > 0, "{algorithm:?}");
            for number in 0..100 {
                (0..5).for_each(|_| _ = admits(&store, email(number, algorithm), at(4)));
                correct(Change::GiveBack(5), all_units(number), Some(at(0)));
                assert!(
                    !admits(&store, email(number, algorithm), at(4)),
                    "{algorithm:?}, {number}"
                );
            }
        }
    }
}
