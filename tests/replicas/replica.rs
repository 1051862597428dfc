//! A replica: a process of its own, whose callers want more than the quota.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::task::yield_now;
use tower_quota::{Clock, Decision, Limiter, Reason};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use common::Lines;

use crate::{
    holder::Holding,
    quotas::{KEYS, PATHS, Quotas, request},
};

/// The variable by which this program knows that it is a replica, and its [`Role`].
pub const ROLE: &str = "REPLICA_ROLE";
const CALLERS: usize = 6;
/// Nothing goes on for longer.
pub const LONGEST: Duration = Duration::from_secs(60);

/// What a replica does.
#[derive(Debug, Serialize, Deserialize)]
pub enum Role {
    /// It asks for units of quotas.
    Asks(Orders),
    /// It holds units in flight.
    Holds(Holding),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Orders {
    /// Of a server, or of some of a cluster.
    pub urls: Vec<String>,
    pub quotas: Quotas,
    /// Between two requests of a caller.
    pub pause: Duration,
    /// For how long an answer is awaited, where a slow machine must not look like a failing server.
    pub patience: Option<Duration>,
    /// How far the replica's clock is off.
    pub clock_ahead: i64,
    /// Whether callers leave before they are answered.
    pub leaves: bool,
}

/// What became of all requests.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    pub asked: Vec<Asked>,
    /// What was logged, and how often.
    pub logged: BTreeMap<String, u32>,
    /// The longest that a thread woke after its time: the machine does other things.
    pub lateness: Duration,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Asked {
    /// `None`: whether the server decides.
    pub path: Option<usize>,
    pub key: usize,
    pub cost: u64,
    /// In microseconds since 1970.
    pub at: u64,
    pub wait: Duration,
    pub verdict: Verdict,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// When, in microseconds since 1970, by the server's clock.
    Admitted(u64),
    Refused,
    Unavailable,
    /// The caller has not waited for it.
    Left,
}

impl From<&Decision> for Verdict {
    fn from(decision: &Decision) -> Self {
        match decision.reason() {
            None => Self::Admitted(decision.decided_at().as_micros() as u64),
            Some(Reason::StoreUnavailable) => Self::Unavailable,
            Some(_) => Self::Refused,
        }
    }
}

/// Prints when it is ready, sends requests until its input ends, and then prints its report.
pub fn run(orders: Orders) {
    let lines = Lines::default();
    let levels = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_target("tower_quota::limiter::fallback", LevelFilter::DEBUG);
    let format = tracing_subscriber::fmt::layer().without_time().with_ansi(false);
    tracing_subscriber::registry().with(format.with_writer(lines.clone())).with(levels).init();

    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().unwrap();
    let ends = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&ends);
    let lateness = thread::spawn(move || lateness(&until));
    let asked = runtime.block_on(ask_until_input_ends(orders, ends));
    let (logged, lateness) = (counted(&lines.text()), lateness.join().unwrap());
    println!("{}", serde_json::to_string(&Report { asked, logged, lateness }).unwrap());
}

/// Sets the flag when the input of this process ends.
pub fn set_at_end_of_input(ends: &Arc<AtomicBool>) {
    let ends = Arc::clone(ends);
    thread::spawn(move || {
        let _ = io::stdin().read(&mut [0]);
        ends.store(true, Relaxed);
    });
}

/// Measures by how much the machine is late, at the most, when a thread only sleeps.
pub fn lateness(ends: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !ends.load(Relaxed) {
        let (start, time) = (Instant::now(), Duration::from_millis(5));
        thread::sleep(time);
        longest = longest.max(start.elapsed() - time);
    }
    longest
}

