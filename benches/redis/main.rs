//! Decisions by a Redis server on loopback, beside the same server without this crate.
//!
//! `cargo bench -p tower-quota-benches --features redis --bench redis -- [--quick]`
//! needs `redis-server`. All callers are tasks of one thread, and each asks again as soon as it is
//! answered. `--row 'one key' 'callers: 64'` measures one row, and what it is compared with.

mod bare;
#[path = "../common/mod.rs"]
mod common;
#[path = "../../tests/common/redis/mod.rs"]
#[allow(dead_code, unused_imports, reason = "this benchmark uses a part")]
mod harness;

use std::time::{Duration, Instant};

use redis::cmd;
use tokio::{runtime::Runtime, task::JoinSet};
use tower_quota::{Limiter, Policy, Quota, key::header, store::RedisStore};

use crate::{
    bare::{Bare, Tap},
    common::{
        API_KEY, YEAR,
        args::Args,
        keys::key,
        process::thread_time,
        rounds::paired,
        stats::{InShort, Quartiles, Table, grouped},
    },
    harness::Server,
};

const CALLERS: [usize; 3] = [1, 64, 512];
const POLICIES: [usize; 3] = [1, 2, 5];

/// What is asked.
#[derive(Clone)]
enum Subject {
    Bare(Bare),
    Ours { limiter: Limiter, request: http::request::Parts, is_allowed: bool },
}

impl Subject {
    /// With the key of this caller.
    fn of_caller(&self, caller: usize) -> Self {
        let mut own = self.clone();
        if let Self::Ours { request, .. } = &mut own {
            let key = key(caller).try_into().expect("a header's value");
            request.headers.insert(&API_KEY, key);
        }
        own
    }

    async fn ask(&mut self) {
        match self {
            Self::Bare(bare) => bare.send().await,
            Self::Ours { limiter, request, is_allowed } => {
                assert_eq!(limiter.decide(request).await.is_allowed(), *is_allowed);
            }
        }
    }
}

/// So many policies that count by the header.
async fn ours(url: String, policies: usize, quota: Quota, lease: u32) -> Subject {
    let store = RedisStore::builder(url).secret(7).decision_timeout(Duration::from_secs(5));
    let store = store.response_timeout(Duration::from_secs(5)).build().expect("settings that work");
    let policy = |n: usize| {
        let policy = Policy::token_bucket(format!("policy {n} of {policies}"), quota);
        policy.key(header(API_KEY.as_str())).or_refuse().lease(lease)
    };
    let limiter = (0..policies).map(policy).fold(Limiter::builder(), |all, one| all.policy(one));
    let limiter = limiter.store(store).build().expect("settings that work");
    let request = http::Request::get("/").header(&API_KEY, key(0)).body(()).expect("a request");
    let request = request.into_parts().0;
    let mut ours = Subject::Ours { limiter, request, is_allowed: true };
    ours.ask().await;
    ours
}

/// The result of one round of one subject.
struct Told {
    /// Decisions in a second.
    rate: f64,
    /// The processor time of one decision, without that of the server.
    spent: f64,
    latencies: Vec<f64>,
}

/// `callers` tasks ask until all have asked `times`.
async fn ask(row: &Row, callers: usize, times: usize) -> Told {
    let each = times * row.longer / callers;
    let (begun, had_run) = (Instant::now(), thread_time());
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let caller = if row.own_keys { caller } else { 0 };
        let mut subject = row.subject.of_caller(caller);
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(each);
            for nth in 0..each {
                // The time is read for some of them only: it takes as long as a leased decision.
                if nth % 8 > 0 {
                    subject.ask().await;
                    continue;
                }
                let asked = Instant::now();
                subject.ask().await;
                latencies.push(asked.elapsed().as_nanos() as f64 / 1e3);
            }
            latencies
        });
    }
    let latencies = tasks.join_all().await.concat();
    let (took, ran) = (begun.elapsed(), thread_time() - had_run);
    let decisions = (each * callers) as f64;
    let (rate, spent) = (decisions / took.as_secs_f64(), ran.as_secs_f64() / decisions);
    Told { rate, spent, latencies }
}

/// How many times as long ours take as theirs, by how many of each there are in a second.
fn slower(ours: &[f64], theirs: &[f64]) -> Quartiles {
    Quartiles::of_ratios(theirs, ours)
}

fn percentile(latencies: &mut [f64], percent: usize) -> f64 {
    latencies.sort_by(f64::total_cmp);
    latencies[(latencies.len() - 1) * percent / 100]
}

/// A subject, and the one that it is compared with.
struct Row {
    name: String,
    beside: usize,
    subject: Subject,
    /// Whether each caller has a key of its own.
    own_keys: bool,
    /// How many times as often as others it is asked.
    longer: usize,
}

impl Row {
    fn new(name: impl Into<String>, beside: usize, subject: Subject) -> Self {
        Self { name: name.into(), beside, subject, own_keys: false, longer: 1 }
    }
}

