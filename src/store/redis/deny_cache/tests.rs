//! The cache in front of a server, which is memory: it refuses only what the server would.

use std::{
    pin::pin,
    task::{Context, Poll, Waker},
};

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::{
    algorithm::Algorithm,
    store::{MemoryStore, Store},
};

const HOUR: Duration = Duration::from_secs(3_600);
const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

fn at(millis: u64) -> Now {
    let time = Duration::from_millis(1_000_000 + millis);
    Now::new(time, time)
}

fn times(sent: u64, received: u64) -> RoundTrip {
    RoundTrip { sent: at(sent).monotonic_nanos(), received: at(received).monotonic_nanos() }
}

fn charge(key: u128, algorithm: Algorithm, quota: Quota) -> Charge {
    Charge::new(1, key, algorithm, quota)
}

fn spent(key: u128) -> Charge {
    charge(key, Algorithm::SlidingWindow, Quota::per_minute(1))
}

/// A server, and the cache in front of it.
struct Cached {
    server: MemoryStore,
    cache: DenyCache,
    asked: u64,
}

impl Cached {
    fn new(keys: usize) -> Self {
        Self { server: MemoryStore::new(), cache: DenyCache::new(keys, HOUR), asked: 0 }
    }

    fn ask_server(&self, charges: &[Charge], now: Now) -> Answer {
        let answer = pin!(self.server.charge(charges, now));
        match answer.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(answer)) => answer,
            _ => unreachable!("memory answers at once"),
        }
    }

    /// A command takes `there` milliseconds to the server, and its reply as many back.
    fn charge(&mut self, charges: &[Charge], millis: u64, there: u64) -> Answer {
        let miss = match self.cache.look_up(charges, at(millis), |_| false) {
            Ok(denied) => return denied,
            Err(miss) => miss,
        };
        self.asked += 1;
        let answer = self.ask_server(charges, at(millis + there));
        self.cache.remember(charges, &miss, &answer, times(millis, millis + 2 * there));
        answer
    }
}

#[test]
fn a_flood_asks_the_server_once() {
    for algorithm in ALGORITHMS {
        let mut cached = Cached::new(64);
        let one = [charge(1, algorithm, Quota::per_minute(1))];
        assert!(cached.charge(&one, 0, 5).usages[0].fits());
        for millis in 10..1_000 {
            let usage = cached.charge(&one, millis, 5).usages[0];
            assert!(!usage.fits());
            assert_eq!(usage.remaining(), 0);
        }
        assert_eq!(cached.asked, 2);
        assert_eq!(cached.cache.hits.load(Relaxed), 989);
    }
}

/// Requests of another cost are refused from the cache as well.
#[test]
fn a_flood_of_many_costs_asks_the_server_a_few_times() {
    for algorithm in ALGORITHMS {
        for used in [10, 8] {
            let mut cached = Cached::new(64);
            let one = |cost| [Charge { cost, ..charge(1, algorithm, Quota::per_minute(10)) }];
            assert!(cached.charge(&one(used), 0, 0).usages[0].fits());
            for nth in 0..3_000 {
                let cost = 11 - used + nth * 7 % 5;
                let usage = cached.charge(&one(cost), 1 + nth, 0).usages[0];
                assert!(!usage.fits(), "{algorithm:?}: {cost} of {}", 10 - used);
            }
            assert!(cached.asked <= 7, "{algorithm:?}: asked {} times", cached.asked);
        }
    }
}

/// Each request costs one unit more than the last. There are far more costs than refusals of a key.
#[test]
fn costs_that_grow_take_no_more_memory() {
    let mut cached = Cached::new(64);
    let quota = Quota::per_minute(1_000);
    let one = |cost| [Charge { cost, ..charge(1, Algorithm::SlidingWindow, quota) }];
    cached.charge(&one(1_000), 0, 0);
    (1..=1_000).for_each(|cost| drop(cached.charge(&one(cost), cost, 0)));
    let segment = cached.cache.segments[1].lock();
    assert!(segment.denied[&one(1)[0].id()].refusals.len() <= MAX_REFUSALS);
    drop(segment);
    let asked = cached.asked;
    (1..=1_000).for_each(|cost| drop(cached.charge(&one(cost), 1_001, 0)));
    assert_eq!(cached.asked, asked, "each lies between two that are known");
}

