//! What every store must do, written once. The tests of each store run it, against a store that
//! takes the time from its caller.

/// Runs scenarios, each with keys of its own.
macro_rules! each {
    ($store:ident: $($scenario:ident)*) => { $($scenario(&Subject::new($store)).await;)* };
}

/// Runs scenarios for each algorithm, each with keys of its own.
macro_rules! for_each_algorithm {
    ($store:ident: $($scenario:ident)*) => {
        for algorithm in ALGORITHMS {
            // Shown where one fails.
            println!("{algorithm:?}");
            $($scenario(&Subject::new($store), algorithm).await;)*
        }
    };
}

mod calendars;
mod changes;
mod concurrency;
mod corrections;
mod histories;
mod in_flight;
mod naive;
mod penalties;
mod promises;
mod scenarios;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

pub(super) use self::{
    concurrency::{counts_each_request_once, draws_on_one_quota_after_the_other},
    histories::says_what_another_says,
    in_flight::holds_what_has_not_ended,
    naive::NaiveStore,
    promises::keeps_what_plans_promise,
};
use super::{Answer, Change, Charge, Correction, Mode, Store, Usage};
use crate::{algorithm::Algorithm, clock::Now, quota::Quota};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
/// 2024-01-16 10:59:30 UTC, in microseconds.
const START: u64 = 1_705_402_770 * SECOND;
/// 285 years. A store may answer this instead of a longer time.
const LONGEST: Duration = Duration::from_micros(1 << 53);

/// Runs all scenarios with spelled-out answers, in one test: with a test for each, each would start
/// a server.
pub(super) async fn keeps_every_promise(store: &dyn Store) {
    scenarios::all(store).await;
    corrections::all(store).await;
    changes::all(store).await;
    in_flight::all(store).await;
    penalties::all(store).await;
}

/// A store, and the time that a test sets: microseconds, by both clocks.
struct Subject<'a> {
    store: &'a dyn Store,
    now: AtomicU64,
    /// The shard of all its keys.
    shard: u64,
}

/// How long until the cost fits, the units left, and how long until there are more; times in
/// microseconds, rounded up.
type Snapshot = (u64, u64, u64);

impl<'a> Subject<'a> {
    /// Its keys are used by no other subject.
    fn new(store: &'a dyn Store) -> Self {
        static SHARDS: AtomicU64 = AtomicU64::new(1);
        // As a hash would spread it.
        let shard = SHARDS.fetch_add(1, Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { store, now: AtomicU64::new(START), shard }
    }

    /// One unit of key `number`, under the policy of this algorithm.
    fn one(&self, number: u64, algorithm: Algorithm, quota: Quota) -> Charge {
        let (high, low) = (number.wrapping_mul(0xF39C_C060_5CED_C835), self.shard ^ number);
        let key = u128::from(high) << 64 | u128::from(low);
        Charge {
            shard: self.shard,
            ..Charge::new((algorithm as u64 + 1) << 40, key, algorithm, quota)
        }
    }

    fn micros(&self) -> u64 {
        self.now.load(Relaxed)
    }

    fn now(&self) -> Now {
        at(self.micros())
    }

    fn set_time(&self, micros: u64) {
        self.now.store(micros, Relaxed);
    }

    fn advance(&self, micros: u64) {
        self.set_time(self.micros() + micros);
    }

    async fn charge(&self, charges: &[Charge]) -> Vec<Snapshot> {
        self.snapshots(&self.answer(charges).await)
    }

    async fn answer(&self, charges: &[Charge]) -> Answer {
        // A prefetch changes nothing.
        charges.iter().for_each(|charge| self.store.prefetch(charge.key, charge.algorithm));
        self.store.charge(charges, self.now()).await.unwrap()
    }

    async fn correct(&self, corrections: &[Correction]) -> Vec<Snapshot> {
        self.snapshots(&self.store.correct(corrections, self.now()).await.unwrap())
    }

    /// Charges key 1 so much.
    async fn charge_cost(&self, algorithm: Algorithm, quota: Quota, cost: u64) -> Snapshot {
        self.charge_one(Charge { cost, ..self.one(1, algorithm, quota) }).await
    }

    async fn charge_one(&self, charge: Charge) -> Snapshot {
        self.charge(&[charge]).await[0]
    }

    /// Charges once, and returns the correction that gives a unit back.
    async fn charge_to_give_back(&self, charge: Charge) -> Correction {
        let (at, usage) = (Some(self.now()), self.answer(&[charge]).await.usages[0]);
        let give_back = Correction::new(charge, Change::GiveBack(1));
        Correction { charged_at: at, usage, ..give_back }
    }

    async fn peek(&self, charge: Charge) -> Snapshot {
        self.charge_one(Charge { mode: Mode::Peek, ..charge }).await
    }

    async fn correct_one(
        &self,
        charge: Charge,
        charged_at: Option<u64>,
        change: Change,
    ) -> Snapshot {
        let charged_at = charged_at.map(at);
        self.correct(&[Correction { charged_at, ..Correction::new(charge, change) }]).await[0]
    }

    fn snapshots(&self, answer: &Answer) -> Vec<Snapshot> {
        assert_eq!(answer.at, self.now(), "the time of the answer");
        answer.usages.iter().map(snapshot).collect()
    }
}

fn at(micros: u64) -> Now {
    Now::new(Duration::from_micros(micros), Duration::from_micros(micros))
}

fn snapshot(usage: &Usage) -> Snapshot {
    let micros = |time: Duration| time.min(LONGEST).as_nanos().div_ceil(1_000) as u64;
    (micros(usage.wait()), usage.remaining(), micros(usage.reset()))
}
