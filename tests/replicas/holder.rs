//! A replica whose callers take units in flight and give them back all the time. It prints when.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use tower_quota::{AcquireError, Limiter, OnStoreFailure, Policy, Reason, store::RedisStore};

use crate::{
    quotas::SECRET,
    replica::{LONGEST, lateness, micros, set_at_end_of_input},
};

/// How many of a key may be held at once.
pub const UNITS: u64 = 6;
pub const KEYS: usize = 2;
/// The callers of each key. The first one's requests are long.
const CALLERS: usize = 4;
/// How long requests last, in steps, so that a process that is stopped goes on with them later.
const STEP: Duration = Duration::from_millis(5);
const SHORT: Duration = Duration::from_millis(20);
/// Between two requests of a caller.
const PAUSE: Duration = Duration::from_millis(10);
/// So long that a slow machine does not look like a failed server.
const PATIENCE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holding {
    pub url: String,
    /// The store's `in_flight_timeout`.
    pub timeout: Duration,
    /// How long a long request lasts, while its process runs.
    pub long: Duration,
}

/// A line that a replica prints. Times are microseconds since 1970.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Event {
    /// A caller has a unit, for which it has asked before.
    Entered {
        caller: usize,
        asked: u64,
        at: u64,
    },
    /// Its request ends: the unit is about to go back.
    Left {
        caller: usize,
        at: u64,
    },
    Unavailable {
        at: u64,
    },
    /// The longest time by which a thread woke too late.
    Lateness(Duration),
}

impl Event {
    pub fn at(&self) -> u64 {
        match *self {
            Self::Entered { at, .. } | Self::Left { at, .. } | Self::Unavailable { at } => at,
            Self::Lateness(_) => 0,
        }
    }
}

pub fn key_of(caller: usize) -> usize {
    caller % KEYS
}

/// Whether the requests of a caller are long.
fn is_long(caller: usize) -> bool {
    caller < KEYS
}

fn say(event: Event) {
    println!("{}", serde_json::to_string(&event).unwrap());
}

/// Prints when it is ready, and then what happens until its input ends.
pub fn run(orders: Holding) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let ends = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&ends);
    let lateness = thread::spawn(move || lateness(&until));
    runtime.unwrap().block_on(hold_until_input_ends(orders, ends));
    say(Event::Lateness(lateness.join().unwrap()));
}

async fn hold_until_input_ends(orders: Holding, ends: Arc<AtomicBool>) {
    let store = RedisStore::builder(&orders.url).secret(SECRET).in_flight_timeout(orders.timeout);
    let store = store.response_timeout(PATIENCE).decision_timeout(2 * PATIENCE).build().unwrap();
    let policy = Policy::in_flight("held", UNITS).on_store_failure(OnStoreFailure::Refuse);
    let limiter = Limiter::builder().check_only(policy).store(store).build().unwrap();
    let start = Instant::now();
    while limiter.peek("held", "pulse").await.unwrap().reason() == Some(Reason::StoreUnavailable) {
        assert!(start.elapsed() < LONGEST, "there is no server");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("ready");
    set_at_end_of_input(&ends);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS * KEYS {
        let lasts = if is_long(caller) { orders.long } else { SHORT };
        callers.spawn(enter_and_leave(limiter.clone(), caller, lasts, Arc::clone(&ends)));
    }
    callers.join_all().await;
}

async fn enter_and_leave(limiter: Limiter, caller: usize, lasts: Duration, ends: Arc<AtomicBool>) {
    let (start, key) = (Instant::now(), format!("hot-{}", key_of(caller)));
    let goes_on = || !ends.load(Relaxed) && start.elapsed() < LONGEST;
    while goes_on() {
        let asked = micros();
        match limiter.policy("held").unwrap().enter(&*key).await {
            Ok(permit) => {
                say(Event::Entered { caller, asked, at: micros() });
                for _ in 0..lasts.as_millis() / STEP.as_millis() {
                    if goes_on() {
                        tokio::time::sleep(STEP).await;
                    }
                }
                say(Event::Left { caller, at: micros() });
                drop(permit);
            }
            Err(AcquireError::Refused(decision)) => {
                if decision.reason() == Some(Reason::StoreUnavailable) {
                    say(Event::Unavailable { at: micros() });
                }
            }
            Err(error) => panic!("{error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}
