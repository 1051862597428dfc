//! What every store does, written once. The stores' own tests run it, against a store that takes
//! the time from its caller.

/// Runs scenarios, each with keys of its own.
macro_rules! each {
    ($store:ident: $($scenario:ident)*) => { $($scenario(&Subject::new($store)).await;)* };
}

mod changes;
mod concurrency;
mod corrections;
mod histories;
mod naive;
mod promises;
mod scenarios;

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

pub(super) use self::{
    concurrency::counts_each_request_once, histories::says_what_another_says, naive::Naive,
    promises::keeps_what_plans_promise,
};
use super::{Answer, Change, Charge, Correction, Mode, Store, Usage};
use crate::{algorithm::Algorithm, clock::Now, quota::Quota};

const ALGORITHMS: [Algorithm; 3] =
    [Algorithm::TokenBucket, Algorithm::FixedWindow, Algorithm::SlidingWindow];

const SECOND: u64 = 1_000_000;
const MINUTE: u64 = 60 * SECOND;
/// 2024-01-16 10:59:30 UTC, in microseconds.
const START: u64 = 1_705_402_770 * SECOND;
/// Longer times than this one, of 285 years, may be told as it.
const LONGEST: Duration = Duration::from_micros(1 << 53);

/// All that is spelled out. A test of its own for each would start a server for each.
pub(super) async fn keeps_every_promise(store: &dyn Store) {
    scenarios::all(store).await;
    corrections::all(store).await;
    changes::all(store).await;
}

/// A store whose time is in the hands of a test: microseconds, by both clocks.
struct Subject<'a> {
    store: &'a dyn Store,
    now: AtomicU64,
    /// Of all its keys.
    shard: u64,
}

/// How long until it fits, the units left, and how long until there are more; in microseconds.
type Told = (u64, u64, u64);

impl<'a> Subject<'a> {
    /// With keys that nobody else has.
    fn new(store: &'a dyn Store) -> Self {
        static SHARDS: AtomicU64 = AtomicU64::new(1);
        // As a hash would spread it.
        let shard = SHARDS.fetch_add(1, Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        Self { store, now: AtomicU64::new(START), shard }
    }

    /// A policy is one of a test's own numbers, as is a key.
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

    fn set(&self, micros: u64) {
        self.now.store(micros, Relaxed);
    }

    fn pass(&self, micros: u64) {
        self.set(self.micros() + micros);
    }

    async fn charge(&self, charges: &[Charge]) -> Vec<Told> {
        self.told(&self.answer(charges).await)
    }

    async fn answer(&self, charges: &[Charge]) -> Answer {
        // Nobody may notice.
        charges.iter().for_each(|charge| self.store.prefetch(charge.key));
        self.store.charge(charges, self.now()).await.unwrap()
    }

    async fn correct(&self, corrections: &[Correction]) -> Vec<Told> {
        self.told(&self.store.correct(corrections, self.now()).await.unwrap())
    }

    /// Uses one key of one policy, with a cost.
    async fn uses(&self, algorithm: Algorithm, quota: Quota, cost: u64) -> Told {
        self.ask(Charge { cost, ..self.one(1, algorithm, quota) }).await
    }

    async fn ask(&self, charge: Charge) -> Told {
        self.charge(&[charge]).await[0]
    }

    /// Asks for one charge, and hands out what the store says, for its correction.
    async fn usage(&self, charge: Charge) -> Usage {
        self.answer(&[charge]).await.usages[0]
    }

    async fn peek(&self, charge: Charge) -> Told {
        self.ask(Charge { mode: Mode::Peek, ..charge }).await
    }

    async fn change(&self, charge: Charge, charged_at: Option<u64>, change: Change) -> Told {
        let charged_at = charged_at.map(at);
        self.correct(&[Correction { charged_at, ..Correction::new(charge, change) }]).await[0]
    }

    fn told(&self, answer: &Answer) -> Vec<Told> {
        assert_eq!(answer.at, self.now(), "the time of the answer");
        answer.usages.iter().map(told).collect()
    }
}

fn at(micros: u64) -> Now {
    Now::new(Duration::from_micros(micros), Duration::from_micros(micros))
}

/// Rounded up to microseconds.
fn told(usage: &Usage) -> Told {
    let micros = |time: Duration| time.min(LONGEST).as_nanos().div_ceil(1_000) as u64;
    (micros(usage.wait()), usage.remaining(), micros(usage.reset()))
}