async fn ask_until_input_ends(orders: Orders, ends: Arc<AtomicBool>) -> Vec<Asked> {
    let mut store = Quotas::store(&orders.urls);
    if let Some(patience) = orders.patience {
        store = store.response_timeout(patience).decision_timeout(patience);
        store = store.connect_timeout(patience);
    }
    let ahead = Duration::from_secs(orders.clock_ahead.unsigned_abs());
    let now = SystemTime::now();
    let clock = match orders.clock_ahead {
        0 => Clock::system(),
        1.. => Clock::tokio(now + ahead),
        _ => Clock::tokio(now - ahead),
    };
    let limiter = orders.quotas.limiter(store, clock);
    let start = Instant::now();
    while !limiter.check("pulse", 0_u64).await.unwrap().is_allowed() {
        assert!(start.elapsed() < LONGEST, "there is no server");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    println!("ready");
    set_at_end_of_input(&ends);

    // Of a cluster, keys of all its servers.
    let keys = if orders.urls.len() == 1 { 1 } else { 6 };
    let mut callers = vec![tokio::spawn(feel_the_pulse(limiter.clone(), keys, Arc::clone(&ends)))];
    for caller in 0..CALLERS {
        let (limiter, orders, ends) = (limiter.clone(), orders.clone(), Arc::clone(&ends));
        callers.push(tokio::spawn(call(limiter, orders, caller, ends)));
    }
    let mut asked = Vec::new();
    for caller in callers {
        asked.append(&mut caller.await.unwrap());
    }
    // What was left behind is given back.
    tokio::time::sleep(Duration::from_millis(if orders.leaves { 500 } else { 0 })).await;
    asked
}

async fn feel_the_pulse(limiter: Limiter, keys: usize, ends: Arc<AtomicBool>) -> Vec<Asked> {
    let (mut asked, start) = (Vec::new(), Instant::now());
    // It ends when each server has decided once more, because a slow machine heals later.
    let mut decided = vec![false; keys];
    for key in (0..keys).cycle() {
        let ends = ends.load(Relaxed);
        if ends && !decided.contains(&false) || start.elapsed() > LONGEST {
            break;
        }
        let (at, begun) = (micros(), Instant::now());
        let decision = limiter.check("pulse", key as u64).await.unwrap();
        let (wait, verdict) = (begun.elapsed(), Verdict::from(&decision));
        decided[key] |= ends && verdict != Verdict::Unavailable;
        asked.push(Asked { path: None, key, cost: 1, at, wait, verdict });
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    asked
}

async fn call(
    limiter: Limiter,
    orders: Orders,
    caller: usize,
    ends: Arc<AtomicBool>,
) -> Vec<Asked> {
    let (mut asked, start) = (Vec::new(), Instant::now());
    // Each begins elsewhere, and comes by all paths with all keys and costs.
    for turn in caller * 5.. {
        if ends.load(Relaxed) || start.elapsed() > LONGEST {
            break;
        }
        let (path, turn) = (turn % PATHS, turn / PATHS);
        let (key, cost) = (turn % KEYS, 1 + (turn / KEYS % 3) as u64);
        let (at, begun) = (micros(), Instant::now());
        let request = request(path, key, cost);
        let verdict = if orders.leaves {
            let limiter = limiter.clone();
            let task = tokio::spawn(async move { limiter.decide(&request).await });
            let patience = match turn % 2 {
                0 => LONGEST,
                _ => Duration::from_micros((turn * 37 % 400) as u64),
            };
            while begun.elapsed() < patience && !task.is_finished() {
                yield_now().await;
            }
            task.abort();
            task.await.map_or(Verdict::Left, |decision| Verdict::from(&decision))
        } else {
            Verdict::from(&limiter.decide(&request).await)
        };
        asked.push(Asked { path: Some(path), key, cost, at, wait: begun.elapsed(), verdict });
        tokio::time::sleep(orders.pause).await;
    }
    asked
}

/// Since 1970.
pub fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

fn counted(text: &str) -> BTreeMap<String, u32> {
    let mut counted = BTreeMap::new();
    text.lines().for_each(|line| *counted.entry(line.trim().to_owned()).or_default() += 1);
    counted
}
