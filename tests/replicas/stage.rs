//! Three replicas, a fault, and a report of its effects.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader, Read},
    ops::Range,
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::redis::{PATIENCE, Server};
use tower_quota::{Clock, Limiter};

use crate::{
    quotas::{KEYS, NAMES, POLICIES, Quotas, SECRET, Used, charges},
    replica::{Asked, LONGEST, Orders, ROLE, Report, Role, Verdict, micros},
};

pub const REPLICAS: usize = 3;
const PASSWORD: &str = "correct-horse";

/// Options of a server that knows the replicas by a password, which must not be logged.
pub const WITH_PASSWORD: &[&str] =
    &["--user", "replica", "on", ">correct-horse", "~*", "&*", "+@all"];

/// Of a server [`WITH_PASSWORD`], or what stands before it, on a port.
pub fn url(port: u16) -> String {
    format!("redis://replica:{PASSWORD}@127.0.0.1:{port}/")
}

impl Orders {
    pub fn server(server: &Server) -> Self {
        Self::new(vec![url(server.port())])
    }

    pub fn new(urls: Vec<String>) -> Self {
        let quotas = Quotas { units: 30, window: Duration::from_millis(400) };
        let (pause, patience) = (Duration::from_millis(4), None);
        Self { urls, quotas, pause, patience, clock_ahead: 0, leaves: false }
    }
}

/// A replica, and what it prints.
pub type Replica = (Child, BufReader<ChildStdout>);

/// Starts replicas. All of them are ready then.
pub fn start(roles: impl Iterator<Item = Role>) -> Vec<Replica> {
    let start = |role| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(ROLE, serde_json::to_string(&role).unwrap());
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdout = BufReader::new(process.stdout.take().unwrap());
        (process, stdout)
    };
    let mut replicas: Vec<Replica> = roles.map(start).collect();
    for (_, stdout) in &mut replicas {
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n");
    }
    replicas
}

/// Replicas at work.
pub struct Stage {
    urls: Vec<String>,
    quotas: Quotas,
    replicas: Vec<Replica>,
    began: u64,
    /// When the fault was, in microseconds since 1970.
    fault: Range<u64>,
}

impl Stage {
    pub fn start(orders: &Orders) -> Self {
        Self::start_each(|_| orders.clone())
    }

    pub fn start_each(orders: impl Fn(usize) -> Orders) -> Self {
        let replicas = start((0..REPLICAS).map(|place| Role::Asks(orders(place))));
        let Orders { urls, quotas, .. } = orders(0);
        let began = micros();
        Self { urls, quotas, replicas, began, fault: began..began }
    }

    /// Waits until callers have asked for more than there is: each policy has nothing left of a key.
    ///
    /// On a machine that does other things this takes longer, and is as sure to happen.
    pub fn until_busy(&self) {
        let store = Quotas::store(&self.urls).response_timeout(PATIENCE);
        let store = store.decision_timeout(PATIENCE).connect_timeout(PATIENCE);
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let limiter = self.quotas.limiter(store, Clock::system());
            let start = Instant::now();
            for policy in NAMES {
                while !is_used_up(&limiter, policy).await {
                    assert!(
                        start.elapsed() < LONGEST,
                        "less than the quota of {policy} is asked for"
                    );
                }
            }
        });
    }

    /// Lets some windows go by.
    pub fn pass(&self, windows: u32) {
        thread::sleep(self.quotas.window * windows);
    }

    /// Something fails, until this returns.
    pub fn fault<T>(&mut self, fault: impl FnOnce() -> T) -> T {
        self.fault.start = micros();
        let result = fault();
        self.fault.end = micros();
        result
    }

    /// Lets the replicas come to an end.
    pub fn end(self) -> Run {
        let ended = micros();
        let replicas = self.replicas.into_iter().map(|(mut process, stdout)| {
            drop(process.stdin.take());
            (process, stdout)
        });
        let report = |(mut process, mut stdout): Replica| -> Report {
            let mut text = String::new();
            stdout.read_to_string(&mut text).unwrap();
            assert!(process.wait().unwrap().success());
            serde_json::from_str(&text).unwrap()
        };
        let replicas: Vec<_> = replicas.collect();
        let reports: Vec<_> = replicas.into_iter().map(report).collect();
        let run = Run { quotas: self.quotas, span: self.began..ended, fault: self.fault, reports };
        run.tells_no_secrets();
        run
    }
}

/// All requests of all replicas.
pub struct Run {
    pub quotas: Quotas,
    span: Range<u64>,
    pub fault: Range<u64>,
    reports: Vec<Report>,
}

/// The report of a fault.
pub struct Row {
    pub fault: &'static str,
    pub seen: String,
    pub admitted: String,
    pub healed: Option<Duration>,
}

impl Run {
    pub fn asked(&self) -> impl Iterator<Item = &Asked> {
        self.reports.iter().flat_map(|report| &report.asked)
    }

    /// What was admitted of a key by a policy, in the order of the server's time.
    pub fn used(&self, policy: usize, key: usize, between: &Range<u64>) -> Vec<Used> {
        let its =
            |one: &&Asked| one.key == key && one.path.is_some_and(|path| charges(path, policy));
        let used = self.asked().filter(its).filter_map(|one| match one.verdict {
            Verdict::Admitted(at) => Some(Used { at, units: one.cost }),
            _ => None,
        });
        let mut used: Vec<_> = used.filter(|one| between.contains(&one.at)).collect();
        used.sort_unstable();
        used
    }