/// Replies take different times, so a refusal of fewer units may seem to end after one of more units.
#[test]
fn a_cost_between_two_refusals_that_end_out_of_order_is_refused_by_the_later() {
    let mut cached = Cached::new(64);
    let one =
        |cost| [Charge { cost, ..charge(1, Algorithm::SlidingWindow, Quota::per_minute(10)) }];
    cached.charge(&one(10), 0, 0);
    for (cost, there) in [(1, 0), (2, 0), (5, 0), (3, 40)] {
        cached.charge(&one(cost), cost, there);
    }
    let asked = cached.asked;
    (100..120).for_each(|millis| drop(cached.charge(&one(4), millis, 0)));
    assert_eq!(cached.asked, asked);
}

#[test]
fn a_flood_of_many_costs_asks_a_few_times_however_late_replies_are() {
    for late in 0_u64..1 << 10 {
        let mut cached = Cached::new(64);
        let one =
            |cost| [Charge { cost, ..charge(1, Algorithm::SlidingWindow, Quota::per_minute(10)) }];
        cached.charge(&one(10), 0, 0);
        let before = cached.asked;
        for nth in 0..200 {
            let delay = if nth < 10 { 7 * (late >> nth & 1) } else { 0 };
            assert!(!cached.charge(&one(1 + nth * 3 % 5), 10 * nth, delay).usages[0].fits());
        }
        assert!(cached.asked - before <= 5, "{late:b}: asked {} times", cached.asked - before);
    }
}

#[test]
fn a_refusal_says_nothing_of_another_quota() {
    for algorithm in ALGORITHMS {
        let mut cached = Cached::new(64);
        let of = |units, cost| [Charge { cost, ..charge(1, algorithm, Quota::per_minute(units)) }];
        cached.charge(&of(3, 3), 0, 0);
        assert!(!cached.charge(&of(3, 1), 1, 0).usages[0].fits());
        let asked = cached.asked;
        assert!(!cached.charge(&of(3, 2), 2, 0).usages[0].fits());
        for (units, fits) in [(9, true), (3, false), (2, false), (9, true)] {
            let usage = cached.charge(&of(units, 1), 3, 0).usages[0];
            assert_eq!(usage.fits(), fits, "{algorithm:?}: under {units} a minute");
        }
        assert!(cached.asked >= asked + 4, "each takes a command of its own");
    }
}

#[test]
fn what_was_given_back_or_raised_is_not_remembered() {
    let mut cached = Cached::new(64);
    let one = [spent(1)];
    cached.charge(&one, 0, 5);
    cached.charge(&one, 10, 5);
    let refused = cached.cache.look_up(&one, at(31), |_| false).unwrap();
    assert!(!refused.usages[0].fits());
    cached.cache.forget(&one[0]);
    let miss = cached.cache.look_up(&one, at(32), |_| false).err().unwrap();
    // The server refuses it, units come back, and then the refusal is received.
    cached.cache.forget(&one[0]);
    cached.cache.remember(&one, &miss, &refused, times(32, 33));
    assert!(cached.cache.look_up(&one, at(34), |_| false).is_err());

    assert!(!cached.charge(&one, 40, 0).usages[0].fits());
    assert!(cached.cache.look_up(&one, at(41), |_| false).is_ok());
    let raised = [Charge { quota: Quota::per_minute(2), ..one[0] }];
    assert!(cached.charge(&raised, 42, 0).usages[0].fits());
}

#[test]
fn what_may_come_back_early_is_not_remembered() {
    let mut cached = Cached::new(64);
    let settled = [Charge { is_settled: true, ..spent(1) }];
    for millis in 0..5 {
        cached.charge(&settled, millis, 0);
    }
    assert_eq!(cached.asked, 5);
}

#[test]
fn nothing_is_remembered_longer_than_allowed_or_beyond_the_bound() {
    let mut cached = Cached::new(64);
    cached.cache.longest = nanos(Duration::from_millis(100));
    cached.charge(&[spent(1)], 0, 0);
    for millis in [1, 100, 101, 200, 201] {
        cached.charge(&[spent(1)], millis, 0);
    }
    assert_eq!(cached.asked, 4, "at 0, 1, 101 and 201");

    let keys = || (0..100).map(|key| spent(u128::from(key * SEGMENTS as u64)));
    let mut small = Cached::new(SEGMENTS);
    for millis in [0, 1, 2] {
        keys().for_each(|key| drop(small.charge(&[key], millis, 0)));
    }
    assert_eq!(small.asked, 299, "one of them is remembered");
    assert_eq!(small.cache.segments[0].lock().denied.len(), 1);
    // When that ends, there is room.
    assert!(small.charge(&[spent(1 << 20)], 59_999, 0).usages[0].fits());
    small.charge(&[spent(1 << 20)], 60_000, 0);
    small.charge(&[spent(1 << 20)], 60_001, 0);
    assert_eq!(small.asked, 301);
}