async fn rows(server: &Server) -> Vec<Row> {
    let endless = Quota::per_window(999_999_999_999, YEAR);
    let increment = Subject::Bare(Bare::new(server, cmd("INCR").arg("n").to_owned()).await);
    let mut rows = vec![Row::new("INCR", 0, increment)];
    for policies in POLICIES {
        let tap = Tap::before(server);
        drop(ours(tap.url(), policies, endless, 0).await);
        let script = Bare::new(server, tap.last("EVALSHA")).await;
        let beside = rows.len();
        let name = format!("bare script, policies: {policies}");
        rows.push(Row::new(name, beside, Subject::Bare(script)));
        let subject = ours(server.url(), policies, endless, 0).await;
        rows.push(Row::new(format!("tower-quota, policies: {policies}"), beside, subject));
    }
    let leased = ours(server.url(), 1, endless, 100).await;
    let name = "tower-quota, leases of 100";
    rows.push(Row { longer: 10, ..Row::new(format!("{name}, one key"), 0, leased.clone()) });
    let own = Row::new(format!("{name}, a key each"), 0, leased);
    rows.push(Row { longer: 10, own_keys: true, ..own });
    rows
}

fn main() {
    let args = Args::parse();
    let title =
        |callers: usize| format!("Redis: decisions a second over loopback, callers: {callers}");
    let wanted_callers = CALLERS.into_iter().filter(|callers| args.wants(&title(*callers)));
    let wanted_callers: Vec<usize> = wanted_callers.collect();
    if wanted_callers.is_empty() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let server = Server::start();
    let rows = runtime.block_on(rows(&server));
    let is_named = |row: &usize| args.wants_row(&rows[*row].name);
    let mut wanted: Vec<usize> = (0..rows.len()).filter(is_named).collect();
    wanted.extend(wanted.clone().iter().map(|row| rows[*row].beside));
    wanted.sort_unstable();
    wanted.dedup();
    let mut in_short = InShort::new();
    for callers in wanted_callers {
        let columns =
            ["", "thousands a second", "time", "processor time", "of", "p50, µs", "p99, µs"];
        let table = Table::new(&title(callers), &columns);
        let times = args.pick(callers * 100 + 2_000, callers * 4);
        let [mut latencies, mut rates, mut spent] = [(); 3].map(|()| vec![Vec::new(); rows.len()]);
        paired(args.pick(21, 3), wanted.len(), |round, nth| {
            let row = wanted[nth];
            let told = runtime.block_on(ask(&rows[row], callers, times));
            latencies[row].extend(told.latencies);
            if round > 0 {
                rates[row].push(told.rate);
                spent[row].push(told.spent);
            }
            told.rate
        });
        for &row in &wanted {
            let Row { name, beside, .. } = &rows[row];
            let thousands = Quartiles::of(rates[row].iter().map(|rate| rate / 1e3));
            let ratio = slower(&rates[row], &rates[*beside]);
            let spent = Quartiles::of_ratios(&spent[row], &spent[*beside]);
            let percentiles = [50, 99].map(|percent| percentile(&mut latencies[row], percent));
            let [p50, p99] = percentiles.map(|micros| format!("{micros:.0}"));
            let to = if row == *beside { "" } else { &*rows[*beside].name };
            table.row(&[name, &format!("{thousands:.1}"), &ratio, &spent, &to, &p50, &p99]);
        }
        if wanted.len() < rows.len() {
            continue;
        }
        let one = |row: usize| slower(&rates[row], &rates[rows[row].beside]);
        let (ours, leased) = (2, rows.len() - 2);
        let callers = if callers == 1 { "1 caller" } else { &format!("{callers} callers") };
        let what = format!("time of a decision by Redis, {callers}");
        in_short.add(format!("{what}, one policy"), "the bare script", one(ours));
        let leases = format!("{}; {}", one(leased), one(leased + 1));
        in_short.add(
            format!("{what}, leases of 100: one key; a key each"),
            "a bare `INCR`",
            leases,
        );
        let five = slower(&rates[ours + 4], &rates[ours]);
        in_short.add(format!("{what}, five policies"), "one policy", five);
    }
    if wanted.len() < rows.len() {
        return;
    }
    flood(&runtime, args.pick(200_000, 2_000));
    in_short.print();
}

/// How many commands it takes to refuse a caller who does not stop, on a server that knows no caller yet.
fn flood(runtime: &Runtime, requests: usize) {
    let server = Server::start();
    let table = Table::new("Redis: a refused flood", &["requests", "commands"]);
    let refused = runtime.block_on(async {
        let mut subject = ours(server.url(), 1, Quota::per_window(1, YEAR), 0).await;
        if let Subject::Ours { is_allowed, .. } = &mut subject {
            *is_allowed = false;
        }
        subject.ask().await;
        subject
    });
    let before = server.calls("evalsha");
    runtime.block_on(ask(&Row::new("refused", 0, refused), 1, requests));
    table.row(&[&grouped(requests), &(server.calls("evalsha") - before)]);
}