    /// The most in any window by each policy, of a quota of 1, over the keys.
    pub fn most(&self, between: &Range<u64>) -> [f64; POLICIES] {
        std::array::from_fn(|policy| {
            let most = |key| self.quotas.most(policy, &self.used(policy, key, between));
            let most = (0..KEYS).map(most).max().unwrap();
            most as f64 / self.quotas.capacity(policy) as f64
        })
    }

    /// In no window more than the quota, in some nearly all of it.
    pub fn keeps_the_quota(&self) -> &Self {
        let most = self.most(&(0..u64::MAX));
        assert!(most.iter().all(|most| *most <= 1.0), "{most:?} of the quotas in a window");
        self.is_busy()
    }

    /// Before the fault, nearly the whole quota was admitted in some window.
    pub fn is_busy(&self) -> &Self {
        let before = if self.is_faultless() { u64::MAX } else { self.fault.start };
        for (policy, name) in NAMES.iter().enumerate() {
            let most = |key| {
                let admitted = self.quotas.most(policy, &self.used(policy, key, &(0..before)));
                admitted + self.unknown(policy, key, before)
            };
            let (most, capacity) =
                ((0..KEYS).map(most).max().unwrap(), self.quotas.capacity(policy));
            assert!(10 * most >= 9 * capacity, "only {most} of {capacity} were admitted by {name}");
        }
        self
    }

    /// The units of requests that timed out before then, and that the server may have counted.
    fn unknown(&self, policy: usize, key: usize, before: u64) -> u64 {
        let is_unknown = |one: &&Asked| {
            one.verdict == Verdict::Unavailable
                && one.key == key
                && one.at < before
                && one.path.is_some_and(|path| charges(path, policy))
        };
        self.asked().filter(is_unknown).map(|one| one.cost).sum()
    }

    /// The longest that the machine let a thread of a replica wait beyond its time.
    pub fn lateness(&self) -> Duration {
        self.reports.iter().map(|report| report.lateness).max().unwrap()
    }

    fn is_faultless(&self) -> bool {
        self.fault.start == self.span.start
    }

    /// From the end of the fault until the server decides for each replica; each server, of a cluster.
    pub fn healed(&self) -> Duration {
        let mut healed = BTreeMap::new();
        for (replica, report) in self.reports.iter().enumerate() {
            for one in report.asked.iter().filter(|one| one.path.is_none()) {
                let first = healed.entry((replica, one.key)).or_insert(u64::MAX);
                match one.verdict {
                    Verdict::Admitted(at) if at >= self.fault.end => *first = at.min(*first),
                    _ => {}
                }
            }
        }
        let last = healed.into_values().max().unwrap();
        assert!(last < u64::MAX, "it heals");
        Duration::from_micros(last - self.fault.end)
    }

    /// What callers saw from the fault until it was healed.
    pub fn seen(&self) -> String {
        let healed = self.fault.end + self.healed().as_micros() as u64;
        let met: Vec<_> = self
            .asked()
            .filter(|one| (self.fault.start..=healed).contains(&(one.at + micros_of(one.wait))))
            .collect();
        let unavailable = met.iter().filter(|one| one.verdict == Verdict::Unavailable).count();
        let longest = met.iter().map(|one| one.wait).max().unwrap_or_default();
        format!("503 for {unavailable} of {}, after at most {longest:.1?}", met.len())
    }

    pub fn row(&self, fault: &'static str) -> Row {
        let time = Duration::from_micros(self.span.end - self.span.start);
        let (mut used, mut allowed) = (0, 0.0);
        for policy in 0..POLICIES {
            allowed += self.quotas.allow(policy, time) * KEYS as f64;
            for key in 0..KEYS {
                let of_key = self.used(policy, key, &self.span);
                used += of_key.iter().map(|one| one.units).sum::<u64>();
            }
        }
        let most = self.most(&(0..u64::MAX)).into_iter().fold(0.0, f64::max);
        let (seen, healed) = match self.is_faultless() {
            true => (String::new(), None),
            false => (self.seen(), Some(self.healed())),
        };
        let used = 100.0 * used as f64 / allowed;
        let admitted = format!("{most:.2} at most, {used:.0} % in all");
        Row { fault, seen, admitted, healed }
    }

    /// How often each replica has logged what contains this.
    pub fn logged(&self, part: &str) -> Vec<u32> {
        let count = |report: &Report| {
            let lines = report.logged.iter().filter(|(line, _)| line.contains(part));
            lines.map(|(_, times)| times).sum()
        };
        self.reports.iter().map(count).collect()
    }

    fn tells_no_secrets(&self) {
        for line in self.reports.iter().flat_map(|report| report.logged.keys()) {
            for secret in [PASSWORD, "hot-", &format!("{SECRET:x}"), &SECRET.to_string()] {
                assert!(!line.contains(secret), "{line}");
            }
        }
    }
}

/// Whether a policy has nothing left of one of the hot keys.
async fn is_used_up(limiter: &Limiter, policy: &str) -> bool {
    for key in 0..KEYS {
        let decision = limiter.peek(policy, format!("hot-{key}")).await.unwrap();
        if decision.outcomes().next().unwrap().remaining() == 0 {
            return true;
        }
    }
    false
}

fn micros_of(time: Duration) -> u64 {
    time.as_micros() as u64
}