#[test]
fn what_is_left_of_the_other_charges_is_unknown() {
    let mut cached = Cached::new(64);
    let both = [spent(1), charge(2, Algorithm::TokenBucket, Quota::per_minute(9))];
    cached.charge(&both, 0, 0);
    assert!(cached.charge(&both, 1, 0).usages[1].is_known());
    let denied = cached.charge(&both, 2, 0);
    assert!(!denied.usages[0].fits() && denied.usages[0].is_known());
    assert!(!denied.usages[1].is_known());
    let peek = both.map(|charge| Charge { mode: Mode::Peek, ..charge });
    assert!(cached.charge(&peek, 3, 0).usages[1].is_known(), "a peek gets an answer");
    assert_eq!(cached.charge(&both[1..], 4, 0).usages[0].remaining(), 7);
}

proptest! {
    /// The cache refuses nothing that the server would let pass, whatever the costs, and while the
    /// key's quota changes. No answer has a wait that is too short.
    #[test]
    fn a_request_is_refused_as_long_as_the_server_would(
        algorithm in select(ALGORITHMS.to_vec()),
        quotas in (1..8_u64, 1..8_u64),
        there in 0..40_u64,
        requests in vec((0..400_u64, 1..9_u64, 0..3_u64, prop::bool::weighted(0.05)), 1..80),
    ) {
        let mut cached = Cached::new(64);
        let (mut quota, mut other) = (quotas.0, quotas.1);
        let mut millis = 0;
        for (later, cost, ahead, changes) in requests {
            millis += later;
            if changes {
                (quota, other) = (other, quota);
            }
            let limit = Quota::per_window(quota, Duration::from_secs(1));
            let one = Charge { cost, ahead, ..charge(1, algorithm, limit) };
            let asked = cached.asked;
            let answer = cached.charge(&[one], millis, there);
            if cached.asked > asked {
                continue;
            }
            let usage = answer.usages[0];
            let peek = Charge { mode: Mode::Peek, ..one };
            let known = cached.ask_server(&[peek], at(millis)).usages[0];
            prop_assert!(!known.fits(), "it would pass");
            if cost > quota {
                continue; // waiting does not help
            }
            prop_assert!(usage.wait() >= known.wait(), "a retry then is refused");
            if algorithm == Algorithm::SlidingWindow {
                continue; // it may have the time of more units
            }
            // Two times are rounded up, and their sum.
            let late = Duration::from_millis(2 * there) + Duration::from_nanos(2);
            prop_assert!(usage.wait() <= known.wait() + late);
            if there == 0 && cost + ahead == 1 {
                prop_assert_eq!(usage, known);
            }
        }
    }
}

#[test]
fn a_refusal_counts_only_if_no_other_quota_may_have_room() {
    for algorithm in ALGORITHMS {
        let mut cached = Cached::new(64);
        let first = Charge { or_else: true, ..charge(1, algorithm, Quota::per_hour(1)) };
        let second = charge(2, algorithm, Quota::per_minute(3));
        let other = charge(3, algorithm, Quota::per_hour(100));
        let mut passed = 0;
        let mut ask = |cached: &mut Cached, millis| {
            let answer = cached.charge(&[other, first, second], millis, 0);
            let passes = answer.usages[1].fits() || answer.usages[2].fits();
            passed += u32::from(passes);
            (passes, answer.usages[0].is_known())
        };
        for millis in 0..4 {
            assert_eq!(ask(&mut cached, millis), (true, true));
        }
        assert_eq!(cached.asked, 4, "{algorithm:?}: a refusal of the first alone refuses nothing");
        // The server says that neither has room; after that, this is known here.
        assert_eq!(ask(&mut cached, 4), (false, true));
        for millis in 5..1_000 {
            assert_eq!(ask(&mut cached, millis), (false, false), "{algorithm:?}");
        }
        assert_eq!(cached.asked, 5, "{algorithm:?}");
        // The second is back after a minute, and the first still refused.
        assert!(ask(&mut cached, 60_010).0, "{algorithm:?}");
        // Alone, the first is refused without the server.
        let asked = cached.asked;
        assert!(!cached.charge(&[Charge { or_else: false, ..first }], 60_011, 0).usages[0].fits());
        assert_eq!(cached.asked, asked, "{algorithm:?}");
        assert_eq!(passed, 5);
    }
}
